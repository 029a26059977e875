"""MATLAB files: tables of whole numbers of every version, or one clear error, whatever happens."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from stf_jax.errors import UserError
from stf_jax.prepare.published import mat_files
from stf_jax.prepare.published.mat_files import read_mat

TABLE = np.array([[1, 2, 3], [4, 5, 2**40]])


@pytest.fixture(params=["5", "7", "7.3"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "a.mat"
    values = {"file": TABLE, "names": np.array(["a", "b"]), "half": np.array([[0.5]])}
    if request.param == "7.3":
        with h5py.File(path, "w") as file:
            file["file"], file["half"] = TABLE.T, values["half"]
            file["names"] = [b"a", b"b"]
    else:
        savemat(path, values, do_compression=request.param == "7")
    return path


def test_a_table_is_read_by_its_name(path: Path) -> None:
    found = read_mat(path, "file")  # a name that numpy's savez has for itself
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, TABLE)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("names", "holds no table of numbers"),
        ("half", "numbers that are not whole"),
        ("nothing", r"holds no variable nothing \(file, half, names\)"),
        (None, r"holds 3 variables \(file, half, names\); expected one"),
    ],
)
def test_what_is_no_such_table_is_refused(path: Path, name: str | None, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        read_mat(path, name)


def test_a_reader_that_crashes_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savemat(tmp_path / "a.mat", {"table": TABLE})
    monkeypatch.setattr(
        mat_files, "_READ", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    )
    with pytest.raises(UserError, match=r"a\.mat: cannot be read .*\(the reader crashed on it\)"):
        read_mat(tmp_path / "a.mat")
