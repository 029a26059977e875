"""The command that compiles for a GPU without one; the compiling itself is a leg of CI."""

import subprocess
import sys

import compile_for_gpu
from compile_for_gpu import Program, programs, verdict

from stf_jax.models import BACKBONES


def test_what_is_likely_is_compiled() -> None:
    likely = programs()
    for step in ("train", "extract"):
        for dtype in ("float32", "bfloat16"):
            assert f"mars, {step}, {dtype}" in likely
        assert f"demo, {step}" in likely
    named = {"demo, train, resnet34", "demo, train, resnet50", "mars_strong, train"}
    assert named <= set(likely)
    assert {program.devices for program in likely.values()} == {1, 2, 8}
    assert any("remat=True" in option for program in likely.values() for option in program.options)
    assert sum(name.startswith("ablation") for name in likely) == 9
    assert likely["demo, exported file"].step == "export"
    assert any(program.step == "neighbours" for program in likely.values())
    every = programs(rare=True)
    assert set(every) > set(likely)
    assert all(any(name in known for known in every) for name in BACKBONES)
    assert set(compile_for_gpu.GOALS) <= set(likely)


def test_goals_are_held_on_the_card_they_are_for() -> None:
    name, program = "mars, train, bfloat16", Program(frames=60)
    good = {"moved": 470 * 60e6, "kernels": 1300}
    assert verdict(name, program, good, "h100") == ""
    assert "471 MB a frame, at most 470" in verdict(
        name, program, good | {"moved": 471 * 60e6}, "h100"
    )
    assert "1301 kernels" in verdict(name, program, good | {"kernels": 1301}, "h100")
    assert verdict(name, program, good | {"kernels": 1301}, "l4") == ""
    assert verdict("demo, train", program, good | {"kernels": 9999}, "h100") == ""
    assert verdict(name, program, {"failed": "it aborts"}, "l4") == "it aborts"


def test_programs_are_printed_as_they_come_and_failures_returned(monkeypatch, capsys) -> None:
    row = {"arguments": 1e9, "temporary": 2e9, "kernels": 1000, "moved": 60e6, "seconds": 3}

    def measured(given, target, report):
        for number in range(len(given)):
            report(number, row if number else {"failed": "no"})

    monkeypatch.setattr(compile_for_gpu, "measure_in_children", measured)
    chosen = {"first": Program(), "second": Program()}
    assert compile_for_gpu.compile_all(chosen, "h100") == ["first"]
    failed, good = capsys.readouterr().out.splitlines()
    assert failed == "FAILED  first: no"
    assert good.split() == ["second", "3", "s", "1.00", "2.00", "GB", "1,000", "1.0", "MB"]


def test_wrong_options_are_reported() -> None:
    command = [sys.executable, compile_for_gpu.__file__]
    wrong = subprocess.run([*command, "--target", "tin"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "h100" in wrong.stderr
    none = subprocess.run([*command, "--only", "nothing"], capture_output=True, text=True)
    assert none.returncode == 2
    assert "no program is called nothing" in none.stdout
