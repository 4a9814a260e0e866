"""Fine-tune a small model on the embedded synthetic videos: ten classes of motion.

    python -m vmae_jax.main --config=configs/finetune_synthetic.py --config.init_from=WORKDIR

WORKDIR is a run of configs/pretrain_synthetic.py; without it the model starts from scratch.
launch/learning.sh runs both, and --config.task=probe with the same settings, over three seeds.

Hardware: two CPU cores, minutes. Measured: the README's table.

Every number here is ours. The class lies in the direction of motion, so nothing that turns, flips
or mixes clips is on; three frames lie between two sampled ones, as in pre-training.
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.task = "finetune"
    config.model.update(variant="128x4x4x512", patch_size=8, image_size=64)
    config.model.update(num_frames=4, dtype="float32")
    config.classifier.update(drop_path=0.0, label_smoothing=0.1)
    config.data.update(dataset="synthetic", batch_size=16, views=1, stride=3, threads=2)
    config.augment.update(randaugment="", min_area=0.5, flip=0.0, erase=0.0, mixup=0.0, cutmix=0.0)
    # Per 256 videos, so 16 videos per step learn at 1e-3.
    config.optim.update(base_lr=0.016, min_lr=1e-5, warmup_steps=50, clip_norm=1.0, b2=0.999)
    config.optim.layer_decay = 0.9
    config.eval.update(clips=5, crops=1, batch_size=8)
    config.train.update(steps=1000, log_every=50, checkpoint_every=500)
    return config_lib.recipe(config, arg)
