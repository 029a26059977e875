"""Configs: all that come along are good; what is wrong is named, a line each."""

import ast
import json
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from stf_jax.config import (
    KEYS,
    Config,
    changed,
    check_config,
    flat_values,
    from_json,
    load_config,
    to_json,
)
from stf_jax.errors import UserError
from stf_jax.models import BACKBONES, build_model

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
MARS = CONFIGS[0].with_name("mars.py")
OLD = Path(__file__).parent / "fixtures" / "old_configs"


def findings(values: dict[str, Any]) -> list[str]:
    """The lines that are printed for the recipe with these values."""
    with pytest.raises(UserError) as caught:
        check_config(changed(Config(), values))
    return str(caught.value).split("\n")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_that_comes_along_is_good(path: Path) -> None:
    config = load_config(path)
    check_config(config)
    build_model(config.model, 3)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_json_and_back(path: Path) -> None:
    config = load_config(path)
    assert from_json(to_json(config)) == config
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize("name", ["mars_strong", "ilids_vid_strong"])
def test_the_strong_recipe(name: str) -> None:
    config = load_config(MARS.with_name(f"{name}.py"))
    data, model, loss, optimizer = config.data, config.model, config.loss, config.optimizer
    assert (data.height, data.width, model.last_stride) == (256, 128, 1)
    assert (data.sampler, data.tracklets, data.tracklets_per_identity) == ("identity", 32, 4)
    assert (data.frame_sampling, data.min_frames, data.max_frames) == ("segments", 4, 8)
    assert (optimizer.name, optimizer.weight_decay, optimizer.warmup_epochs) == ("adam", 5e-4, 10)
    rates = {optimizer.lr_backbone, optimizer.lr_classifier, optimizer.lr_rest}
    assert rates == {3.5e-4}
    assert (loss.label_smoothing, loss.triplet_weight) == (0.1, 1.0)
    assert (loss.triplet_distance, loss.triplet_margin) == ("cosine", 0.3)
    augment = config.augment
    assert (augment.per, augment.mirror, augment.erase) == ("tracklet", 0.5, 0.5)
    assert (model.neck, model.neck_feature) == ("bnneck", "after")
    assert config.evaluation.distance == "cosine"
    # The method is the paper's, but for the stages' shares.
    assert model.stage_attention == "gated"
    method = ("stages", "frame_attention", "embed_dim", "bounded_attention")
    mars = load_config(MARS).model
    assert [getattr(model, name) for name in method] == [getattr(mars, name) for name in method]


def test_mars_is_the_published_recipe() -> None:
    config = load_config(MARS)
    assert (config.data.height, config.data.width) == (384, 128)
    assert (config.data.min_frames, config.data.max_frames) == (5, 25)
    assert config.data.tracklets == 4
    optimizer = config.optimizer
    assert (optimizer.lr_backbone, optimizer.lr_classifier, optimizer.lr_rest) == (1e-4, 1e-3, 1e-4)
    assert optimizer.staircase_epochs == (15, 30, 40, 50, 60, 70)
    assert (config.model.stages, config.model.embed_dim) == ((2, 4), 4096)


def comments_of(path: Path) -> dict[int, str]:
    """Line of code -> the comment after it, or those on the lines above."""
    found, above = {}, []
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            row = token.start[0]
            if token.type == tokenize.COMMENT:
                text = token.string.removeprefix("# ")
                if token.line.strip().startswith("#"):
                    above.append(text)
                else:
                    found[row] = text
            elif token.type not in (tokenize.NL, tokenize.NEWLINE) and above:
                found[row], above = " ".join(above), []
    return found


def test_mars_spells_out_every_key_with_its_meaning() -> None:
    assert load_config(MARS) == Config()
    comments = comments_of(MARS)
    tree = ast.parse(MARS.read_text())
    (whole,) = (node for node in ast.walk(tree) if isinstance(node, ast.Return))
    assert isinstance(whole.value, ast.Call)
    named = {}
    for keyword in whole.value.keywords:
        if isinstance(keyword.value, ast.Call):
            inner = keyword.value.keywords
            named |= {f"{keyword.arg}.{k.arg}": comments[k.lineno] for k in inner}
        else:
            named[str(keyword.arg)] = comments[keyword.lineno]
    assert named == {name: field.metadata["meaning"] for name, field in KEYS.items()}


@pytest.mark.parametrize("name", KEYS)
def test_every_key_is_declared_in_full(name: str) -> None:
    field = KEYS[name]
    assert field.metadata["meaning"].strip()
    assert field.metadata["expected"].strip()
    assert field.metadata["holds"](field.default)
    kinds = get_args(field.type) if get_origin(field.type) is not tuple else (tuple,)
    assert type(field.default) in (kinds or (field.type,))


NOT_OF_THE_KIND: dict[type, list[Any]] = {
    bool: ["True", 1, None, ()],
    int: [True, "3", 1.5, -1, None, float("nan"), ()],
    float: [True, "0.5", -0.5, None, float("nan"), float("inf"), ()],
    str: [3, None, True, ()],
    tuple: [3, "step", None, (None,), ("",), (True,), (-1.0,), (float("nan"),)],
}


@pytest.mark.parametrize("name", KEYS)
def test_a_wrong_value_of_any_key_is_refused_by_its_name(name: str) -> None:
    kind = type(KEYS[name].default)
    wrong = NOT_OF_THE_KIND[kind] if name != "loss.triplet_margin" else [None, True, "hard", -1, ()]
    for value in wrong:
        (line,) = findings({name: value})
        assert line == f"config.{name} is {value!r}: expected {KEYS[name].metadata['expected']}"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.stages", (4, 2), "ascending"),
        ("model.stages", (), "some of 1, 2, 3, 4"),
        ("model.stages", (2, 5), "some of 1, 2, 3, 4"),
        ("model.frame_attention", "intra", "tuple"),
        ("model.frame_attention", ("intra", "intra"), "intra, inter"),
        ("model.dtype", "float8", "float32, bfloat16"),
        ("model.backbone", "vgg", "resnet50"),
        ("evaluation.protocols", (), "some of step"),
        ("evaluation.protocols", ("best",), "some of step"),
        ("profile_steps", (10,), "two steps"),
        ("profile_steps", (20, 10), "two steps"),
        ("data.root", "", "text that is not empty"),
        ("augment.mirror", 1.5, "from 0 to 1"),
        ("augment.mirror", "0.5", "a number"),
        ("augment.blur_kernels", (2,), "odd"),
        ("augment.blur_kernels", (), "odd"),
        ("augment.blur_kernels", 3, "odd"),
        ("augment.hsv_hue", 1.5, "whole number from 0 to 179"),
        ("augment.erase_area", (0.4, 0.02), "the lower one first"),
        ("augment.erase_area", (0.4,), "two numbers"),
        ("augment.erase_area", (0.4, 1.1), "from 0 to 1"),
        ("optimizer.name", "lion", "one of sgd, adam, adamw"),
        ("optimizer.name", 3, "one of sgd, adam, adamw"),
        ("optimizer.schedule", "step", "one of staircase, cosine"),
        ("optimizer.lr_backbone", -1e-4, "0 or more"),
        ("optimizer.lr_rest", float("nan"), "0 or more"),
        ("optimizer.lr_classifier", "fast", "0 or more"),
        ("optimizer.weight_decay", -1.0, "0 or more"),
        ("optimizer.momentum", 1.0, "less than 1"),
        ("optimizer.momentum", 0.0, r"only with nesterov=False"),
        ("optimizer.nesterov", "yes", "True or False"),
        ("optimizer.staircase_epochs", (15, 15), "rising"),
        ("optimizer.staircase_epochs", (30, 15), "rising"),
        ("optimizer.staircase_epochs", (0, 15), "counted from 1"),
        ("optimizer.staircase_epochs", 15, "tuple"),
        ("optimizer.staircase_epochs", ("a",), "tuple"),
        ("optimizer.staircase_factor", 0.0, "> 0"),
        ("optimizer.warmup_epochs", -1.0, "0 or more"),
        ("optimizer.classifier_only_lr", -0.1, "0 or more"),
        ("optimizer.clip_norm", -1.0, "0 or more"),
        ("optimizer.accumulate", 0, "1 or more"),
        ("optimizer.accumulate", 1.5, "whole number"),
        ("data.min_frames", 30, r"min_frames is 30: expected at most max_frames \(25\)"),
        ("evaluation.frames_per_device", 3, r"at least one chunk \(25\)"),
        ("data.source", "tape", "data.source is 'tape'"),
    ],
)
def test_values_out_of_range_and_such_that_do_not_fit_each_other(key, value, said) -> None:
    (line,) = findings({key: value})
    assert line.startswith(f"config.{key} is {value!r}: expected ")
    with pytest.raises(UserError, match=said):
        raise UserError(line)


@pytest.mark.parametrize("key", ["seed", "data.height", "train.epochs"])
def test_whole_numbers_beyond_64_bits_are_refused(key: str) -> None:
    for value in (2**63, 10**5000):
        assert findings({key: value})[0].startswith(f"config.{key} is a number beyond 64 bits: ")


def test_tracklets_of_whole_identities() -> None:
    values = {"data.sampler": "identity", "data.tracklets": 6}
    (line,) = findings(values)
    assert line.startswith("config.data.tracklets is 6: expected a multiple of ")
    check_config(changed(Config(), {**values, "data.tracklets_per_identity": 3}))
    check_config(changed(Config(), {"data.tracklets": 6}))


def test_numbers_lists_and_margins_take_the_type_of_their_key() -> None:
    values = {"optimizer.momentum": 0, "optimizer.nesterov": False, "model.stages": [2, 3]}
    config = changed(Config(), values)
    check_config(config)
    assert (type(config.optimizer.momentum), config.model.stages) == (float, (2, 3))
    for margin in (0.3, "0.3", 3, "3", "soft"):
        config = changed(Config(), {"loss.triplet_margin": margin})
        check_config(config)
        assert config.loss.triplet_margin == ("soft" if margin == "soft" else float(margin))


def test_all_that_is_wrong_is_reported_at_once() -> None:
    values = to_json(load_config(MARS))
    values["data"]["colour"] = "red"
    values["data"]["height"] = -1
    values["loss"]["label_smoothing"] = 2.0
    del values["train"]["epochs"]
    with pytest.raises(UserError) as caught:
        from_json(values)
    lines = str(caught.value).split("\n")
    assert len(lines) == 4
    for line, part in zip(
        sorted(lines),
        ("data.colour: no such key", "data.height is -1", "loss.label_smoothing is 2.0", "missing"),
        strict=True,
    ):
        assert part in line
    with pytest.raises(UserError, match=r"^config\.loss: no such key; .*\nconfig\.wheels: "):
        from_json({**to_json(Config()), "wheels": {"size": 3}, "loss": 3})
    # A value of one section that is out of range hides none that does not fit in another.
    assert len(findings({"data.height": 3, "data.width": 3, "evaluation.chunk": 200})) == 3


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("optimizer.lr_backbon", "did you mean optimizer.lr_backbone?"),
        ("augment.miror", "did you mean augment.mirror?"),
        ("height", "did you mean data.height?"),
        ("augment.pad", "did you mean augment.pad_ratio?"),
        ("optimizer.lr", "did you mean optimizer.lr_backbone or optimizer.lr_classifier or opt"),
        ("learning_rate", "did you mean optimizer.lr_backbone or "),
        ("model.Height", "did you mean data.height?"),
        ("train.epoch", "did you mean train.epochs?"),
        ("model.wheels", "there are model.backbone, "),
        ("wheels", "there are seed, pretrained, "),
        ("loss.wheels", "there are loss.label_smoothing, "),
    ],
)
def test_unknown_keys_are_reported_with_similar_ones(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        changed(Config(), {name: 1, "data.height": 64, "data.no": 1})
    first, second = str(caught.value).split("\n")
    assert first.startswith(f"config.{name}: no such key; {hint}")
    assert second.startswith("config.data.no: no such key; ")


def test_starting_weights_are_imagenets_unless_a_config_says_otherwise() -> None:
    weights = {path.stem: load_config(path).pretrained for path in CONFIGS}
    assert weights["mars"].startswith(
        "hf://timm/resnet50.tv_in1k/model.safetensors#sha256=5d061a3c"
    )
    assert {weights[name] for name in ("ilids_vid", "ls_vid", "prid2011")} == {weights["mars"]}
    assert (weights["demo"], weights["ablation"]) == ("none", "none")
    (line,) = findings({"pretrained": ""})
    assert line.startswith("config.pretrained is '': expected ")
    assert line.endswith('or "none" for random weights')


def test_a_changed_config_is_another_one() -> None:
    config = changed(Config(), {"data.height": 64, "seed": 3})
    assert (config.data.height, config.seed) == (64, 3)
    others = {k: v for k, v in flat_values(config).items() if k not in ("data.height", "seed")}
    assert others.items() <= flat_values(Config()).items()
    assert Config().data.height == 384


@pytest.mark.parametrize("name", ["mars", "demo"])
def test_configs_of_older_runs_load_to_the_same_values(name: str) -> None:
    values = json.loads((OLD / f"{name}.json").read_text())
    assert values["pretrained"] == ""  # random weights, as they were called then
    config = from_json(values)
    theirs = changed(load_config(MARS.with_name(f"{name}.py")), {"pretrained": "none"})
    assert config == theirs
    loaded = to_json(config)
    # The batch was a device's; the run's devices are printed next to the config.
    loaded["data"]["tracklets_per_device"] = loaded["data"]["tracklets"]
    both = from_json(values, num_devices=2)
    assert both.data.tracklets == 2 * values["data"]["tracklets_per_device"]
    for section, stored in values.items():
        for key, value in stored.items() if isinstance(stored, dict) else ():
            assert loaded[section][key] == (0.3 if value == "0.3" else value), key
    # As they were before there were these keys.
    for key in ("multi_query", "single_gallery_shot", "separate_camera_set"):
        del values["evaluation"][key]
    del values["data"]["source"], values["optimizer"]["accumulate"], values["model"]["remat"]
    assert from_json(values) == config
    if name == "mars":
        values["augment"] = {}
        assert from_json(values) == config
    assert (config.data.source, config.train.parallel) == ("folder", "pmap")


def test_backbones_are_those_of_the_model() -> None:
    for name in BACKBONES:
        check_config(changed(Config(), {"model.backbone": name}))
    expected = KEYS["model.backbone"].metadata["expected"].removeprefix("one of ")
    assert set(expected.split(", ")) == set(BACKBONES)


def test_checking_a_config_needs_no_framework() -> None:
    code = (
        "import sys; from stf_jax.config import Config, check_config; check_config(Config()); "
        "sys.exit(bool({'jax', 'tensorflow', 'numpy', 'ml_collections'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_the_keys_can_be_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stf_jax.config"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0
    names = [line.split(" = ")[0] for line in done.stdout.splitlines() if line[0] != " "]
    assert names == list(KEYS)
    assert "data.height = 384  # pixels" in done.stdout


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "absent.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="get_config"):
        load_config(tmp_path / "empty.py")
    (tmp_path / "other.py").write_text("def get_config():\n    return {}\n")
    with pytest.raises(UserError, match=r"get_config\(\) that returns a Config"):
        load_config(tmp_path / "other.py")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.loss.triplet_margin = 0.3", r"'triplet_margin'; .* changed\(config, "),
        ("config.loss.", "invalid syntax"),
        ("config = nowhere", "name 'nowhere' is not defined"),
        ("raise RuntimeError", "RuntimeError"),
        ("config.data.height / 0", "unsupported|division by zero"),
        ("config = changed(config, {'data.hight': 3})", "config.data.hight: no such key"),
    ],
)
def test_a_config_file_with_a_mistake_is_reported_in_a_line(
    tmp_path: Path, line: str, message: str
):
    path = tmp_path / "mine.py"
    path.write_text(
        "from stf_jax.config import changed, load_config\n\n\ndef get_config():\n"
        f"    config = load_config({str(MARS)!r})\n"
        f"    {line}\n    return config\n"
    )
    with pytest.raises(UserError, match=message) as found:
        load_config(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


def test_a_seed_that_jax_would_cut_is_refused() -> None:
    """`jax.random.key` takes the lower 32 bits: 2**32 would be 0."""
    check_config(changed(Config(), {"seed": 2**32 - 1}))
    with pytest.raises(UserError, match="seed"):
        check_config(changed(Config(), {"seed": 2**32}))
