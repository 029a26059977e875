"""The table and the interval of scripts/real_people.py."""

import time

import numpy as np
import pytest
import real_people
from paired_gain import gain
from real_people import Key, in_processes, main, table_of

from stf_jax.config import Config, changed, check_config, load_config
from stf_jax.evaluation import Ranking, rank_gallery


def ranking(people: list[int], places: list[int]) -> Ranking:
    """Queries whose one match is at these places, so of average precision 1 / place."""
    size = max(places)
    distances = np.tile(np.arange(size, dtype=np.float32), (len(people), 1))
    gallery = np.full(size, 999)
    found = []
    for person, place, row in zip(people, places, distances, strict=True):
        own = gallery.copy()
        own[place - 1] = person
        ranked = rank_gallery(
            row[None],
            query_ids=np.array([person]),
            gallery_ids=own,
            query_cameras=np.array([1]),
            gallery_cameras=np.full(size, 2),
        )
        found.append(ranked)
    values = [float(r.mean_ap) for r in found]
    assert values == [1 / place for place in places]
    fields = dict(vars(found[0]))
    fields |= {"query_ids": np.array(people), "average_precisions": np.array(values)}
    fields |= {"match_counts": np.ones(len(people), np.int64)}
    fields |= {"mean_ap": float(np.mean(values)), "cmc": np.array([np.mean(np.equal(places, 1))])}
    return Ranking(**fields)


def test_the_gain_is_that_of_all_queries_and_its_interval_resamples_people() -> None:
    people = [1, 2, 3, 4]
    one, other = ranking(people, [1, 1, 1, 2]), ranking(people, [2, 2, 2, 2])
    line = gain("one", "other", [one] * 4, [other] * 4)
    assert line.startswith("one over other: +37.5 mAP, 95 % interval over people ")
    low, high = map(float, line.partition("people ")[2].split(" to "))
    assert 0 <= low < 37.5 < high == 50
    # Of one person's gain alone a resample can have none.
    few = ranking(people, [1, 2, 2, 2])
    line = gain("one", "other", [few] * 2, [other] * 2)
    assert "+12.5 mAP, 95 % interval over people +0.0 to +37.5" in line


def test_the_table_has_mean_and_deviation_of_the_splits() -> None:
    rankings = {
        Key("fusion", way, centred): [ranking([1, 2], [1, 1]), ranking([1, 2], [1, 2])]
        for way in real_people.WAYS
        for centred in (False, True)
    }
    head, first, second = table_of(rankings).splitlines()
    assert "as it is" in head
    scores = "87.5 +- 17.7 / 75.0 +- 35.4"
    assert " ".join(first.split()) == f"fusion camera 1 {scores} {scores}"
    assert second.split()[:3] == ["fusion", "camera", "2"]
    assert len(head) == len(first) == len(second)


def test_scores_of_a_split_come_back(tmp_path, monkeypatch) -> None:
    ranked = ranking([1, 2, 3], [1, 2, 4])
    names = ("fusion", "mean pooling")
    monkeypatch.setattr(real_people, "models", lambda *_: [(name, None) for name in names])
    found = [("partitions", False, ranked), ("reversed", True, ranked)]
    monkeypatch.setattr(real_people, "score", lambda *_: found)
    config = changed(Config(), {"data.partitions": "partitions_07.pkl"})
    real_people.score_split(config, tmp_path, names)
    scores = real_people.scores_of(real_people.file_of("partitions_07.pkl", tmp_path))
    assert list(scores) == [
        Key(model, way, centred) for model in names for way, centred, _ in found
    ]
    for back in scores.values():
        assert vars(back).keys() == vars(ranked).keys()
        for name, value in vars(ranked).items():
            np.testing.assert_array_equal(getattr(back, name), value)
            assert type(getattr(back, name)) is type(value)


def test_a_split_that_fails_ends_all(tmp_path, monkeypatch, capfd) -> None:
    (tmp_path / "partitions_00.pkl").write_bytes(b"")
    argv = ["--workdir", str(tmp_path), f"--config.data.root={tmp_path}", "--splits", "1"]
    monkeypatch.setattr("sys.argv", [real_people.__file__, *argv])
    assert main() == 2
    assert "partitions_00.pkl" in capfd.readouterr().err


def test_splits_run_side_by_side_and_come_in_order(monkeypatch, capfd) -> None:
    code = (
        "import sys, time; name = sys.argv[sys.argv.index('--only') + 1];"
        "time.sleep(0.5 * (name == 'a')); sys.exit(int(name == 'c'))"
    )
    monkeypatch.setattr("sys.argv", ["-c", code])
    found = in_processes(["a", "b", "c", "d"], 2)
    assert [next(found) for _ in range(3)] == [("a", 0), ("b", 0), ("c", 1)]
    found.close()


def test_leaving_stops_what_runs(monkeypatch) -> None:
    code = "import sys, time; time.sleep(60 * ('b' in sys.argv))"
    monkeypatch.setattr("sys.argv", ["-c", code])
    start = time.monotonic()
    found = in_processes(["a", "b"], 2)
    assert next(found) == ("a", 0)
    found.close()
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("config", ["pku_reid", "pku_reid_drawn"])
def test_each_model_has_the_parts_of_its_name(config: str) -> None:
    own = load_config(real_people.CONFIG.with_name(f"{config}.py"))
    found = {}
    for name, values in real_people.CHOICES.items():
        model = changed(own, values).model
        check_config(changed(own, values))
        found[name] = (model.stages, model.frame_attention, model.stage_attention)
    assert found == {
        "fusion": ((2, 4), ("intra", "inter"), "gated"),
        "late fusion": ((4,), ("intra", "inter"), "mean"),
        "mean pooling": ((4,), (), "mean"),
        "without attention": ((2, 4), (), "gated"),
        "intra alone": ((2, 4), ("intra",), "gated"),
        "inter alone": ((2, 4), ("inter",), "gated"),
    }


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--splits", "11"], "error: --splits 11: expected 1 to 10"),
        (["--jobs", "0"], "error: --jobs 0: expected 1 or more"),
        (["--workdir", "w", "--config.evaluation.flip=True"], "compared in one way"),
        (["--workdir", "w", "--config.data.root=nowhere"], "nowhere: no partitions_NN.pkl"),
        (
            ["--workdir", "w", "--config.evaluation.chunk=4", "--config.data.root=nowhere"],
            "nowhere: no partitions_NN.pkl",
        ),
    ],
)
def test_bad_options_are_one_line(argv, said, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["real_people.py", *argv])
    assert main() == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
