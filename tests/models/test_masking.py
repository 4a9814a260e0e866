"""Masks: the reference's patterns, exact counts, and what is padded where counts vary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.config import Config, ConfigError, MaskConfig, ModelConfig
from vmae_jax.models import masking


@pytest.fixture(scope="module")
def reference():
    from conftest import GOLDENS

    return np.load(GOLDENS / "masks.npz")


def grid_of(name):
    return tuple(int(n) for n in name.split("_")[1].split("x"))


def test_running_cells_equal_the_reference(reference):
    names = [n for n in reference.files if n.startswith("runcell")]
    assert len(names) == 12
    for name in names:
        ours = masking.running_cell_patterns(grid_of(name), float(name.split("_")[2]))
        np.testing.assert_array_equal(ours, reference[name].reshape(4, -1), err_msg=name)


def test_tube_counts_equal_the_reference(reference):
    names = [n for n in reference.files if n.startswith("tube")]
    assert len(names) == 12
    for name in names:
        t, h, w = grid = grid_of(name)
        config = MaskConfig(encoder_ratio=float(name.split("_")[2]))
        hidden = masking.hidden_from_encoder(jax.random.key(0), 5, grid, config)
        hidden = np.asarray(hidden).reshape(5, t, h * w)
        assert (hidden.sum(-1) == reference[name]).all(), name
        assert (hidden == hidden[:, :1]).all(), "a tube hides the same cells in all slots"
        assert masking.counts(grid, config).visible == t * (h * w - int(reference[name]))


def test_sequences_of_the_reference_are_among_what_we_draw(reference):
    tubes, cells = reference["seq_seed1234_tube"], reference["seq_seed1234_cell"]
    patterns = masking.running_cell_patterns((8, 14, 14), 0.5)
    for tube, cell in zip(tubes, cells, strict=True):
        assert tube[0].sum() == int(0.9 * 196)
        assert (tube == tube[0]).all()
        assert (patterns == cell.reshape(-1)).all(axis=1).any()


def test_every_start_and_every_cell_is_drawn():
    grid, batch = (4, 4, 4), 512
    masks = masking.draw(jax.random.key(0), batch, grid, MaskConfig())
    skipped = np.ones((batch, 64), bool)
    np.put_along_axis(skipped, np.asarray(masks.decoded), False, axis=1)
    patterns = masking.running_cell_patterns(grid, 0.5)
    starts = (skipped[:, None] == patterns).all(-1)
    assert (starts.sum(1) == 1).all()
    assert (starts.sum(0) > batch / 8).all()
    visible = np.bincount(np.asarray(masks.visible).ravel(), minlength=64)
    assert visible.min() > batch / 16  # two cells of sixteen are shown: 64 expected


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("encoder", ["tube", "random", "none"])
@pytest.mark.parametrize(
    ("decoder", "ratio"),
    [("running_cell", 0.25), ("running_cell", 0.5), ("running_cell", 0.75), ("random", 0.5),
     ("none", 0.5)],
)  # fmt: skip
def test_targets_are_exactly_the_hidden_decoded_tokens(slots, encoder, decoder, ratio):
    grid, batch = (slots, 6, 4), 64
    config = MaskConfig(encoder, 0.8, decoder, ratio)
    sizes, n = masking.counts(grid, config), slots * 24
    masks = jax.tree.map(np.asarray, masking.draw(jax.random.key(1), batch, grid, config))
    assert masks.visible.shape == (batch, sizes.visible)
    assert masks.decoded.shape == (batch, sizes.decoded)
    assert masks.predicted.shape == masks.weight.shape == (batch, sizes.predicted)
    for b in range(batch):
        visible, decoded = set(masks.visible[b]), set(masks.decoded[b])
        assert len(visible) == sizes.visible
        assert len(decoded) == sizes.decoded
        hidden = set(range(n)) - visible if encoder != "none" else set(range(n))
        chosen = masks.decoded[b][masks.predicted[b]][masks.weight[b] == 1]
        assert sorted(chosen) == sorted(hidden & decoded), "a target is lost or counted twice"
    if slots % 4 == 0 and encoder == "tube" and decoder == "running_cell":
        assert masks.weight.all(), "no padding where the count is constant"


@pytest.mark.parametrize(("encoder", "decoder"), [("tube", "running_cell"), ("random", "random")])
def test_masks_depend_on_the_key_alone(encoder, decoder):
    config = MaskConfig(encoder, 0.75, decoder, 0.5)
    a, b = (masking.draw(jax.random.key(k), 4, (8, 4, 4), config) for k in (0, 0))
    c = masking.draw(jax.random.key(1), 4, (8, 4, 4), config)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not jnp.array_equal(a.visible, c.visible)
    assert not (a.visible == a.visible[:1]).all(), "every sample has a mask of its own"


def test_odd_grids_and_ratios_are_refused():
    with pytest.raises(ConfigError, match="7x7 with patch size 16; take 96 or 128"):
        Config(model=ModelConfig(image_size=112))
    with pytest.raises(ConfigError, match=r"0.25, 0.5 or 0.75"):
        MaskConfig(decoder_ratio=0.6)
    Config(model=ModelConfig(image_size=112), mask=MaskConfig(decoder="random"))
