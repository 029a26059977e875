"""One training run and its evaluation, in children of this process, which are killed.

Everything is imported once and the children are forked before jax is used; jax keeps what it
compiles. Not a test: `test_chaos.py` runs it as `chaos_driver.py MODE FOLDER`.
"""

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import tensorstore
from PIL import Image

from stf_jax import evaluate, main, train
from stf_jax.data import decode
from stf_jax.models import resnet
from stf_jax.prepare.layout import image_name, write_partitions
from stf_jax.run import checkpoint
from stf_jax.run.metrics_log import TIMES

ROOT = Path(__file__).parents[2]
# One block a stage: less to compile.
resnet.RESNETS["resnet18"] = (False, (1, 1, 1, 1))
OPTIONS = {
    "pretrained": "none",
    "data.source": "decoded",
    "data.height": 32,
    "data.width": 16,
    "data.tracklets": 4,
    "data.min_frames": 2,
    "data.max_frames": 2,
    "data.frame_buckets": 1,
    "data.threads": 1,
    "model.backbone": "resnet18",
    "model.stages": "(4,)",
    "model.embed_dim": 8,
    "optimizer.lr_backbone": 1e-3,
    "optimizer.lr_rest": 1e-3,
    "train.epochs": 6,
    "train.evaluate_every": 2,
    "train.evaluate_before": True,
    "train.log_every": 3,
    "train.checkpoint_minutes": 1e-9,  # after every step
    "evaluation.chunk": 4,
    "evaluation.frames_per_device": 20,
}
STEPS = 12
Prepare = Callable[[], None]


def make_layout(root: Path) -> None:
    """Noise: scores hang on every bit. Four people train, 2 steps an epoch; six are ranked."""
    rng = np.random.default_rng(0)
    (root.with_name("files") / "images").mkdir(parents=True)
    names: dict[str, list[str]] = {"train": [], "test": []}
    marks = []
    for person in range(10):
        half = "train" if person < 4 else "test"
        for camera in (1, 2):
            for offset in range(3):
                name = image_name(person, camera, 1, offset)
                pixels = rng.integers(0, 256, (32, 16, 3), np.uint8)
                Image.fromarray(pixels).save(root.with_name("files") / "images" / name)
                names[half].append(name)
                if half == "test":
                    marks.append(camera - 1)
    files = root.with_name("files")
    write_partitions(files, trainval=names["train"], test=names["test"], test_marks=marks)
    # Decoded once: TensorFlow, which reads files, would take a child longer than all the rest.
    arguments = [str(files), str(root), "--height", "32", "--width", "16"]
    status, printed, _ = forked(lambda: int(decode.main(arguments) or 0))
    assert status == 0, printed


def command(folder: Path, workdir: Path, more: dict[str, Any]) -> list[str]:
    values = {**OPTIONS, "data.root": folder / "set", "compilation_cache": folder / "programs"}
    overrides = [f"--config.{key}={value}" for key, value in {**values, **more}.items()]
    return ["--config", str(ROOT / "configs" / "mars.py"), "--workdir", str(workdir), *overrides]


def child(
    prepare: Prepare, folder: Path, workdir: Path, evaluates: bool = True, **more: Any
) -> tuple[int, str, float]:
    """Train and evaluate in a child; its status (negative: a signal), errors, and seconds."""

    def run() -> int:
        prepare()
        argv = command(folder, workdir, more)
        status = main.main(argv)
        if status == 0 and evaluates:
            status = main.main(["--mode", "evaluate", "--workdir", str(workdir)])
        if status == 0:
            workdir.with_suffix(".json").write_text(json.dumps(contents(workdir)))
        return status

    return forked(run, 120 + 5 * more.get("train.epochs", 0))


def forked(run: Callable[[], int], longest: float = 120) -> tuple[int, str, float]:
    """Call `run` in a child: this process may not use jax itself, as it could not fork then."""
    begun = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.dup2(writing, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 1
        try:
            status = run()
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    os.close(writing)
    # Of a child that hangs: killed, and reported.
    watchdog = threading.Timer(longest, os.kill, (pid, signal.SIGABRT))
    watchdog.start()
    with os.fdopen(reading) as pipe:
        printed = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    watchdog.cancel()
    return status, printed, time.monotonic() - begun


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in(seconds: float) -> None:
    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()


def kill_within(module: Any, name: str, call: int, seconds: float) -> None:
    """Killed `seconds` after the `call`-th call of a function has begun."""
    real, calls = getattr(module, name), [0]

    def armed(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            kill_in(seconds)
        return real(*args, **kwargs)

    setattr(module, name, armed)


def result(workdir: Path) -> dict[str, Any]:
    """What the last child has found there."""
    return json.loads(workdir.with_suffix(".json").read_text())


def contents(workdir: Path) -> dict[str, Any]:
    """What has to be the same, bit for bit."""
    folder, found = workdir / "checkpoints", {}
    for entry in checkpoint.describe(folder):
        checkpoint.verify(folder, entry.step)
        step = folder / str(entry.step)
        found[f"checkpoint {entry.step}"] = [json.loads((step / "contents/metadata").read_text())]
        found[f"position {entry.step}"] = [json.loads((step / "position/metadata").read_text())]
        found[f"scores {entry.step}"] = [entry.metrics]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    if not (workdir / "scores.json").exists():
        return found
    found["evaluation"] = [json.loads((workdir / "scores.json").read_text())["rows"]]
    with np.load(workdir / "features.npz") as features:
        found["features"] = [features["features"].tobytes().hex()]
    pages = (workdir / "report").rglob("*")
    found["pages"] = [sorted(str(p.relative_to(workdir)) for p in pages)]
    return found


def assert_same(found: dict[str, Any], expected: dict[str, Any], about: Any) -> None:
    for name in sorted({*found, *expected}):
        ours, theirs = found.get(name, []), expected.get(name, [])
        assert ours == theirs, (about, name, str(ours)[-800:], str(theirs)[-800:])


def straight(folder: Path) -> tuple[dict[str, Any], float]:
    """The uninterrupted run, and how long it takes once all is compiled."""
    make_layout(folder / "set")
    seconds = 0.0
    for name in ("compiled", "straight"):
        status, printed, seconds = child(lambda: None, folder, folder / name)
        assert status == 0, printed
    first = result(folder / "straight")
    assert_same(result(folder / "compiled"), first, "two runs")
    assert len(first["metrics"]) >= STEPS // 3
    return first, seconds


def killed_and_filled(folder: Path, kills: int, seed: int) -> None:
    """Both against one uninterrupted run."""
    expected, seconds = straight(folder)
    killed(folder, expected, seconds, kills, seed)
    filled(folder, expected)


def killed(folder: Path, expected: dict[str, Any], seconds: float, kills: int, seed: int) -> None:
    """Runs with up to six kills each, at moments that are drawn; each ends as the straight one."""
    rng, done, number = random.Random(seed), 0, 0
    places: dict[str, int] = {}
    while done < kills:
        number += 1
        workdir = folder / "killed"
        shutil.rmtree(workdir, ignore_errors=True)
        for left in reversed(range(min(6, kills - done))):  # the last one when all is trained
            where = rng.choice(["anywhere", "checkpoint", "evaluation"]) if left else "report"
            call, delay = rng.randint(1, 3), rng.choice([0, rng.uniform(0, 0.05)])

            def prepare(where: str = where, call: int = call, delay: float = delay) -> None:
                if where == "anywhere":
                    kill_in(rng.uniform(0.3, seconds))
                elif where == "checkpoint":
                    kill_within(checkpoint.ocp.CheckpointManager, "save", call, delay)
                elif where == "evaluation":
                    kill_within(train, "validate", call, delay)
                else:
                    kill_within(evaluate, "write_run_report", 1, delay)

            at = (number, where, call, delay)
            status, printed, took = child(prepare, folder, workdir)
            print(*at, status, f"{took:.1f} s of {seconds:.1f}", file=sys.stderr, flush=True)
            assert status in (0, -signal.SIGKILL), (at, status, printed)
            assert "Traceback" not in printed, (at, printed)
            if status == 0:  # it has ended before it came there
                break
            done, places[where] = done + 1, places.get(where, 0) + 1
        else:
            status, printed, _ = child(lambda: None, folder, workdir)
            assert status == 0, (number, printed)
        assert "damaged" not in printed, (number, printed)
        assert_same(result(workdir), expected, number)
        assert not list(workdir.glob(".*.lock"))
    print(json.dumps({"kills": done, "runs": number, "places": places}))


def fill_at(step: int) -> Prepare:
    """From `step` on no file gets longer: as on a full disk, without being root."""

    def prepare() -> None:
        real = train.training_batches

        def batches(*args: Any) -> Any:
            for position, frames, batch in real(*args):
                if 2 * (position.epoch - 1) + position.step_in_epoch > step:
                    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
                yield position, frames, batch

        train.training_batches = batches

    return prepare


def filled(folder: Path, expected: dict[str, Any]) -> None:
    """The disk is full from each tenth of the run on: a line, and what was whole stays whole."""
    workdir = folder / "filled"
    expected = {k: v for k, v in expected.items() if k not in ("evaluation", "features", "pages")}

    def all_are_whole() -> None:
        for entry in checkpoint.describe(workdir / "checkpoints"):
            checkpoint.verify(workdir / "checkpoints", entry.step)

    for tenth in range(10):
        shutil.rmtree(workdir, ignore_errors=True)
        step = tenth * STEPS // 10
        status, printed, _ = child(fill_at(step), folder, workdir, False)
        lines = [line for line in printed.splitlines() if "error:" in line]
        assert status == 2, (tenth, status, printed)
        assert len(lines) == 1, (tenth, printed)
        assert "File too large" in lines[0], (tenth, lines)
        assert "Traceback" not in printed, (tenth, printed)
        steps = [entry.step for entry in checkpoint.describe(workdir / "checkpoints")]
        assert max(steps, default=0) >= step - 1, (tenth, steps)
        status, printed, _ = child(all_are_whole, folder, workdir, False)
        assert status == 0, (tenth, printed)
        assert_same(result(workdir), expected, tenth)
    print(json.dumps({"filled": 10}))


def resident() -> int:
    """Kilobytes of this process, without what the C library keeps to give out again."""
    ctypes.CDLL(None).malloc_trim(0)
    fields = Path("/proc/self/status").read_text().split()
    return int(fields[fields.index("VmRSS:") + 1])


def leak_of_tensorstore() -> float:
    """Kilobytes that each `to_json` of TensorStore loses; Orbax calls it for every tensor it saves.

    Some 0.19 in 0.1.71, 76, 80, 84 and 86: the keys of the dictionary are never freed.
    """
    calls, spec = 200_000, tensorstore.KvStore.Spec("file:///folder/")
    spec.to_json()
    before = resident()
    for _ in range(calls):
        spec.to_json()
    return (resident() - before) / calls


def soak(folder: Path, epochs: int) -> None:
    """Memory, threads and open files do not grow with the epochs of one run.

    What TensorStore loses is measured and taken off: nobody here can free it.
    """
    status, printed, _ = forked(lambda: print(leak_of_tensorstore(), file=sys.stderr) or 0)
    assert status == 0, printed
    lost = float(printed.split()[-1])
    make_layout(folder / "set")
    status, printed, _ = child(lambda: None, folder, folder / "compiled")
    assert status == 0, printed
    seen = folder / "seen.jsonl"

    def prepare() -> None:
        real, real_info = train.validate, checkpoint.tensor_info
        saved = 0

        def tensor_info(array: Any) -> Any:
            nonlocal saved
            saved += 1
            return real_info(array)

        def validate(*args: Any) -> Any:
            found = real(*args)
            fields = Path("/proc/self/status").read_text().split()
            entry = {
                "kilobytes": round(resident() - lost * saved),
                "threads": int(fields[fields.index("Threads:") + 1]),
                "files": len(list(Path("/proc/self/fd").iterdir())),
            }
            with open(seen, "a") as file:
                file.write(json.dumps(entry) + "\n")
            return found

        train.validate, checkpoint.tensor_info = validate, tensor_info

    more: dict[str, Any] = {"train.epochs": epochs, "train.checkpoint_minutes": 0}
    status, printed, _ = child(prepare, folder, folder / "soaked", **more)
    assert status == 0, printed
    entries = [json.loads(line) for line in seen.read_text().splitlines()]
    assert len(entries) > epochs // 2
    third = len(entries) // 3
    early, late = entries[third : 2 * third], entries[2 * third :]
    # Medians: a moment's threads and files depend on what else the machine does.
    growth = {
        name: median(e[name] for e in late) - median(e[name] for e in early) for name in early[0]
    }
    print(json.dumps({"epochs": epochs, "growth": growth, "last": entries[-1], "lost": lost}))
    assert growth["threads"] <= 2, growth
    assert growth["files"] <= 2, growth
    assert growth["kilobytes"] <= 10_000, growth


if __name__ == "__main__":
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    mode, where, *rest = sys.argv[1:]
    {"killed": killed_and_filled, "soak": soak}[mode](Path(where), *map(int, rest))
