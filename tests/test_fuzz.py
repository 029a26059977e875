"""Damaged and hostile files: every reader gives a value or a UserError, and quickly.

Real small files, each changed at random a few hundred times: bits, cuts, repeats, other lengths.
"""

import pickle
import time
from collections import Counter
from collections.abc import Callable
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
from stf_jax.data.layout.partitions import load_layout
from stf_jax.data.pictures import PictureError, read_picture
from stf_jax.data.pipeline import undecodable
from stf_jax.errors import UserError
from stf_jax.evaluation.features.feature_files import FeatureSet, read_features, write_features
from stf_jax.prepare.layout import image_name
from stf_jax.prepare.published.ls_vid_lists import read_sequences
from stf_jax.prepare.published.mat_files import read_mat
from stf_jax.prepare.tracks.split import parse_numbers
from stf_jax.prepare.tracks.track_files import read_tracks
from stf_jax.prepare.tracks.video import open_video, read_frames
from stf_jax.run.run_files import run_config, write_run_files

TIMES = 300
IN_A_CHILD = {"MATLAB 5 file", "MATLAB 7 file"}  # each time: fewer times
SLOWEST = 30.0  # seconds
# Where a file is text, what programs and people write in place of a number.
TOKENS = [b"nan", b"-1", b"1e400", b"99999999999999999999", b"1_1", b"\xd9\xa1", b"\0", b"\xff\xfe"]
TOKENS += [b",", b";", b'"', b"{", b"[" * 50, b"\n\n", b"-0", b"0x10", b"1.5", b"  ", b"null"]


def mutated(rng: np.random.Generator, contents: bytes) -> bytes:
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
            data[at : at + int(rng.integers(0, 4))] = TOKENS[int(rng.integers(len(TOKENS)))]
        else:
            del data[at : at + int(rng.integers(1, 40))]
    return bytes(data)


def tracks(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    rows = (f"{f},{i},{10 + f},{20 * i},30,40,0.9,-1,-1,-1" for f in range(1, 9) for i in (1, 2))
    (folder / "tracks.txt").write_text("\n".join(rows))
    return folder / "tracks.txt", read_tracks


def numbers(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    (folder / "ids.txt").write_text("1,3,5-9 # some\n12\n")
    return folder / "ids.txt", lambda path: parse_numbers(str(path), "--train-ids")


def partitions(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    names = [image_name(p, c, 1, k) for p in range(3) for c in (1, 2) for k in range(2)]
    values = {
        "trainval_im_names": names[:4],
        "trainval_ids2labels": {"000000": 0},
        "test_im_names": names[4:],
        "test_marks": [0, 0, 1, 1] * 2,
    }
    (folder / "partitions.pkl").write_bytes(pickle.dumps(values, protocol=2))
    return folder / "partitions.pkl", lambda path: load_layout(path.parent, check_files=False)


def features(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
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
    return folder / "features.npz", read_features


def run_files(name: str) -> Callable[[Path], tuple[Path, Callable[[Path], Any]]]:
    def make(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
        write_run_files(folder, to_json(Config()), {5: 0, 7: 1})
        return folder / name, lambda path: run_config(path.parent)

    return make


def sequences(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
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


def picture(kind: str) -> Callable[[Path], tuple[Path, Callable[[Path], Any]]]:
    def read(path: Path) -> None:
        undecodable(path.read_bytes())
        try:
            read_picture(path, upright=True)
        except PictureError as error:
            raise UserError(str(error)) from None

    def make(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
        pixels = np.random.default_rng(0).integers(0, 256, (24, 12, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"a.{kind}")
        return folder / f"a.{kind}", read

    return make


def mat_file(version: str) -> Callable[[Path], tuple[Path, Callable[[Path], Any]]]:
    def make(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
        table, path = np.arange(1, 41).reshape(10, 4), folder / "a.mat"
        if version == "7.3":
            with h5py.File(path, "w") as file:
                file["table"] = table.T
        else:
            savemat(path, {"table": table}, do_compression=version == "7", format="5")
        np.testing.assert_array_equal(read_mat(path, "table"), table)
        return path, lambda path: read_mat(path, "table")

    return make


def video(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
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


READERS: dict[str, Callable[[Path], tuple[Path, Callable[[Path], Any]]]] = {
    "track file": tracks,
    "list of ids": numbers,
    "partitions": partitions,
    "features": features,
    "config of a run": run_files("config.json"),
    "labels of a run": run_files("labels.json"),
    "versions of a run": run_files("versions.json"),
    "LS-VID's list": sequences,
    **{f"MATLAB {version} file": mat_file(version) for version in ("5", "7", "7.3")},
    "video": video,
    **{f"{kind} picture": picture(kind) for kind in ("jpeg", "png", "webp", "tiff", "gif", "bmp")},
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")  # of Pillow and NumPy, about what they forgive
def test_a_damaged_file_gives_a_value_or_one_clear_error(tmp_path: Path, name: str) -> None:
    path, read = READERS[name](tmp_path)
    contents = path.read_bytes()
    read(path)
    rng = np.random.default_rng(0)
    outcomes: Counter[str] = Counter()
    times = TIMES // 10 if name in IN_A_CHILD else TIMES
    for _ in range(times):
        path.write_bytes(mutated(rng, contents))
        start = time.monotonic()
        try:
            read(path)
            outcomes["read"] += 1
        except UserError:
            outcomes["refused"] += 1
        assert time.monotonic() - start < SLOWEST
    assert outcomes["refused"] > times // 20, outcomes
