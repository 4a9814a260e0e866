"""Interlaced H.264 with a packet for each field: a picture is two packets."""

from pathlib import Path

import av
import numpy as np
import pytest
import time_sweep

from vmae_jax.data.fields import Fields
from vmae_jax.data.videos import open_video

_RAW_BLOCK = 25  # a kind of block: its samples as they are


def _number(value: int) -> str:
    """Exp-Golomb."""
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits


def _unit(header: int, bits: str) -> bytes:
    bits += "1" + "0" * (-(len(bits) + 1) % 8)
    data = bytearray()
    for byte in int(bits, 2).to_bytes(len(bits) // 8):
        if byte <= 3 and data[-2:] == b"\0\0":
            data.append(3)  # so that it does not look like a start code
        data.append(byte)
    return b"\0\0\0\1" + bytes([header]) + bytes(data)


def _parameters(profile: int = 77, extra: str = "") -> bytes:
    """Of a sequence of fields (frame numbers of 4 bits, orders of 8), and of pictures."""
    clock = "1" + f"{1:032b}{50:032b}" + "1"  # fields a second
    usage = "1" + "0000" + clock + "0000"
    size = _number(time_sweep.WIDTH // 16 - 1) + _number(time_sweep.HEIGHT // 32 - 1)
    sequence = f"{profile:08b}" + f"{0:08b}{30:08b}" + _number(0) + extra
    sequence += _number(0) + _number(0) + _number(4) + _number(1) + "0" + size + "0010" + usage
    picture = _number(0) * 2 + "00" + _number(0) * 3 + "000" + _number(0) * 3 + "000"
    return _unit(0x67, sequence) + _unit(0x68, picture)


def _field(frame: int, parity: int) -> bytes:
    number, is_key = frame % 12, frame % 12 == 0 and not parity
    bits = _number(0) + _number(7) + _number(0) + f"{number:04b}" + f"1{parity}"
    bits += _number(0) * is_key + f"{2 * number + parity:08b}" + "0" * (1 + is_key) + _number(0)
    rows = time_sweep.picture(frame)[parity::2, :, 0].clip(16, 235)
    for block in np.split(rows, time_sweep.WIDTH // 16, axis=1):
        bits += _number(_RAW_BLOCK)
        bits += "0" * (-len(bits) % 8)
        bits += "".join(f"{value:08b}" for value in (*block.flatten().tolist(), *[128] * 128))
    return _parameters() * is_key + _unit(0x65 if is_key else 0x61, bits)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """60 numbered pictures, 25 a second."""
    path = tmp_path_factory.mktemp("fields") / "raw.h264"
    path.write_bytes(b"".join(_field(i, parity) for i in range(60) for parity in (0, 1)))
    return path


@pytest.mark.parametrize("container", ["ts", "mp4", "mkv", "h264"])
def test_two_fields_are_one_picture(raw, tmp_path, container):
    path = tmp_path / f"fields.{container}"
    if container == "h264":
        path = raw
    else:
        with av.open(str(raw)) as source, av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            for i, packet in enumerate(p for p in source.demux(video=0) if p.size):
                packet.stream, packet.pts = stream, round(i / 50 / packet.time_base)
                packet.dts = packet.pts
                output.mux(packet)

    video = open_video(path)

    frames = video.frames(range(video.num_frames), time_sweep.HEIGHT)
    assert [time_sweep.number_of(frame) for frame in frames] == list(range(60))
    assert (video.fps, video.notes) == (25, ())


def _seconds(extradata: bytes, packets: list[bytes]) -> list[bool]:
    context = av.CodecContext.create("h264", "r")
    context.extradata = extradata
    fields = Fields(context)
    return [fields.is_second(av.Packet(data)) for data in packets]


def test_what_makes_a_second_field():
    top, bottom, next_top, next_bottom = (_field(i, parity) for i in (1, 2) for parity in (0, 1))
    packets = [top, bottom, next_bottom, next_top, top, top + bottom, bottom, next_top, b"?"]
    found = [False, True, False, True, *[False] * 5]
    scaled = "".join(map(_number, (1, 0, 0))) + "0" + "1" + "1" + "1" * 16 + "0" * 7

    assert _seconds(_parameters(), packets) == found
    assert _seconds(_parameters(100, scaled), packets) == found
    assert _seconds(_parameters()[:9], packets) == [False] * 9
    assert _seconds(b"", packets) == [False] * 9
