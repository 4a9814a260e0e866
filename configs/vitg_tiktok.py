"""ViT-g on 283,582 unique TikTok clips: the paper's main model (arXiv 2402.08875).

    python -m vmae_jax.main --config=configs/vitg_tiktok.py \
        --config.data.dataset=gs://YOUR_BUCKET/tiktok --workdir=gs://YOUR_BUCKET/runs/vitg_tiktok

The shards come from your own videos: python -m vmae_jax.data.build --videos=DIR --out=DATASET.
A few seconds on a CPU, to see it run: --config=configs/vitg_tiktok.py:smoke

Hardware: 1026.3 M parameters, whose weights, gradients and two moments take 16.4 GB in float32,
shared out over mesh.fsdp devices.
Topologies, as flags of vmae_jax.plan (launch/plans.sh compiles each; figures in launch/README.md):
  --topology=v5p:4x4x4 --config.model.remat=dots
  --topology=v5p:4x4x4 --slices=2 --config.model.remat=dots
  --topology=v5e:16x16
  --topology=v6e:16x16
  --topology=v4:4x4x4
Expected, after fine-tuning with the paper's recipes (arXiv 2402.08875): 99.05 UCF101, 86.08 HMDB51,
85.51 Kinetics-400 (5x3 views), 74.27 Something-Something V2 (2x3). Not measured with this code yet.

Sources, by setting:
  16 frames at stride 4, 224 px, 4 views, tube 0.9, running cell 0.5: VideoMAE V2 (arXiv 2303.16727)
    and its public pre-training scripts
  base_lr 6e-4 per 256 videos, 2048 videos per step (the 4 views come on top),
    300 epochs over the videos (x4 views = 1200 effective), 30 of them warm-up: its script for ViT-g
  AdamW (0.9, 0.95), weight decay 0.05, cosine to 1e-5 per 256 videos: the same
  clip_norm 0.02: the same
  clips: one per video, its longest scene, people in it; 386 hashtags: arXiv 2402.08875
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.model.update(variant="g", image_size=224, num_frames=16, remat="full")
    config.mask.update(encoder="tube", encoder_ratio=0.9, decoder="running_cell", decoder_ratio=0.5)
    config.data.update(dataset="data/tiktok", batch_size=2048, views=4, stride=4)
    config.optim.update(base_lr=6e-4, min_lr=1e-5, warmup_epochs=30.0, weight_decay=0.05)
    config.optim.update(b1=0.9, b2=0.95, clip_norm=0.02)
    config.mesh.update(data=-1, fsdp=8, tensor=1)
    config.train.update(epochs=300.0, log_every=50, checkpoint_every=1000, picture_every=2000)
    return config_lib.recipe(config, arg)
