"""One wrong bit in a checkpoint's tensors."""

from pathlib import Path


def flip_a_bit(step: Path) -> None:
    """Flip a bit of a tensor of `model` in a step's folder; some tensor must be of over 2 KB.

    The largest file begins with such a tensor. What comes later in it may be of no use any more:
    the storage appends its directory again at every write.
    """
    files = (path for path in (step / "model").rglob("*") if path.is_file())
    file = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[1000] ^= 4
    file.write_bytes(data)
