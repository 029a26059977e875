import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from batches_alike import same_batches, small_plan
from PIL import Image
from tensorflow_datasets.scripts.cli import build as tfds_build
from tensorflow_datasets.scripts.cli import cli_utils

from stf_jax.config import AugmentConfig
from stf_jax.data import video_reid_builder
from stf_jax.data.layout.partitions import load_layout
from stf_jax.data.pipeline import batches
from stf_jax.data.sampling import evaluation_plan
from stf_jax.errors import UserError
from stf_jax.prepare.layout import image_name, write_partitions


def write_layout(root, filename="partitions.pkl", people=6, seed=0):
    """Tracklets of 1 to 7 images of many sizes and both kinds, -1 and 0 among the people."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True, exist_ok=True)
    trainval, test, marks = [], [], []
    for person in range(-1, people):
        for camera in (1, 2):
            names = []
            ext = ("png", "jpg")[int(rng.integers(2))]
            for k in range(int(rng.integers(1, 8))):
                names.append(image_name(person, camera, 1, k, ext=ext))
                size = (int(rng.integers(4, 20)), int(rng.integers(4, 20)), 3)
                image = Image.fromarray(rng.integers(0, 255, size, np.uint8))
                image.save(root / "images" / names[-1])
            if person % 2 and person > 0:
                trainval += names
            else:
                test += names
                marks += [0 if camera == 1 and person > 0 else 1] * len(names)
    write_partitions(root, trainval=trainval, test=test, test_marks=marks, filename=filename)


def build(root, data_dir, config=None, **options):
    builder = video_reid_builder.VideoReid(data_dir=data_dir, config=config)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=root, **options)
    )
    return builder.data_path


def loaded(folder, subset, **options):
    table = getattr(load_layout(folder, subsets=(subset,), **options), subset)
    assert table is not None
    return table


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    write_layout(root / "layout")
    # Three files, so that the order over files is seen, too.
    return root / "layout", build(root / "layout", root / "data", num_shards=3)


@pytest.mark.parametrize("subset", ["trainval", "test"])
def test_the_same_tables_and_the_same_bytes_in_any_order(built, subset):
    layout, folder = built
    table = loaded(layout, subset)
    other = loaded(folder, subset, check_files=False)
    for field in ("names", "offsets", "person_ids", "cameras", "tracks", "marks", "labels"):
        np.testing.assert_array_equal(getattr(table, field), getattr(other, field))
    assert len(list(folder.glob(f"*{subset}*"))) == 3
    read = video_reid_builder.frame_reader(folder, subset, other)
    expected = [(layout / "images" / name.decode()).read_bytes() for name in table.names]
    rng = np.random.default_rng(1)
    orders = [rng.integers(0, table.num_frames, 50) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for rows, contents in zip(orders, pool.map(read, orders), strict=True):
            assert contents == [expected[row] for row in rows]


def test_examples_read_with_tfds_alone(built):
    layout, folder = built
    table = loaded(layout, "test")
    examples = list(tfds.data_source("video_reid", split="test", data_dir=folder.parents[2]))
    assert [example["person_id"] for example in examples] == table.person_ids.tolist()
    assert [example["mark"] for example in examples] == table.marks.tolist()
    assert [len(example["frames"]) for example in examples] == table.lengths.tolist()
    names = [name for example in examples for name in example["names"].tolist()]
    assert names == table.names.tolist()
    first = layout / "images" / names[0].decode()
    assert examples[0]["frames"][0] == first.read_bytes()


def test_training_gets_the_folders_batches_bit_for_bit(built):
    layout, folder = built
    options = {"height": 24, "width": 12, "buckets": (8, 16, 64), "seed": (1, 2), "threads": 3}
    options["host_augment"] = AugmentConfig(horizontal_crop=0.5, pad_ratio=2.0)
    for subset in ("trainval", "test"):
        table = loaded(layout, subset)
        other = loaded(folder, subset, check_files=False)
        read = video_reid_builder.frame_reader(folder, subset, other)
        plan = small_plan(table, subset, frames_per_device=12)
        same_batches(
            batches(table, plan, **options), batches(other, plan, read_frames=read, **options)
        )


def test_an_image_that_does_not_decode_is_named_or_skipped_as_in_the_folder(tmp_path, caplog):
    write_layout(tmp_path / "layout")
    name = sorted(os.listdir(tmp_path / "layout" / "images"))[-1]
    image = tmp_path / "layout" / "images" / name
    image.write_bytes(image.read_bytes()[:40])
    folder = build(tmp_path / "layout", tmp_path / "data")
    table = loaded(tmp_path / "layout", "trainval")
    plan = evaluation_plan(table, num_devices=1, chunk=4, frames_per_device=12)
    options = {"height": 24, "width": 12, "buckets": (16,)}
    other = loaded(folder, "trainval", check_files=False)
    read = video_reid_builder.frame_reader(folder, "trainval", other)
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        list(batches(other, plan, read_frames=read, **options))
    options["on_corrupt"] = "skip"
    same_batches(batches(table, plan, **options), batches(other, plan, read_frames=read, **options))


def test_the_command_names_the_data_set_as_the_folder(tmp_path, capsys):
    write_layout(tmp_path / "people", people=4)
    words = ["--layout", str(tmp_path / "people"), "--data-dir", str(tmp_path / "data")]
    assert video_reid_builder.main(words) == 0
    folder = tmp_path / "data" / "video_reid" / "people" / "1.0.0"
    assert capsys.readouterr().out.endswith(f"written: {folder}\n")
    for subset in ("trainval", "test"):
        table = loaded(folder, subset, check_files=False)
        video_reid_builder.frame_reader(folder, subset, table)
    assert video_reid_builder.main([*words, "--name", "a/b"]) == 2
    assert "cannot name the data set" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["own", "tfds"])
def test_the_commands_build_one_split_of_several(tmp_path, command, capsys):
    write_layout(tmp_path / "layout", "partitions_03.pkl", people=4)
    layout, data = str(tmp_path / "layout"), str(tmp_path / "data")
    if command == "own":
        words = ["--layout", layout, "--data-dir", data, "--name", "split_03"]
        words += ["--partitions", "partitions_03.pkl", "--subsets", "test"]
        assert video_reid_builder.main(words) == 0
        assert "test: 6 tracklets" in capsys.readouterr().out
        assert video_reid_builder.main(words) == 2
        assert "is built already" in capsys.readouterr().err
    else:  # `tfds build` without the other commands of tfds, which need apache-beam
        config = {"name": "split_03", "partitions": "partitions_03.pkl", "subsets": ["test"]}
        path = video_reid_builder.__file__
        words = ["tfds", path, "--config", json.dumps(config)]
        words += ["--manual_dir", layout, "--data_dir", data]
        cli_utils.make_flags_parser(tfds_build.Args, "")(words).execute()
    folder = tmp_path / "data" / "video_reid" / "split_03" / "1.0.0"
    assert load_layout(folder, check_files=False).trainval is None
    table = loaded(folder, "test", check_files=False)
    read = video_reid_builder.frame_reader(folder, "test", table)
    images = tmp_path / "layout" / "images"
    rows = np.arange(table.num_frames)
    assert read(rows) == [(images / name.decode()).read_bytes() for name in table.names]


def test_bad_input_is_reported(built, tmp_path):
    layout, folder = built
    table = loaded(folder, "test", check_files=False)
    with pytest.raises(UserError, match=r"has no dataset_info.json; expected the folder of a"):
        video_reid_builder.frame_reader(layout, "test", table)
    with pytest.raises(UserError, match="has no split val but test, trainval"):
        video_reid_builder.frame_reader(folder, "val", table)
    with pytest.raises(UserError, match=r"split trainval has 6 examples, but its .* 8 tracklets"):
        video_reid_builder.frame_reader(folder, "trainval", table)
    write_layout(tmp_path / "other", seed=5)
    other = loaded(tmp_path / "other", "test")
    with pytest.raises(UserError, match="example 0 of split test is not the tracklet of"):
        video_reid_builder.frame_reader(folder, "test", other)


def test_a_missing_image_stops_the_build(tmp_path):
    write_layout(tmp_path / "layout")
    names = sorted(os.listdir(tmp_path / "layout" / "images"))
    (tmp_path / "layout" / "images" / names[3]).unlink()
    with pytest.raises(UserError, match=r"1 of .* images are not in"):
        build(tmp_path / "layout", tmp_path / "data")
    folder = tmp_path / "data" / "video_reid" / "default" / "1.0.0"
    assert not (folder / "dataset_info.json").exists()
    shutil.rmtree(tmp_path / "data", ignore_errors=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from stf_jax.data import video_reid_builder

read, left = Path.read_bytes, [9]

def deadly(path):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path)

Path.read_bytes = deadly
video_reid_builder.main(sys.argv[1:])
"""


def test_a_killed_build_leaves_nothing_that_looks_whole_and_is_built_anew(tmp_path, capsys):
    write_layout(tmp_path / "people")
    words = ["--layout", str(tmp_path / "people"), "--data-dir", str(tmp_path / "data")]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    parent = tmp_path / "data" / "video_reid" / "people"
    (left,) = parent.iterdir()
    assert left.name.startswith("incomplete.")
    assert video_reid_builder.main(words) == 0
    assert [path.name for path in parent.iterdir()] == ["1.0.0"]
    table = loaded(parent / "1.0.0", "test", check_files=False)
    read = video_reid_builder.frame_reader(parent / "1.0.0", "test", table)
    images = tmp_path / "people" / "images"
    assert read(np.arange(table.num_frames)) == [
        (images / name.decode()).read_bytes() for name in table.names
    ]


def test_what_cannot_be_written_or_read_is_one_line(tmp_path, capsys, monkeypatch):
    write_layout(tmp_path / "people")
    (tmp_path / "file").write_text("")
    words = ["--layout", str(tmp_path / "people"), "--data-dir"]
    assert video_reid_builder.main([*words, str(tmp_path / "file" / "data")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'file' / 'data'}: cannot be written (" in error.splitlines()[-1]
    assert "Traceback" not in error

    def vanish(root, *args, **options):
        layout = load_layout(root, *args, **options)
        for path in sorted((root / "images").iterdir())[:1]:
            path.unlink()
        monkeypatch.setattr(video_reid_builder, "load_layout", no_check)
        return layout

    def no_check(root, *args, **options):
        return load_layout(root, *args, **options | {"check_files": False})

    monkeypatch.setattr(video_reid_builder, "load_layout", vanish)
    assert video_reid_builder.main([*words, str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "people/1.0.0: cannot be built (" in error
    assert "No such file or directory" in error
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
    assert not list((tmp_path / "data" / "video_reid" / "people").iterdir())
