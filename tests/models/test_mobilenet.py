"""MobileNetV2: sizes, padding and recomputation, names in files, the same maps as in PyTorch."""

import functools
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stf_jax.models import MobileNetV2, TemporalFusionNet, mobilenet
from stf_jax.models.mobilenet import ConvBN, InvertedResidual
from stf_jax.models.weights.files import write_tensors
from stf_jax.models.weights.pretrained import load_pretrained, variables_to_torch

# For what runs once: less time in the compiler.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
MODEL = TemporalFusionNet(num_classes=5, backbone="mobilenet_v2", embed_dim=6, last_stride=2)


@functools.cache
def outline(**fields: Any) -> tuple[Any, Any]:
    """Variables and maps of a MobileNetV2 on 64 x 32 images, as shapes."""
    net = MobileNetV2(**fields)
    frames = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda k, x: net.init(k, x, train=False), jax.random.key(0), frames)
    maps = jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, frames)
    return variables, maps


@pytest.mark.parametrize(
    ("last_stride", "last_dilation", "last"), [(1, 1, (4, 2)), (2, 1, (2, 1)), (1, 2, (4, 2))]
)
def test_parameters_and_stages_are_torchvisions(last_stride, last_dilation, last):
    variables, maps = outline(last_stride=last_stride, last_dilation=last_dilation)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 2_223_872
    assert [m.shape[1:] for m in maps] == [(16, 8, 24), (8, 4, 32), (4, 2, 96), (*last, 1280)]
    assert set(variables["params"]) == {f"features_{i}" for i in range(19)}


def test_types_and_device_axis_reach_every_layer():
    fields = {"axis_name": "device", "dtype": jnp.bfloat16, "param_dtype": jnp.float16}
    layers = MobileNetV2(**fields).bind({}).features
    assert len(layers) == 19
    for layer in layers:
        assert {name: getattr(layer, name) for name in fields} == fields
    frames = jnp.zeros((2, 1, 8, 4, 3))
    for kind in (InvertedResidual(3, 6, **fields), ConvBN(3, **fields)):
        init = partial(kind.init, mask=None, train=False)
        shapes = jax.eval_shape(init, jax.random.key(0), frames[0])
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float16)}

        def train(variables, x, kind=kind):
            return kind.apply(variables, x, None, True, mutable=["batch_stats"])

        # The statistics are one for all devices: no axis of devices is left.
        both = jax.vmap(train, (None, 0), (0, None), axis_name="device")
        y, _ = jax.eval_shape(both, shapes, frames)
        assert y.dtype == jnp.bfloat16


@pytest.fixture(scope="module")
def whole(random_variables) -> dict[str, Any]:
    """Variables of `MODEL` at which ReLU6 cuts on both sides, early and late."""
    variables = random_variables(MODEL, seed=1)
    for name in ("features_0", "features_18"):
        norm = variables["params"]["backbone"][name]["bn"]
        norm["scale"], norm["bias"] = norm["scale"] * 6, norm["bias"] + 3
    return variables


@pytest.fixture(scope="module")
def variables(whole) -> dict[str, Any]:
    return {kind: groups["backbone"] for kind, groups in whole.items()}


def test_padding_and_recomputation_change_nothing(random_variables, monkeypatch):
    """Maps, statistics and gradients: padded and stored, packed and recomputed."""
    # Fewer and narrower blocks of each kind: a sixth of the time to compile.
    blocks = (1, 4, 1, 2), (6, 6, 2, 2), (6, 8, 1, 2), (6, 12, 1, 2)
    monkeypatch.setattr(mobilenet, "_BLOCKS", blocks)
    monkeypatch.setattr(mobilenet, "_FIRST", {1: 0, 2: 2, 3: 4, 4: 5, 5: 7})
    variables = {kind: v["backbone"] for kind, v in random_variables(MODEL, seed=1).items()}
    norm = variables["params"]["features_6"]["bn"]
    norm["bias"] = norm["bias"] + 3
    r = np.random.RandomState(1)
    mask = np.array([True, False, True, True, False])
    frames = r.standard_normal((5, 64, 32, 3)).astype(np.float32)
    frames[~mask] = 1e3
    direction = r.standard_normal((5, 4, 2, 1280)).astype(np.float32)

    def found(net, frames, mask, direction):
        def loss(params):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            maps, stats = net.apply(state, frames, mask, train=True, mutable=["batch_stats"])
            return (maps[3] * direction).sum(), (maps, stats)

        gradients, (maps, stats) = quick_jit(jax.grad(loss, has_aux=True))(variables["params"])
        return maps, stats, gradients

    net = MobileNetV2()
    zeroed = direction * mask[:, None, None, None]
    padded = found(net, jnp.asarray(frames), jnp.asarray(mask), zeroed)
    packed = found(net.clone(remat=True), jnp.asarray(frames[mask]), None, direction[mask])
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, [m[mask] for m in padded[0]], list(packed[0]))
    jax.tree.map(close, padded[1], packed[1])
    assert padded[0][3].max() == 6
    flat, _ = jax.tree_util.tree_flatten_with_path(padded[2])
    for (path, a), b in zip(flat, jax.tree.leaves(packed[2]), strict=True):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(a).all(), name
        # The bias before a BatchNorm has no gradient but rounding.
        assert np.linalg.norm(a - b) < 1e-2 * max(np.linalg.norm(b), 0.1), name


def first_published(name: str) -> str:
    """The name in files after the first published code: a block's layers numbered through."""
    block = re.fullmatch(r"(features\.(\d+)\.conv)\.([\d.]+)\.(\w+)", name)
    if not block:
        return name
    order = ["0.0", "0.1", None, "1", "2"]
    if block[2] != "1":
        order = ["0.0", "0.1", None, "1.0", "1.1", None, "2", "3"]
    return f"{block[1]}.{order.index(block[3])}.{block[4]}"


@pytest.mark.parametrize("style", ["torchvision", "classifier", "first published"])
def test_files_fill_the_backbone(tmp_path, whole, variables, style):
    tensors = variables_to_torch({kind: {"backbone": part} for kind, part in variables.items()})
    tensors = {name.removeprefix("base."): tensor for name, tensor in tensors.items()}
    start = jax.tree.map(jnp.zeros_like, whole)
    assert "features.14.conv.1.0.weight" in tensors
    assert tensors["features.14.conv.1.0.weight"].shape == (576, 1, 3, 3)
    if style == "classifier":
        tensors |= {"classifier.1.weight": np.ones((1000, 1280)), "classifier.1.bias": np.ones(9)}
    if style == "first published":
        tensors = {first_published(name): tensor for name, tensor in tensors.items()}
        assert tensors["features.1.conv.3.weight"].shape == (16, 32, 1, 1)
        assert "features.2.conv.7.running_var" in tensors
    write_tensors(tmp_path / "w.npz", tensors)
    found, report = load_pretrained(tmp_path / "w.npz", MODEL, start)
    for kind, groups in start.items():
        expected = {**groups, "backbone": variables[kind]}
        jax.tree.map(np.testing.assert_array_equal, found[kind], expected)
    what = "an ImageNet classifier" if style == "classifier" else "a backbone alone"
    assert str(report) == (
        f"{tmp_path / 'w.npz'}: {what}: its 260 tensors fill the backbone of mobilenet_v2; "
        "initialised at random: embedding, intra_attention, classifier, relation"
    )


def torchs(torch: Any, last_stride: int, last_dilation: int) -> Any:
    """torchvision's `features`, written down from its names; on them the two settings."""
    nn = torch.nn

    def conv_bn(inputs, outputs, kernel=1, stride=1, groups=1, dilation=1):
        pad = dilation * (kernel // 2)
        conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, dilation, groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())

    class Block(nn.Module):
        def __init__(self, inputs, outputs, expansion, stride, dilation):
            super().__init__()
            inner = inputs * expansion
            parts = [conv_bn(inputs, inner)] if expansion > 1 else []
            parts.append(conv_bn(inner, inner, 3, stride, inner, dilation))
            parts += [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
            self.conv = nn.Sequential(*parts)
            self.added = stride == 1 and inputs == outputs

        def forward(self, x):
            return x + self.conv(x) if self.added else self.conv(x)

    features, inputs = [conv_bn(3, 32, 3, 2)], 32
    channels = [16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    strides = {2: 2, 4: 2, 7: 2, 14: last_stride}
    for number, outputs in enumerate(channels, start=1):
        dilation = last_dilation if number == 14 else 1
        how = strides.get(number, 1), dilation
        features.append(Block(inputs, outputs, 1 if number == 1 else 6, *how))
        inputs = outputs
    return nn.Sequential(*features, conv_bn(320, 1280))


def test_maps_are_pytorchs(torch, variables):
    net = torchs(torch, last_stride=1, last_dilation=2)
    tensors = variables_to_torch({kind: {"backbone": v} for kind, v in variables.items()})
    state = {n.removeprefix("base.features."): torch.tensor(a) for n, a in tensors.items()}
    missing = net.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    frames = np.random.RandomState(0).standard_normal((2, 70, 45, 3)).astype(np.float32)
    ours = MobileNetV2(last_stride=1, last_dilation=2)
    maps = quick_jit(lambda v, x: ours.apply(v, x, train=False))(variables, frames)
    with torch.no_grad():
        x, found = torch.from_numpy(frames.transpose(0, 3, 1, 2)), []
        for layer in net.eval():
            x = layer(x)
            found.append(x.numpy().transpose(0, 2, 3, 1))
    for ours_of, number in zip(maps, (3, 6, 13, 18), strict=True):
        assert ours_of.shape == found[number].shape
        np.testing.assert_allclose(ours_of, found[number], atol=1e-4)
    assert (maps[3].min(), maps[3].max()) == (0, 6)
