"""`scripts/compare.py` on runs that are two files each: scores, and features drawn by chance."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_histogram import colour_histograms
from origins import make_origin
from PIL import Image

from stf_jax.data.layout.partitions import load_layout
from stf_jax.evaluation import bootstrap_intervals
from stf_jax.evaluation.features.feature_files import FeatureSet, write_features
from stf_jax.evaluation.open_set import open_set_scores
from stf_jax.evaluation.scores import make_scores, write_scores
from stf_jax.evaluation.scoring import rank_table
from stf_jax.prepare.layout import image_name, write_partitions

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare.py"
PEOPLE, CAMERAS = 12, 3


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person more to train on; of each other one a query by camera 1, two gallery tracklets."""
    root = tmp_path_factory.mktemp("layout")
    (root / "images").mkdir()
    random = np.random.default_rng(0)
    keys = [(person, camera) for person in range(PEOPLE + 1) for camera in range(1, CAMERAS + 1)]
    names = [image_name(person, camera, 1, 0) for person, camera in keys]
    for name in names:
        pixels = random.integers(0, 256, (8, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
    marks = [0 if camera == 1 else 1 for _, camera in keys]
    write_partitions(
        root, trainval=names[:CAMERAS], test=names[CAMERAS:], test_marks=marks[CAMERAS:]
    )
    return root


def make_run(
    workdir: Path,
    layout: Path,
    drawn: int,
    protocols=("step",),
    signal: float = 2,
    **options: Any,
) -> dict[str, Any]:
    """Write what an evaluation with `options` leaves; return the rows of its scores.json.

    The more `signal`, the better are the features.
    """
    table = load_layout(layout, subsets=("test",)).test
    assert table is not None
    count = table.num_tracklets
    random = np.random.default_rng(drawn)
    features = random.standard_normal((count, 8)) + signal * np.eye(PEOPLE + 1, 8)[table.person_ids]
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    weights = np.ones(len(table.names), np.float32)
    workdir.mkdir()
    write_features(
        workdir / "features.npz",
        FeatureSet(
            features=features,
            person_ids=table.person_ids,
            cameras=table.cameras,
            tracks=table.tracks,
            marks=table.marks,
            titles=np.full(count, "", "U1"),
            num_frames=np.ones(count, np.int64),
            offsets=table.offsets,
            names=table.names,
            frame_weights=weights,
            intra_weights=weights,
            inter_weights=weights,
            image_dir=str(table.image_dir),
            origin=make_origin(),
        ),
    )
    open_sets = {}

    def look(protocol: str, distances: np.ndarray, labels: Any) -> None:
        open_sets[protocol] = open_set_scores(distances, **labels, resamples=10)

    rankings = rank_table(features, table, protocols, look=look, **options)
    common = {"distance": "euclidean", "flip": False, "multi_query": "", "reranked": False}
    rows = {
        name: make_scores(
            ranking,
            bootstrap_intervals(ranking, seed=drawn),
            options=common | options,
            open_set=open_sets[name],
        )
        for name, ranking in rankings.items()
    }
    write_scores(workdir / "scores.json", {"step": 0, "data": str(layout), "rows": rows})
    return rows


@pytest.fixture
def compare(layout: Path, tmp_path: Path, monkeypatch, capsys):
    """Compare runs of `tmp_path` by name; return the status, what was said, the table's rows."""
    spec = importlib.util.spec_from_file_location("compare", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*names: str) -> tuple[int, str, dict[str, Any]]:
        runs = [f"{name}={tmp_path / name}" for name in names]
        output = tmp_path / "out"
        argv = ["compare.py", "--layout", str(layout), "--output", str(output), *runs]
        monkeypatch.setattr("sys.argv", argv)
        status = module.main()
        said = capsys.readouterr()
        if status:
            return status, said.err, {}
        return status, said.out, json.loads((output / "comparison.json").read_text())

    return call


def test_the_first_protocol_in_common_is_compared(compare, layout, tmp_path) -> None:
    make_run(tmp_path / "one", layout, 1, ("mars-official", "step+queries", "step"))
    two = make_run(tmp_path / "two", layout, 2, ("step+queries", "mars-official"))
    status, said, rows = compare("two", "one")
    assert status == 0
    assert {row["protocol"] for row in rows.values()} == {"step+queries"}
    assert rows["two"]["scores"] == two["step+queries"]["scores"]
    assert rows["two"]["intervals"]["identities"] == PEOPLE
    assert f"bootstrap intervals over {PEOPLE} identities." in said
    assert "mAP of one over two: " in said
    assert "bootstrap interval over identities, paired)" in said


def test_gains_are_of_the_last_run_over_each_other(compare, layout, tmp_path) -> None:
    for name, drawn, signal in (("bad", 1, 0), ("best", 2, 8), ("good", 3, 2)):
        make_run(tmp_path / name, layout, drawn, signal=signal)
    status, said, rows = compare("best", "bad", "good")
    assert status == 0
    scores = {name: 100 * row["scores"]["mAP"] for name, row in rows.items()}
    assert scores["bad"] + 10 < scores["good"] < scores["best"] - 5
    pattern = r"mAP of good over (.*): ([+-][\d.]+) \(([+-][\d.]+) to ([+-][\d.]+): 95 % bootstrap"
    found = {name: tuple(map(float, values)) for name, *values in re.findall(pattern, said)}
    assert list(found) == ["the colour histogram", "best", "bad"]
    names = {"the colour histogram": "colour histogram, untrained"}
    for name, (gain, low, high) in found.items():
        assert gain == pytest.approx(scores["good"] - scores[names.get(name, name)], abs=0.051)
        assert low < gain < high
    assert found["best"][2] < 0 < found["bad"][1]  # either is clear


def test_no_protocol_in_common_is_reported_in_one_line(compare, layout, tmp_path) -> None:
    make_run(tmp_path / "one", layout, 1, ("mars-official",))
    make_run(tmp_path / "two", layout, 2, ("step", "step+queries"))
    status, said, _ = compare("one", "two")
    assert status == 2
    assert said.startswith("error: scored under one: mars-official; two: step, step+queries; ")
    assert len(said.splitlines()) == 1


RULES: list[dict[str, Any]] = [
    {"distance": "cosine"},
    {"multi_query": "mean"},
    {"separate_camera_set": True},
    {"single_gallery_shot": True, "seed": 3},
]


@pytest.mark.parametrize("options", RULES, ids=lambda options: next(iter(options)))
def test_runs_are_ranked_by_their_own_rules(compare, layout, tmp_path, options) -> None:
    wanted = {
        name: make_run(tmp_path / name, layout, drawn, **options)["step"]
        for drawn, name in enumerate(("one", "two"))
    }
    metrics = {"step": 0, "step/mAP": 0.25}
    (tmp_path / "one" / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    status, said, rows = compare("one", "two")
    assert status == 0
    assert wanted == {name: rows[name] for name in wanted}
    one, two = (100 * wanted[name]["scores"]["mAP"] for name in ("one", "two"))
    assert f"mAP of two over one: {two - one:+.1f} (" in said
    table = load_layout(layout, subsets=("test",)).test
    assert table is not None
    histogram = rows["colour histogram, untrained"]
    rules = {name: value for name, value in options.items() if name != "seed"}
    ranking = rank_table(colour_histograms(table), table, ("step",), **rules)["step"]
    assert histogram["scores"] == make_scores(ranking)["scores"]
    histogram["options"].pop("seed", None)
    assert histogram["options"].items() <= wanted["one"]["options"].items()
    # What is logged while training is by the plain rules.
    assert ("one, before training" in rows) == ("distance" in options)
    assert wanted["one"]["open_set"] is not None
    if "distance" in options:
        assert rows["one, before training"]["open_set"] is None


@pytest.mark.parametrize("options", RULES, ids=lambda options: next(iter(options)))
def test_runs_ranked_by_different_rules_are_refused_by_name(
    compare, layout, tmp_path, options
) -> None:
    make_run(tmp_path / "one", layout, 1)
    make_run(tmp_path / "two", layout, 2, **options)
    name, value = next(iter(options.items()))
    status, said, _ = compare("one", "two")
    assert status == 2
    assert said.startswith(f"error: config.evaluation.{name} differs (one: ")
    assert f"two: {value!r})" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_run_without_scores_is_reported_in_one_line(compare, layout, tmp_path, text) -> None:
    make_run(tmp_path / "one", layout, 1)
    path = tmp_path / "one" / "scores.json"
    path.write_text(text)
    status, said, _ = compare("one")
    assert (status, len(said.splitlines())) == (2, 1)
    assert said.startswith(f"error: {path}: not a run's scores")
    path.unlink()
    status, said, _ = compare("one")
    assert (status, len(said.splitlines())) == (2, 1)
    assert said.startswith(f"error: {path}: not found")
