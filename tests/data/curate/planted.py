"""A crawl with known copies and flaws: what curation must find in it.

python tests/data/curate/planted.py FOLDER [COUNT]
"""

import concurrent.futures
import csv
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import curate_videos as make
import cv2
import numpy as np

from vmae_jax.data.videos import open_video

LENGTH = 84  # frames of a video
SHIFT = make.FPS // 2  # frames: half a second
TAGS = ("dance", "sports", "pets", "<b>cooking</b>")

# Copies of a video's first `LENGTH` frames, made of these and `SHIFT` more.
COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "encoded": lambda v: v[:LENGTH],  # much more tightly
    "scaled": lambda v: _resized(v[:LENGTH], 4 / 3),
    "mirrored": lambda v: v[:LENGTH, :, ::-1],
    "cropped": lambda v: _cropped(v[:LENGTH], 0.05),
    "shifted": lambda v: v[SHIFT : SHIFT + LENGTH],
    "inside": lambda v: v[SHIFT : LENGTH - SHIFT],
}
# Reason for which a flawed video must be left out, and what it shows.
FLAWS: dict[str, Callable[[int], Sequence[np.ndarray]]] = {
    "black": lambda seed: make.noisy(np.full((240, 426, 3), 8, np.uint8), LENGTH),
    "static": lambda seed: make.noisy(make.moving(seed, 1)[0], LENGTH),
    "slideshow": lambda seed: _slides(seed),
    "letterbox": lambda seed: make.barred(make.moving(seed, LENGTH), 0.14),
    "blurred": lambda seed: [cv2.GaussianBlur(p, (0, 0), 6) for p in make.moving(seed, LENGTH)],
    "text overlay": lambda seed: make.captioned(make.moving(seed, LENGTH)),
    "too small": lambda seed: make.moving(seed, LENGTH, (212, 120)),
    "too short": lambda seed: make.moving(seed, 30),
}


@dataclasses.dataclass(frozen=True)
class Planted:
    """Files of a crawl and the truth about them."""

    folder: Path
    manifest: Path
    originals: frozenset[str]  # ids of videos to be kept, or a copy of theirs
    copies: dict[str, str]  # id -> that of its original
    flaws: dict[str, str]  # id -> reason
    scenes: frozenset[str]  # ids of videos with several scenes

    @property
    def count(self) -> int:
        return len(self.originals) + len(self.copies) + len(self.flaws) + len(self.scenes)


def plant(folder: Path, count: int, actions: Path | None = None) -> Planted:
    """Writes about `count` videos and their manifest.

    Two fifths are copies and a sixth has flaws; `actions` are real videos to copy too.
    """
    jobs: list[tuple] = []
    copies, flaws, scenes, originals = {}, {}, [], []

    def family(video: Callable[[], np.ndarray], kinds: Sequence[str]) -> None:
        originals.append(f"original_{len(originals):03}")
        names = {kind: f"{originals[-1].replace('original', 'copy')}_{kind}" for kind in kinds}
        copies.update(dict.fromkeys(names.values(), originals[-1]))
        jobs.append((_family, folder, originals[-1], names, video))

    folder.mkdir(parents=True, exist_ok=True)
    real = sorted(actions.iterdir()) if actions else []
    each = max(1, count // 60)  # of every flaw
    for source in real[: count // 40]:
        family(functools.partial(_real, source), list(COPIES))
    for i in range(max(len(COPIES), count * 2 // 5 - len(copies))):
        family(functools.partial(make.moving, i, LENGTH + SHIFT), [list(COPIES)[i % len(COPIES)]])
    for reason in FLAWS:
        for i in range(each):
            name = f"flaw_{reason.replace(' ', '_')}_{i}"
            flaws[name] = reason
            jobs.append((_flaw, folder, name, reason, 5000 + len(flaws)))
    for i in range(each):
        flaws[f"broken_{i}"] = "cannot be opened"
        jobs.append((_broken, folder, f"broken_{i}", 6000 + i))
        scenes.append(f"scenes_{i}")
        jobs.append((_scenes, folder, f"scenes_{i}", 7000 + i))
    for i in range(count - len(originals) - len(copies) - len(flaws) - len(scenes)):
        originals.append(f"single_{i:03}")
        jobs.append((_single, folder, originals[-1], 8000 + i))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # drawing and encoding free the lock
        list(pool.map(lambda job: job[0](*job[1:]), jobs))
    found = Planted(
        folder, folder / "manifest.csv", frozenset(originals), copies, flaws, frozenset(scenes)
    )
    _write_manifest(found)
    return found


def _write_manifest(planted: Planted) -> None:
    names = sorted({*planted.originals, *planted.copies, *planted.flaws, *planted.scenes})
    with planted.manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "hashtags", "views", "author", "place"])
        for i, name in enumerate(names):
            tags = f"#{TAGS[i % len(TAGS)]} #all"
            writer.writerow([name, f"{name}.mp4", tags, 1000 + i, f"author {i % 7}", "Nowhere"])


def _family(
    folder: Path, original: str, copies: dict[str, str], draw: Callable[[], np.ndarray]
) -> None:
    video = draw()
    make.write(folder / f"{original}.mp4", video[:LENGTH])
    for kind, name in copies.items():
        crf = 34 if kind == "encoded" else 23
        make.write(folder / f"{name}.mp4", COPIES[kind](video), crf=crf)


def _flaw(folder: Path, name: str, reason: str, seed: int) -> None:
    make.write(folder / f"{name}.mp4", FLAWS[reason](seed))


def _broken(folder: Path, name: str, seed: int) -> None:
    path = folder / f"{name}.mp4"
    make.write(path, make.moving(seed, LENGTH))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # without its index


def _scenes(folder: Path, name: str, seed: int) -> None:
    """A short scene and a longer one."""
    parts = [make.moving(seed, 30), make.moving(seed + 500, LENGTH)]
    make.write(folder / f"{name}.mp4", np.concatenate(parts))


def _single(folder: Path, name: str, seed: int) -> None:
    make.write(folder / f"{name}.mp4", make.moving(seed, LENGTH))


def _real(source: Path) -> np.ndarray:
    return _even(open_video(source).frames(np.arange(LENGTH + SHIFT), 240))


def _resized(video: np.ndarray, scale: float) -> np.ndarray:
    height, width = (round(side * scale) // 2 * 2 for side in video.shape[1:3])
    return np.stack([cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in video])


def _cropped(video: np.ndarray, share: float) -> np.ndarray:
    height, width = video.shape[1:3]
    y, x = int(height * share / 2), int(width * share / 2)
    return _even(video[:, y : height - y, x : width - x])


def _even(video: np.ndarray) -> np.ndarray:
    return video[:, : video.shape[1] // 2 * 2, : video.shape[2] // 2 * 2]


def _slides(seed: int) -> list[np.ndarray]:
    stills = [make.moving(seed + 100 * i, 1)[0] for i in range(4)]
    return [picture for still in stills for picture in [still] * 48]


if __name__ == "__main__":
    shared = Path(__file__).parents[4] / "shared" / "videos" / "actions"
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    done = plant(Path(sys.argv[1]), size, shared if shared.is_dir() else None)
    print(f"{done.count} videos in {done.folder}")
