"""PyTorch's .pth files, read without PyTorch.

Since its version 1.6 such a file is a zip archive with a pickle, data.pkl, whose tensors name their
numbers by a key, and a file data/KEY for each. Before, it was five pickles (a magic number, a
version, the machine's properties, the content, the keys) and then the numbers of each key. A pickle
may name any function; here each name is looked up in a table of ours, so that nothing of it runs
(`stf_jax.reading.plain_pickle`). Format: torch/serialization.py and torch/_utils.py of PyTorch 2.
"""

import math
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, ClassVar

import ml_dtypes
import numpy as np

from stf_jax.reading.arrays import check_archive, read_entry
from stf_jax.reading.limits import MIB
from stf_jax.reading.plain_pickle import PlainUnpickler, RefusedError, plain_dict

MOST_PICKLED = 64 * MIB  # of data.pkl or the five pickles: names and shapes
TIMES = 4  # what the tensors may take up in all, and is read for them, for each byte of the file

_DTYPES: dict[str, Any] = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "ComplexFloat": np.complex64,
    "ComplexDouble": np.complex128,
}
_MOST_DIMENSIONS = 32
_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the pickle has it; `kind` is empty where its numbers can be read."""

    storage: Any  # (name of its type, key)
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    kind: str = ""  # sparse, quantised, float8: what it is instead


class Unread:
    """In place of what is beside the weights: takes what the file gives it, does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class _Named(str):
    """A type, dtype or layout of PyTorch by its name; what is made of it is not read."""

    def __call__(self, *_: Any) -> Unread:
        return Unread()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    sizes = [tuple(map(int, sizes)) for sizes in (shape, strides)]
    if len(sizes[0]) != len(sizes[1]) or len(sizes[0]) > _MOST_DIMENSIONS or int(offset) < 0:
        raise ValueError("a tensor of no possible shape")
    if any(size < 0 for size in (*sizes[0], *sizes[1])):
        raise ValueError("a tensor of a negative size")
    return StoredTensor(storage, int(offset), sizes[0], sizes[1])


def _other_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> StoredTensor:
    found = _tensor(storage, offset, shape, strides)
    dtype = next((part for part in rest if isinstance(part, _Named)), storage[0])
    return replace(found, kind=str(dtype))


def _quantised(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    return replace(_tensor(storage, offset, shape, strides), kind=str(storage[0]).lower())


def _sparse(layout: Any, data: Any, *_: Any) -> StoredTensor:
    shape = tuple(map(int, data[2]))
    return StoredTensor(None, 0, shape, (), str(layout).removeprefix("torch."))


def _first(tensor: Any, *_: Any) -> Any:
    return tensor


_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): plain_dict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _other_tensor,
    ("torch._utils", "_rebuild_qtensor"): _quantised,
    ("torch._utils", "_rebuild_sparse_tensor"): _sparse,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch.serialization", "_get_layout"): _Named,
    ("torch", "Size"): tuple,
    ("torch", "device"): Unread,
    ("torch.storage", "UntypedStorage"): _Named("Untyped"),
    ("argparse", "Namespace"): Unread,
    ("numpy", "dtype"): Unread,
    ("numpy", "ndarray"): Unread,
    ("_codecs", "encode"): Unread,
    **{
        (f"numpy.{core}.multiarray", name): Unread
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    },
}


class _Unpickler(PlainUnpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(PlainUnpickler.dispatch)

    def __init__(self, content: bytes) -> None:
        super().__init__(content, "utf-8", _ADMITTED)
        self.kinds: dict[str, str] = {}  # key of numbers -> name of their type

    def find_class(self, module: str, name: str) -> Any:
        found = self.admitted.get((module, name))
        if found is not None:
            return found
        if module == "torch" and name.endswith("Storage"):
            return _Named(name.removesuffix("Storage"))
        if module == "torch" and name.isidentifier() and name[:1].islower():  # a dtype
            return _Named(name)
        raise ValueError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        kind, storage, key, *rest = pid
        if kind != "storage" or not isinstance(storage, _Named) or not isinstance(key, str):
            raise ValueError("a reference to something else than numbers")
        if rest[2:] and rest[2] is not None:
            raise ValueError("a part of other numbers")
        self.kinds[key] = str(storage)
        return str(storage), key

    def load_newobj(self) -> None:
        """An object of a class that is not read: options, as training scripts keep them."""
        self.stack.pop()
        made = self.stack.pop()
        if made is not Unread:
            raise RefusedError("an object of a class")
        self.stack.append(Unread())

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_build(self) -> None:
        """Attributes are set on nothing: those of a state dict are not needed."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = load_build


def read_zip(archive: zipfile.ZipFile) -> tuple[Any, "Storages"]:
    """Return what the pickle of a .pth holds, tensors as `StoredTensor`, and their numbers.

    Raises what the archive, the pickle or anything in them is damaged with: ValueError and others.
    """
    entries = archive.infolist()
    if any(e.compress_type for e in entries if "/data/" in e.filename):
        raise ValueError("its data are compressed")
    size = os.path.getsize(str(archive.filename))
    check_archive(archive, size + MOST_PICKLED)
    if damaged := archive.testzip():
        raise ValueError(f"{damaged} is damaged")
    (pickled,) = (e for e in entries if e.filename.endswith("/data.pkl"))
    root = pickled.filename.removesuffix("data.pkl")
    if pickled.file_size > MOST_PICKLED:
        raise ValueError(f"its data.pkl is larger than {MOST_PICKLED // MIB} MiB")
    by_name = {e.filename: e for e in entries}
    order = by_name.get(f"{root}byteorder")
    if order is not None and read_entry(archive, order) != b"little":
        raise ValueError("its numbers are big-endian")
    content = _Unpickler(read_entry(archive, pickled)).load()

    def find(key: str) -> tuple[int, Callable[[], bytes]]:
        entry = archive.getinfo(f"{root}data/{key}")
        return entry.file_size, lambda: read_entry(archive, entry)

    return content, Storages(find, size)


def read_old(file: BinaryIO) -> tuple[Any, "Storages"]:
    """As `read_zip` of a .pth of before PyTorch 1.6, opened for reading.

    Raises what it is damaged with: ValueError and others.
    """
    size = os.fstat(file.fileno()).st_size
    unpickler = _Unpickler(file.read(min(size, MOST_PICKLED)))
    magic, version, machine = (unpickler.load() for _ in range(3))
    if magic != _MAGIC or version != _VERSION:
        raise ValueError("neither a zip archive nor of PyTorch before 1.6")
    if machine["little_endian"] is not True:
        raise ValueError("its numbers are big-endian")
    content, keys = unpickler.load(), unpickler.load()
    places, at = {}, unpickler.stream.tell()
    for key in keys:
        kind = unpickler.kinds[key]
        if kind not in _DTYPES:
            raise ValueError(f"of {kind.lower()}")
        file.seek(at)
        length = int.from_bytes(file.read(8), "little") * np.dtype(_DTYPES[kind]).itemsize
        places[key] = at + 8, length
        at += 8 + length
    if at > size:
        raise ValueError("cut off")

    def find(key: str) -> tuple[int, Callable[[], bytes]]:
        start, length = places[key]

        def read() -> bytes:
            file.seek(start)
            return file.read(length)

        return length, read

    return content, Storages(find, size)


@dataclass
class Storages:
    """The numbers of the tensors of a file, while that is open."""

    find: Callable[[str], tuple[int, Callable[[], bytes]]]  # key -> bytes, what reads them
    size: int  # of the file, bytes
    used: int = 0  # bytes of tensors given, and read for them
    _last: dict[str, bytes] = field(default_factory=dict)  # the storage read last: often the next

    def _raw(self, key: str) -> bytes:
        if key not in self._last:
            size, read = self.find(key)
            self._count(size)
            self._last = {key: read()}
        return self._last[key]

    def _count(self, size: int) -> None:
        self.used += size
        if self.used > 2 * TIMES * self.size:
            raise ValueError(f"it and those before take up {TIMES} times the size of the file")

    def array(self, tensor: StoredTensor) -> np.ndarray:
        """The array of a tensor, of its own memory.

        Raises ValueError where it is no plain array of numbers or reaches beyond what is stored.
        """
        if tensor.kind:
            raise ValueError(tensor.kind)
        kind, key = tensor.storage
        if kind not in _DTYPES:
            raise ValueError(f"of {kind.lower()}")
        dtype = np.dtype(_DTYPES[kind])
        if math.prod(tensor.shape) * dtype.itemsize > self.size:
            raise ValueError("one stored number stands for many")
        self._count(math.prod(tensor.shape) * dtype.itemsize)
        raw = self._raw(key)
        stored = np.frombuffer(raw, dtype, len(raw) // dtype.itemsize)
        pairs = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.offset + sum((size - 1) * stride for size, stride in pairs)
        if 0 in tensor.shape:
            return np.empty(tensor.shape, dtype)
        if last >= len(stored):
            raise ValueError("it reaches beyond what is stored")
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(stored[tensor.offset :], tensor.shape, strides)
        return np.array(view, order="C")
