"""One process of an evaluation: python evaluate_on_host.py DATASET OUT PORT RANK COUNT ORDER

ORDER "torus" walks through the devices as a TPU's mesh may: no process has neighbouring rows.
"""

import sys

import jax
import numpy as np
from fakes import FINETUNE, with_settings

from vmae_jax import sharding
from vmae_jax.config import MeshConfig
from vmae_jax.tasks.finetune import Finetune

dataset, out, port, rank, count, order = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", int(count), int(rank))

config = with_settings(
    FINETUNE,
    data={"dataset": dataset, "stride": 2, "max_bad_fraction": 0.5},
    eval={"split": "train", "clips": 2, "crops": 2, "batch_size": 3},
)
task = Finetune.from_data(config)
devices = jax.devices()
if order == "torus":
    devices = devices[::2] + devices[1::2]
mesh = sharding.make_mesh(MeshConfig(), devices)
assert mesh.size == 2 * int(count)
params = task.init(jax.random.key(0))
params["head"]["kernel"] *= 1e4
scores = task.test(jax.tree.map(np.asarray, params), mesh)
np.savez(f"{out}-{rank}", ids=scores.ids, probabilities=scores.probabilities)
