"""Distances against their definitions, entry by entry."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stf_jax.evaluation import distances as module
from stf_jax.evaluation import pairwise_distances

GOLDEN = Path(__file__).parents[1] / "fixtures" / "ranking_a.npz"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("rows", [1, 4, 512])
def test_definition(monkeypatch, metric, dtype, rows):
    monkeypatch.setattr(module, "_BLOCK_ROWS", rows)
    random = np.random.default_rng(0)
    query, gallery = random.standard_normal((9, 6)), random.standard_normal((13, 6))
    found = pairwise_distances(query, gallery, metric=metric, dtype=dtype)
    assert found.dtype == dtype
    for q in range(9):
        for g in range(13):
            if metric == "euclidean":
                wanted = np.linalg.norm(query[q] - gallery[g])
            else:
                lengths = np.linalg.norm(query[q]) * np.linalg.norm(gallery[g])
                wanted = 1 - query[q] @ gallery[g] / lengths
            assert found[q, g] == pytest.approx(wanted, abs=1e-5 if dtype == np.float32 else 1e-12)


def test_golden():
    with np.load(GOLDEN, allow_pickle=False) as golden:
        query, gallery = golden["query_features"], golden["gallery_features"]
        exact = pairwise_distances(query, gallery, dtype=np.float64)
        np.testing.assert_allclose(exact, golden["distances"], atol=1e-12)
        np.testing.assert_allclose(
            pairwise_distances(query, gallery), golden["distances"], atol=1e-5
        )


def test_zero_and_equal_vectors():
    features = np.array([[0.0, 0.0], [3.0, 4.0], [-3.0, -4.0]], np.float32)
    np.testing.assert_allclose(
        pairwise_distances(features, features, metric="cosine"),
        [[1, 1, 1], [1, 0, 2], [1, 2, 0]],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        pairwise_distances(features, features), [[0, 5, 5], [5, 0, 10], [5, 10, 0]], atol=1e-6
    )


def test_half_precision_is_computed_in_single():
    features = np.linspace(0, 1, 12, dtype=np.float16).reshape(3, 4)
    wanted = pairwise_distances(features.astype(np.float32), features.astype(np.float32))
    np.testing.assert_array_equal(pairwise_distances(features, features), wanted)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"query_features": np.zeros(3)}, "query_features"),
        ({"query_features": np.zeros((2, 3), int)}, "query_features"),
        ({"query_features": np.full((2, 3), np.inf)}, "query_features"),
        ({"gallery_features": np.zeros((4, 2))}, "gallery_features"),
        ({"gallery_features": np.array([[0, 1, np.nan]])}, "gallery_features"),
        ({"metric": "manhattan"}, "metric"),
        ({"dtype": np.int32}, "dtype"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments_are_named(changes, name):
    arguments: dict[str, Any] = {
        "query_features": np.zeros((2, 3)),
        "gallery_features": np.zeros((4, 3)),
    }
    arguments |= changes
    query, gallery = arguments.pop("query_features"), arguments.pop("gallery_features")
    with pytest.raises(ValueError, match=f"^{name}: "):
        pairwise_distances(query, gallery, **arguments)
