"""ViT-g on Kinetics-600, after post-pre-training on Kinetics-710.

    python -m vmae_jax.main --config=configs/vitg_k600_from_k710.py \
        --config.data.dataset=YOUR_K600 --config.init_from=YOUR_CHECKPOINT \
        --config.classifier.label_map=MISC/label_710to600.json

It starts from post-pre-training on Kinetics-710 (configs/vitg_k710.py): a workdir of this code, a
public .pth, a safetensors file or a Hugging Face directory. The shards, with the splits train and
val, come from the owners' files: python -m vmae_jax.data.build --benchmark=kinetics600 --videos=DIR
--annotations=DIR --label_map=MISC --out=YOUR_K600. Test a checkpoint alone with --config.mode=eval;
a few seconds on a CPU, to see it run: --config=configs/vitg_k600_from_k710.py:smoke

MISC is the folder misc of VideoMAE V2's repository. Its label_710to600.json has, for each line of
label_map_k600.txt beside it, the row of the public 710-class heads. The data's classes have to be
those lines, by whose names they are compared; for a head with other rows, give other files.

Hardware: 1011.6 M parameters, whose weights, gradients and two moments take 16.2 GB in float32,
shared out over mesh.fsdp devices.
Topologies, as flags of vmae_jax.plan (launch/plans.sh compiles each; figures in launch/README.md):
  --topology=v5p:2x4x4
Expected top-1: 88.8, 5x3 views (arXiv 2303.16727). Not measured with this code yet.

Sources, by setting:
  16 frames at stride 4, 2 views per video, 32 x 3 videos per step, base_lr 1e-5 per 256 videos, 3
    epochs, 1 of them warm-up: VideoMAE V2 (arXiv 2303.16727) and its public script for this run
  layer decay 0.9, weight decay 0.1, drop path 0.25, head dropout 0: the same
  AdamW (0.9, 0.999), cosine to 1e-6 per 256 videos, RandAugment, random erasing, mixup and
    cutmix (within what was one GPU's batch), label smoothing: the same for all runs
  test: 5 x 3 views: the same
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.task = "finetune"
    config.init_from = "checkpoints/vitg_k710.pth"
    config.model.update(variant="g", image_size=224, num_frames=16)
    config.model.remat = "full"
    config.classifier.update(num_classes=600, drop_path=0.25, head_dropout=0.0, init_scale=0.001)
    config.classifier.label_map = "label_710to600.json"
    config.data.update(dataset="data/k600", batch_size=96, views=2)
    config.data.update(sampling="dense", stride=4)
    config.augment.update(flip=0.5, mix_group=6)
    config.optim.update(base_lr=1e-5, min_lr=1e-6, warmup_epochs=1.0, layer_decay=0.9)
    config.optim.update(b1=0.9, b2=0.999, weight_decay=0.1)
    config.mesh.update(data=-1, fsdp=8, tensor=1)
    config.eval.update(split="val", clips=5, crops=3, batch_size=64, every=5000)
    config.train.update(epochs=3.0, log_every=50, checkpoint_every=1000)
    return config_lib.recipe(config, arg)
