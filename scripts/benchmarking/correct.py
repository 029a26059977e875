"""Part `correct`: the same numbers on this device as on the CPU beside it, and the reference's."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarking.child import Row
from benchmarking.settings import ROOT, Settings
from stf_jax.models import TemporalFusionNet
from stf_jax.models.variables import init_variables
from stf_jax.models.weights.pretrained import variables_from_torch, variables_to_torch

TOLERANCE = 2e-3  # of the largest value: float32 at the highest precision, ResNet's depth
# Gradients of few frames amplify rounding some thousandfold: they are compared in float64.
TOLERANCE_64 = 1e-6
_B, _T, _H, _W = 2, 3, 64, 32


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row a function with its largest difference; raise RuntimeError above TOLERANCE."""
    del settings  # sizes are small ones everywhere
    worst = 0.0  # as a multiple of what is allowed
    with jax.default_matmul_precision("highest"):
        for name in "ab":
            difference = _golden(name)
            worst = max(worst, difference / TOLERANCE)
            yield {
                "device against CPU": f"golden {name}",
                "largest difference": f"{difference:.1e}",
            }
        for name, wide, function, arguments in _functions():
            with jax.enable_x64(wide):
                found, expected = (
                    jax.tree.leaves(_on(device, function, arguments))
                    for device in (None, jax.devices("cpu")[0])
                )
            difference = max(map(_relative, found, expected))
            worst = max(worst, difference / (TOLERANCE_64 if wide else TOLERANCE))
            yield {"device against CPU": name, "largest difference": f"{difference:.1e}"}
    if not worst < 1:
        raise RuntimeError(f"{worst:.1e} times the largest difference that rounding explains")


def _functions() -> Iterator[tuple[str, bool, Callable[..., Any], tuple[Any, ...]]]:
    rng = np.random.default_rng(0)
    maps, kernel = rng.normal(size=(4, 16, 8, 32)), rng.normal(size=(1, 1, 32, 64))

    def strided(maps: Any, kernel: Any) -> Any:
        def loss(maps: Any, kernel: Any) -> Any:
            out = jax.lax.conv_general_dilated(
                maps, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return (out**2).sum()

        return jax.value_and_grad(loss, (0, 1))(maps, kernel)

    yield "1x1 convolution, stride 2", False, strided, (np.float32(maps), np.float32(kernel))
    frames = rng.normal(size=(_B, _T, _H, _W, 3))
    mask = np.array([[True] * _T, [True] + [False] * (_T - 1)])
    for backbone in ("resnet18", "resnet50"):
        wide = jnp.float64
        model = TemporalFusionNet(5, backbone, embed_dim=64, dtype=wide, param_dtype=wide)
        narrow = init_variables(model.clone(param_dtype=jnp.float32), 0, _H, _W)
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), narrow)

        def gradient(variables: Any, frames: Any, model: TemporalFusionNet = model) -> Any:
            def loss(params: Any) -> Any:
                output, _ = model.apply(
                    {**variables, "params": params},
                    frames,
                    mask,
                    train=True,
                    mutable=["batch_stats"],
                )
                out: Any = output
                return -jax.nn.log_softmax(out.logits)[..., 0].mean(), out.frame_weights

            return jax.value_and_grad(loss, has_aux=True)(variables["params"])

        yield f"{backbone}, loss and gradients, float64", True, gradient, (variables, frames)


def _on(device: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    quick = {"xla_backend_optimization_level": 0} if device is not None else None
    with jax.default_device(device):
        compiled = jax.jit(function, compiler_options=quick)
        return jax.device_get(compiled(*jax.device_put(arguments, device)))


def _relative(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))


def _golden(name: str) -> float:
    """The largest difference from the reference's float64 numbers, in evaluation."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from goldens import read_golden, weight

    spec, numbers, frames, mask = read_golden(name)
    model = TemporalFusionNet(
        num_classes=spec["num_classes"],
        last_stride=spec["last_conv_stride"],
        num_stripes=spec["num_stripes"],
        embed_dim=spec["local_conv_out_channels"],
        relation_padding="reference",
    )
    images = jnp.asarray(frames.transpose(0, 1, 3, 4, 2))
    abstract: Any = jax.eval_shape(model.init, jax.random.key(0), images[:1, :1])
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), abstract)
    tensors = {
        key: weight(spec["tag"], key, value.shape)
        for key, value in variables_to_torch(zeros).items()
    }
    output: Any = jax.jit(model.apply)(variables_from_torch(tensors, model), images, mask)
    pairs = (
        (output.features, numbers["features"]),
        (output.logits, numbers["logits"]),
        (output.frame_weights, (numbers["intra"] + numbers["inter"]) / 2),
    )
    return max(_relative(np.asarray(found), expected) for found, expected in pairs)
