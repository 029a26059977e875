"""Arrays of .npy and .npz files: nothing is evaluated, no size believed before it is compared.

`numpy.load` evaluates headers as Python, takes the memory that they ask for, and unpacks whatever
an archive has. Nothing here names the file: callers catch every Exception of damaged archives.
"""

import math
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from stf_jax.reading.limits import MIB

NUMBERS = "biufc"  # kinds of dtypes
# An .npz may unpack to this and so many times its own size.
UNPACKED, TIMES = 256 * MIB, 50
_LONGEST_HEADER = 10_000
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([<>|=]?[biufcSUV][0-9]{0,9})',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(([0-9L, ]*)\),?\s*\}\s*"
)


def npy_header(content: bytes | memoryview) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran order, dtype, and where the numbers begin, of an .npy file.

    Raises ValueError for another header than NumPy writes for arrays of one plain type.
    """
    if content[:6] != b"\x93NUMPY" or bytes(content[6:8]) not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("no .npy file")
    start = 10 if content[6] == 1 else 12
    end = start + int.from_bytes(content[8:start], "little")
    if end - start > _LONGEST_HEADER or end > len(content):
        raise ValueError("its header is cut off or too long")
    found = _HEADER.fullmatch(str(content[start:end], "latin-1"))
    if found is None:
        raise ValueError("its header is not that of an array of one plain type")
    sizes = [size.strip().removesuffix("L") for size in found[3].split(",")]
    shape = tuple(int(size) for size in sizes if size)
    try:
        return shape, found[2] == "True", np.dtype(found[1]), end
    except TypeError:
        raise ValueError(f"{found[1]} is no type of numbers or text") from None


def parse_npy(content: bytes | memoryview, kinds: str = NUMBERS) -> np.ndarray:
    """The array of an .npy file; a view of `content`, which may be written if that may.

    Raises ValueError for dtypes of other `kinds`, and where the bytes are not those of its shape.
    """
    shape, fortran, dtype, start = npy_header(content)
    if dtype.kind not in kinds:
        raise ValueError(f"found {dtype}, expected {'numbers' if kinds == NUMBERS else kinds}")
    check_size(shape, dtype, len(content) - start)
    flat = np.frombuffer(content, dtype, offset=start) if start < len(content) else []
    return np.asarray(flat, dtype).reshape(shape, order="F" if fortran else "C")


def check_size(shape: tuple[int, ...], dtype: np.dtype, size: int) -> None:
    """Raise ValueError where an array does not take up `size` bytes."""
    if len(shape) > 32 or math.prod(shape) * (dtype.itemsize or 1) != size:
        text = "x".join(map(str, shape)) if math.prod(shape) < 2**63 else "more than there can be"
        raise ValueError(f"{size} bytes, where its header says {text or '1'} of {dtype}")


def read_npy(path: str | os.PathLike[str], kinds: str, *, mapped: bool = False) -> np.ndarray:
    """The array of a file, in memory or `mapped`, read-only; raises as `parse_npy`, and OSError."""
    with open(path, "rb") as file:
        shape, fortran, dtype, start = npy_header(file.read(12 + _LONGEST_HEADER))
        check_size(shape, dtype, os.fstat(file.fileno()).st_size - start)
        if not mapped or 0 in shape:
            file.seek(0)
            return parse_npy(file.read(), kinds)
    if dtype.kind not in kinds:
        raise ValueError(f"found {dtype}")
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def read_npz(path: str | os.PathLike[str], kinds: str = NUMBERS) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, each as `parse_npy` gives it.

    Raises ValueError that names the array, and whatever the archive is damaged with.
    """
    path, found, name = Path(path), {}, "archive"
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, UNPACKED + TIMES * path.stat().st_size)
            for entry in archive.infolist():
                name = entry.filename
                found[name.removesuffix(".npy")] = parse_npy(_read_entry(archive, entry), kinds)
    except Exception as error:  # of zip and its compressions: they have no common base
        raise ValueError(f"{name!r:.100}: {error or type(error).__name__}") from error
    return found


def check_archive(archive: zipfile.ZipFile, most: int) -> None:
    """Raise ValueError where a zip archive unpacks to more than `most` bytes, or in other ways."""
    for entry in archive.infolist():
        if entry.flag_bits & 1:
            raise ValueError(f"{entry.filename!r:.100} is encrypted")
        # Of the other methods zipfile unpacks everything at once, whatever size it says.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename!r:.100} is compressed by another method than zip's")
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > most:
        raise ValueError(f"unpacks to {unpacked:,} bytes; expected {most:,} at most for its size")


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """A file of an archive; never more than the archive says its size is."""
    return bytes(_read_entry(archive, entry))


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> memoryview:
    """As `read_entry`, without a second copy of what may be gigabytes."""
    content = np.empty(entry.file_size, np.uint8).data  # pages that are not written cost nothing
    filled = 0
    with archive.open(entry) as stream:
        while found := stream.read(min(MIB, entry.file_size - filled)):
            content[filled : filled + len(found)] = found
            filled += len(found)
    if filled != entry.file_size:
        raise ValueError(f"{entry.filename!r:.100} is cut off")
    return content
