"""Arrays from files: those that NumPy writes, and what no file may ask for."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stf_jax.reading import arrays
from stf_jax.reading.arrays import parse_npy, read_npy, read_npz

WRITTEN = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    np.array(True),
    np.array(["a", "b\u00e9"]),
    np.array([b"a", b"bc"]),
    np.zeros((0, 4), np.complex64),
    np.zeros((2, 3, 4, 5), np.float16),
]


def file_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("array", WRITTEN, ids=lambda array: f"{array.dtype}{array.shape}")
def test_what_numpy_writes_is_read(tmp_path: Path, array: np.ndarray) -> None:
    np.testing.assert_array_equal(parse_npy(file_of(array), "biufcUS"), array, strict=True)
    np.save(tmp_path / "a.npy", array)
    for mapped in (False, True):
        found = read_npy(tmp_path / "a.npy", "biufcUS", mapped=mapped)
        np.testing.assert_array_equal(found, array, strict=True)
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "a.npz", a=array)
        found = read_npz(tmp_path / "a.npz", "biufcUS")
        np.testing.assert_array_equal(found["a"], array, strict=True)


@pytest.mark.parametrize(
    "array",
    [np.array([None]), np.zeros(2, "V3"), np.zeros(2, [("x", "i4")]), np.zeros(2, "M8[s]")],
    ids=lambda array: str(array.dtype),
)
def test_other_types_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"plain type|expected numbers"):
        parse_npy(file_of(array))


def test_every_cut_and_every_byte_too_many_is_refused() -> None:
    content = file_of(WRITTEN[0])
    for length in range(len(content)):
        with pytest.raises(ValueError, match=r"no \.npy|header|bytes"):
            parse_npy(content[:length])
    with pytest.raises(ValueError, match="25 bytes, where its header says 2x3 of float32"):
        parse_npy(content + b"1")


def test_an_archive_unpacks_to_a_multiple_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(100_000))
    assert read_npz(path)["a"].shape == (100_000,)
    monkeypatch.setattr(arrays, "UNPACKED", 0)
    with pytest.raises(ValueError, match="unpacks to 800,128 bytes; expected"):
        read_npz(path)


def test_a_size_that_an_archive_lies_about(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(1_000_000))
    content = bytearray(path.read_bytes())
    real = (8_000_128).to_bytes(4, "little")
    at = content.rindex(real)  # in the directory, which counts
    content[at : at + 4] = (1128).to_bytes(4, "little")
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].file_size == 1128
    with pytest.raises(ValueError, match=r"'a\.npy': "):
        read_npz(path)
