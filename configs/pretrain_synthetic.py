"""Pre-train a small model on the embedded synthetic videos until it knows how things move.

    python -m vmae_jax.main --config=configs/pretrain_synthetic.py

The first half of launch/learning.sh, which makes 1,600 videos for it and compares what comes after
(configs/finetune_synthetic.py) with a model that starts from scratch.

Hardware: two CPU cores, some three minutes. Expect the loss to fall below 0.03 within 500 steps and
then slowly on to about 0.02, while the model learns where what it sees will be next.

Every number here is ours:
  an 8x8 grid of patches, each 8 frames deep: the motion of what a patch shows is part of its
    pixels, so guessing a hidden patch means guessing motion
  random masks: most hidden patches have neighbours that are seen, whose contents move in or out
  plain pixels: normalised patches have no mean colour, the guess of which is where attention begins
  a decoder of one block; learning rate 3e-3 at 32 clips per step
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.normalize_target = False
    config.model.update(variant="96x3x3x384+96x1x3x192", patch_size=8, image_size=64)
    config.model.update(num_frames=8, tubelet_size=8, dtype="float32")
    config.mask.update(encoder="random", encoder_ratio=0.75, decoder="none")
    config.data.update(dataset="synthetic", batch_size=16, views=2, stride=1)
    # Per 256 videos, so 16 videos per step learn at 3e-3.
    config.optim.update(base_lr=0.048, min_lr=4.8e-4, warmup_steps=50, clip_norm=1.0)
    config.train.update(steps=2000, log_every=50, checkpoint_every=500, picture_every=500)
    return config_lib.recipe(config, arg)
