"""Tables of whole numbers from MATLAB files."""

from pathlib import Path

import numpy as np
import scipy.io
from jaxtyping import Int

from stf_jax.errors import UserError


def read_mat(path: Path, name: str | None = None) -> Int[np.ndarray, "r c"]:
    """One variable of a .mat file (before version 7.3), as integers.

    Args:
        path: the file.
        name: of the variable; None where it is the only one.

    Raises:
        UserError: no file, no .mat file, or no table of whole numbers of that name.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; it belongs to the data set, copy it there")
    try:
        values = scipy.io.loadmat(path)
    except Exception as error:  # scipy raises whatever the bytes lead it into
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: cannot be read as a .mat file ({reason:.80}); get it again"
        ) from None
    tables = {key: value for key, value in values.items() if not key.startswith("__")}
    told = ", ".join(sorted(tables)) or "none"
    if name is None and len(tables) != 1:
        raise UserError(
            f"{path}: holds {len(tables)} variables ({told}); expected one; get the file again"
        )
    if name is not None and name not in tables:
        raise UserError(f"{path}: holds no variable {name} ({told}); get the file again")
    value = tables[name] if name is not None else next(iter(tables.values()))
    return whole_numbers(value, path)


def whole_numbers(value: object, path: Path) -> Int[np.ndarray, "r c"]:
    """A table as int64.

    Raises:
        UserError: naming `path`; anything else than a table of whole numbers.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf" or value.ndim != 2:
        raise UserError(f"{path}: holds no table of numbers; get the file again")
    with np.errstate(invalid="ignore"):
        integers = value.astype(np.int64)
    if not np.array_equal(integers, value):
        raise UserError(f"{path}: has numbers that are not whole; get the file again")
    return integers
