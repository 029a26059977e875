"""Part `gallery`: tracklets added to a LanceDB gallery, searched exactly and by its index.

Features are drawn: unit vectors about a centre a person, of two cameras.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarking.child import Row
from benchmarking.drawn_features import as_set
from benchmarking.settings import Settings
from benchmarking.workload import peak_host_memory
from stf_jax.evaluation.features.feature_files import FeatureSet
from stf_jax.evaluation.features.origin import FeatureOrigin
from stf_jax.gallery.rows import add_features
from stf_jax.gallery.search import build_index, search_gallery
from stf_jax.gallery.table import create_gallery

_TRACKLETS, _QUERIES, _OF_A_PERSON, _TOP = 100_000, 2000, 20, 10
_ORIGIN = FeatureOrigin("0" * 16, 1, "euclidean", False, 8, "mean", "{}")


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row for adding, the exact search, the index, and the search by it."""
    count = settings.rows or _TRACKLETS
    queries = min(_QUERIES, count // 10)
    random = np.random.default_rng(settings.seed)
    centres = random.standard_normal((count // _OF_A_PERSON + 1, settings.dimensions), np.float32)
    features = drawn(random, centres, np.arange(count) // _OF_A_PERSON, camera=1)
    query = drawn(random, centres, random.integers(0, len(centres), queries), camera=2)
    yield {"note": f"{queries:,} queries, {count:,} tracklets, {settings.dimensions:,} numbers"}
    with tempfile.TemporaryDirectory() as folder:
        gallery = create_gallery(folder, _ORIGIN, settings.dimensions)
        yield measured("add", lambda: add_features(gallery, features, "drawn"))[1]
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        yield {"note": f"{size / 1e6:,.0f} MB on the disk"}
        exact, row = measured("exact search", lambda: search_gallery(gallery, query, top=_TOP))
        yield row
        yield measured("index", lambda: build_index(gallery))[1]
        found, row = measured(
            "search by index, and recall",
            lambda: search_gallery(gallery, query, top=_TOP, index=True),
        )
        yield {**row, "recall": found.recall}
        same = [len(set(a) & set(b)) for a, b in zip(exact.rows, found.rows, strict=True)]
        yield {"note": f"recall on all queries: {np.mean(same) / _TOP:.4f}"}


def drawn(
    random: np.random.Generator, centres: np.ndarray, people: np.ndarray, camera: int
) -> FeatureSet:
    """Tracklets of one frame of these people, without images."""
    count = len(people)
    features = random.standard_normal((count, centres.shape[1]), np.float32)
    features += centres[people]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return as_set(features, people, camera, _ORIGIN)


def measured(name: str, work: Callable[[], Any]) -> tuple[Any, Row]:
    """The result, and a row: seconds, and the process's peak memory so far."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    peak = peak_host_memory() / 1e9
    return result, {"measured": name, "s": seconds, "peak GB": peak, "recall": None}
