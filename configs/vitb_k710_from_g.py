"""ViT-B distilled on Kinetics-710 from the ViT-g that was fine-tuned there.

    python -m vmae_jax.main --config=configs/vitb_k710_from_g.py \
        --config.data.dataset=YOUR_K710 --config.distill.teacher=vit_g_hybrid_pt_1200e_k710_ft.pth \
        --config.init_from=YOUR_VITB_K710

The teacher is a classifier of the 710 classes (configs/vitg_k710.py, or the public file named
above); the student starts from its own fine-tuning on them (configs/vitb_k710.py). Each is a
workdir of this code, a public .pth, a safetensors file or a Hugging Face directory. The shards are
those of configs/vitb_k710.py; their labels only test. ViT-S: --config.model.variant=S. A few
seconds on a CPU, to see it run: --config=configs/vitb_k710_from_g.py:smoke

Hardware: the student's 86.2 M parameters, whose weights, gradients and two moments take 1.4 GB in
float32, and the teacher's 1011.6 M, 2 GB in bfloat16; both are shared out over mesh.fsdp devices. A
step adds the teacher's forward pass to what fine-tuning ViT-B computes: 5.7 times as much in all.
Topologies, as flags of vmae_jax.plan (launch/plans.sh compiles each; figures in launch/README.md):
  --topology=v5p:2x4x4
Expected top-1: 81.5 on Kinetics-710 (ViT-S: 77.6), 5x3 views (VideoMAE V2's model zoo). Not
measured with this code yet.

Sources, by setting:
  teacher, data set, first weights of the student: VideoMAE V2's model zoo. Its loss, epochs and
    code are not published
  the KL divergence from the teacher at temperature 1, no labels, teacher and student looking at the
    same mixed clip, and many epochs: "A good teacher is patient and consistent" (arXiv 2106.05237),
    the paper that the question for that code names (OpenGVLab/VideoMAEv2, issue 61)
  all else, 90 epochs too: as configs/vitb_k710.py
  test: 5 x 3 views: VideoMAE V2 (arXiv 2303.16727)
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.task = "distill"
    config.init_from = "checkpoints/vitb_k710.pth"
    config.distill.update(teacher="checkpoints/vitg_k710.pth", variant="g")
    config.distill.update(temperature=1.0, soft_weight=1.0)
    config.model.update(variant="B", image_size=224, num_frames=16)
    config.classifier.update(num_classes=710, drop_path=0.1, head_dropout=0.0, init_scale=0.001)
    config.data.update(dataset="data/k710", batch_size=512, views=2)
    config.data.update(sampling="dense", stride=4)
    config.augment.update(flip=0.5, mix_group=32)
    config.optim.update(base_lr=7e-4, min_lr=1e-6, warmup_epochs=5.0, layer_decay=0.75)
    config.optim.update(b1=0.9, b2=0.999, weight_decay=0.05)
    config.mesh.update(data=-1, fsdp=8, tensor=1)
    config.eval.update(split="val", clips=5, crops=3, batch_size=64, every=5000)
    config.train.update(epochs=90.0, log_every=50, checkpoint_every=1000)
    return config_lib.recipe(config, arg)
