"""Pictures show what they are given."""

import numpy as np
from etils import epath
from PIL import Image

from vmae_jax import metrics, viz


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


def test_names_are_no_formulas():
    names = ["a$b_$", "$\\frac$"]
    assert viz.confusion_sheet(np.eye(2, dtype=int), names).dtype == np.uint8
    frames = np.zeros((1, 4, 32, 32, 3), np.uint8)
    assert viz.frames_sheet(frames, np.arange(4)[None], "a$b_$.mp4").dtype == np.uint8


def test_reconstruction_sheet_has_every_clip_and_column():
    video = np.zeros((2, 8, 16, 16, 3), np.uint8)
    video[1] = 255
    sheet = viz.reconstruction_sheet(video, video / 255, video / 255, "how to read it")
    assert sheet.dtype == np.uint8
    top, bottom = (sheet[int(f * len(sheet))] for f in (0.3, 0.7))
    assert (top < 60).mean() > 0.8, "the black clip fills its row"
    assert (bottom > 200).mean() > 0.95, "the white clip fills its row"


def test_reconstruction_film_plays_every_frame_of_every_clip():
    video = np.random.default_rng(0).integers(0, 256, (2, 8, 48, 48, 3), np.uint8)
    film = viz.reconstruction_film(video, np.zeros(video.shape), 1 - video / 255)
    assert film.shape == (8, 2 * 48 + 2, 3 * 48 + 2 * 2, 4)
    for clip, top in enumerate((0, 50)):
        parts = [film[:, top : top + 48, left : left + 48, :3] for left in (0, 50, 100)]
        np.testing.assert_array_equal(parts[0], video[clip])
        assert not parts[1].any()
        np.testing.assert_array_equal(parts[2], 255 - video[clip])
    assert not film[:, 48:50, :, 3].any(), "transparent between the clips"


def test_a_film_is_a_file_that_plays(tmp_path):
    frames = np.zeros((5, 16, 24, 4), np.uint8)
    frames[..., 3] = 255
    frames[..., 0] = 50 * np.arange(5)[:, None, None]
    path = metrics.write_picture(epath.Path(tmp_path / "new"), "film_0000001", frames)
    assert path.name == "film_0000001.webp"
    with Image.open(path) as film:
        assert (film.n_frames, film.size, film.info["loop"]) == (5, (24, 16), 0)
        for i in range(5):
            film.seek(i)
            assert abs(np.asarray(film.convert("RGB"))[..., 0].mean() - 50 * i) < 10
            assert film.info["duration"] == metrics.FRAME_MILLISECONDS
