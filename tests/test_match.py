"""Ranking one set of features against another; made-up features of tracklets of one frame."""

import csv
import dataclasses
import importlib
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_tracklets import UNREAD, Drawn, check_shown, draw
from origins import make_origin
from page_reader import page_data
from ranking_loops import distances_of

import stf_jax
from stf_jax.config import Config, to_json
from stf_jax.errors import UserError
from stf_jax.evaluation.calibration import Calibration, fit_calibration
from stf_jax.evaluation.centring import camera_means, centre_pair
from stf_jax.evaluation.features.feature_files import FeatureSet, write_features
from stf_jax.folder_lock import LOCK_FILE, one_owner
from stf_jax.main import main
from stf_jax.prepare import __main__ as prepare
from stf_jax.run.run_files import write_run_files

WEIGHTS = ("frame_weights", "intra_weights", "inter_weights")


def make_set(features: list[list[float]], name: str = "a", **origin: Any) -> FeatureSet:
    count = len(features)
    values: dict[str, Any] = dict.fromkeys(WEIGHTS, np.ones(count, np.float32))
    return FeatureSet(
        features=np.array(features, np.float32).reshape(count, 2),
        person_ids=np.full(count, -1),
        cameras=np.ones(count, np.int64),
        tracks=np.arange(count),
        marks=np.full(count, -1, np.int8),
        titles=np.full(count, "", "U1"),
        num_frames=np.ones(count, np.int64),
        offsets=np.arange(count + 1),
        names=np.array([f"{name}{row}.png" for row in range(count)], "S"),
        image_dir="",
        origin=make_origin(**origin),
        **values,
    )


@pytest.mark.parametrize(("metric", "order"), [("euclidean", [1, 0]), ("cosine", [0, 1])])
def test_the_metric_is_the_runs(metric: str, order: list[int]) -> None:
    query, gallery = (
        make_set([[1, 0]], metric=metric),
        make_set([[9, 1], [1, 1]], "b", metric=metric),
    )
    assert stf_jax.match_tracklets(query, gallery, same_camera=True).entries.tolist() == [order]


@pytest.mark.parametrize(
    ("unlike", "told"),
    [
        (
            {"weights_digest": "f" * 64, "flip": True},
            "query: features of weights 01234567, step 1; gallery: features of weights ffffffff, "
            "step 1; expected one run, checkpoint and settings; write both again with --mode "
            "evaluate or --mode embed",
        ),
        ({"step": 2}, "weights 01234567, step 1; gallery: features of weights 01234567, step 2;"),
        ({"metric": "cosine"}, "metric euclidean; gallery: features of metric cosine;"),
        ({"flip": True}, "query: features of flip False; gallery: features of flip True;"),
        ({"chunk": 2}, "query: features of chunk 1; gallery: features of chunk 2;"),
        ({"chunk_weighting": "frames"}, "chunk_weighting mean; gallery: features of"),
        (
            {"settings": '{"data.height": 64}'},
            "data.height None; gallery: features of data.height 64",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_features_of_another_origin_are_refused(unlike: dict[str, Any], told: str) -> None:
    query, gallery = make_set([[1, 0]]), make_set([[1, 0]], "b", **unlike)
    with pytest.raises(UserError) as caught:
        stf_jax.match_tracklets(query, gallery)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    calibration = Calibration(1.0, -2.0, 0.1, gallery.origin, 10, 90)
    with pytest.raises(UserError, match="; calibration: features of"):
        stf_jax.match_tracklets(query, query, calibration=calibration)
    options = {"calibration": calibration, "same_camera": True}
    matches = stf_jax.match_tracklets(gallery, gallery, **options)
    assert matches.probabilities is not None


def test_nothing_to_match() -> None:
    with pytest.raises(UserError, match="query: no tracklet"):
        stf_jax.match_tracklets(make_set([]), make_set([[1, 0]]))


@pytest.mark.parametrize(
    ("metric", "cameras", "prior"),
    [("cosine", (None, None), None), ("euclidean", (1, 3), 0.4), ("euclidean", (3, None), None)],
)
def test_page_and_table_of_the_command(
    metric: str,
    cameras: tuple[int | None, int | None],
    prior: float | None,
    tmp_path: Path,
) -> None:
    """Of two sets drawn apart and one to calibrate with, every value against loops over arrays."""
    write_run_files(tmp_path / "run", to_json(Config()), {})
    sets: dict[str, Drawn] = {
        name: draw(tmp_path / name, seed) for seed, name in enumerate(("query", "gallery", "other"))
    }
    sets["query"].titles[::3] = [
        f"yard/track {row}" for row in range(0, len(sets["query"].titles), 3)
    ]
    for name, drawn in sets.items():
        write_features(tmp_path / f"{name}.npz", drawn.feature_set(metric=metric))
    output = tmp_path / "who"
    argv = ["--mode", "match", "--workdir", str(tmp_path / "run"), "--output", str(output)]
    argv += ["--top", "6"]
    for name in ("query", "gallery"):
        argv += [f"--{name}", str(tmp_path / f"{name}.npz")]
    for name, camera in zip(("query", "gallery"), cameras, strict=True):
        argv += [] if camera is None else [f"--{name}-camera", str(camera)]
    argv += [] if prior is None else ["--prior", str(prior)]
    same = cameras == (3, None)
    argv += ["--same-camera"] if same else []
    assert main([*argv, "--calibrate", str(tmp_path / "other.npz")]) == 0

    fitted = fit_calibration(sets["other"].feature_set(metric=metric))
    shift = 0.0
    if prior is not None:
        shift = math.log(prior / (1 - prior)) - math.log(fitted.prior / (1 - fitted.prior))
    rows = {}
    for (name, drawn), camera in zip(list(sets.items())[:2], cameras, strict=True):
        of = drawn.table.cameras.tolist()
        rows[name] = [row for row in range(len(of)) if camera in (None, of[row])]
    found = [sets[name].found.features[rows[name]] for name in rows]
    with np.errstate(invalid="ignore"):
        distances = distances_of(found[0], found[1], metric)
    data = page_data(output / "index.html")
    with open(output / "matches.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert not data["labelled"]
    assert len(data["queries"]) == len(data["tracklets"]["q"]) == len(rows["query"])
    used, listed = set(), iter(table)
    for row, query in enumerate(data["queries"]):
        own = rows["query"][row]
        check_shown(data["tracklets"]["q"][row], sets["query"], own, output / "strips")
        camera = sets["query"].table.cameras[own]
        others = sets["gallery"].table.cameras
        columns = [
            c
            for c, g in enumerate(rows["gallery"])
            if UNREAD not in (g, own) and (same or others[g] != camera)
        ]
        entries = sorted(columns, key=lambda c, row=row: distances[row, c])[:6]
        near = distances[row, entries]
        chances = 1 / (1 + np.exp(-(fitted.intercept + shift + fitted.slope * near)))
        assert query["entries"] == entries
        assert query["distances"] == pytest.approx(near, abs=1e-3)
        assert query["probable"] == pytest.approx(chances, abs=1e-3)
        assert not {"right", "ap", "first", "matches", "pooled"} & set(query)
        used |= set(entries)
        for place, entry in enumerate(entries):
            line = next(listed)
            assert float(line.pop("distance")) == pytest.approx(near[place], abs=1e-3)
            assert float(line.pop("probability")) == pytest.approx(chances[place], abs=1e-3)
            assert line == {
                "query_row": str(row),
                "query": sets["query"].name(own),
                "place": str(place + 1),
                "gallery_row": str(entry),
                "gallery": sets["gallery"].name(rows["gallery"][entry]),
                "query_camera": str(camera),
                "gallery_camera": str(others[rows["gallery"][entry]]),
                **{f"{side}_{part}": "" for side in rows for part in ("id", *FRAMES)},
            }
    assert next(listed, None) is None
    assert len(used) > 3
    assert {int(column) for column in data["tracklets"]["g"]} == used
    for column in used:
        row = rows["gallery"][column]
        said = data["tracklets"]["g"][str(column)]
        check_shown(said, sets["gallery"], row, output / "strips")
    text = (output / "index.html").read_text()
    assert "<h1>query among gallery</h1>" in text
    assert f"{len(rows['query'])} tracklets looked for among {len(rows['gallery'])}<" in text
    assert f"of which {100 * (prior or fitted.prior):.3g} % are of one person" in text
    assert f"calibrated on {fitted.matches} matching and {fitted.others} other pairs" in text


FRAMES = ("first_frame", "last_frame")


@pytest.mark.parametrize("source", ["gallery", "file"])
def test_centred_by_the_command(source: str, tmp_path: Path) -> None:
    """Lists and probabilities are those of the sets as centred by hand."""
    write_run_files(tmp_path / "run", to_json(Config()), {})
    kept = np.flatnonzero(draw(tmp_path / "any").table.cameras != 4)  # one tracklet only
    sets = {
        name: draw(tmp_path / name, seed).feature_set(metric="cosine").select(kept)
        for seed, name in enumerate(("query", "gallery", "other", "seen"))
    }
    for name, features in sets.items():
        write_features(tmp_path / f"{name}.npz", features)
    output = tmp_path / "who"
    argv = ["--mode", "match", "--workdir", str(tmp_path / "run"), "--output", str(output)]
    argv += ["--query", str(tmp_path / "query.npz"), "--gallery", str(tmp_path / "gallery.npz")]
    argv += ["--calibrate", str(tmp_path / "other.npz")]
    argv += ["--centre-with", "gallery" if source == "gallery" else str(tmp_path / "seen.npz")]
    assert main(argv) == 0

    query, gallery, other = sets["query"], sets["gallery"], sets["other"]
    means = camera_means(sets["seen"].features, sets["seen"].cameras)
    centred = centre_pair(
        *(query.features, query.cameras, gallery.features, gallery.cameras),
        None if source == "gallery" else means,
    )
    by_hand = [
        dataclasses.replace(features, features=values)
        for features, values in zip((query, gallery), centred, strict=True)
    ]
    calibration = fit_calibration(other, centred=True)
    assert calibration.slope != fit_calibration(other).slope
    uncentred = dataclasses.replace(calibration, centred=False)
    wanted = stf_jax.match_tracklets(*by_hand, top=10, calibration=uncentred)
    plain = stf_jax.match_tracklets(query, gallery, top=10)
    with open(output / "matches.csv", newline="") as file:
        table = list(csv.DictReader(file))
    entries = wanted.entries[wanted.entries >= 0].tolist()
    assert [int(line["gallery_row"]) for line in table] == entries
    assert entries != plain.entries[plain.entries >= 0].tolist()
    assert wanted.probabilities is not None
    chances = wanted.probabilities[wanted.entries >= 0]
    np.testing.assert_allclose([float(line["probability"]) for line in table], chances, atol=1e-5)
    text = " ".join((output / "index.html").read_text().split())
    whose = "gallery (of a camera that it lacks: of the queries)"
    if source == "file":
        whose = f"{len(kept)} tracklets of {sets['seen'].image_dir}"
    assert f"mean feature, of the {whose}, taken off." in text


def test_what_cannot_be_centred_is_refused(tmp_path: Path) -> None:
    drawn = draw(tmp_path).feature_set()
    with pytest.raises(UserError, match="1 tracklet of camera 4") as caught:
        stf_jax.match_tracklets(drawn, drawn, centre_with="gallery")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="centre_with 'mean': expected"):
        stf_jax.match_tracklets(drawn, drawn, centre_with="mean")
    other = dataclasses.replace(drawn, origin=make_origin(step=2))
    with pytest.raises(UserError, match="centre_with: features of"):
        stf_jax.match_tracklets(drawn, drawn, centre_with=other)
    calibration = fit_calibration(drawn)
    with pytest.raises(UserError, match="not centred; expected centred"):
        stf_jax.match_tracklets(drawn, drawn, centre_with=drawn, calibration=calibration)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nobody_in_the_gallery(metric: str, tmp_path: Path, capsys) -> None:
    """By the command: table and page end each list at the distance that loops give."""
    write_run_files(tmp_path / "run", to_json(Config()), {})
    sets = {
        name: draw(tmp_path / name, seed).feature_set(metric=metric)
        for seed, name in enumerate(("query", "gallery", "other"))
    }
    for name, features in sets.items():
        write_features(tmp_path / f"{name}.npz", features)
    output = tmp_path / "who"
    argv = ["--mode", "match", "--workdir", str(tmp_path / "run"), "--output", str(output)]
    argv += [
        word
        for name in ("query", "gallery")
        for word in (f"--{name}", str(tmp_path / f"{name}.npz"))
    ]
    argv += ["--calibrate", str(tmp_path / "other.npz"), "--top", "4"]
    assert main([*argv, "--false-alarms", "0.25"]) == 0

    other = sets["other"]
    known = np.flatnonzero(other.features.any(axis=1))
    queries = [r for r in known if other.marks[r] == 0]
    gallery = [r for r in known if other.marks[r] == 1 and other.person_ids[r] != -1]
    distances = distances_of(other.features[queries], other.features[gallery], metric)
    nearest = []
    for row, q in enumerate(queries):
        entries = [
            distances[row, column]
            for column, g in enumerate(gallery)
            if other.cameras[g] != other.cameras[q] and other.person_ids[g] != other.person_ids[q]
        ]
        nearest.append(min(entries))
    threshold = sorted(nearest)[int(0.25 * len(nearest))]

    plain = stf_jax.match_tracklets(sets["query"], sets["gallery"], top=4)
    data = page_data(output / "index.html")
    with open(output / "matches.csv", newline="") as file:
        table = list(csv.DictReader(file))
    answers, listed = set(), iter(table)
    for row, query in enumerate(data["queries"]):
        near = plain.distances[row] < threshold
        assert query["entries"] == plain.entries[row][near].tolist()
        nobody = not near.any() and row != UNREAD
        assert query["nobody"] == nobody
        answers.add((nobody, bool(near.any())))
        if nobody:
            line = next(listed)
            assert (line["query_row"], line["gallery"]) == (str(row), "nobody in the gallery")
            assert line["query_camera"] == str(sets["query"].cameras[row])
            empty = ("place", "gallery_row", "distance", "probability", "gallery_camera")
            assert not any(line[name] for name in empty)
        for entry in query["entries"]:
            assert next(listed)["gallery_row"] == str(entry)
    assert next(listed, None) is None
    assert answers == {(True, False), (False, True), (False, False)}
    text = " ".join((output / "index.html").read_text().split())
    count = sum(query["nobody"] for query in data["queries"])
    assert f"Lists end at distance {threshold:.4g}: there 25 % of {len(queries)} queries" in text
    assert f"Of {count} queries nobody is in the gallery." in text
    assert "This gallery has 21 tracklets: expect more false alarms" in text
    assert f"; of {count} nobody is in the gallery; written" in capsys.readouterr().out
    assert '<select id="answer">' in text

    assert main([*argv, "--false-alarms", "0.01"]) == 2
    assert "expected 100 or more for false alarms of 1 %" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*argv[:-4], "--false-alarms", "0.01"])
    assert "--false-alarms needs --calibrate" in capsys.readouterr().err


def test_a_threshold_of_other_lists_or_features_is_refused(tmp_path: Path) -> None:
    drawn = draw(tmp_path).feature_set()
    calibration = fit_calibration(drawn, false_alarms=0.25)
    with pytest.raises(UserError, match="a threshold of lists without entries of the query's own"):
        stf_jax.match_tracklets(drawn, drawn, calibration=calibration, same_camera=True)
    other = dataclasses.replace(calibration, dimensions=7)
    with pytest.raises(UserError, match="calibration: features of 7 numbers; expected 4"):
        stf_jax.match_tracklets(drawn, drawn, calibration=other)


def test_lists_are_of_other_cameras_and_a_track_is_one_tracklet(tmp_path: Path) -> None:
    """Four tracks of two cameras, one of them in two pieces; the command's table has them all."""
    features = [[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6], [0, 1]]
    sources = np.array([[7, 1, 40], [8, 5, 9], [7, 3, 8], [9, 1, 2], [7, 50, 90]])
    found = dataclasses.replace(
        make_set(features), cameras=np.array([1, 1, 2, 2, 1]), sources=sources
    )
    write_features(tmp_path / "all.npz", found)
    write_run_files(tmp_path / "run", to_json(Config()), {})
    argv = ["--mode", "match", "--workdir", str(tmp_path / "run"), "--output", str(tmp_path / "w")]
    argv += ["--query", str(tmp_path / "all.npz"), "--gallery", str(tmp_path / "all.npz")]

    def rows(*options: str) -> list[tuple[str, ...]]:
        assert main([*argv, *options]) == 0
        with open(tmp_path / "w" / "matches.csv", newline="") as file:
            sides = [
                [f"{s}_{part}" for part in ("camera", "id", *FRAMES)] for s in ("query", "gallery")
            ]
            return [tuple(line[c] for side in sides for c in side) for line in csv.DictReader(file)]

    first, second, third, fourth = (
        ("1", "7", "1", "90"), ("1", "8", "5", "9"), ("2", "7", "3", "8"), ("2", "9", "1", "2"),
    )  # fmt: skip
    # The first track's feature is that of both pieces together: at 45 degrees.
    assert rows("--top", "1") == [first + third, second + third, third + first, fourth + first]
    assert rows("--top", "1", "--query-camera", "2,1") == rows("--top", "1")
    pieces = [("1", "7", "1", "40"), ("1", "7", "50", "90")]
    assert rows("--top", "1", "--pieces")[::4] == [pieces[0] + fourth, pieces[1] + third]
    same = rows("--same-camera", "--top", "3", "--query-camera", "1")
    assert [row[4:] for row in same[:3]] in ([third, fourth, second], [fourth, third, second])


def test_one_camera_alone_has_nobody_to_look_among() -> None:
    one = make_set([[1, 0], [0, 1]])
    with pytest.raises(UserError, match=r"all of query and gallery are of camera 1; .*--camera N"):
        stf_jax.match_tracklets(one, one)


def test_the_page_shows_what_is_asked_for(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "set").feature_set()
    matches = stf_jax.match_tracklets(drawn, drawn, top=3)
    page = stf_jax.write_matches(tmp_path, matches, shown=4)
    nearest = np.argsort(matches.distances[:, 0], kind="stable")[:4]
    shown = [query["entries"] for query in page_data(page)["queries"]]
    assert shown == matches.entries[np.sort(nearest)].tolist()
    assert "Shown are the 4 with the nearest entries; matches.csv has all 21." in page.read_text()
    with open(tmp_path / "matches.csv", newline="") as file:
        rows = {line["query_row"] for line in csv.DictReader(file)}
    assert len(rows) == drawn.num_tracklets - 1  # one could not be read


def test_without_calibration_there_are_no_probabilities(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "set")
    features = drawn.feature_set()
    stf_jax.write_matches(tmp_path, stf_jax.match_tracklets(features, features, top=3))
    assert all("probable" not in query for query in page_data(tmp_path / "index.html")["queries"])
    with open(tmp_path / "matches.csv", newline="") as file:
        assert {line["probability"] for line in csv.DictReader(file)} == {""}


def test_names_that_are_formulas_or_no_utf8_are_written(tmp_path: Path) -> None:
    query = make_set([[1, 0], [0, 1]])
    titles = np.array(["=1+1", "caf\udce9"])
    gallery = dataclasses.replace(make_set([[1, 0], [0, 1]], "b"), titles=titles)
    matches = stf_jax.match_tracklets(query, gallery, same_camera=True)
    page = stf_jax.write_matches(tmp_path, matches)
    with open(tmp_path / "matches.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["gallery"] for row in rows if row["place"] == "1"] == ["'=1+1", "caf\\udce9"]
    names = [t["name"] for t in page_data(page)["tracklets"]["g"].values()]
    assert names == ["=1+1", "caf\udce9"]
    assert not list(tmp_path.glob("*.part"))


WRITERS = {
    "stf_jax.prepare.__main__": "synthetic --output OUT --identities 4 --train-identities 2",
    "stf_jax.data.decode": "ROOT OUT --height 64 --width 32",
    "stf_jax.data.video_reid_builder": "--layout ROOT --data-dir OUT --name here",
    "stf_jax.match": "--mode match --workdir RUN --query Q --gallery Q --same-camera --output OUT",
    "stf_jax.embed": "--mode embed --workdir RUN --input ROOT --output OUT/a.npz",
}
LOCKS = {"stf_jax.data.video_reid_builder": ".here.lock", "stf_jax.embed": ".a.npz.lock"}


@pytest.mark.parametrize("module", WRITERS)
def test_every_command_that_writes_a_folder_is_its_only_writer(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, features, run = tmp_path / "layout", tmp_path / "q.npz", tmp_path / "run"
    argv = f"synthetic --output {layout} --identities 4 --train-identities 2".split()
    assert prepare.main(argv) == 0
    write_features(features, make_set([[1, 0], [0, 1]]))
    write_run_files(run, to_json(Config()), {})
    names = {"OUT": tmp_path / "out", "ROOT": layout, "Q": features, "RUN": run}
    words, lock = WRITERS[module], LOCKS.get(module, LOCK_FILE)
    command = main if words.startswith("--mode") else importlib.import_module(module).main
    for name, path in names.items():
        words = re.sub(rf"\b{name}\b", str(path), words)
    with one_owner(tmp_path / "out", lock):
        before = sorted(tmp_path.rglob("*"))
        assert command(words.split()) == 2
        assert sorted(tmp_path.rglob("*")) == before
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{tmp_path / 'out'}: is being written by process {os.getpid()} on " in line
