"""AdamW as the reference runs it: decay on kernels only, warm-up and cosine per step, clipping."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

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


def optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """AdamW's direction of ascent; the step multiplies it by minus the learning rate."""
    clip = clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
    )
