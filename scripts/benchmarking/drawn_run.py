"""Part `drawn-run`: whole runs on drawn people to their scores, from decoded frames."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarking.child import Row
from benchmarking.settings import ROOT, Settings
from stf_jax.config import Config, changed, load_config
from stf_jax.data.decoded import ABOUT, FRAMES, NAMES
from stf_jax.devices import set_up_process
from stf_jax.run.metrics_log import read_metrics
from stf_jax.train import train

HEIGHT, WIDTH = 64, 32
MODELS: dict[str, dict[str, Any]] = {
    "fusion": {},
    "late fusion": {"model.stages": (4,), "model.stage_attention": "mean"},
    "mean pooling": {
        "model.frame_attention": (),
        "model.stages": (4,),
        "model.stage_attention": "mean",
    },
}
LONGER = 10  # times the demo's steps


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row a run: the demo's models over seeds, then fusion in bfloat16.

    On an accelerator the demo's 300 people and five seeds; on a CPU few people, few steps, two.
    """
    yield from runs(settings, MODELS, 1)
    bfloat16 = {"fusion, bfloat16": {"model.dtype": "bfloat16"}}
    yield from runs(settings, bfloat16, 1, most_seeds=2)


def runs(
    settings: Settings, models: dict[str, dict[str, Any]], times: int, *, most_seeds: int = 5
) -> Iterator[Row]:
    """Yield a row for each seed of each model, trained `times` the demo's steps."""
    small = settings.platform == "cpu"
    people, training, steps, seeds = (24, 12, 12, 2) if small else (300, 140, 240, most_seeds)
    set_up_process(settings.compilation_cache)
    with tempfile.TemporaryDirectory() as folder:
        root = draw(Path(folder), people, training)
        values = {
            "data.root": str(root),
            "data.source": "decoded",
            "train.epochs": 100 * times,  # more than are needed
            "train.max_steps": steps * times,
            "train.evaluate_before": False,
        }
        config = changed(load_config(ROOT / "configs" / "demo.py"), values)
        for seed in range(seeds):
            for model, own in models.items():
                yield score(changed(config, {**own, "seed": seed}), model, Path(folder))


def draw(folder: Path, people: int, training: int) -> Path:
    """Draw the demo's people and decode them; PNG files of the wanted size need no resizing."""
    layout, root = folder / "layout", folder / "decoded"
    command = [sys.executable, "-m", "stf_jax.prepare", "synthetic", "--output", str(layout)]
    command += ["--identities", str(people), "--train-identities", str(training)]
    command += ["--cameras", "3", "--min-length", "8", "--max-length", "16", "--difficulty", "0.35"]
    command += ["--occlusion", "1", "--height", str(HEIGHT), "--width", str(WIDTH)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    paths = sorted((layout / "images").iterdir())
    frames = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    root.mkdir()
    (root / "partitions.pkl").write_bytes((layout / "partitions.pkl").read_bytes())
    np.save(root / FRAMES, frames)
    np.save(root / NAMES, np.array([path.name for path in paths], "S"))
    about = {"height": HEIGHT, "width": WIDTH, "pad_ratio": 0.0, "lost": {}}
    (root / ABOUT).write_text(json.dumps({**about, "ends": [], "crc32": []}))
    return root


def score(config: Config, model: str, folder: Path) -> Row:
    """Train and score one run."""
    workdir = folder / f"{model}-{config.seed}".replace(" ", "-")
    begun = time.perf_counter()
    scores = train(config, workdir)  # which ends with an evaluation
    seconds = time.perf_counter() - begun
    logged = [e for e in read_metrics(workdir / "metrics.jsonl") if "data_wait" in e][1:]
    return {
        "run": model,
        "seed": config.seed,
        "mAP %": 100 * scores["mAP"],
        "rank-1 %": 100 * scores["rank-1"],
        "s, to the scores": seconds,
        "frames/s": float(np.median([e["frames_per_second"] for e in logged])) if logged else None,
        "wait %": 100 * float(np.median([e["data_wait"] for e in logged])) if logged else None,
    }
