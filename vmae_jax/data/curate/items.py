"""What passes between the steps of curation: rows of a manifest, and what a look at them found."""

import dataclasses
from collections.abc import Mapping

import numpy as np

HASHES_PER_SECOND = 4


class CurationError(ValueError):
    """Curation that cannot start or end; the message is one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One row of the manifest: a video and what its owner knows of it."""

    id: str
    path: str  # relative to the root, '/' between parts; or a URL
    hashtags: tuple[str, ...] = ()  # lower case, without '#', sorted, each once
    views: int | None = None
    seconds: float | None = None  # as the metadata says
    author: str = ""  # a keyed hash; the name itself never leaves the reader
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)  # other columns
    line: int = 0  # in the manifest


@dataclasses.dataclass(frozen=True)
class Clip:
    """A stretch of one video: what may become a record."""

    item: str  # id of its video
    number: int  # of the clip in its video, from 0
    start: float  # seconds from the video's first frame, where it is played at its constant rate
    end: float
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)  # by gate, rounded
    # u64[N]: the perceptual hash of a frame every 1 / HASHES_PER_SECOND seconds from `start`
    hashes: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.uint64))
    thumbnails: tuple[bytes, ...] = ()  # JPEG files, in the order of time

    @property
    def id(self) -> str:
        return f"{self.item}#{self.number}"


@dataclasses.dataclass(frozen=True)
class Examined:
    """What one pass over a video's file found."""

    item: str
    digest: str = ""  # SHA-256 of the file, hexadecimal
    height: int = 0  # pixels, as it is shown
    width: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    cuts: tuple[float, ...] = ()  # seconds at which a new scene begins, without 0
    clips: tuple[Clip, ...] = ()
    reason: str = ""  # why the file cannot be used: 'stream breaks'; '' = it can
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Removal:
    """Something that was left out: by which rule, and what was found."""

    id: str  # of the item, or of the clip
    reason: str  # short and the same for all of its kind: 'too few views'
    detail: str = ""
