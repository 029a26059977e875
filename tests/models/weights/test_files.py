import argparse
import io
import pickle
import subprocess
import sys
import zipfile
from types import ModuleType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from stf_jax.errors import UserError
from stf_jax.models.weights.files import read_tensors, write_tensors


def tensors(**more: np.ndarray) -> dict[str, np.ndarray]:
    r = np.random.RandomState(0)
    return {
        "z.weight": r.standard_normal((4, 3, 2, 2)).transpose(3, 2, 1, 0),  # not contiguous
        "a.half": r.standard_normal(5).astype(np.float16),
        "a.single": r.standard_normal((0, 3)).astype(np.float32),
        "count": np.array(7),
        **more,
    }


def check_same(found, expected) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array)


BRAIN = {"b": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize(("suffix", "more"), [("npz", {}), ("safetensors", BRAIN)])
def test_what_is_written_is_read(tmp_path, suffix, more):
    path = tmp_path / f"weights.{suffix}"
    write_tensors(path, tensors())  # to be replaced
    write_tensors(path, tensors(**more))
    check_same(read_tensors(path), tensors(**more))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def error_of(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    assert str(args[0]) in message
    return message


def test_what_cannot_be_written(tmp_path):
    assert "bfloat16" in error_of(write_tensors, tmp_path / "w.npz", BRAIN)
    assert "'.h5'" in error_of(write_tensors, tmp_path / "w.h5", tensors())
    assert "create it first" in error_of(write_tensors, tmp_path / "no" / "w.npz", tensors())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_what_cannot_be_read(tmp_path, suffix):
    assert "no such file" in error_of(read_tensors, tmp_path / f"none.{suffix}")
    path = tmp_path / f"weights.{suffix}"
    write_tensors(path, tensors())
    whole = path.read_bytes()
    for content in (b"", b"not weights at all", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert f"not a readable .{suffix}" in error_of(read_tensors, path)


def test_unknown_suffix(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(b"")
    assert "'.h5'" in error_of(read_tensors, path)


def test_npy_is_no_npz(tmp_path):
    path = tmp_path / "w.npz"
    with open(path, "wb") as stream:
        np.save(stream, np.arange(3))
    assert "not a readable .npz" in error_of(read_tensors, path)


class Bomb:
    """Pickles to a call that leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_npz_cannot_run_code(tmp_path):
    path, trace = tmp_path / "w.npz", tmp_path / "trace"
    np.savez(path, w=np.array([Bomb(trace)], object))
    assert "plain arrays" in error_of(read_tensors, path)
    assert not trace.exists()


def test_pth_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "out.pth"
    assert "pip install 'stf-jax[convert]', or name" in error_of(write_tensors, path, tensors())
    assert not path.exists()


class Stored:
    """A tensor as `torch.save` pickles it: by a function of PyTorch and a reference to numbers."""

    def __init__(self, key: str, kind: Any, *parts: Any) -> None:
        self.key, self.kind, self.parts = key, kind, parts

    def __reduce__(self) -> Any:
        function = sys.modules["torch._utils"]._rebuild_tensor_v2
        return function, (Reference(self.key, self.kind), *self.parts, False, {})


class Reference(NamedTuple):
    key: str
    kind: Any


class TorchPickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Reference):
            return None
        return "storage", obj.kind, obj.key, "cpu", 6, None  # None: of before PyTorch 1.6


def write_pth(path, content, numbers, monkeypatch, modern=True):
    """As `torch.save`, without PyTorch; `content` gets the classes of storage by name."""
    fakes = {name: ModuleType(name) for name in ("torch", "torch._utils")}
    with monkeypatch.context() as patch:
        for name, module in fakes.items():
            patch.setitem(sys.modules, name, module)
        for kind in ("FloatStorage", "BFloat16Storage", "QInt8Storage"):
            setattr(fakes["torch"], kind, type(kind, (), {"__module__": "torch"}))

        def _rebuild_tensor_v2() -> None: ...

        _rebuild_tensor_v2.__module__ = "torch._utils"
        _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
        vars(fakes["torch._utils"])["_rebuild_tensor_v2"] = _rebuild_tensor_v2
        stream = io.BytesIO()
        TorchPickler(stream, 2).dump(content(fakes["torch"]))
    if not modern:
        parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        parts = [pickle.dumps(part, 2) for part in parts]
        parts += [stream.getvalue(), pickle.dumps(list(numbers), 2)]
        for array in numbers.values():
            parts += [array.size.to_bytes(8, "little"), array.tobytes()]
        path.write_bytes(b"".join(parts))
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        for key, array in numbers.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


@pytest.mark.parametrize("modern", [True, False])
def test_pth_is_read_without_pytorch(tmp_path, monkeypatch, modern):
    monkeypatch.setitem(sys.modules, "torch", None)
    six, path = np.arange(6, dtype=np.float32), tmp_path / "w.pth"
    brain = np.array([1.5, -2], ml_dtypes.bfloat16)
    write_pth(
        path,
        lambda torch: {
            "state_dict": {
                "whole": Stored("0", torch.FloatStorage, 0, (2, 3), (3, 1)),
                "turned": Stored("0", torch.FloatStorage, 0, (3, 2), (1, 3)),
                "part": Stored("0", torch.FloatStorage, 2, (2,), (2,)),
                "number": Stored("0", torch.FloatStorage, 5, (), ()),
                "none": Stored("0", torch.FloatStorage, 0, (0, 3), (3, 1)),
                "brain": Stored("1", torch.BFloat16Storage, 0, (2,), (1,)),
            },
            "epoch": 3,
        },
        {"0": six, "1": brain},
        monkeypatch,
        modern,
    )
    whole = six.reshape(2, 3)
    wanted = {"whole": whole, "turned": whole.T, "part": six[2::2], "number": six[5]}
    wanted |= {"none": np.empty((0, 3), np.float32), "brain": brain}
    check_same(read_tensors(path), {name: np.asarray(array) for name, array in wanted.items()})
    good = path.read_bytes()
    for parts, kind, said in (
        ((3, (2, 2), (2, 1)), "FloatStorage", "reaches beyond what is stored"),
        ((0, (10**9,), (0,)), "FloatStorage", "one stored number stands for many"),
        ((0, (2,), (1,)), "QInt8Storage", "of qint8"),
        ((-1, (2,), (1,)), "FloatStorage", "no possible shape"),
        ((0, (2,), (-1,)), "FloatStorage", "negative size"),
    ):
        write_pth(
            path,
            lambda torch, parts=parts, kind=kind: {"w": Stored("0", getattr(torch, kind), *parts)},
            {"0": six},
            monkeypatch,
            modern,
        )
        assert said in error_of(read_tensors, path)
    if not modern:
        big = good.replace(b"\x88", b"\x89", 1)  # True, False
        for wrong, said in (
            (good[:-1], "cut off"),
            (big, "its numbers are big-endian"),
            (good.replace(b"\xe9\x03", b"\xea\x03", 1), "neither a zip archive nor"),
        ):
            path.write_bytes(wrong)
            assert said in error_of(read_tensors, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": Bomb(tmp_path / "trace")}, 2))
    assert "not a PyTorch file of plain tensors (it holds" in error_of(read_tensors, path)
    assert not (tmp_path / "trace").exists()


def test_pth_both_ways(tmp_path, torch):
    path = tmp_path / "w.pth"
    write_tensors(path, tensors(**BRAIN))
    content = torch.load(path, weights_only=True)
    assert content["b"].dtype == torch.bfloat16
    check_same(read_tensors(path), tensors(**BRAIN))


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("suffix", ["pth", "pt", "pth.tar", "pth.tar-60", "ckpt", "bin"])
def test_pth_of_both_formats(tmp_path, torch, modern, suffix):
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    path = tmp_path / f"w.{suffix}"
    torch.save(layer.state_dict(), path, _use_new_zipfile_serialization=modern)
    found = read_tensors(path)
    check_same(found, {name: t.numpy() for name, t in layer.state_dict().items()})
    assert found["1.num_batches_tracked"].shape == ()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
        # As the reference saves: the model's and the optimiser's.
        lambda weights: {"state_dicts": [weights, {"state": {}, "param_groups": []}], "ep": 5},
        lambda weights: {"net": weights, "model": "resnet50", "state_dict": None},
        lambda weights: {"run": {"final": weights}, "rank1": np.float64(0.9), "cmc": np.ones(3)},
        lambda weights: {"model": weights, "args": argparse.Namespace(lr=np.float32(0.1))},
        lambda weights: {**weights, "epoch": 3, "best": np.int64(2)},
        lambda weights: {"state_dict": weights, "state_dict_ema": weights},  # one, stored once
    ],
)
def test_pth_of_training_scripts(tmp_path, torch, wrap):
    weights = {"w": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)}
    path = tmp_path / "checkpoint.pth"
    torch.save(wrap(weights), path)
    check_same(read_tensors(path), {"w": weights["w"].detach().numpy()})
    torch.save(wrap(weights), path, _use_new_zipfile_serialization=False)
    check_same(read_tensors(path), {"w": weights["w"].detach().numpy()})


def test_pth_of_several_state_dicts(tmp_path, torch, caplog):
    path = tmp_path / "w.pth"
    one, two = ({"conv1.weight": torch.full((2,), float(i))} for i in (1, 2))
    torch.save({"student": one, "teacher": two}, path)
    assert "1 tensors under each of student, teacher" in error_of(read_tensors, path)
    # Names of the model count more than many names; of equals, a usual place.
    other = {f"score.{i}": torch.zeros(1) for i in range(9)}
    torch.save({"discriminator": other, "generator": two}, path)
    check_same(read_tensors(path), {"conv1.weight": two["conv1.weight"].numpy()})
    assert not caplog.messages
    torch.save({"model_ema": one, "model": two}, path)
    check_same(read_tensors(path), {"conv1.weight": two["conv1.weight"].numpy()})
    assert "tensors read from model, not from model_ema" in caplog.text


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:TypedStorage:UserWarning")
def test_pth_of_other_kinds_of_tensors(tmp_path, torch):
    path = tmp_path / "w.pth"
    plain = torch.ones(3, 4)
    kinds = {
        "sparse_coo": plain.to_sparse(),
        "qint8": torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        "float8_e4m3fn": plain.to(torch.float8_e4m3fn),
        "(1000000000, 1000)": torch.ones(1).expand(10**9, 1000),
    }
    for kind, tensor in kinds.items():
        torch.save({"a": plain, "odd": tensor}, path)
        message = error_of(read_tensors, path)
        assert "found odd (" in message
        assert kind in message


def test_safetensors_of_float8(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"odd": np.ones(4, ml_dtypes.float8_e4m3fn), "a": np.ones(2)})
    assert "found odd as F8_E4M3" in error_of(read_tensors, path)


def test_pth_of_a_whole_model(tmp_path, torch):
    path = tmp_path / "w.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    message = error_of(read_tensors, path)
    assert "it holds torch.nn.modules.linear.Linear" in message
    assert message.isprintable()


def test_pth_of_something_else(tmp_path, torch):
    path = tmp_path / "w.pth"
    torch.save({"epoch": 3, "scores": [1.0]}, path)
    assert "found epoch (int), scores (list)" in error_of(read_tensors, path)
    torch.save(3, path)
    assert "found a int" in error_of(read_tensors, path)
    for content in (b"", b"not weights at all"):
        path.write_bytes(content)
        assert "not a PyTorch file" in error_of(read_tensors, path)


def test_pth_cannot_run_code(tmp_path, torch):
    path, trace = tmp_path / "w.pth", tmp_path / "trace"
    for protocol in (2, None):
        if protocol:
            path.write_bytes(pickle.dumps({"w": Bomb(trace)}, protocol))
        else:
            torch.save({"w": Bomb(trace)}, path)
        assert "not a PyTorch file of plain tensors" in error_of(read_tensors, path)
    assert not trace.exists()


FULL = """
import resource, sys
import numpy as np
from stf_jax.errors import UserError
from stf_jax.models.weights.files import write_tensors

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for path in sys.argv[1:]:
    try:
        write_tensors(path, {"w": np.ones(10_000)})
    except UserError as error:
        print(error)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    check_full_disk(tmp_path, ["npz", "safetensors"])


@pytest.mark.usefixtures("torch")
def test_a_full_disk_is_one_line_for_pytorch_files(tmp_path):
    check_full_disk(tmp_path, ["pth"])


def check_full_disk(tmp_path, suffixes):
    paths = [str(tmp_path / f"w.{suffix}") for suffix in suffixes]
    command = [sys.executable, "-c", FULL, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    for line, path in zip(lines, paths, strict=True):
        assert line.startswith(f"{path}: cannot be written (")
    assert not list(tmp_path.iterdir())
