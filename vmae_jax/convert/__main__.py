r"""Shows what a checkpoint is, and writes it in another layout.

Reads .pth files of VideoMAE, VideoMAE V2, the TikTok models and MMAction2's VideoMAE,
pytorch_model.bin, safetensors, Hugging Face directories of VideoMAE and VideoMAE V2, folders of
DeepSpeed and the like with one file of weights, and the workdirs of this package. Nothing in a file
is ever run; reading needs no PyTorch, writing a .pth does.

  # what is in it? writes nothing
  python -m vmae_jax.convert --input=vit_g_hybrid_pt_1200e.pth

  # a run of this package for users of `transformers`; --labels names the classes
  python -m vmae_jax.convert --input=runs/mine --output=mine_hf --to=transformers \
      --labels=classes.txt

  # for the original code
  python -m vmae_jax.convert --input=runs/mine --output=mine.pth

  # a 710-class Kinetics head as a 400-class one, by VideoMAE V2's lists of its rows and names
  python -m vmae_jax.convert --input=vit_s_k710_dl_from_giant.pth --output=k400.safetensors \
      --label_map=label_710to400.json --labels=label_map_k400.txt

  # the encoder alone
  python -m vmae_jax.convert --input=vit_b_hybrid_pt_800e.pth --output=encoder.safetensors \
      --drop=decoder,encoder_to_decoder,mask_token
"""

import dataclasses
import os

import numpy as np
from absl import app, flags

from vmae_jax import class_order, command
from vmae_jax.checkpoint import CheckpointError
from vmae_jax.config import ConfigError, tower_name
from vmae_jax.convert import files, save
from vmae_jax.convert.load import Weights, load
from vmae_jax.convert.rules import ConversionError

_INPUT = flags.DEFINE_string(
    "input", None, "A checkpoint file, a model directory, or a --workdir.", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "FILE.pth, FILE.safetensors, or a directory with --to=transformers."
)
_TO = flags.DEFINE_enum("to", "original", ["original", "transformers"], "The layout to write.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an output that is there.")
_DROP = flags.DEFINE_list(
    "drop",
    [],
    "Tensors of the input to leave out: names, their beginnings (decoder), or patterns (*.bias).",
)
_ALLOW_MISSING = flags.DEFINE_list(
    "allow_missing", [], "Tensors that the input may lack; the output lacks them too."
)
_LABEL_MAP = flags.DEFINE_string(
    "label_map", None, "JSON list: for each class of the output, its row of the input's head."
)
_LABELS = flags.DEFINE_string(
    "labels", None, "Names of the classes: one per line, a table number,name, or JSON."
)
_WEIGHTS_KEY = flags.DEFINE_string(
    "weights_key", "", "What the weights lie under in a .pth file, such as model_ema. [found out]"
)
_HEADS = flags.DEFINE_integer(
    "heads", 0, "Attention heads, where the input does not say; 0 = by the table of variants."
)
_DECODER_HEADS = flags.DEFINE_integer(
    "decoder_heads", 0, "The same for the decoder; 0 = by the table of variants."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 0, "Pixels of a side, where the input does not say; 0 = infer."
)
_NUM_FRAMES = flags.DEFINE_integer(
    "num_frames", 0, "Frames, where the input does not say; 0 = infer."
)


def table(weights: Weights, source: str) -> str:
    """What a checkpoint is, one thing a line."""
    model = weights.model
    rows = {
        "input": source,
        "layout": weights.source,
        "kind": weights.kind,
        "variant": model.variant,
        "encoder": _tower(model.encoder),
        "decoder": _tower(model.decoder) if weights.kind == "pretrain" else "none",
        "patch": f"{model.patch_size} x {model.patch_size} pixels, {model.tubelet_size} frames",
        "clip": f"{model.num_frames} frames of {model.image_size} x {model.image_size} pixels",
        "positions": {"sincos": "fixed sine-cosine", "learned": "learned"}[model.positions],
        "norms": f"epsilon {model.norm_eps:g}, before the head "
        f"{model.head_norm_eps or model.norm_eps:g}",
        "classes": _classes(weights),
        "parameters": f"{weights.num_parameters:,}",
    }
    rows |= {f"note {i}": note for i, note in enumerate(weights.notes, 1)}
    return "\n".join(f"{name:<11} {value}" for name, value in rows.items())


def _tower(tower) -> str:
    return (
        f"{tower_name(tower)} (width {tower.dim}, {tower.depth} blocks, {tower.heads} heads, "
        f"MLP {tower.mlp_dim})"
    )


def _classes(weights: Weights) -> str:
    names = ", ".join(weights.label_names[:4]) + (", ..." if len(weights.label_names) > 4 else "")
    return f"{weights.num_classes or 'none'}" + (f" ({names})" if names else "")


def relabelled(weights: Weights, label_map: str | None, labels: str | None) -> Weights:
    """Selects the head's rows, and names the classes."""
    if label_map:
        rows = files.read_rows(label_map)
        if max(rows) >= weights.num_classes:
            raise ConversionError(
                f"{label_map}: has row {max(rows)}, expected numbers from 0 to below "
                f"{weights.num_classes}, the classes of --input"
            )
        head = {name: np.take(value, rows, -1) for name, value in weights.params["head"].items()}
        names = tuple(weights.label_names[row] for row in rows) if weights.label_names else ()
        weights = dataclasses.replace(
            weights, params={**weights.params, "head": head}, label_names=names
        )
    if labels:
        names = files.read_names(labels)
        if len(names) != weights.num_classes:
            raise ConversionError(
                f"{labels}: names {len(names)} classes, the weights have {weights.num_classes}"
            )
        if conflict := class_order.conflict(names, weights.label_names):
            raise ConversionError(f"{labels}: {conflict}")
        weights = dataclasses.replace(weights, label_names=names)
    return weights


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; see --help")
    if _OUTPUT.value and os.path.exists(_OUTPUT.value) and not _OVERWRITE.value:
        raise ConversionError(f"{_OUTPUT.value}: exists; give another --output or --overwrite")
    weights = load(
        _INPUT.value,
        heads=_HEADS.value,
        decoder_heads=_DECODER_HEADS.value,
        image_size=_IMAGE_SIZE.value,
        num_frames=_NUM_FRAMES.value,
        weights_key=_WEIGHTS_KEY.value,
        allow_missing=_ALLOW_MISSING.value,
        drop=_DROP.value,
    )
    weights = relabelled(weights, _LABEL_MAP.value, _LABELS.value)
    print(table(weights, _INPUT.value))
    if not _OUTPUT.value:
        return
    for note in save.notes(weights, _TO.value):
        print(f"note        {note}")
    save.save(weights, _OUTPUT.value, _TO.value, overwrite=_OVERWRITE.value)
    print(f"\nwritten     {_OUTPUT.value} ({_TO.value})")


if __name__ == "__main__":
    command.run(main, (ConversionError, CheckpointError, ConfigError))
