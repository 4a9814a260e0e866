"""How accuracy grows with the clips of pre-training, and what curation is worth at equal size.

    python -m vmae_jax.study --config=configs/study_data_scaling.py --list

The other finding of arXiv 2402.08875: accuracy rises fast with the first clips and then flattens,
and quality matters more than quantity. Two arms of nested subsets: the curated clips, and clips of
the same crawl with the gates left open, both written by vmae_jax.data.curate:

    python -m vmae_jax.data.curate --manifest=crawl.parquet --root=videos --out=data/curated \
        --subset=6000,25000,100000
    python -m vmae_jax.data.curate --manifest=crawl.parquet --root=videos --out=data/raw \
        --subset=6000,25000,100000 LIMITS_LEFT_OPEN   # --help has the flag of each gate

The splits train_6000, train_25000, ... add up. The benchmarks come from data.build --benchmark.
A small study of the same shape on a CPU, to see it run: :smoke after the file's name. The one of
the README, on embedded videos: configs/study_synthetic.py.

Hardware: 21 pre-trainings of ViT-B, each of 40,000 steps of 1,024 videos x 4 views, and 48
fine-tunings; vmae_jax.plan says what one takes. On SLURM, one run per task of an array:

    MODULE=vmae_jax.study sbatch --array=0-20 launch/slurm.sh --config=configs/study_data_scaling.py
    MODULE=vmae_jax.study sbatch --dependency=afterok:JOB --array=21-68 launch/slurm.sh ...

On pods, the flags of one run: --dry_run --index=N. Not measured with this code yet.

All sizes take the same steps, so that data differs and compute does not: `train.steps` is ours (the
200 epochs of configs/vitb_tiktok.py are 55,387 steps for its 283,582 clips). Set it to 0 for equal
epochs instead. Everything else is the recipes'.
"""

from vmae_jax.study import settings

SPLITS = ("train_6000", "train_25000", "train_100000", "train_rest")


def get_config(arg: str = ""):
    study = settings.defaults()
    study.pretrain.recipe = settings.beside(__file__, "vitb_tiktok.py")
    study.pretrain.settings = {"train": {"steps": 40_000}}
    study.arms = {
        "curated": {"dataset": "data/curated", "splits": SPLITS},
        "raw": {"dataset": "data/raw", "splits": SPLITS[:3]},
    }
    # Models of TikTok clips, and those from scratch, learn both from the settings for ViT-B.
    study.benchmarks = {
        "k400": {
            "recipe": settings.beside(__file__, "vitb_k400.py"),
            "settings": {"data": {"dataset": "data/k400"}},
        },
        "ssv2": {
            "recipe": settings.beside(__file__, "vitb_ssv2.py"),
            "settings": {"data": {"dataset": "data/ssv2"}},
        },
    }
    study.seeds = (0, 1, 2)
    return settings.recipe(study, arg)
