"""Track files in the variants that trackers write: one table, or refused with file and line."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stf_jax.errors import UserError
from stf_jax.prepare.tracks.track_files import read_tracks


@pytest.fixture
def write(tmp_path):
    def write(text, name="tracks.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refused(path, **options):
    with pytest.raises(UserError) as caught:
        read_tracks(path, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "2,7,10,20,30,40,0.5,-1,-1,-1\n1,7,11,21,31,41,0.25,-1,-1,-1\n1,3,1,2,3,4,1,-1,-1,-1\n",
        "2, 7, 10, 20, 30, 40, 0.5, -1, -1, -1\r\n1, 7, 11, 21, 31, 41, 0.25, -1,-1,-1\r\n"
        "1,3,1,2,3,4,1,-1,-1,-1",
        "2 7 10 20 30 40 0.5 -1 -1 -1\n1 7 11 21 31 41 0.25 -1 -1 -1\n1 3 1 2 3 4 1 -1 -1 -1\n",
        "2\t7\t10\t20\t30\t40\t0.5\n1\t7\t11\t21\t31\t41\t0.25\n1\t3\t1\t2\t3\t4\t1\n",
        "\ufeff# frame,id\n\n2.0,7.0,10,20,30,40,0.5,\n1e0,7,11,21,31,41,0.25,\n1,3,1,2,3,4,1,\n",
        "2,7,10,20,30,40,0.5,-1,-1\n1,7,11,21,31,41,0.25,-1,-1\n1,3,1,2,3,4,1,-1,-1\n",
        # three world coordinates
        "2,7,10,20,30,40,0.5,-4.5,3,0\n1,7,11,21,31,41,0.25,2,3,0\n1,3,1,2,3,4,1,2,3,0\n",
    ],
    ids=["commas", "spaced-crlf", "spaces", "tabs-7", "bom-comment-float", "nine", "world"],
)
def test_variants_give_the_same_table(write, text):
    tracks = read_tracks(write(text))
    assert tracks.ids.tolist() == [3, 7, 7]
    assert tracks.frames.tolist() == [0, 0, 1]
    assert tracks.boxes.tolist() == [[1, 2, 3, 4], [11, 21, 31, 41], [10, 20, 30, 40]]
    assert tracks.confidences.tolist() == [1, 0.25, 0.5]
    assert tracks.classes.tolist() == [-1, -1, -1]
    assert np.isnan(tracks.visibilities).all()


def test_six_columns_have_no_confidence(write):
    tracks = read_tracks(write("1,3,1,2,3,4\n"))
    assert np.isnan(tracks.confidences).all()


@pytest.mark.parametrize("tail", ["", ",1"], ids=["ground-truth", "annotation-tool"])
def test_ground_truth_classes_and_flags(write, tail):
    lines = [
        "1,1,912,484,97,109,0,7,1",
        "1,2,1338,418,167,379,1,1,0.86",
        "2,2,1342,417,168,380,1,1,0",
    ]
    tracks = read_tracks(write("\n".join(line + tail for line in lines)))
    assert tracks.ids.tolist() == [2, 2]  # the box flagged 0 is out
    assert tracks.ignored == 1
    assert tracks.classes.tolist() == [1, 1]
    assert tracks.visibilities.tolist() == [0.86, 0]


def test_tracker_with_classes(write):
    tracks = read_tracks(write("1 1 9 4 9 10 0.9 0 -1\n1 2 9 4 9 10 0 2 -1\n"))
    assert tracks.classes.tolist() == [0, 2]
    assert tracks.ignored == 0  # a confidence of 0 is not a flag where there is no visibility
    assert np.isnan(tracks.visibilities).all()


@pytest.mark.parametrize(
    ("line", "classes"),
    [
        ("{f},{i},9.50,4.00,9.00,10.00,0.87,-1,-1,-1", [-1]),  # ByteTrack
        ("{f},{i},9.50,4.00,9.00,10.00,1,-1,-1,-1", [-1]),  # DeepSORT, SORT
        ("{f} {i} 9.5 4 9 10 -1 -1 -1 2 ", [-1]),  # YOLO and DeepSORT: the camera comes last
        ("{f},{i},9.5,4,9,10,0,{c},-1", [0, 2]),  # BoxMOT, its confidences cut to whole numbers
        ("{f},{i},9.5,4,9,10,0.8,{c},{c}", [0, 2]),  # BoxMOT, then the number of the detection
        ("{f},{i},9.5,4,9,10,0.8,{c},-1,-1", [0, 2]),  # ByteTrack of several classes
        ("{f},{i},9.5,4,9,10,1,{i},1", [1, 2]),  # DanceTrack, SportsMOT ground truth
        ("{f:.18e} {i:.18e} 9.5 4 9 10 0.8", [-1]),  # numpy.savetxt
    ],
)
def test_what_trackers_write(write, line, classes):
    rows = [line.format(f=f, i=i, c=2 * (i - 1)) for f in (1, 2) for i in (1, 2)]
    tracks = read_tracks(write("\n".join(rows) + "\n"))
    assert tracks.ids.tolist() == [1, 1, 2, 2]
    assert tracks.frames.tolist() == [0, 1, 0, 1]
    assert tracks.boxes.tolist() == [[9.5, 4, 9, 10]] * 4
    assert sorted(set(tracks.classes.tolist())) == classes
    assert tracks.ignored == 0


def test_frames_from_zero(write):
    path = write("0,1,1,2,3,4\n5,1,1,2,3,4\n")
    assert read_tracks(path, first_frame=0).frames.tolist() == [0, 5]
    message = refused(path)
    assert f"{path}:1: frame 0" in message
    assert "--first-frame 0" in message


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("1,1,1,2,3,4\nframe,id,x,y,w,h\n", 2, "'frame' is not a finite number"),
        ("1,1,1,2,3,nan\n", 1, "'nan' is not a finite number"),
        ("1,1,1,,3,4\n", 1, "'' is not a finite number"),
        ("0 1 Pedestrian 0 0 -1 1 2 3 4\n", 1, "'Pedestrian'"),
        (f"0 1 Car 0 0 -1.7 1 2 3 4{' -1' * 7}\n", 1, "is in KITTI's format"),
        (f"0 1 Car 0 0 -1.7 1 2 3 4{' -1' * 7} 0.9\n", 1, "is in KITTI's format"),
        ("frame,id,x,y,w,h\n1,1,1,2,3,4\n", 1, "begins with a header (frame,id,x,y,w,h)"),
        ('"frame id" bb_left\n1 1 1 2 3 4\n'.replace(" id", ""), 1, "begins with a header"),
        ("0 0.481 0.634 0.043 0.32 3\n", 1, "looks like YOLO labels of one frame"),
        ("0 0.481 0.634 0.043 0.32 0.91 3\n", 1, "looks like YOLO labels of one frame"),
        ("0 0.481 0.634 0.043 0.32\n", 1, "looks like YOLO labels of one frame"),
        ("0 1 1 1 0.32\n", 1, "looks like YOLO labels of one frame"),
        ("0 0.481 0.634 0.043 3\n", 1, "5 columns"),
        ("1;1;1;2;3;4\n", 1, "has semicolons"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}]\n', 1, "is JSON"),
        ("1,1,1,2,3\n", 1, "5 columns"),
        ("1,1,1,2,3,4,1,1,1,1,1\n", 1, "11 columns"),
        ("1,1,1,2,3,4,1,-1,-1,-1\n2,1,1,2,3,4,1,-1\n", 2, "8 columns where line 1 has 10"),
        ("1.5,1,1,2,3,4\n", 1, "frame 1.5 is not a whole number"),
        ("1,0.5,1,2,3,4\n", 1, "id 0.5 is not a whole number"),
        ("1,1,1,2,3,4\n1,-1,1,2,3,4\n", 2, "detections without a track"),
        ("-3,1,1,2,3,4\n", 1, "must not be negative"),
        ("1,2,1,2,3,4\n1,1,1,2,3,4\n2,2,1,2,3,4\n1,2,9,9,9,9\n", 4, "the other time in line 1"),
    ],
)
def test_refused_with_file_and_line(write, text, line, words):
    path = write(text)
    message = refused(path)
    assert message.startswith(f"{path}:{line}: ")
    assert words in message


def test_many_findings_are_counted(write):
    message = refused(write("1,b\n" * 9))
    assert len(message.splitlines()) == 6
    assert "4 more" in message


def test_refused_files(write, tmp_path):
    assert "no such track file" in refused(tmp_path / "absent.txt")
    assert "no tracks in it" in refused(write("\n# nothing\n"))
    assert "not a readable text file" in refused(write(b"\xff\xfe\x00\x01"))
    assert "is a folder; expected one file of tracks" in refused(tmp_path)
    assert "all 1 boxes are flagged" in refused(write("1,1,9,4,9,10,0,7,1\n"))


@given(
    st.lists(
        st.tuples(st.integers(1, 2**63 - 1), st.integers(0, 2**63 - 1)),
        min_size=1,
        max_size=9,
        unique=True,
    ),
    st.sampled_from(["{}", "{}.0", "+{}", "{}."]),
)
def test_frames_and_ids_are_exact(pairs, form):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tracks.txt"
        keys = [f"{form.format(frame)},{form.format(who)}" for frame, who in pairs]
        path.write_text("".join(f"{key},9,9,3,4,1,-1,-1,-1\n" for key in keys))
        found = read_tracks(path)
    expected = sorted((who, frame - 1) for frame, who in pairs)
    assert list(zip(found.ids.tolist(), found.frames.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("1,9223372036854775808", "id 9223372036854775808 is not a whole number of 64 bits"),
        ("1,18446744073709551616", "id 18446744073709551616 is not a whole number"),
        ("1,1e20", "id 1e20 is not a whole number"),
        ("1,1.5", "id 1.5 is not a whole number"),
        ("1,1_12", "'1_12' is not a finite number"),
        ("1,\u0661\u0662", "is not a finite number"),
        ("1,0x1", "'0x1' is not a finite number"),
        ("1,infinity", "'infinity' is not a finite number"),
    ],
)
def test_ids_that_are_not_exact_are_refused(write, key, words):
    assert words in refused(write(f"{key},1,1,3,4,1,-1,-1,-1\n"))


def test_large_numbers_are_whole_in_messages(write):
    twice = "1000000,5302428712241725441,1,2,3,4\n" * 2
    assert "id 5302428712241725441 is in frame 1000000 twice" in refused(write(twice))


def boxes(rows):
    return "".join(f"{k + 1},1,{','.join(map(str, row))},1\n" for k, row in enumerate(rows))


def test_corners_are_recognised_and_read_where_they_are_said_to_be(write):
    corners = [(40 + k, 60, 80 + k, 160) for k in range(12)]
    path = write(boxes(corners))
    assert "pass --boxes corners, or --boxes size" in refused(path)
    found = read_tracks(path, boxes="corners").boxes
    np.testing.assert_array_equal(found, [(40 + k, 60, 40, 100) for k in range(12)])
    np.testing.assert_array_equal(read_tracks(path, boxes="size").boxes, corners)
    # One box that cannot be corners shows that none is.
    sizes = write(boxes([*corners, (300, 200, 50, 120)]))
    np.testing.assert_array_equal(read_tracks(sizes).boxes, [*corners, (300, 200, 50, 120)])
    assert "has no corners" in refused(sizes, boxes="corners")


def test_centres_are_read_where_they_are_said_to_be(write):
    path = write(boxes([(60, 110, 40, 100)]))
    np.testing.assert_array_equal(read_tracks(path, boxes="centre").boxes, [(40, 60, 40, 100)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 2001 2 480 640 WSV:2d;1O10000O1\n", "is in MOTS's format"),
        ("1 2001 2 480 640 WSV2d1O10000O1\n", "is in MOTS's format"),
        ("<?xml version='1.0'?>\n", "is XML"),
        ("0,1,7,10,20,30,40,person\n", "is in DarkLabel's format"),
        ("1,1,5,6,3,4,1,1,0,1\n2,1,5,6,3,4,0,0,1,2\n", "is in VisDrone's format"),
    ],
)
def test_other_formats_are_named(write, text, words):
    assert words in refused(write(text))
