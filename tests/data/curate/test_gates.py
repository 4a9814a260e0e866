"""Every planted flaw is caught by its gate, and good videos pass."""

import dataclasses

import cv2
import numpy as np
import pytest
from curate_videos import barred, blurred_sides, captioned, moving, noisy, slides, write

from vmae_jax.data import synthetic
from vmae_jax.data.curate.examine import ExamineSettings, examine
from vmae_jax.data.curate.gates import GateLimits, judge, slideshow_share
from vmae_jax.data.curate.items import Clip, CurationError, Examined, Item

ACTIONS = ("applying_makeup.avi", "arm_wrestling.mp4", "bottle_drumming.mp4", "cleaning_pool.mp4")
ACTIONS += ("dog.mp4", "goat.mp4", "shooting_basketball.mp4")


def reason(file, limits: GateLimits | None = None) -> str:
    video = examine(Item("v", "v"), str(file), ExamineSettings())
    if video.reason:
        return video.reason
    (clip,) = video.clips
    removal = judge(clip, video, limits or GateLimits())
    assert removal is None or (removal.id == "v#0" and ", expected at " in removal.detail)
    return removal.reason if removal else ""


FLAWS = {
    "": lambda: moving(2),
    "too small": lambda: moving(2, size=(128, 96)),
    "too short": lambda: moving(2, frames=30),
    "black": lambda: noisy(np.full((240, 426, 3), 8, np.uint8), 60),
    "static": lambda: noisy(moving(2)[0], 60),
    "slideshow": lambda: slides(4, 60),
    "letterbox": lambda: barred(moving(2), 0.12),
    "blurred": lambda: [cv2.GaussianBlur(picture, (0, 0), 3) for picture in moving(2)],
    "text overlay": lambda: captioned(moving(2)),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_each_flaw_has_its_gate(tmp_path, flaw):
    assert reason(write(tmp_path / "v.mp4", FLAWS[flaw]())) == flaw


@pytest.mark.parametrize(
    ("flaw", "make"),
    [
        ("letterbox", lambda: barred(moving(3), 0.2, 255)),
        ("letterbox", lambda: captioned(barred(moving(3), 0.25), ("TOP CAPTION",))),
        ("letterbox", lambda: [p.transpose(1, 0, 2) for p in barred(moving(4), 0.15)]),
        ("letterbox", lambda: blurred_sides(moving(1))),
        ("letterbox", lambda: [p.transpose(1, 0, 2) for p in blurred_sides(moving(5))]),
        ("black", lambda: moving(2) // 12),
        ("slideshow", lambda: slides(3, 40)),
    ],
)
def test_flaws_in_other_shapes(tmp_path, flaw, make):
    assert reason(write(tmp_path / "v.mp4", make())) == flaw


def test_the_frame_rate_counts(tmp_path):
    assert reason(write(tmp_path / "v.mp4", moving(2), fps=8)) == "too few frames per second"


def test_real_videos_pass(shared):
    assert [reason(shared / "videos/actions" / name) for name in ACTIONS] == [""] * 7


def test_synthetic_videos_pass(tmp_path):
    small = GateLimits(min_short_side=0)
    for file in synthetic.write_videos(tmp_path / "small", clips_per_class=1):
        assert reason(file, small) == "", file
    for file in synthetic.write_videos(tmp_path, clips_per_class=2, size=(426, 240)):
        assert reason(file) == "", file


def test_what_a_limit_says_and_that_0_is_off():
    clip = Clip("v", 1, 0.0, 1.5, {"bars": 0.2512})
    video = Examined("v", height=100, width=300, fps=25.0)
    off = GateLimits(**{field.name: 0 for field in dataclasses.fields(GateLimits)})
    assert judge(clip, video, off) is None
    found = judge(clip, video, dataclasses.replace(off, max_bars=0.2))
    assert (found.id, found.reason) == ("v#1", "letterbox")
    assert found.detail == "bars 0.2512, expected at most 0.2"
    found = judge(clip, video, dataclasses.replace(off, min_short_side=224, max_bars=0.2))
    assert found.detail == "short_side 100, expected at least 224"
    assert judge(clip, video, dataclasses.replace(off, max_seconds=1)).reason == "too long"
    with pytest.raises(CurationError, match=r"min_people: clip 'v#1' has no score 'people'.*model"):
        judge(clip, video, dataclasses.replace(off, min_people=0.5))


@pytest.mark.parametrize(
    "limits", [{"max_bars": 1.5}, {"min_fps": -1}, {"min_seconds": float("nan")}]
)
def test_limits_are_checked(limits):
    with pytest.raises(CurationError, match=next(iter(limits))):
        GateLimits(**limits)


def test_slides_follow_upon_each_other():
    still, moves = [0.5] * 4, [40.0]
    assert slideshow_share(np.array((still + moves) * 3)) == pytest.approx(12 / 15)
    assert slideshow_share(np.array(still * 5)) == 0  # one picture is static, no slide show
    assert slideshow_share(np.array(moves * 20)) == 0
    assert slideshow_share(np.array(still + moves * 10 + still)) == 0  # a pause at either end
    assert slideshow_share(np.array([])) == 0
