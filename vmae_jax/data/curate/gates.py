"""Scores of a clip, and the limits that decide whether it stays."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vmae_jax.data.curate.items import Clip, CurationError, Examined, Removal
from vmae_jax.data.curate.measure import Sample

# A pair of samples in which nothing moves: of a filmed still picture with strong noise 8 of 10
# pairs stay below, while the quietest tenth of the project's test videos is at 42 and more.
_STILL = 3.0  # grey levels
_BLACK = 0.15  # brightest per cent of a picture that shows nothing
_SLIDE = 2  # pairs of samples in which a slide stands still, at least
_FADE = 3  # pairs of samples from one slide to the next, at most


@dataclasses.dataclass(frozen=True)
class GateLimits:
    """What a clip must be like; 0 turns a limit off. Shares are of the clip's time or area."""

    min_short_side: int = 224  # pixels of the video's shorter side
    min_fps: float = 10.0  # frames per second of the video
    max_slideshow: float = 0.5  # share of the time, of clip or video, in stills shown in turn
    min_seconds: float = 2.0  # of the clip: 16 frames, every 4th, at 30 frames per second
    max_seconds: float = 0.0  # of the clip
    max_black: float = 0.5  # share of the time with a black picture
    min_brightness: float = 0.04  # mean luma, where 1 is white
    max_still: float = 0.8  # share of the time in which nothing moves
    max_bars: float = 0.15  # share of the picture under plain or blurred bars (letterbox)
    min_sharpness: float = 0.155  # of the sharpest edges, 0 to 1; a blur of 1.5 pixels gives 0.13
    max_text: float = 0.06  # share of the picture under standing text: two lines of a caption
    min_people: float = 0.0  # share of the time with a person; needs a detector's model

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < float("inf"):
                raise CurationError(f"{field.name} {value}: expected 0 (off) or more")
            if field.name in _SHARES and value > 1:
                raise CurationError(f"{field.name} {value}: expected a share from 0 to 1")


# Of each limit: the score it looks at, and what is wrong with a clip that does not keep it. The
# order is that in which they are judged: what a file is, before what it shows; slides are mostly
# short scenes as well.
_GATES = {
    "min_short_side": ("short_side", "too small"),
    "min_fps": ("fps", "too few frames per second"),
    "max_slideshow": ("slideshow", "slideshow"),
    "min_seconds": ("seconds", "too short"),
    "max_seconds": ("seconds", "too long"),
    "max_black": ("black", "black"),
    "min_brightness": ("brightness", "too dark"),
    "max_still": ("still", "static"),
    "max_bars": ("bars", "letterbox"),
    "min_sharpness": ("sharpness", "blurred"),
    "max_text": ("text", "text overlay"),
    "min_people": ("people", "too few people"),
}
_SHARES = [
    name for name, (score, _) in _GATES.items() if score not in ("short_side", "fps", "seconds")
]


def judge(clip: Clip, video: Examined, limits: GateLimits) -> Removal | None:
    """The first limit that a clip does not keep, or None; looks at nothing but kept scores.

    Raises:
      CurationError: where a score was not measured.
    """
    scores = {
        "short_side": min(video.height, video.width),
        "fps": video.fps,
        "seconds": round(clip.end - clip.start, 3),
    } | dict(clip.scores)
    for name, (score, reason) in _GATES.items():
        limit = getattr(limits, name)
        if not limit:
            continue
        if score not in scores:
            raise CurationError(
                f"{name}: clip {clip.id!r} has no score '{score}'; examine the videos again"
                + " with a detector's model" * (score == "people")
            )
        found, least = scores[score], name.startswith("min")
        if found < limit if least else found > limit:
            words = "at least" if least else "at most"
            return Removal(clip.id, reason, f"{score} {found:g}, expected {words} {limit:g}")
    return None


def scores(samples: Sequence[Sample], of_video: Sequence[Sample], people: bool) -> dict[str, float]:
    """Sums up the samples of a clip, beside those of its whole video, in rounded scores.

    Args:
      people: whether persons were looked for.
    """
    table = np.array(samples, np.float64)
    columns = dict(zip(Sample._fields, table.T, strict=True))
    # The first sample of a clip is compared with what was before the clip.
    later = {name: column[1:] if len(table) > 1 else column for name, column in columns.items()}
    found = {
        "brightness": columns["brightness"].mean(),
        "black": (columns["brightest"] < _BLACK).mean(),
        "still": (later["change"] < _STILL).mean() if len(table) > 1 else 0.0,
        "motion": np.median(later["change"]),
        "slideshow": max(slideshow_share(later["change"]), slideshow_share(_changes(of_video))),
        # Bars are always there, while a dark picture may look like one for a moment.
        "bars": np.quantile(columns["bars"], 0.25, method="lower"),
        # Fast movement blurs for a while.
        "sharpness": np.quantile(columns["sharpness"], 0.75, method="higher"),
        "text": np.median(later["text"]),
    }
    if people:
        found["people"] = (columns["person"] > 0).mean()
    return {name: round(float(value), 4) for name, value in found.items()}


def _changes(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([sample.change for sample in samples[1:]])


def slideshow_share(changes: np.ndarray) -> float:
    """Share of the time in stills that follow upon each other: long freezes, quick changes.

    Args:
      changes: f64[N], grey levels between neighbouring samples.
    """
    still = np.concatenate([[False], changes < _STILL, [False]])
    edges = np.flatnonzero(still[1:] != still[:-1]).reshape(-1, 2)
    slides = edges[edges[:, 1] - edges[:, 0] >= _SLIDE]
    if len(slides) < 2:
        return 0.0
    follows = slides[1:, 0] - slides[:-1, 1] <= _FADE
    in_turn = np.concatenate([follows, [False]]) | np.concatenate([[False], follows])
    return float((slides[:, 1] - slides[:, 0])[in_turn].sum()) / len(changes)
