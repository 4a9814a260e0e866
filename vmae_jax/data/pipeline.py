"""From shards to batches of augmented clips, in an order that only the seed decides.

Shuffle, repeat, decode and augment form a lazy chain over the global order of all epochs; each
process takes its slice of every global batch at the very end. So an element depends on
(seed, position) alone, and the state of the data is one integer: the videos seen so far.
"""

import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from vmae_jax.config import Config, ConfigError, DataConfig
from vmae_jax.data import augment, clips
from vmae_jax.data.records import Dataset, RecordError, RecordSource, open_dataset

_NO_RECORD = -1
_SHOWN = 5  # bad records that the fatal error lists


class TooManyBadRecords(RuntimeError):
    """More distinct records are bad than `data.max_bad_fraction` allows."""


@dataclasses.dataclass(frozen=True)
class _LoadViews(grain.transforms.RandomMap):
    """Record number -> its augmented views; a bad record gives way to the next that is good.

    The element holds video u8[V, T, S, S, 3], the record that was taken (`_NO_RECORD` where none
    was found) and `failures`, the (record, reason) of each one tried before it.
    """

    source: RecordSource
    size: int
    num_frames: int
    stride: int
    views: int
    tries: int  # more failures in a row than this are fatal anyway

    def random_map(self, element: int, rng: np.random.Generator) -> dict[str, Any]:
        failures = []
        for step in range(self.tries):
            record = (int(element) + step) % len(self.source)
            try:
                video = self._views(self.source[record], rng)
            except RecordError as error:
                failures.append((record, error.reason))
            else:
                return {"video": video, "record": record, "failures": tuple(failures)}
        empty = np.zeros((self.views, self.num_frames, self.size, self.size, 3), np.uint8)
        return {"video": empty, "record": _NO_RECORD, "failures": tuple(failures)}

    def _views(self, payload: bytes, rng: np.random.Generator) -> np.ndarray:
        record = clips.Record.parse(payload)
        start = rng.integers(clips.num_starts(record.num_frames, self.num_frames, self.stride))
        indices = clips.clip_indices(record.num_frames, self.num_frames, self.stride, int(start))
        frames = clips.decode_frames(record, indices)
        return np.stack(
            [augment.multi_scale_crop(frames, self.size, rng) for _ in range(self.views)]
        )


class _ProcessSlice(grain.MapDataset):
    """The part of one process: a contiguous slice of every global batch, from `start` on."""

    def __init__(
        self, parent: grain.MapDataset, *, batch_size: int, index: int, count: int, start: int
    ):
        super().__init__(parent)
        self._global, self._local = batch_size, batch_size // count
        self._first = start + index * self._local

    def __len__(self) -> int:
        return (len(self._parent) - self._first) // self._global * self._local

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, self._local)
        return self._parent[self._first + batch * self._global + place]


def _collate(elements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "video": np.concatenate([e["video"] for e in elements]),
        "record": np.array([e["record"] for e in elements], np.int64),
        "bad": np.array([len(e["failures"]) for e in elements], np.int64),
        "failures": [failure for e in elements for failure in e["failures"]],
    }


class _FollowParent:
    """Ties a decoding process to its parent: it ends when the parent closes it or is gone.

    Signals that a scheduler or a terminal sends to the whole group are left to the parent, which
    may still need a batch to reach the step where it saves.
    """

    def __init__(self):
        self._parent = os.getpid()

    def __call__(self, worker: int, workers: int) -> None:
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, signal.SIG_IGN)
        threading.Thread(target=self._watch, daemon=True, name="parent-watch").start()

    def _watch(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(0.5)
        os._exit(1)


def _batches(local: grain.MapDataset, batch_size: int, data: DataConfig) -> grain.IterDataset:
    """Decodes in threads or processes, in order, and batches with one batch ready ahead."""
    ahead = max(data.threads, batch_size * (data.prefetch - 1))
    if data.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain hands its flags to the processes
        decoded = local.to_iter_dataset(grain.ReadOptions(data.threads, 2 * data.threads))
        each = -(-ahead // data.workers)
        options = grain.multiprocessing.MultiprocessingOptions(data.workers, each)
        decoded = decoded.mp_prefetch(options, worker_init_fn=_FollowParent())
    else:
        decoded = local.to_iter_dataset(grain.ReadOptions(data.threads, ahead))
    batched = decoded.batch(batch_size, drop_remainder=True, batch_fn=_collate)
    return grain.experimental.ThreadPrefetchIterDataset(batched, prefetch_buffer_size=1)


class ClipStream(Iterator[dict[str, np.ndarray]]):
    """Endless batches of this process: with b videos a batch and V views of each,

      video   u8[b * V, T, S, S, 3], the views of a video one after the other
      record  i64[b], number of the record in the data set
      bad     i64[b], bad records that were tried before it

    `bad_records` maps each distinct bad record that was met so far to its reason.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: grain.MapDataset,
        batches: grain.IterDataset,
        max_bad_fraction: float,
    ):
        self.fingerprint = dataset.fingerprint
        self.num_videos = len(dataset.source)
        self.label_names = dataset.label_names
        self.bad_records: dict[int, str] = {}
        self._source, self._order = dataset.source, order
        self._max_bad_fraction = max_bad_fraction
        self._iterator = iter(batches)

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
          TooManyBadRecords: past `data.max_bad_fraction` of all records.
          ShardError: where a shard can no longer be read.
        """
        batch = next(self._iterator)
        self._account(batch.pop("failures"), found_all=_NO_RECORD not in batch["record"])
        return batch

    def example(self, i: int) -> np.ndarray:
        """Views of the video at position `i` of the global order, u8[V, T, S, S, 3]."""
        element = self._order[i]
        self._account(element["failures"], found_all=element["record"] != _NO_RECORD)
        return element["video"]

    def close(self) -> None:
        """Ends the threads and processes that decode."""
        self._iterator.close()

    def __enter__(self) -> "ClipStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _account(self, failures: Sequence[tuple[int, str]], found_all: bool) -> None:
        for record, reason in failures:
            if record not in self.bad_records:
                self.bad_records[record] = reason
                logging.getLogger(__name__).warning(
                    "Bad record replaced by the next: %s", self._describe(record)
                )
        bad = len(self.bad_records)
        if found_all and bad <= self._max_bad_fraction * self.num_videos:
            return
        first = "; ".join(self._describe(record) for record in list(self.bad_records)[:_SHOWN])
        raise TooManyBadRecords(
            f"{bad} of {self.num_videos} records are bad ({bad / self.num_videos:.2%}), more than "
            f"data.max_bad_fraction = {self._max_bad_fraction:g} allows. The first: {first}. Build "
            "these shards again, or raise data.max_bad_fraction"
        )

    def _describe(self, record: int) -> str:
        shard, place = self._source.locate(record)
        return f"{os.path.basename(shard)}[{place}]: {self.bad_records[record]}"


def open_clips(
    config: Config, *, process_index: int = 0, process_count: int = 1, start: int = 0
) -> ClipStream:
    """Opens the training clips of `config.data.dataset` (a directory or URL) for one process.

    Args:
      start: videos that all processes together have already seen; any number works.

    Raises:
      ConfigError: where the processes cannot share a batch evenly.
      DatasetError, ShardError: where the data set cannot be used.
    """
    data = config.data
    if data.batch_size % process_count:
        raise ConfigError(
            f"config.data.batch_size = {data.batch_size}: expected a multiple of the "
            f"{process_count} processes"
        )
    if start < 0:
        raise ValueError(f"start = {start}: expected the number of videos seen, 0 or more")
    dataset = open_dataset(data.dataset, data.split)
    count = len(dataset.source)
    load = _LoadViews(
        dataset.source,
        size=config.model.image_size,
        num_frames=config.model.num_frames,
        stride=data.stride,
        views=data.views,
        tries=min(count, int(data.max_bad_fraction * count) + 1),
    )
    order = grain.MapDataset.range(count).seed(config.seed).shuffle().repeat().random_map(load)
    local = _ProcessSlice(
        order, batch_size=data.batch_size, index=process_index, count=process_count, start=start
    )
    batches = _batches(local, data.batch_size // process_count, data)
    return ClipStream(dataset, order, batches, data.max_bad_fraction)
