"""The command that compiles for a GPU without one; the compiling itself is a leg of CI."""

import subprocess
import sys
from pathlib import Path

import compile_for_gpu
import jax
import pytest

from stf_jax.models import BACKBONES

STAND_IN = """
import json, os, sys
for name in json.loads(sys.argv[-1]):
    print(json.dumps({"begins": name}), flush=True)
    if name == "aborts":
        print("F0000 Check failed: a == b (1 vs. 2)", file=sys.stderr, flush=True)
        os.abort()
    found = {"failed": "ValueError: no"} if name == "raises" else {"arguments": 1, "temporary": 2}
    print(json.dumps({"name": name, "seconds": 0, **found}), flush=True)
"""


def test_a_program_that_ends_the_compiler_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(compile_for_gpu, "__file__", str(tmp_path / "stand_in.py"))
    found = compile_for_gpu.compile_in_children(
        ["good", "aborts", "raises", "aborts", "last"], "h100"
    )
    assert [row["name"] for row in found] == ["good", "aborts", "raises", "aborts", "last"]
    assert ["failed" in row for row in found] == [False, True, True, True, False]
    assert "Check failed: a == b" in found[1]["failed"]
    assert capsys.readouterr().out.count("FAILED") == 3


def test_what_is_likely_is_compiled() -> None:
    known = compile_for_gpu.programs()
    likely = {name: program for name, program in known.items() if program.likely}
    for step in ("train", "extract"):
        for dtype in ("float32", "bfloat16"):
            assert f"mars, {step}, {dtype}" in likely
        assert f"demo, {step}" in likely
    # The first of the backbones is the demo's.
    assert all(f"demo, train, {name}" in likely for name in list(BACKBONES)[1:])
    assert {program.devices for program in likely.values()} == {1, 2, 8}
    assert any("remat=True" in option for program in likely.values() for option in program.options)
    assert sum(name.startswith("ablation") for name in likely) == 8
    assert any(program.step == "neighbours" for program in likely.values())
    assert len(known) > len(likely)


@pytest.mark.parametrize("name", ["demo, train", "demo, extract", "re-ranking, neighbours"])
def test_programs_are_those_of_the_package(name: str) -> None:
    lowered = compile_for_gpu.lower_program(compile_for_gpu.programs()[name], jax.devices()[:1])
    assert "stablehlo" in lowered.as_text()


def test_wrong_options_are_reported(tmp_path: Path) -> None:
    command = [sys.executable, compile_for_gpu.__file__]
    wrong = subprocess.run([*command, "--target", "tin"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "h100" in wrong.stderr
    none = subprocess.run([*command, "--only", "nothing"], capture_output=True, text=True)
    assert none.returncode == 2
    assert "no program is called nothing" in none.stdout
