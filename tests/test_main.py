"""The command line: bad input is one clear line and exit status 2, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from stf_jax.main import main, parse, read_config
from stf_jax.training.stop_request import RunStoppedError

CONFIGS = Path(__file__).parents[1] / "configs"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str]]:
    status = main(argv)
    return status, capsys.readouterr().err.strip().split("\n")


def test_overrides_reach_the_config() -> None:
    options, rest = parse(
        ["--config", str(CONFIGS / "mars.py"), "--workdir", "w", "--config.model.stages=(2,3,4)",
         "--config.optimizer.name=adam", "--config.train.epochs=7"]
    )  # fmt: skip
    config = read_config(options, rest)
    assert config.model.stages == (2, 3, 4)
    assert config.optimizer.name == "adam"
    assert config.train.epochs == 7


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.model.backbon=resnet18", "backbon"),
        ("--config.train.epochs=many", "many"),
        ("--config.data.height=3", "config.data.height is 3"),
    ],
)
def test_a_wrong_override_is_one_line(tmp_path, capsys, override: str, said: str) -> None:
    status, lines = run(
        capsys, "--config", str(CONFIGS / "mars.py"), "--workdir", str(tmp_path), override
    )
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert said in lines[0]


def test_no_data_says_what_was_looked_for_and_how_to_prepare_it(tmp_path, capsys) -> None:
    status, lines = run(
        capsys, "--config", str(CONFIGS / "mars.py"), "--workdir", str(tmp_path / "w"),
        f"--config.data.root={tmp_path / 'mars'}", "--config.compilation_cache=off",
    )  # fmt: skip
    assert status == 2
    assert len(lines) == 1
    assert "partitions.pkl" in lines[0]
    assert "python -m stf_jax.prepare" in lines[0]


def test_evaluating_nothing_says_so(tmp_path, capsys) -> None:
    status, lines = run(capsys, "--mode", "evaluate", "--workdir", str(tmp_path))
    assert status == 2
    assert "no run has begun" in lines[0]


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_stopped_training_is_no_success(tmp_path, monkeypatch, name: str, status: int) -> None:
    """So that `train && evaluate` goes no further."""

    def stop(config, workdir):
        raise RunStoppedError(name)

    monkeypatch.setattr("stf_jax.train.train", stop)
    argv = ["--config", str(CONFIGS / "mars.py"), "--workdir", str(tmp_path)]
    assert main([*argv, "--config.compilation_cache=off"]) == status


def test_code_that_needs_no_tensorflow_does_not_import_it() -> None:
    code = (
        "import sys; import stf_jax.models, stf_jax.training.steps, stf_jax.training.optim, "
        "stf_jax.run.checkpoint, stf_jax.evaluation, stf_jax.evaluation.features.extract, "
        "stf_jax.models.weights.pretrained, stf_jax.data.augment, stf_jax.data.sampling, "
        "stf_jax.data.layout.partitions, stf_jax.config; "
        "sys.exit(any(m.split('.')[0] in ('tensorflow', 'torch') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_help_shows_examples() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stf_jax.main", "--help"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0
    assert "--mode evaluate" in done.stdout
