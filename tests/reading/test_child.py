"""A child process that reads: its output, and what ends it."""

import sys

import pytest

from stf_jax.reading.child import run_limited


def test_output_and_arguments() -> None:
    assert run_limited("import sys; print(sys.argv[1:])", ["a", "b c"]) == b"['a', 'b c']\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; sys.exit('why not')", "^why not$"),
        ("import sys; sys.exit(3)", "^the reader crashed on it$"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "^the reader crashed on it$"),
        ("while True: pass", "^not read within 1 seconds$"),
    ],
)
def test_ends(program: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_limited(program, [], seconds=1 if "while" in program else 60)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit may not exist")
def test_memory() -> None:
    program = "size = %d\ntry: bytes(size)\nexcept MemoryError: print('refused')"
    assert run_limited(program % 2**20, [], memory=2**30) == b""
    assert run_limited(program % 2**31, [], memory=2**30) == b"refused\n"
