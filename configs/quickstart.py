"""Pre-train a tiny VideoMAE V2 on embedded synthetic videos, in minutes on two CPU cores.

    python -m vmae_jax.main --config=configs/quickstart.py

With your own videos (any length and format):

    python -m vmae_jax.data.build --videos=YOUR_VIDEOS --out=YOUR_DATASET
    python -m vmae_jax.main --config=configs/quickstart.py --config.data.dataset=YOUR_DATASET \
        --workdir=runs/mine

Hardware: anything. Expect the loss to fall from 0.13 at step 10 to about 0.03 on the embedded
videos and the pictures to go from noise to the colours of a clip. configs/pretrain_synthetic.py
goes on until it shows shapes.

Every number here is ours, chosen to show something soon at 64 pixels; the papers' recipes are the
other files of this folder. Plain pixels are the target, so that the pictures show nothing that the
model did not guess, and a quarter of the patches is visible, because the grid has only 8x8 cells.
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.normalize_target = False
    config.model.update(variant="tiny", image_size=64, num_frames=8, dtype="float32")
    config.mask.update(encoder="tube", encoder_ratio=0.75, decoder="running_cell")
    config.data.update(dataset="synthetic", batch_size=4, views=2, stride=4)
    # Per 256 videos, so 4 videos per step learn at 3e-3.
    config.optim.update(base_lr=0.192, min_lr=1.92e-3, warmup_steps=20, clip_norm=1.0)
    config.train.update(steps=500, log_every=10, checkpoint_every=100, picture_every=100)
    return config_lib.recipe(config, arg)
