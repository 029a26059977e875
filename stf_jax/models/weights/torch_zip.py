"""PyTorch's .pth files (since 1.6: a zip archive), read without PyTorch.

The archive holds a pickle, data.pkl, whose tensors name their numbers by a key, and a file data/KEY
for each. The pickle may name any function; here each name is looked up in a table of ours, so that
nothing of it runs (`stf_jax.reading.plain_pickle`). Format: torch/serialization.py and
torch/_utils.py of PyTorch 2.
"""

import math
import os
import pickle
import zipfile
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from stf_jax.reading.arrays import check_archive, read_entry
from stf_jax.reading.limits import MIB
from stf_jax.reading.plain_pickle import PlainUnpickler, RefusedError, plain_dict

MOST_PICKLED = 64 * MIB  # of data.pkl: names and shapes
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
        kind, storage, key, *_ = pid
        if kind != "storage" or not isinstance(storage, _Named) or not isinstance(key, str):
            raise ValueError("a reference to something else than numbers")
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
    content = _Unpickler(read_entry(archive, pickled), "utf-8", _ADMITTED).load()
    return content, Storages(archive, root, size)


@dataclass
class Storages:
    """The numbers of the tensors of an archive, while that is open."""

    archive: zipfile.ZipFile
    root: str
    size: int  # of the file, bytes
    used: int = 0  # bytes of tensors given, and read for them
    _last: dict[str, bytes] = field(default_factory=dict)  # the storage read last: often the next

    def _raw(self, key: str) -> bytes:
        if key not in self._last:
            entry = self.archive.getinfo(f"{self.root}data/{key}")
            self._count(entry.file_size)
            self._last = {key: read_entry(self.archive, entry)}
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
