"""Tables of whole numbers from MATLAB files."""

import io
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Int

from stf_jax.errors import UserError

# Writes the variables to standard output as an .npz; text in place of what is no array of numbers.
# Names begin with "_", as some are those of savez's own arguments.
_READ = """
import io, sys
import numpy as np, scipy.io
try:
    found = scipy.io.loadmat(sys.argv[1])
except Exception as error:
    sys.exit((str(error) or type(error).__name__).splitlines()[0])
numbers = {
    "_" + k: v if isinstance(v, np.ndarray) and v.dtype.kind in "iuf" else np.array("other")
    for k, v in found.items()
    if not k.startswith("__")
}
out = io.BytesIO()
np.savez(out, **numbers)
sys.stdout.buffer.write(out.getvalue())
"""


def read_mat(path: Path, name: str | None = None) -> Int[np.ndarray, "r c"]:
    """One variable of a .mat file (version 7.3, which is HDF5, or before), as int64.

    Args:
        path: the file.
        name: of the variable; None where it is the only one.

    Raises:
        UserError: no file, no .mat file, or no table of whole numbers of that name.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; it belongs to the data set, copy it there")
    try:
        if h5py.is_hdf5(path):  # rows and columns are swapped in it
            with h5py.File(path, "r") as file:
                tables = {str(k): v[()].T for k, v in file.items() if isinstance(v, h5py.Dataset)}
        else:
            tables = _in_a_child(path)
    except Exception as error:  # readers raise whatever the bytes lead them into
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: cannot be read as a .mat file ({reason:.80}); get it again"
        ) from None
    listing = ", ".join(sorted(tables)) or "none"
    if name is None and len(tables) != 1:
        raise UserError(
            f"{path}: holds {len(tables)} variables ({listing}); expected one; get the file again"
        )
    if name is not None and name not in tables:
        raise UserError(f"{path}: holds no variable {name} ({listing}); get the file again")
    value = next(iter(tables.values())) if name is None else tables[name]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf" or value.ndim != 2:
        raise UserError(f"{path}: holds no table of numbers; get the file again")
    with np.errstate(invalid="ignore"):
        integers = value.astype(np.int64)
    if not np.array_equal(integers, value):
        raise UserError(f"{path}: has numbers that are not whole; get the file again")
    return integers


def _in_a_child(path: Path) -> dict[str, np.ndarray]:
    """The variables of a file of before version 7.3; scipy's reader can crash on damaged ones."""
    command = [sys.executable, "-P", "-c", _READ, str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise ValueError(message if done.returncode > 0 else "the reader crashed on it")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as found:
        return {k.removeprefix("_"): found[k] for k in found.files}


def read_query_rows(
    path: Path, num_rows: int, table: str, name: str | None = None
) -> Int[np.ndarray, " q"]:
    """Rows of a table that are queries, from 0, ascending.

    Args:
        path: of the file that holds them, counted from 1, in any shape.
        num_rows: of the table.
        table: its name.
        name: as `read_mat` takes it.

    Raises:
        UserError: as `read_mat`; rows that the table does not have, or one named twice.
    """
    rows = np.sort(read_mat(path, name).reshape(-1))
    if not len(rows) or rows[0] < 1 or rows[-1] > num_rows:
        found = f"{rows[0]} to {rows[-1]}" if len(rows) else "none"
        raise UserError(f"{path}: rows {found}; expected rows 1 to {num_rows} of {table}")
    if np.any(rows[1:] == rows[:-1]):
        twice = rows[:-1][rows[1:] == rows[:-1]][0]
        raise UserError(f"{path}: names row {twice} twice; get the file again")
    return rows - 1
