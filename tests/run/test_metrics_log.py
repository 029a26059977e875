import json
import struct
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import stf_jax
from stf_jax.run.metrics_log import MetricsLog, cut_back, progress_bar, read_metrics


def _steps(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def _write(workdir, steps, resume_step=0, **options):
    with MetricsLog(workdir, resume_step, **options) as log:
        for step in steps:
            log.write(step, {"loss": 1 / step})


def test_an_entry_is_one_json_line_and_on_disk_at_once(tmp_path):
    with MetricsLog(tmp_path / "runs" / "a", tensorboard=False) as log:
        log.write(
            3,
            {
                "loss": jnp.float32(0.5),
                "frames": np.int64(7),
                "rate": 2.5,
                "cmc": np.array([0.25, 1.0]),
                "bad": float("nan"),
                "worse": [1.0, float("inf")],
            },
        )
        (line,) = (tmp_path / "runs" / "a" / "metrics.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry.pop("time") > 1.6e9
    assert entry == {
        "step": 3,
        "loss": 0.5,
        "frames": 7,
        "rate": 2.5,
        "cmc": [0.25, 1.0],
        "bad": None,
        "worse": [1.0, None],
    }
    assert not (tmp_path / "runs" / "a" / "tensorboard").exists()


def test_a_resumed_run_has_each_step_once(tmp_path):
    _write(tmp_path, range(1, 8))
    _write(tmp_path, range(5, 10), resume_step=4)
    assert _steps(tmp_path) == list(range(1, 10))
    _write(tmp_path, [1, 2])  # nothing had been saved: all over again
    assert _steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    "tail", ['{"step": 3, "lo', '{"step": 3, "loss": 1.0}', "\x00\x00\n", "3\n"]
)
def test_what_a_kill_left_is_dropped_or_completed(tmp_path, tail):
    _write(tmp_path, [1, 2], tensorboard=False)
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + tail.encode())
    _write(tmp_path, [4], resume_step=3, tensorboard=False)
    assert file.read_bytes().startswith(whole)
    assert _steps(tmp_path) == ([1, 2, 3, 4] if tail.endswith("}") else [1, 2, 4])
    assert [entry["step"] for entry in read_metrics(file)] == _steps(tmp_path)


def test_no_file_is_no_entries(tmp_path):
    cut_back(tmp_path / "metrics.jsonl", 3)
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    assert list(tmp_path.iterdir()) == []


def _crc32c(data):
    """Castagnoli CRC, bit by bit, from its polynomial; 0xe3069283 for b"123456789"."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _masked(crc):
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_event_files_are_whole_records_with_right_checksums(tmp_path):
    assert _crc32c(b"123456789") == 0xE3069283
    _write(tmp_path, [1, 2, 3])
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, records = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        record = data[12 : 12 + length]
        checksums = struct.unpack("<II", data[8:12] + data[12 + length : 16 + length])
        assert checksums == (_masked(_crc32c(data[:8])), _masked(_crc32c(record)))
        records.append(record)
        data = data[16 + length :]
    assert len(records) == 4
    assert b"brain.Event:2" in records[0]
    assert b"losses/loss" in records[1]
    assert struct.pack("<f", 1 / 3) in records[3]


_READ_AS_TENSORBOARD_DOES = """
import sys
from pathlib import Path
from stf_jax.run.metrics_log import MetricsLog
with MetricsLog(sys.argv[1]) as log:
    for step in range(1, 6):
        log.write(step, {"loss": step, "cmc": [0.5]})
with MetricsLog(sys.argv[1], 3, config={"data.root": "a", "model.stages": (2, 4)}) as log:
    for step in range(4, 8):
        log.write(step, {"loss": 10 * step})
    log.write(7, {"step+queries/mAP": 0.5, "lr/rest": 0.1, "frames_per_second": 9})
assert "tensorflow" not in sys.modules
sys.modules["tensorflow"] = None
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(str(Path(sys.argv[1]) / "tensorboard"))
events.Reload()
tags = events.Tags()
assert set(tags["scalars"]) == {
    "losses/loss", "scores/step_queries/mAP", "rates/learning_rate_rest", "rates/frames_per_second"
}, tags
(text,) = [e.tensor_proto.string_val[0] for e in events.Tensors("config/text_summary")]
assert text == b"    data.root = 'a'\\n    model.stages = (2, 4)", text
print([(e.step, e.value) for e in events.Scalars("losses/loss")])
"""


def test_tensorboard_reads_a_resumed_run_without_tensorflow(tmp_path):
    out = subprocess.run(
        [sys.executable, "-c", _READ_AS_TENSORBOARD_DOES, str(tmp_path)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(stf_jax.__file__).parents[1]), "JAX_PLATFORMS": "cpu"},
    )
    assert out.returncode == 0, out.stderr
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0), (7, 70.0)]
    assert out.stdout.strip() == str(expected)


def test_progress_bar_shows_rate_and_time_left_on_a_terminal_only(capsys, monkeypatch):
    with progress_bar(10) as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_bar(10, done=4) as bar:
        bar.update(6)
    text = capsys.readouterr().err
    assert "10/10" in text
    assert "step" in text
    with progress_bar(10, shown=False) as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""
