"""The dataset directory: shards scheduled over processes or Beam workers, and TFDS's metadata."""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from vmae_jax import command
from vmae_jax.data.build import beam
from vmae_jax.data.build.items import BuildError
from vmae_jax.data.build.tasks import ShardTask
from vmae_jax.data.clips import Record
from vmae_jax.data.cores import cores

_INFO_FILE = "dataset_info.json"  # written last: with it the dataset exists


class _WrittenElsewhere(tfds.core.ExampleWriter):
    """TFDS asks for a writer, but a shard's task has written its shard by itself."""

    def write(self, path: Any, examples: Iterable[Any]) -> None:
        return None


class VideoDataset(tfds.core.ShardBasedBuilder):
    """Schedules shards through TFDS (in this process or over Beam) and writes the metadata.

    TFDS prepares in a temporary folder that a restart would not find again, so this one works in
    place: shards appear whole under their final names, and the metadata comes after all of them.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self, name: str, directory: str, label_names: Sequence[str], class_order: str = ""
    ):
        self.name = name
        self._label_names, self._class_order = label_names, class_order
        super().__init__(data_dir=directory)
        self._data_dir = directory

    def _info(self) -> tfds.core.DatasetInfo:
        features = {f.name: _feature(f.type) for f in dataclasses.fields(Record)}
        if self._label_names:
            features["label"] = tfds.features.ClassLabel(names=list(self._label_names))
        return tfds.core.DatasetInfo(
            builder=self,
            description="Video clips; each record is a clip as H.264 in MP4, or as JPEG frames.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(class_order=self._class_order)
            if self._class_order
            else None,
        )

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _WrittenElsewhere(file_format=self.info.file_format)

    def _shard_iterators_per_split(self, dl_manager: Any) -> Mapping[str, Sequence[ShardTask]]:
        return self._tasks

    def prepare(
        self, tasks: Mapping[str, Sequence[ShardTask]], beam_options: str | None = None
    ) -> None:
        """Runs the tasks of each split that are not finished, then writes the metadata."""
        self._tasks = tasks
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        if beam_options is not None:
            options = beam.pipeline_options(beam_options)
            config = config.replace(beam_runner=beam.runner_of(options), beam_options=options)
        self._download_and_prepare(dl_manager=None, download_config=config)
        scratch = os.path.join(self._data_dir, "build", "metadata")
        os.makedirs(scratch, exist_ok=True)
        self.info.write_to_directory(scratch)
        for name in sorted(os.listdir(scratch), key=lambda name: (name == _INFO_FILE, name)):
            os.replace(os.path.join(scratch, name), os.path.join(self._data_dir, name))
        os.rmdir(scratch)
        for split in tasks:  # what a Beam run notes on the way
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._data_dir, f"{self.name}-{split}.shard_infos.json"))


def _feature(kind: Any) -> tfds.features.FeatureConnector:
    data = tfds.features.Tensor(shape=(), dtype=np.object_)
    kinds = {
        int: tfds.features.Scalar(np.int64),
        float: tfds.features.Scalar(np.float32),
        str: tfds.features.Text(),
        bytes: data,
    }
    return kinds.get(kind) or tfds.features.Sequence(data)


# ---- Processes of this machine ----


class Task(Protocol):
    """Work on some videos, in any process."""

    def run(self, progress: Callable[[str], None]) -> Any:
        """Does what is not done yet; `progress` hears each video's path before it."""


def run_local(
    tasks: Sequence[Task],
    workers: int,
    progress: Callable[[int, int], None],
    begun: int,
    total: int,
) -> None:
    """Runs tasks on `workers` processes (0 = one per core).

    Args:
      progress: hears how many videos were begun, `begun` of them before, and of how many.

    Raises:
      BuildError: where a process dies; it names the videos that were being worked on.
    """
    workers = min(workers or cores(), len(tasks))

    def count(path: str) -> None:
        nonlocal begun
        begun += 1
        progress(begun, total)

    if workers <= 1:
        for task in tasks:
            task.run(count)
        return
    # A fork would copy the threads' locks of whoever calls (JAX, OpenCV): start afresh.
    context = multiprocessing.get_context("spawn")
    receiver, speaker = context.Pipe(duplex=False)
    current: dict[int, str] = {}
    done = threading.Event()
    listener = threading.Thread(target=_listen, args=(receiver, done, current, count), daemon=True)
    listener.start()
    try:
        with concurrent.futures.ProcessPoolExecutor(
            workers, context, _start_worker, (speaker, context.Lock())
        ) as pool:
            futures = [pool.submit(_run, task) for task in tasks]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                # A worker that was killed may have left half a message: never wait for the rest.
                done.set()
                listener.join(timeout=5)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise BuildError(
            "a worker process died (out of memory, or a codec crashed); the videos begun last: "
            f"{', '.join(sorted(current.values()))}; take the bad one out, or use fewer --workers, "
            "and run the same command again"
        ) from error


def _run(task: Task) -> None:
    task.run(_Worker.tell)
    _Worker.tell(None)


def _listen(
    begun: Connection, done: threading.Event, current: dict[int, str], progress: Callable
) -> None:
    while begun.poll(0.1) or not done.is_set():
        if not begun.poll():
            continue
        process, path = begun.recv()
        if path is None:
            current.pop(process, None)
        else:
            current[process] = path
            progress(path)


class _Worker:
    """What a worker process was started with: pipes travel only at its start, not with a task."""

    speaker: Connection
    lock: Any

    @classmethod
    def tell(cls, path: str | None) -> None:
        """Says which video is begun (None: the task is done).

        The parent takes no part in the lock: a worker may be killed while it holds it.
        """
        with cls.lock:
            cls.speaker.send((os.getpid(), path))


def _start_worker(speaker: Connection, lock: Any) -> None:
    _Worker.speaker, _Worker.lock = speaker, lock
    command.speak_plainly()

    def watch_parent() -> None:
        # An orphan would write beside the workers of a restart.
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()
