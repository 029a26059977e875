"""Part `match`: the command `--mode match` on drawn features, its time and its peak memory.

Reading the files, the page and matches.csv are included; writing the drawn features is not.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarking.child import Row
from benchmarking.drawn_features import as_set
from benchmarking.settings import ROOT, Settings
from stf_jax.config import Config, to_json
from stf_jax.evaluation.features.feature_files import FeatureSet, write_features
from stf_jax.evaluation.features.origin import feature_origin
from stf_jax.run.run_files import write_run_files

DIMENSIONS = 512
_ROWS = 1 << 16  # drawn at a time


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row of the command's wall time and peak memory."""
    queries, gallery = settings.queries, settings.gallery
    with tempfile.TemporaryDirectory(prefix="stf_match_") as folder:
        root = Path(folder)
        write_run_files(root / "run", to_json(Config()), {})
        for name, count, camera in (("query", queries, 1), ("gallery", gallery, 2)):
            write_features(root / f"{name}.npz", draw_features(count, camera))
        size = (root / "gallery.npz").stat().st_size / 1e9
        yield {"note": f"{queries:,} x {gallery:,} of {DIMENSIONS} numbers; {size:.2f} GB of file"}
        words = ["--mode", "match", "--workdir", root / "run", "--output", root / "who"]
        words += ["--query", root / "query.npz", "--gallery", root / "gallery.npz"]
        yield command("match", words)


def command(name: str, words: Sequence[str | os.PathLike[str]]) -> Row:
    """Run `python -m stf_jax.main` with these words: a row of wall time, CPU time, peak memory."""
    start = time.perf_counter()
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "stf_jax.main", *words],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{name}: exit status {process.returncode}")
    return {
        "measured": name,
        "wall s": time.perf_counter() - start,
        "processor s": used.ru_utime + used.ru_stime,
        "peak GB": used.ru_maxrss * 1024 / 1e9,
    }


def draw_features(count: int, camera: int) -> FeatureSet:
    """`count` unit vectors of DIMENSIONS numbers, drawn, a frame each."""
    random = np.random.default_rng(camera)
    features = np.empty((count, DIMENSIONS), np.float32)
    for start in range(0, count, _ROWS):
        block = features[start : start + _ROWS]
        random.standard_normal(out=block, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    people = np.full(count, -1)
    return as_set(features, people, camera, feature_origin(Config(), "0" * 64, 1))
