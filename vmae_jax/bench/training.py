"""Training steps of ours, and of Hugging Face's VideoMAE in PyTorch on the same device."""

import dataclasses
import os

import numpy as np

from vmae_jax.bench.turns import Side, Turn
from vmae_jax.config import (
    AugmentConfig,
    ClassifierConfig,
    Config,
    DataConfig,
    MaskConfig,
    MeshConfig,
    ModelConfig,
)

PEERS = ("eager", "compiled")
NUM_CLASSES = 400


@dataclasses.dataclass(frozen=True)
class Work:
    """What both sides do `steps` times per turn: forward, backward and AdamW on `batch` clips."""

    task: str  # pretrain or finetune
    model: ModelConfig
    batch: int
    steps: int
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    @property
    def video_shape(self) -> tuple[int, ...]:
        model = self.model
        return self.batch, model.num_frames, model.image_size, model.image_size, 3

    def config(self) -> Config:
        """Without mixing and drop path, which the peer does not have."""
        data = DataConfig(dataset="none", batch_size=self.batch, views=1)
        if self.task == "pretrain":
            return Config(model=self.model, data=data, mesh=self.mesh)
        return Config(
            task="finetune", model=self.model, data=data, mesh=self.mesh,
            classifier=ClassifierConfig(num_classes=NUM_CLASSES, drop_path=0.0),
            augment=AugmentConfig(randaugment="", erase=0.0, mixup=0.0, cutmix=0.0),
        )  # fmt: skip


def sides(work: Work, peers: list[str]) -> list[Side]:
    """Ours first."""
    masking = ", dual masking" if work.task == "pretrain" else ""
    share = 0.9 / (1 + len(peers))
    ours = Side(f"vmae_jax ViT-{work.model.variant}{masking}", jax_training, (work, share))
    theirs = ", no decoder masking" if work.task == "pretrain" else ""
    return [ours] + [
        Side(f"transformers VideoMAE, {peer}{theirs}", torch_training, (work, peer == "compiled"))
        for peer in peers
    ]


def jax_training(work: Work, share: float) -> Turn:
    """Ours, on all devices, of whose memory it takes a `share`: the peers live on the same GPU."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.2f}")
    import jax

    from vmae_jax import hardware, program, sharding
    from vmae_jax.models import attention
    from vmae_jax.tasks.finetune import Finetune
    from vmae_jax.tasks.pretrain import Pretrain

    config = work.config()
    task = (Pretrain if work.task == "pretrain" else Finetune)(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch("--batch", work.batch, mesh)
    run = program.Program.on(mesh, task, lambda step: 1e-4)
    state = program.fresh_state(task, run)
    rng = np.random.default_rng(0)
    clips = {"video": rng.integers(0, 256, work.video_shape, np.uint8)}
    if work.task == "finetune":
        clips["label"] = rng.integers(NUM_CLASSES, size=work.batch).astype(np.int32)
    batch = sharding.shard_batch(clips, mesh, work.batch)

    def turn() -> int:
        nonlocal state
        with jax.set_mesh(mesh):
            for _ in range(work.steps):
                state, metrics = run.step(state, batch)
        jax.block_until_ready((state, metrics))
        return work.batch * work.steps

    chip = hardware.of_kind(jax.devices()[0].device_kind)
    known = chip is not None and work.model.dtype == "bfloat16"
    at_peak = task.flops_per_clip / (mesh.size * chip.flops) if known else 0.0
    return Turn(turn, at_peak, attention.said)


def torch_training(work: Work, compiled: bool) -> Turn:
    """`transformers`' VideoMAE. Pre-training it masks tubes and decodes every hidden token: there
    is no decoder masking in it. In bfloat16 it runs under autocast, as people train it.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = _peer(work).train().to(device)
    run = torch.compile(peer) if compiled else peer
    fused = device == "cuda"
    optimizer = torch.optim.AdamW(
        peer.parameters(), 1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=fused
    )
    t, h, w = work.model.grid
    hidden = int(MaskConfig.encoder_ratio * h * w)
    video = torch.randint(0, 256, work.video_shape, dtype=torch.uint8, device=device)
    labels = torch.randint(0, NUM_CLASSES, (work.batch,), device=device)
    mean, std = (
        torch.tensor(x, device=device) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    reduced = work.model.dtype == "bfloat16"

    def step() -> None:
        pixels = ((video / 255 - mean) / std).permute(0, 1, 4, 2, 3)
        if work.task == "pretrain":
            tube = torch.rand(work.batch, h * w, device=device).argsort(1).argsort(1) < hidden
            target = {"bool_masked_pos": tube.repeat(1, t)}
        else:
            target = {"labels": labels}
        with torch.autocast(device, torch.bfloat16, enabled=reduced):
            loss = run(pixels, **target).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def turn() -> int:
        for _ in range(work.steps):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        return work.batch * work.steps

    return Turn(turn)


def _peer(work: Work):
    from transformers import (
        VideoMAEConfig,
        VideoMAEForPreTraining,
        VideoMAEForVideoClassification,
    )

    model, encoder, decoder = work.model, work.model.encoder, work.model.decoder
    config = VideoMAEConfig(
        image_size=model.image_size, patch_size=model.patch_size, num_frames=model.num_frames,
        tubelet_size=model.tubelet_size, hidden_size=encoder.dim,
        num_hidden_layers=encoder.depth, num_attention_heads=encoder.heads,
        intermediate_size=encoder.mlp_dim, decoder_hidden_size=decoder.dim,
        decoder_num_hidden_layers=decoder.depth, decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=decoder.mlp_dim, norm_pix_loss=True,
        use_mean_pooling=True, num_labels=NUM_CLASSES,
    )  # fmt: skip
    if work.task == "pretrain":
        return VideoMAEForPreTraining(config)
    return VideoMAEForVideoClassification(config)
