"""Reading pickles without running them: plain containers, numbers, strings and numpy arrays only.

A pickle may name any importable function and have it called. Here every name is looked up in a
short table instead, and whatever is not in the table is refused by that name. Numpy's own
constructors are replaced too: arrays are rebuilt from their raw bytes for plain element types,
because numpy's would trust a forged element description.
"""

import codecs
import math
import os
import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stf_jax.errors import UserError
from stf_jax.reading.limits import MIB, read_bytes
from stf_jax.reading.plain_pickle import (
    PlainUnpickler,
    RefusedError,
    checked_keys,
    plain_dict,
)

MOST = 256 * MIB  # of a file: 3 million images take 80 MiB

_PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[SUa][0-9]{1,4}|O[48]?")


def _line(text: str) -> str:
    """Foreign text for a message: one short line."""
    return "".join(character if character.isprintable() else "?" for character in text[:160])


class _Dtype:
    """What a pickle says of an array's element type."""

    def __init__(self, spec: object, *_: object) -> None:
        text = spec.decode("latin-1") if isinstance(spec, bytes) else spec
        if not isinstance(text, str) or not _PLAIN_DTYPE.fullmatch(text):
            what = f"{text!r:.40}" if isinstance(text, str) else f"a {type(text).__name__}"
            raise RefusedError(f"a numpy array with elements of type {what}")
        self.spec = text.replace("a", "S")
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, fields, offsets, *_ = state
        if subarray is not None or fields is not None or offsets is not None:
            raise RefusedError("a numpy array of records")
        self.order = {"<": "<", ">": ">", b"<": "<", b">": ">"}.get(order, "=")

    def items(self, raw: Any) -> list[Any]:
        """The array's elements, as Python objects, from its bytes (or its list of objects)."""
        if self.spec.startswith("O"):
            return list(raw)
        if isinstance(raw, str):  # bytes that Python 2 wrote arrive as latin-1 text
            raw = raw.encode("latin-1")
        return np.frombuffer(raw, np.dtype(self.order + self.spec)).tolist()


class _Array(list[Any]):
    """A numpy array as a list of its elements."""

    def __setstate__(self, state: Any) -> None:
        shape, dtype, _, raw = state[-4:]  # old versions have no version number in front
        self.fill(shape, dtype, raw)

    def fill(self, shape: Any, dtype: Any, raw: Any) -> None:
        if not all(isinstance(size, int) for size in shape):
            raise ValueError("array of no possible shape")
        if sum(size != 1 for size in shape) > 1:
            raise RefusedError(f"a numpy array of shape {shape!r:.40}, not one-dimensional")
        self[:] = dtype.items(raw)
        if len(self) != math.prod(shape):
            raise ValueError(f"array of shape {shape!r:.40} with {len(self)} elements")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, *_: object) -> _Array:
    array = _Array()
    array.fill(shape, dtype, raw)
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    if dtype.spec.startswith("O"):
        return raw
    (item,) = dtype.items(raw)
    return item


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocols 0 to 2 spell bytes."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise RefusedError(f"text in the encoding {encoding!r:.40}")
    return text.encode("latin-1")


def _bytes(value: Any = b"", encoding: Any = "latin1") -> bytes:
    return _encode(value, encoding) if isinstance(value, str) else bytes(memoryview(value))


def _defaultdict(factory: object = None, *items: Any) -> dict[Any, Any]:
    del factory
    return plain_dict(*items)


def _set(items: Any = ()) -> set[Any]:
    return set(checked_keys(items))


def _frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(checked_keys(items))


def _str(value: Any = "") -> str:
    if not isinstance(value, str):  # that of a shared list can have any length
        raise RefusedError(f"a {type(value).__name__} turned into text")
    return value


_PLAIN_TYPES = {
    "list": list,
    "tuple": tuple,
    "dict": plain_dict,
    "set": _set,
    "frozenset": _frozenset,
    "bool": bool,
    "int": int,
    "long": int,
    "float": float,
    "str": _str,
    "unicode": _str,
    "bytes": _bytes,
    "bytearray": _bytes,
}

_ADMITTED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): plain_dict,
    ("collections", "defaultdict"): _defaultdict,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
for _module in ("builtins", "__builtin__"):
    _ADMITTED |= {(_module, name): value for name, value in _PLAIN_TYPES.items()}
for _module in ("numpy.core", "numpy._core"):  # before and since numpy 2
    _ADMITTED[f"{_module}.multiarray", "_reconstruct"] = _reconstruct
    _ADMITTED[f"{_module}.multiarray", "scalar"] = _scalar
    _ADMITTED[f"{_module}.numeric", "_frombuffer"] = _frombuffer


class _Unpickler(PlainUnpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(PlainUnpickler.dispatch)

    def load_build(self) -> None:
        """Sets state on arrays and element types alone: never on an admitted function or class."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Array | _Dtype):
            self.count_copied(state)
            target.__setstate__(state)
        elif state:
            raise RefusedError(f"attributes set on a {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = load_build


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Returns what a pickle of any protocol holds, written by Python 2 or 3.

    Numpy arrays come back as lists of Python objects, numpy scalars as Python objects,
    ordered and default dicts as dicts, and the byte strings of Python 2 as latin-1 text.

    Raises:
        UserError: the file cannot be read, is not a complete pickle, holds anything but plain
            containers, numbers, strings and one-dimensional numpy arrays of these, or more of them
            than a file of its size may (see `stf_jax.reading.plain_pickle`).
    """
    path = Path(path)
    try:
        return _Unpickler(read_bytes(path, MOST), "latin-1", _ADMITTED).load()
    except RefusedError as error:
        raise UserError(
            f"{path}: holds {_line(str(error))}; only plain containers, numbers, strings and numpy "
            "arrays are read, because a pickle can run programs; write the file again with lists"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); expected a pickle file"
        ) from None
    except Exception as error:
        # A corrupt stream can fail in any way at all, and all of them mean the same.
        raise UserError(
            f"{path}: not a complete pickle ({type(error).__name__}: {_line(str(error))}); "
            "copy the file again or write it again"
        ) from None
