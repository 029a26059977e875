from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stf_jax.models.resnet import RESNETS, Conv, ResNet, max_pool_3x3

# For what runs once: less time in the compiler.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# torchvision's models with their last layers (512 or 2048 inputs, 1000 classes) taken off.
PARAMETERS = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 23_508_032,
    "resnet101": 44_549_160 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
}


def outline(**fields):
    """Variables and maps of a ResNet on 64 x 32 images, as shapes."""
    net = ResNet(**fields)
    frames = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda k, x: net.init(k, x, train=False), jax.random.key(0), frames)
    maps = jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, frames)
    return variables, maps


@pytest.mark.parametrize("backbone", RESNETS)
def test_parameter_counts_are_torchvisions(backbone):
    variables, maps = outline(backbone=backbone)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[backbone]
    wide = 4 if RESNETS[backbone][0] else 1
    assert [m.shape[-1] for m in maps] == [wide * c for c in (64, 128, 256, 512)]
    # A running mean and variance for each channel that has a scale and a bias.
    norms = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))
    vectors = [leaf.size for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 1]
    assert norms == sum(vectors)


@pytest.mark.parametrize(
    ("last_stride", "last_dilation", "last"), [(1, 1, (4, 2)), (2, 1, (2, 1)), (1, 2, (4, 2))]
)
def test_shapes_of_the_stages(last_stride, last_dilation, last):
    _, maps = outline(last_stride=last_stride, last_dilation=last_dilation)
    assert [m.shape[1:3] for m in maps] == [(16, 8), (8, 4), (4, 2), last]


def test_last_dilation_is_in_the_first_block_of_stage_4_only():
    dilations = {
        eqn.params["rhs_dilation"][0]
        for eqn in convolutions("resnet18", last_dilation=2)
        if eqn.params["rhs_dilation"] != (1, 1)
    }
    dilated = sum(
        e.params["rhs_dilation"] == (2, 2) for e in convolutions("resnet50", last_dilation=2)
    )
    assert dilations == {2}
    assert dilated == 1


def convolutions(backbone: str, **fields):
    """The convolutions of a backbone on images large enough that all 3x3 ones are such."""
    net = ResNet(backbone, **fields)
    frames = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    variables = jax.eval_shape(lambda k, x: net.init(k, x, train=False), jax.random.key(0), frames)
    jaxpr = jax.make_jaxpr(lambda v, x: net.apply(v, x, train=False))(variables, frames)
    return [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "conv_general_dilated"]


@pytest.mark.parametrize("size", [(4, 2), (5, 3), (20, 13), (40, 20)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "depthwise"),
    [
        *((1, 2, 1, False), (3, 1, 1, False), (3, 2, 2, False), (7, 2, 1, False)),
        *((3, 1, 1, True), (3, 2, 1, True), (3, 1, 2, True)),
    ],
)
def test_conv_is_a_plain_convolution(size, kernel, stride, dilation, depthwise):
    """Both products over patches (small maps, 1x1 kernels) and convolutions, and gradients."""
    r = np.random.RandomState(0)
    x = jnp.asarray(r.standard_normal((2, *size, 3)), jnp.float32)
    inputs, features, groups = (1, 3, 3) if depthwise else (3, 5, 1)
    weight = jnp.asarray(r.standard_normal((kernel, kernel, inputs, features)), jnp.float32)
    layer = Conv(features, kernel, stride, dilation, depthwise)
    pad = dilation * (kernel // 2)

    def ours(weight, x):
        return layer.apply({"params": {"kernel": weight}}, x)

    def plain(weight, x):
        return jax.lax.conv_general_dilated(
            x,
            weight,
            (stride, stride),
            [(pad, pad)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def with_gradients(f):
        def both(weight, x):
            y, back = jax.vjp(f, weight, x)
            return y, *back(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

        return quick_jit(both)(weight, x)

    for found, expected in zip(with_gradients(ours), with_gradients(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(8, 4), (7, 5), (1, 1)])
def test_max_pool_is_the_windows_maximum(size):
    r = np.random.RandomState(0)
    x = jnp.asarray(r.standard_normal((2, *size, 3)), jnp.float32)

    def plain(x):
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)]
        )

    found, back = jax.vjp(max_pool_3x3, x)
    expected, back_plain = jax.vjp(plain, x)
    np.testing.assert_array_equal(found, expected)
    direction = jnp.asarray(r.standard_normal(expected.shape), jnp.float32)
    np.testing.assert_allclose(back(direction)[0], back_plain(direction)[0], rtol=1e-6)
