"""Part `ranking`: time and peak memory of ranking and re-ranking at the size of MARS.

The labels are MARS's official ones, the features drawn: unit vectors about a centre an identity.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from benchmarking.child import Row
from benchmarking.settings import Settings
from benchmarking.workload import peak_host_memory
from stf_jax.evaluation import (
    bootstrap_intervals,
    open_set_scores,
    pairwise_distances,
    rank_gallery,
    rerank_features,
    rerank_memory,
)


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row for each measured call, re-ranking among them."""
    people, cameras, query = read_tables(Path(settings.tables))
    total = len(people)
    if 0 < settings.rows < total:
        # The last ones: the table begins with junk.
        people, cameras = people[-settings.rows :], cameras[-settings.rows :]
        query = query - (total - settings.rows)
        query = query[query >= 0]
    yield from measured(
        people,
        cameras,
        query,
        dimensions=settings.dimensions,
        noise=3.0,
        repeats=settings.repeats,
        rerank=True,
    )


def measured(
    people: np.ndarray,
    cameras: np.ndarray,
    query: np.ndarray,
    *,
    dimensions: int,
    noise: float,
    repeats: int,
    rerank: bool,
) -> Iterator[Row]:
    """Yield a row for each measured call on drawn features of these test tracklets."""
    gallery = np.flatnonzero(people != -1)
    labels: dict[str, Any] = {
        "query_ids": people[query],
        "gallery_ids": people[gallery],
        "query_cameras": cameras[query],
        "gallery_cameras": cameras[gallery],
    }
    query_features = draw_features(query, people, dimensions, noise)
    gallery_features = draw_features(gallery, people, dimensions, noise)
    yield {
        "note": f"{len(query):,} x {len(gallery):,}, {dimensions:,} dimensions; peak memory of the "
        f"process before: {peak_host_memory() / 1e9:.2f} GB"
    }
    distances, row = measure(
        "distances", 1, lambda: pairwise_distances(query_features, gallery_features)
    )
    yield row
    tenth = distances[: len(query) // 10 + 1]
    yield measure("a tenth of them through np.sort", 3, lambda: np.sort(tenth, axis=1))[1]
    for name, options in {
        "step": {"protocol": "step+queries"},
        "mars-official": {"protocol": "mars-official"},
        "separate camera set": {"separate_camera_set": True},
        "single gallery shot": {"single_gallery_shot": True},
    }.items():
        ranking, row = measure(
            f"ranking, {name}",
            repeats,
            lambda options=options: rank_gallery(distances, **labels, **options),
        )
        yield {**row, "mAP": 100 * ranking.mean_ap}
    yield measure("bootstrap", repeats, lambda: bootstrap_intervals(ranking))[1]
    yield measure("open set", repeats, lambda: open_set_scores(distances, **labels))[1]
    if rerank:
        del distances, tenth
        needed = rerank_memory(len(query), len(gallery)) / 1e9
        yield {"note": f"re-ranking needs at most {needed:.2f} GB beyond the features"}
        reranked, row = measure(
            "re-ranking, distances included",
            1,
            lambda: rerank_features(query_features, gallery_features),
        )
        ranking = rank_gallery(reranked, **labels, protocol="step+queries")
        yield {**row, "mAP": 100 * ranking.mean_ap}


def read_tables(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Person and camera of each test tracklet, and the query rows."""
    table = loadmat(folder / "tracks_test_info.mat")["track_test_info"].astype(np.int64)
    query = loadmat(folder / "query_IDX.mat")["query_IDX"].ravel().astype(np.int64) - 1
    return table[:, 2], table[:, 3], query


def draw_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `read_tables`, drawn with MARS's counts of junk, distractors and queries."""
    random = np.random.default_rng(0)
    people = np.concatenate([np.full(870, -1), np.zeros(3248, int), random.integers(1, 627, 8062)])
    query = random.choice(np.flatnonzero(people > 0), 1980, replace=False)
    return people, random.integers(1, 7, len(people)), np.sort(query)


def draw_features(rows: np.ndarray, people: np.ndarray, dimensions: int, noise: float):
    """Unit vectors [rows, D] float32, each row the same whichever rows are requested."""
    features = np.empty((len(rows), dimensions), np.float32)
    for place, row in enumerate(rows):
        np.random.default_rng((1, int(row))).standard_normal(dtype=np.float32, out=features[place])
        if noise:
            features[place] *= noise
            centre = np.random.default_rng((2, int(people[row]) + 1))
            features[place] += centre.standard_normal(dimensions, dtype=np.float32)
        features[place] /= np.linalg.norm(features[place])
    return features


def measure(name: str, repeats: int, work: Callable[[], Any]) -> tuple[Any, Row]:
    """Return the last result of `work`, and a row: wall and processor time, peak memory so far.

    A processor shared with other programs shows in wall time, not in processor time.
    """
    walls, processor = [], []
    result = None
    for _ in range(repeats):
        result = None  # the last result is freed before the next
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    return result, {
        "measured": name,
        "wall s": statistics.median(walls),
        "least": min(walls),
        "processor s": statistics.median(processor),
        "peak GB": peak_host_memory() / 1e9,
        "mAP": None,
    }
