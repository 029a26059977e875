"""Loading layouts: every spelling in the wild, tables against a plain grouping, what is refused."""

import multiprocessing
import pickle
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.data.layout.partitions import load_layout, read_partitions
from stf_jax.errors import UserError


def write(root, values, *, files=True, protocol=2):
    """A partitions file as it stands, and an empty file for every name in it."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "partitions.pkl").write_bytes(pickle.dumps(values, protocol))
    if files:
        for key, names in values.items():
            if str(key).endswith("im_names"):
                for name in names:
                    (root / "images" / str(name)).touch()
    return root


def ranked(*names, marks=None):
    return {"test_im_names": list(names), "test_marks": marks or [0] + [1] * (len(names) - 1)}


def trained(*names, labels, subset="trainval"):
    return {f"{subset}_im_names": list(names), f"{subset}_ids2labels": labels}


TRAIN = ["0002_1001_0000.jpg", "0002_2001_0000.jpg", "0010_1001_0003.jpg", "0010_1001_0001.jpg"]
TEST = ["0001_1001_0000.jpg", "0001_2001_0000.jpg"]


def errors(root, **options):
    with pytest.raises(UserError) as caught:
        load_layout(root, **options)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(root)) for line in lines)
    return lines


def message(root):
    """What a user sees: the lines of the UserError, or none."""
    try:
        load_layout(root, check_files=False)
    except UserError as error:
        return str(error).splitlines()
    return []


def test_readme_style_keys(tmp_path):
    values = trained(*TRAIN, labels={"0002": 0, "0010": 1}, subset="train")
    values |= ranked(*TEST) | {"val_im_names": [], "val_marks": []}
    layout = load_layout(write(tmp_path, values))
    assert layout.trainval is None
    assert layout.val is None
    assert layout.train is not None
    assert layout.test is not None
    assert layout.train.labels.tolist() == [0, 0, 1]
    assert layout.train.marks.tolist() == [-1, -1, -1]
    assert layout.test.marks.tolist() == [0, 1]
    assert layout.test.labels.tolist() == [-1, -1]
    assert layout.test.image_dir == tmp_path / "images"
    assert layout.findings == (
        f"{tmp_path}/partitions.pkl: val_im_names is empty; expected image names",
    )


@pytest.mark.parametrize("labels", [
    {"0002": 0, "0010": 1},
    {"2": 0, "10": 1},
    {2: 0, 10: 1},
    {b"0002": 0, b"10": 1},
    {np.int64(2): np.int32(0), np.str_("0010"): np.int64(1)},
    {"000000002": 0, 10: True},
])  # fmt: skip
@pytest.mark.parametrize("names", [
    TRAIN,
    [name.encode() for name in TRAIN],
    np.array(TRAIN),
    np.array(TRAIN, dtype="S"),
    np.array(TRAIN, dtype=object),
    tuple(TRAIN),
    [np.str_(name) for name in TRAIN],
], ids=["list", "bytes", "U", "S", "object", "tuple", "np.str_"])  # fmt: skip
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_spellings_of_names_and_identities(tmp_path, labels, names, protocol):
    values = {"trainval_im_names": names, "trainval_ids2labels": labels}
    layout = load_layout(write(tmp_path, values, files=False, protocol=protocol), check_files=False)
    table = layout.trainval
    assert table is not None
    assert table.person_ids.tolist() == [2, 2, 10]
    assert table.cameras.tolist() == [1, 2, 1]
    assert table.labels.tolist() == [0, 0, 1]
    assert table.names.tolist()[-2:] == [b"0010_1001_0001.jpg", b"0010_1001_0003.jpg"]
    assert table.offsets.tolist() == [0, 1, 2, 4]
    assert (table.num_tracklets, table.num_frames, table.num_labels) == (3, 4, 2)
    assert layout.findings == ()


def test_python_2_file(tmp_path):
    def text(value):  # SHORT_BINSTRING, Python 2's str
        return b"U" + bytes([len(value)]) + value

    names = b"".join(text(name.encode()) for name in TEST)
    marks = np.array([0, 1], "<i8").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02"
        b"\x85cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
        b"\xffK\x00tb\x89" + text(marks) + b"tb"
    )
    stream = b"\x80\x02}(" + text(b"test_im_names") + b"](" + names + b"e"
    (tmp_path / "partitions.pkl").write_bytes(stream + text(b"test_marks") + array + b"u.")
    table = load_layout(tmp_path, check_files=False).test
    assert table is not None
    assert table.names.tolist() == [name.encode() for name in TEST]
    assert table.marks.tolist() == [0, 1]


frame = st.tuples(st.integers(-1, 3), st.integers(0, 9), st.integers(0, 12), st.integers(0, 30))


@settings(max_examples=100, deadline=None)
@given(
    frames=st.lists(frame, min_size=1, max_size=40, unique=True),
    digits=st.sampled_from([(1, 1, 1), (6, 3, 6), (8, 4, 8)]),
    ext=st.sampled_from(["png", "jpg", "JPEG"]),
)
def test_tables_as_a_plain_grouping(tmp_path_factory, frames, digits, ext):
    root = tmp_path_factory.getbasetemp() / "grouping"
    person_width, track_width, offset_width = digits
    expected = {}
    names = []
    for person, camera, track, offset in frames:
        second = f"{camera}{track:0{track_width}d}"
        name = f"{person:0{person_width}d}_{second}_{offset:0{offset_width}d}.{ext}"
        names.append(name)
        expected.setdefault((person, camera, track), []).append((offset, name.encode()))
    marks = [1 if person % 2 else 0 for person, *_ in frames]
    labels = {str(person): k for k, person in enumerate(sorted({f[0] for f in frames}))}
    values = ranked(*names, marks=marks) | trained(*names, labels=labels)
    layout = load_layout(write(root, values, files=False), check_files=False)
    for table in (layout.test, layout.trainval):
        assert table is not None
        assert sorted(expected) == list(
            zip(
                table.person_ids.tolist(),
                table.cameras.tolist(),
                table.tracks.tolist(),
                strict=True,
            )
        )
        for i, key in enumerate(sorted(expected)):
            rows = table.names[table.offsets[i] : table.offsets[i + 1]].tolist()
            assert rows == [name for _, name in sorted(expected[key])]
            assert table.lengths[i] == len(rows)
            if table is layout.test:
                assert table.marks[i] == (1 if key[0] % 2 else 0)
            else:
                assert table.labels[i] == labels[str(key[0])]


def test_val_has_marks_like_test(tmp_path):
    values = {"val_im_names": TEST, "val_marks": [2, 1]}
    layout = load_layout(write(tmp_path, values))
    assert layout.val is not None
    assert layout.val.marks.tolist() == [2, 1]


def test_two_camera_digits_are_this_projects_extension(tmp_path):
    names = ["000001_120003_000000.png", "000001_010003_000000.png"]
    table = load_layout(write(tmp_path, ranked(*names) | {"camera_digits": 2})).test
    assert table is not None
    assert table.cameras.tolist() == [1, 12]
    assert table.tracks.tolist() == [3, 3]
    for bad in (0, 10, "2", None, 1.0):
        (line,) = errors(write(tmp_path, ranked(*names) | {"camera_digits": bad}))
        assert "camera_digits" in line


def test_missing_file_tells_how_to_prepare(tmp_path):
    (line,) = errors(tmp_path / "nowhere")
    assert "nowhere/partitions.pkl: no such file" in line
    assert "python -m stf_jax.prepare" in line


def test_missing_file_names_the_splits_that_are_there(tmp_path):
    write(tmp_path, ranked(*TEST))
    (tmp_path / "partitions.pkl").rename(tmp_path / "partitions_03.pkl")
    (line,) = errors(tmp_path)
    assert "partitions_03.pkl" in line
    assert load_layout(tmp_path, "partitions_03.pkl").test is not None


@pytest.mark.parametrize("value", [["a"], "text", 3, None, (1, 2)])
def test_not_a_dict(tmp_path, value):
    (tmp_path / "partitions.pkl").write_bytes(pickle.dumps(value))
    (line,) = errors(tmp_path)
    assert "expected a dict" in line


def test_bytes_keys(tmp_path):
    values = {key.encode(): value for key, value in ranked(*TEST).items()}
    (tmp_path / "partitions.pkl").write_bytes(pickle.dumps(values))
    assert read_partitions(tmp_path / "partitions.pkl") == ranked(*TEST)


def test_subsets_asked_for_must_be_there(tmp_path):
    write(tmp_path, ranked(*TEST))
    assert load_layout(tmp_path).trainval is None
    (line,) = errors(tmp_path, subsets=("trainval", "test"))
    assert "no trainval_im_names" in line
    assert "'test_im_names', 'test_marks'" in line
    with pytest.raises(ValueError, match="no subset is called 'gallery'"):
        load_layout(tmp_path, subsets=("gallery",))


def test_subsets_not_asked_for_are_not_looked_at(tmp_path):
    values = ranked(*TEST) | trained("nonsense", labels={})
    layout = load_layout(write(tmp_path, values), subsets=("test",))
    assert layout.trainval is None
    assert layout.findings == ()


@pytest.mark.parametrize("values", [{}, {"other": 1}, {1: 2}])
def test_no_subset_at_all(tmp_path, values):
    (line,) = errors(write(tmp_path, values))
    assert "no train_im_names or val_im_names or trainval_im_names or test_im_names" in line


def test_empty_subsets(tmp_path):
    write(tmp_path, {"test_im_names": [], "test_marks": []})
    (line,) = errors(tmp_path)
    assert "test_im_names is empty" in line
    write(tmp_path, trained(*TRAIN, labels={2: 0, 10: 1}) | {"test_im_names": [], "test_marks": []})
    assert len(load_layout(tmp_path).findings) == 1
    (line,) = errors(tmp_path, subsets=("trainval", "test"))
    assert "test_im_names is empty" in line


def test_missing_companions(tmp_path):
    values = {"test_im_names": TEST, "train_im_names": TRAIN}
    lines = errors(write(tmp_path, values))
    assert len(lines) == 2
    assert "no train_ids2labels" in lines[0]
    assert "no test_marks" in lines[1]


def test_names_that_are_no_list(tmp_path):
    (tmp_path / "partitions.pkl").write_bytes(pickle.dumps({"test_im_names": "a.png"}))
    (line,) = errors(tmp_path, check_files=False)
    assert "expected a list or array of image names" in line


def test_missing_images_are_counted(tmp_path):
    write(tmp_path, ranked(*TEST) | trained(*TRAIN, labels={2: 0, 10: 1}))
    (tmp_path / "images" / TEST[1]).unlink()
    for name in TRAIN[2:]:
        (tmp_path / "images" / name).rename(tmp_path / "images" / name.upper())
    lines = errors(tmp_path)
    assert len(lines) == 2
    assert "trainval_im_names: 2 of 4 images are not in" in lines[0]
    assert "test_im_names: 1 of 2 images are not in" in lines[1]
    assert TEST[1] in lines[1]
    assert load_layout(tmp_path, check_files=False).test is not None


def test_missing_image_folder_is_one_line(tmp_path):
    (tmp_path / "partitions.pkl").write_bytes(pickle.dumps(ranked(*TEST)))
    (line,) = errors(tmp_path)
    assert "images: cannot be listed" in line


def test_everything_is_reported_at_once(tmp_path):
    values = trained(*TRAIN, TRAIN[0], "bad.png", labels={"0002": 5, "x": 1})
    values |= ranked(*TEST, "0001_1001_0001.jpg", marks=[0, 7, 1]) | {"val_im_names": TEST}
    lines = errors(write(tmp_path, values, files=False))
    text = "\n".join(lines)
    for finding in (
        "trainval_im_names: 1 of 6 names do not parse (e.g. 'bad.png')",
        "trainval_im_names: 1 of 5 images are duplicates",
        "trainval_ids2labels: 1 keys are not identities (e.g. 'x')",
        "trainval_ids2labels: 1 identities have labels 5..5",
        "trainval: 1 of 2 identities have no entry",
        "test_marks: 1 of 3 marks are unknown (e.g. 7)",
        "test_marks: 1 of 2 tracklets have images with different marks",
        "no val_marks",
        "trainval_im_names: 5 of 5 images are not in",
        "test_im_names: 3 of 3 images are not in",
    ):
        assert finding in text
    # Each line says how to fix it, and none repeats another.
    assert all(";" in line for line in lines)
    assert len(set(lines)) == len(lines)


MUTATED = pickle.dumps(
    trained(*TRAIN, labels={"0002": 0, "0010": 1}) | ranked(*TEST, marks=[0, 1]), 2
)
ARRAYS = pickle.dumps(
    {"test_im_names": np.array(TEST), "test_marks": np.array([0, 1])}, 2
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    source=st.sampled_from([MUTATED, ARRAYS]),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 3),
)
def test_damaged_files_load_or_raise_a_user_error(tmp_path_factory, source, edits, cut):
    root = tmp_path_factory.getbasetemp() / "damaged"
    root.mkdir(exist_ok=True)
    stream = bytearray(source[: len(source) - cut])
    for place, byte in edits:
        stream[place % len(stream)] = byte
    (root / "partitions.pkl").write_bytes(stream)
    assert all(line.startswith(f"{root}/partitions.pkl: ") for line in message(root))


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
values_of_any_kind = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3) | st.integers(), inner),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(
    values=st.dictionaries(
        st.sampled_from(
            ["train_im_names", "train_ids2labels", "test_im_names", "test_marks", "camera_digits"]
        ),
        values_of_any_kind | st.lists(st.sampled_from([*TEST, *TRAIN]), max_size=4),
    )
)
def test_any_values_load_or_raise_a_user_error(tmp_path_factory, values):
    root = tmp_path_factory.getbasetemp() / "values"
    root.mkdir(exist_ok=True)
    (root / "partitions.pkl").write_bytes(pickle.dumps(values))
    assert all(line.startswith(f"{root}/partitions.pkl: ") for line in message(root))


@pytest.mark.slow
def test_mars_size_within_ten_seconds_and_a_gigabyte(tmp_path):
    names = [
        f"{i // 1700:06d}_{i // 60 % 6 + 1}{i // 60 % 28:04d}_{i % 60:06d}.jpg"
        for i in range(1_200_000)
    ]
    half = 600_000 // 1700 * 1700
    people = sorted({int(name[:6]) for name in names[:half]})
    values = trained(*names[:half], labels={f"{p:04d}": k for k, p in enumerate(people)})
    values |= ranked(*names[half:], marks=[1] * (len(names) - half))
    (tmp_path / "partitions.pkl").write_bytes(pickle.dumps(values, 2))
    # In a process of its own: the peak of memory is the process's.
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        seconds, peak, frames = pool.apply(_measure, (str(tmp_path),))
    assert frames == 1_200_000
    assert seconds < 10
    assert peak < 1_000_000_000


def _peak_memory():
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands ru_maxrss on through fork and exec: it would be the test session's peak.
        (line,) = [line for line in status.read_text().split("\n") if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _measure(root):
    start = time.process_time()
    layout = load_layout(root, check_files=False)
    seconds = time.process_time() - start
    peak = _peak_memory()
    assert layout.trainval is not None
    assert layout.test is not None
    return seconds, peak, layout.trainval.num_frames + layout.test.num_frames
