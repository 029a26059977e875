"""The goldens: numbers of the reference implementation, and the inputs and weights they belong to.

Both are drawn by rules that this module follows, so that the files hold results only.
"""

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FIXTURES = Path(__file__).parents[1] / "fixtures"
_AMPLIFIED = {
    "temporal_conv.0.weight": 3,
    "relation_f.2.weight": 4,
    "relation_f.0.weight": 2,
    "relation_g.0.weight": 2,
}
_LIVELY = ("temporal_conv.1.bias", "relation_f.2.bias")


class Golden(NamedTuple):
    """A golden file, with its frames [B, T, 3, H, W] (float32) and their mask [B, T]."""

    spec: dict[str, Any]
    numbers: dict[str, np.ndarray]
    frames: np.ndarray
    mask: np.ndarray


def read_golden(name: str) -> Golden:
    with np.load(FIXTURES / f"model_{name}.npz", allow_pickle=False) as archive:
        numbers = dict(archive)
    spec = json.loads(str(numbers["spec"]))
    b, t, h, w = (spec[key] for key in "BTHW")
    r = np.random.RandomState(spec["seed"])
    frames = r.standard_normal((b, t, 3, h, w)) * r.uniform(0.2, 2.0, (b, t, 1, 1, 1))
    frames = (frames + r.uniform(-1.5, 1.5, (b, t, 3, 1, 1))).astype(np.float32)
    return Golden(spec, numbers, frames, np.arange(t) < numbers["lengths"][:, None])


def draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = zlib.crc32(key.encode()) & 0xFFFFFFFF
    return np.random.RandomState(seed).standard_normal(shape)


def weight(tag: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of this name (the published code's) and shape, float32."""
    n = draw(tag + name, shape)
    if name.endswith("running_mean"):
        value = 0.1 * n
    elif name.endswith("running_var"):
        value = 1 + 0.25 * abs(n)
    elif len(shape) >= 2:
        value = n / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        value = 1 + 0.1 * n
    else:
        value = 0.1 * n
    value = value * _AMPLIFIED.get(name, 1) + (name in _LIVELY)
    return value.astype(np.float32)


def projection(name: str, value: np.ndarray) -> float:
    """The value's component in the direction that the goldens have for this name."""
    return float((value * draw("dir:" + name, value.shape)).sum())


def relative(found: Any, expected: Any) -> float:
    """The largest difference of two arrays of one shape, over the largest expected value."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
