"""What one sampled picture shows, in a few numbers; `gates` sums them up by clip and judges.

All are taken on small pictures (short side at most 256), the size at which a model sees a clip:
what cannot be seen there does not matter.
"""

from typing import NamedTuple

import cv2
import numpy as np

_TINY = 64  # cells per side that movement is measured on
_BUSY = 0.05  # share of the cells that movement is measured by: those that change most
_MIN_EDGE = 8  # grey levels; less is no edge of a sharp picture
_FINER = 4  # bits below a grey level
_MIN_BAR, _MAX_BAR = 0.03, 0.45  # of the side, each
_PLAIN = 6  # grey levels that a plain bar may vary by
# A blurred bar's detail as a share of the picture's: on the whole, and close to the edge between
# them. Planted bars had at most 0.35 and 0.5, real videos without any at least 0.47 or 0.6.
_MAX_DETAIL, _MAX_NEAR_DETAIL = 0.4, 0.6
# Of a picture between blurred bars; a smooth one does not tell. Real ones had at least 1.94.
_MIN_DETAIL = 1.9
_DETAIL = 16  # grey levels; of a pixel, at most
_MEMORY = 0.8  # weight of the samples before in the average that shows blurred bars
_STROKE = 9  # pixels, wider than the strokes of subtitles
_STROKE_CONTRAST = 56  # grey levels between a letter and what is around it
_MIN_STROKES = 0.003  # share of the picture; less is no text worth a look
_STILL_STROKE = 24  # grey levels that a standing letter may change by


class Sample(NamedTuple):
    """Measurements of one picture; `change` is against the sample before, as `text` is."""

    brightness: float  # mean luma, 0 to 1
    brightest: float  # luma that 1 % of the pixels exceed, 0 to 1
    change: float  # grey levels (of 255) by which the 5 % of the picture that change most change
    sharpness: float  # share of the local contrast that lies in the finest detail, 0 to 1
    bars: float  # share of the picture that bars at its borders cover
    text: float  # share of the picture that standing text covers
    person: float = 0.0  # confidence of the surest person that is large enough; 0 = none


class Measurer:
    """Measures pictures in the order of time; holds what it needs of the last ones."""

    def __init__(self):
        self._detail: list[np.ndarray] | None = None  # by row and by column
        self._tiny: np.ndarray | None = None
        self._gray: np.ndarray | None = None
        self._strokes: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, picture: np.ndarray) -> Sample:
        """Measures u8[H, W, 3], of the same size each time."""
        gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        return Sample(
            brightness=float(gray.mean()) / 255,
            brightest=_top(gray) / 255,
            change=self._change(gray),
            sharpness=sharpness(gray),
            bars=self._bars(gray),
            text=self._text(gray),
        )

    def _change(self, gray: np.ndarray) -> float:
        """Averaging over cells first keeps the noise of sensor and codec out."""
        tiny = cv2.resize(gray, (_TINY, _TINY), interpolation=cv2.INTER_AREA)
        last, self._tiny = self._tiny, tiny
        if last is None:
            return 0.0
        busiest = int(_BUSY * tiny.size)
        return float(np.partition(cv2.absdiff(tiny, last).ravel(), -busiest)[-busiest:].mean())

    def _bars(self, gray: np.ndarray) -> float:
        """What moves is everywhere in the course of time: bars are what still has no detail."""
        # Capped, so that a few strong edges, as those of text, are not all that counts.
        detail = np.minimum(np.abs(cv2.Laplacian(gray, cv2.CV_16S)), _DETAIL)
        detail = [detail.mean(1), detail.mean(0)]
        if self._detail is not None:
            pairs = zip(self._detail, detail, strict=True)
            detail = [_MEMORY * before + (1 - _MEMORY) * now for before, now in pairs]
        self._detail = detail
        free = 1.0
        for turned, lines in zip((gray, np.ascontiguousarray(gray.T)), detail, strict=True):
            plain = _plain_bar(turned) + _plain_bar(turned[::-1])
            free *= 1 - (plain or 2 * _blurred_bar(lines)) / len(lines)
        return 1 - free

    def _text(self, gray: np.ndarray) -> float:
        strokes = _strokes(gray)
        last_gray, last, self._gray, self._strokes = self._gray, self._strokes, gray, strokes
        if last is None:
            return 0.0
        still = cv2.absdiff(gray, last_gray) <= _STILL_STROKE
        return max(
            text_share(now & before & still) for now, before in zip(strokes, last, strict=True)
        )


def sharpness(gray: np.ndarray) -> float:
    """How sharp the sharpest edges of u8[H, W] are, 0 to 1: at most 0.15 = everything is blurred.

    Of the pixels next to the strongest edges: what a blur of 1 pixel changes, as a share of what a
    blur of 6 pixels changes. Contrast cancels out, and a blurred background does not count.
    """
    fine_gray = gray.astype(np.uint16) << _FINER  # blurred edges differ by fractions of a level
    fine = _top(cv2.absdiff(fine_gray, cv2.GaussianBlur(fine_gray, (5, 5), 1.0)))
    # Box filters of 15 pixels, twice, are nearly a Gaussian of 6.
    coarse = _top(cv2.absdiff(fine_gray, cv2.blur(cv2.blur(fine_gray, (15, 15)), (15, 15))))
    return min(1.0, fine / max(coarse, _MIN_EDGE << _FINER))


def _top(values: np.ndarray) -> int:
    """What 1 % of u8[H, W] or u16[H, W] exceed, of values below 4096."""
    counts = cv2.calcHist([values], [0], None, [4096], [0, 4096])
    return int(np.searchsorted(np.cumsum(counts), 0.99 * values.size))


# ---- Bars ----


def _plain_bar(gray: np.ndarray) -> int:
    """Rows of a bar of one colour at the top of u8[H, W], with or without text on it.

    A bar ends at once: a dark scene, which grows darker towards its border, has none.
    """
    height = gray.shape[0]
    color = int(np.median(gray[0]))
    plain = (cv2.absdiff(gray, np.full_like(gray, color)) <= _PLAIN).mean(1)  # share by row
    longest = int(_MAX_BAR * height)
    written = plain[: longest + 1] < 0.5  # more than text on a bar would cover
    end = int(written.argmax()) if written.any() else longest
    for row in range(end, int(_MIN_BAR * height), -1):
        if plain[row - 1] >= 0.97:
            return row if plain[row : row + 3].min() < 0.5 else 0
    return 0


def _blurred_bar(detail: np.ndarray) -> int:
    """Lines of each of two equal bars that have far less detail than the picture between them.

    Args:
      detail: f64[N] by line.
    """
    count = len(detail)
    near = max(3, count // 20)
    lines = np.arange(near + 1, int(_MAX_BAR * count))
    if len(lines) == 0:
        return 0
    # The line at the edge itself belongs to neither.
    ends = [np.concatenate([[0], np.cumsum(d)]) for d in (detail, detail[::-1])]
    ratios = [  # close to the edge; 0.3: without any detail on either side there is no edge
        (e[lines - 1] - e[lines - 1 - near] + 0.3 * near)
        / (e[lines + 1 + near] - e[lines + 1] + 0.3 * near)
        for e in ends
    ]
    worse = np.maximum(*ratios)
    bar = int(lines[worse.argmin()])
    outside = (ends[0][bar - 1] + ends[1][bar - 1]) / (2 * (bar - 1))
    inside = (ends[0][count - bar - 1] - ends[0][bar + 1]) / (count - 2 * bar - 2)
    if inside < _MIN_DETAIL or worse.min() >= _MAX_NEAR_DETAIL:
        return 0
    return bar if outside < _MAX_DETAIL * inside else 0


# ---- Text ----


def _strokes(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thin parts much brighter, and such much darker, than what is around them: bool[H, W] each."""
    kernel = np.ones((_STROKE, _STROKE), np.uint8)
    bright = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, kernel)
    dark = cv2.morphologyEx(gray, cv2.MORPH_BLACKHAT, kernel)
    return bright > _STROKE_CONTRAST, dark > _STROKE_CONTRAST


def text_share(strokes: np.ndarray) -> float:
    """Share of the picture inside lines of text: letters of one height, densely side by side."""
    height, width = strokes.shape
    if strokes.mean() < _MIN_STROKES:  # saves most of the time
        return 0.0
    joined = cv2.morphologyEx(
        strokes.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 2 * _STROKE + 1), np.uint8)
    )
    count, _, boxes, _ = cv2.connectedComponentsWithStats(joined)
    covered = 0
    for left, top, wide, high, _ in boxes[1:count]:
        if not (6 <= high <= height / 5 and wide >= 2 * high):
            continue
        part = strokes[top : top + high, left : left + wide]
        columns = part.any(0)
        # Letters: strokes fill some of the box, and gaps part them again and again.
        turns = np.count_nonzero(part[:, 1:] != part[:, :-1]) / high
        if 0.15 <= part.mean() <= 0.7 and columns.mean() > 0.6 and turns >= 1.0 * wide / high:
            covered += wide * high
    return covered / (height * width)
