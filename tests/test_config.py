"""Configs: all that come along are good; what is wrong is named, a line each."""

from pathlib import Path

import pytest

from stf_jax.config import check_config, from_json, load_config, to_json
from stf_jax.data.augment_options import check_options
from stf_jax.errors import UserError
from stf_jax.models import build_model
from stf_jax.training.schedules import settings_from_config

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_that_comes_along_is_good(path: Path) -> None:
    config = load_config(path)
    check_config(config)
    check_options(config.augment)
    settings_from_config(config.optimizer)
    build_model(config.model, 3)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_json_and_back(path: Path) -> None:
    config = load_config(path)
    assert from_json(to_json(config)).to_dict() == config.to_dict()


def test_mars_is_the_published_recipe() -> None:
    config = load_config(CONFIGS[0].with_name("mars.py"))
    assert (config.data.height, config.data.width) == (384, 128)
    assert (config.data.min_frames, config.data.max_frames) == (5, 25)
    assert config.data.tracklets_per_device == 4
    optimizer = config.optimizer
    assert (optimizer.lr_backbone, optimizer.lr_classifier, optimizer.lr_rest) == (1e-4, 1e-3, 1e-4)
    assert optimizer.staircase_epochs == (15, 30, 40, 50, 60, 70)
    assert (config.model.stages, config.model.embed_dim) == ((2, 4), 4096)


def test_all_that_is_wrong_is_told_at_once() -> None:
    config = load_config(CONFIGS[0].with_name("mars.py"))
    with config.unlocked():
        config.data.colour = "red"
        config.data.height = -1
        config.loss.label_smoothing = 2.0
        del config.train.epochs
    with pytest.raises(UserError) as caught:
        check_config(config)
    lines = str(caught.value).split("\n")
    assert len(lines) == 4
    for line, part in zip(
        sorted(lines),
        ("data.colour: no such key", "data.height is -1", "loss.label_smoothing is 2.0", "missing"),
        strict=True,
    ):
        assert part in line


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("data", "min_frames", 30, "min_frames is 30: expected at most max_frames"),
        ("evaluation", "frames_per_device", 3, "at least one chunk"),
        ("evaluation", "protocols", ("best",), "evaluation.protocols"),
        ("data", "source", "tape", "data.source is 'tape'"),
    ],
)
def test_values_that_do_not_fit_each_other(section, key, value, said) -> None:
    config = load_config(CONFIGS[0].with_name("mars.py"))
    config[section][key] = value
    with pytest.raises(UserError, match=said):
        check_config(config)


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "absent.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="get_config"):
        load_config(tmp_path / "empty.py")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("stages", (4, 2), "ascending"),
        ("frame_attention", "intra", "tuple"),
        ("dtype", "float8", "float32, bfloat16"),
        ("backbone", "vgg", "resnet50"),
    ],
)
def test_a_model_that_cannot_be_built_is_named(key: str, value, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_model({key: value}, 3)
    with pytest.raises(UserError, match=r"config\.model\.depth: no such key"):
        build_model({"depth": 3}, 3)


@pytest.mark.parametrize(
    ("line", "told"),
    [("config.loss.triplet_margin = 0.3", "triplet_margin"), ("config.loss.", "invalid syntax")],
)
def test_a_config_file_with_a_mistake_is_told_in_a_line(tmp_path: Path, line: str, told: str):
    path = tmp_path / "mine.py"
    path.write_text(
        "from stf_jax.config import load_config\n\n\ndef get_config():\n"
        f"    config = load_config({str(CONFIGS[0].with_name('mars.py'))!r})\n"
        f"    {line}\n    return config\n"
    )
    with pytest.raises(UserError, match=told) as found:
        load_config(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)
