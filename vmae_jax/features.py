r"""Features of videos: what an encoder makes of them, for other programs to build on.

Takes the same checkpoints and videos as vmae_jax.predict. Writes OUT/<video's name>.npy, float32
[windows, D] (with --tokens [windows, N, D]), or one OUT/features.parquet with a row per window.
Stopped or killed, the same command goes on where it was; a video that cannot be read is listed in
OUT/failures.csv, and the others still run. OUT/notes.csv lists what was corrected in the times of a
video and, with --keep_partial, what was skipped as damaged.

  # one vector per video
  python -m vmae_jax.features --checkpoint=vit_b.pth --out=features/mine videos/

  # sliding windows for temporal detection: 16 frames from every fourth on, as for THUMOS14
  python -m vmae_jax.features --checkpoint=vit_g.pth --out=features/thumos14 --every=4 videos/

  # ... or from every sixteenth on, as for FineAction
  python -m vmae_jax.features --checkpoint=vit_g.pth --out=features/fineaction --every=16 videos/

A feature is the mean of the last block's tokens: of a classifier after its final norm (what the
head sees), of a pre-trained encoder after the encoder's norm. Window k begins at frame k * every,
and only windows that lie wholly inside the video count; a video shorter than one window is filled
up with its last frame. Frames are scaled by the short side and cut to the square in the middle.

  # the features that the reference released, from its own weights
  python -m vmae_jax.features --checkpoint=vit_g.pth --out=features/released --every=4 \
      --preprocessing=reference videos/

The reference's extraction works differently: it squashes each whole frame to a square and divides
it by 255. It does not subtract the mean, nor divide by the deviation, as training does.

Exit status: 0 every video has its features, 1 at least one has not, or nothing could start.
"""

import collections
import dataclasses
import errno
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax.sharding import Mesh

from vmae_jax import cli, command, config, sharding, tree, whole
from vmae_jax import model as model_lib
from vmae_jax.data import inputs
from vmae_jax.data.videos import VideoError
from vmae_jax.data.views import Windows
from vmae_jax.feature_files import FORMATS, FeatureError, Folder, NpyFile
from vmae_jax.progress import Progress

_NO_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what ends everything that comes after
_PIECE = 8  # windows that a thread hands over at once


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Some windows of a video, one after the other, or its end."""

    video: str
    windows: Sequence[np.ndarray] = ()
    ended: bool = False
    error: str = ""
    notes: Sequence[str] = ()


def _pieces(path: str, windows: Windows) -> Iterator[_Piece]:
    ready: list[np.ndarray] = []
    notes: list[str] = []
    try:
        for window in windows(path, notes):
            ready.append(window)
            if len(ready) == _PIECE:
                yield _Piece(path, ready)
                ready = []
    except VideoError as error:
        yield _Piece(path, ended=True, error=f"{error.reason}: {error.detail}")
        return
    yield _Piece(path, ready, ended=True, notes=notes)


# ---- Windows of many videos, in batches of one shape ----


class _Outputs:
    """Collects the rows of videos whose windows share batches, and finishes each video once."""

    def __init__(self, folder: Folder, progress: Callable[[], None]):
        self._folder, self._progress = folder, progress
        self._files: dict[str, NpyFile] = {}
        self._expected: collections.Counter[str] = collections.Counter()
        self._ended: set[str] = set()
        self.failures: dict[str, str] = {}
        self.finished = 0

    def expect(self, piece: _Piece) -> None:
        """Takes note of windows that were handed to the device, and of a video's end."""
        self._expected[piece.video] += len(piece.windows)
        if piece.error:
            self._fail(piece.video, piece.error)
        elif piece.ended:
            self._ended.add(piece.video)
            if piece.notes:
                self._folder.note(piece.video, piece.notes)
            self._finish_if_complete(piece.video)

    def add(self, video: str, rows: np.ndarray) -> None:
        """The next rows of a video; those of a failed one are dropped."""
        if video in self.failures:
            return
        try:
            if video not in self._files:
                self._files[video] = self._folder.new(name_of(video))
            self._files[video].append(rows)
            self._finish_if_complete(video)
        except OSError as error:
            if error.errno in _NO_DISK:
                raise
            self._fail(video, f"cannot be written: {command.said(error)}")

    def _fail(self, video: str, why: str) -> None:
        self.failures[video] = why
        if video in self._files:
            self._files.pop(video).discard()
        self._progress()

    def _finish_if_complete(self, video: str) -> None:
        file = self._files.get(video)
        if video in self._ended and file is not None and file.rows == self._expected[video]:
            file.finish()
            del self._files[video]
            self.finished += 1
            self._progress()

    def discard(self) -> None:
        """Leaves no half-written file behind."""
        while self._files:
            self._files.popitem()[1].discard()


def _batches(
    pieces: Iterator[_Piece], size: int, expect: Callable[[_Piece], None]
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """[size, V, T, S, S, 3] and the video of each row; the last batch is filled up with zeros."""
    rows: collections.deque[tuple[str, np.ndarray]] = collections.deque()

    def batch() -> tuple[np.ndarray, list[str]]:
        taken = [rows.popleft() for _ in range(min(size, len(rows)))]
        stacked = np.zeros((size, *taken[0][1].shape), taken[0][1].dtype)
        for place, (_, window) in zip(stacked, taken, strict=False):
            place[:] = window
        return stacked, [video for video, _ in taken]

    for piece in pieces:
        rows.extend((piece.video, window) for window in piece.windows)
        expect(piece)
        while len(rows) >= size:
            yield batch()
    if rows:
        yield batch()


def _extractor(model: model_lib.Model, mesh: Mesh, tokens: bool) -> Callable[[Any], jax.Array]:
    """[b, V, T, S, S, 3] -> the mean over views f32 [b, D] or [b, N, D], split over the mesh."""
    run = model.tokens if tokens else model.features

    @jax.jit
    def of_batch(params: model_lib.Params, videos: jax.Array) -> jax.Array:
        found = run(params, videos.reshape(-1, *videos.shape[2:]))
        return found.reshape(*videos.shape[:2], *found.shape[1:]).mean(1)

    params = jax.device_put(model.params, sharding.replicated(mesh))

    def extract(videos: np.ndarray) -> jax.Array:
        return of_batch(params, sharding.shard_batch({"video": videos}, mesh, len(videos))["video"])

    return extract


def extract(
    model: model_lib.Model,
    videos: Sequence[str],
    windows: Windows,
    folder: Folder,
    *,
    tokens: bool = False,
    batch_size: int = 8,
    threads: int = 2,
    progress: Callable[[], None] = lambda: None,
) -> tuple[int, dict[str, str]]:
    """Writes the features of videos whose names are not in the folder yet.

    Each file is read in one pass (twice where a whole video's length decides which frames are
    taken), ahead in `threads`; memory does not depend on its length.

    Args:
      tokens: every token, not their mean.
      batch_size: windows per step; rounded up to a multiple of the devices.

    Returns:
      How many videos were finished, and the reasons why others were not, by path.
    """
    mesh = sharding.make_mesh(config.MeshConfig())
    size = -(-batch_size // mesh.size) * mesh.size
    run = _extractor(dataclasses.replace(model, pixels=windows.pixels), mesh, tokens)
    outputs = _Outputs(folder, progress)
    pieces = inputs.interleave([_pieces(video, windows) for video in videos], threads)
    running: collections.deque[tuple[jax.Array, list[str]]] = collections.deque()

    def store() -> None:
        values, owners = running.popleft()
        rows = np.asarray(values)
        for video in dict.fromkeys(owners):
            mine = [i for i, owner in enumerate(owners) if owner == video]
            outputs.add(video, rows[mine])

    try:
        for batch, owners in _batches(pieces, size, outputs.expect):
            running.append((run(batch), owners))
            if len(running) > 1:  # the device has work while rows are written
                store()
        while running:
            store()
    finally:
        outputs.discard()
    return outputs.finished, outputs.failures


# ---- The command ----


def name_of(video: str) -> str:
    """What the features of a video are called: its file name without the last suffix, as text.

    One whose file could not be called so is shortened, see `whole.named`.
    """
    name = os.path.splitext(os.path.basename(video))[0]
    name = name.encode(errors="backslashreplace").decode()
    return whole.named(name, ".npy").removesuffix(".npy")


def by_names(videos: Sequence[str]) -> dict[str, str]:
    """The videos by their names; FeatureError where two would have features of one name."""
    by_name: dict[str, str] = {}
    for video in videos:
        other = by_name.setdefault(name_of(video), video)
        if other != video:
            raise FeatureError(
                f"{other} and {video} would both be {name_of(video)}.npy; give them an --out each"
            )
    return by_name


def settings_of(model: model_lib.Model, windows: Windows, tokens: bool) -> dict[str, Any]:
    """All that decides the values, as folders of earlier versions have it: without model.attention,
    which changes no result, and with a preprocessing only where it is not evaluation's.
    """
    sizes = dataclasses.asdict(model.config)
    del sizes["attention"]
    named = {"preprocessing": windows.preprocessing}
    return {
        "weights": tree.fingerprint(model.params),
        "model": sizes,
        "every": windows.every,
        **dataclasses.asdict(windows.views),
        "tokens": tokens,
        **(named if windows.preprocessing != "evaluation" else {}),
    }


def define_flags() -> None:
    cli.define_flags()
    flags.DEFINE_string("out", None, "Folder to write to, or to go on in.", required=True)
    flags.DEFINE_integer(
        "every",
        0,
        "Frames from one sliding window to the next; 0 = one feature for the whole video.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "stride",
        0,
        "Frames from one to the next of a clip. 0 = 1 in a sliding window; in a whole video as in "
        "the run's training, 4 for other checkpoints.",
        lower_bound=0,
    )
    flags.DEFINE_enum(
        "preprocessing",
        "evaluation",
        ("evaluation", "reference"),
        "evaluation: the square in the middle, normalised as in training. reference: the whole "
        "frame squashed to the square, in [0, 1], which made the features it released.",
    )
    flags.DEFINE_bool("tokens", False, "Every token [N, D], over (t, h, w), not their mean [D].")
    flags.DEFINE_enum("format", "npy", FORMATS, "One .npy per video, or one Parquet file.")
    flags.DEFINE_integer("batch_size", 8, "Windows per step.", lower_bound=1)


def windows_of_flags(model: model_lib.Model) -> Windows:
    """Raises FeatureError where flags exclude each other."""
    given = flags.FLAGS
    several = given.clips * given.crops > 1
    if given.every and (several or given.sampling == "sparse"):
        raise FeatureError(
            "--every: a sliding window is one dense clip; --clips, --crops and --sampling=sparse "
            "are for whole videos"
        )
    if given.preprocessing == "reference" and not given.every:
        raise FeatureError(
            "--preprocessing=reference: its features are of sliding windows; add --every=4 as for "
            "THUMOS14, or --every=16 as for FineAction"
        )
    if given.tokens and several:
        raise FeatureError("--tokens: tokens of several views have no mean; leave --clips, --crops")
    if given.every:
        views = model.views(sampling="dense", stride=given.stride or 1)
    else:
        views = model.views(given.clips, given.crops, sampling=given.sampling, stride=given.stride)
    return Windows(views, given.every, given.keep_partial, given.preprocessing)


def main(argv: list[str]) -> None:
    given = flags.FLAGS
    if not argv[1:]:
        raise app.UsageError("no video given: name files, folders or patterns; see --help")
    cli.prepare()
    videos = by_names(inputs.find(argv[1:], leave_out=given.out))
    model = cli.load_model()
    print(model, flush=True)
    windows = windows_of_flags(model)
    folder = Folder(given.out, given.format, settings_of(model, windows, given.tokens))
    missing = folder.missing(videos)
    done = itertools.count(1)
    with Progress() as progress:
        progress("videos", 0, len(missing))
        finished, failures = extract(
            model, missing, windows, folder, tokens=given.tokens,
            batch_size=given.batch_size, threads=given.threads,
            progress=lambda: progress("videos", next(done), len(missing)),
        )  # fmt: skip
    where, listed = folder.finish(), folder.write_failures(failures)
    print(f"{finished} videos done, {len(videos) - len(missing)} were there: {where}")
    if folder.noted:
        print(f"of {folder.noted} the times were put right or damage skipped, see notes.csv there")
    if failures:
        first, why = next(iter(failures.items()))
        hint = cli.damage_hint(failures.values())
        command.fail(f"{len(failures)} have no features ({listed}), such as {first}: {why}{hint}")


if __name__ == "__main__":
    define_flags()
    stopped = "stopped; the same command goes on from here"
    command.run(main, (*cli.ERRORS, FeatureError), stopped=stopped)
