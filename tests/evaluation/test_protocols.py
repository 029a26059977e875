"""Which rows each protocol takes, on a small table, on MARS's own tables, and multi-query."""

import numpy as np
import pytest

from stf_jax.errors import UserError
from stf_jax.evaluation import pool_queries, rank_gallery, select_rows

IDS = np.array([-1, 0, 2, 2, 2, 4, 4, 6])
CAMERAS = np.array([1, 2, 1, 2, 1, 3, 1, 5])
MARKS = np.array([1, 1, 0, 1, 2, 0, 1, 0])


@pytest.mark.parametrize(
    ("protocol", "gallery"),
    [
        ("mars-official", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("step+queries", [1, 2, 3, 4, 5, 6, 7]),
        ("step", [0, 1, 3, 6]),
    ],
)
def test_rows(protocol, gallery):
    rows = select_rows(protocol, person_ids=IDS, cameras=CAMERAS, marks=MARKS)
    np.testing.assert_array_equal(rows.query, [2, 5, 7])
    np.testing.assert_array_equal(rows.gallery, gallery)


def test_multi_query_rows():
    rows = select_rows("step", person_ids=IDS, marks=MARKS, multi_query=True)
    np.testing.assert_array_equal(rows.query, [2, 4, 5, 7])
    np.testing.assert_array_equal(rows.gallery, [0, 1, 3, 6])


def test_tracklets_without_a_readable_image_are_left_out():
    features = np.ones((8, 3), np.float32)
    features[[0, 3, 5]] = 0
    rows = select_rows("mars-official", person_ids=IDS, marks=MARKS, features=features)
    np.testing.assert_array_equal(rows.query, [2, 7])
    np.testing.assert_array_equal(rows.gallery, [1, 2, 4, 6, 7])
    features[:] = 0
    with pytest.raises(UserError, match="no image of any of the 3 queries could be read"):
        select_rows("step", person_ids=IDS, marks=MARKS, features=features)


def test_protocols_differ_as_published():
    """A query matched by another query alone is valid only where queries are in the gallery."""
    ids, cameras, marks = np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2]), np.array([0, 0, 0, 1])
    distances = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    valid = {}
    for protocol in ("mars-official", "step+queries", "step"):
        rows = select_rows(protocol, person_ids=ids, cameras=cameras, marks=marks)
        valid[protocol] = rank_gallery(
            distances[np.ix_(rows.query, rows.gallery)],
            query_ids=ids[rows.query],
            gallery_ids=ids[rows.gallery],
            query_cameras=cameras[rows.query],
            gallery_cameras=cameras[rows.gallery],
            protocol=protocol,
        ).valid_queries
    assert valid == {"mars-official": 3, "step+queries": 3, "step": 1}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"marks": MARKS[:-1]}, "marks"),
        ({"cameras": np.zeros(99, int)}, "cameras"),
        ({"marks": np.full(8, 3)}, "marks"),
        ({"marks": np.ones(8, int)}, "marks"),
        ({"person_ids": IDS.astype(str)}, "person_ids"),
        ({"protocol": "mars"}, "protocol"),
        ({"features": np.ones((7, 2))}, "features"),
    ],
)
def test_bad_tables_are_named(changes, name):
    arguments = {"protocol": "step", "person_ids": IDS, "cameras": CAMERAS, "marks": MARKS}
    with pytest.raises(ValueError, match=f"^{name}: "):
        select_rows(**(arguments | changes))


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_against_a_loop(how, dtype):
    random = np.random.default_rng(0)
    ids, cameras = random.integers(-1, 4, 30), random.integers(0, 3, 30)
    features = random.standard_normal((30, 5)).astype(dtype)
    pooled = pool_queries(features, person_ids=ids, cameras=cameras, how=how)
    keys = sorted({(int(p), int(c)) for p, c in zip(ids, cameras, strict=True)})
    assert keys == list(zip(pooled.person_ids.tolist(), pooled.cameras.tolist(), strict=True))
    assert pooled.features.dtype == dtype
    for key, feature, count in zip(keys, pooled.features, pooled.counts, strict=True):
        chosen = features[(ids == key[0]) & (cameras == key[1])]
        assert count == len(chosen)
        wanted = chosen.mean(axis=0) if how == "mean" else chosen.max(axis=0)
        np.testing.assert_allclose(feature, wanted, rtol=1e-5, atol=1e-6)


def test_pooling_nothing():
    none = np.zeros(0, int)
    pooled = pool_queries(np.zeros((0, 3), np.float32), person_ids=none, cameras=none)
    assert pooled.features.shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"features": np.zeros(3)}, "features"),
        ({"features": np.full((3, 2), np.nan)}, "features"),
        ({"person_ids": [1, 2]}, "person_ids"),
        ({"cameras": [1, 2, 3, 4]}, "cameras"),
        ({"how": "median"}, "how"),
    ],
)
def test_bad_pooling_is_named(changes, name):
    arguments = {"features": np.zeros((3, 2)), "person_ids": [1, 1, 2], "cameras": [1, 1, 1]}
    arguments |= changes
    with pytest.raises(ValueError, match=f"^{name}: "):
        pool_queries(arguments.pop("features"), **arguments)
