"""Time and peak memory of ranking and re-ranking at the size of MARS, on drawn features.

python scripts/benchmark_ranking.py [--tables DIR] [--noise 3] [--repeats 7] [--rerank]

DIR holds MARS's official tracks_test_info.mat and query_IDX.mat; without it labels of the same
counts are drawn. `--noise` 0 draws features without identities, else identities plus that much
noise. A processor shared with other programs shows in wall time, not in processor time.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from stf_jax.evaluation import (
    bootstrap_intervals,
    pairwise_distances,
    rank_gallery,
    rerank_features,
    rerank_memory,
)


def main() -> None:
    """Print a line for each measured call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tables", type=Path, help="folder of MARS's info files")
    parser.add_argument("--noise", type=float, default=0.0, help="noise about identities, 0: only")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dimensions", type=int, default=4096)
    parser.add_argument("--rerank", action="store_true", help="re-rank, too (once)")
    arguments = parser.parse_args()

    people, cameras, query = read_tables(arguments.tables) if arguments.tables else draw_tables()
    gallery = np.flatnonzero(people != -1)
    labels: dict[str, Any] = {
        "query_ids": people[query],
        "gallery_ids": people[gallery],
        "query_cameras": cameras[query],
        "gallery_cameras": cameras[gallery],
    }
    size = (len(people), arguments.dimensions, arguments.noise)
    query_features = draw_features(query, people, *size[1:])
    gallery_features = draw_features(gallery, people, *size[1:])
    print(f"{len(query):,} x {len(gallery):,}, {arguments.dimensions:,} dimensions; {memory()}")

    distances = measure(
        "distances", 1, lambda: pairwise_distances(query_features, gallery_features)
    )
    measure("a tenth of them through np.sort", 3, lambda: np.sort(distances[:198], axis=1))
    for name, options in {
        "step": {"protocol": "step+queries"},
        "mars-official": {"protocol": "mars-official"},
        "separate camera set": {"separate_camera_set": True},
        "single gallery shot": {"single_gallery_shot": True},
    }.items():
        ranking = measure(
            f"ranking, {name}",
            arguments.repeats,
            lambda options=options: rank_gallery(distances, **labels, **options),
        )
        print(f"  mAP {100 * ranking.mean_ap:.2f}, valid {ranking.valid_queries:,}")
    measure("bootstrap", arguments.repeats, lambda: bootstrap_intervals(ranking))
    if arguments.rerank:
        del distances
        needed = rerank_memory(len(query), len(gallery)) / 1e9
        print(f"re-ranking needs at most {needed:.2f} GB beyond the features")
        reranked = measure(
            "re-ranking, distances included",
            1,
            lambda: rerank_features(query_features, gallery_features),
        )
        ranking = rank_gallery(reranked, **labels, protocol="step+queries")
        print(f"  mAP {100 * ranking.mean_ap:.2f}")


def read_tables(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Person and camera of each test tracklet, and the query rows."""
    table = loadmat(folder / "tracks_test_info.mat")["track_test_info"].astype(np.int64)
    return table[:, 2], table[:, 3], loadmat(folder / "query_IDX.mat")["query_IDX"].ravel() - 1


def draw_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `read_tables`, drawn with MARS's counts of junk, distractors and queries."""
    random = np.random.default_rng(0)
    people = np.concatenate([np.full(870, -1), np.zeros(3248, int), random.integers(1, 627, 8062)])
    query = random.choice(np.flatnonzero(people > 0), 1980, replace=False)
    return people, random.integers(1, 7, len(people)), np.sort(query)


def draw_features(rows: np.ndarray, people: np.ndarray, dimensions: int, noise: float):
    """Unit vectors [rows, D] float32, of a row the same whichever rows are asked for."""
    features = np.empty((len(rows), dimensions), np.float32)
    for place, row in enumerate(rows):
        np.random.default_rng((1, int(row))).standard_normal(dtype=np.float32, out=features[place])
        if noise:
            features[place] *= noise
            centre = np.random.default_rng((2, int(people[row]) + 1))
            features[place] += centre.standard_normal(dimensions, dtype=np.float32)
        features[place] /= np.linalg.norm(features[place])
    return features


def measure(name: str, repeats: int, work: Callable):
    """Print the median and least wall and processor time of `work`; return its last result."""
    walls, processor = [], []
    for _ in range(repeats):
        result = None  # the last result is not kept beside the next
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    print(
        f"{name}: wall {statistics.median(walls):.3f} s (least {min(walls):.3f}), processor "
        f"{statistics.median(processor):.3f} s (least {min(processor):.3f}); {memory()}",
        flush=True,
    )
    return result


def memory() -> str:
    """Peak resident memory of this process so far."""
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"


if __name__ == "__main__":
    main()
