"""Dual masking (VideoMAE V2, arXiv 2303.16727, section 3.2), drawn on the device, per sample.

Tokens are indexed over the flattened (t, h, w) grid. All counts are static: they follow from the
grid and the ratios alone, so a step compiles once whatever the masks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.config import MaskConfig

CELL = 4  # tokens of a 2x2 running cell, and the period of its pattern over time


class Masks(NamedTuple):
    """What each sample shows and asks for. B samples; token indices ascend."""

    visible: jax.Array  # [B, Nv] tokens that the encoder sees
    decoded: jax.Array  # [B, Nd] tokens that get a mask token in the decoder
    predicted: jax.Array  # [B, Np] positions within `decoded` that go through the head
    weight: jax.Array  # [B, Np] 1 where the token was hidden from the encoder, 0 for padding


class Counts(NamedTuple):
    """Static sizes of the arrays in `Masks`."""

    visible: int
    decoded: int
    predicted: int


def counts(grid: tuple[int, int, int], config: MaskConfig) -> Counts:
    """How many tokens of a [t, h, w] grid are seen, decoded and predicted.

    `predicted` is an upper bound where the number of hidden and decoded tokens differs between
    samples (random masks, or slots that are no multiple of 4): the rest is padding of weight 0.
    """
    t, h, w = grid
    n = t * h * w
    hidden_cells = int(config.encoder_ratio * h * w)
    hidden = {"tube": t * hidden_cells, "random": int(config.encoder_ratio * n), "none": 0}[
        config.encoder
    ]
    # Where nothing is hidden (an autoencoder without masking), every decoded token is a target.
    hidden_or_all = hidden or n
    decoded = {
        "running_cell": n - n // CELL * round(CELL * config.decoder_ratio),
        "random": n - int(config.decoder_ratio * n),
        "none": hidden_or_all,
    }[config.decoder]
    predicted = min(decoded, hidden_or_all)
    if config.encoder == "tube" and hidden and config.decoder == "running_cell":
        shown = CELL - round(CELL * config.decoder_ratio)
        most_slots = t // CELL * shown + min(t % CELL, shown)  # that decode one tube
        predicted = min(predicted, hidden_cells * most_slots)
    return Counts(n - hidden, decoded, predicted)


def running_cell_patterns(grid: tuple[int, int, int], ratio: float) -> np.ndarray:
    """The four running-cell masks: bool [4, N], True = not decoded.

    A 2x2 cell holds a cyclic pattern of ratio * 4 skipped tokens followed by decoded ones; it moves
    on by one token per slot, and the first slot has already moved. The cell is tiled over space.
    """
    t, h, w = grid
    pattern = np.arange(CELL) < round(CELL * ratio)
    start, slot, token = np.ogrid[:CELL, :t, :CELL]
    cell = pattern[(token + start + slot + 1) % CELL].reshape(CELL, t, 2, 2)
    return np.tile(cell, (1, 1, h // 2, w // 2)).reshape(CELL, t * h * w)


def _random_subset(key: jax.Array, batch: int, size: int, chosen: int) -> jax.Array:
    """bool [batch, size] with exactly `chosen` True per row."""
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, (batch, size)), axis=1), axis=1)
    return rank < chosen


def hidden_from_encoder(
    key: jax.Array, batch: int, grid: tuple[int, int, int], config: MaskConfig
) -> jax.Array:
    """bool [batch, N]: the tokens that the encoder does not see."""
    t, h, w = grid
    if config.encoder == "none":
        return jnp.zeros((batch, t * h * w), bool)
    if config.encoder == "random":
        return _random_subset(key, batch, t * h * w, int(config.encoder_ratio * t * h * w))
    tube = _random_subset(key, batch, h * w, int(config.encoder_ratio * h * w))
    return jnp.tile(tube, (1, t))


def skipped_by_decoder(
    key: jax.Array, hidden: jax.Array, grid: tuple[int, int, int], config: MaskConfig
) -> jax.Array:
    """bool [B, N]: the tokens that the decoder does not reconstruct."""
    batch, n = hidden.shape
    if config.decoder == "running_cell":
        start = jax.random.randint(key, (batch,), 0, CELL)
        return jnp.asarray(running_cell_patterns(grid, config.decoder_ratio))[start]
    if config.decoder == "random":
        return _random_subset(key, batch, n, int(config.decoder_ratio * n))
    if counts(grid, config).visible == n:  # nothing hidden: decode every token
        return jnp.zeros_like(hidden)
    return ~hidden


def select(hidden: jax.Array, skipped: jax.Array, sizes: Counts) -> Masks:
    """Turns bool masks [B, N] into the token indices that the model gathers."""
    visible = jnp.argsort(hidden, axis=1, stable=True)[:, : sizes.visible]
    decoded = jnp.argsort(skipped, axis=1, stable=True)[:, : sizes.decoded]
    everything_seen = sizes.visible == hidden.shape[1]
    target = jnp.ones_like(hidden) if everything_seen else hidden
    target = jnp.take_along_axis(target, decoded, axis=1)
    predicted = jnp.argsort(~target, axis=1, stable=True)[:, : sizes.predicted]
    weight = jnp.take_along_axis(target, predicted, axis=1).astype(jnp.float32)
    return Masks(visible, decoded, predicted, weight)


def draw(key: jax.Array, batch: int, grid: tuple[int, int, int], config: MaskConfig) -> Masks:
    """Fresh masks for `batch` samples on a [t, h, w] token grid."""
    encoder_key, decoder_key = jax.random.split(key)
    hidden = hidden_from_encoder(encoder_key, batch, grid, config)
    skipped = skipped_by_decoder(decoder_key, hidden, grid, config)
    return select(hidden, skipped, counts(grid, config))
