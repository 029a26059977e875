"""Which steps of a run are traced, wherever it begins and ends."""

from typing import Any

import jax
import pytest

from stf_jax.training.profile import profiled


@pytest.mark.parametrize(
    ("done", "steps", "first", "last", "traced"),
    [
        (0, 6, 2, 4, "2 to 4"),
        (0, 6, 1, 1, "1 to 1"),
        (2, 4, 2, 4, "3 to 4"),  # resumed within
        (0, 3, 2, 9, "2 to 3"),  # stopped within
        (4, 4, 2, 4, None),  # resumed after
        (0, 6, 0, -1, None),  # switched off
    ],
)
def test_steps_that_are_traced(monkeypatch, tmp_path, done, steps, first, last, traced) -> None:
    events, messages = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: events.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("end"))

    def train_step(state: int) -> int:
        events.append(state + 1)
        return state + 1

    state = done
    options = {"done": done, "first": first, "last": last, "folder": tmp_path}
    with profiled(train_step, **options, report=messages.append) as step:
        for _ in range(steps):
            state = step(state)
    assert state == done + steps
    if traced is None:
        assert events == list(range(done + 1, done + steps + 1))
        assert messages == []
    else:
        begins, ends = map(int, traced.split(" to "))
        inside = events[events.index(str(tmp_path)) + 1 : events.index("end")]
        assert inside == list(range(begins, ends + 1))
        assert messages == [f"profile of steps {traced} written to {tmp_path}"]


def test_a_run_that_fails_ends_its_trace(monkeypatch, tmp_path) -> None:
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: events.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("end"))
    options: Any = {"done": 0, "first": 1, "last": 5, "folder": tmp_path, "report": events.append}
    with pytest.raises(ZeroDivisionError), profiled(lambda x: 1 / x, **options) as step:
        step(step(1) - 1)
    assert events == ["start", "end", f"profile of steps 1 to 2 written to {tmp_path}"]
