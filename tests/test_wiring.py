"""Every key of the config reaches the functions that own it.

One run is trained and scored with a value for each key that is not the default. Steps and
extraction are traced, not computed; functions on the way are recorded with their arguments.
"""

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from stf_jax import devices, evaluate, main, train
from stf_jax.config import KEYS, AugmentConfig, Config, OptimizerConfig, changed, flat_values
from stf_jax.data import pipeline, source, video_reid_builder
from stf_jax.data.augment import augment
from stf_jax.data.layout.partitions import Layout, load_layout
from stf_jax.data.sampling import training_plan
from stf_jax.errors import UserError
from stf_jax.evaluation import scoring
from stf_jax.evaluation.features import extract
from stf_jax.evaluation.features import table as feature_table
from stf_jax.evaluation.features.extract import parallel_extract_step
from stf_jax.evaluation.pages import run_report
from stf_jax.models import build_model
from stf_jax.models.variables import init_variables
from stf_jax.models.weights.files import write_tensors
from stf_jax.models.weights.pretrained import variables_to_torch
from stf_jax.prepare.layout import image_name, write_partitions
from stf_jax.run import restore
from stf_jax.run.metrics_log import read_metrics
from stf_jax.training import batches as training_batches
from stf_jax.training import steps
from stf_jax.training.optim import make_optimizer
from stf_jax.training.steps import parallel_train_step

CONFIGS = Path(__file__).parents[1] / "configs"

# An argument may be missing where a key does not matter: evaluation draws nothing.
Arguments = dict[str, Any]

CHANGED: dict[str, Any] = {
    "seed": 7,
    "pretrained_partial": True,
    "profile_steps": (2, 3),
    "data.partitions": "other.pkl",
    "data.train_subset": "train",
    "data.eval_subset": "val",
    "data.height": 48,
    "data.width": 24,
    "data.sampler": "identity",
    "data.tracklets": 6,
    "data.tracklets_per_identity": 3,
    "data.min_frames": 2,
    "data.max_frames": 3,
    "data.frame_sampling": "segments",
    "data.frame_buckets": 2,
    "data.on_corrupt": "skip",
    "data.max_lost": 0.5,
    "data.threads": 3,
    "augment.per": "tracklet",
    "augment.mirror": 0.4,
    "augment.blur": 0.2,
    "augment.blur_kernels": (3, 5),
    "augment.blur_sigma": 1.5,
    "augment.crop": 0.3,
    "augment.crop_padding": 0.2,
    "augment.hsv": 0.35,
    "augment.hsv_hue": 20,
    "augment.hsv_saturation": 40,
    "augment.hsv_value": 50,
    "augment.erase": 0.45,
    "augment.erase_area": (0.1, 0.2),
    "augment.erase_aspect": (0.5, 2.0),
    "augment.horizontal_crop": 0.25,
    "augment.horizontal_crop_keep": (0.6, 0.9),
    "augment.pad_ratio": 2.5,
    "model.backbone": "resnet18",
    "model.last_stride": 2,
    "model.last_dilation": 2,
    "model.stages": (3, 4),
    "model.num_stripes": 2,
    "model.pooling": "max",
    "model.embed_dim": 8,
    "model.frame_attention": ("inter",),
    "model.stage_attention": "learned",
    "model.tail_statistics": "own",
    "model.neck": "bnneck",
    "model.neck_feature": "before",
    "model.relation_padding": "reference",
    "model.bounded_attention": False,
    "model.dtype": "bfloat16",
    "model.remat": True,
    "loss.label_smoothing": 0.2,
    "loss.triplet_weight": 0.5,
    "loss.triplet_distance": "cosine",
    "loss.triplet_margin": 0.4,
    "loss.stage_weight": 0.3,
    "optimizer.name": "adamw",
    "optimizer.schedule": "cosine",
    "optimizer.lr_backbone": 0.2,
    "optimizer.lr_classifier": 0.3,
    "optimizer.lr_rest": 0.4,
    "optimizer.warmup_epochs": 0.5,
    "train.epochs": 3,
    "train.max_steps": 5,
    "train.evaluate_every": 2,
    "train.checkpoint_minutes": 7.0,
    "train.evaluate_before": True,
    "train.log_every": 2,
    "train.sync_batch_norm": True,
    "train.parallel": "shard_map",
    "evaluation.chunk": 4,
    "evaluation.chunk_weighting": "frames",
    "evaluation.frames_per_device": 9,
    "evaluation.protocols": ("step+queries", "step"),
    "evaluation.max_rank": 6,
    "evaluation.distance": "cosine",
    "evaluation.centring": "gallery",
    "evaluation.flip": True,
    "evaluation.rerank": True,
    "evaluation.multi_query": "max",
    "evaluation.single_gallery_shot": True,
    "evaluation.separate_camera_set": True,
}
# Tested below by their effects: the first needs other data, the others change numbers only.
BY_EFFECT = {"data.source", *(key for key in KEYS if key.startswith("optimizer."))}

# Functions that are recorded, by a name for them: the module that calls each, and its name there.
RECORDED: dict[str, tuple[Any, str]] = {
    "cache": (devices, "use_compilation_cache"),
    "layout": (source, "load_layout"),
    "first plan": (train, "training_plan"),
    "plan": (training_batches, "training_plan"),
    "buckets": (train, "training_buckets"),
    "training batches": (training_batches, "batches"),
    "evaluation batches": (feature_table, "batches"),
    "model": (train, "build_model"),
    "restored model": (restore, "build_model"),
    "initialisation": (restore, "init_variables"),
    "pretrained": (restore, "load_pretrained"),
    "step": (train, "parallel_train_step"),
    "step's program": (steps, "data_parallel"),
    "augmentation": (steps, "augment"),
    "cross entropy": (steps, "smoothed_cross_entropy"),
    "loss": (steps, "total_loss"),
    "triplets": (steps, "batch_hard_triplet"),
    "stages' losses": (steps, "stage_loss"),
    "profile": (train, "profiled"),
    "loop": (train, "run_steps"),
    "evaluation plan": (feature_table, "evaluation_plan"),
    "extraction": (feature_table, "parallel_extract_step"),
    "extraction's program": (extract, "data_parallel"),
    "features": (feature_table, "extract_features"),
    "validation": (train, "rank_table"),
    "scoring": (evaluate, "rank_table"),
    "distances": (scoring, "protocol_distances"),
    "metric": (scoring, "pairwise_distances"),
    "ranking": (scoring, "rank_gallery"),
    "bootstrap": (evaluate, "bootstrap_intervals"),
    "report": (run_report, "protocol_distances"),
    "report's ranking": (run_report, "rank_gallery"),
    "report's lists": (run_report, "nearest"),
    "hosts that train": (train, "check_hosts"),
    "hosts that score": (evaluate, "check_hosts"),
}


def given(name: str) -> Callable[[Arguments], Any]:
    return lambda arguments: arguments[name]


def attribute(name: str, of: str) -> Callable[[Arguments], Any]:
    return lambda arguments: getattr(arguments[of], name)


# Key -> recorded functions and what they have to be given; the key's value, if nothing else stands
# behind it. Every call of the function counts.
WIRES: list[tuple[str, str, Callable[[Arguments], Any]]] = [
    *(("seed", f, given("seed")) for f in ("first plan", "plan", "buckets", "initialisation")),
    *(("seed", f, given("seed")) for f in ("validation", "scoring", "ranking", "bootstrap")),
    ("pretrained", "pretrained", given("location")),
    ("pretrained_partial", "pretrained", given("partial")),
    ("profile_steps", "profile", lambda a: (a["first"], a["last"])),
    ("compilation_cache", "cache", given("setting")),
    ("data.root", "layout", given("root")),
    ("data.partitions", "layout", given("partitions")),
    *(("data.height", f, given("height")) for f in ("training batches", "evaluation batches")),
    *(("data.width", f, given("width")) for f in ("training batches", "evaluation batches")),
    ("data.height", "initialisation", given("height")),
    ("data.width", "initialisation", given("width")),
    *(
        (f"data.{name}", function, given(name))
        for name in (
            *("sampler", "tracklets", "tracklets_per_identity"),
            *("min_frames", "max_frames", "frame_sampling"),
        )
        for function in ("first plan", "plan", "buckets")
    ),
    ("data.max_frames", "step", given("num_slots")),
    ("data.frame_buckets", "buckets", given("num_buckets")),
    ("data.on_corrupt", "training batches", given("on_corrupt")),
    ("data.on_corrupt", "evaluation batches", given("on_corrupt")),
    ("data.max_lost", "training batches", given("max_lost")),
    ("data.threads", "training batches", given("threads")),
    ("data.threads", "evaluation batches", given("threads")),
    *((f"augment.{n}", "augmentation", attribute(n, "options")) for n in asdict(AugmentConfig())),
    *(
        (f"augment.{name}", "training batches", attribute(name, "host_augment"))
        for name in ("horizontal_crop", "horizontal_crop_keep", "pad_ratio", "per")
    ),
    ("augment.pad_ratio", "evaluation batches", attribute("pad_ratio", "host_augment")),
    *(
        (f"model.{name}", function, attribute(name, "result"))
        for name in asdict(Config().model)
        for function in ("model", "restored model")
    ),
    ("model.dtype", "augmentation", given("dtype")),
    ("loss.label_smoothing", "cross entropy", given("smoothing")),
    ("loss.triplet_weight", "loss", attribute("triplet_weight", "options")),
    ("loss.triplet_distance", "triplets", given("distance")),
    ("loss.triplet_margin", "triplets", given("margin")),
    ("loss.stage_weight", "stages' losses", attribute("stage_weight", "options")),
    *((f"train.{n}", "loop", attribute(n, "options")) for n in ("log_every", "evaluate_every")),
    ("train.checkpoint_minutes", "loop", attribute("checkpoint_minutes", "options")),
    ("train.max_steps", "loop", given("total_steps")),
    *(("train.parallel", f, given("how")) for f in ("step", "step's program")),
    *(("train.parallel", f, given("how")) for f in ("extraction", "extraction's program")),
    ("evaluation.chunk", "evaluation plan", given("chunk")),
    ("evaluation.chunk", "extraction", given("num_slots")),
    ("evaluation.frames_per_device", "evaluation plan", given("frames_per_device")),
    ("evaluation.chunk_weighting", "features", given("weighting")),
    ("evaluation.flip", "extraction", given("flip")),
    ("evaluation.protocols", "scoring", given("protocols")),
    *(("evaluation.max_rank", f, given("max_rank")) for f in ("validation", "scoring", "ranking")),
    *(
        ("evaluation.distance", function, given("distance"))
        for function in ("validation", "scoring", "distances", "report")
    ),
    ("evaluation.distance", "metric", given("metric")),
    *(
        ("evaluation.centring", function, given("centring"))
        for function in ("validation", "scoring", "distances", "report")
    ),
    *(
        ("evaluation.multi_query", function, given("multi_query"))
        for function in ("validation", "scoring", "distances", "report")
    ),
    *(
        ("evaluation.single_gallery_shot", function, given("single_gallery_shot"))
        for function in ("validation", "scoring", "ranking")
    ),
    *(
        ("evaluation.separate_camera_set", function, given("separate_camera_set"))
        for function in ("validation", "scoring", "ranking", "report's ranking", "report's lists")
    ),
]
# Keys whose value decides what happens, not what is passed: held by the assertions of a test below.
BY_WHAT_HAPPENS = {
    "data.train_subset",
    "data.eval_subset",
    "train.epochs",
    "train.sync_batch_norm",
    "train.evaluate_before",
    "evaluation.rerank",
}


def make_layout(root: Path) -> None:
    """Train, val and test of people who look alike: plain grey pictures of five frames."""
    (root / "images").mkdir(parents=True)
    names: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    marks: dict[str, list[int]] = {"val": [], "test": []}
    for person in range(9):
        subset = ("train", "val", "test")[person // 4]
        for camera in (1, 2, 3):
            for offset in range(5):
                name = image_name(person, camera, 1, offset)
                Image.new("RGB", (8, 20), (20 * person,) * 3).save(root / "images" / name)
                names[subset].append(name)
                if subset != "train":
                    marks[subset].append(int(camera > 1))
    write_partitions(
        root,
        trainval=names["train"] + names["val"],
        train=names["train"],
        val=names["val"],
        val_marks=marks["val"],
        test=names["test"],
        test_marks=marks["test"],
        filename="other.pkl",
    )


def traced_step(**static: Any) -> Callable[..., Any]:
    """In place of `parallel_train_step`: traces it, and counts a step."""
    real = parallel_train_step(**static)

    def step(state: Any, batch: Any, key: Any) -> Any:
        _, metrics = jax.eval_shape(real, state, batch, key)
        return state.replace(step=state.step + 1), dict.fromkeys(metrics, jnp.float32(1))

    return step


def traced_extraction(model: Any, **options: Any) -> Callable[..., Any]:
    """In place of `parallel_extract_step`: traces it, and gives random features."""
    real = parallel_extract_step(model, **options)
    rng = np.random.default_rng(0)

    def step(variables: Any, batch: Any) -> dict[str, np.ndarray]:
        shapes = jax.eval_shape(real, variables, batch)
        return {name: rng.random(s.shape, np.float32) for name, s in shapes.items()}

    return step


def zeros(*arguments: Any) -> Any:
    """In place of `init_variables`: its shapes, without the compilation."""
    shapes = jax.eval_shape(lambda: init_variables(*arguments))
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)


INSTEAD: dict[str, Callable[..., Any]] = {
    "cache": lambda setting: None,
    "initialisation": zeros,
    "step": traced_step,
    "extraction": traced_extraction,
}


class Recorder:
    """Calls of the functions in RECORDED, each with all arguments by name and its result."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, list[Arguments]] = {name: [] for name in RECORDED}
        for name, (module, function) in RECORDED.items():
            real: Callable[..., Any] = getattr(module, function)
            recorded = self.recorded(name, inspect.signature(real), INSTEAD.get(name) or real)
            monkeypatch.setattr(module, function, recorded)

    def recorded(
        self, name: str, signature: inspect.Signature, function: Callable[..., Any]
    ) -> Callable[..., Any]:

        def call(*positional: Any, **named: Any) -> Any:
            bound = signature.bind(*positional, **named)
            bound.apply_defaults()
            entry = dict(bound.arguments)
            for parameter in signature.parameters.values():
                if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                    entry |= entry.pop(parameter.name)
            self.calls[name].append(entry)
            entry["result"] = result = function(*positional, **named)
            return result

        return call


def plain(value: Any) -> Any:
    """A value that compares: paths are text, sequences tuples, types their names."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type):
        return np.dtype(value).name
    return tuple(value) if isinstance(value, list) else value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All keys by their values, and what was recorded of a training and a scoring with them."""
    folder = tmp_path_factory.mktemp("wiring")
    make_layout(folder / "set")
    weights = folder / "weights.safetensors"
    places = {
        "pretrained": str(weights),
        "compilation_cache": str(folder),
        "data.root": str(folder / "set"),
    }
    model = build_model(changed(Config(), CHANGED).model, 4)
    write_tensors(weights, variables_to_torch(zeros(model, 0, 48, 24)))
    overrides = [f"--config.{key}={value}" for key, value in {**CHANGED, **places}.items()]
    argv = ["--config", str(CONFIGS / "mars.py"), "--workdir", str(folder / "run"), *overrides]
    with pytest.MonkeyPatch.context() as monkeypatch:
        recorder = Recorder(monkeypatch)
        assert main.main(argv) == 0
        assert main.main(["--mode", "evaluate", *argv]) == 0
    return {**CHANGED, **places}, recorder.calls, folder / "run"


@pytest.mark.parametrize(("key", "function", "what"), WIRES, ids=[f"{k}-{f}" for k, f, _ in WIRES])
def test_a_value_arrives(
    run: Any, key: str, function: str, what: Callable[[Arguments], Any]
) -> None:
    values, calls, _ = run
    assert values[key] != flat_values(Config())[key]
    assert calls[function], f"{function} was not called"
    assert {plain(what(call)) for call in calls[function]} == {plain(values[key])}


def test_every_key_is_held_by_a_line() -> None:
    held = {key for key, _, _ in WIRES} | BY_EFFECT | BY_WHAT_HAPPENS
    assert held == set(KEYS)
    assert not BY_EFFECT & {key for key, _, _ in WIRES}


def test_what_decides_what_happens(run: Any) -> None:
    values, calls, workdir = run
    # data.train_subset, data.eval_subset: people 0 to 3 train, 4 to 7 are val, 8 is test.
    for name in ("first plan", "plan", "buckets", "training batches"):
        assert all(set(call["table"].person_ids.tolist()) == {0, 1, 2, 3} for call in calls[name])
    for name in ("evaluation plan", "evaluation batches", "validation", "scoring"):
        assert all(set(call["table"].person_ids.tolist()) == {4, 5, 6, 7} for call in calls[name])
    # train.epochs: two steps each, cut by train.max_steps; log_every, evaluate_before and _every.
    logged = read_metrics(workdir / "metrics.jsonl")
    assert [entry["step"] for entry in logged if "loss" in entry] == [2, 4, 5]
    assert [entry["step"] for entry in logged if "step+queries/mAP" in entry] == [0, 4, 5]
    # Rates of the steps logged: one step (half an epoch) of warm-up, then a cosine over four.
    rates = {"lr/backbone": 0.2, "lr/classifier": 0.3, "lr/rest": 0.4}
    for entry, done in zip([e for e in logged if "loss" in e], (0, 2, 3), strict=True):
        expected = {name: rate * (1 + np.cos(np.pi * done / 4)) / 2 for name, rate in rates.items()}
        assert {name: entry[name] for name in rates} == pytest.approx(expected)
    assert [call["seed"] for call in calls["training batches"]] == [(7, 1), (7, 2), (7, 3)]
    assert [call["epoch"] for call in calls["plan"]] == [1, 2, 3]
    # train.sync_batch_norm
    assert {call["axis_name"] for call in calls["model"]} == {devices.DEVICES}
    # The state before a step is not kept: there is no memory for two.
    assert {call["donate"] for call in calls["step's program"]} == {(0,)}
    # evaluation.rerank, and its protocols: the first alone chooses.
    assert [call["reranked"] for call in calls["scoring"]] == [False, True]
    assert {call["protocols"] for call in calls["validation"]} == {
        values["evaluation.protocols"][:1]
    }
    assert {call["protocol"] for call in calls["report"]} == {values["evaluation.protocols"][0]}
    # Hosts are held to one config, data and weights before they train or score.
    for name, people in (("hosts that train", ((0, 4), (4, 8))), ("hosts that score", ((4, 8),))):
        (call,) = calls[name]
        assert flat_values(call["config"])["seed"] == 7
        found = [set(table.person_ids.tolist()) for table in call["tables"]]
        assert found == [set(range(*each)) for each in people]
        names = {str(path[0]) for path, _ in jax.tree_util.tree_leaves_with_path(call["arrays"])}
        assert any("params" in name for name in names)
        assert any("batch_stats" in name for name in names)
    # Nothing random is done to what is scored.
    assert {call["host_augment"].horizontal_crop for call in calls["evaluation batches"]} == {0.0}


# What a run that goes on may have changed, since nothing that is learnt depends on it.
FREE = {
    *("data.root", "data.source", "data.threads", "data.max_lost"),
    *(key for key in KEYS if key.startswith("evaluation.")),
    *("train.evaluate_every", "train.evaluate_before", "train.checkpoint_minutes"),
    *("train.log_every", "train.parallel", "profile_steps", "compilation_cache"),
}


def test_a_run_that_goes_on_keeps_every_key_that_it_learns_by(tmp_path: Path) -> None:
    make_layout(tmp_path / "set")
    table = load_layout(tmp_path / "set", "other.pkl").train
    assert table is not None
    others = {"data.source": "tfds", "pretrained": "weights.npz", "compilation_cache": "elsewhere"}
    others |= {"data.root": "elsewhere", **{f"optimizer.{k}": v for k, v in OPTIMIZERS.items()}}
    for key in KEYS:
        workdir = tmp_path / key
        train.begin_run(workdir, Config(), table)
        config = changed(Config(), {key: {**CHANGED, **others}[key]})
        if key in FREE:
            train.check_run(workdir, config, table)
        else:
            with pytest.raises(UserError, match=rf"config\.{re.escape(key)} was "):
                train.check_run(workdir, config, table)


@pytest.mark.parametrize(
    ("before", "now", "allowed"),
    [
        ((3, 0), (6, 0), True),
        ((6, 0), (3, 0), False),
        ((6, 10), (6, 20), True),
        ((6, 10), (6, 0), True),  # no limit
        ((6, 0), (6, 10), False),
        ((3, 20), (6, 10), False),
    ],
)
@pytest.mark.parametrize("schedule", ["staircase", "cosine"])
def test_a_run_may_become_longer(
    tmp_path: Path,
    schedule: str,
    before: tuple[int, int],
    now: tuple[int, int],
    allowed: bool,
) -> None:
    make_layout(tmp_path / "set")
    table = load_layout(tmp_path / "set", "other.pkl").train
    assert table is not None
    first, second = (
        changed(
            Config(),
            {"train.epochs": n, "train.max_steps": most, "optimizer.schedule": schedule},
        )
        for n, most in (before, now)
    )
    train.begin_run(tmp_path, first, table)
    if not allowed:
        with pytest.raises(UserError, match=r"config\.train\.\w+ was "):
            train.check_run(tmp_path, second, table)
        return
    notes = train.check_run(tmp_path, second, table)
    assert all(("jump up" if schedule == "cosine" else "same staircase") in n for n in notes)
    assert len(notes) == sum(a != b for a, b in zip(before, now, strict=True))


def test_a_run_that_goes_on_tells_of_other_devices(
    tmp_path: Path,
) -> None:
    """Than those of its last start."""
    make_layout(tmp_path / "set")
    table = load_layout(tmp_path / "set", "other.pkl").train
    assert table is not None
    train.begin_run(tmp_path, Config(), table)
    here = str(jax.device_count())
    for before, told in ((["7", here], False), ([here, "7"], True)):
        starts = json.dumps([{"devices": count} for count in before])
        (tmp_path / "versions.json").write_text(starts)
        notes = train.check_run(tmp_path, Config(), table)
        assert (f"note: on {here} devices now, on 7 before" in str(notes)) is told


def test_the_best_is_chosen_among_scores_by_the_same_rules() -> None:
    """Every key that the first protocol's mAP depends on, and no other."""
    before = train._ranked_by(Config())
    rules = {
        key
        for key in KEYS
        if key.startswith("evaluation.")
        and train._ranked_by(changed(Config(), {key: CHANGED[key]})) != before
    }
    names = ("chunk", "chunk_weighting", "protocols", "distance", "flip", "multi_query")
    assert rules == {f"evaluation.{name}" for name in (*names, "separate_camera_set", "centring")}


EVERYTHING = AugmentConfig(
    mirror=0.5, blur=0.5, crop=0.5, hsv=0.5, erase=0.5, horizontal_crop=0.5, pad_ratio=2.2
)


@pytest.mark.parametrize("name", asdict(AugmentConfig()))
def test_every_augmentation_key_changes_frames(tmp_path: Path, name: str) -> None:
    options = replace(EVERYTHING, **{name: CHANGED[f"augment.{name}"]})
    if name in ("horizontal_crop", "horizontal_crop_keep", "pad_ratio", "per"):
        make_layout(tmp_path / "set")
        table = load_layout(tmp_path / "set", "other.pkl").train
        assert table is not None
        for k, path in enumerate((tmp_path / "set" / "images").iterdir()):
            noise = np.random.default_rng(k).integers(0, 256, (20, 8, 3), np.uint8)
            Image.fromarray(noise).save(path)
        plan = training_plan(table, seed=0, epoch=1, num_devices=1, tracklets=12)
        before, after = (
            next(
                pipeline.batches(table, plan, height=20, width=8, buckets=(60,), host_augment=each)
            ).images
            for each in (EVERYTHING, options)
        )
    else:
        images = np.random.default_rng(0).integers(0, 256, (64, 16, 8, 3), np.uint8)
        key = jax.random.key(0)
        before, after = (np.asarray(augment(key, images, each)) for each in (EVERYTHING, options))
    assert not np.array_equal(before, after)


# Where a key shows only beside others: values of those.
BESIDE: dict[str, dict[str, Any]] = {
    "nesterov": {"momentum": 0.9},
    "staircase_epochs": {"schedule": "staircase"},
    "warmup_epochs": {"schedule": "cosine"},
    "classifier_only_lr": {"classifier_only_epochs": 1.0},
}
OPTIMIZERS: dict[str, Any] = {
    "name": "adam",
    "momentum": 0.5,
    "nesterov": False,
    "weight_decay": 0.1,
    "lr_backbone": 0.3,
    "lr_classifier": 0.3,
    "lr_rest": 0.3,
    "schedule": "cosine",
    "staircase_epochs": (2.0, 3.0),
    "staircase_factor": 0.5,
    "warmup_epochs": 1.5,
    "classifier_only_epochs": 1.0,
    "classifier_only_lr": 0.3,
    "clip_norm": 0.1,
    "accumulate": 2,
}


@pytest.mark.parametrize("name", asdict(OptimizerConfig()))
def test_every_optimizer_key_changes_updates(name: str) -> None:
    params = {
        group: {"w": jnp.arange(1.0, 4.0)} for group in ("backbone", "classifier", "embedding")
    }
    base = OptimizerConfig(
        lr_backbone=0.1,
        lr_classifier=0.1,
        lr_rest=0.1,
        staircase_epochs=(2, 4),
        weight_decay=0.01,
        classifier_only_lr=0.2,
    )
    base = replace(base, **BESIDE.get(name, {}))

    def trained(config: OptimizerConfig) -> dict[str, Any]:
        optimizer, _ = make_optimizer(config, 2, 10, params)
        state, found = optimizer.init(params), params
        for step in range(10):
            gradients = jax.tree.map(lambda p, s=step: jnp.sin(p + s), found)
            updates, state = optimizer.update(gradients, state, found)
            found = optax.apply_updates(found, updates)
        return jax.device_get(found)

    before, after = trained(base), trained(replace(base, **{name: OPTIMIZERS[name]}))
    changed_groups = {g for g in params if not np.array_equal(before[g]["w"], after[g]["w"])}
    # A learning rate is of its own group, and of no other.
    own = {"lr_backbone": "backbone", "lr_classifier": "classifier", "lr_rest": "embedding"} | {
        "classifier_only_lr": "classifier"
    }
    assert changed_groups == ({own[name]} if name in own else set(params))


def test_an_evaluation_reads_its_own_subset_only(tmp_path: Path) -> None:
    make_layout(tmp_path)
    data = replace(Config().data, root=str(tmp_path), partitions="other.pkl", eval_subset="val")
    (tmp_path / "images" / image_name(0, 1, 1, 0)).unlink()  # of train
    with pytest.raises(UserError):
        source.open_layout(data)
    assert set(source.evaluation_table(data).person_ids.tolist()) == {4, 5, 6, 7}


@pytest.mark.parametrize("kind", ["folder", "tfds", "decoded"])
def test_the_source_decides_where_frames_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make_layout(tmp_path)
    looked = []

    def load(*arguments: Any, check_files: bool, **options: Any) -> Layout:
        looked.append(check_files)
        return load_layout(*arguments, check_files=check_files, **options)

    monkeypatch.setattr(source, "load_layout", load)
    monkeypatch.setattr(
        video_reid_builder, "frame_reader", lambda *place: lambda rows: [repr(place).encode()]
    )
    monkeypatch.setattr(
        source, "open_decoded", lambda *place: lambda rows: [b"decoded", *map(repr, place)]
    )
    data = replace(Config().data, source=kind, root=str(tmp_path), partitions="other.pkl")
    table = source.open_layout(data).val
    assert table is not None
    assert looked == [kind == "folder"]
    read = source.frame_source(data, "val", table)
    if kind == "folder":
        assert read is None
    elif kind == "decoded":
        assert read is not None
        assert read(np.arange(1)) == [b"decoded", repr(data.root), repr(table)]
    else:
        assert read is not None
        assert read(np.arange(1)) == [repr((data.root, "val", table)).encode()]
