"""A gallery grows, is searched, shrinks; drawn features, no model."""

import csv
import datetime
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_features import D, draw, save
from origins import make_origin
from PIL import Image

from stf_jax.errors import UserError
from stf_jax.folder_lock import one_owner
from stf_jax.gallery import rows
from stf_jax.gallery.__main__ import main
from stf_jax.gallery.search import condition, search_gallery
from stf_jax.gallery.table import create_gallery, open_gallery

START = ["--start", "2026-11-27T19:00:00+01:00", "--frame-rate", "10"]


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_gallery_grows_and_every_tracklet_is_in_it_once(lancedb, tmp_path: Path, capsys) -> None:
    hall, _ = save(tmp_path, "hall.npz", 0)
    door, features = save(tmp_path, "door.npz", 1)
    where = str(tmp_path / "night")
    assert main(["create", where, hall]) == 0
    assert main(["add", where, door, hall, *START]) == 0
    assert main(["add", where, door]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in said] == [
        f"{n} tracklets added" for n in (12, 12, 0, 0)
    ]
    table = open_gallery(where).table.search().limit(100).to_arrow().to_pylist()
    assert len(table) == 24
    (entry,) = [e for e in table if e["id"] == rows.tracklet_ids(features)[3]]
    assert (entry["camera"], entry["person"], entry["source"]) == (2, 3, door)
    assert (entry["tracker_id"], entry["first_frame"], entry["last_frame"]) == (3, 301, 351)
    assert entry["seen_from"] == datetime.datetime(2026, 11, 27, 18, 0, 30)
    assert entry["seen_to"] == datetime.datetime(2026, 11, 27, 18, 0, 35)
    assert entry["thumbnail"][:2] == b"\xff\xd8"
    assert entry["feature"] == features.features[3].tolist()
    assert main(["info", where]) == 0
    text = capsys.readouterr().out
    assert "24 tracklets: 12 of camera 1, 12 of camera 2" in text
    assert "seen from 2026-11-27T18:00:00Z to 2026-11-27T18:01:55Z" in text
    assert "people with labels: 12" in text
    assert main(["create", where, hall]) == 2
    assert "is a gallery already" in capsys.readouterr().err


def test_what_is_not_known_is_empty(lancedb, tmp_path: Path, capsys) -> None:
    blank = np.zeros((12, D), np.float32)
    blank[1:] = draw(tmp_path, 5).features[1:]
    unknown = {"sources": None, "person_ids": np.full(12, -1), "image_dir": str(tmp_path / "gone")}
    path, _ = save(tmp_path, "a.npz", 5, features=blank, **unknown)
    where = str(tmp_path / "night")
    assert main(["create", where, path]) == 0
    assert (
        "11 tracklets added, 0 were there already, 1 without a feature" in capsys.readouterr().out
    )
    for entry in open_gallery(where).table.search().limit(100).to_arrow().to_pylist():
        empty = ("person", "tracker_id", "first_frame", "frame_rate", "seen_from", "thumbnail")
        assert all(entry[name] is None for name in empty)
    more, _ = save(tmp_path, "b.npz", 6, sources=None)
    assert main(["add", where, more, *START]) == 2
    assert "has no first and last frames" in capsys.readouterr().err


def test_frame_rates_are_the_features_unless_one_is_given(lancedb, tmp_path: Path, capsys) -> None:
    rates = np.full(12, 5.0)
    known, _ = save(tmp_path, "a.npz", 7, rates=rates)
    where = str(tmp_path / "night")
    assert main(["create", where, known, *START[:2]]) == 0
    for entry in open_gallery(where).table.search().limit(100).to_arrow().to_pylist():
        assert entry["frame_rate"] == 5
        assert entry["seen_to"] - entry["seen_from"] == datetime.timedelta(seconds=10)
    rates[3] = np.nan
    lacking, _ = save(tmp_path, "b.npz", 8, rates=rates)
    assert main(["add", where, lacking, *START[:2]]) == 2
    assert "id 3, frames 301-351: its frames a second are not known" in capsys.readouterr().err
    assert main(["add", where, lacking, *START]) == 0
    with pytest.raises(SystemExit):
        main(["add", where, lacking, *START[2:]])


def by_hand(features: np.ndarray, query: np.ndarray, keep: np.ndarray, top: int) -> Any:
    """Places and distances of the nearest by all distances in float64."""
    difference = query[:, None].astype(np.float64) - features[None]
    distances = np.where(keep, np.sqrt((difference**2).sum(2)), np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :top]
    return order, np.take_along_axis(distances, order, 1)


@pytest.mark.parametrize("same_camera", [False, True])
def test_search_is_that_of_all_distances(
    same_camera: bool, lancedb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("stf_jax.gallery.search._ROWS", 7)
    monkeypatch.setattr("stf_jax.gallery.search._MERGED", 2)
    first, second = draw(tmp_path, 0, 40), draw(tmp_path, 1, 25)
    gallery = create_gallery(str(tmp_path / "night"), first.origin, D)
    for features in (first, second):
        rows.add_features(gallery, features, "a file")
    query = first.select(np.array([3, 4, 11]))
    if same_camera:
        found = search_gallery(gallery, query, top=5, same_camera=True)
    else:  # the default
        found = search_gallery(gallery, query, top=5)
    every = np.concatenate([first.features, second.features])
    cameras = np.concatenate([first.cameras, second.cameras])
    keep = np.ones((3, 65), bool) if same_camera else query.cameras[:, None] != cameras
    keep[np.arange(3), [3, 4, 11]] = False
    order, distances = by_hand(every, query.features, keep, 5)
    np.testing.assert_allclose(found.distances, distances, atol=1e-6)
    ids = {e["_rowid"]: e["id"] for e in stored(gallery)}
    known = rows.tracklet_ids(first) + rows.tracklet_ids(second)
    assert [[ids[r] for r in row] for row in found.rows] == [[known[i] for i in r] for r in order]


def stored(gallery: Any) -> list[dict[str, Any]]:
    return gallery.table.search().with_row_id(True).limit(1000).to_arrow().to_pylist()


def test_search_by_camera_and_time_writes_a_table(lancedb, tmp_path: Path, capsys) -> None:
    hall, _ = save(tmp_path, "hall.npz", 0)
    query, _ = save(tmp_path, "query.npz", 1, cameras=np.full(12, 3))
    where, output = str(tmp_path / "night"), tmp_path / "out"
    assert main(["create", where, hall, *START]) == 0
    argv = ["search", where, "--query", query, "--output", str(output)]
    assert main([*argv, "--camera", "2", "--top", "20"]) == 0
    found = read(output / "matches.csv")
    assert len(found) == 12 * 6
    assert {entry["camera"] for entry in found} == {"2"}
    assert [entry["place"] for entry in found[:7]] == ["1", "2", "3", "4", "5", "6", "1"]
    thumbnails = {entry["thumbnail"] for entry in found}
    assert len(thumbnails) == 6
    for name in thumbnails:
        Image.open(output / name).verify()
    times = ["--since", "2026-11-27T18:00:13Z", "--until", "2026-11-27T18:00:30"]
    assert main([*argv, *times]) == 0
    # Tracklet n is seen from second 10 n to second 10 n + 5.
    assert {entry["tracker_id"] for entry in read(output / "matches.csv")} == {"1", "2", "3"}
    assert main([*argv, "--since", "2027-01-01"]) == 0
    assert read(output / "matches.csv") == []
    with pytest.raises(SystemExit):
        main([*argv, "--since", "yesterday"])
    assert "expected a time such as" in capsys.readouterr().err


def test_features_of_another_model_are_refused(lancedb, tmp_path: Path, capsys) -> None:
    hall, _ = save(tmp_path, "hall.npz", 0)
    other, _ = save(tmp_path, "other.npz", 1, origin=make_origin(weights_digest="f" * 16))
    wide = np.eye(12, 2 * D, dtype=np.float32)
    longer, _ = save(tmp_path, "longer.npz", 2, features=wide)
    where = str(tmp_path / "night")
    assert main(["create", where, hall]) == 0
    for path, said in ((other, "expected one run, checkpoint and settings"), (longer, f"{D}, as")):
        for argv in (["add", where, path], ["search", where, "--query", path, "--output", where]):
            capsys.readouterr()
            assert main(argv) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert said in line
    assert open_gallery(where).table.count_rows() == 12


KILLED = """
import os, sys
from stf_jax.gallery import rows
from stf_jax.gallery.__main__ import main

rows._ROWS, drawn, count = 4, rows._thumbnail, 0

def thumbnail(*arguments):
    global count
    count += 1
    if count == 7:
        os.kill(os.getpid(), 9)
    return drawn(*arguments)

rows._thumbnail = thumbnail
main(sys.argv[1:])
"""


def test_a_killed_add_leaves_whole_parts_and_is_finished_later(
    lancedb, tmp_path: Path, capsys
) -> None:
    hall, features = save(tmp_path, "hall.npz", 0)
    where = str(tmp_path / "night")
    create_gallery(where, features.origin, D)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "add", where, hall],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
        timeout=300,
        check=False,
    )
    assert done.returncode == -9
    assert len(stored(open_gallery(where))) == 4
    assert main(["add", where, hall]) == 0
    assert "8 tracklets added, 4 were there already" in capsys.readouterr().out
    assert {e["id"] for e in stored(open_gallery(where))} == {*rows.tracklet_ids(features)}


def on_disk(folder: str, what: bytes) -> bool:
    """Whether any file below `folder` holds these bytes."""
    return any(what in p.read_bytes() for p in Path(folder).rglob("*") if p.is_file())


def test_a_person_that_is_removed_is_on_no_disk_after_a_purge(
    lancedb, tmp_path: Path, capsys
) -> None:
    hall, features = save(tmp_path, "hall.npz", 0)
    where = str(tmp_path / "night")
    assert main(["create", where, hall]) == 0
    (gone,) = [e for e in stored(open_gallery(where)) if e["person"] == 7]
    (kept,) = [e for e in stored(open_gallery(where)) if e["person"] == 8]
    secrets = gone["thumbnail"][100:400], features.features[7].tobytes()
    capsys.readouterr()
    assert main(["remove", where, "--person", "7"]) == 0
    said = capsys.readouterr().out
    assert "1 tracklets removed" in said
    assert f"python -m stf_jax.gallery remove {where} --purge" in said
    assert {e["person"] for e in stored(open_gallery(where))} == {*range(12)} - {7}
    assert all(on_disk(where, secret) for secret in secrets)
    assert main(["remove", where, "--purge"]) == 0
    assert not any(on_disk(where, secret) for secret in secrets)
    again = {e["person"]: e for e in stored(open_gallery(where))}
    assert {**again[8], "_rowid": 0} == {**kept, "_rowid": 0}
    assert open_gallery(where).origin == features.origin
    assert main(["add", where, hall]) == 0  # and can be added again
    assert len(stored(open_gallery(where))) == 12


def test_what_is_removed_is_what_all_options_name(lancedb, tmp_path: Path, capsys) -> None:
    hall, features = save(tmp_path, "ha'll.npz", 0)
    where = str(tmp_path / "night")
    assert main(["create", where, hall, *START]) == 0

    def left() -> set[int]:
        return {e["person"] for e in stored(open_gallery(where))}

    assert main(["remove", where, "--id", rows.tracklet_ids(features)[0].hex()]) == 0
    assert main(["remove", where, "--person", "1", "2", "--camera", "2", "--source", hall]) == 0
    assert left() == {*range(12)} - {0, 1}
    assert main(["remove", where, "--before", "2026-11-27T18:00:36"]) == 0
    assert left() == {*range(4, 12)}
    for argv, said in (
        (["--person", "99"], "nothing was removed"),
        (["--person", "7", "--source", "door.npz"], "nothing was removed"),
        (["--id", "zz"], "expected ids"),
        ([], "nothing to remove"),
    ):
        capsys.readouterr()
        assert main(["remove", where, *argv]) == 2
        assert said in capsys.readouterr().err
    assert left() == {*range(4, 12)}


def test_an_index_says_its_recall(lancedb, tmp_path: Path, capsys) -> None:
    save(tmp_path, "many.npz", 0, count=600)
    query, wanted = save(tmp_path, "query.npz", 1, cameras=np.full(12, 3))
    where = str(tmp_path / "night")
    assert main(["create", where, str(tmp_path / "many.npz")]) == 0
    argv = ["search", where, "--query", query, "--output", str(tmp_path / "out"), "--top", "5"]
    capsys.readouterr()
    assert main([*argv, "--index"]) == 0
    assert "recall of the index at 5: " in capsys.readouterr().out
    gallery = open_gallery(where)
    assert gallery.table.list_indices()[0].columns == ["feature"]
    exact = search_gallery(gallery, wanted, top=5)
    found = search_gallery(gallery, wanted, top=5, index=True)
    same = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(exact.rows, found.rows, strict=True)])
    assert found.recall == pytest.approx(same)
    assert same > 0.5
    np.testing.assert_allclose(found.distances[:, 0], exact.distances[:, 0], atol=1e-3)
    assert main(["remove", where, "--camera", "1,2", "--purge"]) == 0
    assert main(["add", where, query]) == 0
    assert main([*argv, "--index"]) == 2
    assert "12 tracklets; an index needs 256" in capsys.readouterr().err


def test_conditions() -> None:
    assert condition(None) is None
    assert condition([1, 4], datetime.datetime(2026, 1, 1), None) == (
        "camera IN (1, 4) AND seen_to >= timestamp '2026-01-01 00:00:00'"
    )


def test_no_gallery_is_a_line(lancedb, tmp_path: Path, capsys) -> None:
    hall, _ = save(tmp_path, "hall.npz", 0)
    (tmp_path / "empty").mkdir()
    for where in ("nowhere", "empty"):
        for argv in (["info"], ["add"], ["remove"]):
            capsys.readouterr()
            folder = str(tmp_path / where)
            assert main([*argv, folder, *([hall] if argv == ["add"] else [])]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "no gallery" in line
    assert not (tmp_path / "nowhere").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_damaged_gallery_is_a_line(lancedb, tmp_path: Path, capsys) -> None:
    hall, _ = save(tmp_path, "hall.npz", 0)
    where = tmp_path / "night"
    assert main(["create", str(where), hall]) == 0
    for path in (where / "tracklets.lance" / "data").iterdir():
        path.write_bytes(b"nothing")
    capsys.readouterr()
    assert main(["info", str(where)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "LanceDB cannot read or write it" in line


def test_one_writer_at_a_time(lancedb, tmp_path: Path, capsys) -> None:
    hall, features = save(tmp_path, "hall.npz", 0)
    where = str(tmp_path / "night")
    create_gallery(where, features.origin, D)
    with one_owner(Path(where)):
        for argv in (["add", where, hall], ["remove", where, "--purge"]):
            assert main(argv) == 2
            assert "is being written" in capsys.readouterr().err
    with pytest.raises(UserError, match="is a gallery already"):
        create_gallery(where, features.origin, D)


def test_a_missing_package_is_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    hall, _ = save(tmp_path, "hall.npz", 0)
    assert main(["create", str(tmp_path / "night"), hall]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lancedb: the package is not installed" in line
    assert "stf-jax[gallery]" in line
    assert not (tmp_path / "night").exists()
