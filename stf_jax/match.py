"""One set of tracklets ranked against another: `python -m stf_jax.main --mode match`."""

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from stf_jax.errors import UserError
from stf_jax.evaluation.calibration import Calibration
from stf_jax.evaluation.distances import pairwise_distances
from stf_jax.evaluation.features.feature_files import FeatureSet, tracklet_name
from stf_jax.evaluation.features.origin import check_same_origin
from stf_jax.evaluation.pages.report import TOP, RankedLists, ReportContent, write_report
from stf_jax.evaluation.ranked_lists import empty_lists, fill_list
from stf_jax.files import atomic_write

MATCHES_FILE = "matches.csv"


@dataclass(frozen=True, eq=False)
class Matches:
    """The nearest K of G gallery tracklets for each of Q queries, nearest first."""

    query: FeatureSet
    gallery: FeatureSet
    entries: Int[np.ndarray, "q k"]  # gallery row; -1 where the gallery is shorter
    distances: Float[np.ndarray, "q k"]  # infinite there
    probabilities: Float[np.ndarray, "q k"] | None  # that it is the same person
    calibration: Calibration | None


def match_tracklets(
    query: FeatureSet,
    gallery: FeatureSet,
    *,
    top: int = TOP,
    calibration: Calibration | None = None,
) -> Matches:
    """Rank `gallery` for every tracklet of `query` by their run's metric, ties by gallery row.

    A tracklet is not matched with itself where both sets hold it; one of which no image could be
    read is in no list and has an empty one. With a `calibration`
    (`evaluation.calibration.fit_calibration`) each entry gets a probability.

    Raises:
        UserError: an empty set, or features or calibration of another origin than the query's.
    """
    for name, features in (("query", query), ("gallery", gallery)):
        if not features.num_tracklets:
            raise UserError(f"{name}: no tracklet; expected some")
    check_same_origin(query=query.origin, gallery=gallery.origin)
    if calibration is not None:
        check_same_origin(query=query.origin, calibration=calibration.origin)
    metric = query.origin.metric
    distances = pairwise_distances(query.features, gallery.features, metric=metric)
    first_images = np.array([_first_image(gallery, g) for g in range(gallery.num_tracklets)])
    lists = empty_lists(query.num_tracklets, min(top, gallery.num_tracklets))
    seen = gallery.features.any(axis=1)
    for row in np.flatnonzero(query.features.any(axis=1)):
        others = first_images != _first_image(query, int(row))
        fill_list(lists, int(row), distances[row], seen & others)
    return Matches(
        query,
        gallery,
        lists.entries,
        lists.distances,
        None if calibration is None else calibration.probabilities(lists.distances),
        calibration,
    )


def write_matches(
    folder: str | os.PathLike[str], matches: Matches, *, title: str = "Matches"
) -> Path:
    """Write index.html, its film strips and matches.csv into `folder`; returns the page's path.

    matches.csv has a row an entry: `query_row`, `query`, `place` (from 1), `gallery_row`,
    `gallery`, `distance`, `probability` (empty without calibration); rows count from 0.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    notes = ["No labels were used."]
    calibration = matches.calibration
    if calibration is not None:
        notes.append(
            f"Probabilities: calibrated on {calibration.matches:,} matching and "
            f"{calibration.others:,} other pairs of {calibration.data}, for pairs of which "
            f"{100 * calibration.prior:.3g} % are of one person; they hold for pictures like those."
        )
    page = write_report(
        folder,
        ReportContent(
            title=title,
            notes=[
                f"{matches.query.num_tracklets} tracklets looked for among "
                f"{matches.gallery.num_tracklets}"
            ],
            query=matches.query,
            gallery=matches.gallery,
            lists=RankedLists(matches.entries, matches.distances),
            probabilities=matches.probabilities,
            list_notes=notes,
        ),
    )
    with atomic_write(folder / MATCHES_FILE) as temporary:
        temporary.write_text(_table(matches), encoding="utf-8", newline="")
    return page


def select_camera(features: FeatureSet, camera: int | None, name: str) -> FeatureSet:
    """The tracklets of one camera, or all for None. Raises UserError where it has none."""
    if camera is None:
        return features
    rows = np.flatnonzero(features.cameras == camera)
    if not len(rows):
        there = ", ".join(map(str, np.unique(features.cameras)))
        raise UserError(f"{name}: no tracklet of camera {camera}; there are cameras {there}")
    return features.select(rows)


def _first_image(features: FeatureSet, row: int) -> str:
    name = os.fsdecode(bytes(features.names[features.offsets[row]]))
    return os.path.join(features.image_dir, name)


def _table(matches: Matches) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = "query_row,query,place,gallery_row,gallery,distance,probability"
    writer.writerow(head.split(","))
    for row, entries in enumerate(matches.entries):
        for place, entry in enumerate(entries[entries >= 0].tolist()):
            chance = matches.probabilities
            writer.writerow(
                [
                    row,
                    tracklet_name(matches.query, row),
                    place + 1,
                    entry,
                    tracklet_name(matches.gallery, entry),
                    f"{matches.distances[row, place]:.6g}",
                    "" if chance is None else f"{chance[row, place]:.6g}",
                ]
            )
    return out.getvalue()
