"""The report of a build: what each split holds, and why each other video was left out."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

_LISTED = 5  # names per reason on the terminal; the file has all
_UNEVEN = 0.03  # a video is named if more of its pictures were dropped, or frames repeated


@dataclasses.dataclass(frozen=True)
class Report:
    """`splits`: totals by name; `rejected`: {path, detail, frames, seconds} by reason.

    `partial` lists videos that broke midway but were kept up to there. `warnings` say what was
    unexpected before any video was read. `times` names videos of which more than a few per cent of
    the pictures were dropped or of the frames repeated, or whose times were corrected.
    """

    out: str
    splits: Mapping[str, Mapping[str, Any]]
    rejected: Mapping[str, Sequence[Mapping[str, Any]]]
    partial: Sequence[Mapping[str, Any]]
    kept: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()
    times: Sequence[str] = ()

    @property
    def num_kept(self) -> int:
        return len(self.kept)

    @property
    def num_rejected(self) -> int:
        return sum(map(len, self.rejected.values()))

    def to_dict(self) -> dict[str, Any]:
        """The content of report.json: the same for every run of the same build."""
        totals = {"videos_kept": self.num_kept, "videos_rejected": self.num_rejected}
        values = dataclasses.asdict(self)
        del values["out"]
        return totals | values

    def table(self) -> str:
        """The summary for the terminal."""
        row = "{:<12}{:>8}{:>8}{:>11}{:>10}{:>11}{:>8}"
        lines = [row.format("split", "videos", "clips", "frames", "hours", "MB", "shards")]
        for name, s in self.splits.items():
            cells = (
                s["videos"],
                s["clips"],
                s["frames"],
                f"{s['hours']:.3f}",
                f"{s['bytes'] / 1e6:.1f}",
                s["shards"],
            )
            lines.append(row.format(name, *cells))
        lines.append(f"{self.num_kept} videos kept, {self.num_rejected} rejected")
        for reason, videos in self.rejected.items():
            lines.append(f"  {reason}: {len(videos)}")
            lines += _listing(videos)
        if self.partial:
            lines.append(f"  kept only up to a break in the stream: {len(self.partial)}")
            lines += _listing(self.partial)
        lines += [f"warning: {what}" for what in self.times[:_LISTED]]
        if len(self.times) > _LISTED:
            lines.append(
                f"warning: the times of {len(self.times) - _LISTED} more videos, see report.json"
            )
        return "\n".join(lines)


def _time_amiss(video: Mapping[str, Any]) -> str:
    """A line on dropped, repeated and retimed pictures of a video; '' = nothing to say."""
    time = video.get("time")  # shards of earlier versions have none
    if not time:
        return ""
    found = list(time["notes"])
    for what, of in (("dropped", "pictures"), ("repeated", "frames")):
        if time[what] > _UNEVEN * time[of]:
            found.append(f"{time[what]} of {time[of]} {of} {what}")
    stated = f"{time['fps_stated']} stated, " * (time["fps_stated"] is not None)
    rates = f"{time['fps']} a second, {stated}{time['fps_measured']} measured"
    return f"{_printable(video)}: {'; '.join(found)} ({rates})" if found else ""


def _printable(video: Mapping[str, Any]) -> str:
    return video["path"].encode(errors="backslashreplace").decode()


def _listing(videos: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for video in videos[:_LISTED]:
        path = _printable(video)
        reached = f" after {video['frames']} frames, {video['seconds']:.1f} s" * (
            video["frames"] > 0
        )
        lines.append(f"    {path}:{reached} ({video['detail']})")
    if len(videos) > _LISTED:
        lines.append(f"    and {len(videos) - _LISTED} more, see report.json")
    return lines


def make_report(
    out: str,
    shards: Sequence[tuple[str, str, Mapping[str, Any]]],
    rejected: Sequence[tuple[str, str, str]],
    sizes: Mapping[str, int],
    warnings: Sequence[str] = (),
) -> Report:
    """Adds up the shards' outcomes.

    Args:
      shards: (split, shard path, outcome as `ShardTask.run` gives it), in order.
      rejected: (path, reason, detail) of what never reached a shard.
      sizes: bytes of each shard file by its path.
      warnings: see `Report`.
    """
    splits: dict[str, dict[str, Any]] = {}
    reasons = collections.defaultdict(list)
    partial, kept = [], []
    for split, path, outcome in shards:
        total = splits.setdefault(
            split, {"videos": 0, "clips": 0, "frames": 0, "hours": 0.0, "bytes": 0, "shards": 0}
        )
        total["shards"] += 1
        total["bytes"] += sizes[path]
        for video in outcome["kept"]:
            total["videos"] += 1
            for key in ("clips", "frames"):
                total[key] += video[key]
            total["hours"] += video["seconds"] / 3600
            kept.append({"split": split} | video)
            if "partial" in video:
                partial.append({"path": video["path"]} | video["partial"])
        for video in outcome["rejected"]:
            entry = {"split": split} | {k: v for k, v in video.items() if k != "reason"}
            reasons[video["reason"]].append(entry)
    for path, reason, detail in rejected:
        reasons[reason].append({"path": path, "detail": detail, "frames": 0, "seconds": 0.0})
    for total in splits.values():
        total["hours"] = round(total["hours"], 6)
    by_path = {
        reason: sorted(videos, key=lambda video: video["path"])
        for reason, videos in sorted(reasons.items())
    }
    kept.sort(key=lambda v: v["path"])
    return Report(
        out,
        splits,
        by_path,
        sorted(partial, key=lambda v: v["path"]),
        kept,
        warnings,
        list(filter(None, map(_time_amiss, kept))),
    )
