"""One record is one clip: what it holds, which of its frames are looked at, and their decoding."""

import collections
import dataclasses
import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from tensorflow_datasets.proto import tf_example_pb2

from vmae_jax.data import augment
from vmae_jax.data.records import RecordError

CODECS = ("h264", "jpeg")
MAX_SIDE = 8192  # pixels; no video is larger, so a claim beyond it is damage
_SEEK_FROM = 32  # frames to the next one wanted: beyond, decoding starts anew at its key frame
MAX_ASPECT = 16  # of frames that are scaled by their short side: memory grows with it

# Parallelism is over clips: threads inside OpenCV would only fight with it.
cv2.setNumThreads(0)


@dataclasses.dataclass(frozen=True)
class Record:
    """A clip as it lies in a shard: a `tf.train.Example` with these names.

    `fps` and `start` (seconds into the source) keep float32 precision, all that an Example has.
    """

    id: str
    codec: str  # h264: `video` is an MP4; jpeg: `frames` are JPEG files
    video: bytes
    frames: tuple[bytes, ...]
    num_frames: int
    fps: float
    height: int  # pixels
    width: int  # pixels
    label: int = -1  # -1 = none
    label_name: str = ""
    path: str = ""  # of the source video
    start: float = 0.0
    metadata: str = "{}"  # JSON: what curation knew (hashtags, scene times, hashes, scores)

    def serialize(self) -> bytes:
        """The record's bytes, the same on every run and machine."""
        example = tf_example_pb2.Example()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            feature = example.features.feature[field.name]
            if field.type is int:
                feature.int64_list.value.append(value)
            elif field.type is float:
                feature.float_list.value.append(value)
            elif field.type is str:
                feature.bytes_list.value.append(value.encode())
            elif field.type is bytes:
                feature.bytes_list.value.append(value)
            else:
                feature.bytes_list.value.extend(value)
        return example.SerializeToString(deterministic=True)

    @classmethod
    def parse(cls, payload: bytes) -> "Record":
        """Reads a record back.

        Raises:
          RecordError: where a feature is missing or of another type, or the values contradict
            each other.
        """
        try:
            features = tf_example_pb2.Example.FromString(payload).features.feature
        except Exception as error:  # the protobuf runtimes differ in what they raise
            raise RecordError(f"not a tf.train.Example ({error})") from error
        record = cls(**{f.name: _value(features, f.name, f.type) for f in dataclasses.fields(cls)})
        record._check()
        return record

    def _check(self) -> None:
        if self.codec not in CODECS:
            raise RecordError(f"codec {self.codec[:40]!r}: expected one of {', '.join(CODECS)}")
        if self.num_frames < 1:
            raise RecordError(f"num_frames {self.num_frames}: expected at least 1")
        if not (1 <= self.height <= MAX_SIDE and 1 <= self.width <= MAX_SIDE):
            raise RecordError(
                f"{self.width}x{self.height} pixels: expected sides of 1 to {MAX_SIDE}"
            )
        if self.codec == "h264" and not self.video:
            raise RecordError("codec h264 without any video bytes")
        if self.codec == "jpeg" and len(self.frames) != self.num_frames:
            raise RecordError(f"{len(self.frames)} JPEG frames: expected {self.num_frames}")


_LISTS = {int: "int64_list", float: "float_list"}


def _value(features: Any, name: str, kind: Any) -> Any:
    if name not in features:
        raise RecordError(f"feature '{name}' is missing; build the dataset again")
    values = getattr(features[name], _LISTS.get(kind, "bytes_list")).value
    if kind == tuple[bytes, ...]:
        return tuple(values)
    if len(values) != 1:
        raise RecordError(f"feature '{name}': expected one {kind.__name__}, found {len(values)}")
    if kind is str:
        return values[0].decode(errors="replace")
    return values[0]


# ---- Which frames: pure functions, equal to the reference's ----


def num_starts(num_frames: int, length: int, stride: int) -> int:
    """From how many frames a pre-training clip of `length` frames at `stride` can start; >= 1."""
    return max(1, num_frames - length * stride + 1)


def clip_indices(num_frames: int, length: int, stride: int, start: int = 0) -> np.ndarray:
    """Frames of a pre-training clip, i64[length]: every `stride`-th from `start`.

    In a video that is too short the last frame reached is repeated. The reference never steps onto
    the very last frame of a video, and neither does this.
    """
    steps = max(0, (num_frames - 2 - start) // stride)
    return start + stride * np.minimum(np.arange(length), steps)


def dense_indices(
    num_frames: int, length: int, stride: int, start: int | None = None
) -> np.ndarray:
    """Frames of a classification clip, i64[length], spread over `length * stride` frames.

    Args:
      start: of the window, below `max(1, num_frames - length * stride)`; None = the middle
        (validation). A video no longer than the window is spread whole, then its last frame
        repeats.
    """
    window = length * stride
    if num_frames <= window:
        spread = np.linspace(0, num_frames, num=num_frames // stride)
        spread = np.concatenate([spread, np.full(length - len(spread), num_frames)])
        return np.clip(spread, 0, num_frames - 1).astype(np.int64)
    if start is None:
        start = (num_frames - window) // 2
    spread = np.linspace(start, start + window, num=length)
    return np.clip(spread, start, start + window - 1).astype(np.int64)


def dense_test_indices(num_frames: int, length: int, stride: int) -> np.ndarray:
    """Every `stride`-th frame of the whole video, i64[>= length]; the last one repeats if short."""
    reached = np.arange(0, num_frames, stride)
    return np.pad(reached, (0, max(0, length - len(reached))), mode="edge")


def sparse_indices(
    num_frames: int,
    segments: int,
    rng: np.random.Generator | None = None,
    *,
    of_pictures: bool = False,
) -> np.ndarray:
    """One frame of each of `segments` equal parts, i64[segments]: a random one, or the middle.

    A video with fewer frames than segments, which the reference refuses, is spread evenly with
    frames repeated.

    Args:
      rng: for training, where the reference never draws the last frame of a part of a video;
        None = the middle (validation).
      of_pictures: whether the frames are files of their own. Of an even part, the reference takes
        the later of its two middle frames there, and the earlier one of a video.
    """
    part = num_frames // segments
    if part == 0:
        return sparse_test_indices(num_frames, segments, clips=1)
    middle = part // 2 if of_pictures else (part - 1) // 2
    within = middle if rng is None else rng.integers(part, size=segments)
    return np.arange(segments) * part + within


def sparse_test_indices(num_frames: int, segments: int, clips: int) -> np.ndarray:
    """Evenly over the video, i64[segments * clips]; test clip k takes every `clips`-th from k."""
    total = segments * clips
    return np.arange(total) * num_frames // total


def test_start(extent: int, size: int, place: int, places: int) -> int:
    """Where crop or temporal clip number `place` of `places` starts: even from end to end.

    A single place is the middle.
    """
    free = max(0, extent - size)
    return free // 2 if places == 1 else free * place // (places - 1)


def validation_start(extent: int, size: int) -> int:
    """Where the crop of validation starts: in the middle, half a pixel to the even number."""
    return round(max(0, extent - size) / 2)


# ---- Decoding ----


def decode_frames(
    record: Record, indices: Sequence[int] | np.ndarray, short_side: int = 0
) -> np.ndarray:
    """Decodes some frames of a clip to RGB, u8[T, height, width, 3]; indices may repeat.

    Args:
      short_side: pixels that the shorter side is scaled to, frame by frame; 0 = as it is.

    Raises:
      RecordError: where an index lies outside the clip, or the bytes do not decode to frames of the
        size and number that the record claims.
    """
    indices = np.asarray(indices, np.int64)
    if indices.size == 0 or indices.min() < 0 or indices.max() >= record.num_frames:
        raise RecordError(
            f"frames {indices.tolist()[:20]}: expected numbers below {record.num_frames}"
        )
    needed, places = np.unique(indices, return_inverse=True)
    decode = _decode_jpeg if record.codec == "jpeg" else _decode_h264
    frames = None
    for place, frame in enumerate(decode(record, needed.tolist())):
        if frame.shape != (record.height, record.width, 3):
            raise RecordError(
                f"frame of {frame.shape[1]}x{frame.shape[0]} pixels: the record claims "
                f"{record.width}x{record.height}"
            )
        if short_side:
            if max(frame.shape[:2]) > MAX_ASPECT * min(frame.shape[:2]):
                raise RecordError(f"{record.width}x{record.height} pixels: too narrow to scale up")
            frame = augment.resize_short_side(frame, short_side)
        if frames is None:  # only now is it known that the size is no mere claim
            frames = np.empty((len(needed), *frame.shape), np.uint8)
        frames[place] = frame
    return frames if np.array_equal(needed, indices) else frames[places]


def _decode_h264(record: Record, needed: list[int]) -> Iterator[np.ndarray]:
    try:
        with av.open(io.BytesIO(record.video), format="mp4") as container:
            codecs = [stream.codec_context for stream in container.streams.video]
            if not codecs or codecs[0] is None or codecs[0].name != "h264":
                raise RecordError("the MP4 holds no H.264 video")
            stream = _checked_stream(container, record)
            far = np.flatnonzero(np.diff(needed) > _SEEK_FROM) + 1
            for near in np.split(needed, far):
                yield from _frames_of_stream(container, stream, near.tolist())
    except (av.FFmpegError, ValueError, ArithmeticError, MemoryError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"the MP4 does not decode ({type(error).__name__}: {error})") from error


def _checked_stream(container: Any, record: Record) -> Any:
    """The video stream, once it is what the record claims, ready to decode."""
    stream = container.streams.video[0]
    context = stream.codec_context
    if (context.width, context.height) != (record.width, record.height):
        raise RecordError(
            f"the MP4 is {context.width}x{context.height} pixels: the record claims "
            f"{record.width}x{record.height}"
        )
    if stream.frames != record.num_frames or not stream.average_rate:
        raise RecordError(
            f"the MP4 holds {stream.frames} frames: the record claims {record.num_frames}"
        )
    # A stream may change its size midway: FFmpeg then refuses what is larger, padding included.
    context.options = {"max_pixels": str((record.width + 64) * (record.height + 64))}
    context.thread_count = 1
    return stream


def _frames_of_stream(container: Any, stream: Any, needed: list[int]) -> Iterator[np.ndarray]:
    """The frames numbered `needed` (sorted), in order; the rest is not converted to RGB.

    The builder writes a constant rate, presentation times from 0 and closed groups of pictures, so
    a frame's number follows from its time and decoding can start at the key frame before it.
    """
    context = stream.codec_context
    frames_per_tick = stream.average_rate * stream.time_base
    container.seek(round(needed[0] / frames_per_tick), stream=stream, backward=True)

    to_rgb = VideoReformatter()
    wanted, unsent, due = set(needed), set(needed), collections.deque(needed)
    for packet in container.demux(stream):
        if packet.pts is not None:
            number = round(packet.pts * frames_per_tick)
            # No other frame is predicted from these, so the unwanted among them need no decoding.
            context.skip_frame = "DEFAULT" if number in wanted else "NONREF"
            unsent.discard(number)
        images = context.decode(packet)
        if packet.pts is not None and not unsent:
            images += context.decode(None)
        for image in images:
            number = round(image.pts * frames_per_tick) if image.pts is not None else -1
            if due and number == due[0]:
                if image.is_corrupt:
                    raise RecordError(f"frame {number} is damaged")
                # PyAV would start threads for every conversion.
                yield _pixels(to_rgb.reformat(image, format="rgb24", threads=1))
                due.popleft()
        if not unsent:
            break
    if due:
        raise RecordError(f"frame {due[0]} is not in the MP4")


def _pixels(image: av.VideoFrame) -> np.ndarray:
    """The pixels of an RGB frame, u8[H, W, 3], without a copy: valid as long as the frame."""
    plane = image.planes[0]
    strides = (plane.line_size, 3, 1)
    return np.ndarray((image.height, image.width, 3), np.uint8, buffer=plane, strides=strides)


def _decode_jpeg(record: Record, needed: list[int]) -> Iterator[np.ndarray]:
    for number in needed:
        data = record.frames[number]
        if _jpeg_size(data) != (record.height, record.width):
            raise RecordError(
                f"frame {number} is no JPEG of {record.width}x{record.height} pixels as the record "
                "claims"
            )
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise RecordError(f"frame {number} does not decode ({error})") from error
        if image is None:
            raise RecordError(f"frame {number} does not decode")
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from the header: a lie there must not decide how much memory is taken."""
    position = 2
    while data[:2] == b"\xff\xd8" and position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _JPEG_SIZE_MARKERS:
            return struct.unpack_from(">HH", data, position + 5)
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None
