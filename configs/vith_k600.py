"""ViT-H on Kinetics-600.

    python -m vmae_jax.main --config=configs/vith_k600.py \
        --config.data.dataset=YOUR_K600 --config.init_from=YOUR_CHECKPOINT

It starts from its own pre-training: a workdir of this code, a public .pth, a safetensors file or a
Hugging Face directory. The shards, with the splits train and val, come from the owners' files:
python -m vmae_jax.data.build --benchmark=kinetics600 --videos=DIR --annotations=DIR
--label_map=MISC --out=YOUR_K600, where MISC is the folder misc of VideoMAE V2's repository: public
heads have its order of classes. Test a checkpoint alone with --config.mode=eval; a few seconds on a
CPU, to see it run: --config=configs/vith_k600.py:smoke

Hardware: 631.7 M parameters, whose weights, gradients and two moments take 10.1 GB in float32,
shared out over mesh.fsdp devices.
Topologies, as flags of vmae_jax.plan (launch/plans.sh compiles each; figures in launch/README.md):
  --topology=v5p:2x4x4
Not measured with this code yet.

Sources, by setting:
  16 frames at stride 4, 2 views per video, 32 x 4 videos per step, base_lr 1e-3 per 256 videos,
    40 epochs, 5 of them warm-up: VideoMAE V2 (arXiv 2303.16727) and its public script for this
    run
  layer decay 0.8, weight decay 0.05, drop path 0.2, head dropout 0.5: the same
  AdamW (0.9, 0.999), cosine to 1e-6 per 256 videos, RandAugment, random erasing, mixup and
    cutmix (within what was one GPU's batch), label smoothing: the same for all runs
  test: 5 x 3 views: the same
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.task = "finetune"
    config.init_from = "checkpoints/vith_pretrained.pth"
    config.model.update(variant="H", image_size=224, num_frames=16)
    config.model.remat = "full"
    config.classifier.update(num_classes=600, drop_path=0.2, head_dropout=0.5, init_scale=0.001)
    config.data.update(dataset="data/k600", batch_size=128, views=2)
    config.data.update(sampling="dense", stride=4)
    config.augment.update(flip=0.5, mix_group=8)
    config.optim.update(base_lr=1e-3, min_lr=1e-6, warmup_epochs=5.0, layer_decay=0.8)
    config.optim.update(b1=0.9, b2=0.999, weight_decay=0.05)
    config.mesh.update(data=-1, fsdp=8, tensor=1)
    config.eval.update(split="val", clips=5, crops=3, batch_size=64, every=5000)
    config.train.update(epochs=40.0, log_every=50, checkpoint_every=1000)
    return config_lib.recipe(config, arg)
