"""The parts of a benchmark that are for a GPU: what can be checked of them without one."""

import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmarking import correct, drawn_run, kernels
from benchmarking.settings import Settings

from stf_jax.data.decode import decode
from stf_jax.data.decoded import open_decoded
from stf_jax.data.layout.partitions import load_layout

ROOT = Path(__file__).parents[1]


def event(name: str, start: float, length: float) -> Any:
    return SimpleNamespace(name=name, start_ns=start, duration_ns=length)


def test_kernels_of_the_streams_are_summed() -> None:
    lines = [
        SimpleNamespace(name="Steps", events=[event("1", 0, 1e9)]),
        SimpleNamespace(name="Stream #1(Compute)", events=[event("fusion_7", 0, 4e3)]),
        SimpleNamespace(
            name="Stream #2", events=[event("fusion_12", 3e3, 7e3), event("conv", 30e3, 10e3)]
        ),
    ]
    planes = [
        SimpleNamespace(name="/host:CPU", lines=lines[:1]),
        SimpleNamespace(name="/device:GPU:0", lines=lines),
    ]
    events = kernels.device_events(SimpleNamespace(planes=planes))
    assert sorted(name for name, _, _ in events) == ["conv", "fusion_12", "fusion_7"]
    whole, *kinds = kernels.summary(events, steps=2)
    assert whole == {
        "kernels a step": 1.5,
        "ms in kernels": pytest.approx(21e3 / 2 / 1e6),
        "ms a step, traced": 20e3 / 1e6,
        "% at work": pytest.approx(50),  # 0 to 10 and 30 to 40 of 40 microseconds
        "% of kernels under 5 us": pytest.approx(100 / 3),
        "% of time in them": pytest.approx(10),
    }
    assert [kind["kind"] for kind in kinds] == ["fusion", "conv"]
    assert kinds[0]["% of time"] == pytest.approx(100 * 11 / 40)
    assert kernels.device_events(SimpleNamespace(planes=planes[:1])) == []


def test_a_difference_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = [("twice", True, lambda x: 2 * x, (np.ones(3, np.float32),))]
    monkeypatch.setattr(correct, "_functions", lambda: iter(functions))
    monkeypatch.setattr(correct, "_golden", lambda name: 1e-6)
    assert [row["largest difference"] for row in correct.run(Settings())] == [
        "1.0e-06",
        "1.0e-06",
        "0.0e+00",
    ]
    monkeypatch.setattr(correct, "_golden", lambda name: {"a": 0.0, "b": 3e-3}[name])
    with pytest.raises(RuntimeError, match=r"1\.5e\+00 times the largest difference"):
        list(correct.run(Settings()))


def test_drawn_people_are_decoded_as_by_the_command(tmp_path: Path) -> None:
    root = drawn_run.draw(tmp_path, people=4, training=2)
    decode(tmp_path / "layout", tmp_path / "again", height=64, width=32)
    for subset in ("trainval", "test"):
        table = getattr(load_layout(tmp_path / "layout"), subset)
        ours, theirs = (open_decoded(folder, table) for folder in (root, tmp_path / "again"))
        assert table.num_frames > 10
        np.testing.assert_array_equal(ours.frames[ours.rows], theirs.frames[theirs.rows])


def test_what_matters_most_is_measured_first(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/usr/bin/env bash\necho "${{XLA_FLAGS:-}} $*" >>"{calls}"\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(stand_in), "XLA_FLAGS": "--given"}
    command = ["bash", str(ROOT / "scripts" / "gpu.sh"), "out", "--size", "small"]
    subprocess.run(command, env=environment, check=True)
    lines = calls.read_text().splitlines()
    assert all("scripts/benchmark.py --output out --minutes" in line for line in lines)
    assert all(line.endswith("--size small") for line in lines)
    parts = [re.sub(r".* --minutes [0-9.]+ ([a-z0-9-]+) .*", r"\1", line) for line in lines]
    assert parts == [*ORDER[:-1], "kernels", "kernels", ORDER[-1]]
    assert [line.split(" scripts")[0] for line in lines if "kernels" in line] == [
        "--given",
        "--given --xla_gpu_enable_command_buffer=",
        "--given --xla_gpu_enable_triton_gemm=false",
    ]


ORDER = ["step", "peer", "drawn-run", "correct", "extraction", "bfloat16", "kernels", "largest"]
