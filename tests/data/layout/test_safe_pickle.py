"""The safe unpickler: what Python 2 and 3, old and new numpy write; attacks; damage."""

import collections
import contextlib
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.data.layout.safe_pickle import read_pickle
from stf_jax.errors import UserError


@pytest.fixture
def load(tmp_path):
    def load(stream: bytes):
        path = tmp_path / "some.pkl"
        path.write_bytes(stream)
        return read_pickle(path)

    return load


def refused(load, stream):
    with pytest.raises(UserError) as caught:
        load(stream)
    message = str(caught.value)
    assert "some.pkl: " in message
    assert "\n" not in message
    return message


words = st.integers(-(2**63), 2**64 - 1)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | words | st.binary(max_size=3), inner)
        | st.tuples(inner, inner)
        | st.sets(words, max_size=3)
        | st.frozensets(st.text(max_size=2), max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=plain, protocol=st.integers(0, 5))
def test_plain_data_of_every_protocol(tmp_path_factory, value, protocol):
    path = tmp_path_factory.getbasetemp() / "plain.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    assert read_pickle(path) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.array(["a_1", "bcé"]),
        np.array([b"a_1", b"bcd", b"\xff"]),
        np.array(["x", "longer", 3], dtype=object),
        np.array([], dtype="S1"),
        np.arange(5, dtype=np.int32)[::2],
        np.arange(3, dtype=">i8"),
        np.array([[1, 2, 3]], dtype=np.uint8),
        np.array([[1.5], [2.5]], order="F"),
        np.array([True, False]),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_numpy_arrays_become_lists(load, array, protocol):
    stream = pickle.dumps({"a": array, "b": array}, protocol)
    assert load(stream) == {"a": array.ravel().tolist(), "b": array.ravel().tolist()}


@pytest.mark.parametrize("protocol", range(4))
def test_numpy_module_paths_before_and_since_numpy_2(load, protocol):
    value = {"a": np.arange(4), np.str_("k"): np.int64(7), "f": np.float32(0.5)}
    stream = pickle.dumps(value, protocol)
    new, old = b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"
    assert new in stream or old in stream
    for path in (new, old):
        renamed = stream.replace(new, path).replace(old, path)
        loaded = load(renamed)
        assert loaded == {"a": [0, 1, 2, 3], "k": 7, "f": 0.5}
        assert type(loaded["f"]) is float


def test_dict_likes_become_dicts(load):
    ordered = collections.OrderedDict([("b", 1), ("a", 2)])
    default = collections.defaultdict(list, {"x": [1]})
    for protocol in range(6):
        assert load(pickle.dumps((ordered, default), protocol)) == ({"b": 1, "a": 2}, {"x": [1]})


def test_python_2_array_of_bytes(load):
    # Written by hand as Python 2.7 with numpy 1.x does at protocol 2: raw data as a byte string.
    raw = np.array([1, 200, -1], "<i8").tobytes()
    stream = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03"
        b"U\x01bq\x04\x87q\x05Rq\x06(K\x01K\x03\x85q\x07cnumpy\ndtype\nq\x08U\x02i8q\tK\x00K\x01"
        b"\x87q\nRq\x0b(K\x03U\x01<q\x0cNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\rb\x89"
        b"U" + bytes([len(raw)]) + raw + b"q\x0etq\x0fb."
    )
    assert load(stream) == [1, 200, -1]


def test_python_2_text_protocol(load):
    stream = (
        b"(dp0\nS'test_im_names'\np1\n(lp2\nS'000000_000_000000.png'\np3\naVunicode\np4\nas"
        b"S'n'\nI7\nsS'l'\nL8L\nsS'odd \\xe9'\nI01\ns."
    )
    assert load(stream) == {
        "test_im_names": ["000000_000_000000.png", "unicode"],
        "n": 7,
        "l": 8,
        "odd \xe9": True,
    }


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
def test_programs_are_refused_by_name_and_not_run(load, tmp_path, protocol):
    mark = tmp_path / "was_run"
    for call, name in [
        (Call(os.system, f"touch {mark}"), f"{os.name}.system"),
        (Call(subprocess.check_call, ["touch", str(mark)]), "check_call"),
        (Call(eval, "1"), "eval"),
        (Call(getattr, "text", "upper"), "getattr"),
        (Call(np.save, str(mark), 1), "numpy.save"),
        (Call(collections.Counter, "abc"), "collections.Counter"),
    ]:
        message = refused(load, pickle.dumps({"test_im_names": call}, protocol))
        assert name in message
        assert "can run programs" in message
    assert not mark.exists()


def test_names_reached_through_admitted_ones_are_refused(load):
    message = refused(load, b"\x80\x04\x8c\x08builtins\x8c\x0dint.__class__\x93.")
    assert "builtins.int.__class__" in message
    refused(load, b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")


def test_state_is_set_on_arrays_only(load):
    # BUILD on an admitted class or function would change it for the next file read.
    for target in (b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\nscalar\n", b"(d"):
        message = refused(load, target + b"(dS'__setstate__'\nI1\nsb.")
        assert "attributes set on a" in message
    assert load(pickle.dumps(np.arange(2))) == [0, 1]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(2, dtype=[("x", "i4"), ("y", object)]),
        np.zeros(2, dtype="V8"),
        np.zeros(2, dtype=complex),
        np.zeros(2, dtype="M8[s]"),
        np.zeros((2, 2)),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays_of_other_kinds_are_refused(load, array):
    assert "numpy array" in refused(load, pickle.dumps(array, 4))


def test_forged_array_states_do_not_load(load):
    head = b"cnumpy.core.multiarray\n_reconstruct\n(tR"
    dtype = b"cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR"
    short = head + b"(I1\n(I9\nt" + dtype + b"I00\nS'12345678'\ntb."
    assert "array of shape" in refused(load, short)
    short = head + b"(I1\n(I1\nt" + dtype + b"I00\nS'1234567'\ntb."
    assert "not a complete pickle" in refused(load, short)


def test_truncated_at_every_byte(load):
    stream = pickle.dumps({"test_im_names": ["000000_000_000000.png"], "m": np.arange(2)}, 2)
    for length in range(len(stream)):
        assert "not a complete pickle" in refused(load, stream[:length])


def test_corrupt_sizes_do_not_take_the_memory(load):
    huge = struct.pack("<I", 2**31 - 1)
    for stream in (b"\x80\x02Nr" + huge + b".", b"Np99999999999\n."):
        assert load(stream) is None
    for stream in (b"X" + huge + b"abc.", b"\x8a\x08" + huge, b"\x8e" + huge * 2 + b"abc."):
        refused(load, stream)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_pickle(tmp_path / "none.pkl")
    with pytest.raises(UserError, match="cannot be read"):
        read_pickle(tmp_path)


@settings(max_examples=300, deadline=None)
@given(stream=st.binary(max_size=60))
def test_any_bytes_load_or_raise_a_user_error(tmp_path_factory, stream):
    path = tmp_path_factory.getbasetemp() / "fuzz.pkl"
    path.write_bytes(stream)
    with contextlib.suppress(UserError):
        read_pickle(path)
