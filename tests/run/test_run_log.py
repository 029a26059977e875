"""What is told of a run: dated lines in a pipe and in train.log, messages on a terminal."""

import logging
import re
from pathlib import Path

import pytest

from stf_jax.errors import UserError
from stf_jax.run import run_log
from stf_jax.run.run_log import RunLog, percents

VALUES = {"loss": 1.23456, "accuracy": 0.4375, "frames_per_second": 71.6}
RATES = {"backbone": 1e-4, "classifier": 1e-3, "rest": 1e-4}
DATED = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
STEPS = [
    "epoch 1/3, step 4/20, loss 1.235, accuracy 43.8 %, "
    "learning rate 0.0001 (classifier 0.001), 72 frames/s",
    "epoch 2/3, step 8/20, loss 1.235, accuracy 43.8 %, "
    "learning rate 0.0001 (classifier 0.001), 72 frames/s, 00:30 left",
]


def tell(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps in ten seconds, two calls."""
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(run_log.time, "monotonic", lambda: next(clock))
    with RunLog() as log:
        log.say("6 identities")
        log.open(workdir)
        log.progress(4, 20, 1, 3, VALUES, RATES)
        logging.getLogger("stf_jax.data.pipeline").warning("%s: lost", "a.png")
        log.progress(8, 20, 2, 3, VALUES, RATES)


@pytest.mark.parametrize("terminal", [False, True])
def test_every_line_is_dated_but_on_a_terminal(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    tell(tmp_path, monkeypatch)
    logged = (tmp_path / "train.log").read_text().splitlines()
    assert all(re.match(DATED, line) for line in logged)
    told = [re.sub(DATED, "", line) for line in logged]
    assert told == ["6 identities", STEPS[0], "a.png: lost", STEPS[1]]
    screen = capsys.readouterr().err.splitlines()
    # Warnings are printed by the root logger's handlers, which pytest has; the bar shows the steps.
    assert screen == (["6 identities"] if terminal else [logged[0], logged[1], logged[3]])


def test_a_warning_is_printed_where_no_other_handler_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    tell(tmp_path, monkeypatch)
    assert capsys.readouterr().err.splitlines()[2].endswith(" a.png: lost")
    logging.getLogger("stf_jax").warning("later")
    assert "later" not in (tmp_path / "train.log").read_text()


def test_starts_are_appended_and_what_ended_one_is_logged(tmp_path: Path, monkeypatch) -> None:
    tell(tmp_path, monkeypatch)

    def fail() -> None:
        with RunLog() as log:
            log.open(tmp_path)
            raise UserError("step 5: the loss is nan")

    with pytest.raises(UserError):
        fail()
    logged = (tmp_path / "train.log").read_text().splitlines()
    assert len(logged) == 5
    assert logged[-1].endswith(" error: step 5: the loss is nan")


def test_other_hosts_write_nothing(tmp_path: Path, capsys) -> None:
    with RunLog(writes=False) as log:
        log.say("6 identities")
        log.open(tmp_path)
        log.progress(4, 20, 1, 3, VALUES, RATES)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "train.log").exists()


def test_scores_are_in_percent() -> None:
    assert percents({"mAP": 0.7064, "rank-1": 1.0}) == "mAP 70.6 %, rank-1 100.0 %"
