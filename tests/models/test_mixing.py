"""Random erasing, mixup and cutmix: what they may change, and that targets say what was mixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.config import AugmentConfig
from vmae_jax.models import mixing

SHAPE = (6, 4, 32, 24, 3)
TARGETS = jnp.eye(6)  # clip i is class i, so that targets tell which clips were mixed


@pytest.fixture
def video():
    return jax.random.normal(jax.random.key(0), SHAPE)


def test_erasing_changes_one_box_that_all_frames_share(video):
    erase = jax.jit(lambda key: mixing.erase(key, video, 1.0))
    shares = []
    for seed in range(30):
        changed = np.asarray(erase(jax.random.key(seed)) != video).any(-1)
        for clip in changed:
            np.testing.assert_array_equal(clip, clip[:1].repeat(len(clip), 0))
            rows, columns = clip[0].any(1).nonzero()[0], clip[0].any(0).nonzero()[0]
            box = clip[0][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all(), "the changed pixels form a rectangle"
            shares.append(clip[0].mean())
    assert 0.01 < min(shares) < max(shares) < 0.36
    assert len(set(shares)) > 20


def test_erased_pixels_differ_from_frame_to_frame(video):
    erased = np.asarray(mixing.erase(jax.random.key(1), jnp.zeros(SHAPE), 1.0))
    box = erased[:, 0] != 0
    assert (erased[:, 1][box] != erased[:, 0][box]).all()


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0.0), (0.25, 0.25)])
def test_erasing_has_its_probability(probability, expected):
    video = jnp.zeros((400, 1, 16, 16, 3))
    erased = mixing.erase(jax.random.key(0), video, probability)
    assert (erased != video).any((1, 2, 3, 4)).mean() == pytest.approx(expected, abs=0.07)


@pytest.mark.parametrize("config", [
    AugmentConfig(mixup=0.8, cutmix=0.0), AugmentConfig(mixup=0.0, cutmix=1.0),
])  # fmt: skip
def test_targets_say_what_was_mixed(video, config):
    mix = jax.jit(lambda key: mixing.mix(key, video, TARGETS, config))
    shares = []
    for seed in range(20):
        mixed, targets = mix(jax.random.key(seed))
        np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
        kept = float(targets[0, 0])
        np.testing.assert_allclose(targets, kept * TARGETS + (1 - kept) * TARGETS[::-1], atol=1e-6)
        shares.append(kept)
        if config.mixup:
            expected = kept * video + (1 - kept) * video[::-1]
            np.testing.assert_allclose(mixed, expected, atol=1e-5)
        else:
            own, other = np.asarray(mixed == video), np.asarray(mixed == video[::-1])
            assert (own | other).all()
            assert own.mean() == pytest.approx(kept, abs=1e-6)
            np.testing.assert_array_equal(own[:, :1].repeat(4, 1), own)
    assert len(set(shares)) > 15
    assert min(shares) < 0.5 < max(shares)


def test_one_draw_chooses_mixup_or_cutmix_for_the_batch(video):
    mix = jax.jit(lambda key: mixing.mix(key, video, TARGETS, AugmentConfig(cutmix_share=0.3)))
    cut = 0
    for seed in range(200):
        mixed, _ = mix(jax.random.key(seed))
        cut += bool(((mixed == video) | (mixed == video[::-1])).all())
    assert cut / 200 == pytest.approx(0.3, abs=0.1)


def test_groups_mix_among_themselves_and_draw_for_themselves(video):
    mix = jax.jit(lambda key: mixing.mix(key, video, TARGETS, AugmentConfig(cutmix=0, mix_group=2)))
    partner = video.reshape(-1, 2, *video.shape[1:])[:, ::-1].reshape(video.shape)
    differ = 0
    for seed in range(10):
        mixed, targets = mix(jax.random.key(seed))
        kept = [(mixed - partner)[i].mean() / (video - partner)[i].mean() for i in (0, 2, 4)]
        expected = np.repeat(kept, 2)[:, None, None, None, None]
        np.testing.assert_allclose(mixed, expected * video + (1 - expected) * partner, atol=1e-4)
        differ += abs(kept[0] - kept[1]) > 0.01
        np.testing.assert_allclose(targets.sum(-1), TARGETS.sum(-1), rtol=1e-6)
    assert differ > 5


@pytest.mark.parametrize("config", [
    AugmentConfig(mix_probability=0.0), AugmentConfig(mixup=0.0, cutmix=0.0),
])  # fmt: skip
def test_mixing_switched_off_changes_nothing(video, config):
    mixed, targets = mixing.mix(jax.random.key(0), video, TARGETS, config)
    np.testing.assert_array_equal(mixed, video)
    np.testing.assert_array_equal(targets, TARGETS)


def test_smoothing_spreads_over_all_classes():
    targets = mixing.smooth(jnp.array([2, 0]), 4, 0.1)
    np.testing.assert_allclose(
        targets, [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]], rtol=1e-6
    )
