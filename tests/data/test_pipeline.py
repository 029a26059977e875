"""Batches against Pillow and a plain bilinear resize; resuming, threads, unreadable images."""

import errno
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from stf_jax.config import AugmentConfig
from stf_jax.data import pipeline
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.pipeline import batches
from stf_jax.data.sampling import Plan, evaluation_plan, training_plan
from stf_jax.errors import UserError

HEIGHT, WIDTH = 24, 8
LENGTHS = (3, 1, 7, 4, 6, 2)
SIZES = [(30, 12), (24, 8), (11, 17), (26, 20), (64, 30), (37, 8), (16, 8)]  # height, width
FILL = np.array([124, 117, 104])


def picture(rng, height, width):
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def make_table(folder, names, lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n = len(lengths)
    return TrackletTable(
        image_dir=folder,
        names=np.array([name.encode() for name in names]),
        offsets=offsets,
        person_ids=np.arange(n) + 10,
        cameras=np.ones(n, np.int64),
        tracks=np.arange(n),
        marks=np.full(n, -1, np.int8),
        labels=np.arange(n),
    )


def write_images(folder):
    rng = np.random.default_rng(0)
    names = []
    for i in range(sum(LENGTHS)):
        names.append(f"{i:04d}_1000_{i:04d}.{'jpg' if i % 2 else 'png'}")
        picture(rng, *SIZES[i % len(SIZES)]).save(folder / names[-1])
    return make_table(folder, names, LENGTHS)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def own_table(tmp_path):
    return write_images(tmp_path)


def read(table, row):
    with Image.open(table.image_dir / table.names[row].decode()) as image:
        return np.asarray(image.convert("RGB"))


def bilinear(image, height=HEIGHT, width=WIDTH):
    """Bilinear resize in float64, a pixel at a time; pixel centres at halves."""
    result = np.zeros((height, width, 3))
    for y, x in np.ndindex(height, width):
        at = np.array([(y + 0.5) * image.shape[0] / height, (x + 0.5) * image.shape[1] / width])
        at = np.clip(at - 0.5, 0, np.array(image.shape[:2]) - 1)
        (top, left), (down, right) = np.floor(at).astype(int), at - np.floor(at)
        bottom, other = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
        upper = (1 - right) * image[top, left] + right * image[top, other]
        lower = (1 - right) * image[bottom, left] + right * image[bottom, other]
        result[y, x] = (1 - down) * upper + down * lower
    return result


def collect(table, plan, **options):
    options = {"height": HEIGHT, "width": WIDTH, "buckets": (4, 8, 16, 32), **options}
    return list(batches(table, plan, **options))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def tracklet_rows(batch, plan, step):
    """Rows of the table that a batch's tracklets are of, -1 for one without frames."""
    seen = [
        np.isin(np.arange(labels.size), own)
        for own, labels in zip(batch.tracklet, batch.labels, strict=True)
    ]
    return np.where(seen, plan.tracklets[step], -1)


def small_plan(table, num_devices=2, epoch=0):
    return training_plan(
        table,
        seed=0,
        epoch=epoch,
        num_devices=num_devices,
        tracklets=3,
        min_frames=2,
        max_frames=5,
    )


@pytest.mark.parametrize("num_devices", [1, 2])
def test_batches_hold_the_planned_frames(table, num_devices):
    plan = evaluation_plan(table, num_devices=num_devices, chunk=4, frames_per_device=7)
    found = collect(table, plan, buckets=(4, 7, 9))
    steps, _, num_tracklets, _ = plan.frame_rows.shape
    assert len(found) == steps
    for s, batch in enumerate(found):
        most = max((plan.frame_rows[s, d] >= 0).sum() for d in range(num_devices))
        size = 4 if most <= 4 else 7
        assert batch.images.shape == (num_devices, size, HEIGHT, WIDTH, 3)
        assert batch.images.dtype == np.uint8
        assert (tracklet_rows(batch, plan, s) == plan.tracklets[s]).all()
        expected = np.where(plan.tracklets[s] >= 0, table.labels[plan.tracklets[s]], -1)
        assert (batch.labels == expected).all()
        assert batch.labels.dtype == np.int32
        for d in range(num_devices):
            planned = [
                (b, t, row) for (b, t), row in np.ndenumerate(plan.frame_rows[s, d]) if row >= 0
            ]
            for m in range(size):
                if m < len(planned):
                    b, t, row = planned[m]
                    assert (batch.tracklet[d, m], batch.slot[d, m]) == (b, t)
                    difference = np.abs(batch.images[d, m] - bilinear(read(table, row)))
                    assert difference.max() < 0.501
                else:
                    assert (batch.tracklet[d, m], batch.slot[d, m]) == (num_tracklets, 0)
                    assert not batch.images[d, m].any()


def as_png(mode):
    def convert(image):
        if mode == "PA":
            image = image.convert("P")
            image.info["transparency"] = 3
            return image
        if mode == "I;16":
            return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        alpha = Image.linear_gradient("L").resize(image.size)
        image = image.convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(alpha)
        return image

    return convert


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "PA", "I;16"])
def test_png_of_any_mode_becomes_rgb(tmp_path, mode):
    image = as_png(mode)(picture(np.random.default_rng(1), 20, 12))
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        if mode == "I;16":
            expected = np.repeat((np.asarray(stored) // 257)[..., None], 3, axis=2)
        else:
            expected = np.asarray(stored.convert("RGBA"))[..., :3]
    table = make_table(tmp_path, ["a.png"], [1])
    (batch,) = collect(table, evaluation_plan(table, num_devices=1, frames_per_device=25))
    assert np.abs(batch.images[0, 0] - bilinear(expected)).max() < 0.501


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_any_mode_becomes_rgb(tmp_path, mode):
    picture(np.random.default_rng(2), 40, 16).convert(mode).save(tmp_path / "A.JPEG", quality=90)
    table = make_table(tmp_path, ["A.JPEG"], [1])
    (batch,) = collect(table, evaluation_plan(table, num_devices=1, frames_per_device=25))
    # Converting CMYK rounds differently here and there.
    allowed = 2 if mode == "CMYK" else 0.501
    assert np.abs(batch.images[0, 0] - bilinear(read(table, 0))).max() < allowed


def test_threads_prefetch_and_restart_change_nothing(table):
    plan = small_plan(table, num_devices=1)
    options = {"host_augment": AugmentConfig(horizontal_crop=0.7, pad_ratio=3.0), "seed": (3, 1)}
    expected = collect(table, plan, threads=1, **options)
    assert len(expected) == 2
    assert_same(collect(table, plan, threads=5, prefetch=7, **options), expected)
    assert_same(collect(table, plan, start_step=1, **options), expected[1:])
    assert collect(table, plan, start_step=2, **options) == []


def frames_of(batch):
    """Image and label by (number of the tracklet in the step, slot), of all devices."""
    return {
        (batch.global_index[d, b], batch.slot[d, m]): (batch.images[d, m].tolist(), labels[b])
        for d, labels in enumerate(batch.labels)
        for m, b in enumerate(batch.tracklet[d])
        if b < len(labels)
    }


def test_devices_share_the_frames_and_crops_of_one_device(table):
    sampling = {"sampler": "identity", "tracklets": 4, "tracklets_per_identity": 1}
    options = {"host_augment": AugmentConfig(horizontal_crop=0.7), "seed": (3, 1)}
    one, two, four = (
        [frames_of(batch) for batch in collect(table, plan, **options)]
        for plan in (
            training_plan(table, seed=0, epoch=1, num_devices=n, max_frames=5, **sampling)
            for n in (1, 2, 4)
        )
    )
    assert len(one) == 2
    assert one == two == four


def test_frames_of_a_tracklet_may_be_cropped_alike(table):
    """As each tracklet's first frame is where every frame is drawn for, on any devices."""
    options = AugmentConfig(horizontal_crop=0.7)
    for devices in (1, 2):
        plan = training_plan(table, seed=0, epoch=1, num_devices=devices, tracklets=4)
        shares = pipeline._kept_shares(plan, options, (3, 1))
        alike = pipeline._kept_shares(plan, replace(options, per="tracklet"), (3, 1))
        assert (alike == shares[..., :1]).all()
        assert len(np.unique(alike)) > 1


def test_hosts_get_their_share_of_the_devices(table):
    plan = evaluation_plan(table, num_devices=3, chunk=4, frames_per_device=5)
    options = {"host_augment": AugmentConfig(horizontal_crop=1.0), "buckets": (2, 3, 4, 5)}
    whole = collect(table, plan, **options)
    for devices in (slice(0, 1), slice(1, 3)):
        share = collect(table, plan, devices=devices, **options)
        assert_same(share, [jax.tree.map(lambda v, d=devices: v[d], batch) for batch in whole])


def test_horizontal_crop_and_padding(table):
    plan = evaluation_plan(table, num_devices=1, chunk=25, frames_per_device=25)
    host = AugmentConfig(horizontal_crop=0.6, horizontal_crop_keep=(0.4, 0.8), pad_ratio=3.0)
    found = collect(table, plan, host_augment=host, seed=5)
    again = collect(table, plan, host_augment=host, seed=6)
    shares = pipeline._kept_shares(plan, host, 5)
    assert shares.shape == plan.frame_rows.shape
    whole = 0
    for s, batch in enumerate(found):
        for m, (b, t) in enumerate(np.argwhere(plan.frame_rows[s, 0] >= 0)):
            image = read(table, plan.frame_rows[s, 0, b, t])
            height, width = image.shape[:2]
            share = shares[s, 0, b, t]
            assert share == 1 or 0.4 <= share <= 0.8
            whole += share == 1
            if height > 1.5 * width:
                image = image[: round(float(height * share))]
            height, width = image.shape[:2]
            tall, wide = max(height, round(3 * width)), max(width, round(height / 3))
            padded = np.tile(FILL, (tall, wide, 1))
            top, left = (tall - height) // 2, (wide - width) // 2
            padded[top : top + height, left : left + width] = image
            assert np.abs(batch.images[0, m] - bilinear(padded)).max() < 0.501
    assert 0.15 * table.num_frames < whole < 0.75 * table.num_frames
    assert any((a.images != b.images).any() for a, b in zip(found, again, strict=True))


def test_share_of_cropped_images():
    plan = Plan(np.zeros((100, 2, 10), np.int64), np.zeros((100, 2, 10, 5), np.int64))
    options = AugmentConfig(horizontal_crop=0.3)
    shares = pipeline._kept_shares(plan, options, 0)
    cropped = shares[shares < 1]
    assert abs(len(cropped) / shares.size - 0.3) < 0.02
    assert 0.5 <= cropped.min() < 0.51
    assert abs(cropped.mean() - 0.75) < 0.01
    assert (pipeline._kept_shares(plan, AugmentConfig(), 0) == 1).all()


def damage(table, rows):
    for row in rows:
        path = table.image_dir / table.names[row].decode()
        path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("row", [0, 4, 17, 22])
def test_an_unreadable_image_is_named(own_table, row):
    damage(own_table, [row])
    plan = evaluation_plan(own_table, num_devices=1, chunk=4, frames_per_device=4)
    stream = batches(own_table, plan, height=HEIGHT, width=WIDTH, buckets=(4,))
    with pytest.raises(UserError, match=own_table.names[row].decode()) as error:
        list(stream)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert "{" not in message
    assert "[Op" not in message


def test_a_missing_image_is_named(own_table):
    (own_table.image_dir / own_table.names[5].decode()).unlink()
    plan = evaluation_plan(own_table, num_devices=1, frames_per_device=25)
    with pytest.raises(UserError, match=f"{own_table.names[5].decode()}: .*no such file"):
        collect(own_table, plan)


@pytest.mark.parametrize("threads", [1, 4])
def test_unreadable_images_can_be_left_out(own_table, caplog, threads):
    plan = evaluation_plan(own_table, num_devices=2, chunk=4, frames_per_device=6)
    expected = collect(own_table, plan)
    bad = [0, 3, 5, 21, 22]  # 3 is all of the second tracklet, 21 and 22 all of the last
    damage(own_table, bad)
    with caplog.at_level(logging.WARNING):
        found = collect(own_table, plan, on_corrupt="skip", threads=threads)
    lost = []
    for s, (batch, whole) in enumerate(zip(found, expected, strict=True)):
        assert batch.images.shape == whole.images.shape
        found_rows = tracklet_rows(batch, plan, s)
        for d in range(2):
            rows = []
            for m in np.flatnonzero(whole.tracklet[d] < plan.tracklets.shape[2]):
                row = plan.frame_rows[s, d, whole.tracklet[d, m], whole.slot[d, m]]
                if row not in bad:
                    rows.append(m)
            n = len(rows)
            for name in ("images", "tracklet", "slot"):
                ours, theirs = getattr(batch, name), getattr(whole, name)
                np.testing.assert_array_equal(ours[d, :n], theirs[d, rows])
            assert (batch.tracklet[d, n:] == plan.tracklets.shape[2]).all()
            assert not batch.images[d, n:].any()
            for b, tracklet in enumerate(plan.tracklets[s, d]):
                if tracklet in (1, 5):
                    lost.append(tracklet)
                    assert found_rows[d, b] == batch.labels[d, b] == -1
                else:
                    assert found_rows[d, b] == tracklet
    assert sorted(lost) == [1, 5]
    text = caplog.text
    for row in bad:
        assert own_table.names[row].decode() in text
    assert "5 of 23 images" in text


def test_a_network_that_is_gone_loses_no_frames(table):
    """What cannot be read now may be whole: it is not skipped."""
    plan = evaluation_plan(table, num_devices=1, chunk=4, frames_per_device=8)

    def read(rows: np.ndarray) -> list[bytes]:
        if rows[0] == 5:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return [
            (table.image_dir / os.fsdecode(bytes(table.names[row]))).read_bytes() for row in rows
        ]

    with pytest.raises(OSError, match="Stale file handle") as refused:
        collect(table, plan, on_corrupt="skip", read_frames=read)
    assert refused.value.filename == str(table.image_dir / os.fsdecode(bytes(table.names[5])))


def test_all_images_unreadable(own_table):
    damage(own_table, range(23))
    plan = evaluation_plan(own_table, num_devices=1, frames_per_device=25)
    for batch in collect(own_table, plan, on_corrupt="skip"):
        assert (batch.labels == -1).all()
        assert (batch.tracklet == plan.tracklets.shape[2]).all()


def collect_for_training(table, **options):
    plan = evaluation_plan(table, num_devices=1, chunk=4, frames_per_device=6)
    return collect(table, plan, on_corrupt="skip", **options)


def test_no_more_than_a_share_of_an_epoch_may_be_lost(own_table):
    bad = [0, 5, 21]
    damage(own_table, bad)
    assert len(collect_for_training(own_table, max_lost=3 / 23)) == 5
    for share in (0.0, 0.12):
        with pytest.raises(UserError, match=r": [13] of 23 images of an epoch .*max_lost"):
            collect_for_training(own_table, max_lost=share)


def test_a_step_that_loses_all_its_images_is_an_error(own_table):
    plan = evaluation_plan(own_table, num_devices=1, chunk=4, frames_per_device=6)
    damage(own_table, plan.frame_rows[2][plan.frame_rows[2] >= 0])
    with pytest.raises(UserError, match=r"none of the \d+ images of a step can be decoded"):
        collect_for_training(own_table, max_lost=0.99)
    assert len(collect_for_training(own_table)) == 5


@pytest.mark.parametrize("kind", ["missing", "a folder"])
def test_what_is_not_an_images_fault_is_never_skipped(own_table, kind):
    path = own_table.image_dir / own_table.names[5].decode()
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    with pytest.raises(UserError, match=f"{path.name}: cannot be read"):
        collect_for_training(own_table)


def test_a_failing_source_is_never_skipped(own_table):
    def read(rows):
        if 7 in rows:
            raise OSError("the disk is gone")
        return [(own_table.image_dir / own_table.names[r].decode()).read_bytes() for r in rows]

    with pytest.raises(UserError, match=r"cannot be read .*the disk is gone"):
        collect_for_training(own_table, read_frames=read)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": (2, 5)}, "2, 5 is too small"),
        ({"on_corrupt": "drop"}, "'skip'"),
    ],
)
def test_impossible_requests_are_refused_at_once(table, options, message):
    plan = evaluation_plan(table, num_devices=1, frames_per_device=25)
    with pytest.raises(UserError, match=re.escape(message)):
        batches(table, plan, **{"height": 8, "width": 8, "buckets": (25,), **options})


def test_padding_that_would_fill_the_memory_is_refused_by_the_image(tmp_path):
    Image.fromarray(np.zeros((1, 30_000, 3), np.uint8)).save(tmp_path / "0010_1000_0000.png")
    table = make_table(tmp_path, ["0010_1000_0000.png"], [1])
    plan = evaluation_plan(table, num_devices=1, frames_per_device=25)
    options = {"height": 8, "width": 8, "buckets": (25,)}
    assert len(list(batches(table, plan, **options))) == 1
    wide = AugmentConfig(pad_ratio=2.0)
    with pytest.raises(UserError, match=r"0010_1000_0000\.png.*padded to the ratio 2 \(more than"):
        list(batches(table, plan, **options, host_augment=wide))


def test_tensorflow_stays_in_its_rooms():
    package = Path(pipeline.__file__).parents[1]
    users = {
        path.name
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) tensorflow", path.read_text(), re.MULTILINE)
    }
    assert "pipeline.py" in users
    assert users <= {"pipeline.py", "video_reid_builder.py"}
    assert pipeline.tf.config.get_visible_devices("GPU") == []
