"""Any checkpoint, ours or PyTorch's, as parameters and the model they belong to."""

import dataclasses
import functools
import os
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx

from vmae_jax import checkpoint, lists
from vmae_jax.config import ClassifierConfig, Config, ConfigError, ModelConfig, from_config_dict
from vmae_jax.convert import files, folders, layouts, rules
from vmae_jax.convert.layouts import Layout
from vmae_jax.convert.rules import ConversionError
from vmae_jax.convert.sizes import Overrides
from vmae_jax.models import adapt, classifier, mae


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a checkpoint holds, on the host."""

    kind: str  # pretrain, classifier, or encoder: neither decoder nor head
    model: ModelConfig
    params: dict[str, Any]  # nested dict of float32 NumPy arrays
    label_names: tuple[str, ...]  # () where unknown
    source: str  # the layout in words
    notes: tuple[str, ...]  # what was left out or assumed
    run: Config | None = None  # the recipe, where it is a run of this package
    normalize_target: bool = True  # of a pre-trained model: as config.normalize_target

    @property
    def num_classes(self) -> int:
        """Rows of the head; 0 where there is none."""
        head = self.params.get("head", {}) if self.kind == "classifier" else {}
        return head["kernel"].shape[-1] if "kernel" in head else 0

    @property
    def num_parameters(self) -> int:
        return sum(x.size for x in jax.tree.leaves(self.params))


def load(
    path: str | os.PathLike,
    *,
    heads: int = 0,
    decoder_heads: int = 0,
    image_size: int = 0,
    num_frames: int = 0,
    weights_key: str = "",
    allow_missing: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> Weights:
    """Reads a .pth, .bin or .safetensors file, a Hugging Face directory, or a run's workdir.

    Nothing of the file is executed. PyTorch is not needed.

    Args:
      heads, decoder_heads, image_size, num_frames: what the file does not say; 0 = infer.
      weights_key: what the weights lie under in a .pth file, such as model_ema; "" = where they are
        by the usual names, or alone.
      allow_missing: patterns of tensor names (see `rules.matches`); what they miss is left out of
        the parameters.
      drop: patterns of tensor names to ignore.

    Raises:
      ConversionError: if it is damaged, foreign or unsafe, or does not make a model.
      CheckpointError: if a run's checkpoint is damaged.
    """
    path = os.fspath(path)
    overrides = Overrides(heads, decoder_heads, image_size, num_frames)
    allow_missing, drop = tuple(allow_missing), tuple(drop)
    if _is_run(path):
        if overrides != Overrides() or weights_key or allow_missing or drop:
            raise ConversionError(
                f"{path}: is a run, whose model is known and whole: give no heads, image_size, "
                "num_frames, weights_key, allow_missing or drop"
            )
        return _from_workdir(path)
    try:
        source = files.read(path, weights_key)
        layout = layouts.recognise(source, drop=drop, overrides=overrides)
        table = rules.rules_of(layout.kind, layout.name)
        params = rules.from_torch(layout.tensors, _like(layout), table, layout.model, allow_missing)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise ConversionError(f"{path}: does not fit into this machine's memory") from error
    except ConversionError as error:
        named = str(error).startswith(path)
        raise ConversionError(str(error) if named else f"{path}: {error}") from error
    labels, more = _label_names(source, layout)
    plain = _has_plain_targets(source, layout)
    notes = (
        *layout.notes,
        *more,
        *["its decoder was trained on plain pixels, not normalised ones"] * plain,
    )
    described = f"{layout.described}, {source.described}"
    return Weights(
        layout.kind, layout.model, params, labels, described, notes, normalize_target=not plain
    )


def _has_plain_targets(source: files.Source, layout: Layout) -> bool:
    """As transformers and the original code (in its own spelling) call it."""
    said = [source.settings.get(key) for key in ("norm_pix_loss", "normlize_target")]
    return layout.kind == "pretrain" and False in said


def _is_run(path: str) -> bool:
    """Whether it is a workdir: other programs have checkpoints/ too, with files of weights."""
    inside = os.path.join(path, "checkpoints")
    if "://" in path or not os.path.isdir(inside):
        return "://" in path
    return not folders.below(inside)


def _from_workdir(path: str) -> Weights:
    meta, params = checkpoint.load_params(path)
    try:
        config = from_config_dict(meta["config"])
    except ConfigError as error:
        raise ConversionError(f"{path}: is a run of another version ({error})") from error
    kind = "pretrain" if config.task == "pretrain" else "classifier"
    if config.task == "probe" and config.probe.kind == "attentive":
        raise ConversionError(
            f"{path}: is an attentive probe, whose head no other program knows; give the weights "
            f"that it started from ({config.init_from or 'none'})"
        )
    if kind == "classifier":
        params = adapt.fold(params, config.classifier)
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    names = tuple(meta.get("label_names", ()))
    return Weights(
        kind, config.model, params, names, "run of vmae_jax", (), config, config.normalize_target
    )


def _like(layout: Layout) -> dict[str, Any]:
    """The tree that the model of a layout has, without its arrays."""
    if layout.kind == "pretrain":
        return _shapes(layout.model, None)
    head = layout.tensors.get(_name(layout, "head/kernel"))
    like = dict(_shapes(layout.model, head.shape[0] if head is not None and head.shape else 1))
    if layout.kind == "encoder":
        del like["head"]
        norm = like["norm"]
        if _name(layout, "norm/scale") not in layout.tensors:
            del like["norm"]
        if layout.model.encoder_norm:
            like["encoder"] = {**like["encoder"], "norm": norm}
    return like


@functools.lru_cache(8)  # many files are of one model, and tracing it takes longer than they do
def _shapes(model: ModelConfig, classes: int | None) -> dict[str, Any]:
    """Of a classifier of so many classes; None = of a pre-training model."""
    if classes is None:
        return abstract(lambda: mae.MaskedAutoencoder(model, rngs=nnx.Rngs(0)))
    head = ClassifierConfig()
    return abstract(lambda: classifier.Classifier(model, head, classes, rngs=nnx.Rngs(0)))


def abstract(make: Any) -> dict[str, Any]:
    """The parameters' shapes of the module that `make` builds, as a nested dict."""
    return nnx.to_pure_dict(nnx.split(nnx.eval_shape(make))[1])


def _name(layout: Layout, path: str) -> str:
    table = rules.rules_of(layout.kind, layout.name)
    return next(rule.names[0] for rule in table if rule.path == path)


def _label_names(source: files.Source, layout: Layout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What this package wrote, or id2label of config.json, where each class has a true name; and a
    note where they are no names of these classes.
    """
    head = layout.tensors.get(_name(layout, "head/bias")) if layout.kind == "classifier" else None
    settings = source.settings
    found = settings.get("id2label") or settings.get("label2id") or settings.get("label_names")
    if head is None or not found:
        return (), ()
    try:
        names = lists.of_json(found)
    except lists.ListError as error:
        return (), (f"its names of classes are not read: {error}",)
    if len(names) != head.shape[0]:
        return (), (f"its {len(names)} names of classes are not those of {head.shape[0]} classes",)
    unnamed = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return (() if unnamed else names), ()
