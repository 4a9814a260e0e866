"""What is built: videos with labels and splits, and the error that ends a build."""

import dataclasses
import hashlib
import json
from typing import Any

from vmae_jax import lists


class BuildError(ValueError):
    """A build that cannot start or end; the message is one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """A stretch of a video that becomes a record of its own, with what is known of it."""

    id: str  # of the record
    start: float  # seconds from the first frame
    end: float
    metadata: str = "{}"  # JSON


@dataclasses.dataclass(frozen=True)
class Video:
    """A source file: its path relative to the root; size (bytes) and time show a change."""

    path: str
    size: int
    mtime_ns: int
    split: str = "train"
    label: int = -1
    label_name: str = ""
    cuts: tuple[Cut, ...] = ()  # in order, apart; none = as `Encoding.segment_seconds` says
    digest: str = ""  # SHA-256 of the bytes that the cuts are of; '' = not asked

    def described(self) -> dict[str, Any]:
        """What decides its records, for a plan in JSON: of the cuts only a digest."""
        values = dataclasses.asdict(self)
        cuts = json.dumps(values.pop("cuts"), sort_keys=True).encode()
        return values | {"cuts": hashlib.sha256(cuts).hexdigest() if self.cuts else ""}


def check_class(name: str, where: str) -> None:
    """Raises BuildError where a dataset directory cannot hold the name of a class."""
    fault = lists.fault(name)
    if fault:
        raise BuildError(
            f"{where}: the class {name!r:.99} {fault}; expected a name on one line of Unicode text"
        )


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What was asked for: `videos` exist; `rejected` are (path, reason, detail) left out by now.

    `warnings` say in a line each what is not as it should be, `class_order` where the numbers of
    the classes come from ('' = not known).
    """

    root: str
    videos: tuple[Video, ...]
    rejected: tuple[tuple[str, str, str], ...]
    label_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    class_order: str = ""

    def __post_init__(self):
        for name in self.label_names:
            check_class(name, self.root)


def order(video: Video) -> str:
    """A fixed shuffle: shards mix the classes, and do not depend on how the videos were listed."""
    return hashlib.sha256(video.path.encode(errors="surrogateescape")).hexdigest()
