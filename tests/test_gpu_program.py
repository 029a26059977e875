"""The command that describes a config's programs on a GPU; compiling them is a leg of CI."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gpu_program
import jax
import pytest
from gpu_cards import CARDS, target_config
from gpu_program import Program, largest_that_fits, layer_group
from hlo_cost import Kernel

from stf_jax.errors import UserError

STAND_IN = """
import json, os, sys
for program in json.loads(sys.argv[-1]):
    if program["config"] == "aborts":
        print("F0000 Check failed: a == b (1 vs. 2)", file=sys.stderr, flush=True)
        os.abort()
    found = {"failed": "ValueError: no"} if program["config"] == "raises" else {"peak": 3}
    print(json.dumps({"seconds": 0, **found}), flush=True)
"""
CONFIG = str(gpu_program.ROOT / "configs" / "mars.py")


def test_a_program_that_ends_the_compiler_is_reported_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(gpu_program, "__file__", str(tmp_path / "stand_in.py"))
    given = [Program(name) for name in ("good", "aborts", "raises", "aborts", "last")]
    seen = {}
    found = gpu_program.measure_in_children(given, "h100", seen.__setitem__)
    assert ["failed" in row for row in found] == [False, True, True, True, False]
    assert "Check failed: a == b" in found[1]["failed"]
    assert list(seen.values()) == found


@pytest.mark.parametrize("limit", [5, 29, 31, 40, 999, 12_345])
def test_the_largest_that_fits_is_found_in_a_handful_of_calls(limit: float) -> None:
    calls = []

    def peak_of(n: int) -> float:
        calls.append(n)
        return max(30, 3 + 7 * n + 0.02 * n**1.1 + n % 3)  # nearly a line

    found = largest_that_fits(peak_of, limit)
    right = max((n for n in range(1, 2000) if peak_of(n) <= limit), default=0)
    assert found == right
    assert len(set(calls[: calls.index(1, 1)])) <= 8


def test_the_report_says_what_binds() -> None:
    found = {
        "arguments": 1e9,
        "temporary": 2e9,
        "peak": 3e9,
        "kernels": 1234,
        "small": 1000,
        "moved": 50 * 400e6,
        "flops": 50 * 40e9,
        "groups": [("stem: products, forward", 50 * 3e6)],
    }
    card = replace(CARDS["h100"], memory=5e9, bandwidth=2e12, bfloat16=400e12, tf32=100e12)
    program = Program(frames=50, devices=2)
    text = "\n".join(gpu_program.step_lines(program, found, card, "bfloat16"))
    # Two devices at 2 TB/s and 400 MB a frame; at 400 TFLOP/s and 40 GFLOP.
    assert "at most 10,000 by bandwidth (2.00 TB/s) and 20,000 by arithmetic" in text
    assert "bandwidth binds" in text
    assert "1,234 a step, 1,000 of them" in text
    assert "peak 3.00: fits 4 GB (75% of 5)" in text
    assert "400 MB moved, 40.0 GFLOP" in text
    assert "3.0  stem: products, forward" in text
    text = "\n".join(gpu_program.step_lines(program, found | {"peak": 4e9}, card, "float32"))
    assert "5,000 by arithmetic (100 TFLOP/s in TF32): arithmetic binds" in text
    assert "DOES NOT FIT" in text


def test_layer_groups_are_named_from_the_operations() -> None:
    forward, model = "jit(on_device)/jvp(TemporalFusionNet.packed)", "TemporalFusionNet"
    for origin, flops, name in (
        (f"{forward}/backbone/backbone.stage/layer3_2/conv1/x", 8, "stage 3: products, forward"),
        (
            f"jit(f)/transpose(jvp({model}.packed))/{model}._stage_feature/x/layer4_0/bn1/mul",
            0,
            "stage 4 of the fused maps: all but products, backward",
        ),
        ("jit(on_device)/add", 0, "outside the model: optimiser, augmentation, copies"),
        (f"{model}.packed/backbone/backbone.stem/bn1", 0, "stem: all but products, forward"),
    ):
        assert layer_group(Kernel("k", origin, 1, flops)) == name


def test_steps_are_those_of_the_config() -> None:
    program = Program(CONFIG, devices=2)
    config = gpu_program.config_of(program)
    steps = gpu_program.steps_of(program, config, None)
    # 2 of the 4 tracklets a device, of 15 frames on average and 25 at most.
    assert [(step.step, step.frames) for step in steps] == [
        ("train", 30),
        ("train", 50),
        ("extract", 100),
    ]
    assert {step.frames for step in gpu_program.steps_of(program, config, 7)} == {7}
    with pytest.raises(UserError, match="--devices 3: expected a divisor"):
        gpu_program.check_program(Program(CONFIG, devices=3), config)


def test_every_card_is_described_in_full() -> None:
    for card in CARDS.values():
        text = target_config(card)
        assert f"core_count: {card.multiprocessors}\n" in text
        assert f"memory_bandwidth: {card.bandwidth:.0f}\n" in text
        assert card.tf32 < card.bfloat16


@pytest.mark.parametrize("step", ["train", "extract", "neighbours"])
def test_programs_are_those_of_the_package(step: str) -> None:
    frames = 4096 if step == "neighbours" else 24
    program = Program("configs/demo.py", step=step, frames=frames)
    assert "stablehlo" in gpu_program.lower_program(program, jax.devices()[:1]).as_text()


def test_wrong_options_are_reported_in_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("STF_GPU_VENV", str(tmp_path))

    def errors(*options: str) -> str:
        command = [sys.executable, gpu_program.__file__, *options]
        found = subprocess.run(command, capture_output=True, text=True)
        assert found.returncode == 2
        assert "Traceback" not in found.stderr
        return found.stderr

    assert "invalid choice: 'tin'" in errors("--config", CONFIG, "--target", "tin")
    assert "--config is needed" in errors()
    assert "unrecognized arguments: --nothing" in errors("--config", CONFIG, "--nothing")
    none = errors("--config", CONFIG)
    if "the GPU build of JAX: found none" in none:  # else this environment has it
        assert none.count("\n") == 1
