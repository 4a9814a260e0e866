"""Linear probe: a norm and a linear layer on the mean token of a frozen ViT-B.

    python -m vmae_jax.main --config=configs/probe_linear.py \
        --config.data.dataset=YOUR_DATASET --config.init_from=YOUR_CHECKPOINT

The checkpoint is a workdir of this code, a public .pth, a safetensors file or a Hugging Face
directory; for other sizes add --config.model.variant=L and so on. Without it the features are a
random encoder's: the baseline to beat. The data set has labels and the splits train and val:
python -m vmae_jax.data.build --videos=DIR --labels=folders --split=train:0.9,val:0.1 --out=OUT

Hardware: anything that runs the encoder forwards; gradients and moments are those of the head.
Not measured on real videos yet; launch/learning.sh runs it on the synthetic ones.

Every number here is ours. Nothing regularises but the crops, because a linear layer can hardly
overfit: no drop path, no mixing, no label smoothing, no weight decay.
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.task = "probe"
    config.probe.kind = "linear"
    config.model.update(variant="B", image_size=224, num_frames=16)
    config.classifier.update(drop_path=0.0, label_smoothing=0.0)
    config.data.update(dataset="data/k400", batch_size=256, views=1, stride=4)
    config.augment.update(randaugment="", min_area=0.3, erase=0.0, mixup=0.0, cutmix=0.0)
    config.optim.update(base_lr=1e-3, min_lr=0.0, warmup_epochs=2.0, b2=0.999, weight_decay=0.0)
    config.eval.update(split="val", clips=5, crops=3, batch_size=64)
    config.train.update(epochs=30.0, log_every=50, checkpoint_every=1000)
    return config_lib.recipe(config, arg)
