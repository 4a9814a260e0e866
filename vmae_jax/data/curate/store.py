"""What was found in a video as one line of JSON and back: the same values, the same bytes."""

import base64
import dataclasses
import json

import numpy as np

from vmae_jax.data.curate.items import Clip, CurationError, Examined


def to_line(video: Examined) -> str:
    """One line without its end, ASCII; hashes (8 bytes each, low one first) and JPEGs in base64."""
    fields = {f.name: getattr(video, f.name) for f in dataclasses.fields(video)}
    fields["clips"] = [
        {
            "number": clip.number,
            "start": clip.start,
            "end": clip.end,
            "scores": dict(clip.scores),
            "hashes": _encode(clip.hashes.astype("<u8").tobytes()),
            "thumbnails": [_encode(jpeg) for jpeg in clip.thumbnails],
        }
        for clip in video.clips
    ]
    return json.dumps(fields, ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def from_line(line: str) -> Examined:
    """Reads `to_line` back.

    Raises:
      CurationError: where it is no such line.
    """
    try:
        fields = json.loads(line)
        fields["cuts"] = tuple(fields["cuts"])
        fields["clips"] = tuple(_clip(fields["item"], **clip) for clip in fields["clips"])
        return Examined(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise CurationError(
            f"not a line of examined videos ({line[:40]!r}); delete the file and examine again"
        ) from error


def _clip(item: str, hashes: str, thumbnails: list[str], **fields) -> Clip:
    values = np.frombuffer(base64.b64decode(hashes), "<u8").astype(np.uint64)
    jpegs = tuple(base64.b64decode(jpeg) for jpeg in thumbnails)
    return Clip(item, hashes=values, thumbnails=jpegs, **fields)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
