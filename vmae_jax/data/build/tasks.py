"""One shard of a build: the unit of work, of scheduling and of resuming."""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from vmae_jax import whole
from vmae_jax.data.build.fetch import local_file, locate
from vmae_jax.data.build.items import Video
from vmae_jax.data.build.transcode import Encoding, transcode
from vmae_jax.data.clips import Record
from vmae_jax.data.shards import ShardError, ShardWriter, index_path, read_index
from vmae_jax.data.videos import VideoError

_SPOOL_BYTES = 64 << 20  # clips of one video beyond this wait on disk until it proves whole


def write_json(path: str, value: Any) -> None:
    """Writes a JSON file that is there whole or not at all."""
    # Names of files may be no valid Unicode: escapes bring any of them through.
    whole.write(path, json.dumps(value, indent=1, ensure_ascii=True) + "\n")


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Everything that decides the bytes of one shard; made once, run on any process or machine.

    `report` is the path of a JSON file with the outcome for each video. It is written before the
    shard's index, so that a shard with an index always has one.
    """

    path: str
    report: str
    root: str
    videos: tuple[Video, ...]
    encoding: Encoding
    keep_partial: bool

    def outcome(self) -> dict[str, list] | None:
        """What became of each video, if the shard is finished; None if it has yet to be built."""
        if not os.path.exists(index_path(self.path)):
            return None
        try:
            with open(self.report, encoding="utf-8") as file:
                outcome = json.load(file)
            records = len(read_index(self.path))
        except (OSError, ValueError, ShardError):
            return None
        return outcome if records == sum(video["clips"] for video in outcome["kept"]) else None

    def run(self, progress: Callable[[str], None] = lambda path: None) -> dict[str, list]:
        """Builds the shard unless it is finished; `progress` hears each video's path before it.

        A bad video leaves nothing in the shard, and a line in the report.
        """
        outcome = self.outcome()
        if outcome is not None:
            return outcome
        outcome = {"kept": [], "rejected": []}
        with ShardWriter(self.path) as writer:
            for video in self.videos:
                progress(video.path)
                self._add(video, writer, outcome)
            write_json(self.report, outcome)
        return outcome

    def __call__(self) -> Iterator[tuple[str, None]]:
        """Builds the shard; one item per record, for TFDS to count.

        TFDS would hold all examples of a shard in memory until it is written; here they stream to
        the shard's own writer instead.
        """
        records = sum(video["clips"] for video in self.run()["kept"])
        return ((str(i), None) for i in range(records))

    def _add(self, video: Video, writer: ShardWriter, outcome: dict[str, list]) -> None:
        entry = {"path": video.path, "clips": 0, "frames": 0, "seconds": 0.0, "bytes": 0}
        broken, time = None, {}
        # The clips of a video enter the shard together, once it is known to be whole.
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
            lengths = []
            try:
                with local_file(locate(self.root, video.path)) as file:
                    _check_unchanged(file, video)
                    for clip in transcode(file, self.encoding, video.cuts, time.update):
                        record = self._record(clip, video, len(lengths))
                        lengths.append(spool.write(record.serialize()))
                        entry["frames"] += record.num_frames
                        entry["seconds"] += record.num_frames / record.fps
            except VideoError as error:
                broken = {
                    "reason": error.reason,
                    "detail": error.detail,
                    "frames": error.frames,
                    "seconds": error.seconds,
                }
            if broken and not (self.keep_partial and lengths):
                outcome["rejected"].append({"path": video.path} | broken)
                return
            spool.seek(0)
            for length in lengths:
                writer.write(spool.read(length))
        entry |= {
            "clips": len(lengths),
            "bytes": sum(lengths),
            "seconds": round(entry["seconds"], 3),
            "time": time,
        }
        outcome["kept"].append(entry | ({"partial": broken} if broken else {}))

    def _record(self, clip: Record, video: Video, number: int) -> Record:
        path, metadata = _text(video.path), "{}"
        name = f"{path}#{number}" if self.encoding.segment_seconds else path
        if video.cuts:
            name, metadata = _text(video.cuts[number].id), video.cuts[number].metadata
        return dataclasses.replace(
            clip,
            id=name,
            label=video.label,
            label_name=video.label_name,
            path=path,
            metadata=metadata,
        )


def _check_unchanged(file: str, video: Video) -> None:
    """Raises where a file is not the one that its cuts were found in."""
    if video.digest and os.path.isfile(file):
        with open(file, "rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != video.digest:
                raise VideoError("changed", "since it was looked at; run the command again")


def _text(path: str) -> str:
    """The path as valid UTF-8, for records: file names are bytes and may be anything."""
    return path.encode(errors="surrogateescape").decode(errors="replace")
