"""ViT-B on TikTok clips: the first model of arXiv 2402.08875.

    python -m vmae_jax.main --config=configs/vitb_tiktok.py \
        --config.data.dataset=gs://YOUR_BUCKET/tiktok --workdir=gs://YOUR_BUCKET/runs/vitb_tiktok

The shards come from your own videos: python -m vmae_jax.data.build --videos=DIR --out=DATASET.
A few seconds on a CPU, to see it run: --config=configs/vitb_tiktok.py:smoke

Hardware: 94.2 M parameters, whose weights, gradients and two moments take 1.5 GB in float32,
shared out over mesh.fsdp devices.
Topologies, as flags of vmae_jax.plan (launch/plans.sh compiles each; figures in launch/README.md):
  --topology=v5e:8x8 --config.model.remat=full
Expected after fine-tuning: 95.3 UCF101, 53.24 HMDB51 (the first version of TikTokActions). Not
measured with this code yet.

Sources, by setting:
  16 frames at stride 4, 224 px, 4 views, tube 0.9, running cell 0.5: VideoMAE V2 (arXiv 2303.16727)
    and its public pre-training scripts
  base_lr 1e-3 per 256 videos, 1024 videos per step (the 4 views come on top),
    200 epochs over the videos (x4 views = 800 effective), 20 of them warm-up: its script for ViT-B
  AdamW (0.9, 0.95), weight decay 0.05, cosine to 1e-5 per 256 videos: the same
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.model.update(variant="B", image_size=224, num_frames=16, remat="none")
    config.mask.update(encoder="tube", encoder_ratio=0.9, decoder="running_cell", decoder_ratio=0.5)
    config.data.update(dataset="data/tiktok", batch_size=1024, views=4, stride=4)
    config.optim.update(base_lr=1e-3, min_lr=1e-5, warmup_epochs=20.0, weight_decay=0.05)
    config.optim.update(b1=0.9, b2=0.95)
    config.mesh.update(data=-1, fsdp=1, tensor=1)
    config.train.update(epochs=200.0, log_every=50, checkpoint_every=1000, picture_every=2000)
    return config_lib.recipe(config, arg)
