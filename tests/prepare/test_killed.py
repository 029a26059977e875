"""Every command killed (SIGKILL) before each of its file operations, or out of room; run again."""

import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
from PIL import Image

# Runs the command in a child of its own for each place to be killed at; fork, so that everything
# is imported once. Prints how many places there were.
DRIVER = """
import importlib, os, pickle, resource, shutil, signal, sys
from pathlib import Path

from stf_jax.prepare.__main__ import main

argv, out = sys.argv[2:], Path(sys.argv[1])
importlib.import_module("stf_jax.prepare." + argv[0].replace("-", "_"))
link, replace = os.link, os.replace


def child(kill_at, output, most=None):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        calls = [0]

        def deadly(function):
            def run(*args, **kwargs):
                calls[0] += 1
                if calls[0] == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return run

        os.link, os.replace = deadly(link), deadly(replace)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(writing, 2)
        if most is not None:  # bytes of a file; a write beyond fails as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        try:
            status = main([*argv, "--output", str(output)])
        except BaseException:
            status = 1
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        printed = pipe.read()
    return os.waitpid(pid, 0)[1], printed


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


assert child(0, out / "whole") == (0, "")
expected = contents(out / "whole")
place = 0
while True:
    place += 1
    root = out / "killed"
    shutil.rmtree(root, ignore_errors=True)
    status, _ = child(place, root)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    left = contents(root) if root.exists() else {}
    done = [path for path in left if path.match("partitions*.pkl")]
    for path in done:  # what looks whole is whole
        assert left[path] == expected[path], path
        for key, names in pickle.loads(left[path]).items():
            if key.endswith("_im_names"):
                assert all(left[Path("images", n)] == expected[Path("images", n)] for n in names)
    # The first partitions file is the last file: it alone says that all of them are there.
    first = min(path for path in expected if path.match("partitions*.pkl"))
    assert first not in done or expected.keys() == left.keys(), (place, left.keys())
    assert child(0, root) == (0, "")
    assert contents(root) == expected, place
full = 0
for most in (0, 1, 50, 90, 130, 200, 300, 400, 600, 900, 1500):
    shutil.rmtree(root, ignore_errors=True)
    status, printed = child(0, root, most)
    if status == 0:
        assert contents(root) == expected
        continue
    full += 1
    assert os.waitstatus_to_exitcode(status) == 2, (most, status, printed)
    placed = "cannot be placed as " + str(root) in printed
    named = placed or printed.startswith("error: " + str(root))
    assert named, printed
    assert "File too large" in printed and printed.count("\\n") == 1, printed
    left = contents(root)
    assert not any(path.match("partitions.pkl") or path.match("partitions_00.pkl") for path in left)
    assert not any(path.suffix == ".part" for path in left)
    assert all(expected[path] == content for path, content in left.items())
    assert child(0, root) == (0, "")
    assert contents(root) == expected, most
print(place - 1, full)
"""


def mars(root):
    rows = np.array([[1, 2, 2, 1], [3, 4, 2, 2]])
    for subset in ("train", "test"):
        people = rows + np.array([0, 0, subset == "train", 0])
        names = [f"{p:04d}C{c}T0001F{k:03d}.jpg" for _, _, p, c in people for k in (1, 2)]
        folder = root / f"bbox_{subset}"
        folder.mkdir(parents=True)
        (root / "info").mkdir(exist_ok=True)
        (root / "info" / f"{subset}_name.txt").write_text("\n".join(names))
        scipy.io.savemat(root / "info" / f"tracks_{subset}_info.mat", {"t": people})
        for name in names:
            (folder / name).write_bytes(name.encode())
    scipy.io.savemat(root / "info" / "query_IDX.mat", {"q": [[1]]})
    return ["mars", "--source", str(root)]


def ilids_vid(root):
    for person in (1, 2):
        for camera in (1, 2):
            folder = root / "sequences" / f"cam{camera}" / f"person{person:03d}"
            folder.mkdir(parents=True)
            for k in (1, 2):
                (folder / f"cam{camera}_person{person:03d}_{k}.png").write_bytes(
                    f"{person} {camera} {k}".encode()
                )
    scipy.io.savemat(root / "splits.mat", {"ls_set": [[1, 2], [2, 1], [1, 2]]})
    return ["ilids-vid", "--source", str(root), "--splits", str(root / "splits.mat")]


def ls_vid(root):
    for subset, person in (("train", 1), ("test", 2)):
        names = [f"{person:04d}_1_{c:02d}" for c in (3, 12)]
        (root / subset).mkdir(parents=True)
        for name in names:
            for k in (1, 2):
                (root / subset / f"{name}_{k:04d}.jpg").write_bytes(f"{name} {k}".encode())
        lines = [f"{subset}/{name} {person}" for name in names]
        (root / f"list_seq_{subset}.txt").write_text("\n".join(lines))
    scipy.io.savemat(root / "info_test.mat", {"query": [[1]]})
    return ["ls-vid", "--source", str(root)]


def prid2011(root):
    for person in (1, 2):
        for camera in "ab":
            folder = root / f"cam_{camera}" / f"person_{person:04d}"
            folder.mkdir(parents=True)
            for k in (1, 2):
                (folder / f"{k:04d}.png").write_bytes(f"{person} {camera} {k}".encode())
    splits = [{"train": [f"person_{a:04d}"], "test": [f"person_{b:04d}"]} for a, b in ((1, 2),) * 2]
    (root / "splits.json").write_text(json.dumps(splits))
    return ["prid2011", "--source", str(root), "--splits", str(root / "splits.json"), "--copy"]


def mot(root):
    rng = np.random.default_rng(0)
    (root / "frames").mkdir(parents=True)
    for k in (1, 2):
        pixels = rng.integers(0, 256, (24, 40, 3), np.uint8)
        Image.fromarray(pixels).save(root / "frames" / f"{k}.png")
    boxes = [f"{f},{i},{i},2,8,16,0.9" for i in (1, 2) for f in (1, 2)]
    (root / "tracks.txt").write_text("\n".join(boxes))
    cameras = [f"--camera={c}:{root / 'frames'}:{root / 'tracks.txt'}" for c in (1, 2)]
    return ["mot", *cameras, "--train-rule", "odd"]


def synthetic(root):
    sizes = "--identities=2 --cameras=2 --min-length=1 --max-length=2 --height=32 --width=16"
    return ["synthetic", "--jobs=1", *sizes.split()]


@pytest.mark.parametrize("source", [mars, ilids_vid, ls_vid, prid2011, mot, synthetic])
def test_killed_at_any_moment_the_same_command_ends_the_same(source, tmp_path):
    argv = source(tmp_path / "source")
    driver = [sys.executable, "-W", "ignore", "-c", DRIVER, str(tmp_path), *argv]
    result = subprocess.run(driver, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    places, full = map(int, result.stdout.split())
    assert places >= 6  # the receipt, four images and the partitions at the least
    assert full >= 3
