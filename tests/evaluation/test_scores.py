"""Entries of scores.json, the printed table and summaries over splits."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from stf_jax.evaluation import bootstrap_intervals, rank_gallery
from stf_jax.evaluation.scores import (
    across_splits,
    format_table,
    make_scores,
    ranges_meaning,
    write_scores,
)

LABELS: dict[str, Any] = {"query_cameras": [1, 1, 1], "gallery_cameras": [2, 2, 2, 2]}


def make_ranking(**options):
    """Ranks 1, 2 and none: rank-1 is 1/2, mAP (1 + 1/2) / 2."""
    distances = np.array([[0.0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]])
    return rank_gallery(
        distances, query_ids=[5, 6, 7], gallery_ids=[5, 6, -1, 8], **LABELS, **options
    )


def no_ranking(**options):
    return rank_gallery(
        np.zeros((3, 4)), query_ids=[1, 2, 3], gallery_ids=[-1] * 4, **LABELS, **options
    )


def test_entry():
    ranking = make_ranking(max_rank=10)
    entry = make_scores(ranking, bootstrap_intervals(ranking), options={"rerank": True})
    assert entry["scores"] == {
        "rank-1": 0.5,
        "rank-5": 1.0,
        "rank-10": 1.0,
        "mAP": 0.75,
        "mINP": 0.75,
    }
    assert (entry["protocol"], entry["options"]) == ("step", {"rerank": True})
    assert (entry["gallery_size"], entry["junk_size"]) == (3, 1)
    assert (entry["valid_queries"], entry["num_queries"]) == (2, 3)
    assert entry["intervals"]["level"] == 0.95
    assert entry["intervals"]["identities"] == 2
    assert entry["intervals"]["ends"]["mAP"] == [0.5, 1.0]
    assert len(entry["cmc"]) == 10


def test_departures_from_the_protocol_are_reported():
    ranking = make_ranking(separate_camera_set=True, single_gallery_shot=True, draws=7, seed=2)
    assert make_scores(ranking)["options"] == {
        "separate_camera_set": True,
        "single_gallery_shot": True,
        "draws": 7,
        "seed": 2,
    }


def test_undefined_scores_are_null_in_strict_json(tmp_path):
    ranking = no_ranking()
    entry = make_scores(ranking, bootstrap_intervals(ranking))
    path = tmp_path / "scores.json"
    write_scores(path, {"rankings": {"step": entry}})
    read = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert read == {"rankings": {"step": entry}}
    assert read["rankings"]["step"]["scores"]["mAP"] is None
    assert [child.name for child in tmp_path.iterdir()] == ["scores.json"]
    with pytest.raises(ValueError, match="JSON"):
        write_scores(path, {"mAP": float("nan")})
    assert json.loads(path.read_text()) == read


def test_table():
    ranking = make_ranking()
    entry = make_scores(ranking, bootstrap_intervals(ranking))
    official = make_scores(make_ranking(protocol="mars-official"))
    lines = format_table({"step": entry, "mars-official": official}).splitlines()
    head = "protocol gallery valid/all rank-1 rank-5 rank-10 rank-20 mAP mINP"
    assert lines[0].split() == head.split()
    assert set(lines[1]) == {"-"}
    assert " ".join(lines[2].split()) == "step 3 2/3 50.0 100.0 100.0 100.0 75.0 75.0"
    assert lines[3].split()[-2:] == ["50.0-100.0", "50.0-100.0"]
    assert lines[4].split()[:3] == ["mars-official", "3", "2/3"]
    assert "95 %" in lines[-1]
    assert lines[-1].endswith("intervals over 2 identities; too narrow with fewer than 10.")
    assert len({line.rindex("75.0") for line in (lines[2], lines[4]) if "75.0" in line}) == 1


def test_the_widest_table_of_three_protocols_fits_100_columns():
    ranking = make_ranking()
    entry = make_scores(ranking, bootstrap_intervals(ranking))
    ends = {name: [0.91, 0.92] for name in entry["intervals"]["ends"]}
    sizes = {"gallery_size": 12180, "valid_queries": 1840, "num_queries": 1980}
    wide = {**entry, **sizes, "intervals": {**entry["intervals"], "ends": ends}}
    protocols = ("step", "step+queries", "mars-official")
    lines = format_table({name: {**wide, "protocol": name} for name in protocols}).splitlines()
    assert max(map(len, lines)) == 99
    assert lines[3].split() == ["91.0-92.0"] * 6


def test_table_of_labelled_and_undefined_rows():
    text = format_table(
        {"histogram": make_scores(no_ranking()), "step": make_scores(make_ranking())}
    )
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["model", "protocol"]
    assert lines[2].split() == ["histogram", "step", "0", "0/3", *["n/a"] * 6]
    assert lines[3].split()[:2] == ["step", "step"]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([], ""),
        ([1200, 1200], "95 % bootstrap intervals over 1,200 identities"),
        (
            [9, 10],
            "95 % bootstrap intervals over 9 or 10 identities; too narrow with fewer than 10",
        ),
    ],
)
def test_what_ranges_are(counts, said):
    ranking = make_ranking()
    plain = bootstrap_intervals(ranking)
    rows = {"none": make_scores(ranking)} | {
        str(place): make_scores(ranking, dataclasses.replace(plain, identities=count))
        for place, count in enumerate(counts)
    }
    assert ranges_meaning(rows) == said


def test_splits():
    entries = [make_scores(make_ranking()), make_scores(make_ranking())]
    entries[1]["scores"]["mAP"] = 0.25
    entries[1]["scores"]["mINP"] = None
    summary = across_splits(entries)
    assert summary["mAP"] == {"mean": 0.5, "deviation": pytest.approx(0.5**0.5 / 2)}
    assert summary["rank-1"] == {"mean": 0.5, "deviation": 0.0}
    assert "mINP" not in summary
    assert across_splits(entries[:1])["mAP"] == {"mean": 0.75, "deviation": None}
    with pytest.raises(ValueError, match="expected one"):
        across_splits([entries[0], make_scores(make_ranking(protocol="mars-official"))])
