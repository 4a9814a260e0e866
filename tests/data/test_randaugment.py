"""RandAugment: Pillow's pixels, the recipe's levels and chances, one draw for all frames."""

import collections

import cv2
import numpy as np
import pytest

from vmae_jax.data.randaugment import OPERATIONS, RandAugment

Image = pytest.importorskip("PIL.Image")
ImageEnhance = pytest.importorskip("PIL.ImageEnhance")
ImageOps = pytest.importorskip("PIL.ImageOps")

LEVELS = (0.0, 0.31, 0.7, 1.0)
FILL = (128, 128, 128)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Blotches of different contrast, one plain frame and one with two colours: u8[4, H, W, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (2, 8, 10, 3)).astype(np.float32)
    smooth = [cv2.resize(c, (86, 64), interpolation=cv2.INTER_CUBIC) for c in coarse]
    plain = np.full((64, 86, 3), (10, 90, 250))
    halves = plain.copy()
    halves[:, 40:] = (200, 3, 17)
    return np.clip([smooth[0], 0.4 * smooth[1] + 60, plain, halves], 0, 255).astype(np.uint8)


def pillow(frames: np.ndarray, change) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in frames])


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("level", LEVELS)
def test_tables_equal_pillow(frames, level, increasing):
    bits = 4 - int(4 * level) if increasing else int(4 * level)
    threshold = 256 - int(256 * level) if increasing else int(256 * level)
    added = int(110 * level)
    changes = {
        "auto_contrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
        "invert": ImageOps.invert,
        "posterize": lambda image: ImageOps.posterize(image, bits),
        "solarize": lambda image: ImageOps.solarize(image, threshold),
        "solarize_add": lambda image: image.point(
            [min(255, i + added) if i < 128 else i for i in range(256)] * 3
        ),
    }
    for name, change in changes.items():
        found = OPERATIONS[name](frames, level, 1, increasing)
        np.testing.assert_array_equal(found, pillow(frames, change), err_msg=name)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", LEVELS)
def test_enhancements_equal_pillow_within_rounding(frames, level, sign):
    for increasing in (True, False):
        factor = 1 + sign * 0.9 * level if increasing else 0.1 + 1.8 * level
        for name, enhance in {
            "color": ImageEnhance.Color,
            "contrast": ImageEnhance.Contrast,
            "brightness": ImageEnhance.Brightness,
            "sharpness": ImageEnhance.Sharpness,
        }.items():
            found = OPERATIONS[name](frames, level, sign, increasing).astype(int)
            expected = pillow(frames, lambda image, e=enhance, f=factor: e(image).enhance(f))
            off = np.abs(found - expected)
            assert off.max() <= (0 if name == "brightness" else 1), name
            assert off.mean() < 0.4, name


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", LEVELS)
def test_moves_equal_pillow(frames, level, sign):
    height, width = frames.shape[1:3]

    def moved(*matrix: float):
        return lambda image: image.transform(
            image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL
        )

    amount = level * sign
    changes = {
        "rotate": lambda image: image.rotate(30 * amount, Image.Resampling.BICUBIC, fillcolor=FILL),
        "shear_x": moved(1, 0.3 * amount, 0, 0, 1, 0),
        "shear_y": moved(1, 0, 0, 0.3 * amount, 1, 0),
        "translate_x": moved(1, 0, round(0.45 * amount * width), 0, 1, 0),
        "translate_y": moved(1, 0, 0, 0, 1, round(0.45 * amount * height)),
    }
    smooth = frames[:2]
    for name, change in changes.items():
        found = OPERATIONS[name](smooth, level, sign, True).astype(int)
        off = np.abs(found - pillow(smooth, change)).max(axis=-1)
        assert off.max() <= 3, name  # their cubic curves differ a little, and so does rounding
        assert off.mean() < 1, name


def test_all_frames_get_the_same(frames):
    same = np.repeat(frames[:1], 5, axis=0)
    augmenter = RandAugment.parse("rand-m7-n4-mstd0.5-inc1")
    rng = np.random.default_rng(0)
    outs = [augmenter(same, rng) for _ in range(40)]
    for out in outs:
        assert out.shape == same.shape
        assert out.dtype == np.uint8
        assert (out == out[:1]).all()
    assert len({out.tobytes() for out in outs}) > 30


def test_it_depends_on_the_generator_alone_and_leaves_its_input(frames):
    augmenter = RandAugment.parse("rand-m9-n6-mstd0.5-inc1")
    before = frames.copy()
    a, b = (augmenter(frames, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(frames, before)


def test_names():
    assert RandAugment.parse("rand-m7-n4-mstd0.5-inc1") == RandAugment(7, 4, 0.5, True)
    assert RandAugment.parse("rand-m9-n2") == RandAugment(9, 2, 0, False)
    with pytest.raises(ValueError, match="'rand-9'"):
        RandAugment.parse("rand-9")


def test_chances_and_levels(frames, monkeypatch):
    calls = collections.defaultdict(list)
    for name in OPERATIONS:
        monkeypatch.setitem(
            OPERATIONS, name, lambda f, *args, name=name: calls[name].append(args) or f
        )
    augmenter = RandAugment.parse("rand-m7-n4-mstd0.5-inc1")
    rng = np.random.default_rng(0)
    for _ in range(3000):
        augmenter(frames, rng)
    counts = {name: len(found) for name, found in calls.items()}
    assert counts.keys() == OPERATIONS.keys()
    for name, count in counts.items():
        assert abs(count - 3000 * 4 * 0.5 / 15) < 90, name  # 4.5 standard deviations
    levels, signs, increasing = zip(
        *(args for found in calls.values() for args in found), strict=True
    )
    assert abs(np.mean(levels) - 0.7) < 0.005
    assert abs(np.std(levels) - 0.05) < 0.005
    assert max(levels) <= 1
    assert abs(np.mean(signs)) < 0.06
    assert set(increasing) == {True}
