"""One ranked list as a picture for a paper: the query and its best entries, with their weights.

`python -m stf_jax.evaluation.pages.list_picture FEATURES.npz --query NAME --output FILE.pdf`
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from stf_jax.errors import UserError, prints_user_errors
from stf_jax.evaluation.arguments import ArgumentError
from stf_jax.evaluation.distances import METRICS, pairwise_distances
from stf_jax.evaluation.features.feature_files import (
    UNKNOWN_ID,
    FeatureSet,
    read_features,
    relative_weights,
    tracklet_name,
)
from stf_jax.evaluation.features.origin import check_same_origin
from stf_jax.evaluation.pages.film_strips import film_strip, strip_frames
from stf_jax.evaluation.protocols import PROTOCOLS, select_rows
from stf_jax.evaluation.ranked_lists import nearest

SUFFIXES = (".pdf", ".png", ".svg")

_FRAME = (64, 128)  # pixels of a frame
_INCHES = 0.42  # width of a frame
_DPI = 200  # of a .png, and of the photographs in the others
_KINDS = (("intra", "#56B4E9", ""), ("inter", "#E69F00", "////"), ("both", "#222222", ""))
_RIGHT, _WRONG = "#0072B2", "#D55E00"


def ranked_list_picture(
    path: Path,
    query: FeatureSet,
    query_row: int,
    gallery: FeatureSet,
    entries: Sequence[int] | Int[np.ndarray, " k"],
    *,
    right: Sequence[bool] | Bool[np.ndarray, " k"] | None = None,
    distances: Sequence[float] | np.ndarray | None = None,
    frames: int = 5,
    weights: bool = True,
) -> None:
    """Draw a query above its `entries`, nearest first, two strips a row; format by suffix.

    Args:
        path: .pdf, .png or .svg.
        query: the set that row `query_row` is the query of.
        query_row: of the query.
        gallery: the set that `entries` are rows of.
        entries: gallery rows, nearest first.
        right: whether an entry is of the query's identity: solid frame and check mark, or dashed
            and cross. None: not known, not drawn.
        distances: written next to the entries.
        frames: of each strip, at most.
        weights: draw each frame's attention weight below it, 1 (the dotted line) being the mean.

    Raises:
        ArgumentError: (a ValueError) a suffix of another format, or no entry.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ArgumentError(f"path: {path}; expected one of {', '.join(SUFFIXES)} at the end")
    if not len(entries):
        raise ArgumentError("entries: none; expected at least one")
    shown = [(query, query_row), *((gallery, int(entry)) for entry in entries)]
    kinds = [kind for kind in _KINDS if any(kind[0] in relative_weights(*one) for one in shown)]
    kinds = kinds if weights else []
    columns = 2 if len(entries) > 3 else 1
    lines = 1 + -(-len(entries) // columns)
    size = (columns * frames * _INCHES + 0.5, lines * (2 * _INCHES + (0.62 if kinds else 0.34)))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.02))
    FigureCanvasAgg(figure)
    highest = max([1.5, *(np.nanmax(v) for one in shown for v in relative_weights(*one).values())])
    ratios = [2.0, 0.5] if kinds else [2.0]
    grid = figure.add_gridspec(
        len(ratios) * lines, columns, height_ratios=ratios * lines, hspace=0.02
    )
    for place, (features, row) in enumerate(shown):
        line, column = (0, 0) if place == 0 else (1 + (place - 1) // columns, (place - 1) % columns)
        top = figure.add_subplot(grid[len(ratios) * line, column])
        chosen = strip_frames(features, row, frames)
        title = "query" if place == 0 else f"{place}"
        if place and distances is not None:
            title += f"  d = {distances[place - 1]:.3f}"
        known = None if place == 0 or right is None else bool(right[place - 1])
        _draw_strip(top, features, row, chosen, frames, title, known)
        if kinds:
            below = figure.add_subplot(grid[len(ratios) * line + 1, column])
            _draw_weights(below, features, row, chosen, frames, kinds)
            below.set_ylim(0, highest)
    if kinds and columns > 1:
        _legend(figure.add_subplot(grid[0, 1]), kinds)
    figure.savefig(path, dpi=_DPI)


def _draw_strip(
    axes: Axes,
    features: FeatureSet,
    row: int,
    chosen: np.ndarray,
    slots: int,
    title: str,
    known: bool | None,
) -> None:
    strip = film_strip(features, row, chosen, width=_FRAME[0], height=_FRAME[1])
    wide = len(chosen)
    axes.imshow(strip, extent=(0, wide, 0, 2), aspect="equal", interpolation="lanczos")
    axes.set_xlim(-0.04, slots + 0.04)
    axes.set_ylim(-0.06, 2.06)
    axes.axis("off")
    colour = "black" if known is None else _RIGHT if known else _WRONG
    if known is not None:
        title += "  \N{CHECK MARK} right" if known else "  \N{BALLOT X} wrong"
    xs, ys = (0, wide, wide, 0, 0), (0, 0, 2, 2, 0)
    style, line = "-" if known in (None, True) else (0, (3, 2)), 1 if known is None else 2
    axes.plot(xs, ys, color=colour, linestyle=style, linewidth=line, clip_on=False)
    axes.set_title(title, fontsize=6, loc="left", pad=2, color=colour, fontfamily=["DejaVu Sans"])


def _draw_weights(
    axes: Axes,
    features: FeatureSet,
    row: int,
    chosen: np.ndarray,
    slots: int,
    kinds: Sequence[tuple[str, str, str]],
) -> None:
    found = relative_weights(features, row)
    each = 0.84 / len(kinds)
    for number, (kind, colour, hatch) in enumerate(kinds):
        if kind not in found:
            continue
        values = np.nan_to_num(found[kind][chosen])
        middles = np.arange(len(chosen)) + 0.08 + (number + 0.5) * each
        face = "white" if hatch else colour
        axes.bar(
            middles, values, 0.86 * each, color=face, edgecolor=colour, hatch=hatch, linewidth=0.5
        )
    axes.axhline(1, xmax=len(chosen) / slots, color="black", linewidth=0.5, linestyle=":")
    axes.set_xlim(-0.04, slots + 0.04)
    axes.axis("off")


def _legend(axes: Axes, kinds: Sequence[tuple[str, str, str]]) -> None:
    axes.axis("off")
    names = {"intra": "intra-frame weight", "inter": "inter-frame weight", "both": "weight used"}
    handles = [
        Patch(facecolor="white" if h else c, edgecolor=c, hatch=h, label=names[kind])
        for kind, c, h in kinds
    ]
    axes.legend(handles=handles, loc="center left", fontsize=6, frameon=False)


def _find_query(features: FeatureSet, rows: np.ndarray, wanted: str, path: Path) -> int:
    """The row called `wanted`: its name, its images' first two substrings, or a person's id."""
    found = []
    for row in rows.tolist():
        image = bytes(features.names[features.offsets[row]]).decode("utf-8", "replace")
        names = (tracklet_name(features, row), "_".join(Path(image).name.split("_")[:2]))
        if wanted in names or wanted == str(features.person_ids[row]):
            found.append(row)
    if len(found) == 1:
        return found[0]
    if found:
        listed = "; ".join(tracklet_name(features, row) for row in found[:5])
        raise UserError(f"--query {wanted}: {len(found)} tracklets ({listed}); name one of them")
    some = tracklet_name(features, int(rows[0])) if len(rows) else "none"
    raise UserError(f"--query {wanted}: no such query in {path}; expected a name such as {some!r}")


def _read(path: Path, images: Path | None) -> FeatureSet:
    """Read features whose images are there: in `images` if given."""
    features = read_features(path)
    if images is not None:
        features = dataclasses.replace(features, image_dir=str(images))
    folder = Path(features.image_dir)
    found = ((folder / os.fsdecode(name)).is_file() for name in features.names.tolist())
    if len(features.names) and not any(found):  # one that is lost is drawn as such
        raise UserError(
            f"{path}: {folder} has none of the images; expected those that the features are of; "
            "--images says where they are (moved, or packed into a tfds data set)"
        )
    return features


def _run(options: argparse.Namespace) -> None:
    features = _read(options.features, options.images)
    if options.gallery is not None:
        gallery = _read(options.gallery, options.images)
        check_same_origin(query=features.origin, gallery=gallery.origin)
        # One of which no image could be read is at an equal distance from everybody.
        gallery = gallery.select(np.flatnonzero(gallery.features.any(axis=1)))
        queries = np.flatnonzero(features.features.any(axis=1))
    else:
        rows = select_rows(
            options.protocol,
            person_ids=features.person_ids,
            marks=features.marks,
            features=features.features,
        )
        gallery, queries = features.select(rows.gallery), rows.query
    row = _find_query(features, queries, options.query, options.features)
    one = features.select(np.array([row]))
    metric = options.distance or features.origin.metric
    distances = pairwise_distances(one.features, gallery.features, metric=metric)
    labelled = int(one.person_ids[0]) != UNKNOWN_ID and options.gallery is None
    # Without labels nothing is left out: identities and cameras that no entry has.
    lists = nearest(
        distances,
        options.top,
        query_ids=one.person_ids if labelled else np.array([-2]),
        gallery_ids=gallery.person_ids if labelled else np.zeros(len(distances[0]), np.int64),
        query_cameras=one.cameras,
        gallery_cameras=gallery.cameras,
    )
    entries = lists.entries[0][lists.entries[0] >= 0]
    ranked_list_picture(
        options.output,
        one,
        0,
        gallery,
        entries,
        right=gallery.person_ids[entries] == one.person_ids[0] if labelled else None,
        distances=lists.distances[0],
        frames=options.frames,
        weights=not options.no_weights,
    )
    print(f"written: {options.output}")


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 2 for bad input (see stderr)."""
    parser = argparse.ArgumentParser(
        prog="python -m stf_jax.evaluation.pages.list_picture",
        description="Draw one ranked list, the query first, into a PDF, PNG or SVG.",
    )
    parser.add_argument("features", type=Path, help="features.npz of an evaluated run, or queries")
    parser.add_argument("--gallery", type=Path, help="features to search, if not the same file's")
    parser.add_argument(
        "--query", required=True, help="its name in the report, 000012_10001, or a person's id"
    )
    parser.add_argument("--output", type=Path, required=True, help="a .pdf, .png or .svg")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the images, if not where they were"
    )
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="step")
    parser.add_argument("--distance", choices=METRICS, help="if not the run's")
    parser.add_argument("--top", type=int, default=6, help="entries (default %(default)s)")
    parser.add_argument("--frames", type=int, default=5, help="of a strip (default %(default)s)")
    parser.add_argument("--no-weights", action="store_true", help="leave out the attention weights")
    options = parser.parse_args(argv)
    for name in ("top", "frames"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: expected 1 or more")
    _run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
