"""Functions called in processes of their own: own peaks of memory, own device, an end by the clock.

`stream` runs a generator `function(settings) -> rows` elsewhere and returns its rows, those too
that came before a failure. A row is a dict of JSON values.
"""

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarking.settings import ROOT, Settings, to_dict

Row = dict[str, Any]
_INSIDE = "STF_BENCHMARK_INSIDE_A_PART"


class NotRunError(Exception):
    """A part that cannot be measured here; its text says why."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended: "done", "not run", "out of time" or "failed", and why."""

    status: str
    reason: str
    rows: list[Row]
    seconds: float
    started: float  # time.time() before the process was


def stream(
    module: str,
    function: str,
    settings: Settings,
    *,
    seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
    rows: Path | None = None,
    **arguments: Any,
) -> Outcome:
    """Call `function(settings, **arguments)` of `module` in a new process.

    Rows are appended to the file `rows` as they come, so that a kill of this process loses none.
    """
    with tempfile.TemporaryDirectory(prefix="stf_benchmark_") as folder:
        task, result = Path(folder) / "task.json", rows or Path(folder) / "rows.jsonl"
        errors = Path(folder) / "errors.txt"
        task.write_text(json.dumps([module, function, to_dict(settings), arguments]))
        paths = [str(Path(__file__).parents[1]), str(ROOT), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        started = time.time()
        command = [sys.executable, "-m", "benchmarking.child", str(task), str(result)]
        with errors.open("w") as stderr:
            code = run_command(command, stderr, seconds, {**env, **(environment or {})})
        took = time.time() - started
        lines = result.read_text().splitlines() if result.exists() else []
        found = [json.loads(line) for line in lines]
        messages = [line for line in errors.read_text().splitlines() if line.strip()]
        # Python's last line, unless XLA wrote more after it.
        last = next(
            (line for line in reversed(messages) if "Error" in line), "".join(messages[-1:])
        )
    if code is None:
        return Outcome("out of time", f"stopped after {took:.0f} s", found, took, started)
    if found and "not run" in found[-1]:
        return Outcome("not run", found[-1]["not run"], found[:-1], took, started)
    if code:
        return Outcome("failed", last[:300] or f"exit status {code}", found, took, started)
    return Outcome("done", "", found, took, started)


def installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # there as None, by which a test takes it away
        return False


def rows_of(outcome: Outcome) -> list[Row]:
    """Return the rows of a process that ended well; raises RuntimeError with its reason if not."""
    if outcome.status != "done":
        raise RuntimeError(outcome.reason)
    return outcome.rows


def run_command(
    command: list[str], stderr: Any, seconds: float | None, env: Mapping[str, str]
) -> int | None:
    """Run `command`, its output to `stderr`; None when it, with its children, had to be ended."""
    # A part and all that it starts are one group, which the command can end as a whole.
    part = _INSIDE not in env
    env = {**env, _INSIDE: "1"}
    process = subprocess.Popen(
        command, stdout=stderr, stderr=stderr, env=env, start_new_session=part
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            if part:
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()


def main(task: str, result: str) -> None:
    """Run the task of a file; write each row as soon as it is there."""
    module, function, values, arguments = json.loads(Path(task).read_text())
    with Path(result).open("w") as file:
        try:
            work = getattr(importlib.import_module(module), function)
            for row in work(Settings(**values), **arguments):
                file.write(json.dumps(row) + "\n")
                file.flush()
        except NotRunError as error:
            file.write(json.dumps({"not run": str(error)}) + "\n")


if __name__ == "__main__":
    # By the package's name, so that there is one NotRunError.
    from benchmarking import child

    child.main(*sys.argv[1:])
