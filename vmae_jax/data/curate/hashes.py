"""The perceptual hash of a picture: 64 signs of its lowest frequencies."""

import functools

import cv2
import numpy as np

_SIDE = 32  # pixels of the small grey picture
_FREQUENCIES = 10  # of a cosine transform, in each direction
_FADE = 0.9  # of the window: how dark the edge is, where a crop changes most
_SCALE = 1 << 12  # of the waves: whole numbers below 2**53 throughout, exact in any order
_FLAT = 2  # grey levels of 255: a picture that varies less (standard deviation) shows nothing

# (vertical, horizontal) frequency of each bit, the lowest first: these survive most
_ORDER = sorted(
    (pair for pair in np.ndindex(_FREQUENCIES, _FREQUENCIES) if pair != (0, 0)),
    key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair),
)[:64]
_PLACES = np.array([down * _FREQUENCIES + across for down, across in _ORDER])
# What turns round when left and right are swapped: the odd horizontal frequencies.
MIRROR = np.uint64(sum(1 << bit for bit, (_, across) in enumerate(_ORDER) if across % 2))
BLANK = np.uint64(0)  # the hash of a picture without texture, such as a black one


def frame_hash(picture: np.ndarray) -> np.uint64:
    """The hash of u8[H, W, 3] (RGB) or u8[H, W] (grey), or `BLANK` where it shows nothing.

    Bit k is the sign of the k-th lowest frequency of a cosine transform under a window that fades
    towards the edges. Copies that were encoded again or scaled differ in 1 to 3 bits, those that
    lost 5 % at the edges in 4 to 12, different pictures in about 32.
    """
    grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    total = small.sum()
    if small.size * (small * small).sum() - total**2 <= (_FLAT * small.size) ** 2:
        return BLANK
    waves = _waves()
    sums = waves.sum(1)
    # Of the picture less its mean, times its number of pixels so that nothing is rounded.
    spectrum = small.size * (waves @ small @ waves.T) - total * np.outer(sums, sums)
    signs = np.packbits(spectrum.ravel()[_PLACES] > 0, bitorder="little")
    return np.uint64(int.from_bytes(signs.tobytes(), "little"))


def mirrored(hashes: np.ndarray) -> np.ndarray:
    """What the mirrored pictures' hashes would be: u64[...] of u64[...]."""
    return np.where(hashes == BLANK, BLANK, hashes ^ MIRROR)


@functools.cache
def _waves() -> np.ndarray:
    """Windowed cosines, f64[frequency, pixel]: exactly odd or even about the middle."""
    place = (np.arange(_SIDE // 2) + 0.5) / _SIDE  # of the left half, as a share of the width
    window = 1 - _FADE * (1 - np.sin(np.pi * place))
    frequency = np.arange(_FREQUENCIES)[:, None]
    left = np.rint(_SCALE * window * np.cos(np.pi * frequency * place))
    return np.concatenate([left, left[:, ::-1] * (1 - 2 * (frequency % 2))], axis=1)
