"""Open-set rates against loops over every pair and every query, as the definitions read."""

from typing import Any

import numpy as np
import pytest

from stf_jax.evaluation import open_set, open_set_scores, rank_gallery
from stf_jax.evaluation.arguments import ArgumentError
from stf_jax.evaluation.open_set import OpenSetCurve, open_set_entry
from stf_jax.evaluation.scores import format_table, make_scores


def case(seed: int, queries: int = 30, gallery: int = 40, people: int = 9, levels: int = 0):
    """Distances and labels drawn by chance, junk among them; of few `levels`, many are equal."""
    rng = np.random.default_rng(seed)
    labels: dict[str, Any] = {
        "query_ids": rng.integers(-1, people, queries),
        "gallery_ids": rng.integers(-1, people, gallery),
        "query_cameras": rng.integers(1, 4, queries),
        "gallery_cameras": rng.integers(1, 4, gallery),
    }
    same = labels["query_ids"][:, None] == labels["gallery_ids"][None]
    distances = rng.uniform(0.3, 1, (queries, gallery)) - 0.25 * same
    if levels:
        distances = np.round(distances * levels) / levels
    return distances.astype(np.float32), labels


class Loops:
    """Lists of what the definitions speak of."""

    def __init__(self, distances: np.ndarray, labels: dict[str, Any], separate: bool) -> None:
        ids, gallery_ids = labels["query_ids"].tolist(), labels["gallery_ids"].tolist()
        cameras, of_gallery = labels["query_cameras"], labels["gallery_cameras"]
        self.pairs: list[tuple[bool, int, float]] = []  # whether it matches, person, distance
        self.mated: list[tuple[int, float]] = []  # person, distance of a match at rank 1 or inf
        self.impostors: list[tuple[int, float]] = []  # person, distance of the nearest entry
        for q, person in enumerate(ids):
            if person == -1:
                continue
            entries = []
            for g, other in enumerate(gallery_ids):
                own = cameras[q] == of_gallery[g]
                if other != -1 and not (own and (separate or other == person)):
                    entries.append((float(distances[q, g]), g, other == person))
            entries.sort()
            self.pairs += [(match, person, d) for d, _, match in entries]
            if any(match for *_, match in entries):
                nearest = entries[0]
                self.mated.append((person, nearest[0] if nearest[2] else np.inf))
            others = [d for d, _, match in entries if not match]
            if others:
                self.impostors.append((person, min(others)))


def threshold_of(others: list[float], rate: float) -> float:
    """The largest of the others' distances below which no more than that share lies."""
    fitting = [t for t in others if sum(d < t for d in others) <= rate * len(others) + 1e-9]
    return max(fitting)


def check(curve: OpenSetCurve, genuine: list[float], others: list[float]) -> int:
    """Every point and the whole curve are those of the lists; returns how many were reached."""
    assert (curve.genuine, curve.others) == (len(genuine), len(others))
    reached = 0
    for point in curve.points:
        assert (point.needed - 1) * point.false_rate < 1 <= point.needed * point.false_rate + 1e-9
        if len(others) < point.needed or not genuine:
            values = [point.threshold, point.reached, point.true_rate, *point.ends]
            assert np.isnan(values).all()
            continue
        reached += 1
        wanted = threshold_of(others, point.false_rate)
        assert point.threshold == pytest.approx(wanted, rel=1e-12)
        assert point.reached == pytest.approx(np.mean([d < wanted for d in others]))
        assert point.reached <= point.false_rate + 1e-9
        assert point.true_rate == pytest.approx(np.mean([d < wanted for d in genuine]))
    # A point of the curve is what some threshold gives: any between two distances.
    values = sorted({*genuine, *others, np.inf}) if genuine and others else []
    both = others, genuine
    possible = {tuple(round(float(np.mean(np.less(of, t))), 9) for of in both) for t in values}
    shown = np.stack([curve.false_rates, curve.true_rates], axis=1).round(9).tolist()
    assert {tuple(pair) for pair in shown} <= possible
    assert shown == sorted(shown)
    if possible:
        assert shown[-1][0] == 1.0 or not np.isfinite(others).all()
        assert shown[0][0] == 0
    return reached


RATES: dict[str, Any] = {"pair_rates": (0.3, 0.1, 0.01, 0.001), "alarm_rates": (0.5, 0.1, 0.01)}


@pytest.mark.parametrize("levels", [0, 7, 1])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("size", [(30, 40, 9), (60, 20, 3), (4, 3, 2), (1, 1, 1), (5, 5, 50)])
def test_equal_to_loops(levels: int, separate: bool, size: tuple[int, int, int]) -> None:
    reached = 0
    for seed in range(4):
        distances, labels = case(seed, *size, levels=levels)
        found = open_set_scores(
            distances, **labels, separate_camera_set=separate, resamples=5, **RATES
        )
        loops = Loops(distances, labels, separate)
        matches = [d for match, _, d in loops.pairs if match]
        reached += check(found.verification, matches, [d for m, _, d in loops.pairs if not m])
        reached += check(
            found.identification, [d for _, d in loops.mated], [d for _, d in loops.impostors]
        )
    assert reached > 4 or size[0] < 10


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    distances, labels = case(5, 90, 50, 12, levels=30)
    whole = open_set_entry(open_set_scores(distances, **labels))
    monkeypatch.setattr(open_set, "_BLOCK_ELEMENTS", 130)
    assert open_set_entry(open_set_scores(distances, **labels)) == whole


def test_intervals_are_of_resampled_people_with_thresholds_of_their_own() -> None:
    distances, labels = case(3, 30, 30, 9)
    found = open_set_scores(distances, **labels, resamples=300, seed=4, **RATES)
    loops = Loops(distances, labels, False)
    people = sorted({person for _, person, _ in loops.pairs})
    random = np.random.default_rng(4)
    kinds = {
        "verification": (
            [(p, d) for match, p, d in loops.pairs if match],
            [(p, d) for match, p, d in loops.pairs if not match],
        ),
        "identification": (loops.mated, loops.impostors),
    }
    drawn = random.integers(len(people), size=(300, len(people)))
    for kind, (genuine, others) in kinds.items():
        for point in getattr(found, kind).points:
            if np.isnan(point.true_rate):
                continue
            rates = []
            for draw in drawn:
                times = {person: int((draw == at).sum()) for at, person in enumerate(people)}
                resampled = sorted(d for p, d in others for _ in range(times[p]))
                allowed = int(point.false_rate * len(resampled) + 1e-9)
                accepted = [(times[p], d < resampled[allowed]) for p, d in genuine]
                rates.append(sum(n * y for n, y in accepted) / sum(n for n, _ in accepted))
            wanted = np.quantile(rates, [0.025, 0.975])
            # Of many pairs not every distance is a threshold that a resample may choose.
            near = {"verification": 0.02, "identification": 1e-9}[kind]
            np.testing.assert_allclose(point.ends, wanted, atol=near)
            assert point.ends[0] <= point.true_rate <= point.ends[1]


def test_what_cannot_be_reached_is_said_and_no_number_given() -> None:
    distances, labels = case(1, 20, 30)
    entry = make_ranked(distances, labels)
    text = format_table({"step": entry})
    others = entry["open_set"]["verification"]["others"]
    assert f"TPR at 0.1 % n/a for step: {others} other pairs, 1,000 are needed." in text
    impostors = entry["open_set"]["identification"]["others"]
    assert f"DIR at 1 % n/a for step: {impostors} queries without their person, 100 are" in text
    head = next(line for line in text.splitlines() if line.startswith("open set"))
    assert "TPR at 1 %  TPR at 0.1 %  DIR at 10 %  DIR at 1 %" in head
    assert max(map(len, text.split("TPR:")[0].splitlines())) <= 100
    point = entry["open_set"]["verification"]["points"][1]
    assert (point["true_rate"], point["threshold"], point["ends"]) == (None, None, [None, None])
    labels["gallery_ids"] = np.full(30, 99)
    text = format_table({"step": make_ranked(distances, labels)})
    assert "TPR at 1 % n/a for step: 0 pairs of one person." in text


def make_ranked(distances: np.ndarray, labels: dict[str, Any]) -> dict[str, Any]:
    ranking = rank_gallery(distances, **labels)
    return make_scores(ranking, open_set=open_set_scores(distances, **labels, resamples=20))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pair_rates": (0.0,)}, "pair_rates"),
        ({"alarm_rates": ()}, "alarm_rates"),
        ({"level": 1.0}, "level"),
        ({"query_ids": [1]}, "query_ids: 1 entries; expected 20"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], said: str) -> None:
    distances, labels = case(1, 20, 30)
    with pytest.raises(ArgumentError, match=said):
        open_set_scores(distances, **labels | changes)
    distances[3, 4] = np.nan
    labels["query_ids"][3] = 1
    with pytest.raises(ArgumentError, match="NaN at row 3, column 4"):
        open_set_scores(distances, **labels)
