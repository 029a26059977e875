"""A run's scores and its report, of given features, against what loops over the arrays say."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_tracklets import CHUNK, TRACKLETS, Drawn, check_shown, draw
from page_reader import page_data, page_plot, page_tables
from ranking_loops import Ranked, chosen_rows, distances_of, precision_of, ranked, scores_of

from stf_jax import evaluate
from stf_jax.config import Config, changed, load_config, to_json
from stf_jax.evaluation import bootstrap_intervals, open_set_scores, rank_gallery, rerank_features
from stf_jax.evaluation.centring import camera_means, centre_pair
from stf_jax.evaluation.features.feature_files import read_features
from stf_jax.run.metrics_log import MetricsLog
from stf_jax.run.run_files import write_run_files

CONFIGS = Path(__file__).parents[1] / "configs"
METRICS = [
    {"loss": 1 / step, "step/mAP": 0.1 * step, "step/rank-1": 0.15 * step} for step in (1, 2, 4)
]

PLAIN = {"evaluation.protocols": ("step", "mars-official"), "seed": 5}
ALL = {
    "evaluation.protocols": ("mars-official", "step", "step+queries"),
    "evaluation.distance": "cosine",
    "evaluation.multi_query": "mean",
    "evaluation.separate_camera_set": True,
    "evaluation.rerank": True,
    "evaluation.max_rank": 30,
    "seed": 3,
}
SHOT = {"evaluation.single_gallery_shot": True, "evaluation.multi_query": "max", "seed": 4}


class Case:
    """An evaluation that was run: what it had, and what it wrote."""

    def __init__(
        self, root: Path, values: dict[str, Any], shuffled: bool, count: int = len(TRACKLETS)
    ) -> None:
        order = np.random.default_rng(1).permutation(count) if shuffled else np.arange(count)
        self.drawn: Drawn = draw(root / "data", order=order.tolist())
        self.config: Config = changed(
            load_config(CONFIGS / "mars.py"), {"evaluation.chunk": CHUNK, **values}
        )
        self.workdir = root / "run"
        self.workdir.mkdir()
        facts = {"persons": 40, "tracklets": 50}
        elsewhere = changed(self.config, {"data.root": "data/elsewhere"})
        write_run_files(self.workdir, to_json(elsewhere), {}, {"trainval": facts})
        with MetricsLog(self.workdir, tensorboard=False) as log:
            for step, entry in zip((1, 2, 4), METRICS, strict=True):
                log.write(step, entry)
        asked = {}
        if shuffled:  # as of a tfds data set: no image files, but a reader of the table's rows
            folder, names = self.drawn.table.image_dir, self.drawn.table.names.tolist()
            table = dataclasses.replace(self.drawn.table, image_dir=root / "nowhere")
            self.drawn = dataclasses.replace(self.drawn, table=table)

        def read_frames(rows: np.ndarray) -> list[bytes]:
            return [(folder / names[row].decode()).read_bytes() for row in rows]

        def restore(config: Config, workdir: Path, which: str) -> tuple[Any, Any, int]:
            asked["which"] = which
            return None, {"params": {"w": np.ones(2)}}, 7

        def extract(model: Any, variables: Any, table: Any, config: Config, **_: Any) -> Any:
            assert table is self.drawn.table
            return self.drawn.found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate, "evaluation_table", lambda *_, **__: self.drawn.table)
            patch.setattr(evaluate, "restore_run", restore)
            if shuffled:
                patch.setattr(evaluate, "frame_source", lambda *_: read_frames)
            patch.setattr(evaluate, "extract_table", extract)
            self.contents = evaluate.evaluate_workdir(
                self.config, self.workdir, "9", output=self.workdir
            )
        assert asked == {"which": "9"}
        self.page = self.workdir / "report" / "index.html"

    def ranked(self, protocol: str, reranked: bool = False) -> Ranked:
        evaluation = self.config.evaluation
        features = self.drawn.found.features
        query, rows, pooled, gallery = chosen_rows(
            features, self.drawn.table, protocol, evaluation.multi_query
        )
        if reranked:
            distances = rerank_features(query.astype(np.float32), features[gallery])
        else:
            distances = distances_of(query, features[gallery], evaluation.distance)
        separate = evaluation.separate_camera_set
        return ranked(distances, self.drawn.table, rows, gallery, pooled, separate)

    def labels(self, case: Ranked) -> dict[str, Any]:
        ids, cameras = self.drawn.table.person_ids, self.drawn.table.cameras
        return {
            "query_ids": ids[case.queries],
            "gallery_ids": ids[case.gallery],
            "query_cameras": cameras[case.queries],
            "gallery_cameras": cameras[case.gallery],
        }


@pytest.fixture(scope="module", params=["plain", "all"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """By default of a layout's folder, or with every option, rows in any order, and no folder."""
    values = {"plain": PLAIN, "all": ALL}[request.param]
    return Case(tmp_path_factory.mktemp("evaluated"), values, request.param == "all")


def percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def test_every_row_has_its_own_scores(case: Case) -> None:
    rows = json.loads((case.workdir / "scores.json").read_text())["rows"]
    assert rows == case.contents["rows"]
    evaluation = case.config.evaluation
    wanted = [
        (p, r)
        for r in ((False, True) if evaluation.rerank else (False,))
        for p in evaluation.protocols
    ]
    assert list(rows) == [f"{p}, re-ranked" if r else p for p, r in wanted]
    seen = []
    for (protocol, reranked), row in zip(wanted, rows.values(), strict=True):
        one = case.ranked(protocol, reranked)
        scores = scores_of(one, protocol)
        assert row["protocol"] == protocol
        assert row["scores"] == pytest.approx(scores)
        seen.append(tuple(scores.values()))
        ids = case.labels(one)["gallery_ids"]
        assert (row["gallery_size"], row["junk_size"]) == ((ids != -1).sum(), (ids == -1).sum())
        assert row["valid_queries"] == sum(any(right) for right in one.right)
        assert row["num_queries"] == len(one.queries)
        assert len(row["cmc"]) == evaluation.max_rank
        assert row["cmc"][2] == pytest.approx(np.mean([any(r[:3]) for r in one.right if any(r)]))
        assert row["options"]["reranked"] == reranked
        assert row["options"].get("separate_camera_set", False) == evaluation.separate_camera_set
        for name in ("distance", "multi_query"):
            assert row["options"][name] == getattr(evaluation, name)
        ranking = rank_gallery(
            one.distances,
            **case.labels(one),
            protocol=protocol,
            separate_camera_set=evaluation.separate_camera_set,
        )
        intervals = bootstrap_intervals(ranking, seed=case.config.seed)
        assert row["intervals"]["seed"] == case.config.seed
        for name, ends in row["intervals"]["ends"].items():
            assert ends == pytest.approx(list(intervals.ends[name]))
    assert len(set(seen)) == len(seen)  # no two rows could be mistaken for each other
    assert any(0 < s[0] < 1 for s in seen)


def test_single_shot_rows_are_of_the_queries_asked_for(tmp_path: Path) -> None:
    case = Case(tmp_path, SHOT, shuffled=True)
    (row,) = case.contents["rows"].values()
    one = case.ranked("step")
    options = {**case.labels(one), "protocol": "step", "single_gallery_shot": True}
    wanted = rank_gallery(one.distances, **options, seed=4)
    assert row["cmc"] == pytest.approx(wanted.cmc.tolist())
    other = rank_gallery(one.distances, **options, seed=5)
    assert row["cmc"] != pytest.approx(other.cmc.tolist())
    plain = scores_of(one, "step")
    assert row["scores"]["rank-1"] != pytest.approx(plain["rank-1"])
    assert row["scores"]["mAP"] == pytest.approx(plain["mAP"])
    assert (row["options"]["draws"], row["options"]["seed"]) == (100, 4)


@pytest.mark.parametrize("centring", ["gallery", "training"])
def test_centred_scores_say_by_what(
    centring: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    seen = draw(tmp_path / "seen", seed=9)
    means = camera_means(np.ones_like(seen.found.features), np.arange(len(TRACKLETS)) % 4 + 1)
    monkeypatch.setattr(evaluate, "training_means", lambda *_: means)
    # The last is its camera's only one, and has no mean but itself.
    case = Case(tmp_path, {"evaluation.centring": centring}, False, len(TRACKLETS) - 1)
    printed = capsys.readouterr().out
    assert "Trained on data/elsewhere (trainval: 40 persons, 50 tracklets); scored on " in printed
    (row,) = case.contents["rows"].values()
    assert json.loads((case.workdir / "scores.json").read_text())["rows"] == {"step": row}
    assert row["options"]["centring"] == centring
    whose = {"gallery": "gallery (of a camera that it lacks: of the queries)"}
    note = f"Each camera's mean feature, of the {whose.get(centring, 'training set')}, taken off."
    assert note in printed
    page = case.page.read_text().replace("&#39;", "'")
    assert note in page
    assert f"; centring: {centring}" in page

    features, table = case.drawn.found.features, case.drawn.table
    query, rows, pooled, gallery = chosen_rows(features, table, "step", "")
    given = means if centring == "training" else None
    cameras = table.cameras
    pair = centre_pair(query, cameras[rows], features[gallery], cameras[gallery], given)
    one = ranked(distances_of(*pair, "euclidean"), table, rows, gallery, pooled, False)
    assert row["scores"] == pytest.approx(scores_of(one, "step"))
    assert row["scores"] != pytest.approx(scores_of(case.ranked("step"), "step"))
    lists = [query["entries"] for query in page_data(case.page)["queries"]]
    assert lists == [entries[:10] for entries in one.lists]
    # What was extracted is what is kept.
    np.testing.assert_array_equal(read_features(case.workdir / "features.npz").features, features)


def test_the_file_of_features_is_what_was_found(case: Case) -> None:
    found = read_features(case.workdir / "features.npz")
    for name in ("person_ids", "cameras", "tracks", "marks", "offsets", "names"):
        np.testing.assert_array_equal(getattr(found, name), getattr(case.drawn.table, name), name)
    for name, values in vars(case.drawn.found).items():
        np.testing.assert_array_equal(getattr(found, name), values, name)
    assert (found.origin.step, found.origin.metric) == (7, case.config.evaluation.distance)


def test_tables_of_the_page(case: Case) -> None:
    tables = page_tables(case.page)
    rows = case.contents["rows"]
    names = ["rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mINP"]
    head, *body = tables["Protocol"]
    assert head == ["Protocol", "Gallery", "Valid queries", *names]
    assert len(body) == len(rows)
    for cells, (label, row) in zip(body, rows.items(), strict=True):
        valid = f"{row['valid_queries']} of {row['num_queries']}"
        assert cells[:3] == [label, str(row["gallery_size"]), valid]
        for cell, name in zip(cells[3:], names, strict=True):
            score, *ends = row["scores"][name], *row["intervals"]["ends"][name]
            assert cell == f"{percent(score)} {percent(ends[0])}\N{EN DASH}{percent(ends[1])}"

    head, *body = tables["Rank"]
    assert head == ["Rank", *rows]
    assert [cells[0] for cells in body] == ["1", "2", "3", "5", "10", "20"]
    for k, *cells in body:
        assert cells == [percent(row["cmc"][int(k) - 1]) for row in rows.values()]


def test_open_set_of_every_row_and_on_the_page(case: Case) -> None:
    rows = case.contents["rows"]
    evaluation = case.config.evaluation
    head, *body = page_tables(case.page)["Open set"]
    assert head == ["Open set", "TPR at 1 %", "TPR at 0.1 %", "DIR at 10 %", "DIR at 1 %"]
    for cells, (label, row) in zip(body, rows.items(), strict=True):
        one = case.ranked(row["protocol"], row["options"]["reranked"])
        found = open_set_scores(
            one.distances,
            **case.labels(one),
            separate_camera_set=evaluation.separate_camera_set,
            seed=case.config.seed,
        )
        entry = row["open_set"]
        points = []
        for kind in ("verification", "identification"):
            curve = getattr(found, kind)
            assert (entry[kind]["genuine"], entry[kind]["others"]) == (curve.genuine, curve.others)
            points += curve.points
        shown_rates = [cell.split()[0] for cell in cells[1:]]  # more of a cell: test_report.py
        assert cells[0] == label
        assert shown_rates == [
            percent(None if np.isnan(point.true_rate) else point.true_rate) for point in points
        ]
    text = case.page.read_text()
    for caption in ("Pairs: those of one person", "Identification at rank 1"):
        (svg,) = re.findall(rf"<figure>((?:(?!</figure>).)*)<figcaption>{caption}", text, re.DOTALL)
        assert all(f">{label}</text>" in svg for label in rows)


def test_camera_pairs_of_the_page(case: Case) -> None:
    protocol = case.config.evaluation.protocols[0]
    one, cameras = case.ranked(protocol), case.drawn.table.cameras
    head, *body = page_tables(case.page)["Query camera"]
    of_queries, of_gallery = (sorted(set(cameras[r].tolist())) for r in (one.queries, one.gallery))
    assert head == ["Query camera", *(f"gallery {camera}" for camera in of_gallery)]
    assert [cells[0] for cells in body] == [str(camera) for camera in of_queries]
    shown = set()
    for query_camera, cells in zip(of_queries, body, strict=True):
        for gallery_camera, cell in zip(of_gallery, cells[1:], strict=True):
            lists = [
                [
                    right
                    for column, right in zip(entries, one.right[row], strict=True)
                    if cameras[one.gallery[column]] == gallery_camera
                ]
                for row, entries in enumerate(one.lists)
                if cameras[one.queries[row]] == query_camera
            ]
            valid = [right for right in lists if any(right)]
            size = sum(
                cameras[g] == gallery_camera and case.drawn.table.person_ids[g] != -1
                for g in one.gallery
            )
            wanted = "no match possible"
            if valid:
                mean = float(np.mean([precision_of(right, protocol) for right in valid]))
                first = float(np.mean([right[0] for right in valid]))
                wanted = f"{percent(mean)} / {percent(first)} {len(valid)} / {size}"
            assert cell == wanted
            shown.add(cell)
    assert len(shown) > 4


def test_plots_of_the_page(case: Case) -> None:
    rows, protocol = case.contents["rows"], case.config.evaluation.protocols[0]
    curves = page_plot(case.page, "CMC")
    assert list(curves) == list(rows)
    for label, row in rows.items():
        ranks = range(1, 21)
        np.testing.assert_allclose(
            np.interp(ranks, *curves[label].T), 100 * np.array(row["cmc"][:20]), atol=0.05
        )
    one = case.ranked(protocol)
    table = case.drawn.table
    edges = np.linspace(one.distances.min(), one.distances.max(), 61)
    counts = {"matches": np.zeros(60), "non-matches": np.zeros(60)}
    for row, q in enumerate(one.queries):
        for column, g in enumerate(one.gallery):
            same = table.person_ids[g] == table.person_ids[q]
            if table.person_ids[g] == -1 or (same and table.cameras[g] == table.cameras[q]):
                continue
            bin_ = np.clip(np.searchsorted(edges, one.distances[row, column], "right") - 1, 0, 59)
            counts["matches" if same else "non-matches"][bin_] += 1
    shown = page_plot(case.page, "Distances of matches and non-matches")
    middles = (edges[1:] + edges[:-1]) / 2
    assert list(shown) == [f"{kind} ({int(n.sum())} pairs)" for kind, n in counts.items()]
    for curve, wanted in zip(shown.values(), counts.values(), strict=True):
        found = np.interp(middles, *curve.T)
        # The bin of a pair that is on an edge, rounding decides.
        assert abs(found * wanted.sum() / 100 - wanted).sum() < 2.5
        assert found.sum() == pytest.approx(100, abs=0.1)

    shown = page_plot(case.page, "Scores as training went")
    assert list(shown) == ["step/mAP", "step/rank-1"]
    for name, curve in shown.items():
        wanted = [[step, 100 * entry[name]] for step, entry in zip((1, 2, 4), METRICS, strict=True)]
        np.testing.assert_allclose(curve, wanted, atol=1e-3)
    wanted = [[step, entry["loss"]] for step, entry in zip((1, 2, 4), METRICS, strict=True)]
    np.testing.assert_allclose(page_plot(case.page, "Loss")[""], wanted, atol=1e-3)


def test_ranked_lists_of_the_page(case: Case) -> None:
    data, protocol = page_data(case.page), case.config.evaluation.protocols[0]
    one = case.ranked(protocol)
    assert data["labelled"]
    assert data["kinds"] == ["intra", "inter", "both"]
    assert len(data["queries"]) == len(data["tracklets"]["q"]) == len(one.queries)
    strips = case.page.parent / data["folder"]
    best, used = set(), set()
    for row, query in enumerate(data["queries"]):
        entries, right = one.lists[row][:10], one.right[row]
        check_shown(data["tracklets"]["q"][row], case.drawn, one.queries[row], strips)
        assert query["entries"] == entries
        assert query["distances"] == pytest.approx(one.distances[row, entries], abs=1e-3)
        assert query["right"] == right[:10]
        assert query["matches"] == sum(right)
        assert query["first"] == (right.index(True) + 1 if any(right) else 0)
        precision = precision_of(right, protocol)
        assert query["ap"] == (pytest.approx(precision, abs=1e-4) if any(right) else None)
        assert query.get("pooled", 1) == one.pooled[row]
        best.add((any(right), right[0]))
        used |= set(entries)
    assert best == {(True, True), (True, False), (False, False)}  # outcomes are mixed
    assert {int(column) for column in data["tracklets"]["g"]} == used
    for column in used:
        check_shown(data["tracklets"]["g"][str(column)], case.drawn, one.gallery[column], strips)
    weights = [
        value
        for said in (*data["tracklets"]["q"], *data["tracklets"]["g"].values())
        for values in said["weights"].values()
        for value in values
        if value is not None
    ]
    assert data["full"] == max(200, *weights)


def test_words_of_the_page(case: Case) -> None:
    text = " ".join(case.page.read_text().split())
    evaluation, one = case.config.evaluation, case.ranked(case.config.evaluation.protocols[0])
    assert "<h1>Report of run</h1>" in text
    assert f"checkpoint of step 7, on {case.config.data.root}" in text
    people, count = len(set(case.drawn.table.person_ids.tolist())), len(TRACKLETS)
    root = case.config.data.root
    assert (
        f"Trained on data/elsewhere (trainval: 40 persons, 50 tracklets); scored on {root} (test: "
        f"{people} persons, {count} tracklets)." in text
    )
    assert (
        f"{len(one.queries)} queries; each with its best 10 of {len(one.gallery)} gallery "
        f"tracklets, nearest first ({evaluation.protocols[0]})." in text
    )
    assert ("The lists are by plain distances, before re-ranking." in text) == evaluation.rerank
    cameras = case.drawn.table.cameras
    for control, rows in (("camera", one.queries), ("gallery-camera", one.gallery)):
        offered = "".join(f"<option>{c}</option>" for c in sorted(set(cameras[rows].tolist())))
        assert f'<select id="{control}"><option value="">all</option>{offered}</select>' in text
