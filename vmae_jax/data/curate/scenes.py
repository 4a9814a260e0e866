"""Where scenes begin (PySceneDetect) and which stretches of a video become its clips."""

import dataclasses
import fractions
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vmae_jax.data.curate.items import HASHES_PER_SECOND, CurationError

MODES = ("longest", "all")
_SHORT_SIDE = 128  # pixels of the pictures that are compared; half of what comes is scaled fastest
_MIN_SCENE = 0.5  # seconds between two cuts: below, it is a flash
# Of neighbouring pictures, in grey levels (hue, saturation and value, averaged): at least this, and
# this many times what the pictures around change by. A moving camera changes them all.
_MIN_CHANGE, _MIN_RATIO = 15.0, 3.0
_BLACK = 12  # mean grey level below which a scene has faded out


@dataclasses.dataclass(frozen=True)
class ClipRules:
    """Which stretches of a video become clips."""

    mode: str = "longest"  # longest: its longest scene; all: every scene of at least min_seconds
    min_seconds: float = 2.0  # a video whose scenes are all shorter gives its longest one
    window_seconds: float = 60.0  # longer scenes are cut to equal windows; 0 = never

    def __post_init__(self):
        if self.mode not in MODES:
            raise CurationError(f"mode {self.mode!r}: expected one of {', '.join(MODES)}")
        if not self.min_seconds >= 0:
            raise CurationError(f"min_seconds {self.min_seconds}: expected 0 or more")
        if self.window_seconds and not self.window_seconds >= max(1.0, self.min_seconds):
            raise CurationError(
                f"window_seconds {self.window_seconds}: expected 0 (never cut), or at least 1 and "
                f"min_seconds ({self.min_seconds})"
            )


class CutFinder:
    """Finds cuts, and fades through black, in pictures that come one at a time.

    Holds a few small pictures, however long the video is.
    """

    def __init__(self, rate: fractions.Fraction):
        """`rate`: ticks per second; times are counted in whole ticks."""
        try:
            from scenedetect.common import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector, ThresholdDetector
        except ImportError as error:
            raise CurationError(
                "finding scenes needs PySceneDetect: pip install 'vmae_jax[curate]'"
            ) from error
        shortest = max(1, round(_MIN_SCENE * rate))
        self._detectors = [
            AdaptiveDetector(
                adaptive_threshold=_MIN_RATIO,
                min_content_val=_MIN_CHANGE,
                min_scene_len=shortest,
            ),
            ThresholdDetector(threshold=_BLACK, min_scene_len=shortest),
        ]
        self._time, self._rate, self._shortest = FrameTimecode, rate, shortest
        self._cuts: set[int] = set()

    def add(self, tick: int, picture: np.ndarray) -> None:
        """Looks at the next picture, u8[H, W, 3] in RGB, shown from `tick` on."""
        height, width = picture.shape[:2]
        scale = _SHORT_SIDE / min(height, width)
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        self._collect("process_frame", self._time(tick, self._rate), picture)

    def finish(self, ticks: int) -> tuple[int, ...]:
        """The ticks at which new scenes begin, in order, without 0; `ticks` is the whole length."""
        self._collect("post_process", self._time(max(0, ticks - 1), self._rate))
        found: list[int] = []
        for cut in sorted(self._cuts):
            # Both detectors may see one change, a little apart.
            if cut - (found[-1] if found else 0) >= self._shortest and cut < ticks:
                found.append(cut)
        return tuple(found)

    def _collect(self, method: str, *args: Any) -> None:
        for detector in self._detectors:
            self._cuts.update(cut.frame_num for cut in getattr(detector, method)(*args))


def choose_clips(
    cuts: Sequence[int], ticks: int, rate: fractions.Fraction, rules: ClipRules, step: int = 1
) -> list[tuple[float, float]]:
    """Start and end of the clips of a video in seconds, in order.

    A clip starts at a multiple of 1 / HASHES_PER_SECOND, so that its first hash is its first
    picture's; what of its scene lies before that is left out. Frame number `round(end * rate)` is
    the first that is not in it.

    Args:
      cuts: ticks at which new scenes begin, without 0.
      ticks: length of the video.
      rate: ticks per second.
      step: only every so many-th frame was looked at, so a cut may come up to `step - 1` ticks
        before it was seen: the scene before ends there.
    """
    ends = [cut - (step - 1) for cut in cuts] + [ticks]
    scenes = [
        (math.ceil(begin * HASHES_PER_SECOND / rate) / HASHES_PER_SECOND, round(end / rate, 6))
        for begin, end in zip([0, *cuts], map(fractions.Fraction, ends), strict=True)
    ]
    # A record needs two frames.
    long = [(s, float(e)) for s, e in scenes if round(float(e) * rate) - round(s * rate) >= 2]
    scenes = long or [(0.0, round(float(ticks / rate), 6))]
    longest = max(scenes, key=lambda scene: scene[1] - scene[0])
    chosen = [s for s in scenes if rules.mode == "all" and s[1] - s[0] >= rules.min_seconds]
    return [window for scene in chosen or [longest] for window in _windows(*scene, rules)]


def _windows(start: float, end: float, rules: ClipRules) -> list[tuple[float, float]]:
    if not rules.window_seconds or end - start <= rules.window_seconds:
        return [(start, end)]
    grid = 1 / HASHES_PER_SECOND
    count = math.ceil((end - start) / (rules.window_seconds - grid))
    edges = [start + math.floor(i * (end - start) / count / grid) * grid for i in range(count)]
    return list(zip(edges, [*edges[1:], end], strict=True))
