"""Peaks of the chips that a run may be planned for or measured on, from the vendors' data sheets.

Sources: Google Cloud's pages of each TPU version and NVIDIA's data sheets. Rates of links and
networks are the sums of one direction; memory of TPUs is in GiB, as their compiler counts it.
"""

import dataclasses
from collections.abc import Mapping

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One jax device at its peak: dense bfloat16, one direction of its links."""

    name: str
    kinds: tuple[str, ...]  # beginnings of `jax.Device.device_kind`
    flops: float  # FLOP/s
    memory: float  # bytes
    bandwidth: float  # bytes/s from and to memory
    links: float  # bytes/s out to other chips of the slice or node, all links together
    network: float  # bytes/s out of the slice or node, this chip's share
    per_host: int  # chips that one host feeds


CHIPS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", ("TPU v4",), 275e12, 32 * GIB, 1228e9, 300e9, 3.1e9, 4),
        Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * GIB, 819e9, 200e9, 3.1e9, 4),
        Chip("v5p", ("TPU v5p", "TPU v5"), 459e12, 95 * GIB, 2765e9, 600e9, 6.2e9, 4),
        Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32 * GIB, 1640e9, 448e9, 6.2e9, 4),
        Chip("a100", ("NVIDIA A100",), 312e12, 80e9, 2039e9, 300e9, 25e9, 8),
        Chip("h100", ("NVIDIA H100",), 989e12, 80e9, 3350e9, 450e9, 50e9, 8),
        Chip("h200", ("NVIDIA H200",), 989e12, 141e9, 4800e9, 450e9, 50e9, 8),
    )
}


def of_kind(kind: str) -> Chip | None:
    """The chip of a `device_kind`, or None where it is not known (CPUs, other accelerators)."""
    found = {k: chip for chip in CHIPS.values() for k in chip.kinds if kind.startswith(k)}
    return found[max(found, key=len)] if found else None
