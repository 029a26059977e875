"""Every command while a folder that it reads or writes fails, as on a network that goes away.

Started with faulty_folder.c's library in LD_PRELOAD: `faulty_driver.py FOLDER POINTS`. Each command
runs once on a folder that is slow, to count the calls on it, then again with a failure from POINTS
moments on, which are spread over the calls. Not a test: `test_faulty_folders.py` runs it.
"""

import ctypes
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import chaos_driver
import jax

from stf_jax import main
from stf_jax.data import decode
from stf_jax.prepare import __main__ as prepare

library = ctypes.CDLL(None)
library.faulty_folder_calls.restype = ctypes.c_long
SLOW = "2000"  # microseconds a call
Command = Callable[[Path], int]  # given the folder that fails
READING = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT)
WRITING = (errno.EDQUOT, errno.ENOSPC, errno.EROFS, errno.ESTALE)


def trained(data: Path, workdir: Path) -> list[str]:
    """A run of one epoch."""
    more = {"train.epochs": 1, "train.evaluate_before": False, "data.root": data}
    return chaos_driver.command(data.parent, workdir, more)


def commands(folder: Path) -> dict[str, tuple[Command, Path, bool]]:
    """Name -> what runs, the folder that fails, whether only writing does."""
    data, files, run = folder / "set", folder / "files", folder / "run"
    features = str(run / "features.npz")
    own = folder / "own"

    def training(workdir: Path) -> int:
        return main.main(trained(data, workdir))

    def evaluating(workdir: Path) -> int:
        return main.main(["--mode", "evaluate", "--workdir", str(workdir)])

    def drawing(output: Path) -> int:
        people = ["--identities", "4", "--cameras", "2", "--max-length", "4", "--min-length", "3"]
        return prepare.main(["synthetic", "--output", str(output), *people])

    def decoding(output: Path) -> int:
        return decode.main([str(files), str(output), "--height", "32", "--width", "16"]) or 0

    def matching(output: Path) -> int:
        words = ["--query", features, "--gallery", features, "--output", str(output)]
        return main.main(["--mode", "match", "--workdir", str(folder / "kept"), *words])

    def resuming(workdir: Path) -> int:
        status = main.main([*trained(data, workdir), "--config.train.epochs=2"])
        os.environ["FAULTY_AFTER"] = str(1 << 40)
        assert not (workdir / "set_aside").exists(), "moved, though it is whole"
        return status

    return {
        "train, its data": (lambda _: training(own), data, False),
        "train, its workdir": (training, own, False),
        "train, its workdir, written": (training, own, True),
        "train, a workdir to resume": (resuming, run, False),
        "evaluate, its workdir": (evaluating, run, False),
        "evaluate, its workdir, written": (evaluating, run, True),
        "prepare synthetic": (drawing, own, True),
        "prepare verify": (lambda d: prepare.main(["verify", str(d)]), files, False),
        "decode, its images": (lambda _: decoding(own), files, False),
        "decode, its output": (decoding, own, True),
        "match, features": (lambda _: matching(own), run, False),
        "match, its output": (matching, own, True),
    }


def failing(command: Command, where: Path, after: int, fault: int, writes: bool) -> Command:
    """The command as it is when `where` fails from its `after`-th call on."""

    def run(given: Path) -> int:
        os.environ |= {"FAULTY_AFTER": str(after), "FAULTY_ERRNO": str(fault)}
        os.environ |= {"FAULTY_FOLDER": str(where), "FAULTY_DELAY": "0" if fault else SLOW}
        if writes:
            os.environ["FAULTY_WRITES"] = "1"
        library.faulty_folder_reset()
        status = command(given)
        Path(f"{where}.calls").write_text(str(library.faulty_folder_calls()))
        return status

    return run


def main_(folder: Path, points: int) -> None:
    chaos_driver.make_layout(folder / "set")
    run = folder / "run"
    for argv in (trained(folder / "set", run), ["--mode", "evaluate", "--workdir", str(run)]):
        status, printed, _ = chaos_driver.forked(lambda argv=argv: main.main(argv))
        assert status == 0, printed
    shutil.copytree(run, folder / "kept")
    bad, number = [], 0
    for name, (command, where, writes) in commands(folder).items():
        whole = failing(command, where, 1 << 40, 0, writes)
        faults = WRITING if writes else READING
        seen: dict[str, int] = {}
        total = 0
        for point in range(-1, points):
            shutil.rmtree(folder / "own", ignore_errors=True)
            shutil.rmtree(run)
            shutil.copytree(folder / "kept", run)
            fault = faults[number % len(faults)]
            after = total * point // points
            work = whole if point < 0 else failing(command, where, after, fault, writes)
            begun = time.monotonic()
            status, printed, _ = chaos_driver.forked(lambda work=work, where=where: work(where))
            took = time.monotonic() - begun
            if point < 0:
                assert status == 0, (name, printed)
                total = int(Path(f"{where}.calls").read_text())
                print(f"{name}: {total} calls, {took:.1f} s", file=sys.stderr, flush=True)
                assert total >= 5, name
                continue
            number += 1
            lines = [line for line in printed.splitlines() if "error:" in line]
            fine = status == 0 or (status in (1, 2) and len(lines) == 1)
            wrong = [w for w in ("Traceback", "damaged", "removed", "--fix") if w in printed]
            if not fine or wrong or took > 60:
                bad.append((name, after, os.strerror(fault), status, printed[-2500:]))
                print(*bad[-1], file=sys.stderr, flush=True)
            last = lines[-1] if lines else ""
            print("   ", after, os.strerror(fault), status, last[:300], file=sys.stderr, flush=True)
            seen[str(status)] = seen.get(str(status), 0) + 1
        print(json.dumps({"command": name, "calls": total, "statuses": seen}))
    assert not bad, f"{len(bad)} of {number}"


if __name__ == "__main__":
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    main_(Path(sys.argv[1]), int(sys.argv[2]))
