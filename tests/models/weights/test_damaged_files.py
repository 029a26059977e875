"""Damaged files of weights, at random and on purpose: the right values, or one line."""

import json
import math
import resource
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stf_jax.errors import UserError
from stf_jax.models.weights.files import read_tensors, write_tensors

WEIGHTS = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn1.weight": np.linspace(0, 1, 5).astype(np.float16),
    "count": np.array(7),
}
HUGE = 2**40
GIBIBYTE = 2**30


def read(path: Path) -> dict[str, np.ndarray] | None:
    """The tensors, or None where a line says why not; never much memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, line = None, f"{path}: read"
    try:
        found = read_tensors(path)
    except UserError as error:
        line = str(error)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert len(line) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIBIBYTE // 1024
    return found


def mutations(content: bytes, count: int, end: int):
    """`content` with bits flipped or bytes replaced before `end`, cut, doubled, or with holes."""
    r = np.random.default_rng(0)
    for i in range(count):
        new = bytearray(content)
        at = int(r.integers(end))
        match i % 6:
            case 0 | 1:
                for place in r.integers(end, size=1 + i % 12 // 6 * 3):
                    new[place] ^= 1 << int(r.integers(8))
            case 2:
                del new[at:]
            case 3:
                new[at : at + 8] = struct.pack("<Q", int(r.integers(2**62)) >> int(r.integers(62)))
            case 4:
                new[at:at] = new[at : at + int(r.integers(1, 64))]
            case 5:
                del new[at : at + int(r.integers(1, 64))]
        yield bytes(new)


def fuzz(path: Path, count: int, *, checksums: bool, end: int | None = None) -> None:
    content = path.read_bytes()
    whole = read(path)
    assert whole is not None
    refused = 0
    for mutation in mutations(content, count, end or len(content)):
        path.write_bytes(mutation)
        found = read(path)
        refused += found is None
        if found is not None:
            assert sum(array.nbytes for array in found.values()) <= 2 * len(mutation)
        if found is not None and checksums:
            # An entry lost from the directory is told by whoever looks for it.
            for name, array in found.items():
                np.testing.assert_array_equal(array, whole[name], strict=True)
    assert count // 4 < refused < count


def test_damaged_npz(tmp_path):
    write_tensors(tmp_path / "w.npz", WEIGHTS)
    fuzz(tmp_path / "w.npz", 3000, checksums=True)
    np.savez_compressed(tmp_path / "c.npz", **WEIGHTS)
    fuzz(tmp_path / "c.npz", 1500, checksums=True)


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, WEIGHTS)
    # Numbers themselves have no checksum in this format.
    end = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    fuzz(path, 3000, checksums=False, end=end)


@pytest.mark.parametrize("modern", [True, False])
def test_damaged_pth(tmp_path, torch, modern):
    path = tmp_path / "w.pth"
    tensors = {name: torch.tensor(array) for name, array in WEIGHTS.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, path, _use_new_zipfile_serialization=modern)
    fuzz(path, 1000, checksums=modern)


def refused(path: Path) -> str:
    """The line that refuses `path`, for which no memory is taken."""
    tracemalloc.start()
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize("shape", [(HUGE,), (2**31, 2**31, 2**31), (10**400,), (-1, HUGE)])
def test_npz_of_a_huge_shape(tmp_path, shape):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("w.npy", "w") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(bytes(64))
    assert "not a readable .npz file of plain arrays: 'w.npy': " in refused(path)


@pytest.mark.parametrize("size", [None, HUGE, 2**63])
@pytest.mark.parametrize("shape", [[HUGE], [2**31, 2**31, 2**31], [10**400]])
def test_safetensors_of_a_huge_shape(tmp_path, shape, size):
    path = tmp_path / "w.safetensors"
    end = min(4 * math.prod(shape), 2**63)
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    path.write_bytes(struct.pack("<Q", size or len(header)) + header + bytes(64))
    assert "not a readable .safetensors file" in refused(path)


def rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = 0) -> Path:
    """`path` with every file in it changed and the checksums right."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, change(name, content))
    return path


@pytest.mark.parametrize("modern", [True, False])
def test_pth_of_a_huge_shape(tmp_path, torch, modern):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(0x1234)}, path, _use_new_zipfile_serialization=modern)
    here, huge = b"M\x34\x12", b"\x8a\x06" + HUGE.to_bytes(6, "little")

    def grown(name: str, content: bytes) -> bytes:
        return content.replace(here, huge) if name.endswith("data.pkl") else content

    if modern:
        rewritten(path, grown)
    else:
        assert here in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(here, huge))
    assert "one stored number stands for many" in refused(path)


def test_pth_whose_archive_was_compressed(tmp_path, torch):
    """PyTorch would take the compressed bytes for the numbers."""
    path = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(1000)}, path)
    rewritten(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    assert "its data are compressed" in refused(path)
