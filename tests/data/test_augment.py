"""Crops: only the reference's sizes and places, one box for all frames, exact resizing."""

import numpy as np
import pytest
from PIL import Image

from vmae_jax.config import Config, DataConfig
from vmae_jax.data import augment, views


@pytest.mark.parametrize(("height", "width"), [(256, 340), (455, 256), (256, 256), (49, 77)])
def test_boxes_have_the_reference_sizes_and_places(height, width):
    sides = [int(min(height, width) * scale) for scale in (1, 0.875, 0.75, 0.66)]
    sides = [224 if abs(side - 224) < 3 else side for side in sides]
    quarters = {
        (0, 0),
        (4, 0),
        (0, 4),
        (4, 4),
        (2, 2),
        (0, 2),
        (4, 2),
        (2, 4),
        (2, 0),
        (1, 1),
        (3, 1),
        (1, 3),
        (3, 3),
    }
    allowed = {
        (right * ((width - w) // 4), down * ((height - h) // 4), w, h)
        for i, w in enumerate(sides)
        for j, h in enumerate(sides)
        for right, down in quarters
        if abs(i - j) <= 1
    }
    rng = np.random.default_rng(0)
    drawn = {augment.multi_scale_box(height, width, 224, rng) for _ in range(4000)}
    assert drawn == allowed
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in drawn)


def test_a_side_close_to_the_output_size_is_taken_as_it():
    rng = np.random.default_rng(0)
    sides = {augment.multi_scale_box(226, 300, 224, rng)[2] for _ in range(200)}
    assert max(sides) == 224
    # 223 pixels cannot hold a side of 224.
    sides = {augment.multi_scale_box(223, 300, 224, rng)[2] for _ in range(200)}
    assert max(sides) == 223


def test_all_frames_of_a_view_share_the_box_and_views_differ():
    frame = np.random.default_rng(0).integers(256, size=(1, 60, 80, 3), dtype=np.uint8)
    frames = np.repeat(frame, 5, axis=0)
    rng = np.random.default_rng(1)
    views = [augment.multi_scale_crop(frames, 32, rng) for _ in range(8)]
    for view in views:
        assert view.shape == (5, 32, 32, 3)
        assert view.dtype == np.uint8
        assert (view == view[:1]).all()
    assert len({view.tobytes() for view in views}) > 4


def test_a_crop_of_the_output_size_is_not_resampled():
    frames = np.random.default_rng(0).integers(256, size=(3, 40, 50, 3), dtype=np.uint8)
    crop = augment.resized_crop(frames, (7, 5, 32, 32), 32)
    np.testing.assert_array_equal(crop, frames[:, 5:37, 7:39])


def test_resize_is_bilinear_with_pixel_centres():
    ramp = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8)[:, None], (1, 20, 20, 3)[:3])
    frames = np.ascontiguousarray(np.repeat(ramp[..., None], 3, axis=-1))
    out = augment.resized_crop(frames, (0, 0, 20, 20), 40)[0, :, 0, 0].astype(float)
    positions = (np.arange(40) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(
        out, np.interp(positions, np.arange(20), np.arange(0, 200, 10)), atol=0.51
    )


@pytest.mark.parametrize(("width", "height"), [(80, 80), (40, 64), (64, 40), (30, 40), (40, 40)])
def test_antialiased_crops_are_pillows(width, height):
    frames = np.random.default_rng(0).integers(256, size=(2, 90, 100, 3), dtype=np.uint8)
    found = augment.resized_crop(frames, (7, 5, width, height), 40, antialias=True)
    for view, frame in zip(found, frames, strict=True):
        crop = Image.fromarray(frame[5 : 5 + height, 7 : 7 + width])
        pillow = np.asarray(crop.resize((40, 40), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(view - pillow).max() <= 1, "what grows is the same to a rounding"
    plain = augment.resized_crop(frames, (7, 5, width, height), 40)
    assert np.array_equal(plain, found) == (max(width, height) <= 40)


def test_pretraining_antialiases_where_it_is_asked_to():
    frames = np.random.default_rng(0).integers(256, size=(2, 60, 80, 3), dtype=np.uint8)
    for wanted in (False, True):
        made = views.training_views(Config(data=DataConfig(antialias=wanted)))
        assert made.antialias is wanted
        view = augment.multi_scale_crop(frames, 24, np.random.default_rng(3), antialias=wanted)
        box = augment.multi_scale_box(60, 80, 24, np.random.default_rng(3))
        expected = augment.resized_crop(frames, box, 24, antialias=wanted)
        np.testing.assert_array_equal(view, expected)


def test_strong_shrinking_averages_every_pixel():
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    frames[:, ::4, ::4] = 240
    assert set(np.unique(augment.resize_short_side(frames[0], 16))) == {15}


def test_random_boxes_keep_to_area_and_ratio():
    rng = np.random.default_rng(0)
    height, width = 240, 320
    boxes = np.array([augment.random_resized_box(height, width, 0.08, rng) for _ in range(3000)])
    left, top, w, h = boxes.T
    assert (boxes >= 0).all()
    assert (left + w).max() == width
    assert (top + h).max() == height
    share, ratio = w * h / (width * height), w / h
    assert 0.075 < share.min() < 0.1
    assert 0.97 < share.max() <= 1
    small = share < 0.5  # larger ones do not fit with every ratio
    assert abs(np.median(share[small]) - 0.29) < 0.02
    assert abs(np.log(ratio[small]).mean()) < 0.02
    assert 0.73 < ratio.min() < 0.76
    assert 1.31 < ratio.max() < 1.37


@pytest.mark.parametrize(
    ("shape", "box"), [((10, 400), (193, 0, 13, 10)), ((400, 12), (0, 192, 12, 16))]
)
def test_where_no_box_fits_the_middle_is_taken(shape, box):
    assert augment.random_resized_box(*shape, 0.5, np.random.default_rng(0)) == box


def test_scaling_by_the_short_side():
    frame = np.zeros((256, 340, 3), np.uint8)
    assert augment.resize_short_side(frame, 224).shape == (224, 297, 3)
    assert augment.resize_short_side(frame.transpose(1, 0, 2), 320).shape == (425, 320, 3)
    assert augment.resize_short_side(frame, 256) is frame
