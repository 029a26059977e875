"""Decoded frames: the folder's batches bit for bit, resumed, checked, refused where they differ."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches_alike import same_batches, small_plan
from PIL import Image

from stf_jax.config import AugmentConfig, DataConfig
from stf_jax.data import decode as decode_module
from stf_jax.data.decode import decode, main
from stf_jax.data.decoded import check, open_decoded
from stf_jax.data.layout.partitions import load_layout
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.pipeline import batches as folder_batches
from stf_jax.data.sampling import evaluation_plan
from stf_jax.data.source import batches, frame_source, open_layout
from stf_jax.errors import UserError
from stf_jax.prepare.layout import image_name, write_partitions

H, W = 32, 16
OPTIONS: dict[str, Any] = {"height": H, "width": W, "buckets": (8, 16), "seed": (1, 2)}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "BLOCK", 5)


def make_layout(root: Path) -> Path:
    """Two splits that share images, of many sizes and both kinds; 4 people, 2 cameras."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    names: dict[int, list[tuple[str, int]]] = {}
    for person in range(4):
        for camera in (1, 2):
            for k in range(int(rng.integers(2, 7))):
                name = image_name(person, camera, 1, k, ext=("png", "jpg")[person % 2])
                size = (int(rng.integers(8, 60)), int(rng.integers(8, 40)), 3)
                Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(root / "images" / name)
                names.setdefault(person, []).append((name, camera))
    for number, (training, ranked) in enumerate([((0, 1), (2, 3)), ((2, 1), (0, 3))]):
        test = [name for person in ranked for name in names[person]]
        write_partitions(
            root,
            trainval=[name for person in training for name, _ in names[person]],
            test=[name for name, _ in test],
            test_marks=[camera - 1 for _, camera in test],
            filename=("partitions.pkl", "partitions_01.pkl")[number],
        )
    return root


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return make_layout(tmp_path / "set")


def table_of(root: Path, subset: str, **options: Any) -> TrackletTable:
    table = getattr(load_layout(root, **options), subset)
    assert table is not None
    return table


@pytest.mark.parametrize("pad_ratio", [0.0, 2.5])
@pytest.mark.parametrize("partitions", ["partitions.pkl", "partitions_01.pkl"])
def test_batches_are_those_of_the_files_bit_for_bit(
    layout: Path, tmp_path: Path, partitions: str, pad_ratio: float
) -> None:
    output = tmp_path / "decoded"
    files = ["partitions.pkl", "partitions_01.pkl"]
    options: dict[str, Any] = {"partitions": files, "pad_ratio": pad_ratio}
    count = decode(layout, output, height=H, width=W, **options)
    assert count == len(os.listdir(layout / "images"))  # each once, of two splits
    data = DataConfig(root=str(output), partitions=partitions, source="decoded")
    used = {**OPTIONS, "host_augment": AugmentConfig(pad_ratio=pad_ratio)}
    for subset in ("trainval", "test"):
        table = table_of(layout, subset, partitions=partitions)
        plan = small_plan(table, subset, frames_per_device=8)
        other = getattr(open_layout(data), subset)
        read = frame_source(data, subset, other)
        for start in (0, 1):
            where = {"start_step": start, "devices": slice(0, 1)}
            ours = batches(other, plan, read_frames=read, **used, **where)
            assert same_batches(ours, folder_batches(table, plan, **used, **where)) > 0
        assert same_batches(
            batches(other, plan, read_frames=read, **used), folder_batches(table, plan, **used)
        )
        assert read is not None  # and pages get the frames as PNG files
        (first, last) = read(np.array([0, table.num_frames - 1]))
        frames = open_decoded(output, other)(np.arange(table.num_frames))
        assert (first, last) == (frames[0], frames[-1])
        batch = next(batches(other, plan, read_frames=read, **used))
        row = plan.frame_rows[0][plan.frame_rows[0] >= 0][0]
        shown = np.asarray(Image.open(io.BytesIO(frames[row])))
        np.testing.assert_array_equal(shown, batch.images[0, 0])


def test_one_that_does_not_decode_is_named_or_left_out_as_from_the_folder(
    layout: Path, tmp_path: Path
) -> None:
    table = table_of(layout, "trainval")
    name = table.names[3].decode()
    image = layout / "images" / name
    image.write_bytes(image.read_bytes()[:30])
    with pytest.raises(UserError, match=rf"{name}: cannot be read"):
        decode(layout, tmp_path / "decoded", height=H, width=W)
    decode(layout, tmp_path / "skipped", height=H, width=W, on_corrupt="skip")
    read = open_decoded(tmp_path / "skipped", table)
    assert list(read.about["lost"]) == [name]
    plan = evaluation_plan(table, num_devices=1, chunk=4, frames_per_device=8)
    with pytest.raises(UserError, match=rf"{name}: cannot be read \(does not decode"):
        list(batches(table, plan, read_frames=read, **OPTIONS))
    skip = {**OPTIONS, "on_corrupt": "skip"}
    ours = batches(table, plan, read_frames=read, **skip)
    assert same_batches(ours, folder_batches(table, plan, **skip)) > 1
    with pytest.raises(UserError, match=r"1 of \d+ images of an epoch cannot be decoded"):
        list(batches(table, plan, read_frames=read, **skip, max_lost=0.01))


def test_what_was_interrupted_is_resumed_where_it_stopped(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, output = tmp_path / "straight", tmp_path / "decoded"
    decode(layout, straight, height=H, width=W)
    counted: list[int] = []

    def interrupted(stop: int | None) -> Callable[..., Any]:
        def stream(parts: Any, done: int, *rest: Any) -> Any:
            counted.append(done)
            for number, item in enumerate(original(parts, done, *rest)):
                if number == stop:
                    raise KeyboardInterrupt
                yield item

        return stream

    original = decode_module._decoded  # pyright: ignore[reportPrivateUsage]
    for stop in (3, 2, None):
        monkeypatch.setattr(decode_module, "_decoded", interrupted(stop))
        if stop is None:
            decode(layout, output, height=H, width=W)
        else:
            with pytest.raises(KeyboardInterrupt):
                decode(layout, output, height=H, width=W)
            with pytest.raises(UserError, match=r"decoded\.json: cannot be read"):
                open_decoded(output, table_of(layout, "test"))
            # What came after the last note does not count.
            with open(output / "frames.part", "ab") as file:
                file.write(b"half a frame")
    assert counted[0] == 0
    assert counted[1] == 15 < counted[2]
    for name in sorted(os.listdir(straight)):
        assert (output / name).read_bytes() == (straight / name).read_bytes(), name
    assert set(os.listdir(output)) == set(os.listdir(straight))
    monkeypatch.setattr(decode_module, "_decoded", None)
    assert decode(layout, output, height=H, width=W) > 0  # whole: nothing is done again
    (output / "names.npy").unlink()
    with pytest.raises(UserError, match=r"names\.npy: cannot be read"):
        decode(layout, output, height=H, width=W)


def test_what_does_not_fit_is_refused_in_a_line(
    layout: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "decoded"
    assert main([str(layout), str(output), "--height", str(H), "--width", str(W)]) == 0
    assert main([str(layout), str(output), "--check"]) == 0
    table = table_of(layout, "trainval")
    plan = small_plan(table, "trainval", frames_per_device=8)
    read = open_decoded(output, table)
    for changes, expected in (
        ({"height": 64}, r"decoded for height, width and pad_ratio 32, 16, 0.0; the config has 64"),
        ({"host_augment": AugmentConfig(pad_ratio=2)}, "pad_ratio"),
        ({"host_augment": AugmentConfig(horizontal_crop=0.5)}, r"augment\.horizontal_crop"),
        ({"on_corrupt": "ignore"}, "on_corrupt 'ignore'"),
        ({"buckets": (2,)}, "too small"),
    ):
        with pytest.raises(UserError, match=expected):
            list(batches(table, plan, read_frames=read, **{**OPTIONS, **changes}))
    # The images of the other split that are in neither list were not decoded.
    other = table_of(layout, "test")
    shutil.copytree(layout, tmp_path / "small")
    write_partitions(
        tmp_path / "small",
        trainval=[name.decode() for name in table.names.tolist()],
        test=[],
        test_marks=[],
    )
    decode(tmp_path / "small", tmp_path / "few", height=H, width=W)
    with pytest.raises(UserError, match=rf"{other.num_frames} of {other.num_frames} images were"):
        open_decoded(tmp_path / "few", other)

    capsys.readouterr()
    for words, expected in (
        ([str(layout), str(output), "--height", "64", "--width", "16"], "holds other images"),
        ([str(layout), str(layout), "--height", "64", "--width", "16"], "is not empty"),
        (
            [str(tmp_path / "none"), str(tmp_path / "x"), "--height", "64", "--width", "16"],
            "no such",
        ),
        ([str(layout), str(tmp_path / "few" / "x"), "--check"], "decoded.json: cannot be read"),
    ):
        assert main(words) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["bit", "short", "header", "about", "other"])
def test_damage_is_found(layout: Path, tmp_path: Path, damage: str) -> None:
    output = tmp_path / "decoded"
    decode(layout, output, height=H, width=W)
    table = table_of(layout, "trainval")
    frames = output / "frames.npy"
    contents = bytearray(frames.read_bytes())
    if damage == "bit":
        contents[-1] ^= 1
    elif damage == "short":
        del contents[-H * W * 3 :]
    elif damage == "header":
        contents[:8] = b"anything"
    elif damage == "about":
        (output / "decoded.json").write_text("[1]")
    else:
        about = json.loads((output / "decoded.json").read_text())
        (output / "decoded.json").write_text(json.dumps({**about, "height": 2 * H}))
    frames.write_bytes(contents)
    if damage == "bit":  # which only the checksums tell
        assert open_decoded(output, table).frames.shape[1:] == (H, W, 3)
        with pytest.raises(UserError, match="not those that were written"):
            check(output)
    else:
        with pytest.raises(UserError, match=r"decode|expected"):
            open_decoded(output, table)


def test_a_full_disk_is_a_line_and_loses_nothing(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(UserError, match=r"GB are needed, 0\.0 GB are free"):
            decode(layout, tmp_path / "decoded", height=H, width=W)
    assert decode(layout, tmp_path / "decoded", height=H, width=W) > 0
