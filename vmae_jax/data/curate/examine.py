"""One look at a video's file: scenes, clips, scores, hashes and thumbnails in a single decode.

Frames stream through one at a time. What is kept grows by a few numbers per half second, and the
settings bound the seconds, so memory is bounded whatever a file claims to be.
"""

import dataclasses
import fractions
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from vmae_jax.data.clips import MAX_ASPECT
from vmae_jax.data.curate import gates, hashes, people
from vmae_jax.data.curate.items import HASHES_PER_SECOND, Clip, CurationError, Examined, Item
from vmae_jax.data.curate.measure import Measurer, Sample
from vmae_jax.data.curate.scenes import ClipRules, CutFinder, choose_clips
from vmae_jax.data.source import MAX_PIXELS, SHORT_SIDE, Source, constant_rate
from vmae_jax.data.upright import VideoError

_LOOKS_PER_SECOND = 12  # frames that scenes are found by, at least; the rest is only decoded
_HASHES_PER_SAMPLE = 2  # measurements are slower than hashes, and scores need fewer
_THUMBNAIL = 160  # pixels of the longer side
_QUALITY = 75
_MAX_THUMBNAILS = 512  # that wait for the clips to be known


@dataclasses.dataclass(frozen=True)
class ExamineSettings:
    """How videos are looked at, and what one may cost; what is larger is refused."""

    clips: ClipRules = dataclasses.field(default_factory=ClipRules)
    detector: people.PeopleModel | None = None  # None = nobody looks for people
    thumbnails: int = 3  # of a clip
    max_bytes: int = 4 << 30  # of a file
    max_seconds: float = 900.0  # of a video
    max_frames: int = 60_000  # of a file: 16 minutes at 60 per second
    max_pixels: int = MAX_PIXELS  # of a frame
    max_decoded: int = 1 << 38  # pixels of all frames: 2 hours of 720p at 41 per second

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("max_") and not 0 < value < float("inf"):
                raise CurationError(f"{field.name} {value}: expected more than 0")
        if not 0 <= self.thumbnails <= 16:
            raise CurationError(f"thumbnails {self.thumbnails}: expected 0 to 16")


def examine(item: Item, file: str, settings: ExamineSettings) -> Examined:
    """Looks at the video in a local `file`; one that cannot be used has its reason in the result.

    Raises:
      CurationError: where a package or the detector's model is missing.
    """
    digest = ""
    try:
        digest = _digest(file, settings.max_bytes)
        found = _look(item.id, file, settings)
    except VideoError as error:
        return Examined(item.id, digest, reason=error.reason, detail=error.detail)
    except OSError as error:
        why = error.strerror or type(error).__name__
        return Examined(item.id, digest, reason="cannot be opened", detail=why)
    return dataclasses.replace(found, digest=digest)


def _digest(file: str, max_bytes: int) -> str:
    if not os.path.isfile(file):
        raise VideoError("cannot be opened", "no such file")
    size = os.path.getsize(file)
    if size > max_bytes:
        raise VideoError("too large", f"{size} bytes, more than {max_bytes} (--max_bytes)")
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _look(name: str, file: str, settings: ExamineSettings) -> Examined:
    wanted = _EveryNth()
    with Source(file, SHORT_SIDE, settings.max_pixels, wanted) as source:
        _check_length(source, source.promised or 0.0, settings)
        wanted.step = max(1, int(source.rate / _LOOKS_PER_SECOND))
        kept, ticks = _Kept(source.rate, settings), 0
        for tick, picture in enumerate(
            constant_rate(_bounded(source, settings), source.rate, source.pace)
        ):
            _check_length(source, tick / source.rate, settings)
            kept.add(tick, picture)
            ticks = tick + 1
        if source.broken:
            raise source.broken
        if ticks < 2:
            raise source.error("too short", "a single picture" if ticks else "no frame in it")
        cuts = kept.cuts.finish(ticks)
        spans = choose_clips(cuts, ticks, source.rate, settings.clips, wanted.step)
        return Examined(
            item=name,
            height=source.size[0],
            width=source.size[1],
            fps=float(source.rate),
            seconds=round(float(ticks / source.rate), 3),
            cuts=tuple(round(float(cut / source.rate), 3) for cut in cuts),
            clips=tuple(kept.clip(name, i, *span) for i, span in enumerate(spans)),
        )


class _EveryNth:
    """The multiples of `step`, which is known only once the file is open."""

    step = 1

    def __contains__(self, number: Any) -> bool:
        return number % self.step == 0


def _check_length(source: Source, seconds: float, settings: ExamineSettings) -> None:
    if seconds > settings.max_seconds:
        raise source.error(
            "too long",
            f"{float(seconds):.0f} seconds, more than {settings.max_seconds:g} (--max_length)",
        )


def _bounded(source: Source, settings: ExamineSettings) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a file, in place of an unwanted one that before it.

    A file's times may lie, so frames and pixels are counted too.
    """
    latest = None
    for time, picture in source:
        if source.frames > settings.max_frames:
            raise source.error("too long", f"more than {settings.max_frames} frames (--max_frames)")
        if source.pixels > settings.max_decoded:
            raise source.error(
                "too long", f"more than {settings.max_decoded} pixels in all (max_decoded)"
            )
        latest = latest if picture is None else picture
        if max(latest.shape[:2]) > MAX_ASPECT * min(latest.shape[:2]):
            height, width = source.size
            raise source.error("too narrow", f"{width}x{height} pixels")
        yield time, latest


class _Kept:
    """What is kept of a video while its frames go by."""

    def __init__(self, rate: fractions.Fraction, settings: ExamineSettings):
        self.cuts = CutFinder(rate)
        self._rate, self._settings = rate, settings
        self._picture: np.ndarray | None = None
        self._measure = Measurer()
        self._find = people.open_detector(settings.detector) if settings.detector else None
        self._hashes: list[np.uint64] = []
        self._samples: list[Sample] = []
        self._thumbnails = _Thumbnails()

    def add(self, tick: int, picture: np.ndarray) -> None:
        """Takes the picture on show at `tick`; scenes are not looked for in one that stays."""
        if picture is not self._picture:
            self._picture = picture
            self.cuts.add(tick, picture)
        while int(len(self._hashes) * self._rate / HASHES_PER_SECOND) <= tick:
            self._sample(picture)

    def _sample(self, picture: np.ndarray) -> None:
        number = len(self._hashes)
        if number % _HASHES_PER_SAMPLE == 0:
            sample = self._measure(picture)
            if self._find:
                sample = sample._replace(person=self._find(picture))
            self._samples.append(sample)
        self._hashes.append(hashes.frame_hash(picture))
        if self._settings.thumbnails:
            self._thumbnails.add(number, picture)

    def clip(self, name: str, number: int, start: float, end: float) -> Clip:
        """Sums up what lies between `start` and `end` (seconds)."""
        first = round(start * HASHES_PER_SECOND)
        last = int(np.ceil(end * HASHES_PER_SECOND - 1e-3))  # `end` is rounded
        samples = self._samples[-(-first // _HASHES_PER_SAMPLE) : -(-last // _HASHES_PER_SAMPLE)]
        return Clip(
            item=name,
            number=number,
            start=start,
            end=end,
            # A clip between two samples takes the one before.
            scores=gates.scores(
                samples or [self._samples[first // _HASHES_PER_SAMPLE]],
                self._samples,
                people=self._find is not None,
            ),
            hashes=np.array(self._hashes[first:last], np.uint64),
            thumbnails=self._thumbnails.choose(first, last, self._settings.thumbnails),
        )


class _Thumbnails:
    """Small pictures at even times; with time, every other one is given up."""

    def __init__(self):
        self._jpegs: dict[int, bytes] = {}
        self._every = 1

    def add(self, number: int, picture: np.ndarray) -> None:
        if number % self._every:
            return
        height, width = picture.shape[:2]
        scale = min(1.0, _THUMBNAIL / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        self._jpegs[number] = data.tobytes()
        if len(self._jpegs) > _MAX_THUMBNAILS:
            self._every *= 2
            self._jpegs = {n: jpeg for n, jpeg in self._jpegs.items() if n % self._every == 0}

    def choose(self, first: int, last: int, count: int) -> tuple[bytes, ...]:
        """Up to `count` of those with numbers from `first` to `last - 1`, each inside its part."""
        there = [n for n in range(first, last) if n in self._jpegs]
        middles = [(2 * i + 1) * len(there) // (2 * count) for i in range(count)]
        return tuple(self._jpegs[n] for n in dict.fromkeys(there[i] for i in middles if there))
