import argparse
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from stf_jax.data.layout.partitions import GALLERY, QUERY, load_layout
from stf_jax.errors import UserError
from stf_jax.prepare import ls_vid
from stf_jax.prepare.published import official_counts
from stf_jax.prepare.published.source_tracklets import SourceTracklet

# (person, camera, images) of each sequence, in the order of the lists.
SEQUENCES = {
    "train": [(1, 1, 3), (1, 15, 2), (7, 3, 4), (7, 3, 2)],
    "val": [(20, 4, 2), (20, 5, 2), (21, 6, 1), (21, 7, 1)],
    "test": [(30, 12, 3), (30, 1, 2), (31, 10, 2), (31, 11, 2), (30, 12, 1)],
}


def write_query(path, rows):
    with h5py.File(path, "w") as file:
        file["query"] = np.array(rows, np.float64)[None]


def write_tree(root, lists="list_sequence", info="test/data", subsets=("train", "test")):
    """LS-VID as unpacked; returns subset -> (list line, contents of its images)."""
    (root / lists).mkdir(parents=True)
    (root / info).mkdir(parents=True, exist_ok=True)
    expected = {}
    for subset in subsets:
        lines = []
        expected[subset] = []
        for k, (person, camera, length) in enumerate(SEQUENCES[subset]):
            folder = root / f"tracklet_{subset}" / f"{person:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            # `0007_1` begins `0007_10`, too.
            start = f"{person:04d}_{(1, 10)[k % 2]}_{camera:02d}"
            contents = []
            for frame in range(length):
                name = f"{start}_{k}{frame + 9:04d}.jpg"
                contents.append(f"{subset} {k} {frame}".encode())
                (folder / name).write_bytes(contents[-1])
            lines.append(f"/tracklet_{subset}/{person:04d}/{start}_{k} {person}")
            expected[subset].append((person, camera, contents))
        (root / lists / f"list_seq_{subset}.txt").write_text("\n".join(lines) + "\n")
    write_query(root / info / "info_test.mat", [1, 3])
    if "val" in subsets:
        write_query(root / info / "info_val.mat", [2, 3])
    return expected


def run(source, output, *options):
    parser = argparse.ArgumentParser()
    ls_vid.add_arguments(parser)
    ls_vid.run(parser.parse_args(["--source", str(source), "--output", str(output), *options]))


def table(root, subset):
    built = getattr(load_layout(root, subsets=(subset,)), subset)
    assert built is not None
    return built


def rows_of(built):
    rows = []
    for k in range(built.num_tracklets):
        names = built.names[built.offsets[k] : built.offsets[k + 1]]
        contents = [(built.image_dir / name.decode()).read_bytes() for name in names]
        rows.append((built.person_ids[k], built.cameras[k], contents))
    return rows


@pytest.mark.parametrize(
    ("lists", "info"),
    [
        ("list_sequence", "test/data"),
        ("info/list_sequence", "info/data"),
        ("test/data", "test/data"),
    ],
)
def test_two_digit_cameras_and_contents(tmp_path, lists, info, capsys):
    expected = write_tree(tmp_path / "LS-VID", lists, info)
    run(tmp_path / "LS-VID", tmp_path / "out")
    for subset, name in (("train", "trainval"), ("test", "test")):
        order = sorted(range(len(expected[subset])), key=lambda k: expected[subset][k][:2])
        assert rows_of(table(tmp_path / "out", name)) == [expected[subset][k] for k in order]
    test = table(tmp_path / "out", "test")
    assert test.cameras.tolist() == [1, 12, 12, 10, 11]
    assert test.tracks.tolist() == [1, 1, 2, 1, 1]
    assert test.marks.tolist() == [GALLERY, QUERY, GALLERY, QUERY, GALLERY]
    assert load_layout(tmp_path / "out").val is None
    printed = capsys.readouterr().out
    assert re.search(r"^train tracklets +4 +2,831  2,827 fewer$", printed, re.M)


def test_validation_lists_become_val(tmp_path, capsys):
    expected = write_tree(tmp_path / "LS-VID", subsets=("train", "val", "test"))
    run(tmp_path / "LS-VID", tmp_path / "out")
    layout = load_layout(tmp_path / "out")
    assert layout.val is not None
    assert layout.val.marks.tolist() == [GALLERY, QUERY, QUERY, GALLERY]
    assert layout.train is not None
    assert layout.trainval is not None
    assert layout.train.names.tolist() == layout.trainval.names.tolist()
    assert rows_of(layout.val) == expected["val"]
    assert "val identities" in capsys.readouterr().out


def test_all_official_counts():
    """Tracklets shared out so that every published number is met."""
    groups, person = {}, 0
    for subset, count, frames, people in (
        ("train", 2831, 550_419, 842),
        ("test", 11_333, 2_277_075, 2730),
    ):
        lengths = np.full(count, frames // count)
        lengths[: frames % count] += 1
        groups[subset] = tuple(
            SourceTracklet(person + k % people, 1 + k % 15, k, ("",) * int(n), tuple(range(n)))
            for k, n in enumerate(lengths)
        )
        person += people
    marks = np.full(11_333, GALLERY)
    marks[:3504] = QUERY
    found = ls_vid.counts(ls_vid.LsVid(groups, {"test": marks}))
    report = official_counts.comparison("LS-VID", found, official_counts.LS_VID)
    assert report.endswith("all 9 official counts agree")


def write(name, text):
    return lambda root: (root / "list_sequence" / name).write_text(text)


def remove(pattern):
    return lambda root: [path.unlink() for path in root.glob(pattern)]


def other_mat(root: Path):
    scipy.io.savemat(root / "test" / "data" / "info_test.mat", {"gallery": [[1]]})


def third_field(root: Path):
    for path in root.glob("tracklet_train/0001/0001_1_01_*"):
        path.rename(path.with_name(path.name.replace("_01_", "_xx_")))
    text = (root / "list_sequence" / "list_seq_train.txt").read_text()
    (root / "list_sequence" / "list_seq_train.txt").write_text(text.replace("_01_", "_xx_"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("list_sequence/list_seq_test.txt"), "no list_seq_test.txt in list_sequence, "),
        (remove("test/data/info_test.mat"), "no info_test.mat in"),
        (other_mat, r"info_test.mat: holds no variable query \(gallery\)"),
        (lambda r: write_query(r / "test/data/info_test.mat", [1, 9]), "expected rows 1 to 5"),
        (lambda r: write_query(r / "test/data/info_test.mat", [1, 1]), "names row 1 twice"),
        (lambda r: write_query(r / "test/data/info_test.mat", [1.5]), "not whole"),
        (
            lambda r: (r / "test/data/info_test.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 99),
            "cannot be read as",
        ),
        (remove("tracklet_test/0030/*_12_4*"), "list_seq_test.txt: 1 of 5 sequences have no"),
        (write("list_seq_train.txt", ""), "holds no sequence"),
        (write("list_seq_train.txt", "a/b\n"), "line 1 is 'a/b'; expected `prefix person`"),
        (write("list_seq_train.txt", "a/b 1\na/b 2\n"), "has the sequence 'a/b' twice"),
        (
            write(
                "list_seq_train.txt", "tracklet_train/0001/0001_1 1\ntracklet_train/0001/0001 1\n"
            ),
            "do not name one camera|share images",
        ),
        (third_field, "do not name one camera"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, damage, message):
    write_tree(tmp_path / "LS-VID")
    damage(tmp_path / "LS-VID")
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path / "LS-VID", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_old_matlab_files_are_read_too(tmp_path):
    write_tree(tmp_path / "LS-VID")
    scipy.io.savemat(tmp_path / "LS-VID" / "test/data/info_test.mat", {"query": [[1, 3]]})
    run(tmp_path / "LS-VID", tmp_path / "out")
    assert (table(tmp_path / "out", "test").marks == QUERY).sum() == 2
