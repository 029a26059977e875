"""What a run is trained on, and what is noticed when it is something else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_tracklets import draw

from stf_jax.config import Config, changed, to_json
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.evaluation.scores import training_and_test
from stf_jax.run.data_facts import data_changes, data_facts, scored_on, trained_on
from stf_jax.run.run_files import write_run_files


@pytest.fixture
def table(tmp_path: Path) -> TrackletTable:
    return draw(tmp_path / "set").table


def changes(table: TrackletTable, other: TrackletTable, *, files: bool = True) -> list[str]:
    was, now = data_facts(table, files=files), data_facts(other, files=True)
    return data_changes({"trainval": was, "test": was}, {"trainval": now})


def test_the_same_data_elsewhere_are_the_same(table: TrackletTable, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    table.image_dir.rename(moved)
    assert changes(replace(table, image_dir=moved), replace(table, image_dir=moved)) == []


def test_what_differs_is_named(table: TrackletTable) -> None:
    last = int(table.offsets[-2])
    n = table.num_tracklets
    fewer = TrackletTable(
        table.image_dir,
        table.names[:last],
        table.offsets[:-1],
        *(getattr(table, f)[:-1] for f in ("person_ids", "cameras", "tracks", "marks", "labels")),
    )
    (line,) = changes(table, fewer)
    assert line.startswith(f"trainval: {n} -> {n - 1} tracklets, {table.num_frames} -> {last} fr")
    turned = replace(table, cameras=table.cameras[::-1].copy() + 1)
    assert changes(table, turned) == [
        "trainval: other persons, cameras, lengths or marks of the tracklets"
    ]
    was = data_facts(table, files=True)
    for name in table.names.tolist():
        (table.image_dir / name.decode()).write_bytes(name[::-1])
    now = data_facts(table, files=True)
    text = "test: other contents of images (of 100 that are compared)"
    assert data_changes({"test": was}, {"test": now}) == [text]
    assert changes(table, table, files=False) == []  # nothing to compare with
    (table.image_dir / table.names[0].decode()).unlink()
    assert data_facts(table, files=True) != now
    assert np.isscalar(now["names"])


def test_what_was_trained_on_and_what_is_scored_on(table: TrackletTable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert trained_on(run) is None
    other = {"data.root": "data/one", "data.partitions": "partitions_03.pkl"}
    config = changed(Config(), {**other, "data.train_subset": "train"})
    facts = {"persons": 1234, "tracklets": 2, "frames": 3, "names": 4, "structure": 5}
    write_run_files(run, to_json(config), {}, {"train": facts, "test": dict.fromkeys(facts, 9)})
    trained, scored = trained_on(run), scored_on(Config().data, table)
    assert trained == {
        "data": "data/one",
        "partitions": "partitions_03.pkl",
        "subset": "train",
        "tracklets": 2,
        "frames": 3,
        "persons": 1234,
    }
    persons = len(set(table.person_ids.tolist()))
    assert scored["subset"] == "test"
    assert training_and_test(trained, scored) == (
        "Trained on data/one (partitions_03.pkl, train: 1,234 persons, 2 tracklets); scored on "
        f"data/mars (test: {persons} persons, {table.num_tracklets} tracklets)."
    )
    write_run_files(run, to_json(config), {})  # as older runs did
    assert training_and_test(trained_on(run), scored).startswith(
        "Trained on data/one (partitions_03.pkl, train); scored on data/mars (test: "
    )
    assert training_and_test(None, scored).startswith("Trained on data that are not known; scored")
