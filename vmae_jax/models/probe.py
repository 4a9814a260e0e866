"""A classifier that looks at a frozen encoder's tokens through one learned query."""

import jax
import jax.numpy as jnp
from flax import nnx

from vmae_jax.config import ClassifierConfig, ModelConfig
from vmae_jax.models import attention, classifier, layers


class AttentiveClassifier(classifier.Classifier):
    """One layer of cross-attention instead of the mean of the tokens; then the norm and the head.

    H heads of width K = D / H, as many as the encoder has.
    """

    def __init__(
        self, config: ModelConfig, classifier: ClassifierConfig, num_classes: int, *, rngs: nnx.Rngs
    ):
        super().__init__(config, classifier, num_classes, rngs=rngs)
        dim, heads = config.encoder.dim, config.encoder.heads
        width = (heads, dim // heads)
        self.token_norm = layers.layer_norm(dim, config, rngs)
        self.query = nnx.Param(jax.random.normal(rngs.params(), width))
        self.key_value = nnx.LinearGeneral(
            dim, (2, *width), kernel_init=layers.xavier, dtype=config.dtype, rngs=rngs
        )
        self.proj = nnx.LinearGeneral(
            width, dim, axis=(-2, -1), kernel_init=layers.xavier, dtype=config.dtype, rngs=rngs
        )

    def features(self, patches: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Patches [B, N, P] -> what the query finds in their tokens, normed [B, D]."""
        tokens = self.token_norm(self.tokens(patches, key))
        k, v = self.key_value(tokens).transpose(2, 0, 3, 1, 4)  # 2 x [B, H, N, K]
        query = self.query[...].astype(k.dtype)[:, None] * k.shape[-1] ** -0.5
        found = attention.plain(jnp.broadcast_to(query, (len(k), *query.shape)), k, v)
        return self.norm(self.proj(found.swapaxes(1, 2))[:, 0])
