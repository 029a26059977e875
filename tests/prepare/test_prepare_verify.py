import argparse
import pickle

import numpy as np
import pytest
from PIL import Image

from stf_jax.data.layout.partitions import load_layout, read_partitions
from stf_jax.errors import UserError
from stf_jax.prepare import verify
from stf_jax.prepare.checking import images as verify_images
from stf_jax.prepare.layout import image_name, write_partitions


def draw(path, seed, size=(16, 8)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    """Two training people, two test people with a query and a gallery tracklet, one without."""
    root = tmp_path / "layout"
    (root / "images").mkdir(parents=True)
    names = {}
    for person, camera, length in (
        (1, 1, 3),
        (1, 2, 4),
        (3, 1, 2),
        (2, 1, 5),
        (2, 2, 3),
        (4, 1, 2),
        (4, 2, 2),
        (6, 1, 2),
    ):
        names[person, camera] = [image_name(person, camera, 1, k, ext="jpg") for k in range(length)]
        for k, name in enumerate(names[person, camera]):
            draw(root / "images" / name, [person, camera, k])
    test = [key for key in names if key[0] % 2 == 0]
    write_partitions(
        root,
        trainval=[name for key in names if key[0] % 2 for name in names[key]],
        test=[name for key in test for name in names[key]],
        test_marks=[0 if key[1] == 1 else 1 for key in test for _ in names[key]],
    )
    return root


def change(root, **changes):
    """Writes the partitions file anew, each entry through a function."""
    values = read_partitions(root / "partitions.pkl")
    for key, function in changes.items():
        values[key] = function(values[key])
    (root / "partitions.pkl").write_bytes(pickle.dumps(values))


def run(root, *options):
    parser = argparse.ArgumentParser()
    verify.add_arguments(parser)
    return verify.run(parser.parse_args([str(root), *options]))


def test_a_sound_layout(root, capsys):
    assert run(root) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line[:24].strip(): line[24:].split() for line in lines[1:14]}
    assert cells == {
        "tracklets": ["3", "5"],
        "frames": ["9", "14"],
        "identities": ["2", "3"],
        "labels": ["2", "-"],
        "tracklet length, least": ["2", "2"],
        "tracklet length, mean": ["3.00", "2.80"],
        "tracklet length, most": ["4", "5"],
        "query tracklets": ["-", "3"],
        "gallery tracklets": ["-", "2"],
        "multi-query tracklets": ["-", "0"],
        "queries without a match": ["-", "1"],
        "camera 1 tracklets": ["2", "3"],
        "camera 2 tracklets": ["1", "2"],
    }
    text = "\n".join(lines)
    assert "images: 23 listed, 23 decode" in text
    assert "height 16 to 16, width 8 to 8, 1 different; most often 16 x 8 (23 images)" in text
    assert "23 JPEG RGB" in text
    assert text.endswith("partitions.pkl: 0 to fix, 1 to note")


def damage_images(root):
    """Reason -> the images that were damaged so."""
    images = root / "images"
    whole = (images / "000001_20001_000001.jpg").read_bytes()
    (images / "000001_20001_000001.jpg").write_bytes(whole[:-60])
    (images / "000002_10001_000002.jpg").write_bytes(b"")
    (images / "000002_20001_000000.jpg").write_bytes(b"not an image at all")
    (images / "000004_10001_000001.jpg").unlink()
    Image.new("RGB", (8, 16)).save(images / "000003_10001_000000.jpg", "GIF")
    return {
        "000001_20001_000001.jpg": "does not decode",
        "000002_10001_000002.jpg": "empty file",
        "000002_20001_000000.jpg": "not an image",
        "000003_10001_000000.jpg": "is GIF, not JPEG or PNG",
        "000004_10001_000001.jpg": "missing",
    }


def test_damaged_images_are_found_and_the_fix_leaves_only_them_out(root, capsys):
    before = load_layout(root)
    damaged = damage_images(root)
    names = sorted(path.name for path in (root / "images").iterdir())
    checks = verify_images.check_images(root / "images", sorted({*names, *damaged}), threads=3)
    found = {check.name: check.problem for check in checks if check.problem}
    assert found.keys() == damaged.keys()
    assert all(found[name].startswith(reason) for name, reason in damaged.items())

    old = (root / "partitions.pkl").read_bytes()
    assert run(root, "--fix", "fixed.pkl") == 1
    printed = capsys.readouterr().out
    for name, reason in damaged.items():
        assert f": {name}: {reason}" in printed  # the list of what was dropped
    assert (root / "partitions.pkl").read_bytes() == old
    after = load_layout(root, "fixed.pkl")
    for subset in ("trainval", "test"):
        table, repaired = getattr(before, subset), getattr(after, subset)
        kept = [name for name in table.names.tolist() if name.decode() not in damaged]
        assert repaired.names.tolist() == kept
        assert repaired.marks.tolist() == table.marks.tolist()  # no tracklet was lost entirely
        assert repaired.labels.tolist() == table.labels.tolist()
    assert run(root, "--partitions", "fixed.pkl") == 0
    assert len((root / "fixed.pkl.dropped").read_text().splitlines()) == len(damaged)


def test_bad_entries_are_found_and_left_out(root, capsys):
    def spoil(names):
        return [*names, "what.jpg", names[0], names[1]]

    change(
        root,
        test_im_names=spoil,
        test_marks=lambda marks: [*marks[:5], 0, *marks[6:], 0, 0, 0],  # 2 in camera 2 is mixed
        trainval_ids2labels=lambda labels: {"000001": 5},
    )
    assert run(root, "--fix", "fixed.pkl") == 1
    printed = capsys.readouterr().out
    assert "bad: 1 images: name does not parse" in printed
    assert "bad: 3 images: tracklet with different marks" in printed
    assert "bad: 2 images: second entry of its person, camera, track and offset" in printed
    assert "trainval_ids2labels: numbered anew" in printed
    table = load_layout(root, "fixed.pkl").test
    assert table is not None
    assert list(zip(table.person_ids, table.cameras, table.lengths, strict=True)) == [
        (2, 1, 5),
        (4, 1, 2),
        (4, 2, 2),
        (6, 1, 2),
    ]
    trainval = load_layout(root, "fixed.pkl").trainval
    assert trainval is not None
    assert trainval.labels.tolist() == [0, 0, 1]


def test_same_content_is_reported_by_what_the_images_share(root, capsys):
    images = root / "images"
    pairs = {
        "within one tracklet": ("000001_10001_000000.jpg", "000001_10001_000002.jpg"),
        "in different tracklets of one identity": (
            "000002_10001_000000.jpg",
            "000002_20001_000001.jpg",
        ),
        "of different identities": ("000004_10001_000000.jpg", "000006_10001_000001.jpg"),
        "in training and in ranked subsets": (
            "000003_10001_000001.jpg",
            "000002_10001_000004.jpg",
        ),
    }
    for first, second in pairs.values():
        (images / second).write_bytes((images / first).read_bytes())
    draw(images / "left_over.png", 5)
    assert run(root) == 0  # reported, but not a mistake by itself
    printed = capsys.readouterr().out
    for where, pair in pairs.items():
        line = next(line for line in printed.splitlines() if f"of images {where}" in line)
        assert line.startswith("note: same content: 1 groups")
        assert all(name in line for name in pair)
    assert "1 files are in no subset (e.g. 'left_over.png')" in printed


def test_labels_that_fit_are_not_said_to_be_new(root, capsys):
    damage_images(root)
    run(root, "--fix", "fixed.pkl")
    assert "numbered anew" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fix", "partitions.pkl"], "is there already"),
        (["--fix", "../out.pkl"], "expected a file name"),
        (["--partitions", "other.pkl"], "no such file"),
        (["--threads", "0"], "expected 1 or more"),
    ],
)
def test_bad_options_are_one_line(root, options, message):
    with pytest.raises(UserError, match=message) as caught:
        run(root, *options)
    assert "\n" not in str(caught.value)


def test_marks_that_cannot_be_matched_are_not_guessed(root):
    change(root, test_marks=lambda marks: marks[1:])
    assert run(root) == 1
    with pytest.raises(UserError, match="test_marks: 13 marks for 14 images"):
        run(root, "--fix", "fixed.pkl")
    assert not (root / "fixed.pkl").exists()


def test_images_that_viewers_turn_are_a_note(root, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / "images" / "000001_20001_000001.jpg"
    Image.new("RGB", (8, 16)).save(path, exif=exif)
    assert run(root) == 0
    printed = capsys.readouterr().out
    assert "1 images carry an EXIF orientation" in printed
    assert path.name in printed
