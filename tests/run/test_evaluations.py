"""Which folder an evaluation is kept in."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from stf_jax.config import Config, changed, to_json
from stf_jax.data.sampling import Position
from stf_jax.errors import UserError
from stf_jax.run.checkpoint import open_manager, save
from stf_jax.run.evaluations import evaluation_folder
from stf_jax.run.run_files import write_run_files
from stf_jax.training.state import TrainState


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A run on data/mars with checkpoints of steps 1 and 2."""
    write_run_files(tmp_path, to_json(Config()), {0: 0})
    weights = {"params": {"head": {"w": jnp.ones(2)}}, "batch_stats": {}}
    with open_manager(tmp_path / "checkpoints") as manager:
        for step in (1, 2):
            save(
                manager, TrainState(jnp.int32(step), **weights, opt_state={}), Position(1, step, 0)
            )
    return tmp_path


@pytest.mark.parametrize(
    ("values", "step", "name"),
    [
        ({}, 2, None),
        ({"data.threads": 3, "train.epochs": 1, "evaluation.frames_per_device": 50}, 2, None),
        ({}, 1, "mars-test-step1"),
        ({"data.root": "other/yard"}, 2, "yard-test-step2"),
        ({"data.eval_subset": "val"}, 2, "mars-val-step2"),
        ({"data.partitions": "partitions_03.pkl"}, 1, "mars-partitions_03-test-step1"),
        ({"data.root": "d/video_reid/yard/1.0.0", "data.source": "tfds"}, 2, "yard-test-step2"),
        (
            {"evaluation.protocols": ("step", "mars-official"), "evaluation.flip": True},
            2,
            "mars-test-step2-protocols=_step_mars-official_-flip=True",
        ),
    ],
)
def test_the_runs_own_evaluation_is_in_the_workdir_and_each_other_apart(
    workdir: Path, values: dict[str, Any], step: int, name: str | None
) -> None:
    found = evaluation_folder(changed(Config(), values), workdir, step)
    assert found == (workdir / "evaluations" / name if name else workdir)


def test_many_differing_keys_give_a_short_name(workdir: Path) -> None:
    values: dict[str, Any] = {
        f"evaluation.{k}": True
        for k in ("flip", "rerank", "single_gallery_shot", "separate_camera_set")
    }
    names = [
        evaluation_folder(changed(Config(), {**values, "seed": seed}), workdir, 2).name
        for seed in (1, 2)
    ]
    assert [len(name) for name in names] == [80, 80]
    assert names[0] != names[1]


def test_the_same_name_of_another_data_set_is_refused(workdir: Path) -> None:
    first = changed(Config(), {"data.root": "one/yard"})
    folder = evaluation_folder(first, workdir, 2)
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps({"data": "one/yard"}))
    assert evaluation_folder(first, workdir, 2) == folder
    with pytest.raises(UserError, match=r"holds an evaluation on one/yard; .*two/yard.* --output"):
        evaluation_folder(changed(Config(), {"data.root": "two/yard"}), workdir, 2)
