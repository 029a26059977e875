"""What a run sees, on any numbers of devices, killed after any steps: the same, each step once."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.config import Config, changed
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.sampling import Position, training_plan
from stf_jax.training import batches
from stf_jax.training.batches import plan_options, training_batches
from stf_jax.training.schedules import make_schedules

EPOCHS = 3


@st.composite
def runs(draw):
    """A table and a config whose `tracklets` of a step it has."""
    person = st.tuples(st.integers(-1, 5), st.integers(1, 3), st.integers(1, 9))
    drawn = draw(st.lists(person, min_size=1, max_size=30).filter(lambda t: max(t)[0] >= 0))
    labels, cameras, lengths = np.array(drawn).T
    table = TrackletTable(
        image_dir=Path("images"),
        names=np.full(lengths.sum(), b"x"),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        person_ids=labels,
        cameras=cameras,
        tracks=np.arange(len(labels)),
        marks=np.full(len(labels), -1, np.int8),
        labels=labels,
    )
    sampler = draw(st.sampled_from(["tracklet", "identity"]))
    each = 1 if sampler == "tracklet" else draw(st.integers(1, 4))
    there = labels[labels >= 0]
    most = len(there) if sampler == "tracklet" else len(set(there))
    values = {
        "seed": draw(st.integers(0, 9)),
        "data.sampler": sampler,
        "data.tracklets": each * draw(st.integers(1, min(most, 12))),
        "data.tracklets_per_identity": each,
        "data.min_frames": 2,
        "data.max_frames": 5,
        "train.epochs": EPOCHS,
        "optimizer.staircase_epochs": (2, 3),
    }
    return table, changed(Config(), values)


def divisors(config):
    size = config.data.tracklets
    return st.sampled_from([n for n in range(1, size + 1) if size % n == 0])


def steps_of(plan):
    """Of each step: (number, tracklet, frames) of all devices, by the number."""
    size = plan.tracklets[0].size
    return [
        sorted(zip(*(part.reshape(size, -1).tolist() for part in step), strict=True))
        for step in zip(plan.global_index, plan.tracklets, plan.frame_rows, strict=True)
    ]


@pytest.fixture(scope="module", autouse=True)
def no_images():
    """The pipeline without its images: what it draws crops with, the step's number, the step."""

    def planned(table, plan, *, start_step, seed, devices, **_):
        assert devices == slice(0, plan.tracklets.shape[1])
        for k, step in list(enumerate(steps_of(plan)))[start_step:]:
            yield seed, k, step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "batches", planned)
        patch.setattr(batches, "prefetched", lambda stream, place: stream)
        yield


def begun(run, num_devices, position=None) -> Iterator[Any]:
    """What is left of the run at `position`; at its begin by default."""
    table, config = run
    position = position or Position(1, 0, config.seed)
    return training_batches(table, config, (1,), num_devices, position)


@settings(max_examples=100, deadline=None)
@given(runs(), st.integers(0, 9), st.data())
def test_devices_share_a_step_and_every_tracklet_has_its_turns(run, epoch, data):
    table, config = run
    options = plan_options(config, data.draw(divisors(config)))
    plan = training_plan(table, epoch=epoch, **options)
    steps = steps_of(plan)
    assert plan.tracklets.shape[1] == options["num_devices"]
    assert steps == steps_of(training_plan(table, epoch=epoch, **{**options, "num_devices": 1}))

    size, each = config.data.tracklets, config.data.tracklets_per_identity
    assert all([number for (number,), *_ in step] == list(range(size)) for step in steps)
    seen = Counter(tracklet for step in steps for _, (tracklet,), _ in step)
    assert all(table.labels[tracklet] >= 0 for tracklet in seen)
    if config.data.sampler == "tracklet":
        assert len(steps) == (table.labels >= 0).sum() // size
        assert set(seen.values()) == {1}
        return
    identities = set(table.labels[table.labels >= 0].tolist())
    assert len(steps) == -(-len(identities) * each // size)
    visits = Counter()
    for step in steps:
        groups = table.labels[[t for _, (t,), _ in step]].reshape(-1, each)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == len(groups)
        visits.update(groups[:, 0].tolist())
    assert set(visits) == identities
    assert max(visits.values()) <= 2  # the second time to fill the last step
    for identity, times in visits.items():
        its = [seen[tracklet] for tracklet in np.flatnonzero(table.labels == identity)]
        assert sum(its) == times * each
        assert max(its) - min(its) <= 1


@settings(max_examples=100, deadline=None)
@given(runs(), st.data())
def test_a_run_killed_anywhere_goes_on_with_the_next_step_on_any_devices(run, data):
    table, config = run
    seed, whole = config.seed, list(begun(run, 1))
    total = len(whole)
    options = plan_options(config, 1)
    assert whole == [
        (Position(epoch, k + 1, seed), ((seed, epoch), k, step))
        for epoch in range(1, EPOCHS + 1)
        for k, step in enumerate(steps_of(training_plan(table, epoch=epoch, **options)))
    ]

    # Before the first step, at an epoch's end, after the last one; and thrice somewhere.
    kills = [0, total // EPOCHS, total, *data.draw(st.lists(st.integers(0, total), max_size=3))]
    found, position = [], None
    for kill in sorted(kills):
        rest = begun(run, data.draw(divisors(config)), position)
        found += islice(rest, kill - len(found))
        position = found[-1][0] if found else None
    assert found == whole
    assert list(begun(run, data.draw(divisors(config)), position)) == []


@settings(max_examples=25, deadline=None)
@given(runs(), st.data())
def test_the_learning_rate_follows_the_epoch_on_any_devices(run, data):
    table, config = run
    options = plan_options(config, data.draw(divisors(config)))
    steps_per_epoch = len(training_plan(table, epoch=1, **options).tracklets)  # as train.py's
    rate = make_schedules(config.optimizer, steps_per_epoch, EPOCHS * steps_per_epoch)["backbone"]
    epochs = np.array([position.epoch for position, _ in begun(run, 1)])
    expected = 1e-4 * 0.2 ** (epochs - 1)
    np.testing.assert_allclose(rate(np.arange(len(epochs))), expected, rtol=1e-5)
