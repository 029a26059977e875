"""Packing and batch sizes against exhaustive search."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.data.packing import frame_buckets, pack


def padded(counts, sizes):
    return sum(min(size for size in sizes if size >= count) for count in counts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 4))
def test_no_choice_of_sizes_pads_less(counts, num_buckets):
    sizes = frame_buckets(np.array(counts), num_buckets)
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) <= num_buckets
    best = min(
        padded(counts, (*choice, max(counts)))
        for choice in itertools.combinations(range(1, 13), num_buckets - 1)
    )
    assert padded(counts, sizes) == best


def test_the_largest_count_always_fits():
    assert frame_buckets(np.array([3, 5, 5]), 2, largest=9) == (5, 9)
    assert frame_buckets(np.array([3, 5, 5]), 3, largest=9) == (3, 5, 9)
    assert frame_buckets(np.array([], np.int64), 3, largest=9) == (9,)
    assert frame_buckets(np.array([9, 3]), 1, largest=4) == (9,)
    assert frame_buckets(np.array([0, 0]), 2) == (1,)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=80), st.integers(1, 6), st.integers(1, 20))
def test_every_item_has_a_place_of_its_own(sizes, slots, window):
    batch, slot = pack(sizes, budget=60, slots=slots, window=window)
    assert len(set(zip(batch, slot, strict=True))) == len(sizes)
    used = np.bincount(batch)
    assert (used > 0).all()
    assert (slot < used[batch]).all()
    assert used.max() <= slots
    totals = np.bincount(batch, weights=sizes)
    assert totals.max() <= 60
    # Nothing was left that would have fitted into a batch that was closed with a slot to spare.
    for b in np.flatnonzero(used[:-1] < slots):
        later = np.flatnonzero(batch > b)
        assert totals[b] + sizes[later.min()] > 60


def test_items_stay_in_order_where_that_leaves_no_gap():
    batch, slot = pack([25] * 8, budget=100, slots=9)
    assert batch.tolist() == [0] * 4 + [1] * 4
    assert slot.tolist() == [0, 1, 2, 3] * 2
    # 30 are left after the second item: the fourth fills them, not the fifth.
    batch, _ = pack([40, 30, 40, 30, 10], budget=100, slots=9)
    assert batch.tolist() == [0, 0, 1, 0, 1]
