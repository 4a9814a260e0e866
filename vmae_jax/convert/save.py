"""Weights out: the original key layout, or a directory that `transformers` loads."""

import json
import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from vmae_jax.convert import files, rules, torch_io
from vmae_jax.convert.load import Weights
from vmae_jax.convert.rules import ConversionError
from vmae_jax.models import layers

ORIGINAL_EPS = 1e-6  # of every norm of the reference
TRANSFORMERS_HEAD_EPS = 1e-5  # of the norm before a head in transformers, whatever the config
ARCHITECTURES = {
    "pretrain": "VideoMAEForPreTraining",
    "classifier": "VideoMAEForVideoClassification",
    "encoder": "VideoMAEModel",
}


def notes(weights: Weights, to: str) -> tuple[str, ...]:
    """What a reader of the output should know: where it computes something else.

    Raises:
      ConversionError: if the layout cannot hold the model.
    """
    model = weights.model
    head_eps = model.head_norm_eps or model.norm_eps
    found = []
    if to == "transformers":
        found.append(
            "transformers 5.5.1 to 5.17 sets the biases of queries and values to zero, here and in "
            "public VideoMAE files: load it with 5.18 or newer, or with 5.5.0 or older"
        )
        if model.positions == "learned":
            raise ConversionError(
                "transformers' VideoMAE has fixed positions only, these are learned; "
                "write --to=original"
            )
        if weights.kind == "encoder" and "norm" in weights.params:
            raise ConversionError(
                "transformers' VideoMAEModel has no norm after pooling: write --to=original, or "
                "leave it out with --drop=fc_norm"
            )
        if weights.kind != "encoder" and head_eps != TRANSFORMERS_HEAD_EPS:
            found.append(
                f"transformers adds {TRANSFORMERS_HEAD_EPS:g} to the variance in the norm before "
                f"the head, where this model adds {head_eps:g}: outputs differ in the fifth digit"
            )
    else:
        if ORIGINAL_EPS not in (model.norm_eps, head_eps) or model.norm_eps != head_eps:
            found.append(
                f"the original code adds {ORIGINAL_EPS:g} to the variance in norms, this model "
                f"{model.norm_eps:g} ({head_eps:g} before the head)"
            )
        if weights.kind == "pretrain" and not model.encoder_norm:
            found.append("the original code expects encoder.norm, which this model does not have")
    return tuple(found)


def save(weights: Weights, path: str, to: str, *, overwrite: bool = False) -> None:
    """Writes weights as a whole or not at all.

    Args:
      path: a .pth or .safetensors file, or for transformers a directory.
      to: original or transformers.

    Raises:
      ConversionError: if the path is taken or its ending unknown, or for `notes`' reasons.
    """
    notes(weights, to)
    if os.path.exists(path) and not overwrite:
        raise ConversionError(f"{path}: exists; give another --output, or --overwrite")
    if to == "transformers":
        return _whole(path, lambda folder: _transformers(weights, folder))
    if os.path.isdir(path) or not path.endswith((".pth", ".pt", ".safetensors")):
        raise ConversionError(
            f"{path}: expected a file name ending in .pth or .safetensors with --to=original"
        )
    return _whole(path, lambda temporary: _original(weights, temporary, path))


def _whole(path: str, write: Callable[[str], None]) -> None:
    """Lets `write` fill a temporary path, and moves the result to its place."""
    path = os.path.abspath(path)
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".vmae_jax-") as folder:
            temporary = os.path.join(folder, "output")
            write(temporary)
            if os.path.isdir(temporary) and os.path.isdir(path):
                _replace_files(temporary, path)
            else:
                os.replace(temporary, path)
    # A full disk is an OSError, or what safetensors or PyTorch make of it.
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", "") or str(error).partition("\n")[0]
        raise ConversionError(f"{path}: cannot be written ({reason})") from error


def _replace_files(new: str, folder: str) -> None:
    """Moves files over those of a folder; stopped midway, it has no config.json and is no model."""
    config = os.path.join(folder, "config.json")
    if os.path.exists(config):
        os.unlink(config)
    for name in sorted(os.listdir(new), key="config.json".__eq__):
        os.replace(os.path.join(new, name), os.path.join(folder, name))


def named_tensors(weights: Weights, layout: str) -> dict[str, np.ndarray]:
    """Weights under the names of a layout of `rules`: original or hugging_face."""
    table = rules.rules_of(weights.kind, layout)
    named = rules.to_torch(weights.params, table, weights.model)
    return {name: np.ascontiguousarray(tensor) for name, tensor in named}


def _original(weights: Weights, temporary: str, path: str) -> None:
    model = weights.model
    settings: dict[str, Any] = {
        "input_size": model.image_size,
        "num_frames": model.num_frames,
        "num_heads": model.encoder.heads,
        "layer_norm_eps": model.norm_eps,
        "head_norm_eps": model.head_norm_eps,
        "label_names": list(weights.label_names),
    }
    if weights.kind == "pretrain":
        settings["decoder_num_heads"] = model.decoder.heads
        settings["normlize_target"] = weights.normalize_target  # as the original code spells it
    tensors = named_tensors(weights, "original")
    if path.endswith(".safetensors"):
        _safetensors(tensors, temporary, {files.SETTINGS: json.dumps(settings)})
    else:
        torch_io.write(temporary, {"model": tensors, "args": settings})


def _safetensors(tensors: dict[str, np.ndarray], path: str, metadata: dict[str, str]) -> None:
    """A file with the mode that any new file gets; safetensors lets its owner alone read it."""
    with open(path, "wb") as file:
        mode = os.stat(file.fileno()).st_mode
    save_file(tensors, path, metadata={"format": "pt", **metadata})
    os.chmod(path, mode & 0o777)


def _transformers(weights: Weights, folder: str) -> None:
    """A model directory; biases as transformers 4 names them, which 5.23 reads and writes too."""
    os.makedirs(folder)
    tensors = named_tensors(weights, "hugging_face")
    _safetensors(tensors, os.path.join(folder, "model.safetensors"), {})
    for name, content in (
        ("config.json", transformers_config(weights)),
        ("preprocessor_config.json", _preprocessor(weights)),
    ):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")


def transformers_config(weights: Weights) -> dict[str, Any]:
    """What config.json says of them."""
    model = weights.model
    encoder = model.encoder
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[weights.kind]],
        "model_type": "videomae",
        "image_size": model.image_size,
        "patch_size": model.patch_size,
        "num_channels": 3,
        "num_frames": model.num_frames,
        "tubelet_size": model.tubelet_size,
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp_dim,
        "hidden_act": "gelu",
        "layer_norm_eps": model.norm_eps,
        "qkv_bias": True,
        # Where transformers does not pool, it norms the encoder's output.
        "use_mean_pooling": weights.kind == "classifier" or not model.encoder_norm,
        "norm_pix_loss": weights.normalize_target,
        "torch_dtype": "float32",
    }
    if weights.kind == "pretrain":
        decoder = model.decoder
        config |= {
            "decoder_hidden_size": decoder.dim,
            "decoder_num_hidden_layers": decoder.depth,
            "decoder_num_attention_heads": decoder.heads,
            "decoder_intermediate_size": decoder.mlp_dim,
        }
    if weights.kind == "classifier":
        names = weights.label_names or [f"LABEL_{i}" for i in range(weights.num_classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    return config


def _preprocessor(weights: Weights) -> dict[str, Any]:
    size = weights.model.image_size
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(float(x), 3) for x in layers.MEAN],
        "image_std": [round(float(x), 3) for x in layers.STD],
    }
