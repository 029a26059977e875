"""Files of named arrays: .safetensors, .npz and PyTorch's .pth.

Nothing that is read can run code: .npz without pickles, .pth with PyTorch's `weights_only`.
"""

import importlib
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from stf_jax.errors import UserError
from stf_jax.files import atomic_write

FORMATS = (".safetensors", ".npz", ".pth")
_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".th")
# Under these names a checkpoint keeps the model's state dict among other things.
_WRAPPERS = ("state_dict", "state_dicts", "model_state_dict", "model")


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all tensors of a file, in the file's order; dtypes as stored.

    The format is told by the suffix: .safetensors, .npz, or .pth (.pt, .bin, .tar, .th), which
    needs PyTorch. A .pth may hold the state dict itself or, as training scripts save it, a dict
    with the state dict under `state_dict`, `model_state_dict` or `model`, or a list of state dicts
    under `state_dicts`, the model's first.

    Raises UserError: no such file, unknown suffix, damaged or unsafe content, no PyTorch.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights as {', '.join(FORMATS)}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".npz":
        return _read_npz(path)
    if suffix in _TORCH_SUFFIXES:
        return _read_torch(path)
    raise UserError(f"{path}: unknown suffix {suffix!r}; expected one of {', '.join(FORMATS)}")


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write `tensors` in the format that the suffix tells; the file appears atomically.

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
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UserError(f"{path}: cannot be written ({reason}); name another") from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a readable .safetensors file: {error}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, as np.load leaves a damaged file open.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a readable .npz file of plain arrays: {error}") from error


def _write_npz(path: Path, temporary: Path, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise UserError(f"{path}: {name} is {array.dtype}, which .npz cannot hold: use another")
    with open(temporary, "wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def _torch(path: Path) -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"{path}: found a PyTorch file, which needs PyTorch: pip install 'stf-jax[convert]', "
            "or where PyTorch is installed run "
            f"python -m stf_jax.models.weights convert {path.name} {path.stem}.safetensors"
        ) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler's and the archive's errors have no common base
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path}: not a PyTorch file of plain tensors ({type(error).__name__}: {reason}); "
            "expected what torch.save(model.state_dict(), ...) writes"
        ) from error
    return {name: _from_torch(torch, tensor) for name, tensor in _state_dict(path, content).items()}


def _state_dict(path: Path, content: Any) -> dict[str, Any]:
    """The mapping of names to tensors somewhere in a checkpoint's `content`."""
    while True:
        if isinstance(content, list | tuple) and content:
            content = content[0]
            continue
        if not isinstance(content, dict):
            raise UserError(f"{path}: found a {type(content).__name__}, expected a state dict")
        if content and all(hasattr(value, "detach") for value in content.values()):
            return content
        wrapper = next((key for key in _WRAPPERS if key in content), None)
        if wrapper is None:
            keys = ", ".join(str(key) for key in list(content)[:8]) or "nothing"
            raise UserError(
                f"{path}: found {keys}, expected tensors by name, or them under one of "
                f"{', '.join(_WRAPPERS)}"
            )
        content = content[wrapper]


def _from_torch(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _write_torch(path: Path, temporary: Path, arrays: dict[str, np.ndarray]) -> None:
    torch = _torch(path)

    def tensor(array: np.ndarray) -> Any:
        array = array.copy()  # PyTorch warns of read-only memory
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    torch.save({name: tensor(array) for name, array in arrays.items()}, temporary)
