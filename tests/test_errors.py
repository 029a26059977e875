"""What is printed where nobody reads it ends nothing and changes no status."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Says much on both streams, writes a file, and fails as a user's mistake does.
COMMAND = """
import logging, os, sys, time
from stf_jax.errors import UserError, prints_user_errors
from stf_jax.run.metrics_log import progress_bar
from stf_jax.run.run_log import RunLog
from stf_jax.training.stop_request import outlives_its_terminal
from pathlib import Path

@prints_user_errors
def main():
    with RunLog() as log, outlives_its_terminal(), progress_bar(100) as bar:
        print("out", flush=True)
        log.say("begun")
        if "wait" in sys.argv:
            sys.stdin.readline()
        with open(sys.argv[1], "w") as file:
            for number in range(100):
                print("out", number)
                print("err", number, file=sys.stderr)
                log.say("line")
                logging.getLogger("stf_jax.any").warning("warned")
                bar.update()
                time.sleep(0.005)
                file.write("line\\n")
    if "fails" in sys.argv:
        raise UserError("a mistake")
    return 0

sys.exit(main())
"""


@pytest.mark.parametrize("streams", ["2>&1 | head -1", ">&- 2>&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("word", "status"), [("", 0), ("fails", 2)])
def test_a_closed_stream_ends_nothing(streams: str, word: str, status: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    script = f'set -o pipefail; "$0" -W error -c "$1" "$2" {word} {streams}'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, COMMAND, str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == status, done
    assert file.read_text() == "line\n" * 100  # and nothing that was to be printed
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stdout + done.stderr


def test_a_closed_terminal_ends_no_run(tmp_path: Path) -> None:
    own, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path / "file"), "wait"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while b"begun" not in seen:
        seen += os.read(own, 1000)
    process.send_signal(signal.SIGHUP)
    os.close(own)
    process.communicate(b"\n", timeout=100)
    assert process.returncode == 0
    assert (tmp_path / "file").read_text() == "line\n" * 100
