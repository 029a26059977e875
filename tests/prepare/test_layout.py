"""Writing layouts: what is written is read back, refused input writes nothing."""

import errno
import itertools
import pickle
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.data.layout.names import names_array, parse_names
from stf_jax.data.layout.partitions import SUBSETS, load_layout, read_partitions
from stf_jax.errors import UserError
from stf_jax.prepare.layout import image_name, write_partitions


def test_names_of_usual_sizes():
    assert image_name(12, 1, 3, 45) == "000012_10003_000045.png"
    assert image_name(-1, 6, 0, 0, ext="jpg") == "-00001_60000_000000.jpg"
    assert image_name(1, 12, 3, 4, camera_digits=2, ext=".JPEG") == "000001_120003_000004.JPEG"


@settings(max_examples=200, deadline=None)
@given(
    person=st.integers(-(10**7), 10**9),
    camera=st.integers(0, 99),
    track=st.integers(0, 10**6),
    offset=st.integers(0, 10**8),
    extra=st.integers(0, 2),
)
def test_a_name_says_its_numbers(person, camera, track, offset, extra):
    camera_digits = len(str(camera)) + extra
    name = image_name(person, camera, track, offset, camera_digits=camera_digits)
    parsed = parse_names(names_array([name]), camera_digits)
    fields = (parsed.person_ids, parsed.cameras, parsed.tracks, parsed.offsets)
    assert parsed.parsed.all()
    assert [int(field[0]) for field in fields] == [person, camera, track, offset]


@pytest.mark.parametrize(("arguments", "options", "part"), [
    ((1, 12, 1, 1), {}, "cannot hold camera 12"),
    ((1, 100, 1, 1), {"camera_digits": 2}, "cannot hold camera 100"),
    ((1, -1, 1, 1), {}, "cannot hold camera -1"),
    ((1, 1, -1, 1), {}, "must not be negative"),
    ((1, 1, 1, -1), {}, "must not be negative"),
    ((1, 1, 1, 1), {"ext": "bmp"}, "extension 'bmp'"),
    ((1, 0, 1, 1), {"camera_digits": 0}, "camera_digits"),
])  # fmt: skip
def test_numbers_that_a_name_cannot_say(arguments, options, part):
    with pytest.raises(UserError, match=part):
        image_name(*arguments, **options)


tracklet = st.tuples(st.integers(-1, 30), st.integers(0, 15), st.integers(0, 3))
subset = st.dictionaries(tracklet, st.tuples(st.integers(1, 4), st.integers(0, 2)), max_size=8)


@settings(max_examples=60, deadline=None)
@given(parts=st.fixed_dictionaries(dict.fromkeys(SUBSETS, subset)))
def test_round_trip(tmp_path_factory, parts):
    if not any(parts.values()):
        return
    root = tmp_path_factory.mktemp("layout")
    names, marks = {}, {}
    for part, tracklets in parts.items():
        names[part] = [
            image_name(person, camera, track, offset, camera_digits=2)
            for (person, camera, track), (length, _) in tracklets.items()
            for offset in range(length)
        ]
        marks[part] = [mark for length, mark in tracklets.values() for _ in range(length)]
    path = write_partitions(
        root,
        **names,
        test_marks=marks["test"],
        val_marks=marks["val"],
        camera_digits=2,
    )
    assert path == root / "partitions.pkl"
    (root / "images").mkdir()
    for name in itertools.chain(*names.values()):
        (root / "images" / name).touch()
    layout = load_layout(root)
    for part, tracklets in parts.items():
        table = getattr(layout, part)
        if not tracklets:
            assert table is None
            continue
        keys = list(
            zip(
                table.person_ids.tolist(),
                table.cameras.tolist(),
                table.tracks.tolist(),
                strict=True,
            )
        )
        assert keys == sorted(tracklets)
        assert table.lengths.tolist() == [tracklets[key][0] for key in keys]
        assert [name.decode() for name in table.names.tolist()] == [
            image_name(*key, offset, camera_digits=2)
            for key in keys
            for offset in range(tracklets[key][0])
        ]
        if part in ("val", "test"):
            assert table.marks.tolist() == [tracklets[key][1] for key in keys]
        else:
            people = sorted({person for person, *_ in tracklets})
            assert table.labels.tolist() == [people.index(person) for person, *_ in keys]
            assert table.num_labels == len(people)


TRAINVAL = [image_name(person, 1, 0, 0) for person in (10, -1, 2)]
TEST = [image_name(5, 1, 0, 0), image_name(5, 2, 0, 0)]


def test_the_file_is_plain_for_any_reader(tmp_path):
    path = write_partitions(tmp_path / "new", trainval=TRAINVAL, test=TEST, test_marks=[0, 1])
    assert pickle.loads(path.read_bytes()) == {
        "trainval_im_names": TRAINVAL,
        "trainval_ids2labels": {"-00001": 0, "000002": 1, "000010": 2},
        "test_im_names": TEST,
        "test_marks": [0, 1],
    }
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 != 0o400  # not only its owner may read it


def test_same_arguments_same_bytes(tmp_path):
    a = write_partitions(tmp_path, trainval=TRAINVAL, test=TEST, test_marks=[0, 1])
    b = write_partitions(
        tmp_path,
        trainval=tuple(np.array(TRAINVAL).tolist()),
        test=list(np.array(TEST)),
        test_marks=list(np.array([0, 1], np.uint8)),
        filename="partitions_00.pkl",
    )
    assert a.read_bytes() == b.read_bytes()
    assert read_partitions(b)["test_marks"] == [0, 1]


@pytest.mark.parametrize(("change", "part"), [
    ({"test_marks": [0]}, "1 test_marks for 2 test images"),
    ({"test_marks": [0, 3]}, "unknown"),
    ({"val": TEST}, "0 val_marks for 2 val images"),
    ({"trainval": [*TRAINVAL, "noname.png"]}, "no person id"),
    ({"trainval": [*TRAINVAL, "1_1.png"]}, "do not parse"),
    ({"trainval": [*TRAINVAL, TRAINVAL[0]]}, "duplicates"),
    ({"trainval": [], "test": [], "test_marks": []}, "no images at all"),
    ({"camera_digits": 9}, "do not parse"),
])  # fmt: skip
def test_refused_input_leaves_the_old_file(tmp_path, change, part):
    arguments = {"trainval": TRAINVAL, "test": TEST, "test_marks": [0, 1]}
    path = write_partitions(tmp_path, **arguments)
    before = path.read_bytes()
    with pytest.raises(UserError, match=part):
        write_partitions(tmp_path, **(arguments | change))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stf_jax.prepare.layout.os.fsync", full)
    with pytest.raises(UserError, match=r"partitions\.pkl: cannot be written \(No space left"):
        write_partitions(tmp_path, trainval=TRAINVAL, test=TEST, test_marks=[0, 1])
    assert list(tmp_path.iterdir()) == []
