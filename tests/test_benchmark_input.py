"""The comparison of inputs from end to end on a few images, and its arithmetic."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stf_jax.prepare.layout import image_name, write_partitions

SCRIPTS = Path(__file__).parents[1] / "scripts" / "benchmarking"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("benchmark_input")


@pytest.fixture
def layout(tmp_path):
    r = np.random.default_rng(0)
    (tmp_path / "layout/images").mkdir(parents=True)
    names = [image_name(p, 1, 1, offset, ext="jpg") for p in range(4) for offset in range(5)]
    for name in names:
        coarse = Image.fromarray(r.integers(0, 256, (4, 2, 3), dtype=np.uint8))
        coarse.resize((32, 64)).save(tmp_path / "layout/images" / name)
    write_partitions(tmp_path / "layout", trainval=names, test=[], test_marks=[])
    return tmp_path / "layout"


@pytest.mark.usefixtures("torch")
def test_from_end_to_end(benchmark, layout, capsys, tmp_path):
    found = tmp_path / "found.json"
    numbers = ["--rounds", "1", "--steps", "2", "--warmup", "1", "--needed", "50"]
    status = benchmark.main(["--root", str(layout), "--json", str(found), *numbers])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    numbers = json.loads(found.read_text())
    assert numbers["needed"] == 50
    rates = numbers["real_frames_per_second"]
    assert rates["ratio"] == pytest.approx(rates["ours"] / rates["dataloader"])
    (ours,), (theirs,) = numbers["all"]["ours"], numbers["all"]["dataloader"]
    assert rates["ours"] == ours["real_frames_per_second"] > 0
    assert rates["dataloader"] == theirs["real_frames_per_second"] > 0
    assert theirs["real_frames_per_step"] == 20
    assert "round 1" in out
    assert "16 cores" in out


def test_arithmetic(benchmark):
    found = {
        "cores": 2,
        "load_average": 0.0,
        "mean_file_bytes": 5000.0,
        "rounds": 3,
        "steps": 60,
        "torch": "2",
        "decoder": "Pillow 1",
        "real_frames_per_second": {"ours": 3000.0, "dataloader": 1500.0, "ratio": 2.0},
        "real_frames_per_cpu_second": {"ours": 1600.0, "dataloader": 800.0, "ratio": 2.0},
    }
    text = benchmark.report(found, needed=6000.0)
    assert "on the same cores: missed" in text
    assert "2 cores at 1500 frames/s a core give 3000 frames/s" in text
    assert "16 cores at 1500 frames/s a core give 24000 frames/s" in text
    assert text.endswith("uses 25 % of that")


def test_the_plan_has_the_steps_asked_for(benchmark, layout):
    table = benchmark.load_layout(layout).trainval
    plan = benchmark.plan_steps(table, 3, tracklets=2, slots=4)
    assert plan.frame_rows.shape == (3, 1, 2, 4)
    assert sorted(plan.tracklets[:2].ravel()) == [0, 1, 2, 3]
    assert (plan.frame_rows >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds 0: expected 1 or more"),
        (["--cores", "100000"], "--cores 100000"),
        (["--json", "absent/found.json"], "there is no folder absent"),
        (["--root", "absent"], "absent"),
    ],
)
def test_bad_input_is_one_line(benchmark, capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert benchmark.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err
