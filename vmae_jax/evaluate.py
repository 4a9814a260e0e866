"""Multi-view testing: every video once, whatever the number of devices, and its files."""

import csv
import dataclasses
import functools
import io
import json
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vmae_jax import class_order, lists, metrics, sharding, viz, whole
from vmae_jax.config import Config, ConfigError
from vmae_jax.data import evaluation

log = logging.getLogger(__name__)

TOP = 5
HARDEST = 3  # classes named in the terminal


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a classifier said of n videos, in the order of the data set."""

    ids: tuple[str, ...]
    labels: np.ndarray  # i64 [n]
    probabilities: np.ndarray  # f32 [n, C]
    label_names: tuple[str, ...]
    failed: dict[str, str]  # videos that could not be read -> why

    @functools.cached_property
    def ranked(self) -> np.ndarray:
        """The most probable classes first, i64 [n, at most 5]; ties go to the lower number."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")[:, :TOP]

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Videos of class i taken for class j, i64 [C, C]."""
        counts = np.zeros((self.probabilities.shape[1],) * 2, np.int64)
        np.add.at(counts, (self.labels, self.ranked[:, 0]), 1)
        return counts

    def summary(self) -> dict[str, float]:
        """Top-1 and top-5 accuracy and the mean of the classes' accuracies, in percent."""
        right = self.ranked == self.labels[:, None]
        found = self.confusion.sum(1) > 0
        per_class = self.class_accuracy()[found]
        return {
            "top1": 100 * float(right[:, 0].mean()),
            "top5": 100 * float(right.any(1).mean()),
            "mean_class": float(per_class.mean()),
        }

    def class_accuracy(self) -> np.ndarray:
        """Top-1 of each class in percent, f64 [C]; NaN where it has no video."""
        videos = self.confusion.sum(1)
        with np.errstate(invalid="ignore"):
            return 100 * np.diag(self.confusion) / videos

    def report(self, views: str) -> str:
        """A few lines for a terminal: accuracies, what failed, the hardest classes."""
        numbers = self.summary()
        lines = [
            f"\n{len(self.ids)} videos, {views}: top-1 {numbers['top1']:.2f}, "
            f"top-5 {numbers['top5']:.2f}, mean over classes {numbers['mean_class']:.2f}"
        ]
        if self.failed:
            first = next(iter(self.failed.items()))
            lines += [f"  not scored   {len(self.failed)}, such as {first[0]}: {first[1]}"]
        accuracy = self.class_accuracy()
        hardest = [i for i in np.argsort(accuracy, kind="stable") if accuracy[i] < 100][:HARDEST]
        shown = ", ".join(f"{self.label_names[i]} {accuracy[i]:.0f}" for i in hardest)
        return "\n".join(lines + ([f"  hardest      {shown}"] if hardest else []))

    def write(self, folder: str, tested: Mapping[str, str] = MappingProxyType({})) -> None:
        """scores.csv and .npz, classes.csv, confusion.csv and .png, and last summary.json.

        Args:
          tested: what summary.json says besides: the data set, its split, the views.
        """
        out = epath.Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        names = self.label_names
        _write_csv(out / "scores.csv", self._score_rows())
        accuracy, videos = self.class_accuracy(), self.confusion.sum(1)
        rows = [(name, n, f"{a:.2f}") for name, n, a in zip(names, videos, accuracy, strict=True)]
        _write_csv(out / "classes.csv", [("class", "videos", "top1"), *rows])
        table = [(name, *row) for name, row in zip(names, self.confusion, strict=True)]
        _write_csv(out / "confusion.csv", [("true \\ predicted", *names), *table])
        arrays = io.BytesIO()
        np.savez_compressed(
            arrays, ids=self.ids, labels=self.labels, probabilities=self.probabilities,
            label_names=names,
        )  # fmt: skip
        (out / "scores.npz").write_bytes(arrays.getvalue())
        metrics.write_png(out / "confusion.png", viz.confusion_sheet(self.confusion, names))
        # Last, and at once: who finds it finds all of them.
        summary = self.summary() | {"videos": len(self.ids), **tested, "failed": self.failed}
        whole.write(out / "summary.json", json.dumps(summary, indent=2) + "\n")

    def _score_rows(self) -> Iterator[tuple]:
        yield ("id", "label", "predicted", "correct", "probability", "top5")
        for i, best in enumerate(self.ranked):
            label, name = int(self.labels[i]), self.label_names[best[0]]
            top = " ".join(f"{self.label_names[k]}:{self.probabilities[i, k]:.4f}" for k in best)
            share = f"{self.probabilities[i, best[0]]:.6f}"
            yield (self.ids[i], self.label_names[label], name, int(best[0] == label), share, top)


def _write_csv(path: epath.Path, rows: Iterator[tuple] | Sequence[tuple]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue())


class Scorer:
    """Runs a classifier over the videos of `config.eval.split`.

    Each device takes one video at a time, so that its scores do not depend on how many devices
    there are or which videos share a batch.
    """

    def __init__(
        self,
        probabilities: Callable[[Any, jax.Array], jax.Array],
        config: Config,
        label_names: tuple[str, ...],
    ):
        """`probabilities` maps (params, views uint8 [V, T, S, S, 3]) to float32 [C]."""
        self._probabilities, self._config = probabilities, config
        self._label_names = label_names
        self._compiled: dict[Mesh, Callable] = {}

    def _on(self, mesh: Mesh) -> Callable:
        """(params, videos [b, V, T, S, S, 3]) -> [b, C], split over the mesh."""
        if mesh not in self._compiled:

            def shard(params: Any, videos: jax.Array) -> jax.Array:
                return jax.lax.map(lambda views: self._probabilities(params, views), videos)

            split = jax.shard_map(
                shard, mesh=mesh, in_specs=(P(), sharding.BATCH), out_specs=sharding.BATCH,
                check_vma=False,
            )  # fmt: skip
            self._compiled[mesh] = jax.jit(split)
        return self._compiled[mesh]

    def __call__(self, params: Any, mesh: Mesh, views: str = "test") -> Scores:
        """Scores of every video, once.

        Args:
          views: "test" (clips x crops) or "center" (one).

        Raises:
          ConfigError: where the data's classes are not the classifier's.
          TooManyBadRecords: past `data.max_bad_fraction`.
        """
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        size = -(-self._config.eval.batch_size // shards) * shards
        settings = dataclasses.replace(self._config.eval, batch_size=size)
        stream = evaluation.open_eval(
            dataclasses.replace(self._config, eval=settings),
            places=sharding.rows_of_process(mesh, size),
            views=views,
        )
        renumber = class_numbers(stream.label_names, self._label_names)
        run, rows = self._on(mesh), []
        with stream:
            for batch in stream:
                # All three are split alike, so that a row is one video in each of them.
                placed = sharding.shard_batch(batch, mesh, size)
                rows.append((placed["record"], placed["label"], run(params, placed["video"])))
                if len(rows) > 2:  # the host stays at most two batches ahead of the device
                    rows[-3][2].block_until_ready()
            gathered = [tuple(map(_everywhere, row)) for row in rows]
            records, labels, scores = map(np.concatenate, zip(*gathered, strict=True))
            kept = np.flatnonzero(records >= 0)
            kept = kept[np.argsort(records[kept], kind="stable")]
            bad = stream.bad_records
            left_out = _left_out(records[kept], stream.num_videos, bad)
            failed = {stream.id(r): bad.get(r, "another process says why") for r in left_out}
            ids = tuple(stream.id(int(r)) for r in records[kept])
        return Scores(ids, renumber[labels[kept]], scores[kept], self._label_names, failed)


def _everywhere(rows: jax.Array) -> np.ndarray:
    """The rows of all processes, on each of them."""
    if jax.process_count() == 1:
        return np.asarray(rows)
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def _left_out(records: np.ndarray, videos: int, bad: Container[int]) -> list[int]:
    """The records that were not scored; raises unless all others were, once."""
    times = np.bincount(records, minlength=videos)
    left_out = np.flatnonzero(times == 0).tolist()
    lost = [r for r in left_out if r not in bad] if jax.process_count() == 1 else []
    if len(times) > videos or times.max(initial=0) > 1 or lost:
        raise RuntimeError(
            f"{len(records)} scores of {np.count_nonzero(times)} of {videos} videos, {len(lost)} "
            "lost: expected each video once, or a reason why not"
        )
    return left_out


def class_numbers(data_names: Sequence[str], model_names: Sequence[str]) -> np.ndarray:
    """The classifier's number of each of the data's classes, i64.

    Where they are in another order, that is logged.

    Raises:
      ConfigError: where the classifier does not know a class of the data.
    """
    if not model_names:
        return np.arange(len(data_names))
    found = class_order.match(data_names, model_names)
    if found is None:
        unknown = class_order.unknown(data_names, model_names)
        raise ConfigError(
            "the data has classes that the classifier was not trained for: "
            f"{lists.shown(unknown)}; it knows {lists.shown(model_names)}; build the "
            "data with the classifier's names (--label_map), or select its rows "
            "(config.classifier.label_map)"
        )
    if found.said:
        log.info("the data's classes are found in the head: %s", found.said)
    return np.array(found.numbers)
