"""Who is who by the command: table, tracks with new ids, page, scores; and what is refused."""

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from origins import make_origin

import stf_jax
from stf_jax.errors import UserError
from stf_jax.evaluation.calibration import fit_calibration
from stf_jax.evaluation.features.feature_files import FeatureSet, read_features, write_features
from stf_jax.evaluation.features.sources import join_pieces
from stf_jax.evaluation.identities import Presence, cannot_link, find_identities
from stf_jax.identify import parse_starts, parse_tracks, read_travel_times
from stf_jax.main import main

# Person, camera, tracker's id, first and last frame.
HALL = ((0, 1, 4, 1, 50), (1, 1, 5, 20, 60), (0, 1, 9, 80, 99), (2, 1, 6, 70, 90))
DOOR = ((1, 2, 1, 1, 30), (0, 2, 2, 10, 40), (3, 2, 3, 50, 55), (1, 2, 1, 35, 45))


def make_set(rows: Any, seed: int, spread: float = 0.02, **changes: Any) -> FeatureSet:
    rng = np.random.default_rng(seed)
    people, cameras, ids, first, last = (np.array(column) for column in zip(*rows, strict=True))
    features = np.eye(6)[people] + spread * rng.normal(size=(len(rows), 6))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    count = len(rows)
    values: dict[str, Any] = {
        "features": features.astype(np.float32),
        "person_ids": people,
        "cameras": cameras,
        "tracks": np.arange(1, count + 1),
        "marks": np.tile(np.array([0, 1], np.int8), count)[:count],
        "titles": np.full(count, "", "U1"),
        "num_frames": last - first + 1,
        "offsets": np.arange(count + 1),
        "names": np.array([f"{seed}_{row}.png" for row in range(count)], "S"),
        "image_dir": "/nowhere",
        "origin": make_origin(),
        "sources": np.stack([ids, first, last], axis=1),
        "rates": np.full(count, 10.0),
    }
    values |= dict.fromkeys(
        ("frame_weights", "intra_weights", "inter_weights"), np.ones(count, "f")
    )
    return FeatureSet(**values | changes)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """hall and door, and a labelled set to calibrate with."""
    labelled = [(person, camera, 1, 1, 2) for person in range(6) for camera in (1, 2)]
    sets = {"hall": make_set(HALL, 1), "door": make_set(DOOR, 2), "known": make_set(labelled, 3)}
    for name, features in sets.items():
        write_features(tmp_path / f"{name}.npz", features)
    return {name: tmp_path / f"{name}.npz" for name in sets}


def tracks_of(rows: Any) -> str:
    lines = [
        f"{frame},{source},10,20,{30 + frame},60,0.9"
        for _, _, source, first, last in rows
        for frame in range(first, last + 1)
    ]
    return "\n".join([*lines, "3,77,1,1,5,5,0.1"]) + "\n"


@pytest.mark.parametrize("how", ["people", "calibrate", "alarms"])
def test_the_command(how: str, files: dict[str, Path], tmp_path: Path, capsys) -> None:
    (tmp_path / "hall.txt").write_text(tracks_of(HALL))
    (tmp_path / "door.txt").write_text(tracks_of(DOOR).replace(",", " "))
    argv = ["--mode", "identify", "--input", str(files["hall"]), str(files["door"])]
    argv += ["--output", str(tmp_path / "who"), "--labelled"]
    argv += ["--tracks", f"1:{tmp_path / 'hall.txt'}", f"door@2:{tmp_path / 'door.txt'}"]
    argv += {
        "people": ["--people", "4"],
        "calibrate": ["--calibrate", str(files["known"])],
        "alarms": ["--calibrate", str(files["known"]), "--false-alarms", "0.3"],
    }[how]
    assert main(argv) == 0
    with open(tmp_path / "who" / "identities.csv", newline="") as file:
        table = list(csv.DictReader(file))
    # The two pieces of id 1 at the door are one tracklet.
    wanted = [
        *(("hall", *row[1:]) for row in HALL),
        ("door", 2, 1, 1, 45),
        *(("door", *row[1:]) for row in DOOR[1:3]),
    ]
    columns = ("input", "camera", "id", "first_frame", "last_frame")
    assert [tuple(line[c] for c in columns) for line in table] == [
        tuple(map(str, row)) for row in wanted
    ]
    assert [line["identity"] for line in table] == ["1", "2", "1", "3", "2", "1", "4"]
    assert [bool(line["distance"]) for line in table] == [
        True,
        True,
        True,
        False,
        True,
        True,
        False,
    ]
    identity = {(line["input"], line["id"]): line["identity"] for line in table}
    for name, rows in (("hall", HALL), ("door", DOOR)):
        camera = rows[0][1]
        new = (tmp_path / "who" / "tracks" / f"{name}_{camera}.txt").read_text().splitlines()
        old = (tmp_path / f"{name}.txt").read_text().splitlines()
        assert len(new) == len(old) - 1  # a box of nobody
        for line, before in zip(new, old, strict=False):
            fields, of_old = re.split("[, ]", line), re.split("[, ]", before)
            assert fields[1] == identity[name, of_old[1]]
            assert fields[:1] + fields[2:] == of_old[:1] + of_old[2:]
    page = (tmp_path / "who" / "index.html").read_text()
    assert re.findall(r">Person (\d)<", page) == ["1", "2", "3", "4"]
    assert "frames 80 to 99" in page
    assert "1 boxes of no tracklet" in page
    assert len(list((tmp_path / "who" / "strips").iterdir())) == 7
    scores = json.loads((tmp_path / "who" / "scores.json").read_text())
    assert set(scores.values()) == {1.0}
    assert "pairwise F1 100.0" in capsys.readouterr().out
    assert "doubtful" in page


def test_doubtful_joins_are_marked(tmp_path: Path) -> None:
    """Four people who are equally far apart, taken for three."""
    rows = [(person, 1, person, 100 * person, 100 * person + 9) for person in range(4)]
    people = stf_jax.identify_tracklets({"hall": make_set(rows, 1)}, people=3)
    sizes = np.bincount(people.labels)[people.labels]
    assert sorted(sizes.tolist()) == [1, 1, 2, 2]
    assert people.doubtful.tolist() == (sizes == 2).tolist()
    page = stf_jax.write_identities(tmp_path, people).read_text()
    assert page.count('<span class="badge wrong">doubtful</span>') == people.doubtful.sum()
    with open(tmp_path / "identities.csv", newline="") as file:
        marks = [line["doubtful"] == "yes" for line in csv.DictReader(file)]
    assert marks == people.doubtful.tolist()


def test_without_times_there_is_no_time_line(tmp_path: Path) -> None:
    known = make_set(HALL, 1)
    unknown = dataclasses.replace(known, sources=None, rates=None)
    for features, drawn in ((known, True), (unknown, False)):
        people = stf_jax.identify_tracklets({"hall": features}, people=3)
        page = stf_jax.write_identities(tmp_path, people).read_text()
        assert ('class="lanes"' in page) == ("in the order of time" in page) == drawn
        assert ("time not known" in page) == (not drawn)


def test_seen_at_the_same_time_or_too_far_apart() -> None:
    rows = ((0, 1, 1, 1, 50), (0, 1, 2, 40, 60), (0, 2, 1, 70, 80), (0, 2, 2, 500, 510))
    one = {"all": make_set(rows, 1)}
    assert stf_jax.identify_tracklets(one, people=2).labels[:2].tolist() == [1, 2]
    with pytest.raises(UserError, match="people: 1; expected 2 or more"):
        stf_jax.identify_tracklets(one, people=1)
    # Ten frames a second: from 5 s, 6 s, to 7 s, and to 50 s.
    found = stf_jax.identify_tracklets(one, people=3, travel_times={(1, 2): 3.0})
    assert found.labels[2] not in found.labels[:2]
    assert found.in_seconds
    assert found.presence.starts.tolist() == [0.1, 4.0, 7.0, 50.0]
    later = stf_jax.identify_tracklets(one, people=2, travel_times={(1, 2): 3.0}, starts={2: 100.0})
    assert later.presence.starts.tolist() == [0.1, 4.0, 107.0, 150.0]
    # Of two files each has a clock of its own: two visits.
    two = {"monday": make_set(rows[:1], 1), "tuesday": make_set(rows[1:2], 2)}
    assert stf_jax.identify_tracklets(two, people=1).count == 1
    with pytest.raises(UserError, match="people: 1; expected 2"):
        stf_jax.identify_tracklets(two, people=1, starts={})


def test_old_files_have_no_times(files: dict[str, Path], tmp_path: Path, caplog) -> None:
    with np.load(files["hall"]) as stored:
        values = {name: stored[name] for name in stored.files}
    del values["rates"]
    np.savez(tmp_path / "no_rates.npz", allow_pickle=False, **values)
    del values["sources"]
    np.savez(tmp_path / "old.npz", allow_pickle=False, **values)
    no_rates, old = (read_features(tmp_path / f"{n}.npz") for n in ("no_rates", "old"))
    assert no_rates.rates is None
    assert stf_jax.identify_tracklets({"a": no_rates}, people=3).count == 3
    with pytest.raises(UserError, match="a: no frame rate of camera 1; expected one for travel"):
        stf_jax.identify_tracklets({"a": no_rates}, people=3, travel_times={(1, 2): 1.0})
    assert not caplog.records
    assert stf_jax.identify_tracklets({"old": old}, people=3).count == 3
    (record,) = caplog.records
    assert "old: no frames of its tracklets are known" in record.message
    with pytest.raises(UserError, match="old: no frames of its tracklets are known; expected"):
        stf_jax.identify_tracklets({"old": old}, people=3, starts={})


def test_one_without_an_image_has_no_identity(tmp_path: Path) -> None:
    features = make_set(HALL, 1)
    values = features.features.copy()
    values[1] = 0
    blank = dataclasses.replace(features, features=values)
    people = stf_jax.identify_tracklets({"hall": blank}, people=2)
    assert people.labels.tolist() == [1, 0, 1, 2]
    stf_jax.write_identities(tmp_path, people)
    with open(tmp_path / "identities.csv", newline="") as file:
        assert [line["identity"] for line in csv.DictReader(file)] == ["1", "", "1", "2"]


def test_centred_as_by_hand(files: dict[str, Path]) -> None:
    rng = np.random.default_rng(4)
    rows = [(p, c, 10 * p + c, 100 * p, 100 * p + 9) for p in range(6) for c in (1, 2)]
    features = make_set(rows, 5)
    shift = np.where(features.cameras[:, None] == 1, 1.5, -1.5) * rng.normal(size=6)
    values = (features.features + shift).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    shifted = dataclasses.replace(features, features=values)
    people = stf_jax.identify_tracklets({"a": shifted}, people=6, centre_with="gallery")
    plain = stf_jax.identify_tracklets({"a": shifted}, people=6)
    means = {c: values[features.cameras == c].mean(0) for c in (1, 2)}
    rest = np.stack([v - means[c] for v, c in zip(values, features.cameras.tolist(), strict=True)])
    rest /= np.linalg.norm(rest, axis=1, keepdims=True)
    never = np.zeros((12, 12), bool)
    wanted = find_identities(rest, never, people=6)
    assert people.labels.tolist() == (wanted.labels + 1).tolist()
    assert people.labels.tolist() != plain.labels.tolist()
    calibration = fit_calibration(read_features(files["known"]))
    with pytest.raises(UserError, match="calibration: centred where the inputs are not"):
        stf_jax.identify_tracklets({"a": shifted}, calibration=calibration, centre_with="gallery")


def test_what_is_refused(files: dict[str, Path], tmp_path: Path, capsys) -> None:
    hall = read_features(files["hall"])
    other = dataclasses.replace(hall, origin=make_origin(step=2))
    with pytest.raises(UserError, match=r"the first: features of .*; b: features of"):
        stf_jax.identify_tracklets({"a": hall, "b": other}, people=2)
    with pytest.raises(UserError, match="expected the number of people, or a set"):
        stf_jax.identify_tracklets({"a": hall})
    calibration = fit_calibration(read_features(files["known"])).with_prior(1e-12)
    with pytest.raises(UserError, match=r"even at distance 0 .* --false-alarms, or --people"):
        stf_jax.identify_tracklets({"a": hall}, calibration=calibration)
    with pytest.raises(UserError, match="starts 1=a: expected CAMERA=SECONDS"):
        parse_starts("1=a")
    assert parse_starts("1=0,2=-12.5") == {1: 0.0, 2: -12.5}
    inputs = {"hall": hall, "again": hall}
    with pytest.raises(UserError, match="camera 1 is in hall, again; expected one of"):
        parse_tracks(["1:a.txt"], inputs)
    with pytest.raises(UserError, match="camera 7 is in no input"):
        parse_tracks(["7:a.txt"], inputs)
    assert parse_tracks(["again@1:a:b.txt"], inputs) == {("again", 1): Path("a:b.txt")}
    path = tmp_path / "way.csv"
    for text in ("from,to,seconds\n1,1,3\n", "from,to,seconds\n1,2,-3\n", "a,b\n1,2\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="expected a CSV file with the columns from, to"):
            read_travel_times(path)
    path.write_text("from,to,seconds\n1,2,3.5\n")
    assert read_travel_times(path) == {(1, 2): 3.5}
    argv = ["--mode", "identify", "--input", str(files["hall"]), "--output", str(tmp_path / "o")]
    for more, said in (
        ([], "needs either --people or --calibrate"),
        (["--people", "2", "--config.seed=1"], "--config.seed=1 has no effect"),
    ):
        with pytest.raises(SystemExit):
            main([*argv, *more])
        assert said in capsys.readouterr().err
    assert main([*argv, "--people", "2", "--tracks", f"1:{tmp_path / 'none.txt'}"]) == 2
    assert "none.txt: no such track file" in capsys.readouterr().err


def test_constraints_are_those_of_the_joined_tracks() -> None:
    joined = join_pieces(make_set(DOOR, 2))
    assert joined.rates is not None
    assert joined.sources is not None
    times = joined.sources[:, 1:].astype(float)
    found = cannot_link(Presence(np.zeros(3, int), joined.cameras, times[:, 0], times[:, 1]))
    assert found.tolist() == [[False, True, False], [True, False, False], [False] * 3]
