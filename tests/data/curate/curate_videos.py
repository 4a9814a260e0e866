"""Videos with known flaws, drawn from moving synthetic ones."""

import fractions
from pathlib import Path

import av
import cv2
import numpy as np

from vmae_jax.data import synthetic

FPS = 24


def moving(seed: int = 0, frames: int = 60, size: tuple[int, int] = (426, 240)) -> np.ndarray:
    """u8[T, H, W, 3] that passes every gate but perhaps the resolution's."""
    name = synthetic.CLASSES[seed % len(synthetic.CLASSES)]
    return synthetic.render(name, np.random.default_rng([7, seed]), size=size, num_frames=frames)


def write(
    path: Path,
    pictures,
    fps: int = FPS,
    container: str = "mp4",
    codec: str = "libx264",
    crf: int = 23,
) -> str:
    x264 = {"preset": "veryfast", "threads": "1", "crf": str(crf)}
    with av.open(str(path), "w", format=container) as output:
        options = x264 if codec == "libx264" else {}
        stream = output.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = i, fractions.Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return str(path)


def noisy(picture: np.ndarray, count: int) -> list[np.ndarray]:
    """A still picture as a camera would film it."""
    rng = np.random.default_rng(0)
    noise = rng.integers(-5, 6, (count, *picture.shape), np.int16)
    return list(np.clip(picture + noise, 0, 255).astype(np.uint8))


def barred(pictures, share: float, color: int = 0) -> list[np.ndarray]:
    bar = int(share * pictures[0].shape[0])
    out = []
    for picture in pictures:
        height, width = picture.shape[:2]
        framed = np.full_like(picture, color)
        framed[bar : height - bar] = cv2.resize(picture, (width, height - 2 * bar))
        out.append(framed)
    return out


def blurred_sides(pictures) -> list[np.ndarray]:
    """An upright picture with some grain in front of its own blurred enlargement."""
    grain = np.random.default_rng(0).integers(-16, 17, pictures[0].shape[:2])[..., None]
    out = []
    for picture in pictures:
        height, width = picture.shape[:2]
        narrow = height * 9 // 16
        left = (width - narrow) // 2
        upright = picture[:, left : left + narrow]
        large = cv2.resize(upright, (width, width * 16 // 9))
        top = (large.shape[0] - height) // 2
        framed = cv2.GaussianBlur(large[top : top + height], (0, 0), 10)
        grainy = upright + grain[:, left : left + narrow]
        framed[:, left : left + narrow] = np.clip(grainy, 0, 255)
        out.append(framed)
    return out


def captioned(pictures, lines=("WHEN YOU SEE THE", "PRICE OF GAS TODAY", "AND TOMORROW")):
    out = []
    for picture in pictures:
        written = picture.copy()
        height, width = picture.shape[:2]
        for i, line in enumerate(lines):
            place = (int(0.06 * width), int(height * (0.2 + 0.14 * i)))
            for color, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
                cv2.putText(
                    written, line, place, cv2.FONT_HERSHEY_DUPLEX, width / 425, color, thickness
                )
        out.append(written)
    return out


def slides(count: int, frames_each: int) -> list[np.ndarray]:
    stills = [moving(seed, frames=1)[0] for seed in range(count)]
    return [picture for still in stills for picture in [still] * frames_each]
