"""Which checkpoint of a run is used, and what of it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stf_jax.config import Config, changed, to_json
from stf_jax.data.sampling import Position
from stf_jax.errors import UserError
from stf_jax.models import build_model
from stf_jax.models.variables import init_variables
from stf_jax.run import restore
from stf_jax.run.checkpoint import open_manager, save
from stf_jax.run.restore import default_checkpoint, restore_run, starting_variables
from stf_jax.run.run_files import write_run_files
from stf_jax.training.state import TrainState

SHAPES = {"backbone": 3, "classifier": 2, "stage_attention": 1}


def variables(value: float, **shapes: int) -> dict[str, Any]:
    params = {name: {"w": jnp.full(n, value)} for name, n in {**SHAPES, **shapes}.items() if n}
    return {"params": params, "batch_stats": {"backbone": {"mean": jnp.full(2, value)}}}


def make_run(workdir: Path, subset: str) -> Path:
    """Checkpoints of steps 1, the best, and 2, the latest; their values are their steps'."""
    write_run_files(workdir, to_json(changed(Config(), {"data.eval_subset": subset})), {0: 0})
    with open_manager(workdir / "checkpoints") as manager:
        for step, score in ((1, 0.8), (2, 0.2)):
            state = TrainState(jnp.int32(step), **variables(step), opt_state={})
            save(manager, state, Position(1, step, 0), {"mAP": score})
    return workdir


@pytest.fixture
def initialised(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Variables in place of the model's: zeros. Gathers what they are drawn with."""
    given = []

    def init(model: Any, *options: int) -> dict[str, Any]:
        given.append(options)
        return variables(0, classifier=4 if model.num_classes else 0)

    monkeypatch.setattr(restore, "init_variables", init)
    return given


def values_of(found: dict[str, Any]) -> dict[str, float]:
    return {
        **{name: float(group["w"][0]) for name, group in found["params"].items()},
        "mean": float(found["batch_stats"]["backbone"]["mean"][0]),
    }


@pytest.mark.parametrize(("subset", "step"), [("test", 2), ("val", 1)])
def test_training_starts_from_the_default_checkpoint(
    tmp_path: Path,
    initialised: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    subset: str,
    step: int,
) -> None:
    workdir = make_run(tmp_path / "run", subset)
    values = {"pretrained": str(workdir), "seed": 9, "data.height": 48, "data.width": 24}
    config, said = changed(Config(), values), []
    model = build_model(config.model, 4)
    found = starting_variables(model, config, report=said.append)
    # The classifier is of other identities, and stays as it was drawn.
    expected = {"backbone": step, "classifier": 0, "stage_attention": step, "mean": step}
    assert values_of(found) == expected
    assert f"starting from the {'best' if step == 1 else 'latest'} checkpoint" in said[-1]
    assert set(initialised) == {(9, 48, 24)}
    # By default a stage attention has to fit, too.
    for partial in (False, True):
        config = changed(config, {"pretrained_partial": partial})
        monkeypatch.setattr(restore, "init_variables", lambda *_: variables(0, stage_attention=5))
        if not partial:
            with pytest.raises(UserError, match="params/stage_attention/w: found"):
                starting_variables(model, config, report=said.append)
            continue
        found = starting_variables(model, config, report=said.append)
        expected = {"backbone": step, "classifier": step, "stage_attention": 0, "mean": step}
        assert values_of(found) == expected


@pytest.mark.parametrize(
    "part", ["intra_attention", "relation", "stage_attention", "stage_gate", "neck"]
)
def test_a_partial_start_leaves_new_parts_as_drawn(
    tmp_path: Path, initialised: list[Any], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """So that attentions and a gate are added to a run of mean pooling."""
    workdir = make_run(tmp_path / "run", "test")
    config = changed(Config(), {"pretrained": str(workdir)})
    given = variables(0, classifier=0, **{part: 3})
    monkeypatch.setattr(restore, "init_variables", lambda *_: given)
    model = build_model(config.model, 0)
    with pytest.raises(UserError, match=f"params/{part}/w"):
        starting_variables(model, config, report=lambda _: None)
    config = changed(config, {"pretrained_partial": True})
    found = starting_variables(model, config, report=lambda _: None)
    assert values_of(found) == {"backbone": 2, "stage_attention": 2, "mean": 2} | {part: 0}


def test_own_statistics_start_as_the_shared_ones(
    tmp_path: Path, initialised: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = make_run(tmp_path / "run", "test")
    given = variables(0, classifier=0)
    names = given["batch_stats"]["backbone"]
    given["batch_stats"]["stage_2"] = {
        "backbone": jax.tree.map(jnp.zeros_like, names),
        "embedding": {"mean": jnp.zeros(3)},  # the run has no such layer
    }
    monkeypatch.setattr(restore, "init_variables", lambda *_: given)
    config = changed(Config(), {"pretrained": str(workdir), "pretrained_partial": True})
    said: list[str] = []
    found = starting_variables(build_model(config.model, 0), config, report=said.append)
    own = found["batch_stats"]["stage_2"]
    assert jax.tree.all(jax.tree.map(lambda leaf: (leaf == 2).all(), own["backbone"]))
    assert (own["embedding"]["mean"] == 0).all()
    assert sum("own statistics start as its shared ones" in line for line in said) == 1
    assert not any("stage_2" in line for line in said)


@pytest.mark.parametrize(
    ("chosen", "stages", "neck"),
    [((), (4,), "bnneck"), ((), (2, 4), "none"), (("intra", "inter"), (2, 4), "bnneck")],
)
def test_every_model_with_own_statistics_starts_from_mean_pooling(
    tmp_path: Path, chosen: tuple[str, ...], stages: tuple[int, ...], neck: str
) -> None:
    """As configs/pku_reid_drawn.py does, from a run with shared ones and without a neck."""
    size = {"data.height": 32, "data.width": 16}
    values = {"model.backbone": "resnet18", "model.embed_dim": 8, **size}
    pooling = {"model.frame_attention": (), "model.stages": (4,)}
    earlier, workdir = changed(Config(), {**values, **pooling}), tmp_path / "run"
    write_run_files(workdir, to_json(earlier), {0: 0, 1: 1})
    shapes = jax.eval_shape(lambda: init_variables(build_model(earlier.model, 2), 0, 32, 16))
    drawn = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 3, leaf.dtype), shapes)
    with open_manager(workdir / "checkpoints") as manager:
        state = TrainState(jnp.int32(1), **drawn, opt_state={})
        save(manager, state, Position(1, 1, 0), {})
    own = {"model.tail_statistics": "own", "model.neck": neck, "pretrained_partial": True}
    parts = {"model.frame_attention": chosen, "model.stages": stages}
    config = changed(earlier, {**own, **parts, "pretrained": str(workdir)})
    said: list[str] = []
    found = starting_variables(build_model(config.model, 2), config, report=said.append)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(found)]
    assert len(set(pointers)) == len(pointers)  # training donates each of them
    stats = found["batch_stats"]
    for p in stages:
        alone = stats if p == 4 and not chosen else stats[f"stage_{p}"]
        assert set(alone["embedding"]) == {"bn_0"}
        kept = {k: alone[k] for k in ("backbone", "embedding") if k in alone}
        assert all((leaf == 3).all() for leaf in jax.tree.leaves(kept))
    new = {"intra_attention", "relation"} if chosen else set()
    new |= {"neck", "classifier"} if neck == "bnneck" else set()  # no bias then
    told = [line.split(": ")[2].split("/")[1] for line in said if "re-initialised" in line]
    assert sorted(told) == sorted(new)


def test_a_run_is_restored_as_asked(tmp_path: Path, initialised: list[Any]) -> None:
    workdir = make_run(tmp_path / "run", "test")
    config = changed(Config(), {"seed": 9, "data.height": 48, "data.width": 24})
    for which, step in (("best", 1), ("latest", 2), ("1", 1), ("2", 2)):
        model, found, at = restore_run(config, workdir, which)
        assert (model.num_classes, at) == (0, step)
        assert {type(leaf) for leaf in jax.tree.leaves(found)} == {np.ndarray}
        assert values_of(found) == {"backbone": step, "stage_attention": step, "mean": step}
    assert set(initialised) == {(9, 48, 24)}


def test_the_best_is_the_default_where_it_was_chosen_on_val_and_there_is_one(
    tmp_path: Path,
) -> None:
    assert default_checkpoint(tmp_path / "none") == "latest"
    for subset, which in (("val", "best"), ("test", "latest")):
        workdir = tmp_path / subset
        write_run_files(workdir, to_json(changed(Config(), {"data.eval_subset": subset})), {0: 0})
        assert default_checkpoint(workdir) == "latest"  # nothing stored
        assert default_checkpoint(make_run(workdir, subset)) == which
