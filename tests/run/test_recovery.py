"""A run resumes from its newest whole checkpoint; what is in the way is moved, never deleted."""

import json
from pathlib import Path

import numpy as np
import pytest
from damaged_checkpoint import flip_a_bit

from stf_jax.config import Config, to_json
from stf_jax.data.sampling import Position
from stf_jax.errors import UserError
from stf_jax.run import checkpoint
from stf_jax.run.__main__ import main
from stf_jax.run.checkpoint import describe, find_step, open_manager, restore_window, save
from stf_jax.run.recovery import clear_the_way, find_resume
from stf_jax.run.run_files import write_run_files

WINDOW = {"sums": {"loss": 0.1 + 0.2}, "count": 3}


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Checkpoints 1 (the best), 2 and 3, and the files beside them."""
    workdir = tmp_path / "run"
    with open_manager(workdir / "checkpoints") as manager:
        for step in (1, 2, 3):
            tree = {name: np.random.default_rng(step).normal(size=(40, 50)) for name in "ab"}
            state = {"step": np.int32(step), "params": tree, "opt_state": dict(tree)}
            save(manager, state, Position(1, step, 0), {"mAP": 1 / step}, WINDOW)
    write_run_files(workdir, to_json(Config()), {1: 0})
    (workdir / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (workdir / "scores.json").write_text("{}")
    np.savez(workdir / "features.npz", features=np.ones(3))
    return workdir


def steps(workdir: Path) -> list[int]:
    return [entry.step for entry in describe(workdir / "checkpoints")]


def test_the_newest_whole_one_is_found_and_damaged_ones_are_moved(workdir: Path) -> None:
    checkpoints = workdir / "checkpoints"
    assert find_resume(workdir) == {"step": 3, "aside": [], "scoreless": [], "notes": []}
    assert restore_window(checkpoints, 3) == WINDOW
    flip_a_bit(checkpoints / "3")
    found = find_resume(workdir)
    assert found["step"] == 2
    (note,) = found["notes"]
    assert note.startswith(f"note: {checkpoints / '3'}: damaged checkpoint (")
    assert note.endswith(
        f"): moved to {workdir / 'set_aside'}; training resumes from step 2 and repeats 1 steps"
    )
    assert steps(workdir) == [1, 2, 3]  # nothing is changed until the run begins
    with pytest.raises(UserError, match="damaged checkpoint"):
        find_resume(workdir, "3")
    (workdir / "set_aside" / "3").mkdir(parents=True)  # of another time
    clear_the_way(workdir, found)
    assert steps(workdir) == [1, 2]
    assert (workdir / "set_aside" / "3.2" / "model").is_dir()
    for step in (1, 2):
        flip_a_bit(checkpoints / str(step))
    with pytest.raises(UserError, match="no other one is whole; put back a copy") as refused:
        find_resume(workdir)
    assert [line.split(":")[0] for line in str(refused.value).split("\n")] == [
        str(checkpoints / step) for step in "21"
    ]


def test_a_network_that_is_gone_is_no_damage(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("read failed [OS error 116: ESTALE Stale file handle]")  # as TensorStore

    monkeypatch.setattr(checkpoint, "_restore", fails)
    with pytest.raises(OSError, match="Stale file handle") as refused:
        find_resume(workdir)
    assert refused.value.filename == str(workdir / "checkpoints" / "3")


def test_an_earlier_one_is_resumed_from_as_asked(workdir: Path) -> None:
    assert find_resume(workdir, "latest")["notes"] == []
    found = find_resume(workdir, "best")
    assert (found["step"], sorted(found["aside"])) == (1, ["2", "3"])
    assert found["notes"][0].endswith(f"later steps moved to {workdir / 'set_aside'}: 2, 3")
    clear_the_way(workdir, found)
    assert steps(workdir) == [1]
    assert {path.name for path in (workdir / "set_aside").iterdir()} == {"2", "3"}
    with pytest.raises(UserError, match="found no checkpoint '7', expected one of: 1"):
        find_resume(workdir, "7")


def test_stray_folders_and_empty_metrics_stop_nothing(workdir: Path) -> None:
    checkpoints = workdir / "checkpoints"
    (checkpoints / "99").mkdir()
    (checkpoints / "98").write_text("a file")
    (checkpoints / "97").mkdir()
    (checkpoints / "97" / "notes.txt").write_text("kept")
    (checkpoints / "1" / "metrics" / "metrics").write_text("")
    assert steps(workdir) == [1, 2, 3]
    assert find_step(checkpoints, "latest") == 3
    assert find_step(checkpoints, "best") == 2
    found = find_resume(workdir)
    assert (found["step"], found["scoreless"]) == (3, [1])
    assert len(found["notes"]) == 4
    clear_the_way(workdir, found)
    assert (workdir / "set_aside" / "97" / "notes.txt").read_text() == "kept"
    with open_manager(checkpoints) as manager:
        tree = {"a": np.ones(3, np.float32)}
        save(manager, {"step": np.int32(4), "params": tree}, Position(1, 4, 0))
    assert steps(workdir) == [2, 3, 4]
    assert find_resume(workdir)["notes"] == []


def test_check_reads_everything(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(workdir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "whole    config.json, labels.json, versions.json",
        "whole    metrics.jsonl",
        "whole    checkpoints/1 (best)",
        "whole    checkpoints/2",
        "whole    checkpoints/3 (latest)",
        "whole    scores.json",
        "whole    features.npz",
    ]
    flip_a_bit(workdir / "checkpoints" / "2")
    (workdir / "checkpoints" / "1" / "metrics" / "metrics").write_text("")
    (workdir / "checkpoints" / "9").mkdir()
    (workdir / "labels.json").write_text("[")
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    (workdir / "scores.json").write_text("")
    (workdir / "features.npz").write_bytes((workdir / "features.npz").read_bytes()[:-9])
    assert main(["check", str(workdir)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines] == [*["damaged"] * 4, "whole", *["damaged"] * 3]
    assert "1 broken lines, the first is line 2" in lines[1]
    assert main(["check", str(workdir / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert json.loads((workdir / "config.json").read_text())
