"""What a checkpoint holds, tensor by tensor: names, shapes, types and checksums.

A tensor is named by its path in the tree, "params/backbone/conv1/kernel".
"""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree


@dataclass(frozen=True)
class TensorInfo:
    """Shape, dtype by name, and CRC-32 of the bytes (row-major) of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    crc32: int

    def __str__(self) -> str:
        """Like "[64, 3] float32"."""
        return f"[{', '.join(map(str, self.shape))}] {self.dtype}"


def tensor_info(array: np.ndarray) -> TensorInfo:
    """Describes `array` (about a second for 1 GB)."""
    return TensorInfo(array.shape, array.dtype.name, zlib.crc32(array.tobytes()))


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Leaves of `tree` with their names, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves]


def digest(tree: PyTree) -> str:
    """SHA-256 in hex over name, shape, type and checksum of every tensor (array) of `tree`.

    Wherever and however often the arrays lie whole on devices, it is that of the same in numpy.
    """
    infos = [(name, tensor_info(np.asarray(leaf))) for name, leaf in named_leaves(tree)]
    return hashlib.sha256(str(infos).encode()).hexdigest()


def module_of(name: str) -> str:
    """Second part of a tensor's name: "classifier" of "params/classifier/kernel"."""
    return name.split("/")[1]


def differences(found: Mapping[str, TensorInfo], wanted: Mapping[str, Any]) -> dict[str, str]:
    """A line by name for each tensor that is missing, extra, or of another shape or type.

    `wanted` maps names to whatever has a shape and a dtype; checksums are not compared.
    """
    lines = {}
    for name in [*wanted, *(n for n in found if n not in wanted)]:
        has = str(found[name]) if name in found else "nothing"
        leaf = wanted.get(name)
        wants = "nothing"
        if leaf is not None:
            wants = str(TensorInfo(tuple(leaf.shape), np.dtype(leaf.dtype).name, 0))
        if has != wants:
            lines[name] = f"{name}: found {has}, expected {wants}"
    return lines
