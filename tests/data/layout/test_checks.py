"""Each finding about a layout: found where it is, not found where it is not, and counted."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.data.layout.checks import Findings, identity, read_label_map, unmatched_queries
from stf_jax.data.layout.partitions import load_layout
from stf_jax.errors import UserError


@pytest.fixture
def findings(tmp_path):
    """What is found in a partitions dict: (errors, notes), without the path in front."""

    def findings(values, **options):
        path = tmp_path / "partitions.pkl"
        path.write_bytes(pickle.dumps(values))
        start = f"{path}: "
        try:
            notes = list(load_layout(tmp_path, check_files=False, **options).findings)
            lines = []
        except UserError as error:
            notes, lines = [], str(error).splitlines()
        assert all(line.startswith(start) for line in notes + lines)
        return [line[len(start) :] for line in lines], [line[len(start) :] for line in notes]

    return findings


def frames(*tracklets, length=2):
    """Names of tracklets given as "<person>_<camera and track>"."""
    return [f"{tracklet}_{offset:04d}.png" for tracklet in tracklets for offset in range(length)]


def ranked(queries, gallery):
    names = [frames(*queries), frames(*gallery)]
    return {
        "test_im_names": [*names[0], *names[1]],
        "test_marks": [0] * len(names[0]) + [1] * len(names[1]),
    }


def trained(*tracklets, labels):
    return {"trainval_im_names": frames(*tracklets), "trainval_ids2labels": labels}


def test_nothing_odd(findings):
    values = ranked(["0002_1001", "0004_2001"], ["0002_2001", "0004_1001", "-0001_1001"])
    values |= trained("0001_1001", "0003_2001", labels={"1": 0, "3": 1})
    assert findings(values) == ([], [])


def test_gaps_in_frame_numbers_are_no_finding(findings):
    values = ranked(["0002_1001"], ["0002_2001"])
    values["test_im_names"][1] = "0002_1001_0900.png"
    assert findings(values) == ([], [])


def test_a_tracklet_with_two_marks(findings):
    values = ranked(["0002_1001"], ["0002_2001", "0004_2001"])
    values["test_marks"][3] = 2
    (line,), _ = findings(values)
    assert "test_marks: 1 of 3 tracklets have images with different marks" in line
    assert "'0002_2001_0000.png': [1, 2]" in line


def test_a_query_listed_again_as_gallery_is_a_duplicate(findings):
    lines, _ = findings(ranked(["0002_1001"], ["0002_1001", "0002_2001"]))
    assert "2 of 6 images are duplicates" in lines[0]
    assert "1 of 2 tracklets have images with different marks" in lines[1]


def test_one_frame_under_two_names(findings):
    values = ranked(["0002_1001"], ["0002_2001"])
    values["test_im_names"] += ["0002_2001_0001.JPG"]
    values["test_marks"] += [1]
    (line,), _ = findings(values)
    assert "1 of 5 images are duplicates" in line
    assert "'0002_2001_0001.JPG' and '0002_2001_0001.png'" in line


def test_tracklets_spelt_in_two_ways(findings):
    values = ranked(["0002_1001"], ["0002_2001"])
    values["test_im_names"] += ["02_2001_0002.png", "0002_20001_0003.png"]
    values["test_marks"] += [1, 1]
    (line,), _ = findings(values)
    assert "1 of 2 tracklets have their first two substrings spelt" in line


@pytest.mark.parametrize(("marks", "lines"), [
    ([0, 0, 1], ["test_marks has 3 marks for 4 images"]),
    ([0, 0, 1, 1, 1], ["test_marks has 5 marks for 4 images"]),
    ([], ["test_marks has 0 marks for 4 images"]),
    ([0, 0, 3, 3], ["2 of 4 marks are unknown (e.g. 3, 3)"]),
    ([0, 0, "1", "1"], ["2 of 4 marks are unknown (e.g. '1', '1')"]),
    ([0, 0, None, [1]], ["2 of 4 marks are unknown (e.g. a NoneType, a list)", "different marks"]),
    ({0: 1}, ["test_marks is a dict"]),
    ([0, 0, 1, 1], []),
    ((0, 0.0, 1.0, True), []),
    (np.array([[0, 0, 1, 1]], dtype=np.uint8), []),
])  # fmt: skip
def test_marks(findings, marks, lines):
    found, notes = findings(ranked(["0002_1001"], ["0002_2001"]) | {"test_marks": marks})
    assert notes == []
    if lines and "NoneType" in lines[0]:
        lines = lines[:1]  # both become "no mark", so the tracklet's marks agree
    assert len(found) == len(lines)
    for line, part in zip(found, lines, strict=True):
        assert part in line


@pytest.mark.parametrize(("labels", "parts"), [
    ({"1": 0, "3": 2}, ["2 identities have labels 0..2", "(missing: e.g. 1)"]),
    ({"1": 1, "3": 2}, ["2 identities have labels 1..2"]),
    ({"1": 0, "3": 0}, ["1 of them shared"]),
    ({"1": 0, "3": -1}, ["labels -1..0"]),
    ({"1": 0, "3": "1"}, ["1 labels are not integers (e.g. '1')", "have no entry"]),
    ({"1": 0, "3": 2**63}, ["1 labels are not integers (e.g. 9223372036854775808)"]),
    ({"1": 0, "3": 1.0}, ["1 labels are not integers (e.g. 1.0)", "have no entry"]),
    ({"1": 0, "three": 1}, ["1 keys are not identities (e.g. 'three')", "have no entry"]),
    ({"1": 0, 3.5: 1}, ["1 keys are not identities (e.g. 3.5)", "have no entry"]),
    ({"1": 0, "3": 1, "003": 2}, ["1 identities are spelt in two ways"]),
    ({"1": 0}, ["1 of 2 identities have no entry in trainval_ids2labels (e.g. 3)"]),
    ({}, ["2 of 2 identities have no entry in trainval_ids2labels (e.g. 1, 3)"]),
    ([0, 1], ["trainval_ids2labels is a list"]),
])  # fmt: skip
def test_labels(findings, labels, parts):
    lines, _ = findings(trained("0001_1001", "0003_1001", labels=labels))
    for part in parts:
        assert part in "\n".join(lines)


def test_one_identity_spelt_in_two_ways_with_one_label_is_fine(findings):
    values = trained("0001_1001", "0003_1001", labels={"1": 0, "0001": 0, 3: 1})
    assert findings(values) == ([], [])


def test_labels_without_images_are_a_note(findings):
    values = trained("0001_1001", labels={"1": 1, "5": 0, "7": 2})
    lines, (note,) = findings(values)
    assert lines == []
    assert "2 of 3 identities have no image (e.g. 5, 7)" in note


def test_queries_without_a_match_are_counted(findings):
    values = ranked(
        ["0002_1001", "0002_2001", "0004_1001", "0006_1001"],
        ["0002_2002", "0004_1002", "0008_3001"],
    )
    lines, (note,) = findings(values)
    assert lines == []
    # 2 in camera 1 finds 2 in camera 2; 2 in camera 2 and 4 in camera 1 only their own camera.
    assert "3 of 4 queries have no gallery tracklet" in note
    assert "(identities e.g. 2, 4, 6)" in note


tracklets = st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 3), st.integers(-1, 2)))


@settings(max_examples=200, deadline=None)
@given(tracklets=tracklets)
def test_unmatched_queries_by_hand(tracklets):
    columns = np.array(tracklets, np.int64).reshape(-1, 3).T
    expected = [
        mark == 0 and not any(q == person and d != camera and m == 1 for q, d, m in tracklets)
        for person, camera, mark in tracklets
    ]
    assert (
        unmatched_queries(columns[0], columns[1], columns[2].astype(np.int8)).tolist() == expected
    )


def test_queries_or_gallery_only_are_a_note(findings):
    for values, part in [
        (ranked(["0002_1001"], []), "1 query and 0 gallery"),
        (ranked([], ["0002_1001", "0002_2001"]), "0 query and 2 gallery"),
    ]:
        lines, (note,) = findings(values)
        assert lines == []
        assert part in note


def test_cameras_written_without_tracks_are_a_note(findings):
    # Four digits of camera and none of track, as in layouts of single images.
    names = ["00000001_0001", "00000001_0006"], ["00000001_0003", "00000002_0002"]
    lines, notes = findings(ranked(*names))
    assert lines == []
    assert "every tracklet is of camera 0" in notes[0]
    lines, notes = findings(ranked(*names) | {"camera_digits": 4})
    assert lines == []
    assert notes == []


def test_names_that_do_not_parse_are_said_with_the_digits_of_their_camera(findings):
    values = ranked(["0002_1001"], ["0002_2001", "0002_300"])
    (line,), _ = findings(values | {"camera_digits": 4})
    assert "2 of 6 names do not parse (e.g. '0002_300_0000.png'" in line
    assert "all numbers (the camera has 4 digits);" in line
    values["test_im_names"][0] = "a.png"
    (line,), _ = findings(values)
    assert "1 of 6 names do not parse (e.g. 'a.png'); expected" in line
    assert "all numbers; rename" in line


def test_two_digit_cameras_read_as_one_are_a_note(findings):
    unpadded = ranked(["0002_9003"], ["0002_10001", "0002_12001"])
    lines, (note,) = findings(unpadded)
    assert lines == []
    assert "4 to 5 digits" in note
    assert "set camera_digits" in note
    padded = ranked(["0002_03001"], ["0002_12001"])
    lines, (note,) = findings(padded)
    assert lines == []
    assert "all cameras are 0 or 1" in note
    assert findings(padded | {"camera_digits": 2}) == ([], [])


def test_widening_track_numbers_are_no_trap(findings):
    assert findings(ranked(["0002_1999"], ["0002_21000"])) == ([], [])
    assert findings(ranked(["2_19"], ["2_210"])) == ([], [])
    assert findings(ranked(["2_000"], ["2_101"])) == ([], [])


def test_identities_in_training_and_test_are_a_note(findings):
    values = ranked(["0002_1001"], ["0002_2001"]) | trained(
        "0001_1001", "0002_1001", labels={"1": 0, "2": 1}
    )
    lines, (note,) = findings(values)
    assert lines == []
    assert "1 identities are in trainval and in test (e.g. 2)" in note


@pytest.mark.parametrize(("key", "person"), [
    ("0001", 1), ("-1", -1), (b"07", 7), (5, 5), ("-00001", -1), (True, 1),
    ("", None), ("1.0", None), (1.0, None), ("00-1", None), (None, None), ("\u0661", None),
    ("1" * 19, None), (10**30, None), (" 1", None), ("1\n", None),
])  # fmt: skip
def test_identity_keys(key, person):
    assert identity(key) == person


def test_label_map_is_independent_of_order(tmp_path):
    found = Findings(tmp_path)
    labels = {f"{k}": (k * 7) % 30 for k in range(30)}
    backwards = dict(reversed(labels.items()))
    assert read_label_map(labels, "k", found) == read_label_map(backwards, "k", found)
    assert found.errors == []
