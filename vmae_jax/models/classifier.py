"""The classifier that fine-tuning trains: the encoder, mean pooling and a linear head."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from vmae_jax.config import ClassifierConfig, ModelConfig
from vmae_jax.models import layers, vit

# The reference truncates at +-2, which is 100 deviations away.
normal = nnx.initializers.normal(0.02)


class Classifier(nnx.Module):
    """An encoder over all tokens, their mean, its norm and a linear head."""

    def __init__(
        self, config: ModelConfig, classifier: ClassifierConfig, num_classes: int, *, rngs: nnx.Rngs
    ):
        style = layers.BlockStyle(
            init=normal,
            table=normal,
            lora_rank=classifier.lora_rank,
            lora_scale=classifier.lora_alpha / max(1, classifier.lora_rank),
        )
        self.depth = config.encoder.depth
        self.drop_path, self.head_dropout = classifier.drop_path, classifier.head_dropout
        self.encoder = vit.Encoder(
            config, norm=False, train_blocks=classifier.train_blocks, style=style, rngs=rngs
        )
        dim = config.encoder.dim
        self.norm = layers.layer_norm(dim, config, rngs, config.head_norm_eps)

        def head_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
            return classifier.init_scale * normal(key, shape, dtype)

        # The head sees one vector per video: float32 costs nothing.
        self.head = nnx.Linear(dim, num_classes, kernel_init=head_init, rngs=rngs)

    def tokens(self, patches: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Patches [B, N, P] -> [B, N, D] before any norm; a key switches drop path on."""
        b, n = patches.shape[:2]
        keep = None
        if key is not None and self.drop_path:
            keep = layers.drop_path(key, self.drop_path, self.depth, b)
        everything = jnp.broadcast_to(jnp.arange(n), (b, n))
        return self.encoder(patches, everything, n, keep)

    def features(self, patches: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Patches [B, N, P] -> the pooled and normed [B, D] that the head sees."""
        return self.pool(self.tokens(patches, key))

    def pool(self, tokens: jax.Array) -> jax.Array:
        """Tokens [B, N, D] -> their mean, normed [B, D]."""
        return self.norm(tokens.mean(1))

    def __call__(self, patches: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Patches uint8, or floats that are normalised, [B, N, P] -> float32 logits [B, C].

        Args:
          key: of drop path and head dropout in training; None in evaluation.
        """
        return self.logits(self.features(patches, key), key)

    def logits(self, features: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Pooled features [B, D] -> float32 [B, C]; a key switches head dropout on."""
        x = features.astype(jnp.float32)
        if key is not None and self.head_dropout:
            kept = 1 - self.head_dropout
            x = x * jax.random.bernoulli(jax.random.fold_in(key, 1), kept, x.shape) / kept
        return self.head(x)


def forward_flops(config: ModelConfig, num_classes: int) -> int:
    """FLOPs of classifying one clip: matrix products only, two per multiply-add."""
    t, n = config.encoder, config.num_tokens
    macs = layers.tower_macs(t, n) + n * config.patch_dim * t.dim + t.dim * num_classes
    return 2 * macs


def training_flops(config: ModelConfig, classifier: ClassifierConfig, num_classes: int) -> int:
    """FLOPs of one clip's training step: a backward pass through what has parameters to learn.

    It costs two products for each of the forward's, and one where the kernels are frozen (LoRA).
    """
    forward, t = forward_flops(config, num_classes), config.encoder
    if classifier.lora_rank:
        return 2 * forward
    if classifier.train_blocks < 0:
        return 3 * forward
    tower = dataclasses.replace(t, depth=classifier.train_blocks)
    return forward + 4 * (layers.tower_macs(tower, config.num_tokens) + t.dim * num_classes)
