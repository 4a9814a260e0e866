"""Every video of a split exactly once, in fixed views: what evaluation reads.

The order is that of the shards. The last global batch is padded, so that all batches have one
shape; a record that cannot be read stays in its place, empty and counted, for another in its stead
would be counted twice.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from vmae_jax.config import Config
from vmae_jax.data import clips
from vmae_jax.data.pipeline import (
    NO_LABEL,
    NO_RECORD,
    BadRecords,
    ProcessSlice,
    batches_of,
    check_labels,
    open_labelled,
)
from vmae_jax.data.records import Dataset, RecordError, RecordSource
from vmae_jax.data.views import EvalViews, evaluation_views

_AHEAD = 2  # batches: with 15 views a video has 36 MB


@dataclasses.dataclass(frozen=True)
class _LoadVideo(grain.transforms.Map):
    """Record number -> its views; past the end of the split, or where it is bad, an empty video."""

    source: RecordSource
    views: EvalViews

    def map(self, element: int) -> dict[str, Any]:
        number = int(element)
        if number >= len(self.source):
            return self._empty(failures=())
        try:
            record = clips.Record.parse(self.source[number])
            video = self.views(record)
        except RecordError as error:
            return self._empty(failures=((number, error.reason),))
        found = {"video": video, "label": record.label, "record": number, "id": record.id}
        return found | {"failures": ()}

    def _empty(self, failures: tuple[tuple[int, str], ...]) -> dict[str, Any]:
        video = np.zeros(self.views.shape, np.uint8)
        empty = {"video": video, "label": NO_LABEL, "record": NO_RECORD, "id": ""}
        return empty | {"failures": failures}


def _collate(elements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "video": np.stack([e["video"] for e in elements]),
        "label": np.array([e["label"] for e in elements], np.int32),
        "record": np.array([e["record"] for e in elements], np.int32),
        "ids": [e["id"] for e in elements],
        "failures": [failure for e in elements for failure in e["failures"]],
    }


class EvalStream(Iterator[dict[str, np.ndarray]]):
    """The batches of this process, each once: with b videos a batch and V views of each,

      video   u8[b, V, T, S, S, 3]
      label   i32[b], -1 where there is no record
      record  i32[b], number of the record in the split; -1 = padding, or it could not be read

    All processes have the same number of batches. `bad_records` maps the records of this process
    that could not be read so far to the reason.
    """

    def __init__(self, dataset: Dataset, batches: grain.IterDataset, max_bad_fraction: float):
        self.fingerprint = dataset.fingerprint
        self.num_videos = len(dataset.source)
        self.label_names = dataset.label_names
        self.bad_records = BadRecords(dataset, max_bad_fraction, "left out")
        self._dataset = dataset
        self._ids: dict[int, str] = {}
        self._iterator = iter(batches)

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
          TooManyBadRecords: past `data.max_bad_fraction` of all records.
          DatasetError: where a record has no label.
          ShardError: where a shard can no longer be read.
        """
        batch = next(self._iterator)
        self.bad_records.add(batch.pop("failures"))
        check_labels(self._dataset, batch["record"], batch["label"])
        self._ids |= zip(batch["record"].tolist(), batch.pop("ids"), strict=True)
        return batch

    def id(self, record: int) -> str:
        """What the record is called: its source's path, and '#segment' where that was cut.

        Reads the record again where another process had it.
        """
        if record not in self._ids:
            try:
                self._ids[record] = clips.Record.parse(self._dataset.source[record]).id
            except RecordError:
                self._ids[record] = self._dataset.source.name(record)
        return self._ids[record]

    def close(self) -> None:
        """Ends the threads and processes that decode."""
        self._iterator.close()

    def __enter__(self) -> "EvalStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_eval(
    config: Config,
    *,
    places: Sequence[int] | None = None,
    views: str = "test",
    split: str = "",
    start: int = 0,
) -> EvalStream:
    """Opens a split of `config.data.dataset` for one process, to be seen once.

    Args:
      places: of this process's videos in every global batch; None = all of them.
      views: 'test' or 'center', see `views.evaluation_views`.
      split: '' = `config.eval.split`.
      start: videos that all processes together have already seen.

    Raises:
      DatasetError, ShardError: where the split does not exist, has no labels or cannot be read.
    """
    batch_size = config.eval.batch_size
    places = range(batch_size) if places is None else places
    dataset = open_labelled(config.data.dataset, split or config.eval.split)
    count = len(dataset.source)
    if not 0 <= start <= count:
        raise ValueError(f"start = {start}: expected 0 to {count}, the videos of the split")
    load = _LoadVideo(dataset.source, evaluation_views(config, views))
    padded = start + -(-(count - start) // batch_size) * batch_size
    local = ProcessSlice(
        grain.MapDataset.range(padded).map(load),
        batch_size=batch_size,
        places=places,
        start=start,
    )
    data = dataclasses.replace(config.data, prefetch=min(config.data.prefetch, _AHEAD))
    batches = batches_of(local, len(places), data, _collate)
    return EvalStream(dataset, batches, config.data.max_bad_fraction)
