"""What more, and better, embedded videos bring: a study of scale in half an hour on a CPU.

    python -m vmae_jax.study --config=configs/study_synthetic.py

Pre-trains the small model of configs/pretrain_synthetic.py on 100, 400 and 1,600 videos without
labels, and on 1,600 raw ones of which every second is a still, as a crawl may hold; then tells ten
motions apart, learned from 400 labelled videos that are none of these, and tested on 400 others.
Twelve pre-trainings and fifteen fine-tunings of a minute or less: 3 seeds each, and from scratch.

Hardware: two CPU cores, 22 minutes of them if they are idle: 2.6 for the videos, 50 seconds per
pre-training and 40 per fine-tuning. Expected: the README's table.

Every number here is ours. All sizes take the same steps: what differs is how often a video is seen,
not how long is trained.
"""

from vmae_jax.study import settings


def get_config(arg: str = ""):
    study = settings.defaults()
    study.pretrain.recipe = settings.beside(__file__, "pretrain_synthetic.py")
    train = {"steps": 300, "log_every": 100, "checkpoint_every": 300, "picture_every": 0}
    study.pretrain.settings = {"train": train}
    study.embedded.update(sizes=(1, 8, 64), train_clips=40, val_clips=40)
    study.arms = {
        "curated": {
            "dataset": "synthetic",
            "splits": ("curated_1", "curated_8", "curated_64"),
        },
        "raw": {"dataset": "synthetic", "splits": ("raw_1+raw_8+raw_64",)},
    }
    # Few videos per step, so that there are many steps; they learn at 1e-3.
    finetune = {
        "data": {"batch_size": 16},
        "optim": {"base_lr": 0.016, "warmup_steps": 20},
        "train": {"steps": 400},
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
