"""Cutting tracks into tracklets, against a plain loop and against the street's known counts."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.errors import UserError
from stf_jax.prepare.tracks.cut import CutRules, clip_boxes, cut_tracklets
from stf_jax.prepare.tracks.track_files import TrackFile, read_tracks

STREET = Path(__file__).parents[3] / "scripts" / "street" / "tracks"
SIZE = {"width": 200, "height": 100}


def track_file(rows, first_frame=1):
    """Rows of (id, frame from 0, box, confidence=1, class=-1, visibility=nan)."""
    rows = [tuple(row) + (1.0, -1, np.nan)[len(row) - 3 :] for row in rows]
    ids, frames, boxes, confidences, classes, visibilities = zip(*sorted(rows), strict=True)
    return TrackFile(
        Path("t.txt"),
        first_frame,
        np.array(ids),
        np.array(frames),
        np.array(boxes, np.float64),
        np.array(confidences, np.float64),
        np.array(classes),
        np.array(visibilities, np.float64),
    )


def plain_cut(rows, max_gap, max_length, stride, min_length, min_confidence):
    """[(id, first, last, boxes, [picture frames])], with one loop over sorted rows."""
    runs = []
    for person, frame, _, confidence in sorted(rows):
        if runs and runs[-1][0] == person and frame - runs[-1][1][-1][0] - 1 <= max_gap:
            runs[-1][1].append((frame, confidence))
        else:
            runs.append((person, [(frame, confidence)]))
    result = []
    for person, boxes in runs:
        parts = 1
        while max_length and len(boxes) > parts * max_length:
            parts += 1
        small, larger = divmod(len(boxes), parts)
        for part in range(parts):
            take, boxes = boxes[: small + (part < larger)], boxes[small + (part < larger) :]
            good = [frame for frame, confidence in take if confidence >= min_confidence]
            pictures = [frame for place, frame in enumerate(good) if place % stride == 0]
            if len(pictures) >= min_length:
                result.append((person, take[0][0], take[-1][0], len(take), pictures))
    return result


@settings(max_examples=80, deadline=None)
@given(
    places=st.sets(st.tuples(st.integers(1, 3), st.integers(0, 40)), min_size=1, max_size=60),
    max_gap=st.integers(0, 4),
    max_length=st.integers(0, 7),
    stride=st.integers(1, 3),
    min_length=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_against_a_plain_loop(places, max_gap, max_length, stride, min_length, seed):
    random = np.random.default_rng(seed)
    rows = [(i, f, (10, 10, 20, 40), float(random.choice([0.2, 0.8]))) for i, f in sorted(places)]
    expected = plain_cut(rows, max_gap, max_length, stride, min_length, 0.5)
    rules = CutRules(
        max_gap=max_gap,
        max_length=max_length,
        stride=stride,
        min_length=min_length,
        min_confidence=0.5,
    )
    if not expected:
        with pytest.raises(UserError, match="no tracklet is left"):
            cut_tracklets(track_file(rows), rules, **SIZE)
        return
    cut = cut_tracklets(track_file(rows), rules, **SIZE)
    found = [
        (
            cut.source_ids[k],
            cut.first_frames[k],
            cut.last_frames[k],
            cut.num_boxes[k],
            cut.frames[cut.offsets[k] : cut.offsets[k + 1]].tolist(),
        )
        for k in range(len(cut.source_ids))
    ]
    assert found == expected
    assert len(cut.frames) + sum(cut.dropped.values()) == len(rows)


def test_street_gives_the_known_tracklets():
    """The counts its README states, and some rows of the table the first cut of it left."""
    known = """\
camera,id,first,last,boxes,pictures
1,1,707,741,29,15
1,1,742,770,29,13
1,3,279,316,34,16
1,11,117,143,27,14
2,3,481,531,38,19
2,5,479,520,37,17
3,6,122,152,31,14
4,2,541,553,13,7
"""
    found, pictures = set(), 0
    for camera in range(1, 5):
        tracks = read_tracks(STREET / f"cam{camera}.txt")
        rules = CutRules(max_length=40, stride=2, interpolated_confidence=0.3)
        cut = cut_tracklets(tracks, rules, width=768, height=576)
        pictures += len(cut.frames)
        columns = (cut.source_ids, cut.first_frames + 1, cut.last_frames + 1, cut.num_boxes)
        found |= {
            (camera, *map(int, row)) for row in zip(*columns, np.diff(cut.offsets), strict=True)
        }
    assert len(found) == 120
    assert pictures == 1813
    rows = list(csv.reader(io.StringIO(known)))[1:]
    assert {tuple(map(int, row)) for row in rows} <= found


def test_clipping_and_rounding():
    boxes = np.array(
        [
            [10.4, 20.5, 5.2, 3.1],
            [-5, -10, 10, 20],
            [190, 90, 20, 20],
            [300, 0, 5, 5],
            [1, 1, -4, 5],
        ]
    )
    crops, share = clip_boxes(boxes, **SIZE)
    assert crops[:3].tolist() == [[10, 21, 16, 24], [0, 0, 5, 10], [190, 90, 200, 100]]
    np.testing.assert_allclose(share, [1, 0.25, 0.25, 0, 0], atol=1e-12)


def test_each_dropped_box_is_counted_once_by_its_first_reason():
    good = (10, 10, 20, 40)
    rows = [(1, f, good, 0.9, 1, 1.0) for f in range(12)]
    rows += [
        (2, 0, good, 0.9, 3, 1.0),
        (3, 0, good, 0.3, 1, 0.0),
        (3, 1, good, 0.2, 1, 0.0),
        (3, 2, good, 0.9, 1, 0.05),
        (3, 3, (195, 10, 20, 40), 0.9, 1, 1.0),
        (3, 4, (10, 10, 20, 29), 0.9, 1, 1.0),
        (3, 5, (10, 10, 9, 40), 0.9, 1, 1.0),
        (3, 6, good, 0.9, 1, 1.0),
    ]
    rules = CutRules(
        classes=(1,),
        interpolated_confidence=0.3,
        min_confidence=0.25,
        min_visibility=0.1,
        min_height=30,
        min_width=10,
        min_length=2,
        stride=3,
    )
    cut = cut_tracklets(track_file(rows), rules, **SIZE)
    assert {reason: n for reason, n in cut.dropped.items() if n} == {
        "other class": 1,
        "interpolated": 1,
        "low confidence": 1,
        "low visibility": 1,
        "outside the picture": 1,
        "too small": 2,
        "in a short tracklet": 1,
        "between strides": 8,
    }
    assert cut.frames.tolist() == [0, 3, 6, 9]


def test_boxes_of_a_few_pixels_are_boxes():
    cut = cut_tracklets(track_file([(1, 0, (0, 0, 1, 3))]), CutRules(), **SIZE)
    assert cut.crops.tolist() == [[0, 0, 1, 3]]


@pytest.mark.parametrize(
    ("rows", "rules", "words"),
    [
        ([(1, 0, (1, 1, 9, 9), -1)], CutRules(min_confidence=0.1), "leave out --min-confidence"),
        ([(1, 0, (1, 1, 9, 9), np.nan)], CutRules(min_confidence=0.1), "1 of 1 boxes give no"),
        (
            [(1, 0, (1, 1, 9, 9), np.nan)],
            CutRules(interpolated_confidence=1),
            "no confidence column",
        ),
        ([(1, 0, (1, 1, 9, 9))], CutRules(min_visibility=0.1), "no visibility column"),
        ([(1, 0, (1, 1, 9, 9))], CutRules(classes=(1,)), "has no class column"),
        ([(1, 0, (1, 1, 9, 9), 1, 2)], CutRules(classes=(1, 5)), "none is in --classes 1,5"),
        (
            [(1, 0, (1, 1, 9, 9), 1, 2), (1, 1, (1, 1, 9, 9), 1, 7), (1, 2, (1, 1, 9, 9), 1, 7)],
            CutRules(),
            "such as --classes 7",
        ),
        ([(1, 0, (0.1, 0.2, 0.3, 0.4))], CutRules(), "shares of the picture"),
        ([(1, 0, (150, 60, 190, 95))], CutRules(), "corners"),
        ([(1, 0, (1, 1, 9, 9))], CutRules(min_height=10), "1 too small"),
    ],
)
def test_refused(rows, rules, words):
    with pytest.raises(UserError, match=r"^t\.txt: ") as caught:
        cut_tracklets(track_file(rows), rules, **SIZE)
    assert words in str(caught.value)
