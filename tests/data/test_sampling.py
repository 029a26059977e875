"""Plans: what they cover, how often, in which proportions."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.sampling import (
    evaluation_plan,
    frame_counts,
    training_buckets,
    training_plan,
)
from stf_jax.errors import UserError

LENGTHS = Path(__file__).parents[1] / "fixtures" / "mars_lengths.npz"
GOLDEN = [1952172886, 132695179]  # CRC-32 of the plans below


def make_table(lengths, labels=None, cameras=None):
    n = len(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels = np.arange(n) // 2 if labels is None else np.asarray(labels)
    return TrackletTable(
        image_dir=Path("images"),
        names=np.full(offsets[-1], b"x"),
        offsets=offsets,
        person_ids=labels,
        cameras=np.ones(n, np.int64) if cameras is None else np.asarray(cameras),
        tracks=np.arange(n),
        marks=np.full(n, -1, np.int8),
        labels=labels,
    )


@pytest.fixture(scope="module")
def mars():
    with np.load(LENGTHS) as lengths:
        return {name: make_table(lengths[name].astype(np.int64)) for name in lengths}


def owners(table, plan):
    """The tracklet of each frame, by search; -1 where the plan has none."""
    found = np.searchsorted(table.offsets, plan.frame_rows, side="right") - 1
    return np.where(plan.frame_rows >= 0, found, -1)


def check_frames(table, plan, low, high):
    real = plan.frame_rows >= 0
    counts = real.sum(axis=3)
    assert (real == (np.arange(plan.frame_rows.shape[3]) < counts[..., None])).all()  # first slots
    assert ((owners(table, plan) == plan.tracklets[..., None]) | ~real).all()
    later, earlier = plan.frame_rows[..., 1:], plan.frame_rows[..., :-1]
    assert ((later > earlier) | ~real[..., 1:]).all()  # time order, so no frame twice
    lengths = table.lengths[plan.tracklets]
    assert (counts >= np.minimum(low, lengths)).all()
    assert (counts <= np.minimum(high, lengths)).all()
    return counts


def test_every_tracklet_once_in_whole_steps(mars):
    table = mars["train"]
    plan = training_plan(table, seed=3, epoch=2, num_devices=2, tracklets=8)
    assert plan.tracklets.shape == (8298 // 8, 2, 4)
    assert plan.frame_rows.shape == (8298 // 8, 2, 4, 25)
    visits = np.bincount(plan.tracklets.ravel(), minlength=8298)
    assert visits.max() == 1
    assert visits.sum() == 8298 // 8 * 8
    counts = check_frames(table, plan, 5, 25)
    # Of 25 frames and more, every number from 5 to 25 is as likely: 21 bins.
    long = table.lengths[plan.tracklets] >= 25
    bins = np.bincount(counts[long], minlength=26)[5:]
    expected = long.sum() / 21
    assert len(bins) == 21
    assert ((bins - expected) ** 2 / expected).sum() < 45.3  # chi-square, 20 degrees, p = 0.001


def test_every_frame_is_as_likely():
    table = make_table([9, 9, 4, 30])
    hits, total = np.zeros(52), np.zeros(4)
    for epoch in range(3000):
        plan = training_plan(
            table,
            seed=0,
            epoch=epoch,
            num_devices=1,
            tracklets=4,
            min_frames=2,
            max_frames=6,
        )
        hits[plan.frame_rows[plan.frame_rows >= 0]] += 1
        total[plan.tracklets[0, 0]] += (plan.frame_rows[0, 0] >= 0).sum(axis=1)
    np.testing.assert_allclose(total / 3000, [4, 4, 3, 4], rtol=0.03)
    share = np.repeat(total / table.lengths, table.lengths)
    # Five standard deviations of a count with this mean.
    assert (np.abs(hits - share) < 5 * np.sqrt(share)).all()


def test_segments_give_a_frame_each():
    """By brute force: every drawn frame is of its segment, and all frames of it are drawn alike."""
    table = make_table([9, 10, 4, 31])
    low, high, epochs = 2, 6, 3000
    hits, expected = np.zeros(54), np.zeros(54)
    for epoch in range(epochs):
        plan = training_plan(
            table,
            seed=0,
            epoch=epoch,
            num_devices=1,
            tracklets=4,
            min_frames=low,
            max_frames=high,
            frame_sampling="segments",
        )
        check_frames(table, plan, low, high)
        drawn = zip(plan.tracklets[0, 0].tolist(), plan.frame_rows[0, 0], strict=True)
        for tracklet, rows in drawn:
            rows = rows[rows >= 0]
            frames = np.arange(*table.offsets[tracklet : tracklet + 2].tolist())
            length = len(frames)
            edges = [i * length // len(rows) for i in range(len(rows) + 1)]
            for row, a, b in zip(rows, edges[:-1], edges[1:], strict=True):
                assert abs((b - a) - length / len(rows)) < 1
                assert row in frames[a:b]
                hits[row] += 1
                expected[frames[a:b]] += 1 / (b - a)
    assert (np.abs(hits - expected) < 5 * np.sqrt(expected)).all()
    assert hits.min() > 0


def test_segments_change_the_frames_alone(mars):
    def plan(frame_sampling, epoch=0):
        return training_plan(
            mars["train"],
            seed=0,
            epoch=epoch,
            num_devices=2,
            tracklets=8,
            frame_sampling=frame_sampling,
        )

    one, other, again = plan("random"), plan("segments"), plan("segments")
    for found, expected in zip(by_number(other), by_number(again), strict=True):
        assert (found == expected).all()
    assert (one.tracklets == other.tracklets).all()
    assert (frame_counts(one) == frame_counts(other)).all()
    assert (one.frame_rows != other.frame_rows).any()
    assert (plan("segments", epoch=1).frame_rows != other.frame_rows).any()


def test_a_plan_is_a_function_of_its_seed_and_epoch(mars):
    def plan(seed, epoch):
        return training_plan(mars["train"], seed=seed, epoch=epoch, num_devices=1, tracklets=4)

    first, again = plan(1, 5), plan(1, 5)
    assert (first.tracklets == again.tracklets).all()
    assert (first.frame_rows == again.frame_rows).all()
    for other in (plan(1, 6), plan(2, 5), plan(5, 1)):
        assert (first.tracklets != other.tracklets).mean() > 0.99


def test_plans_are_the_same_on_every_machine():
    table = make_table([3, 50, 7, 26, 25, 9, 100, 5, 5, 31], cameras=np.arange(10) % 3)
    sums = []
    for sampler in ("tracklet", "identity"):
        plan = training_plan(
            table,
            seed=7,
            epoch=3,
            num_devices=2,
            sampler=sampler,
            tracklets=4,
            tracklets_per_identity=2,
        )
        sums.append(zlib.crc32(plan.tracklets.tobytes() + plan.frame_rows.tobytes()))
    assert sums == GOLDEN


def by_number(plan):
    """Tracklets [S, B] and frames [S, B, T] of each step in the order of `global_index`."""
    steps, *_, slots = plan.frame_rows.shape
    order = np.argsort(plan.global_index.reshape(steps, -1), axis=1)
    frames = plan.frame_rows.reshape(steps, -1, slots)
    return np.take_along_axis(plan.tracklets.reshape(steps, -1), order, 1), np.take_along_axis(
        frames, order[..., None], 1
    )


@pytest.mark.parametrize("sampler", ["tracklet", "identity"])
def test_devices_share_the_step_of_one_device(mars, sampler):
    def plan(num_devices):
        return training_plan(
            mars["train"],
            seed=0,
            epoch=0,
            num_devices=num_devices,
            sampler=sampler,
            tracklets=8,
            max_frames=8,
        )

    tracklets, frames = by_number(plan(1))
    for num_devices in (2, 4, 8):
        shared = plan(num_devices)
        assert shared.tracklets.shape == (len(tracklets), num_devices, 8 // num_devices)
        assert shared.global_index is not None
        assert (np.sort(shared.global_index.reshape(-1, 8), axis=1) == np.arange(8)).all()
        for found, expected in zip(by_number(shared), (tracklets, frames), strict=True):
            assert (found == expected).all()


@pytest.mark.parametrize(("num_devices", "fitting"), [(3, "1, 2, 4"), (8, "1, 2, 4")])
def test_devices_that_do_not_divide_a_step_are_refused(num_devices, fitting):
    wanted = (
        f"data.tracklets is 4: {num_devices} devices .* multiple of {num_devices} .*or {fitting} "
    )
    with pytest.raises(UserError, match=wanted):
        training_plan(make_table([10] * 20), seed=0, epoch=0, num_devices=num_devices, tracklets=4)


def test_devices_get_similar_numbers_of_frames(mars):
    plan = training_plan(mars["train"], seed=0, epoch=0, num_devices=8, tracklets=32)
    counts = frame_counts(plan)
    assert counts.shape == (259, 8)
    assert counts.sum() == (plan.frame_rows >= 0).sum()
    assert counts.max(axis=1).mean() < 1.06 * counts.mean()  # dealt as they come: 1.33


@pytest.mark.parametrize("num_devices", [1, 3])
def test_identities_come_with_several_cameras(num_devices):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 23)  # tracklets of each identity
    labels = rng.permutation(np.repeat(np.arange(23), sizes))
    cameras = rng.integers(1, 4, len(labels))
    table = make_table(rng.integers(2, 40, len(labels)), labels, cameras)
    plan = training_plan(
        table,
        seed=1,
        epoch=0,
        num_devices=num_devices,
        sampler="identity",
        tracklets=12 * num_devices,
        tracklets_per_identity=4,
    )
    assert plan.tracklets.shape == (-(-23 // (3 * num_devices)), num_devices, 12)
    check_frames(table, plan, 5, 25)
    visits = np.zeros(23, int)
    for step in by_number(plan)[0].reshape(-1, 3 * num_devices, 4):
        who = labels[step]
        assert (who == who[:, :1]).all()
        assert len(set(who[:, 0])) == 3 * num_devices
        for identity, tracklets in zip(who[:, 0], step, strict=True):
            visits[identity] += 1
            its = np.flatnonzero(labels == identity)
            assert len(set(tracklets)) == min(4, len(its))
            wanted = min(4, len(set(cameras[its])))
            if visits[identity] == 1:
                assert len(set(cameras[tracklets])) == wanted
    assert visits.min() == 1  # every identity, and a second time only to fill the last step
    assert visits.sum() == plan.tracklets.size // 4


def test_an_identity_that_comes_again_shows_other_tracklets():
    plan = training_plan(
        make_table([10] * 40, labels=np.arange(40) % 5),
        seed=0,
        epoch=0,
        num_devices=2,
        sampler="identity",
        tracklets=12,
        tracklets_per_identity=4,
    )
    assert plan.tracklets.shape == (2, 2, 6)  # five identities in two steps of three
    assert len(set(plan.tracklets.ravel())) == 24


def test_repeated_tracklets_get_new_frames():
    table = make_table([60, 60], labels=[0, 0])
    plan = training_plan(
        table,
        seed=0,
        epoch=0,
        num_devices=1,
        sampler="identity",
        tracklets=4,
        tracklets_per_identity=4,
    )
    assert sorted(plan.tracklets.ravel()) == [0, 0, 1, 1]
    assert len({tuple(frames) for frames in plan.frame_rows[0, 0]}) == 4


@pytest.mark.parametrize("sampler", ["tracklet", "identity"])
def test_unlabelled_tracklets_take_no_part(sampler):
    table = make_table([10] * 12, labels=[-1, 0, 1, -1] * 3)
    plan = training_plan(
        table,
        seed=0,
        epoch=0,
        num_devices=1,
        sampler=sampler,
        tracklets=2,
        tracklets_per_identity=2,
    )
    assert (table.labels[plan.tracklets] >= 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tracklets": 40}, "20 labelled tracklets"),
        ({"sampler": "identity", "tracklets": 6}, "multiple"),
        ({"sampler": "identity", "tracklets": 44}, "10 identities"),
        ({"sampler": "person"}, "'identity'"),
        ({"frame_sampling": "dense"}, "'segments'"),
        ({"min_frames": 0}, "min_frames"),
        ({"min_frames": 9, "max_frames": 8}, "max_frames"),
    ],
)
def test_impossible_plans_are_refused(options, message):
    options = {"tracklets": 4, **options}
    with pytest.raises(UserError, match=message):
        training_plan(make_table([10] * 20), seed=0, epoch=0, num_devices=1, **options)


def test_sizes_for_training_cost_little_padding(mars):
    table = mars["train"]
    for num_devices, most in ((1, 1.10), (8, 1.09)):
        sizes = training_buckets(
            table, 6, num_devices=num_devices, tracklets=4 * num_devices, max_frames=25
        )
        assert len(sizes) == 6
        assert sizes[-1] == 100
        plan = training_plan(
            table, seed=9, epoch=9, num_devices=num_devices, tracklets=4 * num_devices
        )
        counts = frame_counts(plan)
        computed = np.array(sizes)[np.searchsorted(sizes, counts.max(axis=1))].sum() * num_devices
        assert computed / counts.sum() < most


def test_sizes_fit_the_fullest_step_of_short_tracklets():
    assert training_buckets(make_table([3] * 9), 2, num_devices=1, tracklets=4) == (12,)


@pytest.mark.parametrize("num_devices", [1, 3])
def test_evaluation_sees_every_frame_once_in_order(num_devices):
    lengths = np.random.default_rng(0).integers(1, 120, 90)
    table = make_table(lengths)
    plan = evaluation_plan(table, num_devices=num_devices, frames_per_device=75)
    real = plan.frame_rows >= 0
    assert (np.sort(plan.frame_rows[real]) == np.arange(lengths.sum())).all()
    assert frame_counts(plan).max() <= 75
    assert plan.chunks is not None
    used = plan.tracklets >= 0
    assert (used == (plan.chunks >= 0)).all()
    assert (used == real.any(axis=3)).all()
    assert (used[:, :, 1:] <= used[:, :, :-1]).all()
    for s, d, b in np.argwhere(used):
        tracklet, chunk = plan.tracklets[s, d, b], plan.chunks[s, d, b]
        whole = np.arange(lengths.sum())[table.offsets[tracklet] : table.offsets[tracklet + 1]]
        expected = whole[25 * chunk : 25 * chunk + 25]
        assert plan.frame_rows[s, d, b][real[s, d, b]].tolist() == expected.tolist()
        assert real[s, d, b, : len(expected)].all()


def test_evaluation_of_some_tracklets_with_other_chunks():
    table = make_table([30, 7, 12, 90])
    plan = evaluation_plan(table, num_devices=1, chunk=10, frames_per_device=10, tracklets=[2, 0])
    assert set(plan.tracklets[plan.tracklets >= 0]) == {0, 2}
    assert plan.frame_rows.shape == (5, 1, 2, 10)
    real = plan.frame_rows[plan.frame_rows >= 0]
    assert sorted(real) == [*range(30), *range(37, 49)]


def test_evaluation_batches_of_mars_are_nearly_full(mars):
    plan = evaluation_plan(mars["test"], num_devices=1, frames_per_device=100)
    assert (plan.tracklets >= 0).sum() == 31273  # the published protocol's number of chunks
    counts = frame_counts(plan)
    assert counts.sum() == 657709
    assert counts.size * 100 < 1.004 * counts.sum()
    assert (counts == 100).mean() > 0.9
    assert plan.tracklets.shape[2] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [({"frames_per_device": 24}, "24"), ({"frames_per_device": 50, "tracklets": []}, "no track")],
)
def test_impossible_evaluation_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        evaluation_plan(make_table([30]), num_devices=1, **options)
