"""Attentive probe: one query looks at all tokens of a frozen ViT-B; a norm and a linear layer.

    python -m vmae_jax.main --config=configs/probe_attentive.py \
        --config.data.dataset=YOUR_DATASET --config.init_from=YOUR_CHECKPOINT

Masked pre-training leaves more in the single tokens than in their mean; a probe that chooses among
them says more about such an encoder than a linear one. Checkpoint and data as in probe_linear.py.

Hardware: anything that runs the encoder forwards; gradients and moments are those of the query,
its layer of cross-attention (2.4 M parameters for ViT-B) and the head.
Not measured on real videos yet.

Every number here is ours; the query has as many heads as the encoder.
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.task = "probe"
    config.probe.kind = "attentive"
    config.model.update(variant="B", image_size=224, num_frames=16)
    config.classifier.update(drop_path=0.0, label_smoothing=0.1)
    config.data.update(dataset="data/k400", batch_size=256, views=1, stride=4)
    config.augment.update(randaugment="", min_area=0.3, erase=0.0, mixup=0.0, cutmix=0.0)
    config.optim.update(base_lr=1e-3, min_lr=0.0, warmup_epochs=2.0, b2=0.999, weight_decay=0.05)
    config.eval.update(split="val", clips=5, crops=3, batch_size=64)
    config.train.update(epochs=20.0, log_every=50, checkpoint_every=1000)
    return config_lib.recipe(config, arg)
