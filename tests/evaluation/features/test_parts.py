"""Features part by part: nothing is extracted twice, and nothing of another model is taken."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from origins import make_origin

from stf_jax import hosts
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.errors import UserError
from stf_jax.evaluation.features.feature_files import TrackletFeatures
from stf_jax.evaluation.features.parts import extract_in_parts, table_parts

LENGTHS = (3, 1, 4, 1, 5, 9)


def make_table(lengths: tuple[int, ...] = LENGTHS) -> TrackletTable:
    count = len(lengths)
    numbers = np.arange(count)
    return TrackletTable(
        image_dir=Path("images"),
        names=np.array([f"{k}.png" for k in range(sum(lengths))], "S"),
        offsets=np.cumsum([0, *lengths]),
        person_ids=numbers + 10,
        cameras=numbers % 2,
        tracks=numbers,
        marks=np.full(count, -1, np.int8),
        labels=numbers,
    )


class Extract:
    """Features that name their tracklet's person; stops at call `stop`."""

    def __init__(self, stop: int = 99) -> None:
        self.calls: list[list[int]] = []
        self.stop = stop

    def __call__(self, table: TrackletTable, label: str) -> TrackletFeatures:
        if len(self.calls) == self.stop:
            raise KeyboardInterrupt
        self.calls.append(table.person_ids.tolist())
        frames = np.array([float(name.split(b".")[0]) for name in table.names.tolist()], np.float32)
        features = np.eye(8, dtype=np.float32)[table.person_ids % 8]
        return TrackletFeatures(features, frames, frames, frames, table.lengths)


def same(found: TrackletFeatures, wanted: TrackletFeatures) -> None:
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_what_was_done_before_a_kill_is_not_done_again(tmp_path: Path) -> None:
    table, origin = make_table(), make_origin()
    wanted = Extract()(table, "")
    killed = Extract(stop=2)
    with pytest.raises(KeyboardInterrupt):
        extract_in_parts(killed, table, origin, tmp_path / "parts", frames=5)
    assert killed.calls == [[10, 11, 12], [13, 14]]
    again = Extract()
    same(extract_in_parts(again, table, origin, tmp_path / "parts", frames=5), wanted)
    assert again.calls == [[15]]


@pytest.mark.parametrize("change", ["damaged", "other model", "other frames"])
def test_a_part_that_is_not_of_this_is_done_again(tmp_path: Path, change: str, caplog) -> None:
    table, origin = make_table(), make_origin()
    extract_in_parts(Extract(), table, origin, tmp_path, frames=5)
    if change == "damaged":
        (tmp_path / "00001.npz").write_bytes(b"PK")
    if change == "other model":
        origin = make_origin(step=9)
    if change == "other frames":
        table.names[0] = b"8.png"
    again = Extract()
    same(extract_in_parts(again, table, origin, tmp_path, frames=5), Extract()(table, ""))
    redone = {"damaged": [[13, 14]], "other frames": [[10, 11, 12]]}
    assert again.calls == redone.get(change, [[10, 11, 12], [13, 14], [15]])
    assert "is done again" in caplog.text


def test_a_part_that_another_host_does_not_see_is_an_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hosts, "from_first", lambda make: True)
    with pytest.raises(UserError, match=r"00000\.npz: not what the first host has"):
        extract_in_parts(Extract(), make_table(), make_origin(), tmp_path, frames=5)


def test_a_small_table_writes_nothing(tmp_path: Path) -> None:
    extract = Extract()
    extract_in_parts(extract, make_table(), make_origin(), tmp_path / "parts")
    assert extract.calls == [[10, 11, 12, 13, 14, 15]]
    assert not list(tmp_path.iterdir())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 30))
def test_parts_are_the_table(lengths: list[int], frames: int) -> None:
    table = make_table(tuple(lengths))
    parts = list(table_parts(table, frames))
    assert all(part.num_frames >= frames for part in parts[:-1])
    # None could have ended earlier.
    assert all(part.num_frames - part.lengths[-1] < frames for part in parts)
    for name in ("names", "person_ids", "cameras", "tracks", "marks", "labels", "lengths"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(table, name))
    assert all(part.offsets[0] == 0 and part.offsets[-1] == part.num_frames for part in parts)
