"""Tell ten motions of the embedded synthetic videos apart.

    python -m vmae_jax.main --config=configs/finetune_synthetic.py \
        --config.init_from=runs/pretrain_synthetic

The second half of launch/learning.sh; without init_from the model starts from scratch. The same
settings with --config.task=probe train a linear layer on the frozen model.

Hardware: two CPU cores, a minute or two. Expected, with 1,600 videos: the README's table.

Every number here is ours. Left and right are classes, so nothing is flipped, and nothing that turns
or mixes clips is on; frames follow one another as in pre-training.
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.task = "finetune"
    config.model.update(variant="96x3x3x384", patch_size=8, image_size=64)
    config.model.update(num_frames=8, tubelet_size=8, dtype="float32")
    config.classifier.update(drop_path=0.0, label_smoothing=0.1)
    config.data.update(dataset="synthetic", batch_size=32, views=1, stride=1)
    config.augment.update(randaugment="", min_area=0.5, flip=0.0, erase=0.0, mixup=0.0, cutmix=0.0)
    # Per 256 videos, so 32 videos per step learn at 1e-3.
    config.optim.update(base_lr=8e-3, min_lr=8e-5, warmup_steps=50, clip_norm=1.0, b2=0.999)
    config.eval.update(clips=5, crops=1, batch_size=8)
    config.train.update(steps=400, log_every=50, checkpoint_every=400)
    return config_lib.recipe(config, arg)
