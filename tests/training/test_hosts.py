"""Several hosts: two processes on the loopback do what one process with two devices does."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stf_jax import hosts
from stf_jax.errors import UserError
from stf_jax.main import main
from stf_jax.prepare.layout import image_name, write_partitions
from stf_jax.run import checkpoint
from stf_jax.run.metrics_log import read_metrics

ROOT = Path(__file__).parents[2]
STEPS = 24  # 12 epochs of 2 steps

# The command as a process of its own, evaluating what it trained. One block a stage: every process
# compiles it. SIGNAL is what the process sends itself before step STEP, from which on steps are
# slow enough for the notice to come through.
DRIVER = """
import functools, os, signal, sys, time
import jax
jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
from stf_jax import embed, main, train as training
from stf_jax.evaluation.features import parts
from stf_jax.evaluate import evaluate_workdir
from stf_jax.models import resnet

resnet.RESNETS["resnet18"] = (False, (1, 1, 1, 1))
number, at = int(os.environ.get("SIGNAL", "0")), int(os.environ.get("STEP", "99"))
batches, train = training.training_batches, training.train

def slow_batches(*arguments):
    for position, frames, batch in batches(*arguments):
        done = 2 * (position.epoch - 1) + position.step_in_epoch
        if done == at and number:
            os.kill(os.getpid(), number)
        if done >= at:
            time.sleep(0.3)
        yield position, frames, batch

def train_and_evaluate(config, workdir, *arguments, **options):
    if train(config, workdir, *arguments, **options):
        evaluate_workdir(config, workdir, "latest", report=False)

training.training_batches, training.train = slow_batches, train_and_evaluate
embed.extract_in_parts = functools.partial(parts.extract_in_parts, frames=30)
sys.exit(main.main(sys.argv[1:]))
"""

OPTIONS = {
    "pretrained": "none",
    "data.height": 32,
    "data.width": 16,
    "data.tracklets": 4,
    "data.min_frames": 2,
    "data.max_frames": 4,
    "data.frame_buckets": 1,
    "model.backbone": "resnet18",
    "model.embed_dim": 8,
    "optimizer.lr_backbone": 1e-3,
    "optimizer.lr_rest": 1e-3,
    "train.epochs": 12,
    "train.evaluate_every": 6,
    "train.log_every": 1,
    "train.sync_batch_norm": True,
    "evaluation.chunk": 4,
    "evaluation.frames_per_device": 10,
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(code: str, *arguments: str, **variables: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles in half the time
        **{name: str(value) for name, value in variables.items()},
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*started: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    """Status, standard output and standard error of each, without what Gloo prints to both."""
    try:
        outputs = [process.communicate(timeout=800) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        (process.returncode, without_gloo(out), without_gloo(errors))
        for process, (out, errors) in zip(started, outputs, strict=True)
    ]


def without_gloo(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "[Gloo]" not in line)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, so that scores hang on every bit; tracklets of 3 to 11 frames, one to three chunks."""
    root = tmp_path_factory.mktemp("hosts") / "set"
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    names: dict[str, list[str]] = {"train": [], "test": []}
    marks = []
    for person in range(10):
        half = "train" if person < 4 else "test"
        for camera in (1, 2):
            for offset in range(int(rng.integers(3, 12))):
                name = image_name(person, camera, 1, offset)
                pixels = rng.integers(0, 256, (32, 16, 3), np.uint8)
                Image.fromarray(pixels).save(root / "images" / name)
                names[half].append(name)
                if half == "test":
                    marks.append(camera - 1)
    write_partitions(root, trainval=names["train"], test=names["test"], test_marks=marks)
    return root


def command(layout: Path, workdir: Path) -> list[str]:
    overrides = [f"--config.{key}={value}" for key, value in OPTIONS.items()]
    overrides += [f"--config.data.root={layout}", f"--config.compilation_cache={layout}/programs"]
    return [*("--config", str(ROOT / "configs" / "mars.py"), "--workdir", str(workdir), *overrides)]


def on_two_hosts(
    arguments: list[str], first: dict[str, object], second: dict[str, object]
) -> list[tuple[int, str, str]]:
    """One host is configured by options, the other by the environment."""
    port = free_port()
    options = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", "0")
    variables = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": 2,
        "JAX_PROCESS_ID": 1,
    }
    return finish(
        start(DRIVER, *arguments, *options, DEVICES=1, **first),
        start(DRIVER, *arguments, DEVICES=1, **variables, **second),
    )


def logged(workdir: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what is of the clock."""
    clocks = ("time", "frames_per_second", "data_wait")
    entries = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in entry.items() if k not in clocks} for entry in entries]


@pytest.mark.slow
@pytest.mark.timeout(2400)  # about three minutes of CPU; for machines that do other work, too
def test_two_hosts_stopped_killed_and_resumed_are_one_host_with_two_devices(
    layout: Path, tmp_path: Path
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    ((status, _, errors),) = finish(start(DRIVER, *command(layout, alone), DEVICES=2))
    assert status == 0, errors
    arguments = command(layout, together)

    # A notice to the second host: both finish the same step, the first writes it, both leave.
    term, kill = int(signal.SIGTERM), int(signal.SIGKILL)
    (zero, out, errors), (one, *silent) = on_two_hosts(
        arguments, {"STEP": 2}, {"STEP": 2, "SIGNAL": term}
    )
    assert out == ""
    assert (zero, one) == (0, 0), errors + silent[1]
    stored = checkpoint.describe(together / "checkpoints")
    stopped = stored[-1].step
    assert 2 <= stopped < STEPS
    assert f"SIGTERM at one of the hosts: stopped after step {stopped}" in errors
    assert silent == ["", ""]

    # The first host dies after the first evaluation: the second does not hang.
    (zero, _, errors), (one, _, other_errors) = on_two_hosts(
        arguments, {"SIGNAL": kill, "STEP": max(stopped, 12) + 3}, {}
    )
    assert zero == -kill, errors
    assert f"resumed {together} at step {stopped}" in errors
    assert one != 0, other_errors
    assert max(entry.step for entry in checkpoint.describe(together / "checkpoints")) >= stopped

    (zero, out, errors), (one, *silent) = on_two_hosts(arguments, {}, {})
    assert (zero, one) == (0, 0), errors + silent[1]
    assert "written to" in out
    assert silent == ["", ""]
    assert logged(together) == logged(alone)
    scores = [json.loads((workdir / "scores.json").read_text()) for workdir in (together, alone)]
    assert scores[0] == scores[1]
    assert scores[0]["rows"]["step"]["scores"]["mAP"] < 1
    ours, theirs = (np.load(workdir / "features.npz") for workdir in (together, alone))
    for name in theirs.files:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert {p.name for p in together.iterdir()} == {p.name for p in alone.iterdir()}
    # Both embed what was scored, in parts.
    output = tmp_path / "people.npz"
    embed = ["--mode", "embed", "--workdir", str(together), "--input", str(layout)]
    embed += ["--output", str(output), f"--config.compilation_cache={layout}/programs"]
    (zero, out, errors), (one, *silent) = on_two_hosts(embed, {}, {})
    assert (zero, one) == (0, 0), errors + silent[1]
    assert "12 tracklets" in out
    assert silent == ["", ""]
    found = np.load(output)
    for name in theirs.files:
        if name != "step":
            close = np.testing.assert_allclose if "f" in theirs[name].dtype.kind else None
            (close or np.testing.assert_array_equal)(found[name], theirs[name], err_msg=name)
    assert not output.with_name("people_parts").exists()
    # One writer a start.
    assert len(list((together / "tensorboard").iterdir())) == 3


PARTS = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 1)
import numpy as np
from stf_jax import hosts
from stf_jax.errors import UserError

def caught(call):
    try:
        return call()
    except UserError as error:
        return str(error)

own = int(sys.argv[2])
with hosts.joined(
    hosts.initialize_arguments("127.0.0.1:" + sys.argv[1], 2, own, False), stops_on_notice=False
):
    assert (hosts.several(), hosts.is_first()) == (True, own == 0)
    assert hosts.share(8) == slice(4 * own, 4 * own + 4)
    hosts._BLOCK_BYTES = 100  # several blocks, the last one short
    wide = np.arange(21.0).reshape(7, 3) / 3 + own * 2.0**-45
    np.testing.assert_array_equal(
        hosts.combine(wide, np.add), 2 * (np.arange(21.0).reshape(7, 3) / 3) + 2.0**-45
    )
    known = np.array([np.nan, 1, np.nan] if own else [2, np.nan, np.nan], np.float32)
    np.testing.assert_array_equal(hosts.combine(known, np.fmax), np.float32([2, 1, np.nan]))
    assert hosts.combine(np.array(5 + own), np.add) == 11
    value = {"a": [0.1 + 0.2, "\\u00e9" * 5000]}
    assert hosts.from_first(lambda: value if own == 0 else 1 / 0) == value

    def fails():
        raise UserError("raised by the first")

    assert caught(lambda: hosts.from_first(fails)) == "raised by the first"
    assert hosts.check_same({"data": "x", "step": 3}) is None
    said = caught(lambda: hosts.check_same({"data": "x", "weights": own}))
    assert said.startswith("several hosts: weights: host 1 differs from the first host")
    if own == 1:
        raise UserError("the second host alone fails")
    hosts.from_first(lambda: None)
"""


@pytest.mark.slow
def test_hosts_gather_agree_and_end_together() -> None:
    port = str(free_port())
    (zero, _, errors), (one, _, other_errors) = finish(
        *(start(PARTS, port, str(own)) for own in (0, 1))
    )
    assert one == 2, other_errors
    assert "error: the second host alone fails" in other_errors
    assert "Traceback" not in other_errors
    assert zero != 0, errors
    assert "AssertionError" not in errors + other_errors


def test_on_one_host_nothing_happens() -> None:
    array = np.arange(3.0)
    assert hosts.combine(array, np.add) is array
    assert hosts.from_first(lambda: array) is array
    assert hosts.share(8) == slice(0, 8)
    assert not hosts.noticed(0)
    hosts.check_same({"anything": 1})
    with hosts.joined(None, stops_on_notice=True):
        assert not hosts.several()


def test_options_and_environment_name_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in hosts.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    assert hosts.initialize_arguments(None, None, None, False) is None
    assert hosts.initialize_arguments(None, None, None, True) == {}
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "[fe80::1]:80")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    expected = {"coordinator_address": "[fe80::1]:80", "num_processes": 4, "process_id": 3}
    assert hosts.initialize_arguments(None, None, None, False) == expected
    assert hosts.initialize_arguments(None, None, 0, False) == expected | {"process_id": 0}
    monkeypatch.setenv("JAX_NUM_PROCESSES", "many")
    with pytest.raises(UserError, match=r"JAX_NUM_PROCESSES.*many: expected a whole number"):
        hosts.initialize_arguments(None, None, None, False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--coordinator h:1 --num-processes 2", r"--process-id \(or JAX_PROCESS_ID\) is missing"),
        ("--process-id 0", r"--coordinator .*, --num-processes .* is missing"),
        ("--coordinator h --num-processes 2 --process-id 0", "expected HOST:PORT"),
        ("--coordinator h:99999 --num-processes 2 --process-id 0", "expected HOST:PORT"),
        ("--coordinator h:1 --num-processes 0 --process-id 0", "expected 1 or more"),
        ("--coordinator h:1 --num-processes 2 --process-id 2", "expected 0 to 1"),
        ("--distributed --process-id 0", "expected one or the other"),
    ],
)
def test_hosts_that_make_no_sense_are_one_line(
    options: str, said: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    for variable in hosts.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    config = ["--config", str(ROOT / "configs" / "mars.py"), "--workdir", str(tmp_path)]
    assert main([*config, *options.split()]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert re.search(said, line), line


def test_matching_is_for_one_host(capsys) -> None:
    arguments = "--mode match --workdir w --query q --gallery g --output o --distributed"
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert "--mode match runs on one host" in capsys.readouterr().err


FIND = """
from stf_jax import hosts
with hosts.joined(hosts.initialize_arguments(None, None, None, True), stops_on_notice=False):
    raise AssertionError
"""


def test_a_cluster_that_is_none_is_one_line() -> None:
    ((status, _, errors),) = finish(start(textwrap.dedent(FIND)))
    assert status == 2, errors
    (line,) = errors.strip().splitlines()
    assert "expected a task of SLURM or Open MPI" in line
