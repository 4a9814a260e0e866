"""Looking at all videos, in parallel: what was found stays on disk and is not looked for again."""

import dataclasses
import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence, Set

import av
import cv2

from vmae_jax.data.build.fetch import FetchError, local_file, locate
from vmae_jax.data.curate import store
from vmae_jax.data.curate.examine import ExamineSettings, examine
from vmae_jax.data.curate.fingerprints import item_of
from vmae_jax.data.curate.items import CurationError, Examined, Item
from vmae_jax.data.shards import is_url
from vmae_jax.data.videos import VideoError

log = logging.getLogger(__name__)

_VIDEOS_PER_TASK = 16
_MEANING = 1  # goes up when the same video would be told differently
NOT_FETCHED = "not fetched"


@dataclasses.dataclass(frozen=True)
class LookTask:
    """Some videos, and the folder that holds a file with what was found in each."""

    folder: str
    root: str
    items: tuple[Item, ...]
    settings: ExamineSettings

    def run(self, progress: Callable[[str], None] = lambda path: None) -> None:
        """Looks at each video that the folder does not know yet; `progress` hears its path."""
        for item in self.items:
            progress(item.path)
            path = self._path(item)
            if os.path.exists(path):
                continue
            try:
                found = self._look(item)
            except FetchError as error:  # not the video's fault: the next run asks again
                log.warning("%s", error)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            draft = f"{path}.{uuid.uuid4().hex}"  # others may be looking at the same video
            with open(draft, "w", encoding="ascii") as file:
                file.write(store.to_line(found))
            os.replace(draft, path)

    def found(self) -> Iterator[Examined]:
        """What was found in each video, in order."""
        return map(self.found_in, self.items)

    def found_in(self, item: Item) -> Examined:
        path = self._path(item)
        try:
            with open(path, encoding="ascii") as file:
                return store.from_line(file.read())
        except FileNotFoundError:
            return Examined(item.id, reason=NOT_FETCHED, detail="run the same command again")
        except (CurationError, UnicodeDecodeError) as error:
            raise CurationError(f"{path}: damaged; remove it and run again") from error

    def _path(self, item: Item) -> str:
        """Named by all that decides what is found. What a URL holds is not asked for that."""
        place = locate(self.root, item.path)
        try:
            stat = None if is_url(place) else os.stat(place)
        except OSError:
            stat = None
        parts = (item.id, place, stat and (stat.st_size, stat.st_mtime_ns), self.settings, _MEANING)
        versions = (av.__version__, av.library_versions["libavcodec"], cv2.__version__)
        key = hashlib.sha256(repr((parts, versions)).encode(errors="replace")).hexdigest()[:32]
        return os.path.join(self.folder, key[:2], key)

    def _look(self, item: Item) -> Examined:
        try:
            with local_file(locate(self.root, item.path), self.settings.max_bytes) as file:
                return examine(item, file, self.settings)
        except VideoError as error:
            return Examined(item.id, reason=error.reason, detail=error.detail)


def plan(
    items: Sequence[Item], root: str, folder: str, settings: ExamineSettings
) -> list[LookTask]:
    """Tasks for all videos, in an order of its own, so that no task has all the long ones."""
    root = root if is_url(root) else os.path.abspath(root)
    ranked = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())
    starts = range(0, len(ranked), _VIDEOS_PER_TASK)
    parts = (tuple(ranked[start : start + _VIDEOS_PER_TASK]) for start in starts)
    return [LookTask(os.path.abspath(folder), root, part, settings) for part in parts]


def look(
    tasks: Sequence[LookTask],
    workers: int,
    beam_options: str | None,
    progress: Callable[[int, int], None],
) -> None:
    """Runs the tasks on this machine's cores, or through Beam."""
    from vmae_jax.data.build import builder

    total = sum(len(task.items) for task in tasks)
    progress(0, total)
    if beam_options is None:
        builder.run_local(tasks, workers, progress, 0, total)
    else:
        _through_beam(tasks, beam_options)
    progress(total, total)


def _through_beam(tasks: Sequence[LookTask], options: str) -> None:
    import apache_beam as beam

    from vmae_jax.data.build.beam import pipeline_options, runner_of

    def run(task: LookTask) -> None:
        task.run()
        for video in task.found():
            beam.metrics.Metrics.counter("videos", video.reason or "usable").inc()

    parsed = pipeline_options(options)
    with beam.Pipeline(runner_of(parsed), parsed) as pipeline:
        _ = pipeline | beam.Create(tasks) | beam.Reshuffle() | beam.Map(run)


def thumbnails(tasks: Sequence[LookTask], clips: Set[str]) -> dict[str, bytes]:
    """A picture from the middle of each of these clips, where there is one."""
    items = set(map(item_of, clips))
    found = {}
    for task in tasks:
        for item in task.items:
            if item.id in items:
                for clip in task.found_in(item).clips:
                    if clip.id in clips and clip.thumbnails:
                        found[clip.id] = clip.thumbnails[len(clip.thumbnails) // 2]
    return found
