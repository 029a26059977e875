"""Files of named arrays: .safetensors, .npz and PyTorch's .pth.

Nothing that is read can run code: .npz without pickles, .pth by `torch_files`.
"""

import contextlib
import importlib
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from stf_jax.errors import UserError, raise_system_fault
from stf_jax.files import atomic_write
from stf_jax.models.weights.torch_files import Storages, StoredTensor, read_old, read_zip
from stf_jax.models.weights.torch_names import group_of, reference_name
from stf_jax.reading.arrays import read_npz

_log = logging.getLogger(__name__)

FORMATS = (".safetensors", ".npz", ".pth")
_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".th", ".ckpt")
_LONGEST = 80  # characters of a name in messages
# Under one of these names a checkpoint keeps the model's state dict, by convention.
_WRAPPERS = ("state_dict", "state_dicts[0]", "model_state_dict", "model", "net")


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all tensors of a file, in the file's order; dtypes as stored.

    The format goes by the suffix: .safetensors, .npz, or .pth (.pt, .bin, .tar, .th, .ckpt, also
    with a number as in .tar-60). A .pth may hold the state dict itself or, as training scripts save
    it, dicts and lists with the state dict somewhere in them: the one with the most tensors of the
    model's names counts, of equals the one under a usual name (`state_dict`, `model`, ...).
    Whatever is no tensor is left out.

    Raises UserError: no such file, unknown suffix, damaged or unsafe content, several state dicts
    alike, tensors that are sparse, quantised or float8.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights as {', '.join(FORMATS)}")
    suffix = re.sub(r"-\d+$", "", path.suffix.lower())
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".npz":
        return _read_npz(path)
    if suffix in _TORCH_SUFFIXES:
        return _read_torch(path)
    raise UserError(f"{path}: unknown suffix {suffix!r}; expected one of {', '.join(FORMATS)}")


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write `tensors` atomically, in the format of the suffix.

    Raises UserError: a suffix not in `FORMATS`, no such folder, one that cannot be written, a full
    disk, bfloat16 in .npz, no PyTorch.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: unknown suffix {suffix!r}; expected one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: folder {path.parent} does not exist; create it first")
    # Not ascontiguousarray, which makes a scalar a vector.
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        with atomic_write(path) as temporary:
            if suffix == ".safetensors":
                safetensors.numpy.save_file(arrays, temporary, metadata={"format": "np"})
            elif suffix == ".npz":
                _write_npz(path, temporary, arrays)
            else:
                _write_torch(path, temporary, arrays)
            os.chmod(temporary, 0o644)  # safetensors lets only the owner read
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:  # each writer has its own
        raise UserError(f"{path}: cannot be written ({_reason(error)}); name another") from None


def _reason(error: Exception) -> str:
    """The one sentence of an error's text that tells what is wrong."""
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    if found := re.search(r"\bGLOBAL ([\w.]+)", text):
        return f"it holds {found[1]}, which is not read"
    return re.split(r"\. |\n", text)[0][:200] or type(error).__name__


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, "np") as file:
            dtypes = {name: file.get_slice(name).get_dtype() for name in list(file.keys())}
        for name, dtype in dtypes.items():
            if dtype.startswith(("F8", "F6_", "F4")):
                raise UserError(f"{path}: found {name} as {dtype}, expected plain numbers")
        return safetensors.numpy.load_file(path)
    except UserError:
        raise
    except Exception as error:  # of its header as much as of the system
        raise_system_fault(error, path)
        raise UserError(f"{path}: not a readable .safetensors file: {_reason(error)}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except (OSError, ValueError) as error:
        raise_system_fault(error, path)
        raise UserError(
            f"{path}: not a readable .npz file of plain arrays: {_reason(error)}"
        ) from error


def _write_npz(path: Path, temporary: Path, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise UserError(f"{path}: {name} is {array.dtype}, which .npz cannot hold: use another")
    with open(temporary, "wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    with contextlib.ExitStack() as opened:
        with _explained(path):
            file = opened.enter_context(open(path, "rb"))
            if file.read(4) == b"PK\3\4":
                content, storages = read_zip(opened.enter_context(zipfile.ZipFile(path)))
            else:
                file.seek(0)
                content, storages = read_old(file)
        tensors = _state_dict(path, content)
        return {name: _stored(storages, path, name, tensor) for name, tensor in tensors.items()}


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the unpickler's and the archive's errors have no common base
        raise_system_fault(error, path)
        raise UserError(
            f"{path}: not a PyTorch file of plain tensors ({_reason(error)}); expected what "
            "torch.save(model.state_dict(), ...) writes"
        ) from error


def _stored(storages: Storages, path: Path, name: str, tensor: StoredTensor) -> np.ndarray:
    try:
        return storages.array(tensor)
    except Exception as error:  # of the archive, too
        raise UserError(
            f"{path}: found {name:.80} {str(tensor.shape)[:60]} ({_reason(error)}), expected "
            "tensors stored in full, not sparse, quantised or float8"
        ) from error


def _state_dict(path: Path, content: Any) -> dict[str, Any]:
    """The mapping of names to tensors somewhere in a checkpoint's `content`."""
    found: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    parts: list[tuple[tuple[str, ...], Any]] = [((), content)]
    for names, part in parts:  # which grows
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            tensors = {n: t for n, t in part.items() if isinstance(n, str) and _is_tensor(t)}
            if tensors:
                found["".join(name[:_LONGEST] for name in names).strip(".")] = tensors
            parts += [((*names, f".{n}"), t) for n, t in part.items() if isinstance(n, str)]
        elif isinstance(part, list | tuple):
            parts += [((*names, f"[{i}]"), t) for i, t in enumerate(part)]
    if not found:
        items = content.items() if isinstance(content, dict) else ()
        kinds = [f"{str(n)[:_LONGEST]} ({type(t).__name__})" for n, t in items]
        raise UserError(
            f"{path}: found {_listed(kinds) or f'a {type(content).__name__}'}, expected "
            f"tensors by name, alone or under a name such as {', '.join(_WRAPPERS)}"
        )
    sizes = {p: sum(map(_is_of_model, tensors)) for p, tensors in found.items()}
    if not any(sizes.values()):
        sizes = {p: len(tensors) for p, tensors in found.items()}
    most = max(sizes.values())
    largest = [p for p in found if sizes[p] == most]
    usual = [p for w in _WRAPPERS for p in largest if p.rpartition(".")[2] == w]
    if len(largest) > 1 and not usual:
        raise UserError(
            f"{path}: found {sizes[largest[0]]} tensors under each of {_listed(largest)}, "
            "expected one state dict: save the one to use in a file of its own"
        )
    taken = (usual or largest)[0]
    if others := [p or "the top" for p in found if p != taken and sizes[p]]:
        _log.warning(
            "%s: tensors read from %s, not from %s", path, taken or "the top", _listed(others)
        )
    return found[taken]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, StoredTensor)


def _is_of_model(name: str) -> bool:
    return group_of(reference_name(name)) is not None


def _write_torch(path: Path, temporary: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"{path}: to be written, needs PyTorch: pip install 'stf-jax[convert]', or name a "
            "file that ends in .safetensors"
        ) from error

    def tensor(array: np.ndarray) -> Any:
        array = array.copy()  # PyTorch warns of read-only memory
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    torch.save({name: tensor(array) for name, array in arrays.items()}, temporary)
