"""The benchmark: its counts, against known ones; its parts run; what it says where it cannot."""

import json
from dataclasses import replace
from pathlib import Path

import benchmark
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarking import (
    child,
    largest,
    layers,
    packing,
    results,
    roofline,
    settings,
    workload,
)
from benchmarking.lengths import (
    mars_table,
    padded_plan,
    plan_of_counts,
    representative_steps,
    sample,
    table_of,
)
from PIL import Image

from stf_jax.config import AugmentConfig, LossConfig, OptimizerConfig, load_config
from stf_jax.data.sampling import evaluation_plan, frame_counts
from stf_jax.evaluation.features.extract import extract_features
from stf_jax.models import build_model
from stf_jax.models.resnet import Conv, ResNet
from stf_jax.models.variables import init_variables

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "tests" / "fixtures" / "mars_info"


def test_settings_are_those_of_the_config_for_mars():
    config = load_config(ROOT / "configs" / "mars.py")
    found = settings.from_flags({}, platform="gpu")
    assert found.model == config.model
    assert (found.height, found.width) == (config.data.height, config.data.width)
    assert found.tracklets == config.data.tracklets
    assert (found.min_frames, found.slots) == (config.data.min_frames, config.data.max_frames)
    assert found.frame_buckets == config.data.frame_buckets
    assert found.slots == config.evaluation.chunk
    assert found.extract_frames == config.evaluation.frames_per_device
    # The recipe's, which the measured step has.
    assert (config.loss, config.augment) == (LossConfig(), AugmentConfig())
    assert config.optimizer == OptimizerConfig()
    table = mars_table(TABLES, "train")
    assert (table.num_labels, table.num_tracklets) == (found.num_classes, 8298)
    assert table.num_frames == 509_914
    assert mars_table(TABLES, "test").num_tracklets == 12_180 - 870


def test_flags_override_the_size_that_the_device_suggests():
    options = benchmark.parse(["step", "--width", "48", "--remat"])
    found = settings.from_flags(vars(options), platform="cpu")
    assert (found.backbone, found.height, found.width) == ("resnet18", 64, 48)
    assert found.remat
    assert benchmark.parse(["all"]).parts == list(benchmark.PARTS)


def test_unknown_part(capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["step", "speed"])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "'speed'" in lines[0]
    assert "packing" in lines[0]


def convolve(x, w, stride, pad):
    numbers = ("NHWC", "HWIO", "NHWC")
    window = (stride, stride)
    padding = ((pad, pad), (pad, pad))
    return jax.lax.conv_general_dilated(x, w, window, padding, dimension_numbers=numbers)


@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), [(5, 3, 1, 1), (8, 3, 2, 1)])
def test_flops_of_a_convolution_are_those_that_touch_pixels(size, kernel, stride, pad):
    x, w = jnp.ones((2, size, size, 3)), jnp.ones((kernel, kernel, 3, 4))
    # An image of ones summed by a kernel of ones: how many pixels each output touches.
    one = convolve(x[:1, :, :, :1], w[:, :, :1, :1], stride, pad)
    by_hand = 2 * 2 * 3 * 4 * float(one.sum())
    assert roofline.program_flops(lambda x, w: convolve(x, w, stride, pad), x, w) == by_hand

    def backwards(x, w):
        return jax.grad(lambda x, w: (convolve(x, w, stride, pad) ** 2).sum(), (0, 1))(x, w)

    # Forwards, and as much for each gradient, with a stride, too.
    assert roofline.program_flops(backwards, x, w) == 3 * by_hand


def test_flops_of_products_are_counted_inside_of_inner_programs():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    inner = jax.checkpoint(jax.jit(lambda a, b: a @ b))
    assert roofline.program_flops(lambda a, b: inner(a, b), a, b) == 2 * 3 * 5 * 7


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_layers_are_the_convolutions_of_the_backbone(backbone):
    """In number and shape: together they ask for the backbone's own arithmetic."""
    frames = jnp.zeros((1, 200, 100, 3))
    model = ResNet(backbone)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), frames, train=False))

    def apply(variables, frames):
        return model.apply(variables, frames, train=False)

    total = 0.0
    for layer, count in layers.layers(backbone, 200, 100).items():
        conv = Conv(layer.outputs, layer.kernel, layer.stride)
        x = jnp.zeros((1, layer.height, layer.width, layer.inputs))
        kernel = jnp.zeros((layer.kernel, layer.kernel, layer.inputs, layer.outputs))
        total += count * roofline.program_flops(conv.apply, {"params": {"kernel": kernel}}, x)
    assert total == roofline.program_flops(apply, variables, frames)


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize(
    "layer", [layers.Layer(9, 6, 4, 8, 3, 2), layers.Layer(8, 6, 8, 4, 1, 1)], ids=str
)
def test_layers_are_compared_with_the_same_function(layer):
    arrays = layers.drawn(layer, 2, 0)
    own = [work() for work in layers.ours(layer, "float32", *arrays)]
    other = [work().numpy() for work in layers.torchs(layer, settings.Settings(), *arrays)]
    for array, found, order in zip(
        own, other, ((0, 2, 3, 1), (0, 2, 3, 1), (2, 3, 1, 0)), strict=True
    ):
        np.testing.assert_allclose(array, found.transpose(order), atol=1e-4)


@pytest.mark.usefixtures("torch")
def test_layers_are_summed_by_kernel(monkeypatch):
    monkeypatch.setattr(layers, "measured", lambda *_: np.array([[3.0, 9, 5], [2, 9, 2]]))
    rows = list(layers.run(settings.Settings(backbone="resnet18", height=64, width=32)))
    assert sum(row["times"] for row in rows if "layer" in row) == 1 + 16 + 3
    sums = {row["all of"]: row for row in rows if "all of" in row}
    # The gradient of the pixels is left out: 8 / 4 for the stem, 17 / 13 for the others.
    assert sums["7x7"]["times PyTorch's time"] == 2
    assert sums["3x3"]["times PyTorch's time"] == pytest.approx(17 / 13)
    assert sums["3x3"]["forward, ms"] == "48000 / 32000"
    assert max(map(len, results.format_rows(rows).splitlines())) <= results.COLUMNS


def test_packing_is_compared_by_medians():
    seconds = {"packed": [1.0, 90.0, 2.0], "padded": [0.1, 7.0, 5.0]}
    *rows, said = packing.compared("training", 30, seconds, 1.5)
    assert [(r["training"], r["s"], r["real frames/s"]) for r in rows] == [
        ("packed", 2.0, 15.0),
        ("padded", 5.0, 6.0),
    ]
    assert said == {"note": "training: packed is 2.50 times as fast (reaches 1.5)"}
    slower = {"packed": [5.0], "padded": [4.0]}
    assert list(packing.compared("training", 30, slower, 1.5))[-1] == {
        "note": "training: packed is 0.80 times as fast (below 1.5)"
    }
    assert list(packing.compared("extraction", 30, slower, None))[-1] == {
        "note": "extraction: packed is 0.80 times as fast"
    }
    packing.check_equal([1.0, 2.0], [1.0, 2.001], "float32", "losses")
    with pytest.raises(AssertionError, match="losses"):
        packing.check_equal([1.0, 2.0], [1.0, 2.01], "float32", "losses")


def test_plans_from_counts():
    counts = np.array([[[2, 0], [1, 3]]])
    plan = plan_of_counts(counts, 3)
    assert plan.frame_rows.tolist() == [
        [[[0, 1, -1], [-1, -1, -1]], [[2, -1, -1], [3, 4, 5]]],
    ]
    assert plan.tracklets.tolist() == [[[0, -1], [2, 3]]]
    padded = padded_plan(plan, 2)
    assert padded.frame_rows.shape == (1, 2, 2, 3)
    assert np.array_equal(padded.frame_rows[padded.frame_rows >= 0], np.arange(6))
    assert padded.tracklets.ravel().tolist() == [0, 2, 3, -1]


def test_steps_and_tracklets_that_represent():
    plan = plan_of_counts(np.arange(1, 101).reshape(100, 1, 1), 100)
    steps = representative_steps(plan, 4)
    assert sorted(frame_counts(plan)[steps, 0]) == [13, 38, 63, 88]  # the middles of quarters
    table = table_of(np.arange(1, 101), np.arange(100), np.ones(100, int))
    assert sorted(sample(table, 4).lengths) == [13, 38, 63, 88]


def test_batches_of_the_same_frames_have_the_same_pixels():
    small = settings.Settings(height=4, width=2, num_classes=5)
    plan = plan_of_counts(np.array([[[2, 1]]]), 2)
    packed = workload.make_batch(small, plan, 0, 3)
    padded = workload.make_batch(small, plan, 0, 4)
    for name in ("images", "tracklet", "slot"):
        assert np.array_equal(getattr(packed, name), getattr(padded, name)[:, :3])
    assert packed.tracklet.tolist() == [[0, 0, 1]]
    assert packed.slot.tolist() == [[0, 1, 0]]
    assert padded.tracklet[0, 3] == 2
    assert not padded.images[0, 3].any()
    assert packed.labels.tolist() == [[0, 1]]


def test_remat_keeps_less_for_the_backward_pass():
    """Traced only: what a compiler makes of it is its own affair."""
    small = settings.changed(settings.from_flags({}, platform="cpu"), slots=8)
    plan = plan_of_counts(np.full((1, 1, small.tracklets), small.slots), small.slots)
    batch = workload.make_batch(small, plan, 0, small.tracklets * small.slots)
    model = build_model(small.model, small.num_classes)
    variables = init_variables(model, small.seed, small.height, small.width)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(variables["params"]))
    stored, recomputed = (
        workload.kept_bytes(settings.changed(small, remat=remat), batch) - weights
        for remat in (False, True)
    )
    assert recomputed < stored / 2


@pytest.mark.parametrize("guess", [1, 5, 37, 40, 200])
@pytest.mark.parametrize("limit", [0, 1, 6, 37])
def test_largest_batch_is_bracketed(limit, guess):
    tried = list(largest.bracket(lambda size: size <= limit, guess))
    assert all(fitted == (size <= limit) for size, fitted in tried)
    low = max((size for size, fitted in tried if fitted), default=0)
    high = min(size for size, fitted in tried if not fitted)
    assert low <= limit < high
    assert high - low <= max(1, low // 8)


def test_rows_are_readable_and_fit_the_page():
    rows = [
        {"note": "word " * 60},
        {"size": 100, "ms": 12.3456, "none": None},
        {"size": 1000, "ms": 0.0001, "none": 1},
        {"other": 3.0},
    ]
    lines = results.format_rows(rows).splitlines()
    assert max(map(len, lines)) <= results.COLUMNS
    assert lines[-5:-2] == [
        "  size        ms  none",
        "  100       12.3     -",
        "  1,000  1.0e-04     1",
    ]


# A module of its own, which starts faster than this one.
SLOW_PART = """
import time


def slow(settings, *, wait):
    yield {"first": settings.seed}
    time.sleep(wait)
    raise ValueError("too small")
"""


def test_a_part_that_is_stopped_or_fails_keeps_its_rows(tmp_path, monkeypatch):
    (tmp_path / "slow_part.py").write_text(SLOW_PART)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    given = settings.Settings(seed=3)
    stopped = child.stream("slow_part", "slow", given, seconds=8, wait=600)
    failed = child.stream("slow_part", "slow", given, wait=0)
    assert (stopped.status, stopped.rows) == ("out of time", [{"first": 3}])
    assert (failed.status, failed.rows) == ("failed", [{"first": 3}])
    assert failed.reason == "ValueError: too small"


WITHOUT_INPUT = """
import sys

for name in ("tensorflow", "tensorflow_datasets", "ml_collections"):
    sys.modules[name] = None
"""
TINY = (
    *("--size", "small", "--height", "32", "--width", "16", "--embed-dim", "8"),
    *("--num-classes", "7", "--tracklets", "2", "--slots", "3", "--frame-buckets", "1"),
    *("--extract-frames", "6", "--steps", "2", "--rounds", "1"),
    *("--dimensions", "8", "--rows", "600", "--repeats", "1", "--tables", str(TABLES)),
)


@pytest.fixture
def without_input(tmp_path, monkeypatch):
    """Options of a run in which neither TensorFlow nor ml_collections can be imported."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_INPUT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # Little is computed: most of the time would go into compiling it well.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    cache = ["--compilation-cache", str(tmp_path / "compiled")]
    return [*TINY, *cache, "--output", str(tmp_path)]


def run_parts(parts, options):
    status = benchmark.main([*parts, *options])
    (path,) = Path(options[-1]).glob("*.json")
    found = json.loads(path.read_text())
    by_name = {part["part"]: part for part in found["parts"]}
    assert list(by_name) == parts
    assert status == any(part["status"] == "failed" for part in by_name.values())
    return found, by_name


def test_parts_run_where_neither_tensorflow_nor_ml_collections_is(without_input, capsys):
    parts = ["extraction", "export", "ranking", "input", "end-to-end"]
    found, by_name = run_parts(parts, without_input)
    assert found["device"]["platform"] == "cpu"
    assert found["device"]["versions"]["jax"] == jax.__version__
    assert len(found["device"]["revision"]) in (7, 40, 41)
    assert found["settings"]["embed_dim"] == 8
    for name in ("input", "end-to-end"):
        assert by_name[name]["status"] == "not run"
        assert "tensorflow" in by_name[name]["reason"]
    for name in ("extraction", "ranking"):
        assert by_name[name]["status"] == "done", by_name[name]["reason"]
    # The four test tracklets whose lengths are the middles of quarters.
    lengths = np.sort(mars_table(TABLES, "test").lengths)
    real = lengths[[len(lengths) * eighth // 8 for eighth in (1, 3, 5, 7)]].sum()
    rows = [row for row in by_name["extraction"]["rows"] if "extraction" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["s"] * row["real frames/s"] == pytest.approx(real)
    measured = {row["measured"]: row for row in by_name["ranking"]["rows"] if "measured" in row}
    assert measured["ranking, step"]["mAP"] > 0
    shown = capsys.readouterr().out
    assert "[not run: needs tensorflow" in shown
    assert max(map(len, shown.splitlines()[3:-1])) <= results.COLUMNS


@pytest.mark.slow
def test_packing_and_steps_are_measured(without_input):
    found, by_name = run_parts(["packing", "step"], without_input)
    assert all(part["status"] == "done" for part in found["parts"]), found["parts"]
    # Two steps of two tracklets, of 3 frames each as MARS's shortest has 5.
    rows = [row for row in by_name["packing"]["rows"] if "training" in row]
    assert [row["training"] for row in rows] == ["packed", "padded"]
    for row in rows:
        assert row["s"] * row["real frames/s"] == pytest.approx(2 * 2 * 3)
    notes = [row["note"] for row in by_name["packing"]["rows"] if "note" in row]
    ratio = rows[1]["s"] / rows[0]["s"]
    assert any(note.startswith(f"training: packed is {ratio:.2f} times") for note in notes)
    (size,) = [row for row in by_name["step"]["rows"] if "ms" in row]
    assert (size["frames"], size["steps %"]) == (6, 100)
    assert size["ms"] * size["real frames/s"] == pytest.approx(6000)
    (epoch,) = [row for row in by_name["step"]["rows"] if "computed" in row]
    assert epoch["computed"] == epoch["real frames"] == 8298 * 3


def test_nothing_is_begun_when_the_time_is_up(tmp_path, capsys):
    arguments = ["step", *TINY, "--minutes", "0", "--output", str(tmp_path)]
    assert benchmark.main(arguments) == 0
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert found["command"] == ["step", *TINY, "--minutes", "0"]
    (part,) = found["parts"]
    assert part == {"part": "step", "status": "not run", "reason": "the time was up", "rows": []}
    assert "not finished in 0 minutes: step" in capsys.readouterr().out


def grow(given, *, image):
    """Yield how far the peak grows with each longer tracklet evaluated, with all but a model."""

    def features(_, batch):
        owner = jnp.arange(4)[:, None] == batch.tracklet[None]
        weights = jnp.full((4, 25), 1 / 25)
        return {
            "features": owner @ batch.images.astype(jnp.float32).mean((1, 2)),
            **dict.fromkeys(("frame_weights", "intra_weights", "inter_weights"), weights),
        }

    def peak():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    # Imports TensorFlow, for which no other process of this file has to wait.
    from stf_jax.data import pipeline

    step = jax.pmap(features, in_axes=(None, 0))
    one, image = np.ones(1, np.int64), Path(image)
    for length in (1000, 920, 10_000):  # the first one for what is allocated once
        before = peak()
        table = table_of(np.array([length]), one, one)
        names = np.full(length, image.name.encode())
        table = replace(table, image_dir=image.parent, names=names)
        plan = evaluation_plan(table, num_devices=1, chunk=25, frames_per_device=100)
        plan = padded_plan(plan, 4)
        stream = pipeline.batches(table, plan, height=128, width=64, buckets=(100,))
        found = extract_features(step, None, stream, plan, 1, length)
        assert found.num_frames.tolist() == [length]
        yield {"frames": length, "grows": peak() - before}


def test_long_tracklets_are_evaluated_in_constant_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    image = tmp_path / "frame.jpg"
    Image.new("RGB", (16, 32), (200, 100, 50)).save(image)
    found = child.stream("test_benchmark", "grow", settings.Settings(), image=str(image))
    rows = child.rows_of(found)
    assert [row["frames"] for row in rows] == [1000, 920, 10_000]
    # The pixels of 10,000 frames are 246 MB; a batch of 100, of which a few are alive, has 2.5.
    assert all(row["grows"] < 40e6 for row in rows[1:])


def test_two_runs_of_one_second_have_files_of_their_own(tmp_path):
    device = {"platform": "cpu", "device_kind": "One", "device_count": 1}
    paths = {benchmark.own_file(tmp_path, device)[1] for _ in range(2)}
    assert len(paths) == 2
    assert set(tmp_path.iterdir()) == paths
