"""Ranking against published-evaluator goldens and a plain, slow oracle."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.errors import UserError
from stf_jax.evaluation import match_ranks as places
from stf_jax.evaluation import rank_gallery, ranking

GOLDEN = Path(__file__).parents[1] / "fixtures" / "ranking_a.npz"
LABELS = ("query_ids", "gallery_ids", "query_cameras", "gallery_cameras")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as stored:
        return dict(stored)


def oracle(distances, query_ids, gallery_ids, query_cameras, gallery_cameras, **options):
    """One query, one entry at a time, as data.md words it: (AP, INP, first rank) or None each."""
    scores = []
    for q, row in enumerate(distances):
        entries = []
        for g, value in enumerate(row):
            same_camera = query_cameras[q] == gallery_cameras[g]
            same_person = query_ids[q] == gallery_ids[g]
            if gallery_ids[g] == -1 or (same_person and same_camera):
                continue
            if options.get("separate_camera_set") and same_camera:
                continue
            entries.append((value, g, same_person))
        entries.sort(key=lambda entry: entry[:2])
        total = sum(same for _, _, same in entries)
        if not total:
            scores.append(None)
            continue
        found, steps, trapezoids, first, last = 0, 0.0, 0.0, 0, 0
        recall_before, precision_before = 0.0, 1.0
        for place, (_, _, same) in enumerate(entries, start=1):
            if same:
                found += 1
                first, last = first or place, place
                steps += found / place / total
            recall, precision = found / total, found / place
            trapezoids += (recall - recall_before) * (precision_before + precision) / 2
            recall_before, precision_before = recall, precision
        average = trapezoids if options.get("protocol") == "mars-official" else steps
        scores.append((average, total / last, first))
    return scores


@st.composite
def cases(draw):
    """Few values, so that distances tie; few people, so that queries and entries go unmatched."""
    num_queries = draw(st.integers(1, 6))
    num_gallery = draw(st.integers(1, 12))
    ids = st.integers(-1, draw(st.integers(-1, 3)))
    cameras = st.integers(1, draw(st.integers(1, 3)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    values = st.integers(0, levels).map(float) | st.just(float("inf"))

    def array(strategy, size, dtype=np.int64):
        return np.array(draw(st.lists(strategy, min_size=size, max_size=size)), dtype)

    dtype = draw(st.sampled_from([np.float32, np.float64]))
    distances = array(values, num_queries * num_gallery, dtype).reshape(num_queries, num_gallery)
    return distances, {
        "query_ids": array(ids, num_queries),
        "gallery_ids": array(ids, num_gallery),
        "query_cameras": array(cameras, num_queries),
        "gallery_cameras": array(cameras, num_gallery),
    }


def check_against_oracle(distances, labels, max_rank=5, **options):
    result = rank_gallery(distances, **labels, max_rank=max_rank, **options)
    expected = oracle(distances, **labels, **options)
    valid = [score for score in expected if score]
    assert result.valid_queries == len(valid)
    assert result.num_queries == len(expected)
    np.testing.assert_array_equal(result.query_ids, labels["query_ids"])
    assert result.cmc.shape == (max_rank,)
    for q, score in enumerate(expected):
        if score is None:
            assert result.first_ranks[q] == result.match_counts[q] == 0
            assert np.isnan(result.average_precisions[q])
            assert np.isnan(result.inverse_penalties[q])
            assert np.isnan(result.query_cmc[q]).all()
        else:
            assert result.average_precisions[q] == pytest.approx(score[0], abs=1e-12)
            assert result.inverse_penalties[q] == pytest.approx(score[1], abs=1e-12)
            assert result.first_ranks[q] == score[2]
    if not valid:
        assert np.isnan([result.mean_ap, result.mean_inp, *result.cmc]).all()
        return
    average, penalty, first = map(np.array, zip(*valid, strict=True))
    assert result.mean_ap == pytest.approx(average.mean(), abs=1e-12)
    assert result.mean_inp == pytest.approx(penalty.mean(), abs=1e-12)
    wanted = [(first <= k).mean() for k in range(1, max_rank + 1)]
    np.testing.assert_allclose(result.cmc, wanted, atol=1e-12)


@settings(deadline=None)
@given(
    cases(),
    st.sampled_from(["mars-official", "step+queries", "step"]),
    st.booleans(),
    st.integers(1, 20),
)
def test_oracle(case, protocol, separate_camera_set, max_rank):
    check_against_oracle(
        *case, max_rank=max_rank, protocol=protocol, separate_camera_set=separate_camera_set
    )


@pytest.mark.parametrize("many_matches", [False, True])
@pytest.mark.parametrize("levels", [4, 1 << 20])
def test_oracle_over_blocks(monkeypatch, many_matches, levels):
    """Several blocks of rows, both ways of counting, few and many ties."""
    monkeypatch.setattr(ranking, "_BLOCK_ELEMENTS", 7 * 150)
    monkeypatch.setattr(places, "_COUNTED_MATCHES", 0 if many_matches else 10**9)
    random = np.random.default_rng(levels)
    labels = {
        "query_ids": random.integers(-1, 6, 40),
        "gallery_ids": random.integers(-1, 6, 150),
        "query_cameras": random.integers(0, 4, 40),
        "gallery_cameras": random.integers(0, 4, 150),
    }
    check_against_oracle(random.integers(0, levels, (40, 150)) / levels, labels, max_rank=200)


def test_step_golden(golden):
    labels = {name: golden[name] for name in LABELS}
    result = rank_gallery(golden["distances"], **labels, protocol="step", max_rank=20)
    assert result.mean_ap == pytest.approx(float(golden["step_map"]), abs=1e-12)
    np.testing.assert_allclose(result.cmc, golden["step_cmc"], atol=1e-6)
    assert result.valid_queries == golden["valid_queries"]
    assert result.junk_size == np.count_nonzero(golden["gallery_ids"] == -1)
    assert result.gallery_size + result.junk_size == len(golden["gallery_ids"])


def test_official_golden(golden):
    labels = {name: golden[name] for name in LABELS}
    result = rank_gallery(golden["distances"], **labels, protocol="mars-official", max_rank=20)
    np.testing.assert_allclose(result.average_precisions, golden["official_ap"], atol=1e-12)
    assert result.mean_ap == pytest.approx(float(golden["official_map"]), abs=1e-12)
    np.testing.assert_allclose(result.cmc, golden["official_cmc"], atol=1e-12)


def test_junk_is_ignored_not_ranked(golden):
    """Without the junk columns every score is the same."""
    labels = {name: golden[name] for name in LABELS}
    whole = rank_gallery(golden["distances"], **labels)
    keep = golden["gallery_ids"] != -1
    labels |= {"gallery_ids": labels["gallery_ids"][keep]}
    labels |= {"gallery_cameras": labels["gallery_cameras"][keep]}
    kept = rank_gallery(golden["distances"][:, keep], **labels)
    np.testing.assert_array_equal(whole.query_cmc, kept.query_cmc)
    np.testing.assert_array_equal(whole.average_precisions, kept.average_precisions)


def test_wide_gallery_counts_beyond_sixteen_bits():
    distances = np.zeros((1, 70_001), np.float32)
    labels: dict[str, Any] = {
        "query_ids": [5],
        "query_cameras": [1],
        "gallery_cameras": np.full(70_001, 2),
    }
    gallery_ids = np.zeros(70_001, np.int64)
    gallery_ids[-1] = 5
    result = rank_gallery(distances, gallery_ids=gallery_ids, **labels)
    assert result.first_ranks[0] == 70_001
    distances[0, -1] = 1
    result = rank_gallery(distances, gallery_ids=gallery_ids, **labels)
    assert result.first_ranks[0] == 70_001


def test_inputs_stay_as_they_are(golden):
    distances = golden["distances"].copy()
    rank_gallery(distances, **{name: golden[name] for name in LABELS}, separate_camera_set=True)
    np.testing.assert_array_equal(distances, golden["distances"])


def test_no_queries_and_no_gallery():
    none = np.zeros(0, np.int64)
    labels: dict[str, Any] = {"query_ids": none, "query_cameras": none}
    result = rank_gallery(np.zeros((0, 2)), gallery_ids=[1, 2], gallery_cameras=[1, 1], **labels)
    assert result.valid_queries == result.num_queries == 0
    assert np.isnan(result.mean_ap)
    labels: dict[str, Any] = {"gallery_ids": none, "gallery_cameras": none}
    result = rank_gallery(np.zeros((2, 0)), query_ids=[1, 2], query_cameras=[1, 1], **labels)
    assert (result.valid_queries, result.num_queries) == (0, 2)


GOOD: dict[str, Any] = {
    "distances": np.zeros((2, 3)),
    "query_ids": [1, 2],
    "gallery_ids": [1, 2, 3],
    "query_cameras": [1, 1],
    "gallery_cameras": [2, 2, 2],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("distances", np.zeros(3)),
        ("distances", np.zeros((2, 3), np.int64)),
        ("distances", np.zeros((2, 3), complex)),
        ("distances", np.array([[0, 0, 0], [0, 0, np.nan]])),
        ("distances", [["a", "b", "c"], ["d", "e", "f"]]),
        ("query_ids", [1, 2, 3]),
        ("query_ids", ["1", "2"]),
        ("query_ids", np.zeros((2, 1), np.int64)),
        ("gallery_ids", [1, 2]),
        ("gallery_ids", [1.0, 2.0, 3.0]),
        ("query_cameras", [1]),
        ("query_cameras", [True, False]),
        ("gallery_cameras", [1, 2, 3, 4]),
        ("protocol", "steps"),
        ("max_rank", 0),
        ("max_rank", 2.5),
        ("seed", -1),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_arguments_are_named(name, value):
    arguments: dict[str, Any] = GOOD | {name: value}
    with pytest.raises(ValueError, match=f"^{name}: ") as caught:
        rank_gallery(arguments.pop("distances"), **arguments)
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


def test_nan_of_a_junk_column_or_later_block_is_found(monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK_ELEMENTS", 4)
    arguments: dict[str, Any] = GOOD | {"gallery_ids": [1, 2, -1]}
    distances = arguments.pop("distances").copy()
    distances[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"^distances: NaN at row 1, column 2"):
        rank_gallery(distances, **arguments)
