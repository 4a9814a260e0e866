"""Small data sets for the tests of the reading side, written without the builder."""

import functools
import io
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vmae_jax.data.clips import Record
from vmae_jax.data.shards import ShardWriter

_RATE = Fraction(30)
LEVEL_STEP = 4  # grey levels between two frames of `numbered_frames`


def numbered_frames(count: int, height: int, width: int) -> np.ndarray:
    """u8[N, H, W, 3] with texture, whose mean grey tells the frame number (below 50)."""
    texture = np.random.default_rng(0).integers(-8, 9, (height, width, 3))
    texture -= round(texture.mean())
    levels = 20 + LEVEL_STEP * np.arange(count)
    return (levels[:, None, None, None] + texture).clip(0, 255).astype(np.uint8)


def numbers_of(frames: np.ndarray) -> list[int]:
    """Which frames of `numbered_frames` these are."""
    return np.rint((frames.mean(axis=(1, 2, 3)) - 20) / LEVEL_STEP).astype(int).tolist()


def encode(frames: np.ndarray, rate: Fraction = _RATE) -> bytes:
    """MP4 as the builder writes it: H.264, constant rate, a closed group of 16 pictures."""
    buffer = io.BytesIO()
    options = {"tune": "fastdecode", "crf": "12", "g": "16", "sc_threshold": "0", "flags": "+cgop"}
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@functools.cache
def clip(count: int = 40, height: int = 48, width: int = 64, rate: Fraction = _RATE) -> Record:
    """A whole record of `numbered_frames`."""
    video = encode(numbered_frames(count, height, width), rate)
    return Record("clip", "h264", video, (), count, float(rate), height, width)


def write_dataset(
    directory: Path, payloads: Sequence[bytes], shards: int = 3, labels: Sequence[str] = ()
) -> str:
    """A dataset directory named 'videos' with one split, 'train'; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = [
        payloads[i * len(payloads) // shards : (i + 1) * len(payloads) // shards]
        for i in range(shards)
    ]
    for i, part in enumerate(parts):
        path = directory / f"videos-train.tfrecord-{i:05d}-of-{shards:05d}"
        with ShardWriter(path) as writer:
            for payload in part:
                writer.write(payload)
    split = {"name": "train", "shardLengths": [str(len(part)) for part in parts]}
    info = {"name": "videos", "fileFormat": "tfrecord", "version": "1.0.0", "splits": [split]}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    if labels:
        (directory / "label.labels.txt").write_text("".join(f"{name}\n" for name in labels))
    return str(directory)
