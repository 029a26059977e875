"""Features as a file, and weights relative to their chunk."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
from origins import make_origin

from stf_jax.errors import UserError
from stf_jax.evaluation.features.feature_files import (
    FeatureSet,
    read_features,
    relative_weights,
    tracklet_name,
    write_features,
)

FRAMES = np.array([0, 3, 4, 9])  # tracklets of 3, 1 and 5 frames


def make_set() -> FeatureSet:
    weights = np.array([0.25, 0.75, 1.0, 1.0, 0.5, 0.5, 0.9, 0.1, np.nan], np.float32)
    return FeatureSet(
        features=np.eye(3, 4, dtype=np.float32),
        person_ids=np.array([4, -1, 6]),
        cameras=np.array([1, 2, 3]),
        tracks=np.array([7, 8, 9]),
        marks=np.array([0, 1, 1], np.int8),
        titles=np.array(["", "yard/0042", ""]),
        num_frames=np.array([3, 1, 4]),
        offsets=FRAMES,
        names=np.array([f"{i}.png" for i in range(9)], "S"),
        frame_weights=weights,
        intra_weights=weights / 1,
        inter_weights=np.full(9, np.nan, np.float32),
        image_dir="/somewhere",
        origin=make_origin(chunk=2),
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = make_set()
    write_features(tmp_path / "a.npz", written)
    read = read_features(tmp_path / "a.npz")
    for field in dataclasses.fields(FeatureSet):
        ours, theirs = getattr(written, field.name), getattr(read, field.name)
        np.testing.assert_array_equal(ours, theirs)
        assert type(ours) is type(theirs)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
    assert read.origin == written.origin
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_selection_takes_the_frames_along() -> None:
    chosen = make_set().select(np.array([2, 0]))
    assert chosen.person_ids.tolist() == [6, 4]
    assert chosen.offsets.tolist() == [0, 5, 8]
    assert [int(name[:1]) for name in chosen.names] == [4, 5, 6, 7, 8, 0, 1, 2]
    assert make_set().select(np.zeros(0, np.int64)).offsets.tolist() == [0]


def test_weights_are_relative_to_the_mean_of_their_chunk() -> None:
    features = make_set()
    found = relative_weights(features, 0)
    assert found.keys() == {"intra", "both"}  # inter is off
    np.testing.assert_allclose(found["both"], [0.5, 1.5, 1.0])  # chunks of 2 and 1
    np.testing.assert_allclose(
        relative_weights(features, 2)["both"], [1, 1, 1.8, 0.2, np.nan], rtol=1e-6
    )
    assert features.frame_weights[0] == 0.25  # not changed in place


def test_names() -> None:
    features = make_set()
    assert tracklet_name(features, 0) == "person 4, camera 1, track 7"
    assert tracklet_name(features, 1) == "yard/0042"


@pytest.mark.usefixtures("unchecked_types")
def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(UserError, match=r"a\.npz: no such file"):
        read_features(path)
    path.write_text("hello")
    with pytest.raises(UserError, match=r"not a complete \.npz file"):
        read_features(path)
    np.savez(path, features=np.zeros((1, 2)))
    with pytest.raises(UserError, match="lacks person_ids"):
        read_features(path)
    write_features(path, make_set())
    with np.load(path) as file:
        known = ("weights_digest", "step", "metric", "flip", "chunk_weighting", "settings")
        np.savez(path, **{name: file[name] for name in file.files if name not in known})
    with pytest.raises(UserError, match=r"lacks weights_digest, step, .*; write it with --mode"):
        read_features(path)
    write_features(path, dataclasses.replace(make_set(), cameras=np.array([1, 2])))
    with pytest.raises(UserError, match="cameras: lengths do not fit; expected 3 tracklets"):
        read_features(path)
    write_features(path, make_set())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"not a complete \.npz file"):
        read_features(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("features.npy", b"broken")
    with pytest.raises(UserError):
        read_features(path)
