"""Cuts where they were planted, none elsewhere; scenes to clips."""

import fractions
import itertools

import cv2
import numpy as np
import pytest
from curate_videos import moving

from vmae_jax.data.curate.items import CurationError
from vmae_jax.data.curate.scenes import ClipRules, CutFinder, choose_clips
from vmae_jax.data.videos import stream_video

RATE = fractions.Fraction(24)
ACTIONS = ("applying_makeup.avi", "bottle_drumming.mp4", "cleaning_pool.mp4", "dog.mp4")
ACTIONS += ("goat.mp4", "shooting_basketball.mp4")


def find(pictures, step: int = 1, rate=RATE) -> tuple[int, ...]:
    finder = CutFinder(rate)
    for tick in range(0, len(pictures), step):
        finder.add(tick, pictures[tick])
    return finder.finish(len(pictures))


@pytest.mark.parametrize("step", [1, 2])
def test_planted_cuts_are_found(step):
    parts = [moving(seed, frames, (128, 96)) for seed, frames in enumerate((30, 40, 24, 50))]
    assert find(np.concatenate(parts), step) == (30, 70, 94)


@pytest.mark.parametrize("seed", range(10))
def test_one_scene_has_no_cuts(seed):
    assert find(moving(seed, 64, (128, 96)), 2) == ()


def test_a_fade_through_black_is_a_cut_and_a_flash_is_none():
    first, second = moving(0, 40, (128, 96)), moving(0, 40, (128, 96))
    fade = np.linspace(1, 0, 20)[:, None, None, None]
    out = (first[20:] * fade).astype(np.uint8)
    into = (second[:20] * fade[::-1]).astype(np.uint8)
    (cut,) = find(np.concatenate([first[:20], out, into, second[20:]]))
    assert 36 <= cut <= 44
    flash = moving(1, 60, (128, 96))
    flash[30] = 255
    assert len(find(flash)) <= 1


def test_real_videos_of_one_scene_have_no_cuts_and_joined_ones_have(shared):
    scenes = [list(stream_video(shared / "videos/actions" / name, 96)) for name in ACTIONS]
    for pictures in scenes:
        assert find(pictures, 2, fractions.Fraction(30)) == ()
    joined, expected = [], []
    for pictures in scenes:
        joined += [cv2.resize(picture, (128, 96)) for picture in pictures[20:80]]
        expected.append(len(joined))
    assert find(joined, 2, fractions.Fraction(30)) == tuple(expected[:-1])


def test_the_longest_scene_or_all():
    cuts, ticks = (24, 96, 102), 150
    assert choose_clips(cuts, ticks, RATE, ClipRules()) == [(1.0, 4.0)]
    rules = ClipRules(mode="all", min_seconds=1)
    assert choose_clips(cuts, ticks, RATE, rules) == [(0, 1.0), (1.0, 4.0), (4.25, 6.25)]
    # None is long enough: the longest stands for the video, and the gate names it.
    rules = ClipRules(mode="all", min_seconds=5)
    assert choose_clips(cuts, ticks, RATE, rules) == [(1.0, 4.0)]
    # Every second frame was looked at: the cut may lie a frame earlier.
    assert choose_clips((49,), 60, RATE, ClipRules(), step=2) == [(0, 2.0)]


def test_long_scenes_are_cut_to_equal_windows():
    windows = choose_clips((), 24 * 25, RATE, ClipRules(window_seconds=10))
    assert windows == [(0, 8.25), (8.25, 16.5), (16.5, 25)]
    for ticks in range(1, 2000, 37):
        windows = choose_clips((), ticks, RATE, ClipRules(window_seconds=3))
        assert windows[0][0] == 0
        assert windows[-1][1] == pytest.approx(ticks / 24, abs=1e-6)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(windows))
        assert all(end - start <= 3 and start % 0.25 == 0 for start, end in windows)
    assert choose_clips((), 24 * 90, RATE, ClipRules(window_seconds=0)) == [(0, 90)]


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({"mode": "best"}, "longest, all"),
        ({"min_seconds": -1}, "min_seconds"),
        ({"window_seconds": 1}, "window_seconds"),
    ],
)
def test_rules_are_checked(rules, named):
    with pytest.raises(CurationError, match=named):
        ClipRules(**rules)
