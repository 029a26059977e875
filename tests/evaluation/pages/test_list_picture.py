"""The picture of one ranked list, and its command."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from origins import make_origin
from PIL import Image

from stf_jax.evaluation import ArgumentError
from stf_jax.evaluation.features.feature_files import FeatureSet, write_features
from stf_jax.evaluation.pages.list_picture import main, ranked_list_picture

COLOURS = {1: (255, 0, 0), 2: (0, 255, 0), 3: (0, 0, 255)}


@pytest.fixture(scope="module")
def tracklets(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    """Four tracklets of two frames: person 1 twice, 2, 3; each person one colour."""
    folder = tmp_path_factory.mktemp("images")
    person_ids = np.array([1, 1, 2, 3])
    names = [
        f"{p:06d}_{c}0001_{k:06d}.png" for p, c in [(1, 1), (1, 2), (2, 2), (3, 2)] for k in (0, 1)
    ]
    for name in names:
        Image.new("RGB", (16, 32), COLOURS[int(name[:6])]).save(folder / name)
    weights = np.array([0.4, 0.6] * 4, np.float32)
    return FeatureSet(
        features=np.array([[1, 0], [0.9, 0.1], [0, 1], [0.5, 0.5]], np.float32),
        person_ids=person_ids,
        cameras=np.array([1, 2, 2, 2]),
        tracks=np.ones(4, np.int64),
        marks=np.array([0, 1, 1, 1], np.int8),
        titles=np.full(4, "", "U1"),
        num_frames=np.full(4, 2),
        offsets=2 * np.arange(5),
        names=np.array(names, "S"),
        frame_weights=weights,
        intra_weights=weights,
        inter_weights=np.full(8, np.nan, np.float32),
        image_dir=str(folder),
        origin=make_origin(chunk=2),
    )


def places(path: Path) -> dict[int, float]:
    """Mean height at which each person's colour is in the picture."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    found = {}
    for person, colour in COLOURS.items():
        rows = np.nonzero(abs(pixels - colour).sum(-1) < 30)[0]
        if len(rows) > 100:
            found[person] = float(rows.mean())
    return found


def test_entries_stand_in_their_order(tracklets: FeatureSet, tmp_path: Path) -> None:
    path = tmp_path / "list.png"
    ranked_list_picture(path, tracklets, 0, tracklets, [3, 2], right=[False, False])
    found = places(path)
    assert found[1] < found[3] < found[2]
    ranked_list_picture(path, tracklets, 0, tracklets, [2])
    assert places(path).keys() == {1, 2}


def test_command_writes_what_the_suffix_says(tracklets: FeatureSet, tmp_path: Path, capsys) -> None:
    features = tmp_path / "features.npz"
    write_features(features, tracklets)
    for suffix, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        output = tmp_path / f"list.{suffix}"
        for query in ("000001_10001", "person 1, camera 1, track 1", "1"):
            assert main([str(features), "--query", query, "--output", str(output)]) == 0
        assert output.read_bytes().startswith(magic)
    found = places(tmp_path / "list.png")
    assert found[1] < found[3] < found[2]  # nearest first
    other = dataclasses.replace(tracklets, origin=make_origin(chunk=2, step=9))
    write_features(tmp_path / "other.npz", other)
    argv = [str(features), "--query", "1", "--output", str(output)]
    assert main([*argv, "--gallery", str(tmp_path / "other.npz")]) == 2
    assert "step 1; gallery: features of weights 01234567, step 9" in capsys.readouterr().err
    assert main([str(features), "--query", "2", "--output", str(output)]) == 2
    assert "--query 2: no such query" in capsys.readouterr().err
    assert main([str(features), "--query", "1", "--output", str(tmp_path / "list.gif")]) == 2
    assert "expected one of .pdf, .png, .svg" in capsys.readouterr().err
    assert main([str(tmp_path / "none.npz"), "--query", "1", "--output", "a.pdf"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_images_that_lie_elsewhere(tracklets: FeatureSet, tmp_path: Path, capsys) -> None:
    features, output = tmp_path / "features.npz", tmp_path / "list.png"
    lost = dataclasses.replace(tracklets, image_dir=str(tmp_path / "gone"))
    write_features(features, lost)
    argv = [str(features), "--query", "1", "--output", str(output)]
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {features}: {tmp_path / 'gone'}")
    assert "--images" in message
    assert not output.exists()
    assert main([*argv, "--images", tracklets.image_dir]) == 0
    assert output.exists()


def test_nothing_to_draw(tracklets: FeatureSet, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="entries: none"):
        ranked_list_picture(tmp_path / "list.png", tracklets, 0, tracklets, [])
