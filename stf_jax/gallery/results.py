"""What a search found, written as a table with thumbnails; what a gallery holds, in lines."""

import collections
import csv
import io
import os
from pathlib import Path
from typing import Any

from stf_jax.evaluation.features.feature_files import FeatureSet, tracklet_name
from stf_jax.files import atomic_write, csv_cell
from stf_jax.gallery.search import Found, entries
from stf_jax.gallery.table import Gallery, reported

MATCHES_FILE = "matches.csv"
THUMBNAILS = "thumbnails"
_COLUMNS = ("name", "camera", "person", "tracker_id", "first_frame", "last_frame")
_TIMES = ("seen_from", "seen_to")


def write_results(folder: Path, gallery: Gallery, query: FeatureSet, found: Found) -> Path:
    """Write matches.csv, and the thumbnail of each tracklet in it; returns the table's path.

    A row an entry: `query_row` (from 0), `query`, `place` (from 1), `distance`, `id`, and what the
    gallery has of the tracklet: name, camera, person, the tracker's id, first and last frame, when
    it was seen (UTC), source, and `thumbnail`, a file in this folder. Empty where not known.
    """
    known = entries(gallery, found.rows.ravel())
    (folder / THUMBNAILS).mkdir(parents=True, exist_ok=True)
    for entry in known.values():
        entry["file"] = ""
        if entry["thumbnail"] is not None:
            entry["file"] = f"{THUMBNAILS}/{entry['id'].hex()}.jpg"
            with atomic_write(folder / entry["file"], sync=False) as temporary:
                temporary.write_bytes(entry["thumbnail"])
    with atomic_write(folder / MATCHES_FILE) as temporary:
        text = _table(query, found, known)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return folder / MATCHES_FILE


def _table(query: FeatureSet, found: Found, known: dict[int, dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["query_row", "query", "place", "distance", "id", *_COLUMNS, *_TIMES]
    writer.writerow([*head, "source", "thumbnail"])
    for row, (ids, distances) in enumerate(
        zip(found.rows.tolist(), found.distances.tolist(), strict=True)
    ):
        name = csv_cell(tracklet_name(query, row))
        for place, (entry_id, distance) in enumerate(zip(ids, distances, strict=True), start=1):
            if entry_id < 0:
                break
            entry = known[entry_id]
            values = [csv_cell("" if entry[c] is None else str(entry[c])) for c in _COLUMNS]
            times = ["" if entry[c] is None else f"{entry[c].isoformat()}Z" for c in _TIMES]
            about = [*values, *times, csv_cell(entry["source"]), entry["file"]]
            writer.writerow([row, name, place, f"{distance:.6g}", entry["id"].hex(), *about])
    return out.getvalue()


def describe(gallery: Gallery) -> list[str]:
    """Lines: how many tracklets of which cameras, people, sources and times; model, versions."""
    table, origin = gallery.table, gallery.origin
    cameras: collections.Counter[int] = collections.Counter()
    people: set[int] = set()
    sources: set[str] = set()
    times: list[Any] = []
    columns = ["camera", "person", "source", *_TIMES]
    with reported(gallery.where):
        for batch in table.search().select(columns).to_batches():
            found = {name: batch[name].to_pylist() for name in columns}
            cameras.update(found["camera"])
            people |= {person for person in found["person"] if person is not None}
            sources |= set(found["source"])
            known = [time for name in _TIMES for time in found[name] if time is not None]
            times = [min([*times, *known]), max([*times, *known])] if times or known else []
        indexed = [index for index in table.list_indices() if index.columns == ["feature"]]
        versions = len(table.list_versions())
    of_cameras = ", ".join(f"{n} of camera {camera}" for camera, n in sorted(cameras.items()))
    lines = [
        f"{gallery.where}: {sum(cameras.values())} tracklets" + (f": {of_cameras}" * bool(cameras)),
        f"people with labels: {len(people)}; files: {', '.join(sorted(map(os.fspath, sources)))}",
        f"features: {gallery.dimensions} numbers, {origin.metric}, weights "
        f"{origin.weights_digest[:8]}, step {origin.step}",
        f"versions: {versions}; index: {'yes' if indexed else 'none, searches are exact'}",
    ]
    if times:
        lines.insert(2, f"seen from {times[0].isoformat()}Z to {times[1].isoformat()}Z")
    return lines
