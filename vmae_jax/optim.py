"""AdamW as the reference runs it: decay on kernels only, warm-up and cosine per step, clipping."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vmae_jax import tree
from vmae_jax.config import ConfigError, OptimConfig

Schedule = Callable[[Any], Any]


def warmup_cosine(
    base: float, final: float, steps: int, warmup_steps: int = 0, start: float = 0.0
) -> Schedule:
    """Linear from `start` to `base` over the warm-up, both ends included, then cosine to `final`.

    The last of `steps` values is one step short of `final`, as in the reference.
    """

    def value(step: Any) -> Any:
        ramp = start + (base - start) * step / max(warmup_steps - 1, 1)
        progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
        cosine = final + 0.5 * (base - final) * (1 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup_steps, ramp, cosine)

    return value


def learning_rate(
    config: OptimConfig, batch_size: int, steps: int, steps_per_epoch: float
) -> Schedule:
    """The recipe's schedule, its rates scaled by videos per step / 256."""
    warmup_steps = config.warmup_steps or int(config.warmup_epochs * steps_per_epoch)
    if warmup_steps >= steps:
        key = "warmup_steps" if config.warmup_steps else "warmup_epochs"
        raise ConfigError(
            f"config.optim.{key} = {getattr(config, key)}: the warm-up takes {warmup_steps} steps "
            f"but the run has {steps}; lower it or train longer"
        )
    scale = batch_size / 256
    return warmup_cosine(config.base_lr * scale, config.min_lr * scale, steps, warmup_steps)


def decay_mask(params: Any) -> Any:
    """True for kernels: 1-D parameters, biases, norms and the mask token are never decayed.

    It goes by name, because stacked blocks give every parameter one more axis.
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales by max_norm / (norm + 1e-6) where that is below 1, as PyTorch does.

    `optax.clip_by_global_norm` leaves the 1e-6 out.
    """

    def update(grads: Any, state: optax.EmptyState, params: Any = None) -> tuple:
        scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(grads) + 1e-6))
        return jax.tree.map(lambda g: g * scale, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def layer_scales(params: Any, decay: float, depth: int) -> Any:
    """Layer-wise learning-rate decay: the factor of each leaf, one per layer for stacked blocks.

    Layer 0 is the patch embedding (and a learned position table), 1..depth are the blocks, and
    the final norm and the head are depth + 1, whose factor is 1.

    Args:
      depth: of the whole encoder; `params` may hold its last blocks only.
    """

    def leaf(path: tuple, x: Any) -> np.ndarray:
        name = tree.path_name(path)
        if name.startswith(("encoder/patch_embed/", "encoder/positions")):
            layer = np.zeros(())
        elif name.startswith("encoder/stem/blocks/"):
            layer = 1 + np.arange(x.shape[0])
        elif name.startswith("encoder/tower/blocks/"):
            layer = depth + 1 - np.arange(x.shape[0], 0, -1)
        else:
            layer = np.full((), depth + 1)
        scale = decay ** (depth + 1.0 - layer)
        return scale.reshape(scale.shape + (1,) * (len(x.shape) - scale.ndim))

    return jax.tree.map_with_path(leaf, params)


def scale_by_layer(decay: float, depth: int) -> optax.GradientTransformation:
    """Multiplies every update by its factor of `layer_scales`."""

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple:
        scales = layer_scales(updates, decay, depth)
        return jax.tree.map(lambda u, s: u * s.astype(u.dtype), updates, scales), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def optimizer(config: OptimConfig, depth: int = 0) -> optax.GradientTransformation:
    """AdamW's direction of ascent; the step multiplies it by minus the learning rate.

    Args:
      depth: of the encoder, for `layer_decay`.
    """
    clip = clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    decayed = config.layer_decay < 1
    return optax.chain(
        clip,
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        scale_by_layer(config.layer_decay, depth) if decayed else optax.identity(),
    )
