"""Short videos with metadata to a curated dataset directory: `curate`.

manifest.py reads the rows, hashtags.py selects, looks.py has each video looked at once (examine.py:
scenes, scores, hashes), gates.py judges the clips, unique.py removes copies, subsets.py draws
nested subsets, `data.build` writes the shards, and story.py and card.py tell what happened.
"""

import base64
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vmae_jax.data import build
from vmae_jax.data.build.beam import pipeline_options
from vmae_jax.data.build.fetch import locate
from vmae_jax.data.build.items import Cut, Manifest, Video, order
from vmae_jax.data.build.transcode import Encoding
from vmae_jax.data.curate import gates, hashtags, known, looks, manifest, subsets, unique
from vmae_jax.data.curate.examine import ExamineSettings
from vmae_jax.data.curate.gates import GateLimits
from vmae_jax.data.curate.hashtags import HashtagRules
from vmae_jax.data.curate.items import Clip, CurationError, Examined
from vmae_jax.data.curate.story import Story
from vmae_jax.data.shards import is_url

__all__ = ["CurationError", "Settings", "Story", "curate"]

Progress = Callable[[str, int, int], None]  # step, begun, total


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides what a curated set holds, beside the videos and their manifest."""

    hashtags: HashtagRules = dataclasses.field(default_factory=HashtagRules)
    look: ExamineSettings = dataclasses.field(default_factory=ExamineSettings)
    gates: GateLimits = dataclasses.field(default_factory=GateLimits)
    copies: unique.Limits | None = dataclasses.field(default_factory=unique.Limits)  # None = off
    against: tuple[tuple[str, str], ...] = ()  # (path, split): what the set must not hold
    subsets: tuple[int, ...] = ()  # clips of each nested subset
    seed: int = 0
    encoding: Encoding = dataclasses.field(
        default_factory=lambda: Encoding(max_frames=ExamineSettings.max_frames)
    )
    name: str = "videos"
    num_shards: int = 0


def curate(
    rows: str,
    out: str | os.PathLike,
    settings: Settings,
    *,
    root: str | None = None,
    author_key: str = "",
    workers: int = 0,
    beam_options: str | None = None,
    found: str | None = None,
    progress: Progress = lambda step, begun, total: None,
) -> Story:
    """Makes a dataset directory of the videos of a manifest, or finishes one.

    What was found in a video is kept in `found`: other rules need no second look. The shards
    depend on the videos, the manifest and the settings alone, not on workers or interruptions.

    Args:
      rows: the manifest; see `manifest.read_items`, also for `root` and `author_key`.
      out: directory on a file system that all workers share.
      workers: processes on this machine; 0 = one per core.
      beam_options: goes through Beam instead, e.g. 'runner=DirectRunner,direct_num_workers=2'.
      found: folder that keeps what was found in videos, for several sets of them; None = OUT.found,
        beside `out`.

    Raises:
      CurationError, BuildError: where it cannot start, or nothing is left.
    """
    out = build.check(out, settings.encoding, settings.name, settings.num_shards, workers)
    if beam_options is not None:
        pipeline_options(beam_options)
    found = f"{out}.found" if found is None else found
    table = manifest.read_items(rows, root, author_key=author_key)
    selection = hashtags.select(table.items, settings.hashtags)
    story = Story(out, settings, table, selection)
    if not selection.items:
        raise CurationError(f"{rows}: no video is left of {table.num_rows} rows: {story.summary()}")

    place = manifest.root_of(rows, root).path
    with build.sole_builder(out):
        cache = os.path.join(found, "against")
        others = [known.load(path, split, cache) for path, split in settings.against]
        tasks = looks.plan(selection.items, place, found, settings.look)
        looks.look(tasks, workers, beam_options, lambda *n: progress("looking", *n))
        story.tasks = tasks
        for task in tasks:
            for video in task.found():
                story.add_video(_without_pictures(video))
        for video in story.videos.values():
            for clip in video.clips:
                story.judge(clip, gates.judge(clip, video, settings.gates))
        if settings.copies:
            progress("comparing", 0, len(story.kept))
            _remove_copies(story, others, beam_options)
            progress("comparing", len(story.kept), len(story.kept))
        if not story.kept:
            story.write_tables()
            raise CurationError(
                f"{rows}: no clip is left: {story.summary()}; {out}/curation has the reasons"
            )
        tags = {name: story.items[clip.item].hashtags for name, clip in story.kept.items()}
        story.subsets = subsets.nested(tags, settings.subsets, settings.seed)
        listed = _manifest(story, place)
        report = build.build_manifest(
            listed, settings.encoding, out, settings.name, settings.num_shards,
            workers=workers, beam_options=beam_options,
            progress=lambda *n: progress("writing", *n),
        )  # fmt: skip
        story.finish(report)
        story.write_tables()
        story.write_card()
        unique.save_fingerprints(
            os.path.join(out, known.FILE), [list(story.kept.values())], story.digests
        )
    return story


def _without_pictures(video: Examined) -> Examined:
    bare = tuple(dataclasses.replace(clip, thumbnails=()) for clip in video.clips)
    return dataclasses.replace(video, clips=bare)


def _remove_copies(
    story: Story, others: Sequence[unique.Fingerprints], beam_options: str | None
) -> None:
    """Finds what the set would hold twice, or holds of another set."""
    story.groups = unique.find_groups(
        [list(story.kept.values())], story.digests, against=others, beam_options=beam_options,
        limits=story.settings.copies, counts=story.counts,
    )  # fmt: skip
    quality = {}
    for name, clip in story.kept.items():
        video = story.videos[clip.item]
        quality[name] = (video.height * video.width, clip.end - clip.start)
    _, removed = unique.choose(story.groups, quality)
    for removal in removed:
        story.remove_copy(removal)


# ---- What is built ----


def _manifest(story: Story, root: str) -> Manifest:
    """The kept clips as cuts of their videos, those of each subset in a split of their own."""
    split_of = dict.fromkeys(story.kept, "train_rest" if story.subsets else "train")
    for size, names in sorted(story.subsets.items(), reverse=True):
        split_of |= dict.fromkeys(names, f"train_{size}")
    story.splits = split_of
    cuts: dict[tuple[str, str], list[Cut]] = {}
    for name, clip in story.kept.items():
        cut = Cut(name, clip.start, clip.end, _metadata(story, clip))
        cuts.setdefault((split_of[name], clip.item), []).append(cut)
    videos = [
        _video(root, story, item, split, sorted(found, key=lambda cut: cut.start))
        for (split, item), found in cuts.items()
    ]
    return Manifest(root, tuple(sorted(videos, key=lambda v: (order(v), v.split))), (), ())


def _video(root: str, story: Story, name: str, split: str, cuts: Sequence[Cut]) -> Video:
    item = story.items[name]
    place = locate(root, item.path)
    stat = None if is_url(place) else os.stat(place)
    size, time = (stat.st_size, stat.st_mtime_ns) if stat else (0, 0)
    digest = story.videos[name].digest
    return Video(item.path, size, time, split, cuts=tuple(cuts), digest=digest)


def _metadata(story: Story, clip: Clip) -> str:
    """What is known of a clip, as a record carries it: JSON."""
    item, video = story.items[clip.item], story.videos[clip.item]
    values: dict[str, object] = {
        "item": item.id,
        "hashtags": list(item.hashtags),
        "start": clip.start,
        "end": clip.end,
        "cuts": list(video.cuts),
        "scores": dict(clip.scores),
        "sha256": video.digest,
        # u64 with the low byte first, HASHES_PER_SECOND of them for every second
        "hashes": base64.b64encode(np.asarray(clip.hashes, "<u8").tobytes()).decode(),
    }
    optional: Mapping[str, object] = {
        "views": item.views, "author": item.author, "extra": dict(item.extra),
    }  # fmt: skip
    values |= {name: value for name, value in optional.items() if value not in (None, "", {})}
    return json.dumps(values, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
