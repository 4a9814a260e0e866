"""From shards to batches of augmented clips, in an order that only the seed decides.

Shuffle, repeat, decode and augment form a lazy chain over the global order of all epochs; each
process takes its slice of every global batch at the very end. So an element depends on
(seed, position) alone, and the state of the data is one integer: the videos seen so far.
"""

import dataclasses
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from vmae_jax.config import Config, ConfigError, DataConfig
from vmae_jax.data import clips, views
from vmae_jax.data.cores import decoders
from vmae_jax.data.records import (
    Dataset,
    DatasetError,
    RecordError,
    RecordSource,
    open_dataset,
)

NO_RECORD = -1
NO_LABEL = -1
HELD = 3  # batches at once: decoded ahead, put together, on their way to the device
_SHOWN = 5  # bad records that the fatal error lists
# Decoders give Python's lock away at every packet and may wait this long to have it back. With
# Python's own 5 ms, two threads decoded 0.87 times as much (median of 4 turns).
_SWITCH_SECONDS = 5e-4


class TooManyBadRecords(RuntimeError):
    """More distinct records are bad than `data.max_bad_fraction` allows."""


@dataclasses.dataclass(frozen=True)
class _LoadViews(grain.transforms.RandomMap):
    """Record number -> its augmented views; a bad record gives way to the next that is good.

    The element holds video u8[V, T, S, S, 3], the record that was taken (`NO_RECORD` where none
    was found) and `failures`, the (record, reason) of each one tried before it.
    """

    source: RecordSource
    views: views.TrainViews
    empty: tuple[int, ...]  # shape of an element without video
    tries: int  # more failures in a row than this are fatal anyway

    def random_map(self, element: int, rng: np.random.Generator) -> dict[str, Any]:
        failures = []
        for step in range(self.tries):
            number = (int(element) + step) % len(self.source)
            try:
                record = clips.Record.parse(self.source[number])
                video = self.views(record, rng)
            except RecordError as error:
                failures.append((number, error.reason))
            else:
                return _element(video, number, record.label, failures)
        return _element(np.zeros(self.empty, np.uint8), NO_RECORD, NO_LABEL, failures)


def _element(
    video: np.ndarray, record: int, label: int, failures: Sequence[tuple[int, str]]
) -> dict[str, Any]:
    return {"video": video, "record": record, "label": label, "failures": tuple(failures)}


class ProcessSlice(grain.MapDataset):
    """The part of one process: the same places of every global batch, from `start` on."""

    def __init__(
        self, parent: grain.MapDataset, *, batch_size: int, places: Sequence[int], start: int
    ):
        super().__init__(parent)
        self._batch_size, self._places, self._start = batch_size, tuple(places), start

    def __len__(self) -> int:
        return (len(self._parent) - self._start) // self._batch_size * len(self._places)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, i = divmod(index, len(self._places))
        return self._parent[self._start + batch * self._batch_size + self._places[i]]


def _collate(elements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    labels = [np.full(len(e["video"]), e["label"], np.int32) for e in elements]
    return {
        "video": np.concatenate([e["video"] for e in elements]),
        "label": np.concatenate(labels),
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


def batches_of(
    local: grain.MapDataset,
    batch_size: int,
    data: DataConfig,
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]],
) -> grain.IterDataset:
    """Decodes in threads or processes, in order, and batches with one batch ready ahead."""
    threads, workers = decoders(data.threads, data.workers)
    ahead = max(threads, batch_size * (data.prefetch - 1))
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain hands its flags to the processes
        decoded = local.to_iter_dataset(grain.ReadOptions(threads, 2 * threads))
        each = -(-ahead // workers)
        options = grain.multiprocessing.MultiprocessingOptions(workers, each)
        decoded = decoded.mp_prefetch(options, worker_init_fn=_FollowParent())
    else:
        sys.setswitchinterval(_SWITCH_SECONDS)
        decoded = local.to_iter_dataset(grain.ReadOptions(threads, ahead))
    batched = decoded.batch(batch_size, drop_remainder=True, batch_fn=collate)
    return grain.experimental.ThreadPrefetchIterDataset(batched, prefetch_buffer_size=1)


class BadRecords(dict[int, str]):
    """Each distinct bad record that was met so far, and why; too many end the run."""

    def __init__(self, dataset: Dataset, max_fraction: float, fate: str):
        super().__init__()
        self._source, self._max_fraction, self._fate = dataset.source, max_fraction, fate

    def add(self, failures: Sequence[tuple[int, str]], enough: bool = True) -> None:
        """Takes note of (record, reason), and logs what is new.

        Args:
          enough: False where no good record was left to take.

        Raises:
          TooManyBadRecords: past `data.max_bad_fraction` of all records.
        """
        for record, reason in failures:
            if record not in self:
                self[record] = reason
                logging.getLogger(__name__).warning(
                    "Bad record %s: %s", self._fate, self._describe(record)
                )
        total = len(self._source)
        if enough and len(self) <= self._max_fraction * total:
            return
        first = "; ".join(self._describe(record) for record in list(self)[:_SHOWN])
        raise TooManyBadRecords(
            f"{len(self)} of {total} records are bad ({len(self) / total:.2%}), more than "
            f"data.max_bad_fraction = {self._max_fraction:g} allows. The first: {first}. Build "
            "these shards again, or raise data.max_bad_fraction"
        )

    def _describe(self, record: int) -> str:
        return f"{self._source.name(record)}: {self[record]}"


class ClipStream(Iterator[dict[str, np.ndarray]]):
    """Endless batches of this process: with b videos a batch and V views of each,

      video   u8[b * V, T, S, S, 3], the views of a video one after the other
      label   i32[b * V], class of each view's video; -1 = none, where training needs none
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
        labelled: bool,
    ):
        self.fingerprint = dataset.fingerprint
        self.num_videos = len(dataset.source)
        self.label_names = dataset.label_names
        self.bad_records = BadRecords(dataset, max_bad_fraction, "replaced by the next")
        self._dataset, self._order, self._labelled = dataset, order, labelled
        self._iterator = iter(batches)

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
          TooManyBadRecords: past `data.max_bad_fraction` of all records.
          DatasetError: where fine-tuning meets a record without a label.
          ShardError: where a shard can no longer be read.
        """
        batch = next(self._iterator)
        self.bad_records.add(batch.pop("failures"), enough=NO_RECORD not in batch["record"])
        if self._labelled:
            views_each = len(batch["label"]) // len(batch["record"])
            check_labels(self._dataset, batch["record"], batch["label"][::views_each])
        return batch

    def example(self, i: int) -> np.ndarray:
        """Views of the video at position `i` of the global order, u8[V, T, S, S, 3]."""
        element = self._order[i]
        self.bad_records.add(element["failures"], enough=element["record"] != NO_RECORD)
        return element["video"]

    def close(self) -> None:
        """Ends the threads and processes that decode."""
        self._iterator.close()

    def __enter__(self) -> "ClipStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_labels(dataset: Dataset, records: np.ndarray, labels: np.ndarray) -> None:
    """Raises DatasetError unless each record, where it is one, has a label that has a name."""
    for record, label in zip(records.tolist(), labels.tolist(), strict=True):
        if record != NO_RECORD and not 0 <= label < len(dataset.label_names):
            found = "no label" if label == NO_LABEL else f"label {label}"
            raise DatasetError(
                f"{dataset.path}: record {record} ({dataset.source.name(record)}) has {found}, "
                f"expected one of the {len(dataset.label_names)} classes; build the dataset with "
                "--labels=folders, or with a CSV that names a label for every video; "
                "--empty_labels=drop leaves out those without"
            )


def open_labelled(path: str, split: str) -> Dataset:
    """Opens a split that must have classes.

    Raises:
      DatasetError, ShardError: where it has none, or cannot be used.
    """
    dataset = open_dataset(path, split)
    if not dataset.label_names:
        raise DatasetError(
            f"{path}: its videos have no labels, which fine-tuning and evaluation need; build the "
            "dataset with --labels=folders or a CSV"
        )
    return dataset


def check_memory(batch_size: int, size: int) -> None:
    """Raises ConfigError where the batches of so many bytes of clips do not fit into memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if HELD * size > memory:
        raise ConfigError(
            f"config.data.batch_size = {batch_size}: a batch has {size / 1e9:.3g} GB of clips on "
            f"this host, of which {HELD} have to fit into its memory of {memory / 1e9:.3g} GB; "
            "take a smaller one, or more hosts"
        )


def open_clips(
    config: Config, *, places: Sequence[int] | None = None, start: int = 0
) -> ClipStream:
    """Opens the training clips of `config.data.dataset` (a directory or URL) for one process.

    Args:
      places: of this process's videos in every global batch (`sharding.places_of_process`); None =
        all of them.
      start: videos that all processes together have already seen; any number works.

    Raises:
      ConfigError: where this host cannot hold the batches.
      DatasetError, ShardError: where the data set cannot be used.
    """
    data = config.data
    places = range(data.batch_size) if places is None else places
    if start < 0:
        raise ValueError(f"start = {start}: expected the number of videos seen, 0 or more")
    labelled = config.needs_labels
    dataset = (open_labelled if labelled else open_dataset)(data.dataset, data.split)
    count, model = len(dataset.source), config.model
    video = (data.views, model.num_frames, model.image_size, model.image_size, 3)
    check_memory(data.batch_size, len(places) * math.prod(video))
    load = _LoadViews(
        dataset.source,
        views.training_views(config),
        empty=video,
        tries=min(count, int(data.max_bad_fraction * count) + 1),
    )
    order = grain.MapDataset.range(count).seed(config.seed).shuffle().repeat().random_map(load)
    local = ProcessSlice(order, batch_size=data.batch_size, places=places, start=start)
    batches = batches_of(local, len(places), data, _collate)
    return ClipStream(dataset, order, batches, data.max_bad_fraction, labelled)
