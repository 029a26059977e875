import argparse
import json
import re

import numpy as np
import pytest
import scipy.io

from stf_jax.data.layout.partitions import GALLERY, QUERY, load_layout
from stf_jax.errors import UserError
from stf_jax.prepare import ilids_vid, pku_reid, prid2011
from stf_jax.prepare.published import official_counts, two_cameras
from stf_jax.prepare.published.source_tracklets import SourceTracklet


def run(module, source, output, *options):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.run(parser.parse_args(["--source", str(source), "--output", str(output), *options]))


def table(root, filename, subset):
    built = getattr(load_layout(root, filename, subsets=(subset,)), subset)
    assert built is not None
    return built


def write_ilids(root, people, length, splits):
    """iLIDS-VID's folders; the frames' numbers have no common width, as nine and ten."""
    for camera in (1, 2):
        for person in people:
            folder = root / "i-LIDS-VID" / "sequences" / f"cam{camera}" / f"person{person:03d}"
            folder.mkdir(parents=True)
            for k in range(length):
                name = f"cam{camera}_person{person:03d}_{k + 8}.png"
                (folder / name).write_bytes(f"{person} {camera} {k}".encode())
            (folder / "Thumbs.db").write_bytes(b"not an image")
    folder = root / "train-test people splits"
    folder.mkdir()
    values = {"ls_set": splits.astype(np.uint16), "other": 1}
    scipy.io.savemat(folder / "train_test_splits_ilidsvid.mat", values)


ILIDS_PEOPLE = (1, 2, 5, 9, 30, 119)


@pytest.fixture
def ilids(tmp_path):
    rng = np.random.default_rng(3)
    splits = np.stack([rng.permutation(6) + 1 for _ in range(10)])
    write_ilids(tmp_path / "iLIDS-VID", ILIDS_PEOPLE, 4, splits)
    return tmp_path / "iLIDS-VID", splits


def test_ilids_splits_count_places_in_the_sorted_folders(ilids, tmp_path, capsys):
    source, splits = ilids
    run(ilids_vid, source, tmp_path / "out")
    for number, row in enumerate(splits):
        filename = f"partitions_{number:02d}.pkl"
        tested = sorted(ILIDS_PEOPLE[place - 1] for place in row[:3])
        trained = sorted(ILIDS_PEOPLE[place - 1] for place in row[3:])
        test = table(tmp_path / "out", filename, "test")
        rows = list(zip(test.person_ids, test.cameras, test.marks, strict=True))
        assert rows == [(p, c, QUERY if c == 1 else GALLERY) for p in tested for c in (1, 2)]
        trainval = table(tmp_path / "out", filename, "trainval")
        assert trainval.person_ids.tolist() == [p for p in trained for _ in (1, 2)]
        assert trainval.labels.tolist() == [0, 0, 1, 1, 2, 2]
        contents = [(test.image_dir / name.decode()).read_bytes() for name in test.names]
        assert contents == [
            f"{p} {c} {k}".encode() for p in tested for c in (1, 2) for k in range(4)
        ]
    assert not (tmp_path / "out" / "partitions.pkl").exists()
    printed = capsys.readouterr().out
    assert re.search(r"^identities +6 +300  294 fewer$", printed, re.M)
    assert "counts differ from the official data set's" in printed
    assert "partitions_00.pkl to partitions_09.pkl" in printed


def test_ilids_official_counts(tmp_path, monkeypatch):
    people = (np.random.default_rng(0).permutation(319)[:300] + 1).tolist()
    splits = [two_cameras.Split(tuple(people[150:]), tuple(people[:150]))] * 10
    lengths = [71] * 460 + [70] * 140  # 42,460 frames in all
    tracklets = [
        two_cameras.SourceTracklet(p, c, 1, ("",) * length, tuple(range(length)))
        for (p, c), length in zip([(p, c) for p in people for c in (1, 2)], lengths, strict=True)
    ]
    found = two_cameras.counts(tracklets, splits)
    report = official_counts.comparison("iLIDS-VID", found, official_counts.ILIDS_VID)
    assert report.endswith("all 7 official counts agree")


def break_mat(source):
    (source / ilids_vid.SPLITS_FILE).write_bytes(b"nothing of the kind")


def short_row(source):
    scipy.io.savemat(source / ilids_vid.SPLITS_FILE, {"ls_set": [[1, 2, 3]]})


def no_splits(source):
    scipy.io.savemat(source / ilids_vid.SPLITS_FILE, {"other": [[1, 2, 3]]})


def remove_person(source):
    folder = source / "i-LIDS-VID" / "sequences" / "cam2" / "person009"
    folder.rename(source / "person009")


def empty_person(source):
    for path in (source / "i-LIDS-VID" / "sequences" / "cam1" / "person009").iterdir():
        path.unlink()


def frame_twice(source):
    folder = source / "i-LIDS-VID" / "sequences" / "cam1" / "person009"
    (folder / "cam1_person009_09.jpg").write_bytes(b"x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_mat, "cannot be read as a .mat file"),
        (short_row, "split 0 holds 3 places from 1 to 3; expected each of the 6 people"),
        (no_splits, r"holds no variable ls_set \(other\)"),
        (remove_person, r"1 folders of people .* not there \(e.g. '9 in camera 2'\)"),
        (empty_person, "person009: has no images"),
        (frame_twice, "person009: has two images of frame 9"),
        (lambda source: (source / "i-LIDS-VID").rename(source / "x"), "has neither i-LIDS-VID"),
    ],
)
def test_bad_ilids_is_one_line_and_leaves_nothing(ilids, tmp_path, damage, message):
    source, _ = ilids
    damage(source)
    with pytest.raises(UserError, match=message) as caught:
        run(ilids_vid, source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_counts_of_halves_that_are_unlike():
    tracklets = [
        SourceTracklet(person, camera, 1, ("a",) * person, tuple(range(person)))
        for person in (2, 3, 4)
        for camera in (1, 2)
    ]
    expected = {"identities": 3, "tracklets": 6, "frames": 18, "shortest": 2, "longest": 4}
    splits = [two_cameras.Split((2,), (3, 4)), two_cameras.Split((3,), (2, 4))]
    assert two_cameras.counts(tracklets, splits) == expected | {
        "splits": 2,
        "train identities of a split": 1,
        "query tracklets of a split": 2,
        "gallery tracklets of a split": 2,
    }
    splits.append(two_cameras.Split((2, 3), (4,)))
    assert two_cameras.counts(tracklets, splits) == expected | {"splits": 3}


def test_prid_takes_the_178_people_of_its_splits(tmp_path, capsys):
    source = tmp_path / "PRID"
    for letter, last in (("a", 210), ("b", 215)):
        for person in range(1, last):
            folder = source / "prid_2011" / "multi_shot" / f"cam_{letter}" / f"person_{person:04d}"
            folder.mkdir(parents=True)
            (folder / "0001.png").write_bytes(f"{person}{letter}".encode())
    run(prid2011, source, tmp_path / "out")
    assert "all 6 official counts agree" in capsys.readouterr().out.splitlines()[-3]
    left_out = {6, 19, 31, 52, 57, 62, 71, 94, 106, 120, 136, 138, 139, 142, 145, 158, 159, 166}
    left_out |= {183, 190, 199, 200}
    halves = set()
    for number in range(10):
        filename = f"partitions_{number:02d}.pkl"
        test = table(tmp_path / "out", filename, "test")
        train = table(tmp_path / "out", filename, "trainval")
        assert {*test.person_ids, *train.person_ids} == set(range(1, 201)) - left_out
        assert not {*test.person_ids} & {*train.person_ids}
        assert train.num_labels == 89
        assert test.marks.tolist() == [QUERY, GALLERY] * 89
        for k in (0, 1, 176):
            image = test.image_dir / test.names[k].decode()
            letter = "ab"[test.cameras[k] - 1]
            assert image.read_bytes() == f"{test.person_ids[k]}{letter}".encode()
        halves.add(tuple(test.person_ids))
    assert len(halves) == 10
    first = json.loads(prid2011.SPLITS_FILE.read_text())[0]["test"]
    test = table(tmp_path / "out", "partitions_00.pkl", "test")
    assert sorted({f"person_{person:04d}" for person in test.person_ids}) == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "holds no splits; expected JSON"),
        ("[]", "holds no splits at all"),
        ('[{"train": ["person_1"]}]', "holds no splits; expected JSON"),
        ('[{"train": ["person_1"], "test": ["person_1"]}]', "split 0 has a person twice"),
    ],
)
def test_bad_prid_splits_are_one_line(tmp_path, text, message):
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(UserError, match=message):
        run(prid2011, tmp_path, tmp_path / "out", "--splits", str(tmp_path / "splits.json"))


def test_prid_without_its_folders_is_one_line(tmp_path):
    with pytest.raises(UserError, match="has neither prid_2011/multi_shot/cam_a nor"):
        run(prid2011, tmp_path, tmp_path / "out")


def write_pku(root, people, name):
    for person in people:
        for camera in (1, 2):
            for orientation in range(1, 4):
                path = root / name.format(person, camera, orientation)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{person} {camera} {orientation}".encode())


@pytest.mark.parametrize("name", ["{:03d}_{:02d}_{:d}.png", "{:03d}/{:02d}_{:d}.png"])
def test_pku_reid_has_ten_splits_both_ways(tmp_path, capsys, name):
    people = (1, 3, 4, 7, 110)
    write_pku(tmp_path / "source", people, name)
    (tmp_path / "source" / "README.txt").write_text("not a picture")
    run(pku_reid, tmp_path / "source", tmp_path / "out")
    for number in range(10):
        order = np.random.RandomState(number).permutation(sorted(people)).tolist()
        for way, queries in (("partitions", 1), ("reversed", 2)):
            filename = f"{way}_{number:02d}.pkl"
            trainval = table(tmp_path / "out", filename, "trainval")
            assert trainval.person_ids.tolist() == [p for p in sorted(order[:2]) for _ in (1, 2)]
            test = table(tmp_path / "out", filename, "test")
            rows = list(zip(test.person_ids, test.cameras, test.marks, strict=True))
            assert rows == [
                (p, c, QUERY if c == queries else GALLERY)
                for p in sorted(order[2:])
                for c in (1, 2)
            ]
            contents = [(test.image_dir / name.decode()).read_bytes() for name in test.names]
            groups = [f"{p} {c}" for p in sorted(order[2:]) for c in (1, 2)]
            assert contents == [f"{group} {o}".encode() for group in groups for o in (1, 2, 3)]
    printed = capsys.readouterr().out
    assert "partitions_00.pkl to partitions_09.pkl, reversed_00.pkl to reversed_09.pkl" in printed
    assert re.search(r"^identities +5 +114  109 fewer$", printed, re.M)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("001_03_1.png", "001_03_1.png: expected PERSON_CAMERA_ORIENTATION.png"),
        ("face.png", "face.png: expected PERSON_CAMERA_ORIENTATION.png"),
        ("1_1_1.jpg", "1_1_1.jpg: 001_01_1.png is person 1, camera 1, orientation 1, too"),
        ("009_01_1.png", r"1 folders of people .* not there \(e.g. '9 in camera 2'\)"),
    ],
)
def test_bad_pku_reid_is_one_line_and_leaves_nothing(tmp_path, more, message):
    write_pku(tmp_path / "source", (1, 2), "{:03d}_{:02d}_{:d}.png")
    (tmp_path / "source" / more).write_bytes(b"x")
    with pytest.raises(UserError, match=message) as caught:
        run(pku_reid, tmp_path / "source", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
