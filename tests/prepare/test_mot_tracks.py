"""Track files in the dialects that trackers write: read alike, or refused with file and line."""

import numpy as np
import pytest

from stf_jax.errors import UserError
from stf_jax.prepare.mot_tracks import read_tracks


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
def test_dialects_give_the_same_table(write, text):
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
    assert tracks.ignored == 0  # a confidence of 0 is no flag where there is no visibility
    assert np.isnan(tracks.visibilities).all()


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
    message = refused(write("a,b\n" * 9))
    assert len(message.splitlines()) == 6
    assert "4 more" in message


def test_refused_files(write, tmp_path):
    assert "no such track file" in refused(tmp_path / "absent.txt")
    assert "no tracks in it" in refused(write("\n# nothing\n"))
    assert "not a readable text file" in refused(write(b"\xff\xfe\x00\x01"))
    assert "not a readable text file" in refused(tmp_path)
    assert "all 1 boxes are flagged" in refused(write("1,1,9,4,9,10,0,7,1\n"))
