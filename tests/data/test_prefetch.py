"""Items made ahead in a thread: same items, same errors, nothing left running."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stf_jax.data.prefetch import prefetched


@given(st.lists(st.integers()), st.integers(1, 4))
def test_the_same_items_in_order(items, ahead):
    assert list(prefetched(iter(items), lambda x: 2 * x, ahead=ahead)) == [2 * x for x in items]


def test_two_are_made_ahead_and_no_more():
    made = []

    def place(item):
        made.append((item, threading.current_thread() is threading.main_thread()))
        return item

    stream = prefetched(iter(range(9)), place)
    for k in range(3):
        assert next(stream) == k
        deadline = time.monotonic() + 30
        while len(made) < k + 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)  # one more would be here by now
        assert made == [(item, False) for item in range(k + 3)]
    stream.close()
    assert len(made) == 5
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


@pytest.mark.parametrize("where", ["stream", "place"])
def test_an_error_comes_after_the_items_before_it(where):
    def stream():
        yield from range(3)
        if where == "stream":
            raise ValueError("broken")
        yield 3

    def place(item):
        if item == 3:
            raise ValueError("broken")
        return item

    items = prefetched(stream(), place)
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(items)
