"""Scores by plain loops over lists, as the protocols are described."""

from dataclasses import dataclass

import numpy as np

from stf_jax.data.layout.tracklets import TrackletTable


@dataclass
class Ranked:
    """The lists of Q queries; their entries are columns of `distances`, nearest first."""

    distances: np.ndarray  # [Q, G]
    queries: list[int]  # row of the table; of pooled queries the first
    pooled: list[int]
    gallery: list[int]  # rows of the table
    lists: list[list[int]]
    right: list[list[bool]]  # whether these entries are of the query's person


def distances_of(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    a, b = a.astype(float), b.astype(float)
    if metric == "cosine":
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        return 1 - a @ b.T
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


def chosen_rows(
    features: np.ndarray, table: TrackletTable, protocol: str, pool: str = ""
) -> tuple[np.ndarray, list[int], list[int], list[int]]:
    """Query features, the queries' (first) rows, tracklets in each, rows of the gallery."""
    seen = np.any(features, axis=1).tolist()
    marks, ids, cameras = (x.tolist() for x in (table.marks, table.person_ids, table.cameras))
    rows = range(len(marks))
    gallery = {
        "mars-official": list(rows),
        "step+queries": [r for r in rows if ids[r] != -1],
        "step": [r for r in rows if marks[r] == 1],
    }[protocol]
    queries = [r for r in rows if seen[r] and (marks[r] == 0 or (pool and marks[r] == 2))]
    groups = [[r] for r in queries]
    if pool:
        keys = sorted({(ids[r], cameras[r]) for r in queries})
        groups = [[r for r in queries if (ids[r], cameras[r]) == key] for key in keys]
    how = np.max if pool == "max" else np.mean
    pooled = np.stack([how(features[group].astype(float), axis=0) for group in groups])
    first = [group[0] for group in groups]
    return pooled, first, [len(group) for group in groups], [r for r in gallery if seen[r]]


def ranked(
    distances: np.ndarray,
    table: TrackletTable,
    queries: list[int],
    gallery: list[int],
    pooled: list[int] | None = None,
    separate: bool = False,
) -> Ranked:
    ids, cameras = table.person_ids, table.cameras
    lists = []
    for row, q in enumerate(queries):
        kept = []
        for column, g in enumerate(gallery):
            own_camera = cameras[g] == cameras[q]
            if ids[g] != -1 and not (own_camera and (separate or ids[g] == ids[q])):
                kept.append(column)
        lists.append(sorted(kept, key=lambda column, row=row: (distances[row, column], column)))
    right = [
        [bool(ids[gallery[column]] == ids[q]) for column in entries]
        for q, entries in zip(queries, lists, strict=True)
    ]
    return Ranked(distances, queries, pooled or [1] * len(queries), gallery, lists, right)


def precision_of(right: list[bool], protocol: str) -> float:
    """Average precision of one list; NaN without a match."""
    places = [place for place, is_right in enumerate(right, 1) if is_right]
    parts = []
    for nth, place in enumerate(places, 1):
        part = nth / place
        if protocol == "mars-official":
            part = (part + ((nth - 1) / (place - 1) if place > 1 else 1)) / 2
        parts.append(part)
    return sum(parts) / len(parts) if parts else float("nan")


def scores_of(case: Ranked, protocol: str) -> dict[str, float]:
    """Means over the queries that have a match."""
    valid = [right for right in case.right if any(right)]
    scores = {
        f"rank-{k}": sum(any(right[:k]) for right in valid) / len(valid) for k in (1, 5, 10, 20)
    }
    scores["mAP"] = float(np.mean([precision_of(right, protocol) for right in valid]))
    last = [max(place for place, is_right in enumerate(r, 1) if is_right) for r in valid]
    scores["mINP"] = float(np.mean([sum(r) / place for r, place in zip(valid, last, strict=True)]))
    return scores
