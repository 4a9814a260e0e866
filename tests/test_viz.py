"""Pictures show what they are given."""

import numpy as np

from vmae_jax import viz


def test_mask_sheet_is_darker_where_more_is_hidden():
    def sheet(share):
        mask = np.arange(64).reshape(1, 8, 8) < share * 64
        return viz.mask_sheet({"a": np.repeat(mask, 4, axis=0)})

    pictures = [sheet(share) for share in (0, 0.5, 1)]
    assert all(p.dtype == np.uint8 and p.shape == pictures[0].shape for p in pictures)
    brightness = [p.mean() for p in pictures]
    assert brightness == sorted(brightness, reverse=True)
    half = pictures[1][pictures[1].shape[0] // 4 :]  # below the title; the first rows are hidden
    middle = len(half) // 2
    assert half[:middle].mean() < half[middle:].mean()


def test_mask_sheet_takes_one_row_per_mask():
    mask = np.zeros((4, 8, 8), bool)
    one, two = viz.mask_sheet({"a": mask}), viz.mask_sheet({"a": mask, "b": mask})
    assert two.shape[0] == 2 * one.shape[0]
    assert two.shape[1] == one.shape[1]


def test_reconstruction_sheet_has_every_clip_and_column():
    video = np.zeros((2, 8, 16, 16, 3), np.uint8)
    video[1] = 255
    sheet = viz.reconstruction_sheet(video, video / 255, video / 255, "how to read it")
    assert sheet.dtype == np.uint8
    top, bottom = (sheet[int(f * len(sheet))] for f in (0.3, 0.7))
    assert (top < 60).mean() > 0.8, "the black clip fills its row"
    assert (bottom > 200).mean() > 0.95, "the white clip fills its row"
