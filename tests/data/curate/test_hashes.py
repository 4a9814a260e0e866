"""Perceptual hashes: alike for copies of a picture, far apart for others."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmae_jax.data import synthetic
from vmae_jax.data.curate.hashes import BLANK, MIRROR, frame_hash, mirrored


def picture(seed: int, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return synthetic.render("move_left", rng, size=size, num_frames=1)[0]


def encoded(frame: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 30])
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def cropped(frame: np.ndarray) -> np.ndarray:
    return frame[6:-6, 8:-8]  # 2.5 % on each side


def distance(a: np.uint64, b: np.uint64) -> int:
    return int(np.bitwise_count(a ^ b))


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (encoded, 4),
        (lambda frame: cv2.resize(frame, (160, 120), interpolation=cv2.INTER_AREA), 4),
        (lambda frame: cv2.resize(frame, (500, 300)), 5),  # of another shape
        (lambda frame: np.uint8(frame * 0.7 + 20), 4),
        (cropped, 10),
        (lambda frame: frame[12:, 16:], 18),  # 5 % of two sides
    ],
)
def test_a_copy_is_near(change, most):
    found = [distance(frame_hash(frame), frame_hash(change(frame))) for frame in pictures()]
    assert max(found) <= most, found


def test_other_pictures_are_far():
    hashes = np.array([frame_hash(frame) for frame in pictures()])
    apart = np.bitwise_count(hashes[:, None] ^ hashes)[~np.eye(len(hashes), dtype=bool)]
    assert apart.min() > 16
    assert 28 < apart.mean() < 36


def pictures() -> list[np.ndarray]:
    return [picture(seed) for seed in range(12)]


def test_the_mirrored_picture_is_known_without_it():
    for frame in pictures():
        assert mirrored(frame_hash(frame)) == frame_hash(frame[:, ::-1])


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_mirroring_twice_changes_nothing_but_what_says_nothing(values):
    hashes = np.array(values, np.uint64)
    turned = mirrored(hashes)
    assert np.array_equal(turned == BLANK, (hashes == BLANK) | (hashes == MIRROR))
    assert np.array_equal(mirrored(turned)[hashes != MIRROR], hashes[hashes != MIRROR])


@pytest.mark.parametrize("grey", [0, 16, 128, 255])
def test_a_picture_that_shows_nothing_is_blank(grey):
    noise = np.random.default_rng(0).integers(-2, 3, (240, 320, 3))
    assert frame_hash(np.uint8(np.clip(grey + noise, 0, 255))) == BLANK


def test_dark_texture_is_no_blank():
    assert all(frame_hash(frame // 8) != BLANK for frame in pictures())


@pytest.mark.parametrize("shape", [(1, 1), (2, 500), (31, 33), (720, 1280)])
def test_any_size_and_grey_pictures_are_hashed(shape):
    colour = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = frame_hash(colour)
    assert found.dtype == np.uint64
    assert found == frame_hash(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))


def test_the_meaning_of_a_hash_stays():
    """Files of fingerprints are compared with later hashes: another hash needs another version."""
    ramp = np.add.outer(np.arange(64) ** 2, 3 * np.arange(96)) % 251
    assert frame_hash(ramp.astype(np.uint8)) == 4969320680927385366
