import argparse
import hashlib
import shutil

import numpy as np
import pytest
from colour_histogram import image_histogram
from PIL import Image

from stf_jax.data.layout.partitions import GALLERY, QUERY, load_layout
from stf_jax.errors import UserError
from stf_jax.evaluation.ranking import rank_gallery
from stf_jax.prepare.drawing.filming import PEOPLE, Film, Take, shoot
from stf_jax.prepare.synthetic import add_arguments, run

SMALL = (
    *("--identities", "4", "--cameras", "2", "--min-length", "2", "--max-length", "4"),
    *("--height", "32", "--width", "16", "--jobs", "1"),
)


def prepare(output, *options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([*SMALL, "--output", str(output), *options]))


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "set"
    prepare(root)
    return root


def pixel_hash(film, take):
    digest = hashlib.sha256()
    for _, image in shoot(film, take):
        assert image.mode == "RGB"
        digest.update(np.asarray(image).tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize(
    ("film", "take", "expected"),
    [
        (Film(0, 0, 0, 128, 64), Take(PEOPLE, 0, 1, 1, 4, range(8)), "90a7935df5565006"),
        (Film(0, 1000, 1000, 128, 64), Take(PEOPLE, 3, 2, 1, 12, range(8)), "2ad6cb46075fdcf9"),
        (Film(5, 600, 600, 256, 128), Take(PEOPLE, 9, 1, 2, 4, range(16)), "cc247d0b22578f71"),
    ],
)
def test_pixels_are_the_same_on_every_machine(film, take, expected):
    # A deliberate change of the drawing changes these, and `_DRAWING` in the same commit.
    assert pixel_hash(film, take) == expected


def test_a_frame_does_not_depend_on_the_frames_drawn_before():
    film, take = Film(1, 800, 800, 64, 32), Take(PEOPLE, 0, 1, 1, 8, range(3))
    every = {offset: np.asarray(image) for offset, image in shoot(film, take)}
    assert sorted(every) == list(range(8))
    some = {offset: np.asarray(image) for offset, image in shoot(film, take, skip={0, 1, 4})}
    assert sorted(some) == [2, 3, 5, 6, 7]
    for offset, image in some.items():
        np.testing.assert_array_equal(image, every[offset])


def test_near_duplicates_are_not_equal():
    film, take = Film(1, 500, 500, 64, 32), Take(PEOPLE, 0, 1, 1, 20, range(3))
    images = [np.asarray(image).tobytes() for _, image in shoot(film, take)]
    assert len(set(images)) == len(images)


def test_the_layout_is_whole_and_split_by_identity(small):
    layout = load_layout(small)
    assert layout.findings == ()
    assert layout.trainval is not None
    assert layout.test is not None
    assert set(layout.trainval.person_ids) == {1, 2}
    assert set(layout.test.person_ids) == {3, 4}
    assert layout.trainval.num_labels == 2
    assert layout.test.num_tracklets == 4
    for table in (layout.trainval, layout.test):
        assert ((table.lengths >= 2) & (table.lengths <= 4)).all()
        for name in table.names:
            with Image.open(table.image_dir / bytes(name).decode()) as image:
                assert (image.size, image.mode) == ((16, 32), "RGB")


def query_cameras(test):
    """The one camera of each person's queries; the gallery has the person in all the others."""
    found = []
    for person in sorted(set(test.person_ids) - {0}):
        own = test.person_ids == person
        (camera,) = set(test.cameras[own & (test.marks == QUERY)])
        gallery = set(test.cameras[own & (test.marks == GALLERY)])
        assert gallery == set(test.cameras) - {camera}
        found.append(camera)
    return found


def test_each_identity_has_its_queries_in_one_camera_and_the_cameras_take_turns(small):
    test = load_layout(small).test
    assert test is not None
    assert sorted(query_cameras(test)) == [1, 2]


def test_two_processes_write_the_same_bytes(small, tmp_path):
    prepare(tmp_path / "set", "--jobs", "2")
    assert files(tmp_path / "set") == files(small)


def test_an_interrupted_run_resumes_and_ends_the_same(small, tmp_path, capsys):
    root = tmp_path / "set"
    shutil.copytree(small, root)
    images = sorted((root / "images").iterdir())
    for path in images[3:9]:
        path.unlink()
    (root / "images" / (images[3].name + ".part")).write_bytes(b"half")
    (root / "partitions.pkl").unlink()
    prepare(root)
    assert "were there already" in capsys.readouterr().out
    assert files(root) == files(small)


def test_a_lost_image_is_drawn_again(small, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(small, root)
    next((root / "images").iterdir()).unlink()
    prepare(root)
    assert files(root) == files(small)


def test_a_complete_output_is_kept_and_said_so(small, capsys):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    prepare(small)
    assert "kept" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


def test_partitions_come_last(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("cut off")

    monkeypatch.setattr("stf_jax.prepare.synthetic.write_take", fail)
    with pytest.raises(RuntimeError, match="cut off"):
        prepare(tmp_path / "set")
    assert not (tmp_path / "set" / "partitions.pkl").exists()


def test_other_options_or_a_foreign_folder_are_refused(small, tmp_path):
    before = files(small)
    with pytest.raises(UserError, match="difficulty"):
        prepare(small, "--difficulty", "0.2")
    assert files(small) == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        prepare(tmp_path)
    assert files(tmp_path) == {"thesis.txt": b"mine"}


def test_distractors_are_in_the_gallery_only_and_many_cameras_can_be_named(tmp_path):
    prepare(tmp_path / "set", "--distractors", "23", "--cameras", "11", "--max-length", "2")
    layout = load_layout(tmp_path / "set")
    assert layout.test is not None
    assert layout.trainval is not None
    distractors = layout.test.person_ids == 0
    assert distractors.sum() == 23
    assert (layout.test.marks[distractors] == GALLERY).all()
    assert set(layout.test.cameras) == set(range(1, 12))
    assert set(layout.trainval.cameras) == set(range(1, 12))
    assert 0 not in layout.trainval.person_ids
    assert len(set(query_cameras(layout.test))) == 2


def test_jpeg_and_preview(tmp_path):
    sheet = tmp_path / "look.png"
    options = ("--ext", "jpg", "--tracklets-per-camera", "2", "--train-identities", "0")
    prepare(tmp_path / "set", *options, "--preview", str(sheet))
    layout = load_layout(tmp_path / "set")
    assert layout.trainval is None
    assert layout.test is not None
    assert layout.test.num_tracklets == 16
    assert all(bytes(name).endswith(b".jpg") for name in layout.test.names)
    with Image.open(sheet) as image:
        assert image.height == 12 * 128  # three rows of four people
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 1000


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--difficulty", "1.5"), "--difficulty 1.5"),
        (("--difficulty", "nan"), "--difficulty nan"),
        (("--occlusion", "-0.1"), "--occlusion -0.1"),
        (("--occlusion", "nan"), "--occlusion nan"),
        (("--cameras", "1"), "--cameras 1"),
        (("--max-length", "1"), "--max-length 1"),
        (("--train-identities", "5"), "--train-identities 5"),
        (("--train-fraction", "-0.1"), "--train-fraction -0.1"),
        (("--seed", "-1"), "--seed -1"),
        (("--jobs", "0"), "--jobs 0"),
        (("--preview", "look.txt"), "--preview look.txt"),
        (("--height", "8", "--width", "4"), "--height 8(.|\n)*--width 4"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_written(tmp_path, options, found):
    with pytest.raises(UserError, match=found):
        prepare(tmp_path / "set", *options)
    assert not (tmp_path / "set").exists()


def histogram_map(difficulty, identities=16, length=5):
    film, features, keys = Film(0, difficulty, difficulty, 64, 32), [], []
    for person in range(identities):
        for camera in (1, 2):
            take = Take(PEOPLE, person, camera, 1, length, range(identities))
            frames = [image_histogram(np.asarray(image)) for _, image in shoot(film, take)]
            features.append(np.sqrt(np.mean(frames, axis=0)).ravel())
            keys.append((person, camera))
    first, ids = np.array(features), np.array(keys)
    queries = ids[:, 1] == 1
    return rank_gallery(
        -first[queries] @ first[~queries].T,
        query_ids=ids[queries, 0],
        gallery_ids=ids[~queries, 0],
        query_cameras=ids[queries, 1],
        gallery_cameras=ids[~queries, 1],
    ).mean_ap


def test_colour_alone_solves_the_easy_set_and_not_the_hard_one():
    easy, hard = histogram_map(0), histogram_map(900)
    assert easy > 0.8
    assert hard < 0.6 * easy
