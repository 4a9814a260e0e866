"""What the commands that read a checkpoint and videos share on their command lines."""

import ctypes
import sys
from collections.abc import Iterable

from absl import flags

from vmae_jax import model as model_lib
from vmae_jax import sharding
from vmae_jax.checkpoint import CheckpointError
from vmae_jax.config import ConfigError
from vmae_jax.convert.rules import ConversionError

# What ends a command in one line.
ERRORS = (model_lib.ModelError, ConversionError, CheckpointError, ConfigError, OSError)

flags.disclaim_key_flags()  # --help lists the flags as those of the command


def define_flags() -> None:
    """The checkpoint, how a video is looked at, how it is computed.

    Called by the command that runs, not when it is imported, as flags are global.
    """
    define_model_flags()
    define_view_flags()
    flags.DEFINE_integer("threads", 2, "Videos that are decoded at once.", lower_bound=1)
    flags.DEFINE_bool(
        "keep_partial",
        False,
        "Continue after damage in a video, as players do, and accept one that was cut short; what "
        "was skipped is reported.",
    )


def damage_hint(failures: Iterable[str]) -> str:
    """What to do where videos failed by their damage; else nothing."""
    if flags.FLAGS.keep_partial or not any("stream breaks" in failure for failure in failures):
        return ""
    return "; --keep_partial goes on after damage"


def define_view_flags() -> None:
    """Which parts of a video are looked at."""
    flags.DEFINE_integer(
        "clips", 1, "Temporal clips of a video, whose results are averaged.", lower_bound=1
    )
    flags.DEFINE_integer(
        "crops", 1, "Squares along the longer side, averaged likewise.", lower_bound=1
    )
    flags.DEFINE_enum(
        "sampling",
        "",
        ("", "dense", "sparse"),
        "dense: every stride-th frame; sparse: frames spread over the whole video, as for SSv2. "
        "[as in the run's training; dense for other checkpoints]",
    )


def define_model_flags() -> None:
    """The checkpoint, what it does not say of itself, and the type of the computation."""
    flags.DEFINE_string(
        "checkpoint",
        None,
        "A run's workdir, a .pth, .bin or .safetensors file, or a Hugging Face directory.",
        required=True,
    )
    flags.DEFINE_string(
        "weights_key",
        "",
        "Entry of a .pth file that holds the weights, such as model_ema. [found out]",
    )
    flags.DEFINE_integer(
        "heads", 0, "Attention heads, where the file does not say. 0 = infer.", lower_bound=0
    )
    flags.DEFINE_integer(
        "num_frames", 0, "Frames of a clip, where the file does not say. 0 = infer.", lower_bound=0
    )
    flags.DEFINE_integer(
        "image_size", 0, "Pixels of a side, where the file does not say. 0 = infer.", lower_bound=0
    )
    flags.DEFINE_enum(
        "dtype", "float32", ("float32", "bfloat16"), "Type in which the model computes."
    )


def define_labels_flag() -> None:
    flags.DEFINE_string(
        "labels",
        None,
        "Names of the classes: a text file with one per line in their order; a table with the "
        "columns number,name; a JSON list, {name: number} or {number: name}. [those that the "
        "checkpoint holds, else numbers]",
    )


def prepare() -> None:
    """What a command does before its work: any file's name on stdout, memory, devices."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a name is bytes, which may be no text
    keep_freed_memory()
    sharding.devices()  # before anything is read, and in one line where there are none


def keep_freed_memory() -> None:
    """Lets malloc keep what it frees, where it is glibc's.

    XLA on a CPU allocates its temporaries anew in every run. Handing them back to Linux in between
    costs a third of the time of a ViT-S clip, in page faults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        no_mmap, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
        mallopt(no_mmap, 0)
        mallopt(trim_threshold, 2**31 - 1)


def load_model() -> model_lib.Model:
    """The model of --checkpoint; one of `ERRORS` where it cannot be read."""
    given = flags.FLAGS
    return model_lib.load(
        given.checkpoint,
        dtype=given.dtype,
        heads=given.heads,
        num_frames=given.num_frames,
        image_size=given.image_size,
        weights_key=given.weights_key,
    )
