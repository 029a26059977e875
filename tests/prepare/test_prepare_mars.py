import argparse
import errno
import io
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from stf_jax.data.layout.partitions import GALLERY, QUERY, load_layout
from stf_jax.errors import UserError
from stf_jax.prepare import mars, placing
from stf_jax.prepare.published import mars_tables, mat_files, official_counts

OFFICIAL = Path(__file__).parents[1] / "fixtures" / "mars_info"


def official(name):
    values = scipy.io.loadmat(OFFICIAL / name)
    return next(v for k, v in values.items() if not k.startswith("__")).astype(np.int64)


def mars_names(rows):
    """Names of the kind that MARS has, for consecutive rows of a track table."""
    names, tracks = [], defaultdict(int)
    for first, last, person, camera in rows.tolist():
        tracks[person, camera] += 1
        folder = "00-1" if person == -1 else f"{person:04d}"
        track = tracks[person, camera]
        names += [f"{folder}C{camera}T{track:04d}F{k:03d}.jpg" for k in range(1, last - first + 2)]
    return names


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def subsample(rows, keep, most):
    """The rows `keep`, cut to at most `most` images, with consecutive image lines."""
    rows = rows[keep].copy()
    lengths = np.minimum(rows[:, 1] - rows[:, 0] + 1, most)
    rows[:, 1] = np.cumsum(lengths)
    rows[:, 0] = rows[:, 1] - lengths + 1
    return rows


def write_tree(root, tables, queries, names=None):
    """A MARS folder: every image has contents of its own."""
    (root / "info").mkdir(parents=True)
    for subset, rows in tables.items():
        listed = (names or {}).get(subset) or mars_names(rows)
        (root / "info" / f"{subset}_name.txt").write_text("\n".join(listed) + "\n")
        path = root / "info" / f"tracks_{subset}_info.mat"
        scipy.io.savemat(path, {f"track_{subset}_info": rows.astype(np.int32)})
        for k, name in enumerate(listed):
            path = root / f"bbox_{subset}" / name[:4] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(k % 5) + f"{subset} {k}".encode())
    scipy.io.savemat(root / "info" / "query_IDX.mat", {"query_IDX": queries[None].astype("u2")})


@pytest.fixture(scope="module")
def small():
    """Parts of the official tables: some people, junk and distractors, all their queries."""
    train, test = official("tracks_train_info.mat"), official("tracks_test_info.mat")
    queries = official("query_IDX.mat").reshape(-1)
    people = np.unique(test[:, 2])
    rng = np.random.default_rng(0)
    chosen = rng.choice(people[people > 0], 6, replace=False)
    keep = np.flatnonzero(np.isin(test[:, 2], chosen))
    keep = np.sort(np.concatenate([keep, np.arange(0, 870, 60), np.arange(870, 4000, 200)]))
    new_queries = np.flatnonzero(np.isin(keep + 1, queries)) + 1
    trains = np.flatnonzero(np.isin(train[:, 2], np.unique(train[:, 2])[::100]))
    return {"train": subsample(train, trains, 2), "test": subsample(test, keep, 3)}, new_queries


def run(source, output, *options):
    parser = argparse.ArgumentParser()
    mars.add_arguments(parser)
    mars.run(parser.parse_args(["--source", str(source), "--output", str(output), *options]))


def table(root, subset):
    built = getattr(load_layout(root, subsets=(subset,)), subset)
    assert built is not None
    return built


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_official_counts_from_the_official_tables():
    tables, files = {}, {}
    for subset in ("train", "test"):
        rows = official(f"tracks_{subset}_info.mat")
        names = mars_names(rows)
        rows[:, 0] -= 1
        path = OFFICIAL / f"tracks_{subset}_info.mat"
        tables[subset] = mars_tables.Table(path, OFFICIAL / f"{subset}_name.txt", names, rows)
        files[subset] = names
    queries = mat_files.read_query_rows(OFFICIAL / "query_IDX.mat", 12180, "tracks_test_info.mat")
    planned = mars.plan_tracklets(tables, files, queries)
    report = official_counts.comparison("MARS", mars.counts(planned), official_counts.MARS)
    assert report.endswith("all 34 official counts agree")
    assert "differs" not in report
    assert not planned.notes
    assert not mars_tables.unofficial(OFFICIAL)


def test_a_tree_becomes_a_layout_of_the_same_bytes_rows_and_marks(tmp_path, small, capsys):
    tables, queries = small
    write_tree(tmp_path / "MARS", tables, queries)
    run(tmp_path / "MARS", tmp_path / "out")
    test = table(tmp_path / "out", "test")
    for subset, built in (("train", table(tmp_path / "out", "trainval")), ("test", test)):
        rows, names = tables[subset], mars_names(tables[subset])
        expected = sorted(
            (person, camera, int(names[first - 1][7:11]), mark, tuple(names[first - 1 : last]))
            for (first, last, person, camera), mark in zip(
                rows.tolist(),
                [QUERY if k + 1 in queries else GALLERY for k in range(len(rows))],
                strict=True,
            )
        )
        assert built.num_tracklets == len(rows)
        sources = contents_by_name(tmp_path / "MARS" / f"bbox_{subset}")
        for k, (person, camera, track, mark, files) in enumerate(expected):
            assert (built.person_ids[k], built.cameras[k], built.tracks[k]) == (
                person,
                camera,
                track,
            )
            assert subset == "train" or built.marks[k] == mark
            frames = built.names[built.offsets[k] : built.offsets[k + 1]]
            placed = [built.image_dir / name.decode() for name in frames]
            assert [path.read_bytes() for path in placed] == [sources[file] for file in files]
    assert (test.person_ids == -1).sum() == 15
    assert (test.person_ids == 0).any()
    image = tmp_path / "out" / "images" / "-00001_10001_000001.jpg"
    assert image.stat().st_nlink == 2  # a hard link
    printed = capsys.readouterr().out
    assert "counts differ from the official data set's" in printed
    assert max(map(len, printed.splitlines())) < 250
    assert "SHA-256 begins" in printed


def contents_by_name(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.jpg")}


def test_odd_names_are_kept_with_track_numbers_of_their_own(tmp_path):
    rows = np.array([[1, 2, 2, 1], [3, 4, 2, 1], [5, 5, 2, 2], [6, 7, 4, 1], [8, 8, 2, 1]])
    names = mars_names(rows)
    names[2:4] = ["0002C1T0001F003.jpg", "0002C1T0001F004.jpg"]  # the first row's track again
    names[4] = "0002_nobody_knows.jpg"
    names[5:7] = ["0004C1T0003F009.jpg", "0004C1T0003F002.jpg"]  # not in order of frame
    names[7] = "0002C3T0009F001.jpg"  # another camera than the table's
    train = np.array([[1, 2, 1, 1], [3, 4, 3, 2]])
    write_tree(tmp_path / "MARS", {"train": train, "test": rows}, np.array([3]), {"test": names})
    run(tmp_path / "MARS", tmp_path / "out")
    test = table(tmp_path / "out", "test")
    found = list(zip(test.person_ids, test.cameras, test.tracks, test.marks, strict=True))
    assert found == [(2, 1, 1, 1), (2, 1, 2, 1), (2, 1, 3, 1), (2, 2, 1, 0), (4, 1, 3, 1)]
    last = [test.image_dir / name.decode() for name in test.names[-2:]]
    folder = tmp_path / "MARS" / "bbox_test" / "0004"
    assert [path.read_bytes() for path in last] == [
        (folder / name).read_bytes() for name in names[5:7]
    ]


def test_an_interrupted_run_goes_on(tmp_path, small, monkeypatch):
    tables, queries = small
    write_tree(tmp_path / "MARS", tables, queries)
    link, made = os.link, []

    def stop_after_ten(source, target):
        if len(made) == 10:
            raise KeyboardInterrupt
        made.append(target)
        link(source, target)

    monkeypatch.setattr(placing.os, "link", stop_after_ten)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "MARS", tmp_path / "out")
    assert not (tmp_path / "out" / "partitions.pkl").exists()
    assert len(os.listdir(tmp_path / "out" / "images")) == 10

    again = []
    monkeypatch.setattr(placing.os, "link", lambda s, t: (again.append(t), link(s, t)))
    run(tmp_path / "MARS", tmp_path / "out")
    assert not set(again) & set(made)
    run(tmp_path / "MARS", tmp_path / "whole")
    assert contents(tmp_path / "out" / "images") == contents(tmp_path / "whole" / "images")
    assert (tmp_path / "out" / "partitions.pkl").read_bytes() == (
        tmp_path / "whole" / "partitions.pkl"
    ).read_bytes()
    (tmp_path / "MARS" / "info" / "query_IDX.mat").unlink()
    scipy.io.savemat(tmp_path / "MARS" / "info" / "query_IDX.mat", {"query_IDX": [[1, 2]]})
    with pytest.raises(UserError, match=r"begun with other input or options \(marks\)"):
        run(tmp_path / "MARS", tmp_path / "out")


def test_copies_where_links_cannot_be_made_or_are_not_wanted(tmp_path, small, monkeypatch, capsys):
    tables, queries = small
    write_tree(tmp_path / "MARS", tables, queries)
    run(tmp_path / "MARS", tmp_path / "linked")
    run(tmp_path / "MARS", tmp_path / "asked", "--copy")

    def refuse(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(placing.os, "link", refuse)
    run(tmp_path / "MARS", tmp_path / "forced")
    assert " copied" in capsys.readouterr().out
    expected = contents(tmp_path / "linked" / "images")
    for name in ("asked", "forced"):
        assert contents(tmp_path / name / "images") == expected
        assert all(p.stat().st_nlink == 1 for p in (tmp_path / name / "images").iterdir())


def test_links_to_files_elsewhere_are_followed(tmp_path, small):
    tables, queries = small
    write_tree(tmp_path / "MARS", tables, queries)
    image = next((tmp_path / "MARS" / "bbox_train" / "0001").iterdir())
    expected = image.read_bytes()
    (tmp_path / "MARS" / "elsewhere.jpg").write_bytes(expected)
    image.unlink()
    image.symlink_to("../../elsewhere.jpg")
    run(tmp_path / "MARS", tmp_path / "out")
    placed = contents(tmp_path / "out" / "images")
    assert expected in placed.values()


def break_names(info):
    text = (info / "test_name.txt").read_text().splitlines()
    (info / "test_name.txt").write_text("\n".join(text[:-3]))


def repeat_a_name(info):
    text = (info / "train_name.txt").read_text().splitlines()
    (info / "train_name.txt").write_text("\n".join([*text[:-1], text[0]]))


def save(name, **values):
    return lambda info: scipy.io.savemat(info / name, values)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda info: (info / "tracks_test_info.mat").unlink(), "no tracks_test_info.mat in"),
        (lambda info: (info / "query_IDX.mat").unlink(), "query_IDX.mat: no such file"),
        (lambda info: (info / "query_IDX.mat").write_bytes(b"x" * 300), "cannot be read as"),
        (lambda info: (info / "train_name.txt").unlink(), "train_name.txt: cannot be read"),
        (break_names, "rows are not a range of the .* lines of .*test_name.txt"),
        (repeat_a_name, "1 of .* names come a second time"),
        (save("query_IDX.mat", query_IDX=[[1, 99999]]), "rows 1 to 99999; expected rows 1 to"),
        (save("query_IDX.mat", query_IDX=[[3, 3]]), "names row 3 twice"),
        (save("query_IDX.mat", a=[[1]], b=[[1]]), r"holds 2 variables \(a, b\)"),
        (save("tracks_train_info.mat", a=[[1, 2, 3]]), "is a table of 1 x 3; expected four"),
        (save("tracks_train_info.mat", a=[[1, 2, 1.5, 3]]), "numbers that are not whole"),
        (save("tracks_train_info.mat", a=[[1, 3, 1, 1], [3, 4, 1, 1]]), r"rows 1 and 2"),
        (save("tracks_train_info.mat", a=[[1, 2, 1, 12]]), "row 1 has camera 12"),
        (lambda info: next(info.parent.glob("bbox_train/*/*")).unlink(), "1 of the .* images that"),
        (lambda info: os.rename(info.parent / "bbox_test", info.parent / "b"), "No such file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, small, damage, message):
    tables, queries = small
    write_tree(tmp_path / "MARS", tables, queries)
    damage(tmp_path / "MARS" / "info")
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path / "MARS", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_touched(tmp_path, small):
    tables, queries = small
    write_tree(tmp_path / "MARS", tables, queries)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "partitions.pkl").write_bytes(b"mine")
    with pytest.raises(UserError, match="is not empty and was not begun by this command"):
        run(tmp_path / "MARS", tmp_path / "out")
    assert (tmp_path / "out" / "partitions.pkl").read_bytes() == b"mine"
