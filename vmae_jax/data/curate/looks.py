"""Looking at all videos, in parallel: what was found stays on disk and is not looked for again."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence, Set

import av

from vmae_jax.data.build.fetch import is_url, local_file, locate
from vmae_jax.data.curate import store
from vmae_jax.data.curate.examine import ExamineSettings, examine
from vmae_jax.data.curate.items import CurationError, Examined, Item
from vmae_jax.data.videos import VideoError

_VIDEOS_PER_TASK = 16  # what a kill may lose, and what a core is busy with at the end


@dataclasses.dataclass(frozen=True)
class LookTask:
    """Some videos and the file that holds what was found in them: a line for each, in order.

    A line is the key of what it rests on (the file's size and time, the settings), a tab, and
    `store.to_line`. The file appears whole.
    """

    path: str
    root: str
    items: tuple[Item, ...]
    settings: ExamineSettings

    def run(self, progress: Callable[[str], None] = lambda path: None) -> None:
        """Looks at each video that the file does not know yet; `progress` hears its path."""
        known, keys = self._known(), [self._key(item) for item in self.items]
        if list(known) == keys:
            return
        with open(f"{self.path}.incomplete", "w", encoding="ascii") as file:
            for item, key in zip(self.items, keys, strict=True):
                progress(item.path)
                line = known.get(key) or store.to_line(self._examine(item))
                file.write(f"{key}\t{line}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{self.path}.incomplete", self.path)

    def found(self) -> Iterator[Examined]:
        """What was found in each video, in order."""
        with open(self.path, encoding="ascii") as file:
            for line in file:
                yield store.from_line(line.partition("\t")[2])

    def _known(self) -> dict[str, str]:
        try:
            with open(self.path, encoding="ascii") as file:
                lines = (line.rstrip("\n").partition("\t") for line in file)
                return {key: found for key, _, found in lines}
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise CurationError(f"{self.path}: damaged ({error}); remove it") from error

    def _key(self, item: Item) -> str:
        """Says whether a video has to be looked at again. What a URL holds is not asked."""
        place = locate(self.root, item.path)
        try:
            stat = None if is_url(place) else os.stat(place)
        except OSError:
            stat = None
        parts = (item.id, item.path, stat and (stat.st_size, stat.st_mtime_ns), self.settings)
        versions = (av.__version__, av.library_versions["libavcodec"])
        return hashlib.sha256(repr((parts, versions)).encode(errors="replace")).hexdigest()[:24]

    def _examine(self, item: Item) -> Examined:
        try:
            with local_file(locate(self.root, item.path), self.settings.max_bytes) as file:
                return examine(item, file, self.settings)
        except VideoError as error:
            return Examined(item.id, reason=error.reason, detail=error.detail)


def plan(
    items: Sequence[Item], root: str, folder: str, settings: ExamineSettings
) -> list[LookTask]:
    """Tasks for all videos, in an order of its own, so that no task has all the long ones."""
    ranked = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())
    os.makedirs(folder, exist_ok=True)
    return [
        LookTask(
            os.path.join(folder, f"{start // _VIDEOS_PER_TASK:06d}.jsonl"), root,
            tuple(ranked[start : start + _VIDEOS_PER_TASK]), settings,
        )
        for start in range(0, len(ranked), _VIDEOS_PER_TASK)
    ]  # fmt: skip


def look(
    tasks: Sequence[LookTask],
    workers: int,
    beam_options: str | None,
    progress: Callable[[int, int], None],
) -> None:
    """Runs the tasks on this machine's cores, or through Beam."""
    from vmae_jax.data.build import builder

    begun, total = 0, sum(len(task.items) for task in tasks)
    progress(0, total)

    def count(path: str) -> None:
        nonlocal begun
        begun += 1
        progress(begun, total)

    if beam_options is None:
        builder.run_local(tasks, workers, count)
    else:
        _through_beam(tasks, beam_options)
    progress(total, total)


def _through_beam(tasks: Sequence[LookTask], options: str) -> None:
    import apache_beam as beam

    from vmae_jax.data.build.beam import pipeline_options, runner_of

    def run(task: LookTask) -> None:
        task.run()
        for video in task.found():
            counted = video.reason or "usable"
            beam.metrics.Metrics.counter("videos", counted).inc()

    parsed = pipeline_options(options)
    with beam.Pipeline(runner_of(parsed), parsed) as pipeline:
        _ = pipeline | beam.Create(tasks) | beam.Reshuffle() | beam.Map(run)


def thumbnails(tasks: Sequence[LookTask], clips: Set[str]) -> dict[str, bytes]:
    """A picture from the middle of each of these clips, where there is one."""
    found = {}
    for task in tasks:
        for video in task.found():
            for clip in video.clips:
                if clip.id in clips and clip.thumbnails:
                    found[clip.id] = clip.thumbnails[len(clip.thumbnails) // 2]
    return found
