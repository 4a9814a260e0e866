r"""Writes a classifier, with its preprocessing, for programs that do not have this package.

  # StableHLO and weights in one file: jax and NumPy run it on CPUs, GPUs and TPUs
  python -m vmae_jax.export --checkpoint=runs/mine --output=model.stablehlo

  # ONNX, for ONNX Runtime, TensorRT, OpenVINO, ...: pip install 'vmae_jax[onnx]'
  python -m vmae_jax.export --checkpoint=vit_b_k400.pth --labels=label_map_k400.txt \
      --output=model.onnx

  # what an encoder makes of a clip, for a head of your own
  python -m vmae_jax.export --checkpoint=vit_g_pt.pth --features --output=encoder.stablehlo

Both take uint8 clips [B, T, S, S, 3], RGB, of any number B, and give logits [B, C]; scaling to
[0, 1] and normalisation are inside. What was written is run once beside the checkpoint.

A .stablehlo file without this package (vmae_jax/export/loader.py does the same with checks, and may
be copied):

  import json, jax, numpy as np
  file = np.load("model.stablehlo")
  about = json.loads(file["about.json"])  # input, sampling, label_names, versions
  program = jax.jit(jax.export.deserialize(bytearray(file["program.bin"])).call)
  weights = {name: file[f"weights/{name}"] for name in about["weights"]}
  logits = program(weights, np.zeros([1, *about["input"]["shape"][1:]], np.uint8))

jax promises to read a program for six months after it was written; export again after that.
"""

import contextlib
import os

import jax
import numpy as np
from absl import app, flags

from vmae_jax import cli, command, predict
from vmae_jax.export import loader, onnx_file, stablehlo
from vmae_jax.model import Model, ModelError

ENDINGS = (".stablehlo", ".onnx")
TOLERANCE = 1e-2  # of the largest result; more is no rounding


def define_flags() -> None:
    cli.define_model_flags()
    cli.define_labels_flag()
    flags.DEFINE_string("output", None, "FILE.stablehlo or FILE.onnx.", required=True)
    flags.DEFINE_bool("features", False, "Features [B, D] in place of logits (.stablehlo).")
    flags.DEFINE_bool("overwrite", False, "Replace an output that is there.")


def check(output: str, *, features: bool, dtype: str, overwrite: bool) -> None:
    """Before a checkpoint is read, which may take long; a ModelError of what is not possible."""
    if not output.endswith(ENDINGS):
        raise ModelError(f"--output={output}: expected a name ending in {' or '.join(ENDINGS)}")
    if os.path.isdir(output) or (os.path.exists(output) and not overwrite):
        raise ModelError(f"{output}: exists; give another --output, or --overwrite for a file")
    if output.endswith(".onnx") and (features or dtype != "float32"):
        raise ModelError(
            f"--output={output}: ONNX holds classifiers in float32; with --features or another "
            "--dtype write .stablehlo"
        )


def write(model: Model, output: str, *, labels: str | None, features: bool) -> None:
    """Writes either kind of file.

    Raises:
      ModelError, ConversionError: where it is no classifier, the file cannot be written, or a
        package is missing.
    """
    if not features and model.kind != "classifier":
        raise ModelError(
            f"{model.source}: is of kind '{model.kind}', and an exported model is a classifier; "
            "fine-tune it (--config.init_from), or export its --features"
        )
    named = labels and not features
    names = predict.class_names(labels, model) if named else model.label_names
    try:
        if output.endswith(".onnx"):
            onnx_file.write(model, output, label_names=names)
        else:
            stablehlo.write(model, output, label_names=names, features=features)
    except OSError as error:
        raise ModelError(f"{output}: cannot be written ({error.strerror or error})") from error


def difference(model: Model, output: str, features: bool) -> tuple[float, float]:
    """The largest difference to this package on a clip of noise, and the largest result."""
    shape = stablehlo.video_shape(model)
    video = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    run = model.features if features else model.apply
    onnx = output.endswith(".onnx")  # runs on the CPU in full float32, whatever is the default here
    with jax.default_matmul_precision("highest") if onnx else contextlib.nullcontext():
        expected = np.asarray(run(model.params, video))
    load = onnx_file.load if onnx else loader.load
    found = np.asarray(load(output)(video))
    return float(np.abs(found - expected).max()), float(np.abs(expected).max())


def main(argv: list[str]) -> None:
    given = flags.FLAGS
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; see --help")
    cli.prepare()
    check(
        given.output,
        features=given.features,
        dtype=given.dtype,
        overwrite=given.overwrite,
    )
    model = cli.load_model()
    print(model, flush=True)
    write(model, given.output, labels=given.labels, features=given.features)
    apart, largest = difference(model, given.output, given.features)
    shape = ", ".join(map(str, stablehlo.video_shape(model)))
    print(
        f"\nwritten  {given.output}, {os.path.getsize(given.output) / 1e6:.1f} MB\n"
        f"takes    uint8 [B, {shape}], RGB\n"
        f"checked  differs by {apart:.1e} on noise, where results reach {largest:.2g} "
        f"(on {jax.default_backend()})"
    )
    if not apart <= TOLERANCE * largest:
        command.fail(f"{given.output}: differs by more than rounding: do not use it")


if __name__ == "__main__":
    define_flags()
    command.run(main, (*cli.ERRORS, loader.ExportError))
