"""The picture of one ranked list, and its command."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from drawn_tracklets import (
    PALETTE,
    TRACKLETS,
    UNREAD,
    Drawn,
    draw,
    relative_weights,
    shown_places,
)
from origins import make_origin
from PIL import Image
from ranking_loops import chosen_rows, distances_of, ranked

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


# Of the weights' bars; inter's is an outline. And of the boxes around right and wrong entries.
BARS = {"intra": (86, 180, 233), "inter": (230, 159, 0), "both": (34, 34, 34)}
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def coloured(pixels: np.ndarray, colour: Sequence[int], tolerance: int = 4) -> np.ndarray:
    return abs(pixels - np.array(colour)).max(-1) <= tolerance


def titles_of(path: Path) -> list[str]:
    """The texts of an SVG: "query", and one an entry."""
    found = re.findall(r"<!-- (.*?) -->", path.read_text("utf-8"))
    return [text for text in found if text == "query" or re.match(r"\d", text)]


def check_picture(
    path: Path, drawn: Drawn, shown: list[int], frames: int, right: list[bool] | None, bars: bool
) -> None:
    """The query and its entries, tracklets `shown` of `drawn`, are where and as they should be."""
    pixels = pixels_of(path)
    found = {}  # colour -> its rows' and columns' ends
    steps = np.rint(pixels / 51)
    steps[abs(pixels - 51 * steps).max(-1) > 4] = -1
    codes, palette = (np.dot(values, (36, 6, 1)) for values in (steps, PALETTE // 51))
    for colour in drawn.colours.tolist():
        ys, xs = np.nonzero(codes == palette[colour])
        if len(ys) > 2000:  # a frame has about 14,000; some are at edges of ink
            ends = [np.quantile(values, (0.005, 0.995)) for values in (ys, xs)]
            found[colour] = np.concatenate(ends).astype(int)
    boxes, heights, weights = [], {kind: [] for kind in BARS}, {kind: [] for kind in BARS}
    of_kinds = dict(zip(BARS, weights_of(drawn), strict=True))
    for row in shown:
        of_row = slice(drawn.table.offsets[row], drawn.table.offsets[row + 1])
        places = shown_places(int(drawn.table.lengths[row]), frames)
        strip = np.array([found.pop(colour) for colour in drawn.colours[of_row][places].tolist()])
        assert np.ptp(strip[:, 0]) <= 2  # side by side, in time order, nothing between
        assert (abs(strip[1:, 2] - strip[:-1, 3]) <= 10).all()
        boxes.append((strip[0, 0], strip[0, 1], strip[0, 2], strip[-1, 3]))
        for kind, values in of_kinds.items():
            wanted = relative_weights(values[of_row])
            for place, (_, bottom, left, to) in zip(places, strip, strict=True):
                below = pixels[bottom + 8 : bottom + 80, left + 2 : to - 1]
                tolerance = 30 if kind == "inter" else 4  # of a thin line
                lines = np.flatnonzero(coloured(below, BARS[kind], tolerance).sum(1) > 2)
                heights[kind].append(np.ptp(lines) + 1 if len(lines) else 0)
                weights[kind].append(wanted[place] or 0.0)
    assert not found  # nothing else is shown
    for kind in BARS if bars else ():
        # One scale for all, so that the dotted line at 1 is as high in each; an outline adds some.
        high, wanted = (np.array(values[kind]) for values in (heights, weights))
        assert ((high > 0) == (wanted > 0)).all()
        scale, outline = np.polyfit(wanted[high > 0], high[high > 0], 1)
        assert scale > 10
        assert abs(outline) < 5
        np.testing.assert_allclose(high[high > 0], scale * wanted[high > 0] + outline, atol=2.5)
    if not bars:
        assert sum(coloured(pixels, colour).sum() for colour in BARS.values()) < 100
    query, *entries = boxes
    columns = 2 if len(entries) > 3 else 1
    for place, box in enumerate(entries):
        line, column = divmod(place, columns)
        before = query if line == 0 else entries[(line - 1) * columns]
        assert box[0] > before[1]
        assert abs(box[0] - entries[line * columns][0]) <= 2
        assert abs(box[2] - query[2]) <= 2 if column == 0 else box[2] > entries[place - 1][3]
    for place, (top, bottom, left, _) in enumerate(boxes):
        side = pixels[top:bottom, max(0, left - 6) : left + 1]
        said = [coloured(side, colour).sum() > 60 for colour in (RIGHT, WRONG)]
        known = None if place == 0 or right is None else right[place - 1]
        assert said == [known is True, known is False]


def weights_of(drawn: Drawn) -> list[np.ndarray]:
    found = drawn.found
    return [found.intra_weights, found.inter_weights, found.frame_weights]


@pytest.mark.parametrize("count", [3, 5])
def test_every_frame_and_weight_in_its_place(count: int, tmp_path: Path) -> None:
    drawn = draw(tmp_path)
    features = drawn.feature_set()
    entries = [18, 4, 9, 20, 16][:count]
    right = [False, True, True, False, True][:count]
    for suffix in ("png", "svg"):
        ranked_list_picture(
            tmp_path / f"list.{suffix}",
            features,
            3,
            features,
            entries,
            right=right,
            distances=[0.125 * place for place in range(count)],
            frames=4,
        )
    check_picture(tmp_path / "list.png", drawn, [3, *entries], 4, right, True)
    words = ["✓ right" if is_right else "✗ wrong" for is_right in right]
    assert titles_of(tmp_path / "list.svg") == [
        "query",
        *(f"{k + 1}  d = {0.125 * k:.3f}  {word}" for k, word in enumerate(words)),
    ]
    ranked_list_picture(tmp_path / "less.png", features, 3, features, entries, weights=False)
    check_picture(tmp_path / "less.png", drawn, [3, *entries], 5, None, False)


@pytest.mark.parametrize(
    ("query", "row", "protocol", "options"),
    [
        ("person 1, camera 1, track 2", 2, "step", ["--top", "4", "--no-weights"]),
        ("0002_2001", 6, "mars-official", ["--protocol", "mars-official", "--frames", "4"]),
        ("3", 11, "step+queries", ["--protocol", "step+queries", "--distance", "euclidean"]),
    ],
)
def test_command_draws_the_ranked_list(
    query: str, row: int, protocol: str, options: list[str], tmp_path: Path
) -> None:
    drawn = draw(tmp_path)
    write_features(tmp_path / "features.npz", drawn.feature_set(metric="cosine"))
    for suffix in ("png", "svg"):
        output = ["--output", str(tmp_path / f"list.{suffix}")]
        assert main([str(tmp_path / "features.npz"), "--query", query, *output, *options]) == 0
    features = drawn.found.features
    queries, rows, _, gallery = chosen_rows(features, drawn.table, protocol)
    metric = "euclidean" if "--distance" in options else "cosine"
    case = ranked(distances_of(queries, features[gallery], metric), drawn.table, rows, gallery)
    at = rows.index(row)
    top = 4 if "--top" in options else 6
    columns, right = case.lists[at][:top], case.right[at][:top]
    shown = [row, *(gallery[column] for column in columns)]
    frames = 4 if "--frames" in options else 5
    check_picture(tmp_path / "list.png", drawn, shown, frames, right, "--no-weights" not in options)
    said = [float(re.findall(r"d = (\S+)", t)[0]) for t in titles_of(tmp_path / "list.svg")[1:]]
    assert said == pytest.approx(case.distances[at, columns], abs=1e-3)


def test_command_searches_another_gallery(tmp_path: Path) -> None:
    """Without labels: nothing is left out but what could not be read."""
    sets = [draw(tmp_path / name, seed) for seed, name in enumerate(("query", "gallery"))]
    for drawn in sets:
        write_features(drawn.table.image_dir.parent / "features.npz", drawn.feature_set())
    query, gallery = (str(drawn.table.image_dir.parent / "features.npz") for drawn in sets)
    argv = [query, "--gallery", gallery, "--query", "person 3, camera 2, track 1", "--top", "20"]
    assert main([*argv, "--output", str(tmp_path / "list.svg"), "--no-weights"]) == 0
    own = sets[0].found.features[11:12]
    seen = [g for g in range(len(TRACKLETS)) if g != UNREAD]
    distances = distances_of(own, sets[1].found.features[seen], "euclidean")[0]
    assert titles_of(tmp_path / "list.svg") == [
        "query",
        *(f"{k}  d = {distance:.3f}" for k, distance in enumerate(sorted(distances)[:20], 1)),
    ]


def test_command_writes_what_the_suffix_says(tracklets: FeatureSet, tmp_path: Path, capsys) -> None:
    features = tmp_path / "features.npz"
    write_features(features, tracklets)
    for suffix, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        output = tmp_path / f"list.{suffix}"
        for query in ("000001_10001", "person 1, camera 1, track 1", "1"):
            assert main([str(features), "--query", query, "--output", str(output)]) == 0
        assert output.read_bytes().startswith(magic)
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
