"""Test tracklets whose every frame has a plain colour of its own, and weights of its own.

What is shown of them can be told from pixels. Their features are drawn by chance, and not of unit
length, so that the distances by both metrics differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from origins import make_origin
from page_reader import nearest_colours, strip_colours
from PIL import Image

from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.evaluation.features.feature_files import FeatureSet, TrackletFeatures

CHUNK = 4
# Greys are ink and padding.
PALETTE = np.array([c for c in product(range(0, 256, 51), repeat=3) if len(set(c)) > 1])

# Person, camera, track, mark (0 query, 1 gallery, 2 multi-query), frames: sorted as in a layout.
TRACKLETS = (
    (-1, 2, 1, 1, 7),
    (1, 1, 1, 0, 9),
    (1, 1, 2, 0, 8),
    (1, 2, 1, 1, 7),
    (1, 3, 1, 1, 12),
    (2, 1, 1, 0, 7),
    (2, 2, 1, 0, 11),
    (2, 2, 2, 2, 9),
    (2, 2, 3, 2, 7),
    (2, 3, 1, 1, 8),
    (3, 1, 1, 1, 10),
    (3, 2, 1, 0, 8),
    (3, 3, 1, 1, 7),
    (4, 1, 1, 0, 9),  # nobody to match with
    (5, 1, 1, 1, 13),
    (5, 1, 2, 1, 7),
    (5, 3, 1, 0, 8),
    (5, 3, 2, 2, 3),
    (8, 1, 1, 1, 7),
    (8, 3, 1, 1, 7),  # no image of it could be read
    (8, 4, 1, 1, 9),
)
UNREAD = len(TRACKLETS) - 2


@dataclass(frozen=True, eq=False)
class Drawn:
    """N tracklets of F frames; frame i has the colour PALETTE[colours[i]]."""

    table: TrackletTable
    found: TrackletFeatures
    colours: np.ndarray  # [F]
    titles: np.ndarray  # [N] text

    def name(self, row: int) -> str:
        """What a page calls a tracklet."""
        table = self.table
        person, camera, track = (
            int(x[row]) for x in (table.person_ids, table.cameras, table.tracks)
        )
        who = f"person {person}" if person != -1 else "person unknown"
        return str(self.titles[row]) or f"{who}, camera {camera}, track {track}"

    def feature_set(self, **origin: Any) -> FeatureSet:
        """What an evaluation would write."""
        return FeatureSet(
            **vars(self.found),
            **{
                name: getattr(self.table, name)
                for name in ("person_ids", "cameras", "tracks", "marks", "offsets", "names")
            },
            titles=self.titles,
            image_dir=str(self.table.image_dir),
            origin=make_origin(chunk=CHUNK, **origin),
        )


def shown_places(length: int, count: int = 5) -> list[int]:
    """Which of a tracklet's frames a film strip shows: the middles of its fifths, or all."""
    if length <= count:
        return list(range(length))
    return [int(length * (2 * k + 1) / (2 * count)) for k in range(count)]


def relative_weights(weights: np.ndarray) -> list[float | None]:
    """Weights of a tracklet's frames over the mean of their chunk; None for a frame left out."""
    result: list[float | None] = []
    for start in range(0, len(weights), CHUNK):
        chunk = weights[start : start + CHUNK].astype(float).tolist()
        seen = [w for w in chunk if w == w]
        result += [w * len(seen) / sum(seen) if w == w else None for w in chunk]
    return result


def draw(root: Path, seed: int = 0, order: Sequence[int] | None = None) -> Drawn:
    """Write the images below `root`; the rows of the table are `TRACKLETS` in `order`."""
    rng = np.random.default_rng(seed)
    order = range(len(TRACKLETS)) if order is None else order
    rows = [TRACKLETS[row] for row in order]
    lengths = [row[4] for row in rows]
    total = sum(lengths)
    colours = rng.permutation(len(PALETTE))[:total]
    images = root / "images"
    images.mkdir(parents=True)
    names = []
    for person, camera, track, _, length in rows:
        who = "00-1" if person < 0 else f"{person:04d}"
        for place in range(length):
            names.append(f"{who}_{camera}{track:03d}_{place:03d}.png")
            colour = tuple(PALETTE[colours[len(names) - 1]].tolist())
            Image.new("RGB", (12, 24), colour).save(images / names[-1])

    people, cameras, tracks, marks = (np.array(v) for v in list(zip(*rows, strict=True))[:4])
    own = rng.normal(size=(10, 4))
    features = own[people] + 0.9 * rng.normal(size=(len(rows), 4))
    features *= rng.uniform(0.5, 1.5, (len(rows), 1))
    num_frames = np.array(lengths)
    weights = {name: np.empty(total, np.float32) for name in ("frame", "intra", "inter")}
    for row, at in enumerate(np.cumsum([0, *lengths[:-1]])):
        seen = np.ones(lengths[row], bool)
        if order[row] == UNREAD:
            features[row], seen[:] = 0, False
        elif order[row] % 3 == 0:
            seen[3] = False  # one of those that a strip shows
        num_frames[row] = seen.sum()
        for values in weights.values():
            drawn = np.where(seen, rng.uniform(0.2, 2, lengths[row]), np.nan)
            for start in range(0, lengths[row], CHUNK):
                part = drawn[start : start + CHUNK]
                part /= max(1e-9, np.nansum(part))
            values[at : at + lengths[row]] = drawn
    table = TrackletTable(
        image_dir=images,
        names=np.array(names, "S"),
        offsets=np.cumsum([0, *lengths]),
        person_ids=people,
        cameras=cameras,
        tracks=tracks,
        marks=marks.astype(np.int8),
        labels=np.full(len(rows), -1),
    )
    found = TrackletFeatures(
        features.astype(np.float32),
        **{f"{name}_weights": values for name, values in weights.items()},
        num_frames=num_frames,
    )
    return Drawn(table, found, colours, np.full(len(rows), "", "U20"))


def check_shown(said: Mapping[str, Any], drawn: Drawn, row: int, strips: Path) -> None:
    """Name, numbers, strip and weights of a tracklet in a page's data are those of `row`."""
    table, found = drawn.table, drawn.found
    frames = slice(table.offsets[row], table.offsets[row + 1])
    length = int(table.lengths[row])
    places = shown_places(length)
    assert said["name"] == drawn.name(row)
    assert (said["person"], said["camera"]) == (table.person_ids[row], table.cameras[row])
    assert (said["length"], said["frames"]) == (length, [place + 1 for place in places])
    strip = strip_colours(strips / said["strip"])
    assert nearest_colours(strip, PALETTE) == drawn.colours[frames][places].tolist()
    of_kinds = {"intra": found.intra_weights, "inter": found.inter_weights}
    of_kinds["both"] = found.frame_weights
    for kind, weights in of_kinds.items():
        relative = relative_weights(weights[frames])
        wanted = [None if w is None else pytest.approx(100 * w, abs=0.51) for w in relative]
        seen = [wanted[place] for place in places]
        assert said["weights"].get(kind, [None] * len(places)) == seen, kind
