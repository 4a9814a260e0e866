"""Fine-tune a public checkpoint on your own action classes.

One folder per class, videos of any format in it; a tenth of them is held out for honest numbers:

    python -m vmae_jax.data.build --videos=YOUR_VIDEOS --labels=folders \
        --split=train:0.9,val:0.1 --out=data/custom
    python -m vmae_jax.main --config=configs/finetune_custom.py \
        --config.init_from=YOUR_CHECKPOINT --workdir=runs/custom
    python -m vmae_jax.predict --checkpoint=runs/custom SOME_VIDEO.mp4

YOUR_CHECKPOINT: a workdir of this code, a public .pth, a safetensors file or a Hugging Face
directory, with or without a classifier's head (yours is fresh where the classes differ, and said
so). The model here is ViT-B; for another size add --config.model.variant=S (or L, H, g). The number
of classes is counted from the data. Without init_from the model starts from scratch, which takes
far more videos than a folder holds.

Hardware: one GPU with 16 GB. Less memory or fewer videos: --config.classifier.train_blocks=4 (the
last blocks only) or --config.classifier.lora_rank=8, --config.data.batch_size=4. A few seconds on a
CPU, to see it run: --config=configs/finetune_custom.py:smoke

Expected: it depends on your classes; read eval/confusion.png. Where left and right tell classes
apart, switch the flip off: --config.augment.flip=0.0. For slow actions take every eighth frame
(--config.data.stride=8) or frames of the whole video (--config.data.sampling=sparse).

Sources: the recipe of VideoMAE V2 (arXiv 2303.16727) for ViT-B on Kinetics-400, with our choices
for small data: 8 videos per step (2 views of each), learning rate 6e-5 at that size, 30 epochs,
3 of them warm-up.
"""

from vmae_jax import config as config_lib


def get_config(arg: str = ""):
    config = config_lib.defaults()
    config.task = "finetune"
    config.model.update(variant="B", image_size=224, num_frames=16)
    config.classifier.update(num_classes=0, drop_path=0.1, head_dropout=0.0, init_scale=0.001)
    config.data.update(dataset="data/custom", batch_size=8, views=2)
    config.data.update(sampling="dense", stride=4)
    config.optim.update(base_lr=2e-3, min_lr=1e-6, warmup_epochs=3.0, layer_decay=0.75)
    config.optim.update(b1=0.9, b2=0.999, weight_decay=0.05)
    config.eval.update(split="val", clips=5, crops=3, batch_size=8, every=500)
    config.train.update(epochs=30.0, log_every=20, checkpoint_every=500)
    return config_lib.recipe(config, arg)
