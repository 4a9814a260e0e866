"""The model that tensors make: sizes from their shapes, the rest from what lies beside them."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax import config as config_lib
from vmae_jax.config import ModelConfig, Tower
from vmae_jax.convert import rules
from vmae_jax.convert.rules import STACKED, ConversionError
from vmae_jax.models import layers

HEAD_WIDTH = 64  # of every variant but g
IMAGE_SIZE, NUM_FRAMES = 224, 16  # of every released recipe


@dataclasses.dataclass(frozen=True)
class Overrides:
    """What a user knows better than the file; 0 = infer."""

    heads: int = 0
    decoder_heads: int = 0
    image_size: int = 0
    num_frames: int = 0


@dataclasses.dataclass
class _Known:
    """Where sizes are looked up, and the notes on those that were not found."""

    tensors: dict[str, Any]  # checked for fixed position tables, which are taken out
    rules: tuple[rules.Rule, ...]
    kind: str
    layout: str
    settings: Mapping[str, Any]  # of the file, or of config.json beside it
    overrides: Overrides
    notes: list[str]

    def name(self, path: str) -> str:
        """The (first) tensor that holds a parameter of ours."""
        return next(rule.names[0] for rule in self.rules if rule.path == path)

    def shape(self, path: str, axes: int) -> tuple[int, ...]:
        name = self.name(path).replace(STACKED, ".0.")
        if name not in self.tensors:
            raise ConversionError(f"weights do not fit the model: missing {name}")
        shape = self.tensors[name].shape
        if len(shape) != axes or 0 in shape:
            raise ConversionError(f"{name} has shape {shape}, expected {axes} axes")
        return shape

    def setting(self, *keys: str) -> int:
        """The first of these that the settings name; 0 = none.

        Raises:
          ConversionError: where it is no whole number, nor a pair of equal ones.
        """
        for key in keys:
            value = self.settings.get(key)
            same = isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]
            number = value[0] if same else value
            if type(number) is int and number > 0:
                return number
            if value:
                flag = keys[0].replace("num_attention_heads", "heads")
                raise ConversionError(
                    f"{key} = {str(value)[:60]!r} is what its settings say, expected a whole "
                    f"number{' or two equal ones' * ('size' in key)}; where the weights are for "
                    f"another, run python -m vmae_jax.convert with --{flag}, and use its output"
                )
        return 0

    def number(self, key: str) -> float:
        """This setting; 0.0 = there is none."""
        value = self.settings.get(key)
        return value if isinstance(value, float) and 0 < value < 1 else 0.0


def infer(
    tensors: dict[str, Any],
    kind: str,
    layout: str,
    settings: Mapping[str, Any],
    overrides: Overrides,
) -> tuple[ModelConfig, list[str]]:
    """The model that `tensors` (under the table's names) make, and what had to be assumed.

    Position tables that are the fixed ones are taken out of `tensors`.

    Raises:
      ConversionError: if a size is missing, or if no model of this package has them.
    """
    # VideoMAE V2 on Hugging Face keeps its settings one level down.
    inner = settings.get("model_config")
    settings = {**settings, **(inner if isinstance(inner, dict) else {})}
    table = rules.rules_of(kind, layout)
    known = _Known(tensors, table, kind, layout, settings, overrides, [])
    width, channels, tubelet, patch, columns = known.shape("encoder/patch_embed/linear/kernel", 5)
    if channels != 3 or patch != columns:
        raise ConversionError(
            f"patches have {channels} channels and {patch}x{columns} pixels; expected 3 channels "
            "and a square"
        )
    decoder = None
    if kind == "pretrain":
        decoder_width = known.shape("to_decoder/kernel", 2)[0]
        decoder = _tower(known, "decoder/blocks", decoder_width, "decoder_")
    encoder = _tower(known, "encoder/tower/blocks", width, "")
    learned = _drop_fixed_positions(known, width)
    image_size, num_frames = _extent(known, patch, tubelet, learned)
    try:
        model = ModelConfig(
            variant=_variant_name(encoder, decoder),
            image_size=image_size,
            num_frames=num_frames,
            tubelet_size=tubelet,
            patch_size=patch,
            positions="learned" if learned else "sincos",
            norm_eps=_norm_eps(known),
            # transformers builds it with PyTorch's default.
            head_norm_eps=1e-5 if layout == "hugging_face" else known.number("head_norm_eps"),
            encoder_norm=kind == "classifier" or known.name("encoder/norm/scale") in tensors,
        )
    except config_lib.ConfigError as error:
        raise ConversionError(f"its sizes make no model: {error}") from None
    _check_config(known, model)
    return model, known.notes


def _tower(known: _Known, path: str, width: int, prefix: str) -> Tower:
    mlp = known.shape(f"{path}/fc1/kernel", 2)[0]
    pattern = re.escape(known.name(f"{path}/fc1/kernel")).replace(r"\.N\.", r"\.\d+\.")
    depth = sum(re.fullmatch(pattern, name) is not None for name in known.tensors)
    heads = getattr(known.overrides, f"{prefix}heads")
    heads = heads or known.setting(f"{prefix}num_attention_heads", f"{prefix}num_heads")
    if not heads:
        heads = _usual_heads(width, depth, mlp, prefix)
    if not heads and width % HEAD_WIDTH:
        raise ConversionError(
            f"the number of {prefix.rstrip('_') or 'encoder'} heads is not in the file, and no "
            f"known model is {width} wide with {depth} blocks: {_by_hand(prefix)}"
        )
    if not heads:
        heads = width // HEAD_WIDTH
        known.notes.append(
            f"{heads} {prefix.rstrip('_') or 'encoder'} heads assumed, of width {HEAD_WIDTH}; if "
            f"it has others, {_by_hand(prefix)}"
        )
    if width % heads:
        raise ConversionError(f"{heads} heads do not divide the width {width}; {_by_hand(prefix)}")
    return Tower(width, depth, heads, mlp)


def _by_hand(prefix: str) -> str:
    """What to do about heads: not every command that reads files has flags for them."""
    flag = f"--{prefix}heads"
    return f"run python -m vmae_jax.convert --input=... {flag}=... --output=..., use its output"


def _usual_heads(width: int, depth: int, mlp: int, prefix: str) -> int:
    """Of the published tower with these sizes; 0 = there is none."""
    for variant in config_lib.VARIANTS.values():
        tower = variant.decoder if prefix else variant.encoder
        if tower and (tower.dim, tower.depth, tower.mlp_dim) == (width, depth, mlp):
            return tower.heads
    return 0


def _variant_name(encoder: Tower, decoder: Tower | None) -> str:
    """The name of a published variant, or the sizes spelled out."""
    for name, variant in config_lib.VARIANTS.items():
        if variant.encoder == encoder and decoder in (None, variant.decoder):
            return name
    towers = [encoder] if decoder is None else [encoder, decoder]
    return "+".join(config_lib.tower_name(tower) for tower in towers)


def _drop_fixed_positions(known: _Known, width: int) -> int:
    """Takes the fixed tables out of the tensors; the length of a learned one, or 0."""
    encoder = known.name("encoder/positions")
    for name in (encoder, "position_embeddings", "pos_embed"):
        if name not in known.tensors:
            continue
        tensor = known.tensors[name]
        shape = tensor.shape
        fits = len(shape) == 3 and shape[0] == 1 and 0 not in shape
        if not fits or (name == encoder and shape[2] != width):
            wanted = width if name == encoder else "width"
            raise ConversionError(f"{name} has shape {shape}, expected [1, tokens, {wanted}]")
        fixed = layers.position_table(*shape[1:])
        # Half a unit in the last place of float16 is 2.5e-4 near 1, of bfloat16 2e-3.
        tolerance = 1e-5 if tensor.dtype in ("float32", "float64") else 4e-3
        if np.abs(np.asarray(tensor)[0] - fixed).max(initial=0) < tolerance:
            del known.tensors[name]
            known.notes.append(f"{name} is the fixed sine-cosine table: left out")
    return known.tensors[encoder].shape[1] if encoder in known.tensors else 0


def _extent(known: _Known, patch: int, tubelet: int, learned: int) -> tuple[int, int]:
    """Image size in pixels and frames."""
    image_size = known.overrides.image_size or known.setting("image_size", "img_size", "input_size")
    num_frames = known.overrides.num_frames or known.setting("num_frames", "all_frames")
    if learned and not (image_size and num_frames):
        image_size, num_frames = _from_tokens(learned, patch, tubelet, image_size, num_frames)
        known.notes.append(
            f"{num_frames} frames of {image_size} pixels inferred from {learned} positions"
        )
    if learned and num_frames // tubelet * (image_size // patch) ** 2 != learned:
        raise ConversionError(
            f"{learned} positions are not those of {num_frames} frames of {image_size} pixels; "
            "give --num_frames and --image_size"
        )
    assumed = [
        f"{value} {unit}"
        for value, unit, given in (
            (NUM_FRAMES, "frames", num_frames),
            (IMAGE_SIZE, "pixels", image_size),
        )
        if not given
    ]
    if assumed:
        known.notes.append(
            f"{' of '.join(assumed)} assumed: the file does not say; --num_frames and --image_size "
            "say otherwise"
        )
    return image_size or IMAGE_SIZE, num_frames or NUM_FRAMES


def _from_tokens(
    tokens: int, patch: int, tubelet: int, image_size: int, num_frames: int
) -> tuple[int, int]:
    """Image size and frames of a learned table, where at least one of them (0) is not known."""
    if not image_size:
        slots = max(1, (num_frames or NUM_FRAMES) // tubelet)
        side = math.isqrt(tokens // slots)
        if num_frames or slots * side**2 == tokens:
            return side * patch, num_frames or NUM_FRAMES
    side = max(1, (image_size or IMAGE_SIZE) // patch)
    return image_size or side * patch, tokens // side**2 * tubelet


def _norm_eps(known: _Known) -> float:
    value = known.number("layer_norm_eps")
    if not value and known.layout == "hugging_face":
        known.notes.append("norms' epsilon assumed to be 1e-12, transformers' default")
        return 1e-12
    return value or 1e-6


def _check_config(known: _Known, model: ModelConfig) -> None:
    """config.json must not contradict the tensors, nor ask for what our model does not do."""
    norm, pooled_norm = known.name("encoder/norm/scale"), "fc_norm.weight"  # in either layout
    pooled = known.settings.get("use_mean_pooling", True)
    if known.kind == "classifier" and norm in known.tensors and pooled_norm not in known.tensors:
        pooled = False
    if known.kind == "classifier" and not pooled:
        raise ConversionError(
            "it classifies by the first token (use_mean_pooling = false); expected mean pooling"
        )
    if known.layout != "hugging_face":
        return
    encoder = model.encoder
    for key, found in {
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "intermediate_size": encoder.mlp_dim,
        "tubelet_size": model.tubelet_size,
        "num_channels": 3,
        "hidden_act": "gelu",
    }.items():
        wanted = known.settings.get(key, found)
        if wanted != found:
            raise ConversionError(f"config.json says {key} = {wanted!r}, expected {found!r}")
