"""What a device could do at most, and how much arithmetic a program does."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Peak:
    """FLOP/s by type of the product, bytes/s of the device's memory, and where these are from."""

    flops: dict[str, float]
    bandwidth: float
    source: str


def _nvidia(bf16: float, tf32: float, fp32: float, terabytes: float, sheet: str) -> Peak:
    flops = {"bfloat16": bf16 * 1e12, "tf32": tf32 * 1e12, "float32": fp32 * 1e12}
    return Peak(flops, terabytes * 1e12, f"NVIDIA {sheet} data sheet, dense")


# By the beginning of `device_kind`; the first that fits.
PEAKS = {
    "NVIDIA H100 PCIe": _nvidia(756, 378, 51, 2.0, "H100"),
    "NVIDIA H100": _nvidia(989, 494, 67, 3.35, "H100"),
    "NVIDIA H200": _nvidia(989, 494, 67, 4.8, "H200"),
    "NVIDIA A100-SXM4-80GB": _nvidia(312, 156, 19.5, 2.039, "A100"),
    "NVIDIA A100 80GB PCIe": _nvidia(312, 156, 19.5, 1.935, "A100"),
    "NVIDIA A100": _nvidia(312, 156, 19.5, 1.555, "A100"),
    "NVIDIA L4": _nvidia(121, 60, 30.3, 0.3, "L4"),
}


def device_peak() -> Peak:
    """Return the first device's peak: from the table, else measured now."""
    device = jax.devices()[0]
    for name, peak in PEAKS.items():
        if device.device_kind.startswith(name):
            return peak
    dtypes = ("float32",) if device.platform == "cpu" else ("float32", "bfloat16")
    size = 2048 if device.platform == "cpu" else 8192
    flops = {name: measured_product(size, name) for name in dtypes}
    return Peak(flops, measured_copy(), "measured here: the fastest matrix product and copy")


def product_type(dtype: str) -> str:
    """Return the type that XLA multiplies `dtype` in by default: float32 is TF32 on NVIDIA GPUs."""
    return "tf32" if dtype == "float32" and jax.devices()[0].platform == "gpu" else dtype


def _fastest(work: Callable[[], Any], seconds: float = 1.0) -> float:
    """Return the least seconds of a call, over at least `seconds` and three calls."""
    jax.block_until_ready(work())
    end, best, calls = time.perf_counter() + seconds, math.inf, 0
    while calls < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(work())
        best, calls = min(best, time.perf_counter() - start), calls + 1
    return best


def measured_product(size: int, dtype: str) -> float:
    """Return the FLOP/s of a square matrix product."""
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((size, size)), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / _fastest(lambda: product(matrix, matrix))


def measured_copy(megabytes: int = 128) -> float:
    """Return the bytes/s, read and written, of an array added to."""
    array = jnp.zeros(megabytes * 250_000, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return 2 * array.nbytes / _fastest(lambda: add(array))


def program_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the operations in convolutions and matrix products of a call, 2 a multiply-add.

    Counted in the traced program, so the same on every device; products with padding, and with the
    zeros that the gradient of a strided convolution is spread by, are not counted. Under a device
    axis it is one device's share.
    """
    return sum(
        conv_flops(e) if e.primitive.name == "conv_general_dilated" else dot_flops(e)
        for e in _equations(jax.make_jaxpr(function)(*arguments).jaxpr)
        if e.primitive.name in ("conv_general_dilated", "dot_general")
    )


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def dot_flops(equation: Any) -> float:
    """Return the operations of a dot_general."""
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)


def conv_flops(equation: Any) -> float:
    """Return the operations of a conv_general_dilated, with real pixels only."""
    p = equation.params
    left, right = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    numbers = p["dimension_numbers"]
    taps = 1
    for k in range(len(left) - 2):
        size, kernel = left[numbers.lhs_spec[2 + k]], right[numbers.rhs_spec[2 + k]]
        at = (
            np.arange(out[numbers.out_spec[2 + k]])[:, None] * p["window_strides"][k]
            + np.arange(kernel)[None, :] * p["rhs_dilation"][k]
            - p["padding"][k][0]
        )
        spread = p["lhs_dilation"][k]
        taps *= int(((at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0)).sum())
    channels = right[numbers.rhs_spec[1]]  # of a group
    return 2.0 * taps * channels * out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
