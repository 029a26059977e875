"""The page of `--mode identify`: a row a person, film strips on a time line over cameras."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stf_jax.evaluation.features.feature_files import FeatureSet, tracklet_name
from stf_jax.evaluation.pages.film_strips import FRAME_HEIGHT, write_strips
from stf_jax.evaluation.pages.report import FRAMES, MAX_STRIPS, PAGE_FILE, STRIPS_FOLDER
from stf_jax.evaluation.pages.templates import templates
from stf_jax.files import atomic_write


@dataclass(frozen=True, eq=False)
class Sighting:
    """One tracklet of a person."""

    input: str
    features: FeatureSet
    row: int
    start: float  # NaN: not known
    end: float
    doubtful: bool
    distance: float  # mean to the person's others; NaN: there are none


@dataclass(frozen=True, eq=False)
class Person:
    """A person and its tracklets in the order of time."""

    number: int
    sightings: Sequence[Sighting]


def write_people(folder: Path, people: Sequence[Person], notes: Sequence[str], unit: str) -> Path:
    """Write the page and its strips, of the first people up to MAX_STRIPS; returns its path.

    `unit` is of the times: "s", or "frame" where each input has frames of its own.
    """
    strips = folder / STRIPS_FOLDER
    strips.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, list[int]] = {}
    of_input: dict[str, FeatureSet] = {}
    all_sightings = [sighting for person in people for sighting in person.sightings]
    for sighting in all_sightings[:MAX_STRIPS]:
        of_input[sighting.input] = sighting.features
        wanted.setdefault(sighting.input, []).append(sighting.row)
    files: dict[tuple[str, int], str] = {}
    for number, (name, rows) in enumerate(wanted.items()):
        prefix = f"{number}-"
        drawn = write_strips(of_input[name], np.array(rows), strips, prefix, FRAMES)
        files |= {(name, row): file for row, file in drawn.items()}
    for path in strips.glob("*.jpg"):
        if path.name not in files.values():
            path.unlink()
    times = [t for s in all_sightings for t in (s.start, s.end) if math.isfinite(t)]
    span = (min(times), max(times)) if times else (0.0, 1.0)
    page = folder / PAGE_FILE
    html = (
        templates()
        .get_template("people.html.jinja")
        .render(
            title="Who is who",
            notes=notes,
            style=Path(__file__).with_name("report.css").read_text(encoding="utf-8"),
            people=[_person(person, files, span, unit) for person in people],
            folder=STRIPS_FOLDER,
            height=FRAME_HEIGHT,
        )
    )
    with atomic_write(page) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    return page


def _person(
    person: Person,
    files: dict[tuple[str, int], str],
    span: tuple[float, float],
    unit: str,
) -> dict[str, Any]:
    low, high = span
    lanes: dict[str, list[dict[str, Any]]] = {}
    cards = []
    several = len({sighting.input for sighting in person.sightings}) > 1
    for place, sighting in enumerate(person.sightings, 1):
        camera = int(sighting.features.cameras[sighting.row])
        lane = f"{sighting.input}, camera {camera}" if several else f"camera {camera}"
        bars = lanes.setdefault(lane, [])
        when = "time not known"
        if math.isfinite(sighting.start):
            ends = sighting.start, sighting.end
            first, last = (f"{t:.1f}" if unit == "s" else f"{t:.0f}" for t in ends)
            when = f"{first} to {last} s" if unit == "s" else f"frames {first} to {last}"
            width = max(1e-9, high - low)
            bars.append(
                {
                    "left": round(1000 * (sighting.start - low) / width, 1),
                    "width": round(max(3, 1000 * (sighting.end - sighting.start) / width), 1),
                    "doubtful": sighting.doubtful,
                    "title": f"{place}: {when}",
                }
            )
        cards.append(
            {
                "place": place,
                "name": tracklet_name(sighting.features, sighting.row),
                "where": lane,
                "when": when,
                "strip": files.get((sighting.input, sighting.row)),
                "doubtful": sighting.doubtful,
                "distance": None if math.isnan(sighting.distance) else sighting.distance,
            }
        )
    return {
        "number": person.number,
        "lanes": sorted(lanes.items()) if any(lanes.values()) else [],
        "cards": cards,
        "doubtful": sum(sighting.doubtful for sighting in person.sightings),
    }
