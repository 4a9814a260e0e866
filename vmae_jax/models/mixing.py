"""Augmentation of labelled batches on the device: random erasing, mixup and cutmix.

Videos are normalised floats [B, T, H, W, 3], in which the reference does all three.
"""

import jax
import jax.numpy as jnp

from vmae_jax.config import AugmentConfig

ERASE_AREA = (0.02, 1 / 3)  # of the frame
ERASE_ASPECT = (0.3, 1 / 0.3)
ERASE_TRIES = 10  # boxes drawn until one fits the frame; without one nothing is erased


def _inside(low: jax.Array, high: jax.Array, size: int) -> jax.Array:
    """[B] bounds -> bool [B, size], true at low <= i < high."""
    i = jnp.arange(size)
    return (i >= low[:, None]) & (i < high[:, None])


def _box(top: jax.Array, bottom: jax.Array, left: jax.Array, right: jax.Array, h: int, w: int):
    """Bounds [B] -> bool [B, 1, H, W, 1]: the same box in all frames and channels."""
    rows, columns = _inside(top, bottom, h), _inside(left, right, w)
    return (rows[:, :, None] & columns[:, None, :])[:, None, :, :, None]


def erase(key: jax.Array, video: jax.Array, probability: float) -> jax.Array:
    """Random erasing (arXiv 1708.04896): normal noise in one box of a clip, new in every pixel."""
    b, _, h, w, _ = video.shape
    keys = jax.random.split(key, 6)
    tries = (b, ERASE_TRIES)
    area = jax.random.uniform(keys[0], tries, minval=ERASE_AREA[0], maxval=ERASE_AREA[1]) * h * w
    low, high = jnp.log(jnp.array(ERASE_ASPECT))
    aspect = jnp.exp(jax.random.uniform(keys[1], tries, minval=low, maxval=high))
    heights, widths = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (heights < h) & (widths < w)
    first = jnp.argmax(fits, axis=1)[:, None]
    height = jnp.take_along_axis(heights, first, 1)[:, 0]
    width = jnp.take_along_axis(widths, first, 1)[:, 0]
    top = jnp.floor(jax.random.uniform(keys[2], (b,)) * (h - height + 1))
    left = jnp.floor(jax.random.uniform(keys[3], (b,)) * (w - width + 1))
    chosen = jax.random.bernoulli(keys[4], probability, (b,)) & fits.any(1)
    box = _box(top, top + height, left, left + width, h, w) & chosen[:, None, None, None, None]
    return jnp.where(box, jax.random.normal(keys[5], video.shape, video.dtype), video)


def mix(
    key: jax.Array, video: jax.Array, targets: jax.Array, config: AugmentConfig
) -> tuple[jax.Array, jax.Array]:
    """Mixup (arXiv 1710.09412) or cutmix (1905.04899) of each clip with its mirror in its group.

    One draw decides for all clips of a group of `config.mix_group` neighbours. In the reference
    they are the clips of one GPU.

    Args:
      targets: [B, C], the probability of each class.

    Returns:
      The mixed videos and targets.
    """
    if not config.mixup and not config.cutmix:
        return video, targets
    groups = len(video) // (config.mix_group or len(video))
    grouped = [x.reshape(groups, -1, *x.shape[1:]) for x in (video, targets)]
    mixed = jax.vmap(lambda key, v, t: _mix_group(key, v, t, config))(
        jax.random.split(key, groups), *grouped
    )
    return mixed[0].reshape(video.shape), mixed[1].reshape(targets.shape)


def _mix_group(
    key: jax.Array, video: jax.Array, targets: jax.Array, config: AugmentConfig
) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(key, 5)
    h, w = video.shape[2:4]
    share = config.cutmix_share if config.mixup and config.cutmix else float(config.cutmix > 0)
    use_cutmix = jax.random.bernoulli(keys[0], share)
    strength = jnp.where(use_cutmix, config.cutmix, config.mixup)
    kept = jax.random.beta(keys[1], strength, strength)
    kept = jnp.where(jax.random.bernoulli(keys[2], config.mix_probability), kept, 1.0)

    cut = jnp.sqrt(1 - kept)
    half_height, half_width = jnp.floor(h * cut) // 2, jnp.floor(w * cut) // 2
    y, x = jax.random.randint(keys[3], (), 0, h), jax.random.randint(keys[4], (), 0, w)
    top, bottom = jnp.clip(y - half_height, 0, h), jnp.clip(y + half_height, 0, h)
    left, right = jnp.clip(x - half_width, 0, w), jnp.clip(x + half_width, 0, w)
    box = _box(*(edge[None] for edge in (top, bottom, left, right)), h, w)
    kept_cutmix = 1 - (bottom - top) * (right - left) / (h * w)

    kept = jnp.where(use_cutmix, kept_cutmix, kept)
    weight = jnp.where(use_cutmix, jnp.where(box, 0.0, 1.0), kept).astype(video.dtype)
    video = weight * video + (1 - weight) * video[::-1]
    return video, kept * targets + (1 - kept) * targets[::-1]


def smooth(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Labels i32 [B] -> target probabilities [B, C]; `smoothing` is spread over all classes."""
    return jax.nn.one_hot(labels, num_classes) * (1 - smoothing) + smoothing / num_classes
