"""Pre-train a small model on the embedded synthetic videos until it knows how things move.

    python -m vmae_jax.main --config=configs/pretrain_synthetic.py

The first half of launch/learning.sh, which makes 2,000 videos for it and compares what comes after
(configs/finetune_synthetic.py) with a model that starts from scratch.

Hardware: two CPU cores, some minutes. Expect the loss to fall to 0.01 within 400 steps, when it
knows the mean colour of a clip, to stay there for about as long, and then below 0.005: hidden
patches are now taken from where they are seen, at another time or next to them.

Every number here is ours. What made the plateau short, in the order of its effect:
  an 8x8 grid: the fixed positions are sines of the flattened index, none faster than 1 rad per
    token, so cells of a row of four look alike (at 4x4 the plateau took 4,000 steps)
  plain pixels: normalised patches have no mean colour, whose guess is where attention begins (loss
    0.997 after 600 steps)
  random masks instead of tubes: a hidden cell is often seen at another time, moved a little, so
    motion is the next thing to learn
  a decoder of one block, learning rate 5e-3 and 16 clips per step instead of 64
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.normalize_target = False
    config.model.update(variant="128x4x4x512+128x1x4x256", patch_size=8, image_size=64)
    config.model.update(num_frames=4, dtype="float32")
    config.mask.update(encoder="random", encoder_ratio=0.75, decoder="none")
    config.data.update(dataset="synthetic", batch_size=8, views=2, stride=3, threads=2)
    # Per 256 videos, so 8 videos per step learn at 5e-3.
    config.optim.update(base_lr=0.16, min_lr=1.6e-3, warmup_steps=50, clip_norm=1.0)
    config.train.update(steps=3000, log_every=50, checkpoint_every=500, picture_every=500)
    return config_lib.recipe(config, arg)
