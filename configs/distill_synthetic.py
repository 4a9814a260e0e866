"""A small model that starts from nothing learns from one that knows the ten motions.

    python -m vmae_jax.main --config=configs/distill_synthetic.py \
        --config.distill.teacher=runs/learning/pretrained_finetune_0

The teacher is the best model of launch/learning.sh. With --config.task=finetune the same student
learns from the labels alone: launch/learning.sh --distill compares the two.

Hardware: two CPU cores, some minutes.

Every number here is ours, those of the data and the optimizer as configs/finetune_synthetic.py:
  a student of two thirds of the teacher's width and depth, from scratch
  half of the targets are the labels', and its tokens are those of the teacher, mapped to their
    width: what moves where is in tokens, not in the logits
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.task = "distill"
    config.distill.update(teacher="runs/learning/pretrained_finetune_0")
    config.distill.update(soft_weight=0.5, feature_weight=1.0)
    config.model.update(variant="64x2x2x256", patch_size=8, image_size=64)
    config.model.update(num_frames=8, tubelet_size=8, dtype="float32")
    config.classifier.update(drop_path=0.0, label_smoothing=0.1)
    config.data.update(dataset="synthetic", batch_size=32, views=1, stride=1)
    config.augment.update(randaugment="", min_area=0.5, flip=0.0, erase=0.0, mixup=0.0, cutmix=0.0)
    config.optim.update(base_lr=8e-3, min_lr=8e-5, warmup_steps=50, clip_norm=1.0, b2=0.999)
    config.eval.update(clips=5, crops=1, batch_size=8)
    config.train.update(steps=800, log_every=50, checkpoint_every=800)
    return config_lib.recipe(config, arg)
