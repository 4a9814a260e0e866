"""k-NN: a video gets the classes of the training videos that a frozen ViT-B finds similar.

    python -m vmae_jax.main --config=configs/probe_knn.py \
        --config.data.dataset=YOUR_DATASET --config.init_from=YOUR_CHECKPOINT

Nothing is trained: the mean token of each video's central view, less the mean over the training
videos, is compared by its cosine with those of all training videos; the nearest 20 vote. Scores
and confusion matrix go to the workdir's eval/. Checkpoint and data as in probe_linear.py.

Hardware: anything that runs the encoder forwards, one pass over both splits; the features of the
training split (3 kB per video with ViT-B) are held in memory.
Not measured on real videos yet; launch/learning.sh runs it on the synthetic ones.

Sources: 20 neighbours whose votes count exp(cosine / 0.07): Wu et al. (arXiv 1805.01978), as used
for self-supervised features since.
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.task = "probe"
    config.probe.update(kind="knn", neighbors=20, temperature=0.07)
    config.model.update(variant="B", image_size=224, num_frames=16)
    config.data.update(dataset="data/k400", stride=4)
    config.eval.update(split="val", batch_size=64)
    return config_lib.recipe(config, arg)
