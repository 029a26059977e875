"""One identity over all cameras and visits: `python -m stf_jax.main --mode identify`."""

import csv
import io
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from stf_jax.errors import UserError
from stf_jax.evaluation.calibration import Calibration
from stf_jax.evaluation.centring import camera_means, centring_means, less_means
from stf_jax.evaluation.features.feature_files import UNKNOWN_ID, FeatureSet, tracklet_name
from stf_jax.evaluation.features.origin import check_same_origin
from stf_jax.evaluation.identities import (
    Presence,
    cannot_link,
    find_identities,
    identity_scores,
)
from stf_jax.evaluation.pages.people import Person, Sighting, write_people
from stf_jax.files import atomic_write, csv_cell
from stf_jax.prepare.tracks.track_files import read_tracks
from stf_jax.reading.limits import read_text

IDENTITIES_FILE = "identities.csv"
SCORES_FILE = "scores.json"
TRACKS_FOLDER = "tracks"
SHOWN = 1000  # people on the page

_LOG = logging.getLogger(__name__)
_LINE = re.compile(r"(\s*([^,\s]+)[,\s]+)([^,\s]+)(.*)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class People:
    """The people of N tracklets: those of the first input, then of the second, and so on."""

    inputs: Mapping[str, FeatureSet]
    of_input: Int[np.ndarray, " n"]  # place of the input
    rows: Int[np.ndarray, " n"]  # row in it
    labels: Int[np.ndarray, " n"]  # identity from 1; 0: no image could be read
    count: int
    threshold: float
    distances: Float[np.ndarray, " n"]  # mean to the others of its identity; NaN: none
    doubtful: Bool[np.ndarray, " n"]
    presence: Presence
    in_seconds: bool  # the times of `presence`; else frames of each video


def identify_tracklets(
    inputs: Mapping[str, FeatureSet],
    *,
    people: int | None = None,
    calibration: Calibration | None = None,
    travel_times: Mapping[tuple[int, int], float] | None = None,
    starts: Mapping[int, float] | None = None,
    centre_with: FeatureSet | str | None = None,
) -> People:
    """Find who is who among the tracklets of all inputs.

    Average linkage under constraints (`evaluation.identities`): it ends at the calibration's
    threshold for false alarms or, where that has none, at the distance at which a pair is as
    probably one person as not; or at so many people. Two tracklets that one camera sees at the same
    time are two people. Frames of one input are of one clock; with `travel_times` or `starts` those
    of all inputs are.

    Args:
        inputs: name -> features, all of one origin.
        people: how many there are; or
        calibration: says how near is near enough (`fit_calibration`).
        travel_times: least seconds from camera to camera; other pairs of cameras are free.
        starts: camera -> the second of its first frame on the common clock; 0 by default.
        centre_with: each camera's mean feature is taken off first: that of another set, or with
            "gallery" the inputs' own.

    Raises:
        UserError: no tracklet, features or calibration of another origin, no frame rate where
            seconds are needed, neither or both of people and calibration, or too few people.
    """
    sets = list(inputs.values())
    for name, features in inputs.items():
        if not features.num_tracklets:
            raise UserError(f"{name}: no tracklet; expected some")
        check_same_origin(**{"the first": sets[0].origin, name: features.origin})
    threshold = None
    if (people is None) == (calibration is None):
        raise UserError("expected the number of people, or a set to calibrate with")
    if calibration is not None:
        check_same_origin(input=sets[0].origin, calibration=calibration.origin)
        if calibration.centred != (centre_with is not None):
            raise UserError(
                "calibration: centred where the inputs are not, or the other way round; expected "
                "both alike (fit_calibration, centred)"
            )
        threshold = _threshold(calibration)
    of_input = np.repeat(np.arange(len(sets)), [features.num_tracklets for features in sets])
    rows = np.concatenate([np.arange(features.num_tracklets) for features in sets])
    values = np.concatenate([features.features for features in sets])
    cameras = np.concatenate([features.cameras for features in sets])
    if centre_with is not None:
        means = None
        if isinstance(centre_with, FeatureSet):
            check_same_origin(input=sets[0].origin, centre_with=centre_with.origin)
            means = camera_means(centre_with.features, centre_with.cameras)
        means = centring_means(values[:0], cameras[:0], values, cameras, means)
        values = less_means(means, values, cameras)
    in_seconds = bool(travel_times) or starts is not None
    presence = _presence(inputs, of_input, cameras, starts or {}, in_seconds)
    seen = np.flatnonzero(values.any(axis=1))
    if not len(seen):
        raise UserError("no image of any tracklet could be read; expected features of some")
    of_seen = Presence(*(of[seen] for of in vars(presence).values()))
    found = find_identities(
        values[seen],
        cannot_link(of_seen, travel_times),
        metric=sets[0].origin.metric,
        threshold=threshold,
        people=people,
    )
    return People(
        inputs,
        of_input,
        rows,
        _spread(found.labels + 1, seen, len(rows), 0),
        found.count,
        found.threshold,
        _spread(found.distances, seen, len(rows), np.nan),
        _spread(found.doubtful, seen, len(rows), False),
        presence,
        in_seconds,
    )


def write_identities(
    folder: str | os.PathLike[str],
    people: People,
    *,
    tracks: Mapping[tuple[str, int], Path] | None = None,
    shown: int = SHOWN,
) -> Path:
    """Write identities.csv, index.html and the tracks with new ids; returns the page's path.

    identities.csv has a row a tracklet: `identity` (from 1; empty where no image could be read),
    `input`, `row`, `tracklet`, `camera`, `id`, `first_frame`, `last_frame` (empty where not known),
    `distance` (mean to the others of its identity), `doubtful` (yes or empty).

    Args:
        folder: made if need be.
        people: of `identify_tracklets`.
        tracks: (input, camera) -> the MOT file of its tracks, of which a copy with the new ids goes
            to tracks/INPUT_CAMERA.txt; boxes of no tracklet are left out.
        shown: people on the page, those of most tracklets.

    Raises:
        UserError: a file of tracks of no input and camera, or that is none.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{people.count:,} people in {len(people.rows):,} tracklets"]
    for (name, camera), path in (tracks or {}).items():
        text, left = _with_new_ids(people, name, camera, path)
        (folder / TRACKS_FOLDER).mkdir(exist_ok=True)
        with atomic_write(folder / TRACKS_FOLDER / f"{name}_{camera}.txt") as temporary:
            temporary.write_text(text, encoding="utf-8")
        if left:
            lines.append(f"{path.name}: {left:,} boxes of no tracklet left out of the new tracks")
    with atomic_write(folder / IDENTITIES_FILE) as temporary:
        text = _table(people)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    sizes = np.bincount(people.labels, minlength=people.count + 1)[1:]
    largest = np.argsort(-sizes, kind="stable")[:shown]
    if people.count > shown:
        lines.append(
            f"Shown are the {shown:,} of most tracklets; {IDENTITIES_FILE} has all of them."
        )
    doubtful = int(people.doubtful.sum())
    lines.append(
        f"Joined up to a mean distance of {people.threshold:.4g}; doubtful are {doubtful:,} "
        "tracklets, from 90 % of it on or nearer to another person."
    )
    names = list(people.inputs)
    order = np.lexsort((people.presence.starts, people.of_input))
    members: dict[int, list[int]] = {}
    for i in order[np.isin(people.labels[order], largest + 1)].tolist():
        members.setdefault(int(people.labels[i]), []).append(i)
    shown_people = [
        Person(
            int(label) + 1,
            [
                Sighting(
                    input=names[people.of_input[i]],
                    features=people.inputs[names[people.of_input[i]]],
                    row=int(people.rows[i]),
                    start=float(people.presence.starts[i]),
                    end=float(people.presence.ends[i]),
                    doubtful=bool(people.doubtful[i]),
                    distance=float(people.distances[i]),
                )
                for i in members[int(label) + 1]
            ],
        )
        for label in largest
    ]
    return write_people(folder, shown_people, lines, unit="s" if people.in_seconds else "frame")


def score_identities(people: People) -> dict[str, float]:
    """`identity_scores` of the tracklets whose person is known (not -1) and that have an image.

    Raises UserError where there is none.
    """
    sets = list(people.inputs.values())
    truth = np.concatenate([features.person_ids for features in sets])
    frames = np.concatenate([features.num_frames for features in sets])
    known = np.flatnonzero((truth != UNKNOWN_ID) & (people.labels > 0))
    if not len(known):
        raise UserError("no tracklet of a known person; expected features of a labelled layout")
    return identity_scores(people.labels[known], truth[known], frames[known])


def write_identity_scores(path: Path, scores: Mapping[str, float]) -> None:
    """Write scores as strict JSON, None where undefined."""
    values = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_travel_times(path: Path) -> dict[tuple[int, int], float]:
    """Least seconds from camera to camera of a CSV file with columns from, to, seconds.

    Raises:
        UserError: no such file, or a row that is not of two cameras and seconds of at least 0.
    """
    try:
        lines = csv.DictReader(io.StringIO(read_text(path), newline=""))
        found: dict[tuple[int, int], float] = {}
        for row in lines:
            cameras, seconds = (int(row["from"]), int(row["to"])), float(row["seconds"])
            if cameras[0] == cameras[1] or not 0 <= seconds < math.inf:
                raise ValueError(f"line {lines.line_num}")
            found[cameras] = seconds
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); expected a CSV file with the columns from, to (two "
            "cameras) and seconds (0 or more)"
        ) from None
    if not found:
        raise UserError(f"{path}: no row; expected the columns from, to, seconds")
    return found


def parse_starts(text: str) -> dict[int, float]:
    """Camera -> seconds of "1=0,2=12.5". Raises UserError for another text."""
    found = re.findall(r"(\d+)=(-?\d+(?:\.\d+)?)(?:,|$)", text)
    if not found or ",".join(f"{camera}={second}" for camera, second in found) != text:
        raise UserError(f"--starts {text}: expected CAMERA=SECONDS,..., such as 1=0,2=12.5")
    return {int(camera): float(second) for camera, second in found}


def parse_tracks(
    words: Sequence[str], inputs: Mapping[str, FeatureSet]
) -> dict[tuple[str, int], Path]:
    """(input, camera) -> file of [INPUT@]CAMERA:FILE; the input may be left out where it is clear.

    Raises UserError for other words, and where an input or camera is not there, or in several.
    """
    found: dict[tuple[str, int], Path] = {}
    for word in words:
        match = re.fullmatch(r"(?:([^:]*)@)?(\d+):(.+)", word)
        if match is None:
            raise UserError(f"--tracks {word}: expected [INPUT@]CAMERA:FILE, such as 1:hall.txt")
        camera = int(match[2])
        having = [
            name
            for name, features in inputs.items()
            if match[1] in (None, name) and (features.cameras == camera).any()
        ]
        if len(having) != 1:
            raise UserError(
                f"--tracks {word}: camera {camera} is in {', '.join(having) or 'no input'}; "
                f"expected one of {', '.join(inputs)}, as INPUT@CAMERA:FILE"
            )
        found[having[0], camera] = Path(match[3])
    return found


def _threshold(calibration: Calibration) -> float:
    if calibration.alarms is not None:
        return calibration.alarms.distance
    even = -calibration.intercept / calibration.slope
    if not even > 0:
        raise UserError(
            "calibration: even at distance 0 a pair is more probably of two people; expected a "
            f"larger share of pairs of one person than {calibration.prior:.3g} (--prior), a rate "
            "of --false-alarms, or --people"
        )
    return even


def _presence(
    inputs: Mapping[str, FeatureSet],
    of_input: np.ndarray,
    cameras: np.ndarray,
    starts: Mapping[int, float],
    in_seconds: bool,
) -> Presence:
    times = []
    for name, features in inputs.items():
        count = features.num_tracklets
        if features.sources is None:
            if in_seconds:
                raise UserError(
                    f"{name}: no frames of its tracklets are known; expected features of videos or "
                    "of a layout of prepare mot (embed again), or no travel times and starts"
                )
            _LOG.warning(
                "%s: no frames of its tracklets are known, so two people that one camera sees at "
                "the same time may be joined; embed videos, or a layout of prepare mot",
                name,
            )
            times.append(np.full((count, 2), np.nan))
            continue
        found = features.sources[:, 1:].astype(np.float64)
        found[features.sources[:, 0] < 0] = np.nan
        if in_seconds:
            rates = np.full(count, np.nan) if features.rates is None else features.rates
            missing = np.flatnonzero(~(rates > 0) & ~np.isnan(found[:, 0]))
            if len(missing):
                raise UserError(
                    f"{name}: no frame rate of camera {features.cameras[missing[0]]}; expected one "
                    "for travel times and starts; prepare again (prepare mot --frame-rate) and "
                    "embed again"
                )
            found /= rates[:, None]
            found += np.array([starts.get(c, 0.0) for c in features.cameras.tolist()])[:, None]
        times.append(found)
    both = np.concatenate(times)
    clocks = np.zeros_like(of_input) if in_seconds else of_input
    return Presence(clocks, cameras, both[:, 0], both[:, 1])


def _spread(values: np.ndarray, rows: np.ndarray, count: int, otherwise: object) -> np.ndarray:
    found = np.full(count, otherwise, values.dtype)
    found[rows] = values
    return found


def _table(people: People) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = "identity,input,row,tracklet,camera,id,first_frame,last_frame,distance,doubtful"
    writer.writerow(head.split(","))
    names = list(people.inputs)
    for i, row in enumerate(people.rows.tolist()):
        name = names[people.of_input[i]]
        features = people.inputs[name]
        known = [-1, -1, -1] if features.sources is None else features.sources[row].tolist()
        distance = people.distances[i]
        writer.writerow(
            [
                people.labels[i] or "",
                csv_cell(name),
                row,
                csv_cell(tracklet_name(features, row)),
                features.cameras[row],
                *("" if value < 0 else value for value in known),
                "" if np.isnan(distance) else f"{distance:.6g}",
                "yes" if people.doubtful[i] else "",
            ]
        )
    return out.getvalue()


def _with_new_ids(people: People, name: str, camera: int, path: Path) -> tuple[str, int]:
    """The lines of a track file with identities for ids, and how many boxes have none."""
    features = people.inputs[name]
    if features.sources is None:
        raise UserError(f"--tracks {path}: {name} has no ids of a tracker; expected features of it")
    read_tracks(path, boxes="size")  # refuses what is no file of tracks; boxes stay as they are
    intervals: dict[int, list[tuple[int, int, int]]] = {}
    mine = np.flatnonzero(people.of_input == list(people.inputs).index(name))
    for i in mine[people.presence.cameras[mine] == camera].tolist():
        source, first, last = features.sources[people.rows[i]].tolist()
        if source >= 0 and people.labels[i] > 0:
            intervals.setdefault(source, []).append((first, last, int(people.labels[i])))
    lines, left = [], 0
    for line in read_text(path).splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        frame, source = int(float(match[2])), int(float(match[3]))
        found = [i for a, b, i in intervals.get(source, []) if a <= frame <= b]
        if found:
            lines.append(f"{match[1]}{found[0]}{match[4]}")
        else:
            left += 1
    return "".join(f"{line}\n" for line in lines), left
