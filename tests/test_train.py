"""The whole loop on tiny drawn tracklets: learns, logs, resumes exactly, refuses what it must."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import pytest
import train_and_score
from drawn_tracklets import draw
from jax.core import Tracer
from PIL import Image
from ranking_loops import chosen_rows, distances_of, ranked, scores_of

from stf_jax import train as training
from stf_jax.config import Config, changed, flat_values, load_config, to_json
from stf_jax.data.decode import main as decode_main
from stf_jax.data.layout.partitions import load_layout, read_partitions
from stf_jax.data.sampling import Position
from stf_jax.data.video_reid_builder import main as build_main
from stf_jax.errors import UserError
from stf_jax.evaluate import evaluate_workdir
from stf_jax.evaluation import rank_gallery
from stf_jax.evaluation.centring import camera_means, centre_pair
from stf_jax.evaluation.features.feature_files import read_features
from stf_jax.main import main
from stf_jax.models import build_model
from stf_jax.models.variables import init_variables
from stf_jax.models.weights.files import write_tensors
from stf_jax.models.weights.pretrained import variables_to_torch
from stf_jax.prepare.__main__ import main as prepare_main
from stf_jax.prepare.layout import image_name, write_partitions
from stf_jax.run import checkpoint
from stf_jax.run.metrics_log import TIMES, read_metrics
from stf_jax.run.run_files import read_run_files, run_config
from stf_jax.run.run_files import versions as run_versions
from stf_jax.run.tensor_checksums import digest
from stf_jax.training.batches import training_batches
from stf_jax.training.stop_request import RunStoppedError

CONFIGS = Path(__file__).parents[1] / "configs"


def make_layout(root: Path, identities: int = 8, cameras: int = 2, length: int = 5) -> Path:
    """People that are blocks of two colours, a little noisy; the first half trains."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    halves: dict[str, list[str]] = {"train": [], "test": []}
    marks = []
    for person in range(identities):
        colours = rng.integers(0, 256, (2, 3))
        for camera in range(1, cameras + 1):
            for offset in range(length):
                name = image_name(person, camera, 1, offset)
                image = np.repeat(colours, 16, 0)[:, None] * np.ones((1, 16, 1))
                image = image + rng.normal(0, 10, image.shape)
                pixels = np.clip(image, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / "images" / name)
                half = "train" if person < identities // 2 else "test"
                halves[half].append(name)
                if half == "test":
                    marks.append(0 if camera == 1 else 1)
    write_partitions(root, trainval=halves["train"], test=halves["test"], test_marks=marks)
    return root


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_layout(tmp_path_factory.mktemp("layout") / "set")


def tiny_config(layout: Path, others: Mapping[str, Any] = MappingProxyType({})) -> Config:
    values = {
        "pretrained": "none",
        "data.root": str(layout),
        "data.height": 32,
        "data.width": 16,
        "data.tracklets": 4,
        "data.min_frames": 2,
        "data.max_frames": 4,
        "data.frame_buckets": 1,
        "model.backbone": "resnet18",
        "model.embed_dim": 8,
        "optimizer.lr_backbone": 1e-3,
        "optimizer.lr_rest": 1e-3,
        "train.epochs": 3,
        "train.evaluate_every": 1,
        "train.log_every": 1,
        "evaluation.chunk": 4,
        "evaluation.frames_per_device": 20,
        **others,
    }
    return changed(load_config(CONFIGS / "mars.py"), values)


@pytest.fixture(scope="module")
def straight(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from start to end: 8 training tracklets, 2 devices x 2 = 2 steps an epoch, 3 epochs."""
    workdir = tmp_path_factory.mktemp("straight")
    training.train(tiny_config(layout), workdir)
    return workdir


def test_batches_come_on_the_devices(layout: Path) -> None:
    config = tiny_config(layout)
    table = load_layout(layout).trainval
    assert table is not None
    stream = training_batches(table, config, (20,), 2, Position(2, 1, config.seed))
    after, frames, batch = next(stream)
    assert after == Position(2, 2, config.seed)
    assert frames == np.asarray(batch.real).sum() > 0
    for leaf in jax.tree.leaves(batch):
        assert [shard.device for shard in leaf.addressable_shards] == jax.local_devices()
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(1, *leaf.shape[1:])}


def losses(workdir: Path) -> dict[int, float]:
    return {e["step"]: e["loss"] for e in read_metrics(workdir / "metrics.jsonl") if "loss" in e}


def final_params(workdir: Path) -> list[np.ndarray]:
    step = checkpoint.find_step(workdir / "checkpoints", "latest")
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(workdir.absolute() / "checkpoints") as manager:
        restored = manager.restore(step, args=ocp.args.Composite(model=ocp.args.PyTreeRestore()))
    return [np.asarray(x) for x in jax.tree.leaves(restored["model"])]


def test_metrics_hold_every_step_and_every_evaluation(straight: Path) -> None:
    entries = read_metrics(straight / "metrics.jsonl")
    steps = [e for e in entries if "loss" in e]
    assert [e["step"] for e in steps] == [1, 2, 3, 4, 5, 6]
    assert [e["epoch"] for e in steps] == [1, 1, 2, 2, 3, 3]
    for key in ("lr/backbone", "lr/classifier", "lr/rest", "frames_per_second", "data_wait"):
        assert all(np.isfinite(e[key]) for e in steps), key
    assert [e["step"] for e in entries if "step/mAP" in e] == [2, 4, 6]
    assert list((straight / "tensorboard").iterdir())


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    straight: Path, layout: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    calls = 0
    real = training.parallel_train_step

    def stopping(**static):
        step = real(**static)

        def run(*arguments):
            nonlocal calls
            calls += 1
            if calls == 3:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGTERM)
            return step(*arguments)

        return run

    monkeypatch.setattr(training, "parallel_train_step", stopping)
    config = tiny_config(layout)
    with pytest.raises(RunStoppedError) as stopped:
        training.train(config, tmp_path)
    assert stopped.value.status == 128 + 15
    assert "SIGTERM: stopped after step 3" in capsys.readouterr().err
    monkeypatch.setattr(training, "parallel_train_step", real)
    training.train(config, tmp_path)
    assert "resumed" in capsys.readouterr().err
    assert losses(tmp_path) == losses(straight)
    for ours, theirs in zip(final_params(tmp_path), final_params(straight), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_finished_run_says_so(straight: Path, layout: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    assert training.train(tiny_config(layout), copy) == {}
    assert "nothing left to train" in capsys.readouterr().err


def test_another_config_in_the_same_workdir_is_refused(straight: Path, layout: Path) -> None:
    config = tiny_config(layout, {"optimizer.lr_rest": 0.5})
    with pytest.raises(UserError, match=r"config\.optimizer\.lr_rest was 0\.001 -> 0\.5"):
        training.train(config, straight)


def test_weights_that_are_not_finite_are_not_stored(layout: Path, tmp_path: Path) -> None:
    """The loss before them is finite, and nothing is evaluated before they are to be stored."""
    rates = {"optimizer.lr_backbone": 1e30, "optimizer.lr_rest": 1e30}
    config = tiny_config(layout, {**rates, "train.checkpoint_minutes": 1e-9})
    match = r"step 1: the norm of the updated weights is (nan|inf).*Last good checkpoint: none yet"
    with pytest.raises(UserError, match=match):
        training.train(config, tmp_path)
    assert checkpoint.describe(tmp_path / "checkpoints") == []


def test_evaluation_of_the_workdir_equals_that_of_the_loop(
    straight: Path, layout: Path, capsys
) -> None:
    contents = evaluate_workdir(tiny_config(layout), straight, "latest")
    logged = [e for e in read_metrics(straight / "metrics.jsonl") if "step/mAP" in e][-1]
    assert contents["step"] == 6
    scores = contents["rows"]["step"]["scores"]
    assert scores["mAP"] == pytest.approx(logged["step/mAP"], abs=1e-6)
    assert json.loads((straight / "scores.json").read_text()) == contents
    assert "protocol" in capsys.readouterr().out
    features = np.load(straight / "features.npz", allow_pickle=False)
    assert features["features"].shape == (8, 8)
    np.testing.assert_allclose(np.linalg.norm(features["features"], axis=1), 1, rtol=1e-5)
    assert np.isfinite(features["frame_weights"]).all()
    assert (straight / "cmc.png").stat().st_size > 1000


def test_a_built_tfds_data_set_trains_and_scores_as_the_folder(
    straight: Path, layout: Path, tmp_path: Path, capsys
) -> None:
    data_dir = tmp_path / "tfds"
    assert build_main(["--layout", str(layout), "--data-dir", str(data_dir)]) == 0
    config = tiny_config(data_dir / "video_reid" / layout.name / "1.0.0", {"data.source": "tfds"})
    folder, tfds = tmp_path / "folder", tmp_path / "run"
    training.train(config, tfds)
    shutil.copytree(straight, folder)

    assert losses(tfds) == losses(folder)
    scored = [
        [e | {"time": 0} for e in read_metrics(run / "metrics.jsonl") if "step/mAP" in e]
        for run in (tfds, folder)
    ]
    assert scored[0] == scored[1]
    for ours, theirs in zip(final_params(tfds), final_params(folder), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    # The other one's config, too: a run moves from one source to the other.
    for run, source in ((tfds, config), (folder, tiny_config(layout))):
        evaluate_workdir(source, run, "latest", report=True, output=run)
    ours, theirs = (json.loads((run / "scores.json").read_text()) for run in (tfds, folder))
    assert ours["rows"] == theirs["rows"]
    with np.load(tfds / "features.npz") as ours, np.load(folder / "features.npz") as theirs:
        assert set(ours) == set(theirs)
        for name in set(ours) - {"image_dir"}:
            np.testing.assert_array_equal(ours[name], theirs[name], name)
    pictures = [
        {
            p.name: p.read_bytes()
            for p in (run / "report").rglob("*")
            if p.suffix in (".jpg", ".png")
        }
        for run in (tfds, folder)
    ]
    assert pictures[0] == pictures[1] != {}


WITHOUT_TENSORFLOW = """
import sys

for name in ("tensorflow", "tensorflow_datasets"):
    sys.modules[name] = None
"""


def test_decoded_frames_train_and_score_as_the_folder_where_no_tensorflow_is(
    straight: Path, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, run = tmp_path / "decoded", tmp_path / "run"
    sizes = ("--height", "32", "--width", "16")
    assert decode_main([str(layout), str(decoded), *sizes]) == 0
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TENSORFLOW)
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    config = changed(
        tiny_config(decoded, {"data.source": "decoded"}),
        {"compilation_cache": str(jax.config.values["jax_compilation_cache_dir"])},
    )
    options = [
        f"--config.{key}={value}"
        for key, value in flat_values(config).items()
        if value != flat_values(load_config(CONFIGS / "mars.py"))[key]
    ]
    command = [sys.executable, "-m", "stf_jax.main", "--workdir", str(run)]
    subprocess.run([*command, "--config", str(CONFIGS / "mars.py"), *options], check=True)
    subprocess.run([*command, "--mode", "evaluate"], check=True)

    assert losses(run) == losses(straight)
    scored = [
        [e | {"time": 0} for e in read_metrics(path / "metrics.jsonl") if "step/mAP" in e]
        for path in (run, straight)
    ]
    assert scored[0] == scored[1] != []
    rows = json.loads((run / "scores.json").read_text())["rows"]
    assert rows["step"]["scores"]["mAP"] == pytest.approx(scored[1][-1]["step/mAP"], abs=1e-6)
    assert list((run / "report").rglob("*.jpg"))  # the page has its pictures


def test_corrupt_images_stop_a_run_or_are_skipped_and_counted(
    layout: Path, tmp_path: Path, caplog, capsys
) -> None:
    root = tmp_path / "set"
    shutil.copytree(layout, root)
    # Of people 0 and 1, who train: one frame and a whole tracklet. Of 5 and 6: the same.
    damaged = [image_name(0, 1, 1, 2), image_name(6, 1, 1, 4)]
    damaged += [image_name(p, 2, 1, k) for p in (1, 5) for k in range(5)]
    for name in damaged:
        image = root / "images" / name
        image.write_bytes(image.read_bytes()[:50])
    config = tiny_config(root, {"train.max_steps": 4, "train.evaluate_every": 0})
    with pytest.raises(UserError, match=r"images/00000.*png: cannot be read .*data\.on_corrupt"):
        training.train(config, tmp_path / "error")

    config = changed(config, {"data.on_corrupt": "skip"})
    with pytest.raises(UserError, match=r"images of an epoch cannot be decoded; .*at most 10 %"):
        training.train(config, tmp_path / "too many")
    config = changed(config, {"data.max_lost": 0.5})
    runs = tmp_path / "a", tmp_path / "b"
    for run, threads in zip(runs, (1, 3), strict=True):
        caplog.clear()
        training.train(changed(config, {"data.threads": threads}), run)
        # Two epochs of whole tracklets would read 2 x 40 frames; each is logged by name and number.
        assert "png: cannot be decoded, left out" in caplog.text
        assert "6 of 40 images could not be decoded and were left out" in caplog.text  # evaluation
        assert "of 1 of 8 tracklets no image could be read (e.g. that of 000005_2" in caplog.text
    assert losses(runs[0]) == losses(runs[1])
    assert all(np.isfinite(list(losses(runs[0]).values())))
    for ours, theirs in zip(final_params(runs[0]), final_params(runs[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    contents = evaluate_workdir(config, runs[0], "latest")
    # Person 5's query has lost its only match, and is the only one without.
    row = contents["rows"]["step"]
    assert (row["gallery_size"], row["valid_queries"], row["num_queries"]) == (3, 3, 4)
    # The same as of a layout without the damaged images; 6's frame is alone in its last chunk.
    assert prepare_main(["verify", str(root), "--fix", "fixed.pkl"]) == 1
    capsys.readouterr()
    with np.load(runs[0] / "features.npz") as skipped:
        whole = {name: skipped[name] for name in ("features", "num_frames", "person_ids")}
    fixed_config = changed(config, {"data.partitions": "fixed.pkl", "data.on_corrupt": "error"})
    fixed = evaluate_workdir(fixed_config, runs[0], "latest")
    assert fixed["rows"]["step"]["scores"] == row["scores"]
    seen = whole["num_frames"] > 0
    assert whole["num_frames"].tolist() == [5, 5, 5, 0, 4, 5, 5, 5]
    np.testing.assert_array_equal(whole["features"][~seen], 0)
    (elsewhere,) = (runs[0] / "evaluations").iterdir()  # another rule than the run's own
    with np.load(elsewhere / "features.npz") as features:
        np.testing.assert_allclose(features["features"], whole["features"][seen], atol=1e-6)


@pytest.fixture
def started(monkeypatch) -> list[Any]:
    """Gathers the variables that each run of the test starts from."""
    found = []
    real = training.init_state

    def spy(variables, optimizer):
        found.append(jax.tree.map(np.array, variables))
        return real(variables, optimizer)

    monkeypatch.setattr(training, "init_state", spy)
    return found


def assert_same(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("wrong", ["missing file", "missing run", "other shapes"])
def test_a_failed_start_leaves_the_workdir_free(layout: Path, tmp_path: Path, wrong: str) -> None:
    """What is wrong with the weights is found before an initialisation is compiled."""
    source = tmp_path / "weights.safetensors"
    if wrong == "missing run":
        source.mkdir()
    elif wrong == "other shapes":
        write_tensors(source, {"conv1.weight": np.zeros((1, 2, 3, 4), np.float32)})
    config = tiny_config(layout, {"pretrained": str(source), "train.max_steps": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stf_jax.run.restore.init_variables", only_shapes)
        with pytest.raises(UserError, match=re.escape(str(source))):
            training.train(config, tmp_path / "run")
    assert read_run_files(tmp_path / "run") is None
    training.train(changed(config, {"pretrained": "none"}), tmp_path / "run")
    run = read_run_files(tmp_path / "run")
    assert run is not None
    assert run.config["pretrained"] == "none"


def test_offline_the_first_start_says_which_file_to_put_where(
    layout: Path, tmp_path: Path, monkeypatch
) -> None:
    """Before a program is compiled or the workdir is anybody's."""

    def ask(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("no network")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", ask)
    monkeypatch.setattr("stf_jax.run.restore.init_variables", only_shapes)
    monkeypatch.setenv("STF_JAX_WEIGHTS", str(tmp_path))
    placed = tmp_path / "timm/resnet50.tv_in1k/model.safetensors"
    recipe = {"pretrained": Config().pretrained, "model.backbone": "resnet50"}
    for values, said in (
        ({}, rf"hf://timm/.*no network\); .*fetch https://.* put it at {placed}"),
        ({"model.backbone": "resnet18"}, "config.pretrained: .*config.model.backbone is resnet18"),
        ({"pretrained": "absent.npz"}, "absent.npz: no such file"),
    ):
        with pytest.raises(UserError, match=f"{said}.*--config.pretrained=none$") as caught:
            training.train(tiny_config(layout, {**recipe, **values}), tmp_path / "run")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    # Another file than the recipe's at its place is no excuse, either.
    placed.parent.mkdir(parents=True)
    placed.write_bytes(b"")
    with pytest.raises(UserError, match=f"{placed}: found sha256 "):
        training.train(tiny_config(layout, recipe), tmp_path / "run")


def only_shapes(*arguments: Any) -> Any:
    """Variables for `jax.eval_shape`; an error where they would be computed."""
    found = init_variables(*arguments)
    assert all(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(found))
    return found


def test_training_starts_from_another_runs_checkpoint(
    straight: Path, layout: Path, tmp_path: Path, started: list[Any], capsys
) -> None:
    other = make_layout(tmp_path / "other", identities=12)
    config = tiny_config(other, {"pretrained": str(straight), "train.max_steps": 1})
    training.train(config, tmp_path / "run")
    said = capsys.readouterr().err
    misfit = "params/classifier/fc_0/bias: found [4] float32, expected [6] float32"
    misfit += " (and 1 more of it)"  # its kernel
    assert f"{straight}: re-initialised, as it does not fit this run: {misfit}" in said
    assert f"starting from the latest checkpoint of {straight}" in said
    fresh = init_variables(build_model(config.model, 6), config.seed, 32, 16)
    template = init_variables(build_model(config.model, 4), 9, 32, 16)
    theirs, _ = checkpoint.restore_model(straight / "checkpoints", template, "latest")
    theirs["params"]["classifier"] = fresh["params"]["classifier"]
    assert_same(started[0], theirs)


@pytest.mark.parametrize("kind", ["random", "imagenet backbone", "whole reference checkpoint"])
def test_training_starts_from_random_weights_and_from_files(
    kind: str, layout: Path, tmp_path: Path, started: list[Any], capsys
) -> None:
    # As configs/mars_strong.py has them: the stages' own start as the file's.
    own = {"model.tail_statistics": "own"} if kind == "imagenet backbone" else {}
    config = tiny_config(layout, {"train.max_steps": 1, **own})
    model = build_model(config.model, 4)
    random, theirs = (init_variables(model, seed, 32, 16) for seed in (config.seed, 7))
    tensors = variables_to_torch(theirs)
    if kind == "imagenet backbone":  # as torchvision names it, with its own classifier
        backbone = {n.removeprefix("base."): t for n, t in tensors.items() if n.startswith("base.")}
        tensors = backbone | {"fc.weight": np.ones((1000, 512)), "fc.bias": np.ones(1000)}
    if kind != "random":
        config = changed(config, {"pretrained": str(tmp_path / "weights.safetensors")})
        write_tensors(config.pretrained, tensors)
    training.train(config, tmp_path / "run")
    said = capsys.readouterr().err
    if kind == "random":
        assert_same(started[0], random)
    elif kind == "imagenet backbone":
        for group in ("params", "batch_stats"):
            backbone = theirs[group]["backbone"]
            expected = {**random[group], "backbone": backbone}
            if group == "batch_stats":
                layers = {name: backbone[name] for name in random[group]["stage_2"]["backbone"]}
                expected["stage_2"] = {**random[group]["stage_2"], "backbone": layers}
            assert_same(started[0][group], expected)
        assert "an ImageNet classifier: its 100 tensors fill the backbone of resnet18" in said
    else:
        assert_same(started[0], theirs)
        assert "re-initialised" not in said
    assert np.isfinite(losses(tmp_path / "run")[1])


def test_missing_data_is_one_clear_line(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"stf_jax\.prepare") as caught:
        training.train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, CONFIGS.parent / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_arguments(config: Config, workdir: Path) -> list[str]:
    """The tiny config as overrides of configs/mars.py, for one step."""
    keys = ("root", "height", "width", "tracklets", "min_frames", "max_frames")
    keys = [
        *(f"data.{key}" for key in (*keys, "frame_buckets")),
        "pretrained",
        "model.backbone",
        "model.embed_dim",
    ]
    values = {key: flat_values(config)[key] for key in keys}
    values |= {"train.max_steps": 1, "evaluation.chunk": 4, "evaluation.frames_per_device": 20}
    values |= {"compilation_cache": "off"}
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    return ["--config", str(CONFIGS / "mars.py"), "--workdir", str(workdir), *overrides]


def test_every_split_in_one_command(layout, tmp_path, monkeypatch, capsys) -> None:
    root = tmp_path / "set"
    shutil.copytree(layout, root)
    # The people that train.
    people = {"partitions_00": [0, 1, 2, 3], "partitions_01": [1, 4, 5, 7]}
    names = sorted(path.name for path in (root / "images").iterdir())
    for split, train in people.items():
        rest = [name for name in names if int(name[:6]) not in train]
        write_partitions(
            root,
            trainval=[name for name in names if int(name[:6]) in train],
            test=rest,
            test_marks=[0 if name[7] == "1" else 1 for name in rest],
            filename=f"{split}.pkl",
        )
    splits = script("splits")
    argv = tiny_arguments(tiny_config(root), tmp_path / "runs")
    monkeypatch.setattr("sys.argv", ["splits.py", *argv])

    # Told to stop in the second split: that one is not scored, and nothing is summed up.
    real, done = train_and_score.train, []

    def stopping(config, workdir):
        done.append(workdir.name)
        if len(done) == 2:
            raise RunStoppedError("SIGTERM")
        return real(config, workdir)

    monkeypatch.setattr(train_and_score, "train", stopping)
    assert splits.main() == 143
    assert "2 splits:" not in capsys.readouterr().out
    assert not (tmp_path / "runs" / "partitions_01" / "scores.json").exists()
    assert splits.main() == 0
    assert done == ["partitions_00", "partitions_01", "partitions_01"]
    (said,) = re.findall("step, 2 splits: (.*)", capsys.readouterr().out)
    scores = []
    for split, train in people.items():
        run = tmp_path / "runs" / split
        files = read_run_files(run)
        assert files is not None
        assert sorted(files.labels) == train
        with np.load(run / "features.npz") as stored:
            tested = sorted({*range(8)} - {*train})
            assert sorted(set(stored["person_ids"].tolist())) == tested
        (row,) = json.loads((run / "scores.json").read_text())["rows"].values()
        assert row["num_queries"] == len(tested)
        scores.append(row["scores"])
    assert said.startswith(f"rank-1 {50 * sum(row['rank-1'] for row in scores):.1f} +- ")
    # Another evaluation scores again; nothing is trained.
    monkeypatch.setattr("sys.argv", ["splits.py", *argv, "--config.evaluation.distance=cosine"])
    assert splits.main() == 0
    row = json.loads((tmp_path / "runs" / "partitions_00" / "scores.json").read_text())["rows"]
    assert row["step"]["options"]["distance"] == "cosine"
    assert capsys.readouterr().err.count("nothing left to train") == 2
    # So does another checkpoint.
    monkeypatch.setattr("sys.argv", ["splits.py", *argv, "--checkpoint", "1"])
    assert splits.main() == 0
    for split in ("partitions_00", "partitions_01"):
        contents = json.loads((tmp_path / "runs" / split / "scores.json").read_text())
        assert (contents["checkpoint"], contents["step"]) == ("1", 1)
    monkeypatch.setattr("sys.argv", ["splits.py", *argv, "--checkpoint", "7"])
    assert splits.main() == 2
    assert "found no checkpoint '7'" in capsys.readouterr().err
    # Another training is refused, and the scores of this one are kept.
    monkeypatch.setattr("sys.argv", ["splits.py", *argv, "--config.loss.label_smoothing=0.2"])
    assert splits.main() == 2
    assert "config.loss.label_smoothing was 0.1 -> 0.2" in capsys.readouterr().err
    table = json.loads((tmp_path / "runs" / "splits.json").read_text())["step"]
    scores = [
        json.loads((tmp_path / "runs" / split / "scores.json").read_text())["rows"]["step"]
        for split in people
    ]
    mean = np.mean([row["scores"]["mAP"] for row in scores])
    assert table["mAP"]["mean"] == pytest.approx(mean)
    (root / "partitions_00.pkl").rename(root / "partitions_02.pkl")
    monkeypatch.setattr("sys.argv", ["splits.py", *argv])
    assert splits.main() == 2
    assert "but no partitions_00.pkl; run the command" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["splits.py", *argv[:2], "--workdir", str(tmp_path / "none")])
    assert splits.main() == 2
    assert "partitions_NN.pkl" in capsys.readouterr().err


def test_splits_are_summed_up_by_mean_and_deviation() -> None:
    values = (0.5, 0.6, 0.9), (0.25, 0.25, 0.25)
    rows = [
        {"protocol": "step", "scores": {"rank-1": one, "mAP": two}}
        for one, two in zip(*values, strict=True)
    ]
    said = script("splits").summary({"step": rows, "step, re-ranked": rows[1:2]})
    assert said.splitlines() == [
        "step, 3 splits: rank-1 66.7 +- 20.8, mAP 25.0 +- 0.0",
        "step, re-ranked, 1 splits: rank-1 60.0, mAP 25.0",
    ]


def test_ablation_goes_on_where_it_stopped(layout, tmp_path, monkeypatch, capsys) -> None:
    ablate = script("ablate")
    chosen = {"late, none": ((4,), (), "mean"), "2+4, both": ((2, 4), ("intra", "inter"), "mean")}
    claims = [tuple(reversed(chosen)), ("2+4, both", "not run")]
    monkeypatch.setattr(ablate, "ablation", lambda: {"VARIANTS": chosen, "CLAIMS": claims})
    argv = [*tiny_arguments(tiny_config(layout), tmp_path), "--seeds", "3"]
    monkeypatch.setattr("sys.argv", ["ablate.py", *argv])
    assert ablate.main() == 0
    first = capsys.readouterr().out
    assert "late, none" in first
    assert "2+4, both" in first
    table = json.loads((tmp_path / "ablation.json").read_text())
    (gained,) = re.findall(r"^2\+4, both over late, none: ([+-][\d.]+) mAP, 95 %", first, re.M)
    scored = [table[name]["mAP"]["mean"] for name in claims[0]]
    assert gained == f"{100 * (scored[0] - scored[1]):+.1f}"
    for name, values in chosen.items():
        run = tmp_path / f"{name.replace(', ', '-').replace('+', '')}-seed3"
        used = run_config(run)
        assert (used.seed, used.data) == (3, tiny_config(layout).data)
        model = used.model
        assert (model.stages, model.frame_attention, model.stage_attention) == values
        (row,) = json.loads((run / "scores.json").read_text())["rows"].values()
        (line,) = re.findall(rf"{re.escape(name)} +1 +([\d.]+) +([\d.]+)", first)
        for score, shown in zip(("mAP", "rank-1"), line, strict=True):
            assert table[name][score] == {"mean": row["scores"][score], "deviation": None}
            assert shown == f"{100 * row['scores'][score]:.1f}"
    monkeypatch.setattr(train_and_score, "train", None)  # nothing is left to train
    assert ablate.main() == 0
    assert [line for line in capsys.readouterr().out.split("\n") if "both" in line]
    assert set(json.loads((tmp_path / "ablation.json").read_text())) == set(chosen)
    monkeypatch.setattr("sys.argv", ["ablate.py", *argv, "--only", "2+4, both"])
    assert ablate.main() == 0
    assert "late, none" not in capsys.readouterr().out
    for option, value in (("--only", "late"), ("--seeds", "0,one")):
        monkeypatch.setattr("sys.argv", ["ablate.py", *argv, option, value])
        assert ablate.main() == 2
        assert f"error: {option} " in capsys.readouterr().err


def test_ablation_over_seeds(layout, tmp_path, monkeypatch, capsys) -> None:
    """Every variant with every seed once, in rows of its own; scores that tell which is which."""
    ablate, asked = script("ablate"), []

    def scored(config: Config, workdir: Path) -> dict[str, Any]:
        model = config.model
        values = model.stages, model.frame_attention, model.stage_attention
        asked.append((config.seed, values, workdir.name))
        score = 0.1 * len(config.model.stages) + 0.01 * config.seed
        names = ("mAP", "rank-1", "rank-5", "mINP")
        row = {"scores": {name: score + 0.001 * k for k, name in enumerate(names)}}
        first = {**row, "protocol": "mars-official"}
        return {"mars-official": first, "step": {"protocol": "step", "scores": {}}}

    monkeypatch.setattr(ablate, "train_and_score", scored)
    chosen = {"late, none": ((4,), (), "mean"), "2+4, intra": ((2, 4), ("intra",), "learned")}
    monkeypatch.setattr(ablate, "ablation", lambda: {"VARIANTS": chosen, "CLAIMS": ()})
    argv = [*tiny_arguments(tiny_config(layout), tmp_path), "--seeds", "1,4"]
    monkeypatch.setattr("sys.argv", ["ablate.py", *argv])
    assert ablate.main() == 0
    assert asked == [
        (seed, values, f"{name}-seed{seed}")
        for seed in (1, 4)
        for name, values in zip(("late-none", "24-intra"), chosen.values(), strict=True)
    ]
    last = capsys.readouterr().out.split("variant")[-1]
    # Means of 0.01 and 0.04 more than the variant's own; the deviation is 0.03 / sqrt(2).
    for name, own in (("late, none", 10), ("2+4, intra", 20)):
        cells = " +".join(f"{own + 2.5 + 0.1 * k:.1f} \\+- 2.1" for k in range(4))
        assert re.search(rf"{re.escape(name)} +2 +{cells}", last), last
    table = json.loads((tmp_path / "ablation.json").read_text())
    assert table["2+4, intra"]["mAP"]["mean"] == pytest.approx(0.225)
    assert table["late, none"]["mINP"]["mean"] == pytest.approx(0.128)


def test_compare_tells_runs_apart(straight, layout, tmp_path, monkeypatch, capsys) -> None:
    compare = script("compare")
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(straight, run)
    evaluate_workdir(tiny_config(layout), run, "best", output=other)
    evaluate_workdir(tiny_config(layout), run, "latest")
    capsys.readouterr()
    argv = ["--layout", str(layout), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["compare.py", *argv, f"one={other}", f"two={run}"])
    assert compare.main() == 0
    said = capsys.readouterr().out
    assert "colour histogram, untrained" in said
    assert re.search(r"mAP of two over one: [+-][0-9.]+ \(.* to .*: 95 % bootstrap", said)
    assert "chosen on these queries, so the scores are too high: one." in said
    assert set(json.loads((tmp_path / "out" / "comparison.json").read_text())) >= {"one", "two"}
    elsewhere = make_layout(tmp_path / "elsewhere", identities=10)
    argv[1] = str(elsewhere)
    monkeypatch.setattr("sys.argv", ["compare.py", *argv, f"one={other}"])
    assert compare.main() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {other / 'features.npz'}: features of other images")
    assert len(said.splitlines()) == 1


def test_a_run_that_goes_on_needs_its_starting_weights_no_more(
    layout: Path, straight: Path, tmp_path: Path, capsys
) -> None:
    source = tmp_path / "source"
    shutil.copytree(straight, source)
    config = tiny_config(layout, {"pretrained": str(source), "train.max_steps": 1})
    training.train(config, tmp_path / "run")
    shutil.rmtree(source)
    training.train(config, tmp_path / "run")
    assert "nothing left to train: 1 of 1 steps" in capsys.readouterr().err


RULES = {
    "evaluation.protocols": ("mars-official", "step"),
    "evaluation.distance": "cosine",
    "evaluation.multi_query": "max",
    "evaluation.separate_camera_set": True,
    "evaluation.single_gallery_shot": True,
    "seed": 6,
}


CENTRED = {"evaluation.centring": "training", "evaluation.distance": "cosine"}


@pytest.mark.parametrize("values", [{}, RULES, CENTRED], ids=["plain", "rules", "centred"])
def test_scores_while_training_are_of_the_first_protocol_by_the_runs_rules(
    values: dict[str, Any], tmp_path: Path, monkeypatch
) -> None:
    drawn = draw(tmp_path)
    config = tiny_config(tmp_path, values)
    monkeypatch.setattr(training, "extract_table", lambda *_, **__: drawn.found)
    model = build_model(config.model, 0)
    others = np.random.default_rng(0).normal(size=(8, 4))
    means = camera_means(others, np.arange(8) % 4 + 1)
    monkeypatch.setattr(training, "training_means", lambda *_: means)
    protocol, scores, sizes = training.validate(model, {}, drawn.table, config, drawn.table)
    evaluation, table = config.evaluation, drawn.table
    assert protocol == evaluation.protocols[0]
    query, rows, _, gallery = chosen_rows(
        drawn.found.features, table, protocol, evaluation.multi_query
    )
    pair = query, drawn.found.features[gallery]
    if values is CENTRED:
        pair = centre_pair(pair[0], table.cameras[rows], pair[1], table.cameras[gallery], means)
    distances = distances_of(*pair, evaluation.distance)
    one = ranked(distances, table, rows, gallery, separate=evaluation.separate_camera_set)
    wanted = scores_of(one, protocol)
    if values is RULES:
        cmc = rank_gallery(
            distances,
            query_ids=table.person_ids[rows],
            gallery_ids=table.person_ids[gallery],
            query_cameras=table.cameras[rows],
            gallery_cameras=table.cameras[gallery],
            separate_camera_set=True,
            single_gallery_shot=True,
            seed=6,
        ).cmc
        wanted |= {f"rank-{k}": cmc[k - 1] for k in (1, 5, 10, 20)}
    assert scores == pytest.approx(wanted)
    people = [table.person_ids[g] != -1 for g in gallery]
    assert sizes == f"{sum(map(any, one.right))} queries, {sum(people)} gallery"


def test_the_checkpoint_asked_for_is_used(straight: Path, layout: Path, tmp_path: Path) -> None:
    """By the commands evaluate and embed: weights, features and what is told of them."""
    run, output = tmp_path / "run", tmp_path / "embedded.npz"
    shutil.copytree(straight, run)
    template = init_variables(build_model(run_config(run).model, 4), 9, 32, 16)
    found = {}
    for which, step in (("4", 4), ("latest", 6)):
        argv = ["--workdir", str(run), "--checkpoint", which, "--config.compilation_cache=off"]
        assert main(["--mode", "evaluate", *argv, "--no-report"]) == 0
        folder = run if which == "latest" else run / "evaluations" / f"{layout.name}-test-step4"
        scores = json.loads((folder / "scores.json").read_text())
        assert (scores["checkpoint"], scores["step"]) == (which, step)
        embed = ["--mode", "embed", "--input", str(layout), "--output", str(output)]
        assert main([*embed, *argv]) == 0
        found[which], again = read_features(folder / "features.npz"), read_features(output)
        variables, _ = checkpoint.restore_model(straight / "checkpoints", template, step)
        del variables["params"]["classifier"]
        origin = found[which].origin
        assert (origin.step, origin.weights_digest) == (step, digest(variables))
        assert again.origin == origin
        np.testing.assert_allclose(again.features, found[which].features, atol=1e-6)
    assert abs(found["4"].features - found["latest"].features).max() > 1e-4


def test_a_scored_run_is_scored_again_for_another_checkpoint(
    layout: Path, straight: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    for which, step in (("4", 4), ("latest", 6), ("4", 4)):
        rows = train_and_score.train_and_score(tiny_config(layout), run, which)
        folder = run if which == "latest" else run / "evaluations" / f"{layout.name}-test-step4"
        stored = json.loads((folder / "scores.json").read_text())
        assert (stored["step"], stored["rows"]) == (step, rows)


def test_the_best_on_the_scored_queries_says_so(
    straight: Path, layout: Path, tmp_path: Path, capsys
) -> None:
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    sentence = "Best checkpoint, chosen on these queries, so the scores are too high."
    for which, asked_for in ((None, "latest"), ("best", "best"), ("latest", "latest")):
        contents = evaluate_workdir(tiny_config(layout), run, which)
        chosen = which == "best"
        assert contents["checkpoint"] == asked_for
        options = contents["rows"]["step"]["options"]
        assert options.get("chosen_on_these_queries", False) is chosen
        assert (sentence in capsys.readouterr().out) is chosen
        assert (sentence in (run / "report" / "index.html").read_text()) is chosen
    # Other queries than those that it was chosen by.
    other = make_layout(tmp_path / "other", identities=10)
    contents = evaluate_workdir(tiny_config(other), run, "best", report=False)
    assert "chosen_on_these_queries" not in contents["rows"]["step"]["options"]


def test_the_best_on_val_is_the_default(layout: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(layout, root)
    parts = read_partitions(root / "partitions.pkl")
    names = {name: parts[f"{name}_im_names"] for name in ("trainval", "test")}
    write_partitions(root, **names, test_marks=parts["test_marks"], val_share=0.5)
    values = {"data.train_subset": "train", "data.eval_subset": "val", "train.epochs": 2}
    config, run = tiny_config(root, {**values, "data.tracklets": 2}), tmp_path / "run"
    training.train(config, run)
    best = checkpoint.find_step(run / "checkpoints", "best")
    for subset in ("test", "val"):
        used = changed(config, {"data.eval_subset": subset})
        contents = evaluate_workdir(used, run, report=False)
        assert (contents["checkpoint"], contents["step"]) == ("best", best)
        options = contents["rows"]["step"]["options"]
        assert ("chosen_on_these_queries" in options) is (subset == "val")


def test_evaluation_tells_what_is_odd_in_the_layout(straight: Path, tmp_path: Path, capsys) -> None:
    one_camera = make_layout(tmp_path / "one", cameras=1)
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    evaluate_workdir(tiny_config(one_camera), run, "latest", report=False)
    printed = capsys.readouterr().out
    assert "0/4" in printed  # queries without a match
    assert re.search(r"^note: .*test: 4 query and 0 gallery", printed, re.MULTILINE), printed


ON_DEVICES = """
import json, os, signal, sys
import jax
devices, workdir, stop, values, cache = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", int(devices))
jax.config.update("jax_compilation_cache_dir", cache)
from pathlib import Path
from stf_jax import train as training
from stf_jax.config import from_json
from stf_jax.training.stop_request import RunStoppedError

made = training.parallel_train_step


def stopping(**static):
    step = made(**static)

    def run(state, *arguments):
        if int(state.step) + 1 == int(stop):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(state, *arguments)

    return run


training.parallel_train_step = stopping
try:
    training.train(from_json(json.loads(values)), Path(workdir))
except RunStoppedError:
    pass
"""


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(layout: Path, tmp_path: Path) -> None:
    """Stopped within epoch 2 on one device, within epoch 3 on two, ended on four: as on one."""
    config = tiny_config(layout, {"train.sync_batch_norm": True, "train.evaluate_every": 0})

    def run(devices: int, workdir: str, stop: int, values: Any = config) -> str:
        arguments = [str(devices), str(tmp_path / workdir), str(stop)]
        arguments += [json.dumps(to_json(values)), str(tmp_path / "cache")]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"PYTHONPATH": str(CONFIGS.parent)}
        done = subprocess.run(
            [sys.executable, "-c", ON_DEVICES, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        return done.stderr

    run(1, "one", 0)
    run(1, "moved", 3)
    printed = run(2, "moved", 5)
    assert "note: on 2 devices now, on 1 before" in printed
    assert "step 3 (epoch 2, step 1 of 2 done)" in printed
    assert "step 5 (epoch 3, step 1 of 2 done)" in run(4, "moved", 0)
    pairs = zip(final_params(tmp_path / "one"), final_params(tmp_path / "moved"), strict=True)
    for one, moved in pairs:
        np.testing.assert_allclose(one, moved, rtol=1e-3, atol=1e-4)
    one, moved = losses(tmp_path / "one"), losses(tmp_path / "moved")
    assert list(one) == list(moved) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(list(one.values()), list(moved.values()), rtol=1e-3)
    versions = json.loads((tmp_path / "moved" / "versions.json").read_text())
    assert [start["devices"] for start in versions] == ["1", "2", "4"]

    refused = run(3, "three", 0)
    assert "data.tracklets is 4: 3 devices" in refused
    assert "or 1, 2, 4 devices" in refused
    assert not (tmp_path / "three").exists()


def test_a_second_run_in_a_workdir_is_refused(layout: Path, tmp_path: Path) -> None:
    def second(*arguments: Any) -> None:
        assert [p.name for p in (tmp_path / "run").iterdir()] == [".stf_jax.lock"]
        with pytest.raises(UserError, match=f"run: is being written by process {os.getpid()} on "):
            training.train(tiny_config(layout), tmp_path / "run")
        raise UserError("no more of the first one")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "check_pretrained", second)
        with pytest.raises(UserError, match="no more of the first one"):
            training.train(tiny_config(layout), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_data_or_code_needs_a_word(straight: Path, layout: Path, tmp_path: Path, capsys):
    workdir, other, config = tmp_path / "run", tmp_path / "set", tiny_config(layout)
    shutil.copytree(straight, workdir)
    shutil.copytree(layout, other)
    training.train(changed(config, {"data.root": str(other)}), workdir)  # the same data
    for path in (other / "images").iterdir():
        with Image.open(path) as image:
            image.rotate(180).save(path)
    versions = workdir / "versions.json"
    starts = json.loads(versions.read_text())
    assert len(starts) == 2
    assert set(starts[0]["data"]) == {"trainval", "test"}
    starts[-1] |= {"git": "aaa-dirty", "jax": "0.0.1"}
    versions.write_text(json.dumps(starts))
    with pytest.MonkeyPatch.context() as patch:
        found = {**run_versions(), "git": "bbb"}
        patch.setattr("stf_jax.run.run_files.versions", lambda: found)
        turned = changed(config, {"data.root": str(other)})
        with pytest.raises(UserError) as refused:
            training.train(turned, workdir)
        lines = str(refused.value).split("\n")
        assert [line.split(": ", 2)[1] for line in lines] == [
            *["the data are others"] * 2,
            "the code is another",
        ]
        assert "trainval: other contents of images" in lines[1]
        assert ": git aaa -> bbb: " in lines[2]
        assert all(
            line.endswith("add --resume-anyway to continue the run all the same") for line in lines
        )
        assert json.loads(versions.read_text()) == starts
        capsys.readouterr()
        training.train(turned, workdir, resume_anyway=True)
        printed = capsys.readouterr().err
        assert printed.count(": resumed anyway") == 3
        assert f"note: jax 0.0.1 -> {found['jax']}: what follows may differ" in printed
        assert len(json.loads(versions.read_text())) == 3
        training.train(turned, workdir)  # accepted once is accepted


def test_a_damaged_latest_checkpoint_is_passed_over(
    straight: Path, layout: Path, tmp_path: Path, capsys
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    (workdir / "checkpoints" / "6" / "contents" / "metadata").write_text("")
    with open(workdir / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 9, "loss": 1.0}\n')
    training.train(tiny_config(layout), workdir)
    printed = capsys.readouterr().err
    assert "training resumes from step 4 and repeats 2 steps" in printed
    for ours, theirs in zip(final_params(workdir), final_params(straight), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    lines = [
        [{k: v for k, v in e.items() if k not in TIMES} for e in read_metrics(w / "metrics.jsonl")]
        for w in (workdir, straight)
    ]
    assert lines[0] == lines[1]
    training.train(tiny_config(layout), workdir, "4")
    assert (workdir / "set_aside" / "6.2" / "contents" / "metadata").read_text() != ""


@pytest.mark.parametrize("how", ["all", "files"])
def test_a_removed_workdir_ends_the_run(layout: Path, tmp_path: Path, how: str) -> None:
    """`rm -r run`, or `rm -r run/*`, which leaves what is hidden."""
    workdir, real = tmp_path / "run", training.training_batches

    def removing(*arguments: Any) -> Any:
        for number, entry in enumerate(real(*arguments)):
            if number == 3:
                for path in workdir.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif how == "all" or not path.name.startswith("."):
                        path.unlink()
                if how == "all":
                    workdir.rmdir()
            yield entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "training_batches", removing)
        with pytest.raises(UserError, match=r"run(/\w+\.\w+)?: was removed (or|during)"):
            training.train(tiny_config(layout), workdir)
    assert not (workdir / "checkpoints" / "6").exists()
