import numpy as np
import pytest

from stf_jax.models.weights.torch_names import (
    from_torch,
    group_of,
    is_counter,
    reference_name,
    to_torch,
    torch_name,
    torch_shape,
)

# path in the variables, shape there -> the reference's name, shape there
TABLE = [
    ("params/backbone/conv1/kernel", (7, 7, 3, 64), "base.conv1.weight", (64, 3, 7, 7)),
    ("params/backbone/bn1/scale", (64,), "base.bn1.weight", (64,)),
    ("batch_stats/backbone/bn1/var", (64,), "base.bn1.running_var", (64,)),
    (
        "params/backbone/layer3_11/conv2/kernel",
        (3, 3, 256, 128),
        "base.layer3.11.conv2.weight",
        (128, 256, 3, 3),
    ),
    (
        "params/backbone/layer1_0/conv_shortcut/kernel",
        (1, 1, 64, 256),
        "base.layer1.0.downsample.0.weight",
        (256, 64, 1, 1),
    ),
    (
        "batch_stats/backbone/layer1_0/bn_shortcut/mean",
        (256,),
        "base.layer1.0.downsample.1.running_mean",
        (256,),
    ),
    (
        "params/backbone/features_0/conv/kernel",
        (3, 3, 3, 32),
        "base.features.0.0.weight",
        (32, 3, 3, 3),
    ),
    ("params/backbone/features_18/bn/bias", (1280,), "base.features.18.1.bias", (1280,)),
    (
        "params/backbone/features_2/expand_conv/kernel",
        (1, 1, 16, 96),
        "base.features.2.conv.0.0.weight",
        (96, 16, 1, 1),
    ),
    (
        "batch_stats/backbone/features_17/depthwise_bn/mean",
        (960,),
        "base.features.17.conv.1.1.running_mean",
        (960,),
    ),
    (
        "params/backbone/features_17/project_conv/kernel",
        (1, 1, 960, 320),
        "base.features.17.conv.2.weight",
        (320, 960, 1, 1),
    ),
    (
        "params/backbone/features_17/project_bn/scale",
        (320,),
        "base.features.17.conv.3.weight",
        (320,),
    ),
    # The first block expands nothing: its layers are numbered from 0 all the same.
    (
        "params/backbone/features_1/project_conv/kernel",
        (1, 1, 32, 16),
        "base.features.1.conv.1.weight",
        (16, 32, 1, 1),
    ),
    ("params/backbone/features_1/depthwise_bn/bias", (32,), "base.features.1.conv.0.1.bias", (32,)),
    ("params/embedding/conv_1/kernel", (20, 6), "local_conv_list.1.0.weight", (6, 20, 1, 1)),
    ("params/embedding/conv_1/bias", (6,), "local_conv_list.1.0.bias", (6,)),
    ("batch_stats/embedding/bn_0/mean", (6,), "local_conv_list.0.1.running_mean", (6,)),
    ("params/intra_attention/conv/kernel", (12, 1), "temporal_conv.0.weight", (1, 12, 1)),
    ("params/intra_attention/bn/scale", (1,), "temporal_conv.1.weight", (1,)),
    ("params/relation/g_0/kernel", (24, 768), "relation_g.0.weight", (768, 24)),
    ("params/relation/g_3/bias", (512,), "relation_g.6.bias", (512,)),
    ("params/relation/f_1/kernel", (128, 1), "relation_f.2.weight", (1, 128)),
    ("params/stage_attention/score/kernel", (12, 1), "stage_attention.weight", (1, 12)),
    ("params/stage_gate/scale", (1,), "stage_gate.weight", (1,)),
    (
        "batch_stats/stage_2/backbone/layer3_0/bn_shortcut/var",
        (256,),
        "stage_2.base.layer3.0.downsample.1.running_var",
        (256,),
    ),
    (
        "batch_stats/stage_4/embedding/bn_0/mean",
        (6,),
        "stage_4.local_conv_list.0.1.running_mean",
        (6,),
    ),
    ("params/neck/bn_1/scale", (6,), "neck.1.weight", (6,)),
    ("batch_stats/neck/bn_0/var", (6,), "neck.0.running_var", (6,)),
    ("params/classifier/fc_1/kernel", (6, 5), "fc_list.1.weight", (5, 6)),
]


@pytest.mark.parametrize(("path", "shape", "name", "there"), TABLE)
def test_names_and_layouts(path, shape, name, there):
    path = tuple(path.split("/"))
    assert torch_name(path) == name
    assert torch_shape(path, shape) == there
    assert group_of(name) == path[1]
    value = np.random.RandomState(0).standard_normal(shape)
    moved = to_torch(path, value)
    assert moved.shape == there
    np.testing.assert_array_equal(from_torch(path, moved), value)
    if value.ndim == 4:
        assert moved[1, 2, 0, 0] == value[0, 0, 2, 1]
    elif value.ndim == 2:
        assert moved.reshape(moved.shape[:2])[0, 3] == value[3, 0]


def test_foreign_paths_have_no_name():
    for path in (
        ("params", "head", "kernel"),
        ("params", "backbone", "conv1", "gamma"),
        ("params", "backbone", "features_2", "squeeze_conv", "kernel"),
    ):
        with pytest.raises(KeyError):
            torch_name(path)
    assert group_of("head.weight") is None


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("base.conv1.weight", "base.conv1.weight"),
        ("conv1.weight", "base.conv1.weight"),
        ("layer4.2.bn3.running_var", "base.layer4.2.bn3.running_var"),
        ("fc.bias", "base.fc.bias"),
        ("features.18.1.running_var", "base.features.18.1.running_var"),
        ("module.features.2.conv.0.0.weight", "base.features.2.conv.0.0.weight"),
        ("classifier.1.weight", "base.classifier.1.weight"),
        ("classifier.weight", "classifier.weight"),
        ("module.base.layer1.0.conv1.weight", "base.layer1.0.conv1.weight"),
        ("module.module.bn1.bias", "base.bn1.bias"),
        ("base.base.bn1.bias", "base.bn1.bias"),
        ("module.fc_list.0.weight", "fc_list.0.weight"),
        ("base.relation_g.0.bias", "relation_g.0.bias"),
        ("layer5.weight", "layer5.weight"),
        ("model.backbone._orig_mod.module.base.conv1.weight", "base.conv1.weight"),
        ("module.model.temporal_conv.0.weight", "temporal_conv.0.weight"),
        ("models.conv1.weight", "models.conv1.weight"),
    ],
)
def test_names_as_others_write_them(name, reference):
    assert reference_name(name) == reference


def test_counters():
    assert is_counter("module.base.bn1.num_batches_tracked")
    assert not is_counter("base.bn1.running_mean")
