"""Rankings -> what `scores.json` holds, and the table a person reads.

A score never goes without its protocol, the gallery's size and the count of valid queries.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stf_jax.evaluation.bootstrap import FEW_IDENTITIES, Intervals
from stf_jax.evaluation.open_set import OpenSet, open_set_entry
from stf_jax.evaluation.protocols import PROTOCOLS
from stf_jax.evaluation.ranking import Ranking
from stf_jax.files import atomic_write

RANKS = (1, 5, 10, 20)
CHOSEN = "chosen_on_these_queries"  # an option of a row: the checkpoint is the best on them
CENTRING = "centring"  # an option of a row: by what set each camera's mean feature was taken off
MEANS = {
    "gallery": "gallery (of a camera that it lacks: of the queries)",
    "training": "training set",
}
OPEN_SET_KINDS = {"verification": "TPR", "identification": "DIR"}
OPEN_SET_MEANING = (
    "TPR: pairs of one person below the distance at which that share of other pairs is. DIR: "
    "queries whose nearest entry is their person and below the distance at which that share of "
    "queries raises a false alarm, their person left out of the gallery."
)
_OTHERS = {"verification": "other pairs", "identification": "queries without their person"}
_GENUINE = {"verification": "pairs of one person", "identification": "queries with a match"}
SCORE_NAMES = (*(f"rank-{k}" for k in RANKS), "mAP", "mINP")


def make_scores(
    ranking: Ranking,
    intervals: Intervals | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    open_set: OpenSet | None = None,
) -> dict[str, Any]:
    """One entry of `scores.json`: plain numbers, strings, lists and dicts; None where undefined.

    Keys: `protocol`, `meaning`, `gallery_size`, `junk_size`, `num_queries`, `valid_queries`,
    `scores` (name -> [0, 1], of `SCORE_NAMES` those the CMC is long enough for), `intervals`
    (None, or `level`, `resamples`, `seed`, `identities`, a count, and `ends`, name -> [low, high]),
    `cmc` (list, rank-1 first), `options` (those of the ranking that are not the default, then the
    given ones), `open_set` (None, or `open_set.open_set_entry`).
    """
    scores = {f"rank-{k}": ranking.cmc[k - 1] for k in RANKS if k <= len(ranking.cmc)}
    scores |= {"mAP": ranking.mean_ap, "mINP": ranking.mean_inp}
    used: dict[str, Any] = {}
    if ranking.separate_camera_set:
        used["separate_camera_set"] = True
    if ranking.single_gallery_shot:
        used |= {"single_gallery_shot": True, "draws": ranking.draws, "seed": ranking.seed}
    return {
        "protocol": ranking.protocol,
        "meaning": PROTOCOLS[ranking.protocol],
        "gallery_size": ranking.gallery_size,
        "junk_size": ranking.junk_size,
        "num_queries": ranking.num_queries,
        "valid_queries": ranking.valid_queries,
        "scores": {name: _number(value) for name, value in scores.items()},
        "intervals": None
        if intervals is None
        else {
            **vars(intervals),
            "ends": {name: [_number(e) for e in ends] for name, ends in intervals.ends.items()},
        },
        "cmc": [_number(value) for value in ranking.cmc],
        "options": used | dict(options or {}),
        "open_set": None if open_set is None else open_set_entry(open_set),
    }


def across_splits(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and deviation (n - 1) over splits of each score that every split has.

    `entries` are `make_scores` of one protocol, a split each; the deviation of one split is None.

    Raises:
        ValueError: no entry, or entries of several protocols.
    """
    protocols = {entry["protocol"] for entry in entries}
    if len(protocols) != 1:
        raise ValueError(f"entries: protocols {sorted(protocols)}; expected one, of some splits")
    summary = {}
    for name in entries[0]["scores"]:
        values = [entry["scores"].get(name) for entry in entries]
        if any(value is None for value in values):
            continue
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summary[name] = {"mean": float(np.mean(values)), "deviation": deviation}
    return summary


def write_scores(path: Path, contents: Mapping[str, Any]) -> None:
    """Write `contents` as strict JSON (no NaN) to `path`, atomically.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(contents, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def format_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A plain text table of label -> `make_scores` entry, in percent, intervals under the scores.

    Columns: label (where it is not the protocol's name), protocol, gallery size, valid queries and
    all, rank-1/5/10/20, mAP, mINP: no more than 100 characters where labels are protocols' names.
    An interval row follows an entry that has intervals.
    """
    names = [n for n in SCORE_NAMES if any(n in entry["scores"] for entry in rows.values())]
    labelled = any(label != entry["protocol"] for label, entry in rows.items())
    head = [*(["model"] if labelled else []), "protocol", "gallery", "valid/all", *names]
    lines = [head]
    for label, entry in rows.items():
        scores, intervals = entry["scores"], entry["intervals"]
        lines.append(
            [
                *([label] if labelled else []),
                entry["protocol"],
                str(entry["gallery_size"]),
                f"{entry['valid_queries']}/{entry['num_queries']}",
                *(_percent(scores.get(name)) for name in names),
            ]
        )
        if intervals is not None:
            ends = [intervals["ends"].get(name, (None, None)) for name in names]
            blank = [""] * (len(head) - len(names))
            lines.append([*blank, *(_range(*pair) for pair in ends)])
    text = _aligned(lines, words=2 if labelled else 1)
    if open_lines := _open_set_lines(rows):
        text += ["", *_aligned(open_lines, words=1)]
        text += open_set_notes(rows)
    if meaning := ranges_meaning(rows):
        text.append(f"Ranges: {meaning}.")
    if note := centring_note(rows):
        text.append(note)
    if warning := chosen_warning(rows):
        text.append(warning)
    return "\n".join(text)


def _aligned(lines: Sequence[Sequence[str]], words: int) -> list[str]:
    """A head and its lines as text; the first `words` columns are left-aligned, numbers right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "-" * max(len(line) for line in text))
    return text


def open_set_points(entry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Name ("TPR at 1 %", "DIR at 10 %") -> point of a `make_scores` entry; none without any."""
    found = entry.get("open_set") or {}
    return {
        f"{name} at {100 * point['false_rate']:g} %": point
        for kind, name in OPEN_SET_KINDS.items()
        for point in found.get(kind, {}).get("points", [])
    }


def _open_set_lines(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    of_rows = {label: open_set_points(entry) for label, entry in rows.items()}
    names = list(dict.fromkeys(name for points in of_rows.values() for name in points))
    if not names:
        return []
    lines = [["open set", *names]]
    for label, points in of_rows.items():
        if not points:
            continue
        found = [points.get(name, {}) for name in names]
        lines.append([label, *(_percent(point.get("true_rate")) for point in found)])
        ends = [point.get("ends", (None, None)) for point in found]
        lines.append(["", *(_range(*pair) for pair in ends)])
        lines.append(["  distance below", *(_distance(p.get("threshold")) for p in found)])
    return lines


def open_set_notes(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences on the open-set scores of a table of `make_scores` entries; none without any."""
    missing: dict[str, str] = {}
    known = False
    for label, entry in rows.items():
        found = entry.get("open_set") or {}
        for kind, name in OPEN_SET_KINDS.items():
            for point in found.get(kind, {}).get("points", []):
                known = True
                if point["true_rate"] is not None:
                    continue
                what = _OTHERS[kind]
                column = f"{name} at {100 * point['false_rate']:g} %"
                count, genuine = found[kind]["others"], found[kind]["genuine"]
                missing[f"{column} n/a for {label}"] = (
                    f"{count:,} {what}, {point['needed']:,} are needed"
                    if count < point["needed"]
                    else f"{genuine:,} {_GENUINE[kind]}"
                )
    if not known:
        return []
    return [OPEN_SET_MEANING, *(f"{key}: {reason}." for key, reason in missing.items())]


def ranges_meaning(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """What the intervals of a table of `make_scores` entries are; empty where it has none."""
    found = [entry["intervals"] for entry in rows.values() if entry["intervals"] is not None]
    levels = sorted({f"{100 * intervals['level']:g} %" for intervals in found})
    counts = sorted({intervals["identities"] for intervals in found})
    if not found:
        return ""
    few = f"; too narrow with fewer than {FEW_IDENTITIES}" if counts[0] < FEW_IDENTITIES else ""
    people = " or ".join(f"{count:,}" for count in counts)
    return f"{', '.join(levels)} bootstrap intervals over {people} identities{few}"


def training_and_test(trained: Mapping[str, Any] | None, scored: Mapping[str, Any]) -> str:
    """A sentence on what scores.json has as `trained_on` and `scored_on`."""
    before = "data that are not known" if trained is None else _say(trained)
    return f"Trained on {before}; scored on {_say(scored)}."


def centring_note(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence on the rows whose features were centred; empty without any."""
    found = {label: entry["options"].get(CENTRING) for label, entry in rows.items()}
    sentences = []
    for what in sorted({value for value in found.values() if value}):
        labels = [label for label, value in found.items() if value == what]
        which = "" if len(labels) == len(rows) else f": {', '.join(labels)}"
        sentences.append(f"Each camera's mean feature, of the {MEANS[what]}, taken off{which}.")
    return " ".join(sentences)


def chosen_warning(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence on the rows whose checkpoint was chosen by these scores; empty without any."""
    labels = [label for label, entry in rows.items() if entry["options"].get(CHOSEN)]
    if not labels:
        return ""
    which = "" if len(labels) == len(rows) else f": {', '.join(labels)}"
    return f"Best checkpoint, chosen on these queries, so the scores are too high{which}."


def _say(place: Mapping[str, Any]) -> str:
    counts = [f"{place[name]:,} {name}" for name in ("persons", "tracklets") if name in place]
    split = "" if place["partitions"] == "partitions.pkl" else f"{place['partitions']}, "
    return f"{place['data']} ({split}{place['subset']}{': ' * bool(counts)}{', '.join(counts)})"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _distance(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None else f"{_percent(low)}-{_percent(high)}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"
