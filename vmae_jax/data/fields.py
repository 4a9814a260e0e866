"""Interlaced H.264 whose fields are packets of their own, as camcorders and broadcasts have it.

FFmpeg's demuxers and its bindings do not say so: the headers of the slices do (ITU-T H.264, 7.3.2.1
and 7.3.3).
"""

from collections.abc import Iterator
from typing import NamedTuple

import av

_WITH_CHROMA = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244}  # profiles
_SLICES = {1, 2, 5}  # kinds of units
_HEADER = 512  # bytes, more than any header here has


class _Sequence(NamedTuple):
    """What of a sequence's parameters is needed to read the header of a slice."""

    planes: bool  # each colour is coded apart
    frame_num_bits: int


class Fields:
    """Finds the packets of a stream, taken in order, that hold the second field of a picture."""

    def __init__(self, context: av.CodecContext):
        """Reads what the stream's header says: mostly that there are no fields."""
        self._first: tuple[int, int] | None = None  # number and parity of a field without another
        extradata = bytes(context.extradata or b"") if context.name == "h264" else b""
        self._length = 0  # bytes of a unit's length before it; 0 = start codes
        if extradata[:1] == b"\1":
            self._length = (extradata[4] & 3) + 1
            size = int.from_bytes(extradata[6:8])
            units = iter([extradata[8 : 8 + size]])
        else:
            units = self._units(extradata)
        header = next((unit for unit in units if unit and unit[0] & 31 == 7), b"")
        try:
            self._sequence = _sequence(header) if header else None
        except ValueError:
            self._sequence = None

    def is_second(self, packet: av.Packet) -> bool:
        """Whether a packet completes the picture that the packet before it began."""
        if self._sequence is None:
            return False
        try:
            found = {f for u in self._units(bytes(packet)) if (f := _field(u, self._sequence))}
        except ValueError:
            found = set()
        first, self._first = self._first, None
        if len(found) != 1:  # a frame, or both fields
            return False
        (field,) = found
        if first == (field[0], 1 - field[1]):
            return True
        self._first = field
        return False

    def _units(self, data: bytes) -> Iterator[bytes]:
        """The beginnings of the units of a packet."""
        at = 0
        if self._length:
            while at + self._length < len(data):
                start = at + self._length
                yield data[start : start + _HEADER]
                at = start + int.from_bytes(data[at:start])
            return
        while (at := data.find(b"\0\0\1", at) + 3) > 2:
            yield data[at : at + _HEADER]


class _Bits:
    """The bits of a unit behind its first byte. Raises ValueError where they end."""

    def __init__(self, unit: bytes):
        raw = unit[1:].replace(b"\0\0\3", b"\0\0")
        self._bits, self._at = bin(int.from_bytes(b"\1" + raw))[3:], 0

    def take(self, count: int) -> int:
        start, self._at = self._at, self._at + count
        return int(self._bits[start : self._at], 2)

    def number(self) -> int:
        """Exp-Golomb."""
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.take(zeros + 1) - 1

    def signed(self) -> int:
        value = self.number()
        return (value + 1) // 2 if value % 2 else -(value // 2)


def _sequence(unit: bytes) -> _Sequence | None:
    """What a sequence's parameters say of its slices; None where all of them are of frames."""
    bits, planes = _Bits(unit), False
    profile = bits.take(24) >> 16
    bits.number()
    if profile in _WITH_CHROMA:
        chroma = bits.number()
        planes = chroma == 3 and bool(bits.take(1))
        bits.number(), bits.number(), bits.take(1)  # depths, transform of lossless blocks
        if bits.take(1):
            _skip_scaling(bits, 12 if chroma == 3 else 8)
    frame_num_bits = bits.number() + 4
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1), bits.number(), bits.number()
        for _ in range(bits.number()):
            bits.number()
    bits.number(), bits.take(1), bits.number(), bits.number()  # references, gaps, width, height
    return None if bits.take(1) else _Sequence(planes, frame_num_bits)


def _skip_scaling(bits: _Bits, lists: int) -> None:
    for i in range(lists):
        last = following = 8
        for _ in range((16 if i < 6 else 64) * bits.take(1)):
            if following:
                following = (last + bits.signed()) % 256
            last = following or last


def _field(unit: bytes, sequence: _Sequence) -> tuple[int, int] | None:
    """Number of the frame and parity of the field that a slice is of; None = of none."""
    if not unit or unit[0] & 31 not in _SLICES:
        return None
    bits = _Bits(unit[:64])
    bits.number(), bits.number(), bits.number()  # first block, kind, picture's parameters
    if sequence.planes:
        bits.take(2)
    number = bits.take(sequence.frame_num_bits)
    return (number, bits.take(1)) if bits.take(1) else None
