"""HDR pictures (PQ and HLG transfer, BT.2020 primaries) to ordinary 8-bit RGB."""

import functools

import numpy as np

CURVES = {16: "pq", 18: "hlg"}  # FFmpeg's number of the transfer function: its name here

_WHITE = 203.0  # cd/m2 of a white page in HDR (ITU-R BT.2408)
_PEAK = 1000.0  # cd/m2 that still differ from each other; what is brighter is clipped
# ITU-R BT.2087: BT.2020 to BT.709 primaries, linear light.
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def to_sdr(picture: np.ndarray, curve: str) -> np.ndarray:
    """Tone-maps RGB u16[H, W, 3] to u8[H, W, 3]; highlights roll off."""
    linear = _light(curve)[picture] @ _TO_709.T
    linear = np.clip(linear, 0, _PEAK / _WHITE)
    # Extended Reinhard on the brightest channel keeps hues; the peak maps to 1.
    top = linear.max(axis=-1, keepdims=True)
    mapped = linear * (1 + top * (_WHITE / _PEAK) ** 2) / (1 + top)
    return np.rint(255 * np.clip(mapped, 0, 1) ** (1 / 2.2)).astype(np.uint8)


@functools.cache
def _light(curve: str) -> np.ndarray:
    """Light for each 16-bit code, f32[65536], 1 = white page (SMPTE ST 2084; ITU-R BT.2100 HLG)."""
    code = np.linspace(0, 1, 1 << 16)
    if curve == "pq":
        root = code ** (32 / 2523)
        nits = 10_000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (
            8192 / 1305
        )
    else:
        scene = np.where(
            code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        )
        nits = _PEAK * scene**1.2  # the system gamma, applied to each channel for simplicity
    return (nits / _WHITE).astype(np.float32)
