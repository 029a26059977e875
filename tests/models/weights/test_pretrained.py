import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from stf_jax.errors import UserError
from stf_jax.models import TemporalFusionNet
from stf_jax.models.weights.files import read_tensors, write_tensors
from stf_jax.models.weights.pretrained import (
    load_pretrained,
    variables_from_torch,
    variables_to_torch,
)
from stf_jax.models.weights.torch_names import group_of
from stf_jax.weights import layer_report, main

SMALL = TemporalFusionNet(num_classes=5, backbone="resnet18", num_stripes=2, embed_dim=6)
LEARNED = SMALL.clone(stage_attention="learned")
NECKED = SMALL.clone(neck="bnneck")


@pytest.fixture(scope="module")
def variables(random_variables) -> dict[str, Any]:
    return random_variables(LEARNED)


@pytest.fixture(scope="module")
def state_dict(variables) -> dict[str, np.ndarray]:
    """Of `SMALL`, in the reference's names."""
    whole = variables_to_torch(variables)
    return {n: a for n, a in whole.items() if group_of(n) != "stage_attention"}


def without_stages(variables) -> dict[str, Any]:
    params = {k: v for k, v in variables["params"].items() if k != "stage_attention"}
    return {**variables, "params": params}


def check_same(found, expected) -> None:
    by_path: dict[Any, Any] = dict(flatten_dict(found))
    expected_by_path: dict[Any, Any] = dict(flatten_dict(expected))
    assert by_path.keys() == expected_by_path.keys()
    for path, value in expected_by_path.items():
        assert by_path[path].dtype == value.dtype, path
        np.testing.assert_array_equal(by_path[path], value, err_msg="/".join(path))


def backbone_of(variables) -> dict[str, Any]:
    return {kind: {"backbone": groups["backbone"]} for kind, groups in variables.items()}


def error_of(function, *args, **kwargs) -> list[str]:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    return str(caught.value).split("\n")


def test_there_and_back_is_exact(variables, state_dict):
    check_same(variables_from_torch(state_dict, SMALL), without_stages(variables))
    whole = variables_to_torch(variables, LEARNED)
    check_same(variables_from_torch(whole, LEARNED), variables)
    assert list(whole) == list(dict.fromkeys(whole))
    again = variables_to_torch(variables_from_torch(whole, LEARNED), LEARNED)
    assert again.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_a_neck_there_and_back(random_variables):
    necked = random_variables(NECKED)
    whole = variables_to_torch(necked, NECKED)
    leaves = ("weight", "bias", "running_mean", "running_var")
    assert {f"neck.{s}.{leaf}" for s in (0, 1) for leaf in leaves} < set(whole)
    assert "fc_list.0.bias" not in whole
    check_same(variables_from_torch(whole, NECKED), necked)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_dtypes_are_kept(state_dict, dtype):
    narrow = {name: array.astype(dtype) for name, array in state_dict.items()}
    variables = variables_from_torch(narrow, SMALL)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(dtype)}
    back = variables_to_torch(variables)
    assert all(np.array_equal(back[name], narrow[name]) for name in narrow)


RENAME = {
    "torchvision": lambda name: name.removeprefix("base."),
    "module": lambda name: f"module.{name}",
    "module, torchvision": lambda name: f"module.{name.removeprefix('base.')}",
    "base": lambda name: name if name.startswith("base.") else f"base.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled, then distributed": lambda name: f"module._orig_mod.{name}",
    "a part of it compiled": lambda name: name.replace("base.", "base._orig_mod."),
    "Lightning": lambda name: f"model.{name}",
    "FastReID": lambda name: f"module.{name.replace('base.', 'backbone.')}",
}


@pytest.mark.parametrize("style", RENAME)
def test_naming_styles(variables, state_dict, style):
    renamed = {RENAME[style](name): array for name, array in state_dict.items()}
    # What PyTorch's BatchNorm counts, and the ImageNet classifier, have no place and no say.
    renamed[RENAME[style]("base.bn1.num_batches_tracked")] = np.array(3)
    renamed[RENAME[style]("base.fc.weight")] = np.zeros((1000, 512), np.float32)
    check_same(variables_from_torch(renamed, SMALL), without_stages(variables))


def test_every_misfit_is_named(state_dict):
    wrong = dict(state_dict)
    del wrong["base.layer3.1.conv2.weight"], wrong["temporal_conv.1.running_mean"]
    wrong["base.bn1.bias"] = np.zeros(63, np.float32)
    wrong["module.head.weight"] = np.zeros(2, np.float32)
    wrong["base.layer5.0.conv1.weight"] = np.zeros(2, np.float32)
    lines = error_of(variables_from_torch, wrong, SMALL)
    assert f"{len(state_dict) - 3} tensors used" in lines[0]
    assert "resnet18" in lines[0]
    assert lines[1:-1] == [
        "missing, 2: temporal_conv.1.running_mean; base.layer3.1.conv2.weight",
        "misshapen, 1: base.bn1.bias: found (63,), expected (64,)",
        "extra, 2: module.head.weight; base.layer5.0.conv1.weight",
    ]
    assert "correct the model's fields or the file" in lines[-1]


def test_linear_layers_do_not_pass_for_convolutions(state_dict):
    """Nor do transposed ones: every shape counts."""
    for name in ("local_conv_list.0.0.weight", "temporal_conv.0.weight", "relation_g.2.weight"):
        wrong = {**state_dict, name: np.zeros(state_dict[name].shape[:2][::-1], np.float32)}
        assert any(name in line for line in error_of(variables_from_torch, wrong, SMALL))


def test_one_tensor_under_two_names(state_dict):
    twice = {**state_dict, "module.conv1.weight": state_dict["base.conv1.weight"]}
    (line,) = error_of(variables_from_torch, twice, SMALL)
    assert "found base.conv1.weight and module.conv1.weight" in line


def test_partial_loads_the_groups_there_are_when_asked(variables, state_dict):
    torchvision = {
        name.removeprefix("base."): array
        for name, array in state_dict.items()
        if name.startswith("base.")
    }
    torchvision["fc.weight"] = np.zeros((1000, 512), np.float32)
    torchvision["fc.bias"] = np.zeros(1000, np.float32)
    lines = error_of(variables_from_torch, torchvision, SMALL)
    assert "missing, 34: " in lines[2]
    assert len(lines) <= 10
    assert "config.pretrained_partial=True" in lines[-1]
    assert "not used, 2: fc.weight (ImageNet classifier); fc.bias (ImageNet classifier)" in lines
    found = variables_from_torch(torchvision, SMALL, partial=True)
    check_same(found, backbone_of(variables))
    # Not without the whole backbone, nor with more of it: that is another network.
    heads = {name: array for name, array in state_dict.items() if group_of(name) != "backbone"}
    lines = error_of(variables_from_torch, heads, SMALL, partial=True)
    assert any(line.startswith("missing, 100: ") for line in lines)
    assert "partial=True" not in lines[-1]  # which was asked for
    del torchvision["bn1.running_var"]
    lines = error_of(variables_from_torch, torchvision, SMALL, partial=True)
    assert "missing, 1: base.bn1.running_var" in lines
    deeper = {**state_dict, "base.layer3.2.bn1.bias": np.zeros(256, np.float32)}
    lines = error_of(variables_from_torch, deeper, SMALL, partial=True)
    assert "extra, 1: base.layer3.2.bn1.bias" in lines
    # Nor with half a group.
    del deeper["base.layer3.2.bn1.bias"], deeper["relation_g.0.weight"]
    lines = error_of(variables_from_torch, deeper, SMALL, partial=True)
    assert "missing, 1: relation_g.0.weight" in lines


def test_foreign_names_are_told_in_few_lines(state_dict):
    foreign = {f"encoder.{name}": array for name, array in state_dict.items()}
    for partial in (False, True):
        lines = error_of(variables_from_torch, foreign, SMALL, partial=partial)
        assert len(lines) <= 10
        assert "0 tensors used" in lines[0]
        assert "torchvision's names" in lines[-1]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.float32(np.nan), "layer1.0.conv1.weight (NaN or infinite)"),
        (np.float16(-np.inf), "layer1.0.conv1.weight (NaN or infinite)"),
        (np.float64(1e300), "layer1.0.conv1.weight (NaN or infinite)"),  # in single precision
        (np.int8(1), "layer1.0.conv1.weight (int8)"),
        (np.complex64(1), "layer1.0.conv1.weight (complex64)"),
    ],
)
def test_what_is_no_weight_is_named(state_dict, value, why):
    name = "base.layer1.0.conv1.weight"
    wrong = {**state_dict, name: np.full(state_dict[name].shape, value)}
    (line,) = error_of(variables_from_torch, wrong, SMALL)
    assert line.endswith(f"others in 1 of {len(state_dict)} tensors: base.{why}")


def test_wrong_variables_are_not_written(variables):
    assert "resnet18" in error_of(variables_to_torch, variables, SMALL)[0]
    foreign = {"params": {"neck": {"kernel": np.zeros((2, 2))}}}
    assert "expected a TemporalFusionNet's" in error_of(variables_to_torch, foreign)[0]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_files_load_into_the_dtypes_of_the_variables(
    tmp_path, random_variables, variables, state_dict, suffix
):
    path = tmp_path / f"weights.{suffix}"
    write_tensors(path, {name: array.astype(np.float64) for name, array in state_dict.items()})
    found, report = load_pretrained(path, SMALL, random_variables(SMALL, seed=5))
    check_same(found, without_stages(variables))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    assert set(report.loaded) == set(state_dict)
    assert str(report).startswith(f"{path}: {len(state_dict)} tensors used, for resnet18")
    assert "\n" not in str(report)


def test_other_identities_and_new_parts_when_asked(
    tmp_path, random_variables, variables, state_dict
):
    """A classifier of 9 in place of 5, a stage attention the file lacks: both as they were."""
    path = tmp_path / "weights.npz"
    write_tensors(path, state_dict)
    model = LEARNED.clone(num_classes=9)
    start = random_variables(model, seed=5)
    lines = error_of(load_pretrained, path, model, start)
    assert "fc_list.1.bias: found (5,), expected (9,)" in lines[2]
    assert any(line.startswith("missing, 2: stage_attention.") for line in lines)
    found, report = load_pretrained(path, model, start, partial=True)
    kept = ("classifier", "stage_attention")
    expected = {
        kind: {group: (start if group in kept else variables)[kind][group] for group in start[kind]}
        for kind in start
    }
    check_same(found, expected)
    lines = str(report).split("\n")
    assert (
        "re-initialised, 2: stage_attention (the file has none); "
        "classifier (5 identities in the file, 9 in the model)"
    ) in lines
    assert "not used, 4: fc_list" in lines[2]


def test_a_neck_on_weights_that_have_none_when_asked(
    tmp_path, random_variables, variables, state_dict
):
    """The classifier after a neck has no bias: that of the file is left out whole."""
    path = tmp_path / "weights.npz"
    write_tensors(path, state_dict)
    start = random_variables(NECKED, seed=5)
    assert any(line.startswith("extra") for line in error_of(load_pretrained, path, NECKED, start))
    found, report = load_pretrained(path, NECKED, start, partial=True)
    for group in ("backbone", "embedding", "intra_attention", "relation"):
        check_same(found["params"][group], variables["params"][group])
    for group in ("neck", "classifier"):
        check_same(found["params"][group], start["params"][group])
    assert "classifier (with a bias in one of file and model)" in str(report)


def test_parts_the_model_lacks_when_asked(tmp_path, random_variables, variables, state_dict):
    path = tmp_path / "weights.npz"
    write_tensors(path, state_dict)
    model = SMALL.clone(num_classes=0, frame_attention=("intra",))
    start = random_variables(model, seed=5)
    (extra,) = (s for s in error_of(load_pretrained, path, model, start) if s.startswith("extra"))
    assert extra.endswith("; ...")
    found, report = load_pretrained(path, model, start, partial=True)
    for group in ("backbone", "embedding", "intra_attention"):
        check_same(found["params"][group], variables["params"][group])
    assert set(found["params"]) == {"backbone", "embedding", "intra_attention"}
    unused = {n for n in state_dict if group_of(n) in ("relation", "classifier")}
    assert set(report.unused) == unused
    assert f"not used, {len(unused)}: " in str(report)


def test_another_embedding_is_an_error_even_when_partial(tmp_path, random_variables, state_dict):
    path = tmp_path / "weights.npz"
    write_tensors(path, state_dict)
    model = SMALL.clone(embed_dim=7)
    lines = error_of(load_pretrained, path, model, random_variables(model), partial=True)
    assert any(line.startswith("misshapen, ") and "local_conv_list.0" in line for line in lines)


def test_loaded_weights_do_not_hold_the_file(tmp_path, random_variables, state_dict):
    path = tmp_path / "weights.npz"
    write_tensors(path, state_dict)
    found, _ = load_pretrained(path, SMALL, random_variables(SMALL))
    kernel = found["params"]["backbone"]["conv1"]["kernel"]
    assert kernel.dtype == jnp.float32
    assert kernel.committed is False


def test_layer_report():
    report = layer_report({"a.weight": np.full((2, 2), 3, np.float16), "n": np.array(4)})
    first, second, last = [line.split() for line in report.split("\n")]
    assert first == ["a.weight", "2x2", "float16", "6"]
    assert second == ["n", "scalar", "int64", "4"]
    assert " ".join(last) == "2 tensors, 5 numbers"


def test_inspect_and_convert(tmp_path, capsys, state_dict):
    old, new = tmp_path / "old.npz", tmp_path / "new.safetensors"
    write_tensors(old, state_dict)
    assert main(["inspect", str(old)]) == 0
    inspected = capsys.readouterr().out
    assert inspected.count("\n") == len(state_dict) + 1
    assert "base.layer4.1.conv2.weight" in inspected
    assert "512x512x3x3" in inspected
    assert main(["convert", str(old), str(new)]) == 0
    assert capsys.readouterr().out == inspected
    for name, array in read_tensors(new).items():
        np.testing.assert_array_equal(array, state_dict[name])


def test_commands_tell_bad_input_in_a_line(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "none.npz")]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "a.npz").write_bytes(b"?")
    assert main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]) == 2
    assert "not a readable .npz" in capsys.readouterr().err


def test_module_runs(tmp_path):
    write_tensors(tmp_path / "a.npz", {"w": np.ones(4)})
    command = [
        sys.executable,
        "-m",
        "stf_jax.weights",
        "inspect",
        tmp_path / "a.npz",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0].split() == ["w", "4", "float64", "2"]
    assert done.stderr == ""


def test_pth_to_variables(tmp_path, variables, state_dict, torch):
    """As PyTorch would save it, in its old format, after DataParallel."""
    tensors = {f"module.{n}": torch.tensor(np.array(a)) for n, a in state_dict.items()}
    path = tmp_path / "old.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    check_same(variables_from_torch(read_tensors(path), SMALL), without_stages(variables))
