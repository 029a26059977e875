"""Tables of whole numbers from MATLAB files."""

from pathlib import Path

import h5py
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


def read_mat_of_any_version(path: Path, name: str) -> Int[np.ndarray, "r c"]:
    """As `read_mat`, also from version 7.3, which is HDF5 (rows and columns are swapped there).

    Raises:
        UserError: as `read_mat`.
    """
    if not path.is_file() or not h5py.is_hdf5(path):
        return read_mat(path, name)
    try:
        with h5py.File(path, "r") as file:
            told = ", ".join(sorted(str(key) for key in file)) or "none"
            item = file.get(name)
            value = item[()] if isinstance(item, h5py.Dataset) else None
    except OSError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read as HDF5 ({reason:.80}); get it again") from None
    if value is None:
        raise UserError(f"{path}: holds no variable {name} ({told}); get the file again")
    return whole_numbers(value, path)


def query_rows(
    values: Int[np.ndarray, "r c"], path: Path, num_rows: int, table: str
) -> Int[np.ndarray, " q"]:
    """Rows of a table that are queries, from 0, ascending.

    Args:
        values: rows counted from 1, in any shape.
        path: of the file that holds them.
        num_rows: of the table.
        table: its name.

    Raises:
        UserError: rows that the table does not have, or one named twice.
    """
    rows = np.sort(values.reshape(-1))
    if not len(rows) or rows[0] < 1 or rows[-1] > num_rows:
        found = f"{rows[0]} to {rows[-1]}" if len(rows) else "none"
        raise UserError(f"{path}: rows {found}; expected rows 1 to {num_rows} of {table}")
    if np.any(rows[1:] == rows[:-1]):
        twice = rows[:-1][rows[1:] == rows[:-1]][0]
        raise UserError(f"{path}: names row {twice} twice; get the file again")
    return rows - 1
