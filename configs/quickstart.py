"""Pre-train a tiny VideoMAE V2 on embedded synthetic videos, in minutes on two CPU cores.

    python -m vmae_jax.main --config=configs/quickstart.py

With your own videos (any length and format):

    python -m vmae_jax.data.build --videos=YOUR_VIDEOS --out=YOUR_DATASET
    python -m vmae_jax.main --config=configs/quickstart.py --config.data.dataset=YOUR_DATASET \
        --workdir=runs/mine

Hardware: anything. Every number here is ours, chosen to show structure quickly at 64 pixels; the
papers' recipes are the other files of this folder.
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.model.update(variant="tiny", image_size=64, num_frames=16, dtype="float32")
    config.data.update(dataset="synthetic", batch_size=8, views=2, stride=2, threads=2)
    # Per 256 videos, so 8 videos per step learn at 1.5e-3.
    config.optim.update(base_lr=4.8e-2, min_lr=4.8e-4, warmup_epochs=2.0, clip_norm=1.0)
    config.train.update(steps=300, log_every=10, checkpoint_every=100, picture_every=100)
    return config_lib.recipe(config, arg)
