"""One set of tracklets ranked against another: `python -m stf_jax.main --mode match`."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from stf_jax.errors import UserError
from stf_jax.evaluation.best_matches import Candidates, best_matches
from stf_jax.evaluation.calibration import AlarmThreshold, Calibration
from stf_jax.evaluation.centring import camera_means, centring_means
from stf_jax.evaluation.features.feature_files import FeatureSet, tracklet_name
from stf_jax.evaluation.features.origin import check_same_origin
from stf_jax.evaluation.pages.report import TOP, RankedLists, ReportContent, write_report
from stf_jax.evaluation.scores import MEANS
from stf_jax.files import atomic_write, csv_cell

MATCHES_FILE = "matches.csv"
SHOWN = 1000  # queries on the page
NOBODY = "nobody in the gallery"
MORE_ENTRIES = 1.5  # times those that a threshold was found on: from there a note says so


@dataclass(frozen=True, eq=False)
class Matches:
    """The nearest K of G gallery tracklets for each of Q queries, nearest first."""

    query: FeatureSet
    gallery: FeatureSet
    entries: Int[np.ndarray, "q k"]  # gallery row; -1 where the gallery is shorter
    distances: Float[np.ndarray, "q k"]  # infinite there
    probabilities: Float[np.ndarray, "q k"] | None  # that it is the same person
    calibration: Calibration | None
    centring: str = ""  # whose mean feature of each camera was taken off; "": none was
    nobody: Bool[np.ndarray, " q"] | None = None  # no entry near enough; None: no threshold


def match_tracklets(
    query: FeatureSet,
    gallery: FeatureSet,
    *,
    top: int = TOP,
    calibration: Calibration | None = None,
    same_camera: bool = False,
    centre_with: FeatureSet | str | None = None,
    accelerator: bool | None = None,
) -> Matches:
    """Rank `gallery` for every tracklet of `query` by their run's metric, ties by gallery row.

    A list holds tracklets of other cameras than its query's; with `same_camera` those of its own,
    too, but never the query itself. One of which no image could be read is in no list and has an
    empty one. With a `calibration`
    (`evaluation.calibration.fit_calibration`) each entry gets a probability. Where that has a
    threshold (`false_alarms`), lists end there, and of a query with an empty list nobody is in the
    gallery (`Matches.nobody`; False of one of which no image could be read: nothing is known).

    With `centre_with` each camera's mean feature is taken off first
    (`evaluation.centring.centre_pair`): that of another set of the same cameras, or with "gallery"
    the gallery's own, and the queries' of a camera that it lacks. A calibration has to be of
    centred features then.

    The matrix of all pairs is never in memory: a gallery may have millions of tracklets. Distances
    are computed through JAX where its default device is no CPU, or as `accelerator` says.

    Raises:
        UserError: an empty set, all of one camera (without `same_camera`), features or calibration
            of another origin than the query's or another number of dimensions, a camera that cannot
            be centred, or a calibration that is centred, or has a threshold for lists with the
            query's own camera, where the features are or have not, or the other way round.
    """
    for name, features in (("query", query), ("gallery", gallery)):
        if not features.num_tracklets:
            raise UserError(f"{name}: no tracklet; expected some")
    check_same_origin(query=query.origin, gallery=gallery.origin)
    if calibration is not None:
        check_same_origin(query=query.origin, calibration=calibration.origin)
        if calibration.centred != (centre_with is not None):
            words = {True: "centred", False: "not centred"}
            raise UserError(
                f"calibration: of features that are {words[calibration.centred]}; expected "
                f"{words[not calibration.centred]}, as query and gallery are (fit_calibration)"
            )
        _check_calibration(calibration, query, same_camera)
    centring, means = "", None
    if isinstance(centre_with, FeatureSet):
        check_same_origin(query=query.origin, centre_with=centre_with.origin)
        means = camera_means(centre_with.features, centre_with.cameras)
        centring = f"{centre_with.num_tracklets} tracklets of {centre_with.image_dir}"
    elif centre_with is not None:
        if centre_with != "gallery":
            raise UserError(f"centre_with {centre_with!r}: expected features, 'gallery' or None")
        centring = MEANS["gallery"]
    cameras = np.unique(np.concatenate([query.cameras, gallery.cameras]))
    if not same_camera and len(cameras) == 1:
        raise UserError(
            f"all of query and gallery are of camera {cameras[0]}; expected others to look in: say "
            "which camera each is of (--mode embed --camera N), or give --same-camera "
            "(same_camera=True)"
        )
    metric = query.origin.metric
    if centring:
        means = centring_means(
            *(query.features, query.cameras, gallery.features, gallery.cameras), means
        )
    lists = best_matches(
        query.features,
        gallery.features,
        top,
        Candidates(query.cameras, gallery.cameras, same_camera, *_same_tracklets(query, gallery)),
        metric=metric,
        means=means,
        accelerator=accelerator,
    )
    nobody = None
    if calibration is not None and calibration.alarms is not None:
        far = lists.distances >= calibration.alarms.distance
        lists.entries[far], lists.distances[far] = -1, np.inf
        nobody = np.asarray((lists.entries < 0).all(axis=1) & query.features.any(axis=1))
    return Matches(
        query,
        gallery,
        lists.entries,
        lists.distances,
        None if calibration is None else calibration.probabilities(lists.distances),
        calibration,
        centring,
        nobody,
    )


def _check_calibration(calibration: Calibration, query: FeatureSet, same_camera: bool) -> None:
    """Raise UserError for one of other features, or of lists of another kind."""
    dimensions = query.features.shape[1]
    if calibration.dimensions not in (None, dimensions):
        raise UserError(
            f"calibration: features of {calibration.dimensions} numbers; expected {dimensions}, as "
            "those of the query have"
        )
    if calibration.alarms is not None and calibration.alarms.same_camera != same_camera:
        words = {True: "with", False: "without"}
        raise UserError(
            f"calibration: a threshold of lists {words[not same_camera]} entries of the query's "
            f"own camera; expected {words[same_camera]} them (fit_calibration's same_camera)"
        )


def write_matches(
    folder: str | os.PathLike[str],
    matches: Matches,
    *,
    title: str = "Matches",
    shown: int | None = SHOWN,
) -> Path:
    """Write index.html, its film strips and matches.csv into `folder`; returns the page's path.

    The page shows the `shown` queries with the nearest entries, or all for None.

    matches.csv has a row an entry: `query_row`, `query`, `place` (from 1), `gallery_row`,
    `gallery`, `distance`, `probability` (empty without calibration), and of query and gallery
    camera, the tracker's id, first and last frame (`query_camera`, `query_id`,
    `query_first_frame` ...; empty where not known); rows count from 0. A name that a spreadsheet
    would run as a formula (`=...`) has an apostrophe before it; bytes of a name that are no UTF-8
    are written as `\\udcXX`. A query of whom nobody is in the gallery has one row, whose `gallery`
    says so; its place, distance and the gallery's other columns are empty.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    notes = ["No labels were used."]
    if matches.centring:
        notes.append(f"Each camera's mean feature, of the {matches.centring}, taken off.")
    calibration = matches.calibration
    if calibration is not None:
        notes.append(
            f"Probabilities: calibrated on {calibration.matches:,} matching and "
            f"{calibration.others:,} other pairs of {calibration.data}, for pairs of which "
            f"{100 * calibration.prior:.3g} % are of one person; they hold for pictures like those."
        )
        if calibration.alarms is not None:
            notes.append(_say_alarms(calibration.alarms, matches))
    rows = np.arange(matches.query.num_tracklets)
    if shown is not None and len(rows) > shown:
        nearest = matches.distances.min(axis=1, initial=np.inf)
        rows = np.sort(np.argsort(nearest, kind="stable")[:shown])
        notes.append(
            f"Shown are the {shown:,} with the nearest entries; {MATCHES_FILE} has all "
            f"{matches.query.num_tracklets:,}."
        )
    chances, nobody = matches.probabilities, matches.nobody
    page = write_report(
        folder,
        ReportContent(
            title=title,
            notes=[
                f"{matches.query.num_tracklets} tracklets looked for among "
                f"{matches.gallery.num_tracklets}"
            ],
            query=matches.query.select(rows),
            gallery=matches.gallery,
            lists=RankedLists(matches.entries[rows], matches.distances[rows]),
            probabilities=None if chances is None else chances[rows],
            list_notes=notes,
            nobody=None if nobody is None else nobody[rows],
        ),
    )
    with atomic_write(folder / MATCHES_FILE) as temporary:
        text = _table(matches)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return page


def _say_alarms(alarms: AlarmThreshold, matches: Matches) -> str:
    """What the threshold is, what it does, and whether it holds for so large a gallery."""
    assert matches.nobody is not None
    low, high = (100 * end for end in alarms.ends)
    said = (
        f"Lists end at distance {alarms.distance:.4g}: there {100 * alarms.false_alarms:g} % of "
        f"{alarms.impostors:,} queries raised a false alarm among {alarms.list_size:,} tracklets "
        f"without their person, and {100 * alarms.identified:.1f} % ({low:.1f} to {high:.1f} %) "
        f"were found at rank 1. Of {matches.nobody.sum():,} queries nobody is in the gallery."
    )
    size = matches.gallery.num_tracklets
    if size > MORE_ENTRIES * alarms.list_size:
        said += (
            f" This gallery has {size:,} tracklets: expect more false alarms, about in proportion."
        )
    return said


def select_cameras(features: FeatureSet, cameras: Sequence[int] | None, name: str) -> FeatureSet:
    """The tracklets of these cameras, or all for None. Raises UserError where one has none."""
    if cameras is None:
        return features
    there = np.unique(features.cameras)
    missing = sorted(set(cameras) - set(there.tolist()))
    if missing:
        raise UserError(
            f"{name}: no tracklet of camera {missing[0]}; there are cameras "
            f"{', '.join(map(str, there))}"
        )
    return features.select(np.flatnonzero(np.isin(features.cameras, cameras)))


def _same_tracklets(query: FeatureSet, gallery: FeatureSet) -> tuple[np.ndarray, np.ndarray]:
    """Rows of queries and of the entries that begin with the same image, by ascending entry."""
    first = [features.names[features.offsets[:-1]].tolist() for features in (query, gallery)]
    folders = [os.fsencode(features.image_dir) for features in (query, gallery)]
    rows: dict[bytes, list[int]] = {}
    for row, name in enumerate(first[0]):
        rows.setdefault(os.path.join(folders[0], name), []).append(row)
    pairs = [
        (row, entry)
        for entry, name in enumerate(first[1])
        for row in rows.get(os.path.join(folders[1], name), ())
    ]
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _source(features: FeatureSet, row: int) -> list[int | str]:
    """Camera, the tracker's id, first and last frame; empty where not known."""
    known = [-1, -1, -1] if features.sources is None else features.sources[row].tolist()
    return [int(features.cameras[row]), *("" if value < 0 else value for value in known)]


def _table(matches: Matches) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["query_row", "query", "place", "gallery_row", "gallery", "distance", "probability"]
    parts = ("camera", "id", "first_frame", "last_frame")
    writer.writerow([*head, *(f"{side}_{part}" for side in ("query", "gallery") for part in parts)])
    for row, entries in enumerate(matches.entries):
        if matches.nobody is not None and matches.nobody[row]:
            name = csv_cell(tracklet_name(matches.query, row))
            blank = [""] * len(parts)
            writer.writerow(
                [row, name, "", "", NOBODY, "", "", *_source(matches.query, row), *blank]
            )
        for place, entry in enumerate(entries[entries >= 0].tolist()):
            chance = matches.probabilities
            writer.writerow(
                [
                    row,
                    csv_cell(tracklet_name(matches.query, row)),
                    place + 1,
                    entry,
                    csv_cell(tracklet_name(matches.gallery, entry)),
                    f"{matches.distances[row, place]:.6g}",
                    "" if chance is None else f"{chance[row, place]:.6g}",
                    *_source(matches.query, row),
                    *_source(matches.gallery, entry),
                ]
            )
    return out.getvalue()
