"""Part `layers`: each kind of convolution of the backbone, by XLA as the model has it, by PyTorch.

Says where a training step's time goes in either, and which of them has the slower kernels. Least
times, since kernels are short.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarking import peer
from benchmarking.child import NotRunError, Row
from benchmarking.settings import Settings
from stf_jax.models.resnet import Conv, ResNet

PASSES = ("forward", "to inputs", "to weights")


class Layer(NamedTuple):
    """A convolution of a map of `height` x `width` pixels."""

    height: int
    width: int
    inputs: int
    outputs: int
    kernel: int
    stride: int

    def __str__(self) -> str:
        """Return such as 3x3 64->128 /2 of 96x32."""
        stride = f" /{self.stride}" if self.stride > 1 else ""
        shape = f"{self.kernel}x{self.kernel} {self.inputs}->{self.outputs}{stride}"
        return f"{shape} of {self.height}x{self.width}"


def layers(backbone: str, height: int, width: int) -> Counter[Layer]:
    """Return the convolutions that a frame passes, and how often each; the last stride is 1."""
    found: Counter[Layer] = Counter()

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        conv = context.module
        if isinstance(conv, Conv) and context.method_name == "__call__":
            _, h, w, channels = args[0].shape
            found[Layer(h, w, channels, conv.features, conv.kernel, conv.stride)] += 1
        return call(*args, **kwargs)

    frame = jnp.zeros((1, height, width, 3))
    with nn.intercept_methods(note):
        jax.eval_shape(lambda: ResNet(backbone).init(jax.random.key(0), frame, train=False))
    return found


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row a layer, then the sums by size of kernel."""
    reason = peer.absent()
    if reason is not None:
        raise NotRunError(reason)
    frames = 8 if settings.platform == "cpu" else 64
    yield {
        "note": f"{settings.backbone} {settings.height}x{settings.width}, {settings.dtype}, "
        f"{frames} frames; ms of ours / of PyTorch's"
    }
    sums: dict[int, np.ndarray] = {}
    for layer, count in layers(settings.backbone, settings.height, settings.width).items():
        ms = 1e3 * measured(layer, frames, settings)
        yield {
            "layer": str(layer),
            "times": count,
            **{name: f"{o:.1f} / {t:.1f}" for name, o, t in zip(PASSES, *ms, strict=True)},
        }
        # The stem has no use for the gradient of its pixels.
        used = ms * [1, layer.kernel != 7, 1]
        sums[layer.kernel] = sums.get(layer.kernel, 0) + count * used
    for kernel, (own, other) in sorted(sums.items()):
        yield {
            "all of": f"{kernel}x{kernel}",
            **{
                f"{n}, ms": f"{o:.0f} / {t:.0f}" for n, o, t in zip(PASSES, own, other, strict=True)
            },
            "times PyTorch's time": float(own.sum() / other.sum()),
        }


def measured(layer: Layer, frames: int, settings: Settings) -> np.ndarray:
    """Return least seconds [2, 3]: ours and PyTorch's, of the three PASSES."""
    arrays = drawn(layer, frames, settings.seed)
    sides = ours(layer, settings.dtype, *arrays), torchs(layer, settings, *arrays)
    least = np.full((2, 3), np.inf)
    # Not in turns: threads of the one spin a while in wait for more, and slow the other.
    for side, passes in enumerate(sides):
        for number, work in enumerate(passes):
            work()  # compiles
            for _ in range(settings.rounds):
                start = time.perf_counter()
                work()
                least[side, number] = min(least[side, number], time.perf_counter() - start)
    return least


def drawn(layer: Layer, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return maps, a kernel (HWIO) and a gradient of the result, float32."""
    random = np.random.default_rng(seed)
    h, w = (-(-size // layer.stride) for size in (layer.height, layer.width))
    x = random.standard_normal((frames, layer.height, layer.width, layer.inputs), np.float32)
    k = random.standard_normal(
        (layer.kernel, layer.kernel, layer.inputs, layer.outputs), np.float32
    )
    g = random.standard_normal((frames, h, w, layer.outputs), np.float32)
    return x, k, g


def ours(layer: Layer, dtype: str, *arrays: np.ndarray) -> list[Callable[[], Any]]:
    """Return the three PASSES as the model computes them, each waited for."""
    x, kernel, g = (jnp.asarray(array, dtype) for array in arrays)
    conv = Conv(layer.outputs, layer.kernel, layer.stride, dtype=dtype, param_dtype=dtype)

    def forward(x, kernel):
        return conv.apply({"params": {"kernel": kernel}}, x)

    programs = (
        jax.jit(lambda x, kernel, g: forward(x, kernel)),
        jax.jit(lambda x, kernel, g: jax.vjp(lambda x: forward(x, kernel), x)[1](g)[0]),
        jax.jit(lambda x, kernel, g: jax.vjp(lambda k: forward(x, k), kernel)[1](g)[0]),
    )
    return [lambda p=program: jax.block_until_ready(p(x, kernel, g)) for program in programs]


def torchs(layer: Layer, settings: Settings, *arrays: np.ndarray) -> list[Callable[[], Any]]:
    """Return the three PASSES in PyTorch, maps as NCHW and kernels as OIHW."""
    import torch
    from torch.nn import functional, grad

    device = "cpu" if settings.platform == "cpu" else "cuda"
    dtype = getattr(torch, settings.dtype)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    orders = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    x, kernel, g = (
        torch.from_numpy(array.transpose(order).copy()).to(device, dtype)
        for array, order in zip(arrays, orders, strict=True)
    )
    options: dict[str, Any] = {"stride": layer.stride, "padding": layer.kernel // 2}
    calls = (
        lambda: functional.conv2d(x, kernel, **options),
        lambda: grad.conv2d_input(x.shape, kernel, g, **options),
        lambda: grad.conv2d_weight(x, kernel.shape, g, **options),
    )

    def waited(call: Callable[[], Any]) -> Any:
        with torch.no_grad():
            found = call()
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return [lambda call=call: waited(call) for call in calls]
