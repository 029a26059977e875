"""Tables of whole numbers from MATLAB files."""

import io
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Int

from stf_jax.errors import UserError
from stf_jax.reading.arrays import parse_npy, read_entry
from stf_jax.reading.child import run_limited

MOST_NUMBERS = 10_000_000  # of a variable; MARS has 50,000
# Writes the variables to standard output as an .npz; text in place of what is no array of numbers.
# Names begin with "_", as some are those of savez's own arguments. In HDF5 rows and columns are
# swapped, and a link may lead into another file.
_READ = """
import io, sys
try:
    import h5py, numpy as np, scipy.io
    path, most, found = sys.argv[1], int(sys.argv[2]), {}
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            for name in file:
                if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                    continue
                value = file[name]
                if not isinstance(value, h5py.Dataset):
                    continue
                if value.dtype.kind not in "iuf" or value.external:
                    found[name] = None
                    continue
                if value.size > most:
                    sys.exit(f"{name} has {value.size:,} numbers; expected {most:,} at most")
                found[name] = value[()].T
    else:
        for name, shape, _ in scipy.io.whosmat(path):
            size = 1
            for n in shape:
                size *= n
            if size > most:
                sys.exit(f"{name} has {size:,} numbers; expected {most:,} at most")
        found = scipy.io.loadmat(path)
    numbers = {
        "_" + k: v if isinstance(v, np.ndarray) and v.dtype.kind in "iuf" else np.array("other")
        for k, v in found.items()
        if not k.startswith("__")
    }
    out = io.BytesIO()
    np.savez(out, **numbers)
except Exception as error:
    sys.exit((str(error) or type(error).__name__).splitlines()[0])
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
    """The variables of a file; scipy's and HDF5's readers can crash on damaged ones."""
    output = run_limited(_READ, [str(path), str(MOST_NUMBERS)])
    with zipfile.ZipFile(io.BytesIO(output)) as archive:
        return {
            entry.filename.removeprefix("_").removesuffix(".npy"): parse_npy(
                read_entry(archive, entry), "iufU"
            )
            for entry in archive.infolist()
        }


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
