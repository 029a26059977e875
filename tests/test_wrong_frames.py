"""Tracklets with frames of somebody else: whose, how many, and in which part."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from wrong_frames import main, write_layout

from stf_jax.data.layout.partitions import load_layout
from stf_jax.errors import UserError
from stf_jax.prepare.layout import image_name, write_partitions

FRAMES = 5
PEOPLE = range(1, 9)  # the first half trains in split 0, the second in split 1


def make_layout(root: Path, people: range = PEOPLE) -> Path:
    """Two splits and two directions; each picture's bytes are its own name."""
    (root / "images").mkdir(parents=True)
    names = [image_name(p, c, 1, f) for p in people for c in (1, 2) for f in range(FRAMES)]
    for name in names:
        (root / "images" / name).write_text(name)
    half = people[len(people) // 2]
    for split, first in enumerate((True, False)):
        parts = [[n for n in names if (int(n[:6]) < half) == (side == first)] for side in (1, 0)]
        for word, query in (("partitions", "1"), ("reversed", "2")):
            marks = [int(n.split("_")[1][0] != query) for n in parts[1]]
            file = f"{word}_{split:02d}.pkl"
            write_partitions(
                root, trainval=parts[0], test=parts[1], test_marks=marks, filename=file
            )
    return root


def shown_in(root: Path, file: str, subset: str) -> list[list[str]]:
    """Of each tracklet the names of the pictures that its frames show."""
    table = getattr(load_layout(root, file), subset)
    found = []
    for start, stop in itertools.pairwise(table.offsets):
        names = [name.decode() for name in table.names[start:stop]]
        found.append([(table.image_dir / name).read_text() for name in names])
    return found


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_each_tracklet_shows_one_other_person_of_its_camera_and_part(
    tmp_path: Path, count: int
) -> None:
    source = make_layout(tmp_path / "source")
    write_layout(source, tmp_path / "wrong", count, seed=3)
    for split in range(2):
        for subset in ("trainval", "test"):
            plain = getattr(load_layout(source, f"partitions_{split:02d}.pkl"), subset)
            people = {f"{int(p):06d}" for p in plain.person_ids}
            tracklets = shown_in(tmp_path / "wrong", f"partitions_{split:02d}.pkl", subset)
            assert len(tracklets) == len(plain.person_ids) == 8
            for row, pictures in enumerate(tracklets):
                own = f"{int(plain.person_ids[row]):06d}"
                wrong = [i for i, n in enumerate(pictures) if not n.startswith(own)]
                assert len(wrong) == min(count, FRAMES - 1)
                assert wrong == list(range(wrong[0], wrong[-1] + 1))  # in a row
                assert len({pictures[i].split("_")[0] for i in wrong}) == 1
                assert {n.split("_")[0] for n in pictures} <= people
                assert {n.split("_")[1][0] for n in pictures} == {str(plain.cameras[row])}
                assert [int(n.split("_")[2][:6]) for n in pictures] == list(range(FRAMES))


def test_both_directions_show_the_same_and_splits_do_not(tmp_path: Path) -> None:
    source = make_layout(tmp_path / "source")
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_layout(source, tmp_path / folder, 2, seed)
    one, again, other = (
        shown_in(tmp_path / name, "partitions_00.pkl", "test") for name in ("a", "b", "c")
    )
    assert one == again != other
    assert one == shown_in(tmp_path / "a", "reversed_00.pkl", "test")
    files = ("partitions_00.pkl", "reversed_00.pkl")
    forth, back = (load_layout(tmp_path / "a", file).test for file in files)
    assert forth is not None
    assert back is not None
    assert np.array_equal(np.equal(forth.marks, 0), np.equal(back.marks, 1))
    # Those who train in one split are ranked in the other, with wrong frames of their own.
    assert one != shown_in(tmp_path / "a", "partitions_01.pkl", "trainval")


def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_layout(tmp_path / "source")
    (tmp_path / "empty").mkdir()

    def said(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["wrong_frames.py", *arguments])
        assert main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no partitions file" in said(str(tmp_path / "empty"), str(tmp_path / "out"))
    assert "expected a new folder" in said(str(source), str(tmp_path / "empty"))
    assert "expected 1 or more" in said(str(source), str(tmp_path / "out"), "--frames", "0")
    assert not (tmp_path / "out").exists()
    alone = make_layout(tmp_path / "alone", range(1, 3))
    with pytest.raises(UserError, match="camera 1 has no other person"):
        write_layout(alone, tmp_path / "out", 2, seed=0)
    assert not (tmp_path / "out").exists()
