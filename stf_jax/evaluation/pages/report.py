"""The report: one page a person can look at, with film strips in files.

`folder/index.html` holds everything but the strips, which are in `folder/strips/` and are loaded
as they come into view. They are drawn for the queries that the page shows first, up to
`MAX_STRIPS`; of other tracklets it shows the frames' own files. Nothing is fetched from anywhere
else.
"""

import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from jinja2 import Environment

from stf_jax.evaluation.features.feature_files import FeatureSet, relative_weights, tracklet_name
from stf_jax.evaluation.pages.film_strips import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    ReadImages,
    strip_frames,
    write_strips,
)
from stf_jax.evaluation.pages.report_plots import (
    cmc_svg,
    histogram_svg,
    open_set_svg,
    training_svgs,
)
from stf_jax.evaluation.pages.templates import templates
from stf_jax.evaluation.ranked_lists import CameraPair, DistanceHistogram, RankedLists
from stf_jax.evaluation.ranking import Ranking
from stf_jax.evaluation.scores import (
    SCORE_NAMES,
    open_set_notes,
    open_set_points,
    ranges_meaning,
)
from stf_jax.files import atomic_write

PAGE_FILE = "index.html"
STRIPS_FOLDER = "strips"
TOP = 10  # entries of a ranked list that are shown
FRAMES = 5  # of a film strip, at most
MAX_STRIPS = 2_000  # about 4 ms each

_STRIP_NAME = re.compile(r"[qg][0-9]{6,}\.jpg(\.[0-9a-f]{8}\.part)?")
# Kind -> name of the picture, caption, axes.
_OPEN_SET_PLOTS = {
    "verification": (
        "verification",
        "Pairs: those of one person accepted, over other pairs accepted, by threshold.",
        "other pairs accepted (%)",
        "pairs of one person (%)",
    ),
    "identification": (
        "identification",
        "Identification at rank 1 over false alarms of queries without their person, by threshold.",
        "false alarms (%)",
        "queries identified (%)",
    ),
}
_KINDS = ("intra", "inter", "both")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What is known of Q queries whose matches are labelled."""

    right: Bool[np.ndarray, "q k"]  # whether an entry shown is of the query's identity
    average_precisions: Float[np.ndarray, " q"]  # NaN: no match in the gallery
    first_ranks: Int[np.ndarray, " q"]  # place of the first match; 0: none
    match_counts: Int[np.ndarray, " q"]


@dataclass(frozen=True, eq=False)
class Scoring:
    """What only labelled tracklets have."""

    rows: Mapping[str, Mapping[str, Any]]  # label -> entry of scores.json
    histogram: DistanceHistogram
    camera_pairs: Sequence[CameraPair]
    protocol: str  # of the ranked lists, the histogram and the camera pairs
    outcomes: Outcomes


@dataclass(frozen=True, eq=False)
class ReportContent:
    """All that a report shows; without `scoring` it has no scores and no right or wrong."""

    title: str
    notes: Sequence[str]  # lines below the title
    query: FeatureSet  # Q tracklets
    gallery: FeatureSet  # G tracklets
    lists: RankedLists
    scoring: Scoring | None = None
    metrics: Iterable[Mapping[str, Any]] = ()  # of training: entries of metrics.jsonl
    pooled: Int[np.ndarray, " q"] | None = None  # tracklets that make up a query
    probabilities: Float[np.ndarray, "q k"] | None = None  # that an entry is the query's person
    list_notes: Sequence[str] = field(default=())  # lines above the ranked lists
    nobody: Bool[np.ndarray, " q"] | None = None  # no entry is near enough


def outcomes(
    lists: RankedLists, ranking: Ranking, query_ids: np.ndarray, gallery_ids: np.ndarray
) -> Outcomes:
    """Right and wrong in `lists`, and the scores of each query from its `ranking`."""
    right = (gallery_ids[lists.entries] == query_ids[:, None]) & (lists.entries >= 0)
    return Outcomes(right, ranking.average_precisions, ranking.first_ranks, ranking.match_counts)


def write_report(
    folder: Path, content: ReportContent, *, read_images: ReadImages | None = None
) -> Path:
    """Write the page and its strips into `folder` (made if need be); returns the page's path.

    The page appears last and whole; strips of an earlier report there are removed.

    Args:
        folder: of the report.
        content: what it shows.
        read_images: gives the bytes of image files that are in no folder.
    """
    strips = folder / STRIPS_FOLDER
    strips.mkdir(parents=True, exist_ok=True)
    queries, entries = _to_draw(content)
    query_strips = write_strips(content.query, queries, strips, "q", FRAMES, read_images)
    gallery_strips = write_strips(content.gallery, entries, strips, "g", FRAMES, read_images)
    shown = np.unique(content.lists.entries[content.lists.entries >= 0]).tolist()
    below = None if read_images else folder  # the pictures are files, to be named from there
    tracklets = {
        "q": [
            _tracklet(content.query, row, query_strips.get(row), below)
            for row in range(content.query.num_tracklets)
        ],
        "g": {
            row: _tracklet(content.gallery, row, gallery_strips.get(row), below) for row in shown
        },
    }
    page = folder / PAGE_FILE
    with atomic_write(page) as temporary:
        html = _render(content, tracklets)
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    kept = {*query_strips.values(), *gallery_strips.values()}
    for path in strips.iterdir():
        if _STRIP_NAME.fullmatch(path.name) and path.name not in kept:
            path.unlink()
    return page


def _to_draw(content: ReportContent) -> tuple[np.ndarray, np.ndarray]:
    """The queries that the page shows first and the entries of their lists, MAX_STRIPS in all."""
    entries = content.lists.entries
    if content.scoring is None:  # nearest first
        near = np.where(entries >= 0, content.lists.distances, np.inf)
        order = np.argsort(near.min(axis=1, initial=np.inf), kind="stable")
    else:  # worst first
        known = content.scoring.outcomes
        order = np.lexsort((-known.first_ranks, known.average_precisions))  # NaN comes last
    drawn: set[int] = set()
    for count, row in enumerate(order.tolist()):
        more = drawn | set(entries[row, entries[row] >= 0].tolist())
        if count + 1 + len(more) > MAX_STRIPS:
            return order[:count], np.array(sorted(drawn), np.int64)
        drawn = more
    return order, np.array(sorted(drawn), np.int64)


def _environment() -> Environment:
    environment = templates()
    environment.filters["percent"] = lambda v: "n/a" if v is None else f"{100 * v:.1f}"
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def _render(content: ReportContent, tracklets: Mapping[str, Any]) -> str:
    here = Path(__file__)
    scoring = content.scoring
    shown = [tracklet["weights"] for tracklet in (*tracklets["q"], *tracklets["g"].values())]
    kinds = [kind for kind in _KINDS if any(kind in weights for weights in shown)]
    values = [v for weights in shown for each in weights.values() for v in each if v is not None]
    data = {
        "labelled": scoring is not None,
        "frame": [FRAME_WIDTH, FRAME_HEIGHT],
        "kinds": kinds,
        "full": max([200, *values]),  # the weight of a full bar: twice the mean, or the largest
        "folder": STRIPS_FOLDER,
        "tracklets": tracklets,
        "queries": [_query(content, row) for row in range(content.query.num_tracklets)],
    }
    template = _environment().get_template("report.html.jinja")
    return template.render(
        title=content.title,
        notes=content.notes,
        list_notes=content.list_notes,
        style=here.with_name("report.css").read_text(encoding="utf-8"),
        script=here.with_name("report.js").read_text(encoding="utf-8"),
        data=data,
        kinds=kinds,
        labelled=scoring is not None,
        probable=content.probabilities is not None,
        open_lists=content.nobody is not None,
        num_queries=content.query.num_tracklets,
        gallery_size=content.gallery.num_tracklets,
        top=content.lists.entries.shape[1],
        cameras=np.unique(content.query.cameras).tolist(),
        gallery_cameras=np.unique(content.gallery.cameras).tolist(),
        training=training_svgs(content.metrics),
        **_score_parts(scoring),
    )


def _score_parts(scoring: Scoring | None) -> dict[str, Any]:
    """Tables and plots that need labels, by the template's names."""
    if scoring is None:
        names = ("scores", "cmc", "open_set", "histogram", "pairs")
        return {**dict.fromkeys(names), "open_curves": {}, "protocol": ""}
    rows = scoring.rows
    names = [n for n in SCORE_NAMES if any(n in row["scores"] for row in rows.values())]
    cells = {(pair.query_camera, pair.gallery_camera): pair for pair in scoring.camera_pairs}
    queries, galleries = (sorted({key[place] for key in cells}) for place in (0, 1))
    return {
        "scores": {
            "names": names,
            "rows": rows,
            "ranges": ranges_meaning(rows),
            "cmc_ranks": [1, 2, 3, 5, 10, 20],
        },
        "cmc": cmc_svg({label: row["cmc"] for label, row in rows.items()}),
        **_open_set_parts(rows),
        "histogram": histogram_svg(scoring.histogram),
        "pairs": {
            "galleries": galleries,
            "rows": [(q, [cells[q, g] for g in galleries]) for q in queries],
        },
        "protocol": scoring.protocol,
    }


def _open_set_parts(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The table of open-set scores, and its curves, caption -> SVG."""
    of_rows = {label: open_set_points(row) for label, row in rows.items()}
    names = list(dict.fromkeys(name for points in of_rows.values() for name in points))
    if not names:
        return {"open_set": None, "open_curves": {}}
    figures = {}
    for kind, (name, caption, *axes_names) in _OPEN_SET_PLOTS.items():
        curves = {label: row["open_set"][kind]["curve"] for label, row in rows.items()}
        svg = open_set_svg(curves, name, (axes_names[0], axes_names[1]))
        if svg is not None:
            figures[caption] = svg
    table = {"names": names, "rows": of_rows, "notes": open_set_notes(rows)}
    return {"open_set": table, "open_curves": figures}


def _tracklet(
    features: FeatureSet, row: int, strip: str | None, below: Path | None
) -> dict[str, Any]:
    """What the page says of one tracklet; weights in hundredths of their chunk's mean.

    Without a strip it names the frames' files, from the folder `below`, if they are files.
    """
    chosen = strip_frames(features, row, FRAMES)
    names = [bytes(features.names[features.offsets[row] + k]) for k in chosen]
    files = [] if strip is not None or below is None else _addresses(features, names, below)
    weights = relative_weights(features, row)
    return {
        "name": tracklet_name(features, row),
        "person": int(features.person_ids[row]),
        "camera": int(features.cameras[row]),
        **({"files": files} if strip is None else {"strip": strip}),
        "length": int(features.offsets[row + 1] - features.offsets[row]),
        "frames": (chosen + 1).tolist(),
        "weights": {
            kind: [None if np.isnan(v) else round(100 * float(v)) for v in values[chosen]]
            for kind, values in weights.items()
        },
    }


def _addresses(features: FeatureSet, names: Sequence[bytes], below: Path) -> list[str]:
    folder = os.fsencode(os.path.relpath(features.image_dir, below))
    return [urllib.parse.quote(os.path.join(folder, name)) for name in names]


def _query(content: ReportContent, row: int) -> dict[str, Any]:
    lists, scoring, probabilities = content.lists, content.scoring, content.probabilities
    places = np.flatnonzero(lists.entries[row] >= 0)
    query: dict[str, Any] = {
        "entries": lists.entries[row, places].tolist(),
        "distances": [round(float(d), 4) for d in lists.distances[row, places]],
    }
    if content.pooled is not None and content.pooled[row] > 1:
        query["pooled"] = int(content.pooled[row])
    if content.nobody is not None:
        query["nobody"] = bool(content.nobody[row])
    if probabilities is not None:
        query["probable"] = [round(float(p), 4) for p in probabilities[row, places]]
    if scoring is not None:
        known = scoring.outcomes
        precision = float(known.average_precisions[row])
        query |= {
            "right": known.right[row, places].astype(int).tolist(),
            "ap": None if np.isnan(precision) else round(precision, 4),
            "first": int(known.first_ranks[row]),
            "matches": int(known.match_counts[row]),
        }
    return query
