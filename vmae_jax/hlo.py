"""What a compiled program does, read from XLA's text: collectives and memory traffic.

XLA's own cost analysis counts the body of a loop once and one collective like another. This walk
multiplies by trip counts, and tells memory (HBM) from buffers that stay on the chip.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

ITEM_SIZE = {"pred": 1, "token": 0, "opaque": 0, "c64": 8, "c128": 16}  # others by their digits

COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip

# No work of their own: names for values, or half of an operation that is counted at its start.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "opt-barrier", "partition-id", "replica-id", "iota", "copy-done",
    "slice-done", "all-reduce-done", "all-gather-done", "collective-permute-done",
    "async-update", "async-done", "send-done", "recv-done", "domain",
}  # fmt: skip
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")

_COMPUTATION = re.compile(r"^(ENTRY )?%?(?P<name>\S+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%(?P<name>\S+) = (?P<rest>.*)$")
_ARRAY = re.compile(r"(?P<dtype>[a-z]\w*)\[(?P<dims>[\d,]*)\](\{(?P<layout>[^}]*)\})?")
_NAMES = re.compile(r"%([^\s,(){}]+)")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[(?P<mesh>[^\]]*)\][^{]*\{(?P<axes>[^}]*)\}")
# Several slices exchange by way of their hosts' networks: a send and a receive with such a note.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(?P<kind>\w+)"')
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Array:
    """One buffer of an instruction's result."""

    dtype: str
    dims: tuple[int, ...]
    layout: str  # minor-to-major order, tiles and memory space, as XLA prints them

    @property
    def size(self) -> int:
        """Bytes as stored, the padding of tiles included."""
        dims = list(self.dims)
        tile = re.search(r"T\((\d+(?:,\d+)*)\)", self.layout)
        order = [int(i) for i in self.layout.partition(":")[0].split(",") if i.strip()]
        if tile and len(order) == len(dims):
            sizes = [int(x) for x in tile[1].split(",")]
            for axis, step in zip(order, reversed(sizes), strict=False):
                dims[axis] = -(-dims[axis] // step) * step
        return math.prod(dims) * item_size(self.dtype)

    @property
    def in_memory(self) -> bool:
        """Whether it lies in the chip's main memory (space 0)."""
        return "S(" not in self.layout


def item_size(dtype: str) -> int:
    """Bytes of one value; types of less than a byte count as one."""
    if dtype in ITEM_SIZE:
        return ITEM_SIZE[dtype]
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool = False

    def called(self, key: str) -> str | None:
        """The computation of an attribute such as calls=%name."""
        found = re.search(rf"\b{key}=%([^\s,}}]+)", self.attributes)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices, and how often the program does it."""

    kind: str
    size: int  # bytes of its largest side on one device, per execution
    times: int
    group: int  # devices that take part
    slices: bool = False  # whether it leaves a slice

    @property
    def wire_bytes(self) -> float:
        """Bytes that one device sends over all executions, with ring algorithms."""
        share = (self.group - 1) / self.group if self.group else 1.0
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.times * self.size * factor


class Program:
    """A compiled module."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.devices = math.prod(
            int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text[:100_000])
        )
        body: dict[str, Instruction] = {}
        for line in text.splitlines():
            if line[:1] not in (" ", "}", "") and (found := _COMPUTATION.match(line)):
                body = self.computations[found["name"]] = {}
                if found[1]:
                    self.entry = found["name"]
            elif found := _INSTRUCTION.match(line):
                body[found["name"]] = _instruction(found["name"], found["rest"], bool(found[1]))

    def walk(
        self, computation: str | None = None, times: int = 1
    ) -> Iterator[tuple[Instruction, int, Mapping[str, Instruction]]]:
        """Every instruction that runs by itself, how often, and its neighbours by name."""
        body = self.computations[computation or self.entry]
        for instruction in body.values():
            yield instruction, times, body
            if instruction.opcode == "while":
                trips = times * self._trips(instruction)
                yield from self.walk(instruction.called("body"), trips)
            elif instruction.opcode in ("call", "async-start"):
                key = "to_apply" if instruction.opcode == "call" else "calls"
                if name := instruction.called(key):
                    yield from self.walk(name, times)

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs: as XLA says, or up to the constant that its condition names."""
        if known := _TRIPS.search(loop.attributes):
            return int(known[1])
        condition = self.computations[loop.called("condition")]
        for instruction in condition.values():
            if instruction.opcode == "compare" and "direction=LT" in instruction.attributes:
                limit = condition.get(instruction.operands[1])
                if limit and limit.opcode == "constant" and limit.attributes.isdigit():
                    return int(limit.attributes)
        return 1

    def collectives(self, slices: int = 1) -> list[Collective]:
        """All exchanges; those inside fusions, which overlap with computation, too."""
        found = []
        for instruction, times, _ in self.walk():
            if instruction.opcode == "send":
                if note := _BETWEEN_SLICES.search(instruction.attributes):
                    kind = note["kind"].lower().replace("_", "-")
                    size = sum(a.size for a in instruction.result[:1])
                    found.append(Collective(kind, size, times, slices, slices=True))
                continue
            inner = instruction.called("calls") if instruction.opcode == "fusion" else None
            inside = self.computations[inner].values() if inner else ()
            for part in (instruction, *inside):
                kind = part.opcode.removesuffix("-start")
                if kind in COLLECTIVES:
                    # A sum of which each device takes its part is written so on TPUs.
                    scattered = "all-reduce-scatter" in (inner or "")
                    found.append(self._collective(part, kind, times, scattered))
        return found

    def _collective(
        self, instruction: Instruction, kind: str, times: int, scattered: bool
    ) -> Collective:
        arrays = instruction.result
        if instruction.opcode.endswith("-start") and kind != "all-reduce":
            arrays = (max(arrays, key=lambda a: a.size),)  # the operands are listed beside it
        size = sum(a.size for a in arrays)
        group = _group(instruction.attributes, self.devices)
        if kind == "reduce-scatter":
            size *= group  # of what goes in
        kind = "reduce-scatter" if scattered else kind
        return Collective(kind, size, times, group)

    def memory_traffic(self) -> int:
        """Bytes that one device moves from and to its main memory."""
        return sum(times * self._traffic(i, body) for i, times, body in self.walk())

    def _traffic(self, instruction: Instruction, body: Mapping[str, Instruction]) -> int:
        opcode = instruction.opcode
        if opcode in _FREE or any(f'"{t}"' in instruction.attributes for t in _FREE_CALLS):
            return 0
        written = sum(a.size for a in instruction.result if a.in_memory)
        if opcode == "copy-start":
            return written  # its result names both sides
        if opcode == "slice-start":
            return instruction.result[1].size
        if opcode in ("dynamic-slice", "gather", "slice"):
            return 2 * written
        if opcode in ("dynamic-update-slice", "scatter"):
            return 2 * _size(body, instruction.operands[1 if opcode[0] == "d" else 2])
        operands = [body[name] for name in instruction.operands if name in body]
        if opcode != "fusion":
            return written + sum(_in_memory(o) for o in operands)
        return self._fusion_traffic(instruction, operands)

    def _fusion_traffic(self, fusion: Instruction, operands: list[Instruction]) -> int:
        """Operands and results, those that are sliced or updated in place by their slices."""
        inner = self.computations[fusion.called("calls")]
        parameters = sorted(
            (i for i in inner.values() if i.opcode == "parameter"),
            key=lambda i: int(i.attributes.partition(")")[0] or 0),
        )
        total = 0
        in_place = 0
        for parameter, operand in zip(parameters, operands, strict=False):
            if not all(a.in_memory for a in operand.result):
                continue
            users = [i for i in inner.values() if parameter.name in i.operands]
            if users and all(_reads_part(u, parameter.name) for u in users):
                total += sum(sum(a.size for a in u.result) for u in users)
            elif users and all(_updates(u, parameter.name) for u in users):
                total += sum(_size(inner, u.operands[1]) for u in users)
                in_place += _in_memory(operand)
            else:
                total += _in_memory(operand)
        written = sum(a.size for a in fusion.result if a.in_memory)
        return total + max(0, written - in_place)


def _reads_part(user: Instruction, name: str) -> bool:
    return user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name


def _updates(user: Instruction, name: str) -> bool:
    return user.opcode == "dynamic-update-slice" and user.operands[0] == name


def _size(body: Mapping[str, Instruction], name: str) -> int:
    return sum(a.size for a in body[name].result) if name in body else 0


def _in_memory(instruction: Instruction) -> int:
    return sum(a.size for a in instruction.result if a.in_memory)


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    """Parses `TYPE opcode(operands), attributes`."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    inside = rest[: _closing("(" + rest, 0) - 1]
    after = rest[len(inside) + 1 :].lstrip(", ")
    result = tuple(
        Array(m["dtype"], tuple(int(d) for d in m["dims"].split(",") if d), m["layout"] or "")
        for m in _ARRAY.finditer(shape)
    )
    if opcode in ("constant", "parameter"):
        return Instruction(name, opcode, result, (), inside, root)
    return Instruction(name, opcode, result, tuple(_NAMES.findall(inside)), after, root)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def _group(attributes: str, devices: int) -> int:
    """Devices of a replica group.

    XLA writes groups as lists, as an iota [groups,size]<=[dims], or as axes of a mesh.
    """
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(found[1])
    if found := _MESH_GROUPS.search(attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found["mesh"]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", found["axes"]))
    return devices
