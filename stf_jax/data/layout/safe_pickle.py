"""Reading pickles without running them: plain containers, numbers, strings and numpy arrays only.

A pickle may name any importable function and have it called. Here every name is looked up in a
short table instead, and whatever is not in the table is refused by that name. Numpy's own
constructors are replaced too: arrays are rebuilt from their raw bytes for plain element types,
because numpy's would trust a forged element description.

The interpreter's pure-Python unpickler is used: the C one allocates as much memory as a corrupt
file asks for. Reading 1.2 million names takes it one to two seconds.
"""

import codecs
import io
import math
import os
import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stf_jax.errors import UserError

_PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[SUa][0-9]{1,4}|O[48]?")


class _RefusedError(Exception):
    """Something a partitions file has no business holding; the message names it."""


def _line(text: str) -> str:
    """Foreign text for a message: one short line."""
    return "".join(character if character.isprintable() else "?" for character in text[:160])


class _Dtype:
    """What a pickle says of an array's element type."""

    def __init__(self, spec: object, *_: object) -> None:
        text = spec.decode("latin-1") if isinstance(spec, bytes) else spec
        if not isinstance(text, str) or not _PLAIN_DTYPE.fullmatch(text):
            raise _RefusedError(f"a numpy array with elements of type {text!r:.40}")
        self.spec = text.replace("a", "S")
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, fields, offsets, *_ = state
        if subarray is not None or fields is not None or offsets is not None:
            raise _RefusedError("a numpy array of records")
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

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, _, raw = state[-4:]  # old versions have no version number in front
        self.fill(shape, dtype, raw)

    def fill(self, shape: tuple[int, ...], dtype: _Dtype, raw: Any) -> None:
        if sum(size != 1 for size in shape) > 1:
            raise _RefusedError(f"a numpy array of shape {shape!r:.40}, not one-dimensional")
        self[:] = dtype.items(raw)
        if len(self) != math.prod(shape):
            raise ValueError(f"array of shape {shape} with {len(self)} elements")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(raw: Any, dtype: _Dtype, shape: tuple[int, ...], *_: object) -> _Array:
    array = _Array()
    array.fill(shape, dtype, raw)
    return array


def _scalar(dtype: _Dtype, raw: Any) -> Any:
    if dtype.spec.startswith("O"):
        return raw
    (item,) = dtype.items(raw)
    return item


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocols 0 to 2 spell bytes."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise _RefusedError(f"text in the encoding {encoding!r:.40}")
    return text.encode("latin-1")


def _bytes(value: str | bytes = b"", encoding: str = "latin1") -> bytes:
    return _encode(value, encoding) if isinstance(value, str) else bytes(memoryview(value))


def _defaultdict(factory: object = None, *items: Any) -> dict[Any, Any]:
    del factory
    return dict(*items)


_PLAIN_TYPES = {
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "set": set,
    "frozenset": frozenset,
    "bool": bool,
    "int": int,
    "long": int,
    "float": float,
    "str": str,
    "unicode": str,
    "bytes": _bytes,
    "bytearray": _bytes,
}

_ADMITTED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
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


class _WholeLines(io.BufferedReader):
    """Tells a name cut off at the end of a truncated file from a shorter name."""

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise EOFError("cut off within a line")
        return line


class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _RefusedError(_line(f"{module}.{name}")) from None

    def load_build(self) -> None:
        """Sets state on arrays and element types alone: never on an admitted function or class."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        target = self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(target, _Array | _Dtype):
            target.__setstate__(state)
        elif state:
            raise _RefusedError(f"attributes set on a {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = load_build


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Returns what a pickle of any protocol holds, written by Python 2 or 3.

    Numpy arrays come back as lists of Python objects, numpy scalars as Python objects,
    ordered and default dicts as dicts, and the byte strings of Python 2 as latin-1 text.

    Raises:
        UserError: the file cannot be read, is not a complete pickle, or holds anything but plain
            containers, numbers, strings and one-dimensional numpy arrays of these.
    """
    path = Path(path)
    try:
        with _WholeLines(io.FileIO(path)) as file:
            return _Unpickler(file, encoding="latin-1").load()
    except _RefusedError as error:
        raise UserError(
            f"{path}: holds {error}; only plain containers, numbers, strings and numpy arrays "
            "are read, because a pickle can run programs; write the file again with lists"
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
