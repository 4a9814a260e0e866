"""What more, and better, embedded videos bring: a study of scale in half an hour on a CPU.

    python -m vmae_jax.study --config=configs/study_synthetic.py

Pre-trains the small model of configs/pretrain_synthetic.py on 80, 320 and 1,280 videos without
labels, and on 1,280 raw ones of which every second is a still, as a crawl may hold; then tells ten
motions apart, learned from 400 labelled videos that are none of these, and tested on 400 others.
Twelve pre-trainings and fifteen fine-tunings of a minute or less: 3 seeds each, and from scratch.

Hardware: two CPU cores. Expected: the table of vmae_jax/study/README.md, which says how long it
took.

Every number here is ours. Each video is seen five times, so more of them also train for longer: at
equal steps (400) the small model learns as much of 100 such videos, with their crops, as of 1,600:
78.7 and 80.8 % (2026-11-26, 3 seeds, intervals of 9 and 14 to either side).
"""

from vmae_jax.study import settings


def get_config(arg: str = ""):
    study = settings.defaults()
    study.pretrain.recipe = settings.beside(__file__, "pretrain_synthetic.py")
    study.pretrain.settings = {
        "optim": {"warmup_steps": 0, "warmup_epochs": 0.5},
        "train": {"steps": 0, "epochs": 5.0, "log_every": 50, "picture_every": 0},
    }
    study.embedded.update(sizes=(80, 320, 1280), train_clips=40, val_clips=40)
    study.arms = {
        "curated": {
            "dataset": "synthetic",
            "splits": ("curated_80", "curated_320", "curated_1280"),
        },
        "raw": {"dataset": "synthetic", "splits": ("raw_80+raw_320+raw_1280",)},
    }
    # Few videos per step, so that there are many steps; they learn at 1e-3.
    finetune = {
        "data": {"batch_size": 16},
        "optim": {"base_lr": 0.016, "warmup_steps": 20},
        "train": {"steps": 300},
        "eval": {"clips": 2},
    }
    study.benchmarks = {
        "motions": {
            "recipe": settings.beside(__file__, "finetune_synthetic.py"),
            "settings": finetune,
        }
    }
    study.seeds = (0, 1, 2)
    return settings.recipe(study, arg)
