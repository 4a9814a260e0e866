"""One mesh and one rule: where every array lives, from its path and shape alone."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
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


def devices() -> list[jax.Device]:
    """All devices.

    Raises:
      ConfigError: where there are none of the kind that JAX_PLATFORMS asks for.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX has no such plugin
        asked = jax.config.jax_platforms
        reason = f" ({str(error).splitlines()[0][:200]})" if str(error) else ""
        raise ConfigError(
            f"JAX_PLATFORMS={asked}: no such device is found here{reason}; for GPUs "
            "pip install 'vmae_jax[cuda]' (or cuda13), for TPUs 'vmae_jax[tpu]', or leave "
            "JAX_PLATFORMS unset"
        ) from error


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """data x fsdp x tensor.

    Raises:
      ConfigError: if they do not multiply to the number of devices.
    """
    model = config.fsdp * config.tensor
    data = devices // model if config.data == -1 else config.data
    if data * model != devices:
        raise ConfigError(
            f"config.mesh: data x fsdp x tensor = {config.data} x {config.fsdp} x {config.tensor} "
            f"does not fit {devices} devices; their product must be that number "
            "(data = -1 takes what the others leave)"
        )
    return data, config.fsdp, config.tensor


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices (or those given), with the axes data, fsdp and tensor.

    Several slices are put along `data`: between them only gradients travel, once per step.

    Raises:
      ConfigError: if the axes do not multiply to the number of devices, or slices do not divide
        `data`.
    """
    devices = jax.devices() if devices is None else devices
    data, fsdp, tensor = mesh_shape(config, len(devices))
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if data % slices:
        raise ConfigError(
            f"config.mesh.data = {data}: expected a multiple of the {slices} slices; lower "
            "mesh.fsdp or mesh.tensor"
        )
    # jax.make_mesh refuses several slices, and to split a torus's axis on most chips.
    place = functools.partial(
        mesh_utils.create_hybrid_device_mesh if slices > 1 else mesh_utils.create_device_mesh,
        devices=devices,
        allow_split_physical_axes=True,
    )
    if slices > 1:
        grid = place((data // slices, fsdp, tensor), (slices, 1, 1))
    else:
        grid = place((data, fsdp, tensor))
    # Explicit axes, the default, refuse contractions over sharded dimensions.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


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


@functools.lru_cache
def rows_of_process(mesh: Mesh, size: int) -> tuple[int, ...]:
    """The rows of a batch of `size` that this process's devices hold, ascending.

    TPU meshes follow the torus, so a process's rows need not be neighbours; and processes that
    share a model (tensor) have the same rows.
    """
    parts = NamedSharding(mesh, BATCH).addressable_devices_indices_map((size,)).values()
    return tuple(sorted({row for (part,) in parts for row in range(size)[part]}))


def places_of_process(name: str, videos: int, views: int, mesh: Mesh) -> tuple[int, ...]:
    """The videos of a batch, with `views` neighbouring rows each, that this process has to read.

    Raises:
      ConfigError: where a video's views would belong to several processes.
    """
    rows = rows_of_process(mesh, videos * views)
    places = tuple(sorted({row // views for row in rows}))
    if len(places) * views != len(rows):
        raise ConfigError(
            f"config.{name} = {videos}: on this mesh the {views} views of a video would belong to "
            f"several processes; take a multiple of {mesh.shape['data'] * mesh.shape['fsdp']}"
        )
    return places


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, size: int) -> dict[str, jax.Array]:
    """The rows of this process (see `rows_of_process`) of a batch of `size` -> arrays over it."""
    rows, sharding = rows_of_process(mesh, size), NamedSharding(mesh, BATCH)

    def array(local: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            held = range(size)[index[0]]
            first = rows.index(held.start)
            return local[first : first + len(held)]

        return jax.make_array_from_callback((size, *local.shape[1:]), sharding, part)

    return {name: array(local) for name, local in batch.items()}
