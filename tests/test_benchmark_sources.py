"""benchmark_sources.py on few frames: every rate is of the frames that there are."""

import importlib.util
import json
from pathlib import Path

from stf_jax.data.layout.partitions import load_layout

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmarking" / "benchmark_sources.py"


def test_rates_are_of_all_frames(tmp_path: Path, monkeypatch, capsys) -> None:
    spec = importlib.util.spec_from_file_location("benchmark_sources", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.draw_layout(tmp_path / "layout", 1)
    layout = load_layout(tmp_path / "layout")
    assert layout.trainval is not None
    assert layout.test is not None
    frames = {"trainval": layout.trainval.num_frames, "test": layout.test.num_frames}
    assert frames == {"trainval": 5 * 58, "test": 7 * 58}

    numbers = tmp_path / "numbers.json"
    argv = ["--root", str(tmp_path / "layout"), "--folder", str(tmp_path), "--json", str(numbers)]
    monkeypatch.setattr("sys.argv", ["benchmark_sources.py", *argv])
    assert script.main() == 0
    printed = capsys.readouterr().out
    found = json.loads(numbers.read_text())
    rates = found["rates"]
    assert rates["build tfds"]["frames"] == rates["decode"]["frames"] == 12 * 58
    for source in ("tfds", "folder", "decoded"):
        assert rates[f"read {source}, every frame"]["frames"] == 7 * 58
    epochs = [rates[f"read {source}, training epoch"] for source in ("tfds", "folder", "decoded")]
    assert epochs[0]["frames"] == epochs[1]["frames"] == epochs[2]["frames"] > 0
    assert "seconds_at_mars_size" not in epochs[0]
    build = rates["build tfds"]
    at_mars = 1_191_003 * build["seconds"] / (12 * 58)
    assert abs(build["seconds_at_mars_size"] / at_mars - 1) < 1e-9
    assert all(name in printed for name in (*rates, found["about"]["python"]))
    assert {path.name for path in tmp_path.iterdir()} == {"layout", "numbers.json"}

    monkeypatch.setattr("sys.argv", ["benchmark_sources.py", "--root", str(tmp_path / "nowhere")])
    assert script.main() == 2
    assert "nowhere/partitions.pkl: no such file" in capsys.readouterr().err
