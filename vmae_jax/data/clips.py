"""One record is one clip: what it holds, which of its frames are looked at, and their decoding."""

import dataclasses
from typing import Any

from tensorflow_datasets.proto import tf_example_pb2

from vmae_jax.data.records import RecordError

CODECS = ("h264", "jpeg")


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
        for name in ("num_frames", "height", "width"):
            if getattr(self, name) < 1:
                raise RecordError(f"{name} {getattr(self, name)}: expected at least 1")
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
