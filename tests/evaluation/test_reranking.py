"""Re-ranking against the golden and against the paper's sets, built one row at a time."""

import logging
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stf_jax.evaluation import (
    neighbours,
    pairwise_distances,
    rank_gallery,
    rerank,
    rerank_features,
    reranking,
)
from stf_jax.evaluation.neighbours_jax import neighbours_on_device

GOLDEN = Path(__file__).parents[1] / "fixtures" / "ranking_a.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as stored:
        return dict(stored)


def all_distances(query, gallery):
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    return [pairwise_distances(a, b, dtype=np.float64) for a, b in pairs]


def oracle(query_gallery, query_query, gallery_gallery, k1, k2, lambda_value):
    """Sets and sums as the paper writes them (sections 3.2 to 3.5), in float64."""
    squares = np.block([[query_query, query_gallery], [query_gallery.T, gallery_gallery]]) ** 2
    total, num_queries = len(squares), len(query_gallery)
    scaled = squares / squares.max(axis=1, keepdims=True)
    lists = [sorted(range(total), key=lambda j, i=i: (squares[i, j], j)) for i in range(total)]

    def mutual(i, k):
        return {j for j in lists[i][: k + 1] if i in lists[j][: k + 1]}

    encodings = np.zeros((total, total))
    for i in range(total):
        expanded = set(mutual(i, k1))
        for j in mutual(i, k1):
            half = mutual(j, round(k1 / 2))
            if len(half & mutual(i, k1)) > 2 / 3 * len(half):
                expanded |= half
        for j in expanded:
            encodings[i, j] = np.exp(-scaled[i, j])
        encodings[i] /= encodings[i].sum()
    if k2 > 1:
        encodings = np.stack([encodings[lists[i][:k2]].mean(axis=0) for i in range(total)])
    result = np.empty(query_gallery.shape)
    for q in range(num_queries):
        for g in range(query_gallery.shape[1]):
            pair = encodings[[q, num_queries + g]]
            jaccard = 1 - pair.min(axis=0).sum() / pair.max(axis=0).sum()
            original = scaled[q, num_queries + g]
            result[q, g] = (1 - lambda_value) * jaccard + lambda_value * original
    return result


def test_golden_distances(golden):
    _, qq, gg = all_distances(golden["query_features"], golden["gallery_features"])
    found = rerank(golden["distances"], qq, gg)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, golden["reranked"], atol=1e-6)


@pytest.mark.parametrize("accelerator", [False, True])
def test_golden_features(golden, accelerator):
    found = rerank_features(
        golden["query_features"], golden["gallery_features"], accelerator=accelerator
    )
    np.testing.assert_allclose(found, golden["reranked"], atol=1e-6)


def test_golden_scores(golden):
    found = rerank_features(golden["query_features"], golden["gallery_features"])
    names = ("query_ids", "gallery_ids", "query_cameras", "gallery_cameras")
    result = rank_gallery(found, **{name: golden[name] for name in names}, max_rank=20)
    assert result.mean_ap == pytest.approx(float(golden["reranked_map"]), abs=1e-12)
    np.testing.assert_allclose(result.cmc, golden["reranked_cmc"], atol=1e-6)


@pytest.mark.parametrize(
    ("num_queries", "num_gallery", "k1", "k2", "lambda_value"),
    [
        (5, 30, 20, 6, 0.3),
        (7, 40, 5, 3, 0.5),
        (3, 25, 7, 1, 0.0),
        (4, 9, 20, 6, 0.3),
        (1, 1, 20, 6, 0.1),
        (2, 12, 1, 9, 1.0),
    ],
)
def test_oracle(monkeypatch, num_queries, num_gallery, k1, k2, lambda_value):
    random = np.random.default_rng(k1)
    centres = random.standard_normal((6, 8))
    features = centres[random.integers(0, 6, num_queries + num_gallery)]
    features = features + 0.4 * random.standard_normal(features.shape)
    query, gallery = np.split(features, [num_queries])
    options: dict[str, Any] = {"k1": k1, "k2": k2, "lambda_value": lambda_value}
    qg, qq, gg = all_distances(query, gallery)
    wanted = oracle(qg, qq, gg, **options)
    np.testing.assert_allclose(rerank(qg, qq, gg, **options), wanted, atol=2e-6)
    np.testing.assert_allclose(rerank_features(query, gallery, **options), wanted, atol=2e-6)
    # Small tiles, short lists, few terms: every loop goes round more than once.
    monkeypatch.setattr(neighbours, "_TILE_ROWS", 7)
    monkeypatch.setattr(neighbours, "_MERGE_ROWS", 3)
    monkeypatch.setattr(neighbours, "_PAIRS", 2)
    monkeypatch.setattr(reranking, "_LONGER", 1)
    monkeypatch.setattr(reranking, "_TERMS", 50)
    np.testing.assert_allclose(rerank(qg, qq, gg, **options), wanted, atol=2e-6)
    np.testing.assert_allclose(rerank_features(query, gallery, **options), wanted, atol=2e-6)


@pytest.mark.parametrize("count", [1, 5, 60, 500])
@pytest.mark.parametrize("levels", [3, 1 << 10])
def test_neighbours_are_the_sorted_rows(monkeypatch, count, levels):
    """Integer distances are exact in float32, so ties must come in the order of the rows."""
    monkeypatch.setattr(neighbours, "_TILE_ROWS", 16)
    monkeypatch.setattr(neighbours, "_MERGE_ROWS", 5)
    random = np.random.default_rng(count)
    features = random.integers(0, levels, (70, 2)).astype(np.float32)
    query, gallery = features[:20], features[20:]
    squares = np.square(features[:, None] - features[None]).sum(-1)
    order = np.argsort(squares, axis=1, kind="stable")[:, :count]
    qq, qg = np.split(np.sqrt(squares[:20].astype(float)), [20], axis=1)
    gg = np.sqrt(squares[20:, 20:].astype(float))
    for found in (
        neighbours.neighbours_of_features(query, gallery, count),
        neighbours.neighbours_of_distances(qg, qq, gg, count),
        neighbours_on_device(query, gallery, count),
    ):
        np.testing.assert_array_equal(found.indices, order)
        np.testing.assert_allclose(found.squares, np.take_along_axis(squares, order, 1), rtol=1e-6)
        np.testing.assert_allclose(found.farthest, squares.max(axis=1), rtol=1e-6)
        np.testing.assert_allclose(found.query_gallery, squares[:20, 20:], rtol=1e-6)


def test_device_blocks_overlap(monkeypatch):
    from stf_jax.evaluation import neighbours_jax

    monkeypatch.setattr(neighbours_jax, "_ROW_BLOCK", 16)
    features = np.random.default_rng(0).standard_normal((45, 6)).astype(np.float32)
    found = neighbours_on_device(features[:20], features[20:], 9)
    wanted = neighbours.neighbours_of_features(features[:20], features[20:], 9)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_allclose(found.query_gallery, wanted.query_gallery, rtol=1e-5)


def test_equal_features_do_not_divide_by_zero():
    found = rerank_features(np.ones((3, 4)), np.ones((50, 4)))
    assert np.isfinite(found).all()


def test_memory_is_said_first_and_kept(caplog):
    random = np.random.default_rng(0)
    query = random.standard_normal((150, 32)).astype(np.float32)
    gallery = random.standard_normal((700, 32)).astype(np.float32)
    with caplog.at_level(logging.INFO, logger="stf_jax.evaluation.reranking"):
        tracemalloc.start()
        rerank_features(query, gallery, accelerator=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    said = reranking.rerank_memory(150, 700)
    assert peak < said
    assert f"{said / 1e9:.2f} GB" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"query_gallery": np.zeros((2, 3), int)}, "query_gallery"),
        ({"query_gallery": np.full((2, 3), np.nan)}, "query_gallery"),
        ({"query_gallery": np.zeros((0, 3)), "query_query": np.zeros((0, 0))}, "query_gallery"),
        ({"query_query": np.zeros((3, 3))}, "query_query"),
        ({"gallery_gallery": np.zeros((3, 2))}, "gallery_gallery"),
        ({"gallery_gallery": np.full((3, 3), np.inf)}, "gallery_gallery"),
        ({"k1": 0}, "k1"),
        ({"k2": 1.5}, "k2"),
        ({"lambda_value": 1.1}, "lambda_value"),
        ({"lambda_value": float("nan")}, "lambda_value"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_distances_are_named(changes, name):
    arguments: dict[str, Any] = {
        "query_gallery": np.zeros((2, 3)),
        "query_query": np.zeros((2, 2)),
        "gallery_gallery": np.zeros((3, 3)),
    }
    with pytest.raises(ValueError, match=f"^{name}: "):
        rerank(**(arguments | changes))


@pytest.mark.parametrize(
    ("query", "gallery", "name"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "gallery_features"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), "query_features"),
        (np.zeros((2, 3)), np.zeros((0, 3)), "gallery_features"),
        (np.zeros(3), np.zeros((2, 3)), "query_features"),
    ],
)
@pytest.mark.parametrize("accelerator", [False, True])
def test_bad_features_are_named(query, gallery, name, accelerator):
    with pytest.raises(ValueError, match=f"^{name}: "):
        rerank_features(query, gallery, accelerator=accelerator)
