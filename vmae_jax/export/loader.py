"""Runs an exported model with jax and NumPy alone: this file may be copied into any program.

    from vmae_jax.export import loader  # or the copy

    model = loader.load("model.stablehlo")
    logits = model(video)  # uint8 [B, T, S, S, 3], RGB -> float32 [B, C]
    print(model.about["sampling"], model.label_names[int(logits[0].argmax())])

The file is a zip archive, which NumPy opens as .npz: `about.json`, `program.bin` (a function of
weights and a video, serialized by jax.export) and `weights/NAME.npy`. A program is code: load those
of people you trust.
"""

import dataclasses
import functools
import json
import os
import zipfile
import zlib
from typing import Any

import jax
import numpy as np
from jax import export

FORMAT = 1  # of the file, raised where an older loader would misread it


# What reading a damaged archive, or a folder, ends in.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError, RuntimeError, OSError
)  # fmt: skip


class ExportError(ValueError):
    """A file that cannot be run, or a video that it does not take: one line."""


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """A program with its weights, on jax's default device."""

    about: dict[str, Any]  # input, sampling, output, label_names, versions
    weights: dict[str, jax.Array]
    program: export.Exported

    @property
    def label_names(self) -> list[str]:
        """One for each output class; [] where unknown."""
        return self.about["label_names"]

    def __call__(self, video: np.ndarray | jax.Array) -> jax.Array:
        """uint8 video [B, T, S, S, 3], any B -> float32 [B, C]; compiled once for each B.

        Raises:
          ExportError: for another shape or type, or a device that the program is not made for.
        """
        shape = self.about["input"]["shape"]
        if str(video.dtype) != "uint8" or list(video.shape[1:]) != shape[1:] or not len(video):
            raise ExportError(
                f"video {video.dtype}{list(video.shape)}: expected uint8 [B, "
                f"{', '.join(map(str, shape[1:]))}]"
            )
        return self._compiled(self.weights, video)

    @functools.cached_property
    def _compiled(self) -> Any:
        here = export.default_export_platform()
        if here not in self.program.platforms:
            raise ExportError(
                f"it runs on {', '.join(self.program.platforms)}, not on {here}: set JAX_PLATFORMS"
            )
        return jax.jit(self.program.call)


def load(path: str | os.PathLike) -> Exported:
    """Reads a file of `python -m vmae_jax.export`.

    Raises:
      ExportError: where it is missing, damaged, no such file, or of other versions than these.
    """
    try:
        with np.load(path) as file:
            about = json.loads(file["about.json"])
            _check_versions(about)
            program = export.deserialize(bytearray(file["program.bin"]))
            weights = {name: file[f"weights/{name}"] for name in about["weights"]}
    except ExportError as error:
        raise ExportError(f"{os.fspath(path)}: {error}") from None
    except FileNotFoundError:
        raise ExportError(f"{os.fspath(path)}: no such file") from None
    except _DAMAGED as error:
        raise ExportError(
            f"{os.fspath(path)}: is no exported model, or damaged; get it again ({_brief(error)})"
        ) from error
    return Exported(about, jax.device_put(weights), program)


def _check_versions(about: dict[str, Any]) -> None:
    if about["format"] != FORMAT:
        raise ExportError(
            f"has format {about['format']}, this loader reads {FORMAT}; it was written by "
            f"{about['made_by']}, whose vmae_jax/export/loader.py reads it"
        )
    lowest = export.minimum_supported_calling_convention_version
    highest = export.maximum_supported_calling_convention_version
    if not lowest <= about["calling_convention"] <= highest:
        newer = about["calling_convention"] > highest
        raise ExportError(
            f"was written with jax {about['jax']}, jax {jax.__version__} is too "
            f"{'old' if newer else 'new'} for it: {'update jax' if newer else 'export it again'}"
        )


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
