"""PyTorch's own files. Reading needs no PyTorch and never runs what a file brings along.

A .pth file is a pickle beside raw storages, in a zip archive or (before PyTorch 1.6) in a row. Each
name in the pickle must be one of those known here, and stands for a few lines of this module;
`torch.load(weights_only=True)` does the same for its own names, but cannot read or name what newer
pickle protocols hold, and does not look at the archive's checksums.
"""

import functools
import io
import math
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from vmae_jax.convert.rules import ConversionError

MAX_PICKLE = 64 * 2**20  # bytes; a checkpoint of ViT-g with its optimizer has less than 1 MB
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

# torch.<name>Storage and torch.<dtype>; what else there is holds no weights.
STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool",
}  # fmt: skip
DTYPES = {name: np.dtype(name) for name in STORAGES.values() if name != "bfloat16"}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)


# What programs keep beside the weights; none of it is imported, and none of its values is kept.
INERT = {
    "builtins": (
        "bool", "complex", "float", "frozenset", "int", "long", "range", "slice", "str", "xrange",
    ),
    "collections": ("Counter", "deque"),  # of learning-rate schedules and logs
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "easydict": ("EasyDict",),
    "lightning.fabric.utilities.data": ("AttributeDict",),
    "lightning_fabric.utilities.data": ("AttributeDict",),
    "mmengine.logging.history_buffer": ("HistoryBuffer",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": (
        "AnyNode", "BooleanNode", "BytesNode", "FloatNode", "IntegerNode", "PathNode", "StringNode",
    ),
    "pathlib": (
        "Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath",
    ),
    "pytorch_lightning.utilities.parsing": ("AttributeDict",),
    "types": ("SimpleNamespace",),
    "typing": ("Any",),
    "uuid": ("UUID",),
    "yacs.config": ("CfgNode",),
}  # fmt: skip
INERT["pathlib._local"] = INERT["pathlib"]  # as Python 3.13 calls it


class Storage(NamedTuple):
    """A run of numbers in the file."""

    dtype: np.dtype
    numel: int
    read: Callable[[], bytes]


class Tensor:
    """A tensor that is read when NumPy asks for it."""

    def __init__(self, storage: Storage, offset: int, shape: tuple, stride: tuple):
        shape, stride = tuple(shape), tuple(stride)
        whole = all(type(n) is int and n >= 0 for n in (offset, *shape, *stride))
        if not isinstance(storage, Storage) or not whole or len(shape) != len(stride):
            raise ConversionError("a tensor in it has no storage, or negative sizes")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if math.prod(shape) > storage.numel or (math.prod(shape) and last >= storage.numel):
            raise ConversionError(f"a tensor of shape {shape} reaches beyond its storage")
        self.shape, self.dtype = shape, storage.dtype
        self._storage, self._offset, self._stride = storage, offset, stride

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        data = self._storage.read()
        if len(data) != self._storage.numel * self.dtype.itemsize:
            raise ConversionError("it became shorter while it was read")
        numbers = np.frombuffer(data, self.dtype)[self._offset :]
        strides = [n * self.dtype.itemsize for n in self._stride]
        view = np.lib.stride_tricks.as_strided(numbers, self.shape, strides, writeable=False)
        return np.array(view, dtype or self.dtype)


class _Tuple(tuple):
    """A tuple that is no key of a dict: to hash a deep one overflows the stack."""

    __hash__ = None


class _Dict(dict):
    """An OrderedDict that keeps no extra attributes: state dicts carry `_metadata`."""

    def __setstate__(self, state: Any) -> None:
        pass


class _NumpyType:
    def __init__(self, name: str):
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment: NumPy writes '|' or the machine's."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.name = ">" + self.name.lstrip(">")

    def dtype(self) -> np.dtype:
        if not re.fullmatch(">?[biufSU][0-9]{1,3}", self.name):
            raise ConversionError("a NumPy value in it is no number or text")
        return np.dtype(self.name)


class _NumpyArray:
    """What stands beside the weights; its values are not needed."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Inert:
    """What stands for an object of `INERT`, however it is made and filled: it keeps nothing."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass


def _unhashable(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """An opcode that makes a tuple, with our own."""

    def load_tuple(unpickler: Any) -> None:
        load(unpickler)
        unpickler.stack[-1] = _Tuple(unpickler.stack[-1])

    return load_tuple


class _Unpickler(pickle._Unpickler):
    """Builds tensors, containers, NumPy scalars and argparse.Namespace, and nothing else.

    Of paths, dates, settings and the like (`INERT`) it keeps nothing.

    The classes and functions named by a pickle are looked up here, never imported. It is the
    unpickler written in Python: that in C makes room for as much as a file claims to hold, and lets
    nobody choose its tuples.
    """

    dispatch = pickle._Unpickler.dispatch | {
        code[0]: _unhashable(pickle._Unpickler.dispatch[code[0]])
        for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
    }
    dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.BINBYTES8[0]]  # the former makes room as well

    def __init__(self, file: BinaryIO, storage: Callable[[tuple], Storage] | None = None):
        super().__init__(file)
        self._storage = storage
        self.namespace = type("Namespace", (), {})  # one per file: a pickle may set attributes

    def persistent_load(self, pid: Any) -> Storage:
        if self._storage is None or not isinstance(pid, tuple) or pid[:1] != ("storage",):
            raise ConversionError("it holds an unknown kind of storage")
        return self._storage(pid)

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # as Python 2 called it
        full = f"{module}.{name}"
        if module in ("torch", "torch.storage") and name.removesuffix("Storage") in STORAGES:
            return STORAGES[name.removesuffix("Storage")]
        if module == "torch" and name in DTYPES:
            return name
        known = {
            "argparse.Namespace": self.namespace,
            "collections.OrderedDict": _Dict,
            "collections.defaultdict": self._defaultdict,
            "builtins.dict": "dict",
            "builtins.list": "list",
            "builtins.set": self._unread,
            "_codecs.encode": self._first,
            "torch.Size": self._first,
            "torch.device": self._unread,
            "torch.Tensor": "torch.Tensor",
            "torch.nn.parameter.Parameter": "torch.nn.Parameter",
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
            "torch._tensor._rebuild_from_type_v2": self._from_type,
            "numpy.dtype": self._numpy_type,
            "numpy.ndarray": _NumpyArray,
        }
        for numpy in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
            known[f"{numpy}.multiarray.scalar"] = self._numpy_scalar
            known[f"{numpy}.multiarray._reconstruct"] = self._numpy_array
            known[f"{numpy}.numeric._frombuffer"] = self._numpy_array
        if full in known:
            return known[full]
        if name in INERT.get(module, ()):
            return _Inert
        raise ConversionError(
            f"its pickle asks for {full}; only tensors, containers, NumPy scalars and "
            "argparse.Namespace are admitted, and paths, dates and settings beside them, so "
            "nothing of it was run or read; save its state dict alone where you trust it"
        )

    def _tensor(self, storage: Storage, offset: int, shape: tuple, stride: tuple, *_: Any):
        return Tensor(storage, offset, shape, stride)

    def _parameter(self, data: Tensor, *_: Any) -> Tensor:
        return data

    def _from_type(self, rebuild: Callable, kind: Any, args: tuple, state: Any) -> Tensor:
        if rebuild not in (self._tensor, self._parameter):
            raise ConversionError("a tensor in it is of an unknown kind")
        return rebuild(*args)

    def _defaultdict(self, *_: Any) -> dict:
        return _Dict()

    def _unread(self, *_: Any) -> str:
        return "not read"

    def _first(self, value: Any, *_: Any) -> Any:
        return value

    def _numpy_type(self, name: str, *_: Any) -> _NumpyType:
        return _NumpyType(name)

    def _numpy_scalar(self, kind: _NumpyType, data: bytes | str) -> Any:
        raw = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(raw, kind.dtype(), 1)[0].item()

    def _numpy_array(self, *_: Any) -> _NumpyArray:
        return _NumpyArray()


def read(path: str) -> Any:
    """The object in a file of `torch.save`, its tensors as `Tensor`s that are read when used.

    Raises:
      ConversionError: for a damaged or foreign file, and for a pickle that names anything else than
        tensors, containers, NumPy scalars, argparse.Namespace and what is in `INERT`.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                raise ConversionError("is damaged (an archive without its end); get it again")
            file.seek(0)
            return _read_legacy(path, file)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise ConversionError(f"{path}: is damaged ({_reason(error)}); get it again") from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _read_zip(path: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1 or len(entries) != len(archive.infolist()):
            raise ConversionError("is a zip archive, but not one of torch.save")
        root = pickles[0].split("/")[0]
        if f"{root}/constants.pkl" in entries:
            raise ConversionError("is a TorchScript archive; save the model's state dict instead")
        sizes = sum(entry.file_size for entry in entries.values())
        if any(e.compress_type for e in entries.values()) or sizes > os.path.getsize(path):
            raise ConversionError("is a compressed zip archive, which torch.save does not write")
        if entries[pickles[0]].file_size > MAX_PICKLE:
            raise ConversionError(f"its pickle has more than {MAX_PICKLE} bytes")
        order = f"{root}/byteorder"
        if order in entries and archive.read(order) != b"little":
            raise ConversionError("was written by a big-endian machine")
        data = archive.read(pickles[0])

    def storage(pid: tuple) -> Storage:
        name, key, numel = _described(pid)
        entry, dtype = entries[f"{root}/data/{key}"], DTYPES[name]
        if entry.file_size != numel * dtype.itemsize:
            raise ConversionError(f"storage {key} has {entry.file_size} bytes, expected {numel}")

        return Storage(dtype, numel, functools.partial(raw, entry.filename))

    @functools.lru_cache(1)  # many tensors may be views of one storage
    def raw(filename: str) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(filename)  # which verifies its CRC-32
        except Exception as error:
            raise ConversionError(f"{path}: is damaged ({_reason(error)}); get it again") from error

    return _Unpickler(io.BytesIO(data), storage).load()


def _described(pid: tuple) -> tuple[str, str, int]:
    """Type, key and numbers of a storage, as a pickle describes it."""
    _, name, key, _, numel, *view = pid
    if view and view[0] is not None:
        raise ConversionError("a storage in it is a view of another")
    if name not in DTYPES or not isinstance(key, str) or type(numel) is not int or numel < 0:
        raise ConversionError("a storage in it has no known type, name and size")
    return name, key, numel


def _read_legacy(path: str, file: BinaryIO) -> Any:
    """Five pickles (magic, version, machine, object, keys of storages), then the storages."""
    size = os.path.getsize(path)
    pickles = io.BytesIO(file.read(MAX_PICKLE))
    if _Unpickler(pickles).load() != LEGACY_MAGIC or _Unpickler(pickles).load() != LEGACY_VERSION:
        raise ConversionError("is a pickle, but not one of torch.save")
    machine = _Unpickler(pickles).load()
    if not isinstance(machine, dict) or not machine.get("little_endian", True):
        raise ConversionError("was written by a big-endian machine")
    offsets: dict[str, int] = {}
    sizes: dict[str, int] = {}

    def storage(pid: tuple) -> Storage:
        name, key, numel = _described(pid)
        dtype = DTYPES[name]
        nbytes = numel * dtype.itemsize
        if sizes.setdefault(key, nbytes) != nbytes or nbytes > size:
            raise ConversionError(f"storage {key} has contradicting sizes")
        return Storage(dtype, numel, functools.partial(raw, key))

    @functools.lru_cache(1)
    def raw(key: str) -> bytes:
        with open(path, "rb") as file:
            file.seek(offsets[key])
            return file.read(sizes[key])

    content = _Unpickler(pickles, storage).load()
    keys = _Unpickler(pickles).load()
    file.seek(pickles.tell())
    for key in keys:
        position = file.tell()
        (numel,) = struct.unpack("<q", file.read(8))
        itemsize = sizes[key] // numel if numel > 0 else 0
        if numel * itemsize != sizes[key] or position + 8 + sizes[key] > size:
            raise ConversionError("ends in the middle of a tensor; get it again")
        offsets[key] = position + 8
        file.seek(offsets[key] + sizes[key])
    if offsets.keys() != sizes.keys() or file.tell() != size:
        raise ConversionError("its storages are not those its pickle names; get it again")
    return content


def write(path: str, content: Mapping[str, Any]) -> None:
    """Saves nested dicts of NumPy arrays and plain values as a .pth file, through PyTorch.

    Raises:
      ConversionError: if PyTorch is missing.
    """
    try:
        import torch
    except ImportError:
        raise ConversionError(
            f"{path}: writing .pth files needs PyTorch: pip install 'vmae_jax[torch]', "
            "or write .safetensors"
        ) from None

    def tensors(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: tensors(part) for key, part in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        # PyTorch has no read-only tensors, and warns where one would share an array that is.
        return torch.from_numpy(value if value.flags.writeable else value.copy())

    torch.save(tensors(content), path)
