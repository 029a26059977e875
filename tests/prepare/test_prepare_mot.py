"""`prepare mot` from end to end, on tiny videos made here: what is cut, kept, refused, resumed."""

import argparse
import csv
import os
import pickle

import av
import numpy as np
import pytest
from PIL import Image

from stf_jax.errors import UserError
from stf_jax.prepare import mot
from stf_jax.prepare.__main__ import main
from stf_jax.prepare.tracks import write_crops as mot_write

HEIGHT, WIDTH = 24, 40


def frames_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def write_folder(folder, frames, start=1):
    folder.mkdir()
    for number, frame in enumerate(frames, start):
        Image.fromarray(frame).save(folder / f"{number:06d}.png")


def write_video(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def box(person, frame):
    """A whole-pixel box inside the picture, other for each person and frame."""
    return (person + frame % 7, person % 5, 6 + person % 4, 12 + frame % 3)


def write_tracks(path, boxes):
    path.write_text(
        "".join(f"{f},{i},{','.join(map(str, box(i, f)))},0.9,-1,-1,-1\n" for i, f in boxes)
    )


def run(*options):
    parser = argparse.ArgumentParser()
    mot.add_arguments(parser)
    mot.run(parser.parse_args([str(option) for option in options]))


def refused(*options):
    with pytest.raises(UserError) as caught:
        run(*options)
    return str(caught.value)


def partitions(root):
    with open(root / "partitions.pkl", "rb") as file:
        return pickle.load(file)


def table(root):
    with open(root / "tracklets.csv", newline="") as file:
        return list(csv.DictReader(file))


def contents(root):
    return {p.name: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def two_cameras(tmp_path):
    """Ids 1..4 in both cameras and 5 in camera 2 only; 20 frames; id 1 leaves camera 1 once."""
    write_folder(tmp_path / "one", frames_of(20, 1))
    write_video(tmp_path / "two.mkv", frames_of(20, 2))
    first = [(i, f) for i in (1, 2, 3, 4) for f in range(1, 21) if not (i == 1 and 5 < f < 18)]
    second = [(i, f) for i in (1, 2, 3, 4, 5) for f in range(3, 15)]
    write_tracks(tmp_path / "one.txt", first)
    write_tracks(tmp_path / "two.txt", second)
    return (
        "--camera",
        f"1:{tmp_path / 'one'}:{tmp_path / 'one.txt'}",
        "--camera",
        f"2:{tmp_path / 'two.mkv'}:{tmp_path / 'two.txt'}",
    )


def test_every_crop_is_the_box_of_its_frame(two_cameras, tmp_path, capsys):
    out = tmp_path / "out"
    run(*two_cameras, "--train-rule", "odd", "--query-cameras", 2, "--stride", 3, "--output", out)
    pixels = {1: frames_of(20, 1), 2: frames_of(20, 2)}
    seen = set()
    for row in table(out):
        person, camera = int(row["source_id"]), int(row["camera"])
        assert row["person_id"] == row["source_id"]
        shown = range(int(row["first_frame"]), int(row["last_frame"]) + 1, 3)
        assert int(row["images"]) == len(shown)
        for offset, frame in enumerate(shown):
            name = f"{row['name_prefix']}_{offset:06d}.png"
            left, top, width, height = box(person, frame)
            crop = np.asarray(Image.open(out / "images" / name))
            expected = pixels[camera][frame - 1, top : top + height, left : left + width]
            np.testing.assert_array_equal(crop, expected)
            seen.add(name)
    assert seen == set(os.listdir(out / "images"))
    values = partitions(out)
    assert seen == set(values["trainval_im_names"] + values["test_im_names"])
    assert values["trainval_ids2labels"] == {"000001": 0, "000003": 1, "000005": 2}
    marks = dict(zip(values["test_im_names"], values["test_marks"], strict=True))
    assert {name[:8]: mark for name, mark in marks.items()} == {
        "000002_2": 0,
        "000004_2": 0,
        "000002_1": 1,
        "000004_1": 1,
    }
    visits = [
        (r["first_frame"], r["last_frame"]) for r in table(out) if r["name_prefix"] < "000001_2"
    ]
    assert visits == [("1", "5"), ("18", "20")]  # twelve frames missing, ten bridged by default
    summary = capsys.readouterr().out
    assert "between strides" in summary
    assert f"written: {out}" in summary


def test_one_camera_people_are_distractors(two_cameras, tmp_path, capsys):
    out = tmp_path / "out"
    run(*two_cameras, "--train-ids", "1-3", "--query-cameras", "1,2", "--output", out)
    roles = {(r["source_id"], r["camera"]): r["role"] for r in table(out)}
    assert roles["4", "1"] == roles["4", "2"] == "query"
    assert roles["5", "2"] == "gallery"
    printed = capsys.readouterr().out
    assert "distractors: 1 gallery tracklets of 1 identities" in printed
    assert "no queries" not in printed
    rows = [line.split() for line in printed.splitlines()]
    assert rows[rows.index(["camera", "identities", "tracklets", "pictures"]) + 1 :][:9] == [
        ["train", "1", "3", "4", "48"],
        ["train", "2", "3", "3", "36"],
        ["train", "all", "3", "7", "84"],
        ["query", "1", "1", "1", "20"],
        ["query", "2", "1", "1", "12"],
        ["query", "all", "1", "2", "32"],
        ["gallery", "2", "1", "1", "12"],
        ["gallery", "all", "1", "1", "12"],
        ["all", "all", "5", "10", "128"],
    ]
    run(*two_cameras, "--train-ids", "1-4", "--query-cameras", "2", "--output", tmp_path / "none")
    assert [r["role"] for r in table(tmp_path / "none") if r["source_id"] == "5"] == ["gallery"]
    assert "no queries: no test identity is in a query camera" in capsys.readouterr().out


def test_unlabelled_ids_never_meet(two_cameras, tmp_path, capsys):
    out = tmp_path / "out"
    run(*two_cameras, "--unlabelled", "--output", out)
    values, rows = partitions(out), table(out)
    assert set(values) == {"test_im_names", "test_marks"}
    assert set(values["test_marks"]) == {1}
    assert len({row["person_id"] for row in rows}) == 9
    source = {row["person_id"]: (row["camera"], row["source_id"]) for row in rows}
    assert all((r["camera"], r["source_id"]) == source[r["person_id"]] for r in rows)
    assert len(rows) == 10  # id 1 comes to camera 1 twice, as one identity
    assert "do not score" in capsys.readouterr().out

    run(*two_cameras, "--unlabelled", "--query-cameras", 1, "--output", tmp_path / "queries")
    assert {(r["camera"], r["role"]) for r in table(tmp_path / "queries")} == {
        ("1", "query"),
        ("2", "gallery"),
    }


def test_ten_cameras_and_more(tmp_path):
    write_folder(tmp_path / "v", frames_of(2))
    write_tracks(tmp_path / "t.txt", [(1, 1), (1, 2)])
    out = tmp_path / "out"
    cameras = [f"--camera={n}:{tmp_path / 'v'}:{tmp_path / 't.txt'}" for n in (12, 3)]
    run(*cameras, "--train-rule", "none", "--query-cameras", 12, "--output", out)
    values = partitions(out)
    assert values["camera_digits"] == 2
    assert {name.split("_")[1][:2] for name in values["test_im_names"]} == {"03", "12"}


@pytest.mark.parametrize("ext", ["png", "jpg"])
def test_goes_on_where_it_was_stopped(two_cameras, tmp_path, monkeypatch, ext):
    options = (*two_cameras, "--train-rule", "even", "--ext", ext)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(*options, "--output", whole)

    save, done = mot_write._save, []

    def stop_after_some(pixels, path):
        if len(done) == 90:
            path.with_name("stray.png.part").write_bytes(b"half")
            raise KeyboardInterrupt
        save(pixels, path)
        done.append(path)

    monkeypatch.setattr(mot_write, "_save", stop_after_some)
    with pytest.raises(KeyboardInterrupt):
        run(*options, "--output", broken)
    assert not (broken / "partitions.pkl").exists()
    monkeypatch.setattr(mot_write, "_save", save)

    written = []
    monkeypatch.setattr(mot_write, "_save", lambda p, path: (written.append(path), save(p, path)))
    run(*options, "--output", broken)
    assert written
    assert not set(done) & set(written)
    assert contents(broken) == contents(whole)

    written.clear()  # complete: nothing to do, not even the video is read
    monkeypatch.setattr(mot_write, "read_frames", None)
    run(*options, "--output", broken)
    assert not written
    assert contents(broken) == contents(whole)

    # While an image that was lost is written again the folder is not complete.
    next((broken / "images").iterdir()).unlink()
    monkeypatch.undo()
    monkeypatch.setattr(mot_write, "_save", lambda pixels, path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(*options, "--output", broken)
    assert not (broken / "partitions.pkl").exists()


def test_foreign_output_is_refused(two_cameras, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    message = refused(*two_cameras, "--train-rule", "odd", "--output", out)
    assert message == f"{out}: is not empty and was not begun by this command; give a new folder"
    assert os.listdir(out) == ["thesis.tex"]
    assert "is not a folder" in refused(
        *two_cameras, "--train-rule", "odd", "--output", out / "thesis.tex"
    )
    other = tmp_path / "other"
    run(*two_cameras, "--train-rule", "odd", "--output", other)
    before = contents(other)
    assert "with other input or options (stride)" in refused(
        *two_cameras, "--train-rule", "odd", "--stride", 2, "--output", other
    )
    assert "(split)" in refused(*two_cameras, "--train-rule", "even", "--output", other)
    (tmp_path / "one.txt").write_text(
        (tmp_path / "one.txt").read_text() + "20,9,1,1,9,9,1,-1,-1,-1\n"
    )
    assert "(cameras" in refused(*two_cameras, "--train-rule", "odd", "--output", other)
    assert contents(other) == before


@pytest.mark.parametrize("kind", ["folder", "video"])
def test_a_video_shorter_than_its_tracks(tmp_path, kind):
    (write_folder if kind == "folder" else write_video)(tmp_path / "v.mkv", frames_of(6))
    write_tracks(tmp_path / "t.txt", [(1, f) for f in range(1, 8)])
    camera = f"1:{tmp_path / 'v.mkv'}:{tmp_path / 't.txt'}"
    # The last tracks give no picture here; the count is checked all the same.
    for options in ((), ("--stride", 9)):
        out = tmp_path / f"out{len(options)}"
        message = refused("--camera", camera, "--train-rule", "all", *options, "--output", out)
        assert f"{tmp_path / 'v.mkv'}: has 6 frames" in message
        assert "t.txt needs 7 (its last frame is 7, counted from 1)" in message
        assert not (out / "partitions.pkl").exists()


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("start", [0, 1, 100])
@pytest.mark.parametrize("kind", ["folder", "video"])
def test_first_frame_and_the_numbers_of_a_folder(tmp_path, first, start, kind):
    """--first-frame numbers the first picture; a folder that starts above 1 has its own numbers."""
    frames = frames_of(6)
    if kind == "folder":
        write_folder(tmp_path / "v.mkv", frames, start=start)
    else:
        write_video(tmp_path / "v.mkv", frames)
    base = start if kind == "folder" and start == 100 else first
    places = (1, 2, 4)  # of the pictures with a box, from 0
    write_tracks(tmp_path / "t.txt", [(3, base + place) for place in places])
    out = tmp_path / "out"
    camera = f"1:{tmp_path / 'v.mkv'}:{tmp_path / 't.txt'}"
    run("--camera", camera, "--train-rule", "all", "--first-frame", first, "--output", out)
    (row,) = table(out)
    assert (row["first_frame"], row["last_frame"]) == (str(base + 1), str(base + 4))
    for name, place in zip(sorted(os.listdir(out / "images")), places, strict=True):
        left, top, width, height = box(3, base + place)
        crop = frames[place, top : top + height, left : left + width]
        np.testing.assert_array_equal(np.asarray(Image.open(out / "images" / name)), crop)


def test_frames_before_a_folders_first_are_refused(tmp_path):
    write_folder(tmp_path / "late", frames_of(4), start=100)
    write_tracks(tmp_path / "late.txt", [(1, 1), (1, 3)])
    assert "starts at 000100.png" in refused(
        "--camera", f"1:{tmp_path / 'late'}:{tmp_path / 'late.txt'}", "--train-rule", "all",
        "--output", tmp_path / "never",
    )  # fmt: skip


def test_paths_with_colons(tmp_path):
    write_folder(tmp_path / "a:b", frames_of(2))
    write_tracks(tmp_path / "c:d.txt", [(1, 1), (1, 2)])
    camera = f"1:{tmp_path / 'a:b'}:{tmp_path / 'c:d.txt'}"
    run("--camera", camera, "--train-rule", "all", "--output", tmp_path / "out")
    assert len(os.listdir(tmp_path / "out" / "images")) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--train-ids", "1,77"), "--train-ids 1,77: no tracklet of id 77"),
        (("--train-rule", "odd", "--query-cameras", "3"), "no camera 3; given are 1, 2"),
        (("--train-rule", "odd", "--stride", "0"), "--stride 0: expected 1 or more"),
        (("--train-rule", "odd", "--camera", "x.mp4:y.txt"), "expected NUMBER:VIDEO:TRACKS"),
        (("--train-rule", "odd", "--camera", "3:x.mp4:y.txt"), "y.txt: no such track file"),
        (("--train-rule", "odd", "--classes", "1"), "has no class column"),
        (("--train-rule", "odd", "--min-length", "30"), "no tracklet is left"),
    ],
)
def test_bad_options_write_nothing(two_cameras, tmp_path, options, words):
    assert words in refused(*two_cameras, *options, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_camera_given_twice(two_cameras, tmp_path):
    again = two_cameras[:2]
    message = refused(*two_cameras, *again, "--train-rule", "odd", "--output", tmp_path / "out")
    assert "camera 1 is given twice" in message


def test_help_has_examples_and_a_split_is_required(two_cameras, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["mot", "--help"])
    assert stopped.value.code == 0
    assert "example" in capsys.readouterr().out
    message = refused(*two_cameras, "--output", "x")
    assert "--train-ids --train-rule --train-fraction --unlabelled" in message
    assert "expected --ids camera" in message


def test_every_option_is_described():
    parser = argparse.ArgumentParser()
    mot.add_arguments(parser)
    assert [action.dest for action in parser._actions if not action.help] == []


def test_ids_of_each_camera_are_unlabelled_and_equal_ones_are_counted(
    two_cameras, tmp_path, capsys
):
    run(*two_cameras, "--unlabelled", "--output", tmp_path / "out1")
    assert "in several cameras" not in capsys.readouterr().out
    run(
        *two_cameras,
        "--ids",
        "camera",
        "--output",
        tmp_path / "out2",
        "--preview",
        tmp_path / "p.png",
    )
    assert partitions(tmp_path / "out2") == partitions(tmp_path / "out1")
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.height % 128 == 0
        assert sheet.height > 0
    capsys.readouterr()
    run(*two_cameras, "--train-rule", "odd", "--output", tmp_path / "out3")
    ids = [{r["source_id"] for r in table(tmp_path / "out3") if r["camera"] == c} for c in "12"]
    said = f"{len(ids[0] & ids[1])} of {len(ids[0] | ids[1])} ids are in several cameras"
    assert said in capsys.readouterr().out
    for options, message in (
        (("--ids", "camera", "--train-rule", "odd"), "--ids camera and --train-rule: nobody"),
        (("--ids", "global", "--unlabelled"), "--ids global and --unlabelled"),
        (("--ids", "global"), "expected --ids camera, or one of"),
        (("--ids", "camera", "--preview", "p.gif"), "--preview p.gif: expected a name that"),
    ):
        assert message in refused(*two_cameras, *options, "--output", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_ids_that_names_cannot_hold_are_refused_first(tmp_path):
    video, tracks = tmp_path / "v.mp4", tmp_path / "t.txt"
    write_video(video, frames_of(2))
    tracks.write_text("".join(f"{f},1000000000000000000,2,2,20,30,1\n" for f in (1, 2)))
    options = ("--camera", f"1:{video}:{tracks}", "--output", tmp_path / "out")
    assert "up to 999999999999999999" in refused(*options, "--train-rule", "none")
    assert not (tmp_path / "out").exists()
    run(*options, "--unlabelled")
    assert {row["source_id"] for row in table(tmp_path / "out")} == {"1000000000000000000"}


def test_time_stamps_in_place_of_frames_are_refused(tmp_path):
    video, tracks = tmp_path / "v.mp4", tmp_path / "t.txt"
    write_video(video, frames_of(2))
    tracks.write_text("".join(f"{1700000001000 + f},1,2,2,20,30,1\n" for f in (1, 2)))
    options = ("--camera", f"1:{video}:{tracks}", "--output", tmp_path / "out", "--unlabelled")
    assert "v.mp4: has 2 frames, but" in refused(*options)


def test_centres_are_recognised_by_the_picture_they_are_in(tmp_path):
    video, tracks = tmp_path / "v.mp4", tmp_path / "t.txt"
    write_video(video, frames_of(12))
    # People who stand on the lower edge of the picture, 12 of its 24 rows tall.
    tracks.write_text("".join(f"{f},1,{10 + f},{HEIGHT - 6},8,12,1\n" for f in range(1, 13)))
    options = ("--camera", f"1:{video}:{tracks}", "--output", tmp_path / "out", "--unlabelled")
    assert "pass --boxes centre, or --boxes size" in refused(*options)
    run(*options, "--boxes", "centre")
    first = sorted((tmp_path / "out" / "images").iterdir())[0]
    expected = frames_of(12)[0][HEIGHT - 12 :, 11 - 4 : 11 + 4]
    np.testing.assert_array_equal(np.asarray(Image.open(first)), expected)
