"""ViT-g on VideoMAE V2's unlabelled hybrid set (arXiv 2303.16727).

    python -m vmae_jax.main --config=configs/vitg_hybrid.py \
        --config.data.dataset=gs://YOUR_BUCKET/hybrid --workdir=gs://YOUR_BUCKET/runs/vitg_hybrid

The shards come from your own videos: python -m vmae_jax.data.build --videos=DIR --out=DATASET.
A few seconds on a CPU, to see it run: --config=configs/vitg_hybrid.py:smoke

Hardware: 1026.3 M parameters, whose weights, gradients and two moments take 16.4 GB in float32,
shared out over mesh.fsdp devices.
Topologies, as flags of vmae_jax.plan (launch/plans.sh compiles each; figures in launch/README.md):
  --topology=v5p:4x4x4 --config.model.remat=dots
Expected: 87.2 on Kinetics-400, 77.0 on Something-Something V2 (fine-tuned). Not measured with this
code yet.

Sources, by setting:
  16 frames at stride 4, 224 px, 4 views, tube 0.9, running cell 0.5: VideoMAE V2 (arXiv 2303.16727)
    and its public pre-training scripts
  base_lr 6e-4 per 256 videos, 2048 videos per step (the 4 views come on top),
    300 epochs over the videos (x4 views = 1200 effective), 30 of them warm-up: its script for ViT-g
  AdamW (0.9, 0.95), weight decay 0.05, cosine to 1e-5 per 256 videos: the same
  clip_norm 0.02: the same
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.model.update(variant="g", image_size=224, num_frames=16, remat="full")
    config.mask.update(encoder="tube", encoder_ratio=0.9, decoder="running_cell", decoder_ratio=0.5)
    config.data.update(dataset="data/hybrid", batch_size=2048, views=4, stride=4)
    config.optim.update(base_lr=6e-4, min_lr=1e-5, warmup_epochs=30.0, weight_decay=0.05)
    config.optim.update(b1=0.9, b2=0.95, clip_norm=0.02)
    config.mesh.update(data=-1, fsdp=8, tensor=1)
    config.train.update(epochs=300.0, log_every=50, checkpoint_every=1000, picture_every=2000)
    return config_lib.recipe(config, arg)
