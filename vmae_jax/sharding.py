"""One mesh and one rule: where every array lives, from its path and shape alone."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vmae_jax import tree
from vmae_jax.config import ConfigError, MeshConfig

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))
MIN_FSDP_SIZE = 2**12  # elements; below, a shard costs more messages than it saves memory

# The axis of heads or of the MLP, counted from the end, by the last two names of the path.
TENSOR_AXIS = {
    "qkv/kernel": -2,  # [layer, D, 3, H, K]
    "proj/kernel": -3,  # [layer, H, K, D]
    "fc1/kernel": -1,  # [layer, D, F]
    "fc2/kernel": -2,  # [layer, F, D]
}


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices (or those given), with the axes data, fsdp and tensor.

    Raises:
      ConfigError: if the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    model = config.fsdp * config.tensor
    data = len(devices) // model if config.data == -1 else config.data
    if data * model != len(devices):
        raise ConfigError(
            f"config.mesh: data x fsdp x tensor = {config.data} x {config.fsdp} x {config.tensor} "
            f"does not fit {len(devices)} devices; their product must be that number "
            "(data = -1 takes what the others leave)"
        )
    shape = (data, config.fsdp, config.tensor)
    # jax.make_mesh defaults to explicit axes, which refuse contractions over sharded dimensions.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def partition_spec(path: str, shape: tuple[int, ...], axis_sizes: Mapping[str, int]) -> P:
    """The rule: tensor on heads or MLP, fsdp on the largest other axis that it divides.

    The layer axis of stacked blocks is never split (the scan walks along it), and what divides
    nothing is replicated.
    """
    spec: list[str | None] = [None] * len(shape)
    names = path.split("/")
    free = set(range("blocks" in names, len(shape)))

    axis = TENSOR_AXIS.get("/".join(names[-2:]))
    if axis is not None and axis_sizes["tensor"] > 1:
        axis %= len(shape)
        if shape[axis] % axis_sizes["tensor"] == 0:
            spec[axis] = "tensor"
            free.discard(axis)

    if axis_sizes["fsdp"] > 1 and np.prod(shape) >= MIN_FSDP_SIZE:
        divisible = [i for i in free if shape[i] % axis_sizes["fsdp"] == 0]
        if divisible:
            spec[max(divisible, key=lambda i: (shape[i], -i))] = "fsdp"
    return P(*spec)


def tree_shardings(arrays: Any, mesh: Mesh) -> Any:
    """A NamedSharding per leaf. Optimizer moments follow their parameter: they share its path."""

    def leaf(path: tuple, x: Any) -> NamedSharding:
        name = tree.path_name(path)
        return NamedSharding(mesh, partition_spec(name, x.shape, mesh.shape))

    return jax.tree.map_with_path(leaf, arrays)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def check_batch(name: str, size: int, mesh: Mesh) -> None:
    """Raises ConfigError unless `size` clips split evenly over the devices that share a batch."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if size % shards:
        raise ConfigError(
            f"config.{name}: {size} clips do not split over {shards} devices "
            f"(mesh data x fsdp); take a multiple of {shards}"
        )


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a global batch -> arrays split over data x fsdp."""
    sharding = NamedSharding(mesh, BATCH)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
