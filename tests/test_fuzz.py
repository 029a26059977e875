"""Damaged and hostile files: every reader gives a value or a UserError, quickly, in little memory.

Real small files, each changed at random a few hundred times: bits, cuts, repeats, other lengths;
then some that were made to hurt. `STF_FUZZ_SECONDS=60` goes on for a minute with each reader, from
`STF_FUZZ_SEED` on. Every test prints what it counted.
"""

import contextlib
import json
import os
import pickle
import signal
import struct
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest
from origins import make_origin
from PIL import Image
from scipy.io import savemat

from stf_jax.config import Config, to_json
from stf_jax.data.decoded import ABOUT, FRAMES, NAMES, check, open_decoded
from stf_jax.data.layout.partitions import load_layout
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.pictures import PictureError, read_picture
from stf_jax.data.pipeline import undecodable
from stf_jax.errors import UserError, shortened
from stf_jax.evaluation.features.feature_files import (
    FeatureSet,
    read_features,
    relative_weights,
    tracklet_name,
    write_features,
)
from stf_jax.evaluation.features.sources import TRACKLETS_FILE, join_pieces, read_sources
from stf_jax.main import parse, read_config
from stf_jax.models.weights.files import read_tensors, write_tensors
from stf_jax.prepare.layout import image_name
from stf_jax.prepare.prid2011 import read_splits
from stf_jax.prepare.published.ls_vid_lists import read_sequences
from stf_jax.prepare.published.mars_tables import read_names
from stf_jax.prepare.published.mat_files import read_mat
from stf_jax.prepare.tracks.split import parse_numbers
from stf_jax.prepare.tracks.track_files import read_tracks
from stf_jax.prepare.tracks.video import open_video, read_frames
from stf_jax.run.run_files import run_config, write_run_files

TIMES = 300
LONGER = float(os.environ.get("STF_FUZZ_SECONDS", "0"))  # with each reader
SEED = int(os.environ.get("STF_FUZZ_SEED", "0"))
IN_A_CHILD = {"MATLAB 5 file", "MATLAB 7 file", "MATLAB 7.3 file"}  # each time: fewer times
SLOWEST = 30.0  # seconds of a processor
MOST_MEMORY = 2**29  # that a read may take, of files as small as these
# Where a file is text, what programs and people write in place of a number.
TOKENS = [b"nan", b"-1", b"1e400", b"99999999999999999999", b"1_1", b"\xd9\xa1", b"\0", b"\xff\xfe"]
TOKENS += [b",", b";", b'"', b"{", b"[" * 50, b"\n\n", b"-0", b"0x10", b"1.5", b"  ", b"null"]
TOKENS += [b"Infinity", b"[]", b"{}", b'"\\ud800"', b"~a/", b"0-999999,", b"9" * 5000]
DEEP = b"[" * 100_000
Made = tuple[Path, Callable[[Path], Any]]


class Hang(BaseException):
    """A read takes too long. No Exception, which readers take for damage."""


def _hang(*_: Any) -> None:
    raise Hang


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raises Hang after `SLOWEST` seconds of the processor."""
    before = signal.signal(signal.SIGVTALRM, _hang)
    signal.setitimer(signal.ITIMER_VIRTUAL, SLOWEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def memory(line: str) -> int:
    """Bytes that the process takes (VmRSS), or took at most (VmHWM); 0 where Linux is not."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(found.split()[1]) * 1024 for found in lines if found.startswith(line)), 0)


def outcome(read: Callable[[Path], Any], path: Path) -> str:
    """What reading a file comes to: one of those that may be, or one of those that may not."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = memory("VmRSS")
    try:
        with watched():
            read(path)
        found = "read"
    except UserError as error:
        printed = shortened(str(error))
        found = "refused" if len(printed) < 12_000 else f"a long error: {printed:.300}"
    except Hang:
        found = "hang"
    except (Exception, SystemExit) as error:
        found = f"traceback: {type(error).__name__}: {error!s:.200}"
    took = memory("VmHWM") - before
    return found if took < MOST_MEMORY else f"memory: {took // 2**20} MiB, {found}"


def mutated(rng: np.random.Generator, contents: bytes, tokens: Sequence[bytes]) -> bytes:
    """One to three changes."""
    data = bytearray(contents)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(data) + 1))
        kind = rng.integers(0, 6)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at : at + int(rng.integers(1, 200))]
        elif kind == 3:
            data[at : at + int(rng.integers(1, 9))] = b"\xff" * 4
        elif kind == 4:
            data[at : at + int(rng.integers(0, 4))] = tokens[int(rng.integers(len(tokens)))]
        else:
            del data[at : at + int(rng.integers(1, 40))]
    return bytes(data)


def tracks(folder: Path) -> Made:
    rows = (f"{f},{i},{10 + f},{20 * i},30,40,0.9,-1,-1,-1" for f in range(1, 9) for i in (1, 2))
    (folder / "tracks.txt").write_text("\n".join(rows))
    return folder / "tracks.txt", read_tracks


def numbers(folder: Path) -> Made:
    (folder / "ids.txt").write_text("1,3,5-9 # some\n12\n")
    return folder / "ids.txt", lambda path: parse_numbers(str(path), "--train-ids")


def partitions(folder: Path) -> Made:
    names = [image_name(p, c, 1, k) for p in range(3) for c in (1, 2) for k in range(2)]
    values = {
        "trainval_im_names": names[:4],
        "trainval_ids2labels": {"000000": 0},
        "test_im_names": names[4:],
        "test_marks": [0, 0, 1, 1] * 2,
    }
    (folder / "partitions.pkl").write_bytes(pickle.dumps(values, protocol=2))
    return folder / "partitions.pkl", lambda path: load_layout(path.parent, check_files=False)


def features(folder: Path) -> Made:
    count = 3
    found = FeatureSet(
        features=np.eye(count, 4, dtype=np.float32),
        **dict.fromkeys(("person_ids", "cameras", "tracks", "num_frames"), np.arange(count)),
        marks=np.zeros(count, np.int8),
        titles=np.full(count, "a title"),
        offsets=np.arange(count + 1),
        names=np.array([b"a.png", b"b.png", b"c.png"]),
        **dict.fromkeys(
            ("frame_weights", "intra_weights", "inter_weights"), np.ones(count, np.float32)
        ),
        image_dir="images",
        origin=make_origin(),
    )
    write_features(folder / "features.npz", found)

    def read(path: Path) -> None:
        found = read_features(path)
        for row in range(found.num_tracklets):
            tracklet_name(found, row)
            relative_weights(found, row)
        join_pieces(found).select(np.arange(found.num_tracklets)[:1])

    return folder / "features.npz", read


def inside(whole: Callable[[Path], Made], part: str) -> Callable[[Path], Made]:
    """A file within an archive by itself, so that what is changed in it has the right checksum."""

    def make(folder: Path) -> Made:
        path, read_archive = whole(folder)
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        (folder / "part").write_bytes(parts[part])

        def read(changed: Path) -> None:
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in (parts | {part: changed.read_bytes()}).items():
                    archive.writestr(name, content)
            read_archive(path)

        return folder / "part", read

    return make


PARTS = ("features", "cameras", "marks", "titles", "num_frames", "offsets", "names")
PARTS += ("frame_weights", "image_dir", "sources", "flip", "chunk", "metric", "settings")


def run_files(name: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        write_run_files(folder, to_json(Config()), {5: 0, 7: 1})
        return folder / name, lambda path: run_config(path.parent)

    return make


def sequences(folder: Path) -> Made:
    lines = []
    for person in (1, 2):
        (folder / f"{person:04d}").mkdir()
        for camera in (1, 2):
            prefix = f"{person:04d}_{camera}_{camera:02d}_000{camera}"
            for k in range(2):
                (folder / f"{person:04d}" / f"{prefix}_{k:04d}.jpg").write_bytes(b"")
            lines.append(f"{person:04d}/{prefix} {person}")
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt", lambda path: read_sequences(path.parent, {"train": path})


def picture(kind: str) -> Callable[[Path], Made]:
    def read(path: Path) -> None:
        undecodable(path.read_bytes())
        try:
            read_picture(path, upright=True)
        except PictureError as error:
            raise UserError(str(error)) from None

    def make(folder: Path) -> Made:
        pixels = np.random.default_rng(0).integers(0, 256, (24, 12, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"a.{kind}")
        return folder / f"a.{kind}", read

    return make


def mat_file(version: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        table, path = np.arange(1, 41).reshape(10, 4), folder / "a.mat"
        if version == "7.3":
            with h5py.File(path, "w") as file:
                file["table"] = table.T
        else:
            savemat(path, {"table": table}, do_compression=version == "7", format="5")
        np.testing.assert_array_equal(read_mat(path, "table"), table)
        return path, lambda path: read_mat(path, "table")

    return make


def video(folder: Path) -> Made:
    path, rng = folder / "a.mp4", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(4):
            pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))

    def read(path: Path) -> None:
        for _ in read_frames(open_video(path), np.arange(1, 4)):
            pass

    return path, read


def weights(name: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        tensors = {"conv1.weight": np.ones((2, 3), np.float32), "bn1.bias": np.zeros(4, np.float16)}
        if name.startswith("packed"):
            np.savez_compressed(folder / name, allow_pickle=False, **tensors)
        elif name.endswith(".pth"):
            write_pth(folder / name, {"state_dict": {n: t.shape for n, t in tensors.items()}})
        else:
            write_tensors(folder / name, tensors)
        return folder / name, read_tensors

    return make


class Tensor:
    """Pickled as PyTorch does a tensor of single precision that has storage 0."""

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...] | None = None) -> None:
        steps = np.cumprod((1, *shape[:0:-1]))[::-1].tolist() if strides is None else strides
        self.arguments = Storage(), 0, shape, tuple(steps), False, {}


class Storage:
    """Numbers by their key."""


_PythonPickler: Any = pickle._Pickler


class _Pickler(_PythonPickler):
    """Writes names of PyTorch where that is not installed."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Tensor):
            self.write(b"ctorch._utils\n_rebuild_tensor_v2\n")
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(obj, Storage):
            self.write(b"(X\x07\0\0\0storagectorch\nFloatStorage\n")
            self.write(b"X\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x18tQ")
        else:
            super().save(obj, save_persistent_id)


def write_pth(path: Path, content: Any, numbers: bytes = bytes(96), pickled: bytes = b"") -> None:
    """An archive such as torch.save writes; shapes in `content` stand for tensors."""

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tensors(inner) for name, inner in value.items()}
        return Tensor(value) if isinstance(value, tuple) else value

    if not pickled:
        with open(path, "wb+") as file:
            _Pickler(file, 2).dump(tensors(content))
            file.seek(0)
            pickled = file.read()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickled)
        archive.writestr("w/byteorder", b"little")
        archive.writestr("w/data/0", numbers)


def splits(folder: Path) -> Made:
    people = {"train": ["person_0001"], "test": ["person_0002"]}
    (folder / "splits.json").write_text(json.dumps([people, people]))
    return folder / "splits.json", read_splits


def table(folder: Path) -> TrackletTable:
    one = np.zeros(1, np.int64)
    return TrackletTable(
        image_dir=folder / "images",
        names=np.array([b"0001_11_1.png"]),
        offsets=np.array([0, 1]),
        **dict.fromkeys(("person_ids", "cameras", "tracks", "labels"), one),
        marks=np.zeros(1, np.int8),
    )


def decoded(name: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        np.save(folder / FRAMES, np.zeros((1, 4, 2, 3), np.uint8))
        np.save(folder / NAMES, table(folder).names)
        about = {"height": 4, "width": 2, "pad_ratio": 0.0, "lost": {"a.png": "empty"}}
        about |= {"ends": [1], "crc32": [0x28CD4CBC]}
        (folder / ABOUT).write_text(json.dumps(about))

        def read(path: Path) -> None:
            open_decoded(path.parent, table(path.parent))(np.zeros(1, np.int64))
            if name == ABOUT:
                with contextlib.suppress(UserError):  # another checksum
                    check(path.parent)

        return folder / name, read

    return make


def sources(folder: Path) -> Made:
    header = "name_prefix,source_id,first_frame,last_frame"
    (folder / TRACKLETS_FILE).write_text(f"{header}\n0001_11,7,1,9\n")
    return folder / TRACKLETS_FILE, lambda path: read_sources(table(path.parent))


def names(folder: Path) -> Made:
    (folder / "names.txt").write_text("0001C1T0001F001.jpg\n0001C1T0001F002.jpg\n")
    return folder / "names.txt", read_names


def overrides(folder: Path) -> Made:
    given = [
        "seed=1",
        "data.height=64",
        "model.stages=(3,4)",
        "optimizer.lr_rest=1e-3",
        "data.root=a",
    ]
    (folder / "overrides.txt").write_text("\n".join(f"--config.{one}" for one in given))
    (folder / "config.json").write_text(json.dumps(to_json(Config())))
    (folder / "labels.json").write_text("{}")
    (folder / "versions.json").write_text('[{"devices": "1"}]')

    def read(path: Path) -> None:
        lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        given = [line for line in lines if line.startswith("--config.")]
        read_config(*parse(["--workdir", str(path.parent), *given]))

    return folder / "overrides.txt", read


READERS: dict[str, Callable[[Path], Made]] = {
    "track file": tracks,
    "list of ids": numbers,
    "partitions": partitions,
    "features": features,
    **{f"{name} of a run": run_files(f"{name}.json") for name in ("config", "labels", "versions")},
    **{name: weights(name) for name in ("w.safetensors", "w.npz", "packed.npz", "w.pth")},
    **{f"{name} of decoded frames": decoded(name) for name in (ABOUT, FRAMES, NAMES)},
    **{f"{part} of features": inside(features, f"{part}.npy") for part in PARTS},
    "array of w.npz": inside(weights("w.npz"), "conv1.weight.npy"),
    "pickle of w.pth": inside(weights("w.pth"), "w/data.pkl"),
    "splits": splits,
    "tracker's ids": sources,
    "list of names": names,
    "options of a config": overrides,
    "LS-VID's list": sequences,
    **{f"MATLAB {version} file": mat_file(version) for version in ("5", "7", "7.3")},
    "video": video,
    **{f"{kind} picture": picture(kind) for kind in ("jpeg", "png", "webp", "tiff", "gif", "bmp")},
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")  # of Pillow and NumPy, about what they forgive
@pytest.mark.timeout(900 + 2 * LONGER)
def test_a_damaged_file_gives_a_value_or_one_clear_error(tmp_path: Path, name: str) -> None:
    path, read = READERS[name](tmp_path)
    contents = path.read_bytes()
    read(path)
    rng = np.random.default_rng(SEED)
    outcomes: Counter[str] = Counter()
    tokens = [*TOKENS, DEEP]
    times = TIMES // 15 if name in IN_A_CHILD else TIMES
    end, bad = time.monotonic() + LONGER, tmp_path / "kept"
    while outcomes.total() < times or time.monotonic() < end:
        path.write_bytes(mutated(rng, contents, tokens))
        found = outcome(read, path)
        if found not in ("read", "refused") and found not in outcomes:
            bad.with_suffix(f".{len(outcomes)}").write_bytes(path.read_bytes())
        outcomes[found] += 1
    counts = {kind: outcomes.pop(kind, 0) for kind in ("refused", "read")}
    print(f"{name:30} {counts['refused']:8} refused {counts['read']:8} read", dict(outcomes))
    assert not outcomes, f"{outcomes}; the files are kept beside {path}"
    assert counts["refused"] > times // 20, counts


DOUBLED_TUPLE = b"\x80\x02N" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(60))
DOUBLED_LIST = b"".join(b"q%c0](h%ch%ce" % (k, k, k) for k in range(100))
LONG_LIST = b"](" + b"N" * 20_000 + b"eq\x00"
PICKLES = {
    "tuples in tuples as a key": b"\x80\x02}" + DOUBLED_TUPLE[2:] + b"Ns.",
    "tuples in tuples in a set": DOUBLED_TUPLE + b"q\xff0c__builtin__\nset\n](h\xffe\x85R.",
    "200,000 tuples as a key": b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns.",
    "200,000 lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "lists in lists": b"\x80\x02]" + DOUBLED_LIST + b".",
    "text of lists in lists": b"\x80\x02c__builtin__\nstr\n]" + DOUBLED_LIST + b"\x85R.",
    "copies of a list": b"\x80\x02"
    + LONG_LIST
    + b"c__builtin__\nlist\nq\x01"
    + b"h\1h\0\x85R" * 5000
    + b".",
    "copies of text": b"\x80\x02X\xff\xff\0\0"
    + b"a" * 65535
    + b"q\x00c_codecs\nencode\nq\x01"
    + b"h\1h\0\x85R" * 5000
    + b".",
    "colliding keys": pickle.dumps({k * (2**61 - 1): 0 for k in range(100, 30_000)}, 2),
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "an object": b"\x80\x02c__builtin__\nlist\n)\x81.",
    "a number of 5,000 digits": b"\x80\x02}X\x0d\0\0\0test_im_namesL" + b"9" * 5000 + b"L\ns.",
}


def changed_features(folder: Path, **changes: Any) -> bytes:
    path, _ = features(folder)
    with np.load(path) as file:
        values = {name: file[name] for name in file.files} | changes
    np.savez_compressed(path, allow_pickle=False, **values)
    return path.read_bytes()


FEATURES: dict[str, Any] = {
    "cameras, one number": {"cameras": np.array(1)},
    "cameras of halves": {"cameras": np.array([0.5, 1, 2])},
    "marks beyond 2": {"marks": np.array([0, 1, 3])},
    "person ids beyond 64 bits": {"person_ids": np.full(3, 2**63, np.uint64)},
    "a chunk of nothing": {"chunk": 0},
    "a chunk of words": {"chunk": "one"},
    "features, one number each": {"features": np.ones(3, np.float32)},
    "features that are NaN": {"features": np.full((3, 4), np.nan, np.float32)},
    "infinite weights": {"intra_weights": np.full(3, np.inf, np.float32)},
    "offsets beyond the frames": {"offsets": np.array([0, 1, 2, 9])},
    "offsets that fall": {"offsets": np.array([0, 5, -1, 3])},
    "a name with a zero byte": {"names": np.array([b"a.png", b"b\0c", b"c.png"])},
    "titles beyond Unicode": {"titles": np.full(3, 0x110000, np.uint32).view("U1")},
    "another metric": {"metric": "manhattan"},
    "settings that are a list": {"settings": "[]"},
    "deep settings": {"settings": "[" * 10**5},
    "features that unpack to 300 MB": {"features": np.zeros((3, 25_000_000), np.float32)},
}


def packed_weights(folder: Path, change: Callable[[bytes], bytes], **options: Any) -> bytes:
    with (
        zipfile.ZipFile(folder / "w.npz", "w", **options) as archive,
        archive.open("a.npy", "w") as out,
    ):
        np.save(out, np.zeros(1000))
    return change((folder / "w.npz").read_bytes())


def hdf5_of_no_end(folder: Path) -> bytes:
    with h5py.File(folder / "a.mat", "w") as file:
        file.create_dataset("table", (10**6, 10**6), "f8", chunks=(1000, 1000))
    return (folder / "a.mat").read_bytes()


def pth(folder: Path, content: Any = None, **options: Any) -> bytes:
    write_pth(folder / "w.pth", content, **options)
    return (folder / "w.pth").read_bytes()


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000000,), }"
CALL = b"{'descr': '<f4', 'fortran_order': False, 'shape': (int('4'),), }"
CRAFTED: dict[tuple[str, str], Callable[[Path], bytes]] = {
    **{
        ("partitions", name): lambda _, pickled=pickled: pickled
        for name, pickled in PICKLES.items()
    },
    **{("features", n): lambda f, c=c: changed_features(f, **c) for n, c in FEATURES.items()},
    ("w.npz", "encrypted"): lambda f: packed_weights(
        f, lambda c: c.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1")
    ),
    ("w.npz", "of bzip2"): lambda f: packed_weights(f, bytes, compression=zipfile.ZIP_BZIP2),
    ("w.npz", "no arrays"): lambda f: zipped(f / "w.npz", b"hello"),
    ("w.npz", "of a huge shape"): lambda f: zipped(f / "w.npz", npy(HUGE)),
    ("w.npz", "with a call"): lambda f: zipped(f / "w.npz", npy(CALL)),
    ("w.pth", "a list that holds itself"): lambda f: pth(f, pickled=b"\x80\x02]q\x00h\x00a."),
    ("w.pth", "200,000 lists"): lambda f: pth(f, pickled=PICKLES["200,000 lists"]),
    ("w.pth", "tuples as a key"): lambda f: pth(f, pickled=PICKLES["tuples in tuples as a key"]),
    ("w.pth", "a huge shape"): lambda f: pth(f, {"w": (10**9,)}),
    ("w.pth", "one storage of many tensors"): lambda f: pth(
        f, {f"w{k}": (10**6,) for k in range(2000)}, numbers=bytes(4 * 10**6)
    ),
    ("w.pth", "a data.pkl of 100 MB"): lambda f: pth(f, pickled=b"\x80\x02" + b"N" * 10**8 + b"."),
    ("splits", "deep"): lambda _: b"[" * 10**6,
    (f"{ABOUT} of decoded frames", "deep"): lambda _: b'{"a":' * 10**6,
    (f"{NAMES} of decoded frames", "huge"): lambda _: npy(HUGE),
    (f"{FRAMES} of decoded frames", "with a call"): lambda _: npy(CALL),
    ("MATLAB 7.3 file", "of 8 TB"): hdf5_of_no_end,
    ("list of ids", "a billion"): lambda _: b",".join(
        b"%d-%d" % (k * 10**6, k * 10**6 + 999_999) for k in range(1000)
    ),
    ("video", "a playlist"): lambda _: (
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    ),
    ("png picture", "of 400 million pixels"): lambda _: png_of(20_000, 20_000),
    ("png picture", "PostScript"): lambda _: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    ),
}


def zipped(path: Path, content: bytes) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    return path.read_bytes()


def npy(header: bytes) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(16)


@pytest.mark.parametrize(("name", "what"), CRAFTED)
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_was_made_to_hurt_is_refused(tmp_path: Path, name: str, what: str) -> None:
    path, read = READERS[name](tmp_path)
    (tmp_path / "made").mkdir()
    path.write_bytes(CRAFTED[name, what](tmp_path / "made"))
    assert outcome(read, path) == "refused"
