"""Who trains and who queries."""

import numpy as np
import pytest

from stf_jax.errors import UserError
from stf_jax.prepare.tracks.split import (
    parse_numbers,
    query_tracklets,
    train_ids_by_rule,
    train_ids_by_share,
)


def test_numbers_from_a_list_or_a_file(tmp_path):
    assert parse_numbers("7,1,3-5,4", "--x") == [1, 3, 4, 5, 7]
    path = tmp_path / "ids.txt"
    path.write_text("7 1 # the first ones\n3-5,\n4\n")
    assert parse_numbers(str(path), "--x") == [1, 3, 4, 5, 7]


@pytest.mark.parametrize("text", ["", "1;2", "a", "5-3", "-1", "1,,2x", "nothere.txt"])
def test_refused_lists(text):
    with pytest.raises(UserError, match=r"^--train-ids"):
        parse_numbers(text, "--train-ids")


def test_rules_and_shares():
    ids = {1, 2, 3, 8, 11}
    assert train_ids_by_rule(ids, "odd") == {1, 3, 11}
    assert train_ids_by_rule(ids, "even") == {2, 8}
    assert train_ids_by_rule(ids, "all") == ids
    assert train_ids_by_rule(ids, "none") == set()
    drawn = [frozenset(train_ids_by_share(range(20), 0.3, seed)) for seed in range(9)]
    assert {len(ids) for ids in drawn} == {6}
    assert len(set(drawn)) > 1
    assert train_ids_by_share(list(range(20))[::-1], 0.3, 0) == drawn[0]
    with pytest.raises(UserError, match="--train-fraction"):
        train_ids_by_share(ids, 1.5, 0)


def test_queries_need_another_camera():
    ids = np.array([4, 4, 4, 6, 6, 8, 9])
    cameras = np.array([2, 2, 1, 2, 2, 1, 3])
    assert query_tracklets(ids, cameras, [2]).tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert query_tracklets(ids, cameras, [1, 2]).tolist() == [1, 1, 1, 0, 0, 0, 0]
    unknown = query_tracklets(ids, cameras, [2], need_match=False)
    assert unknown.tolist() == [1, 1, 0, 1, 1, 0, 0]
    assert query_tracklets(ids[:0], cameras[:0], [2]).tolist() == []
