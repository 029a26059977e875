"""The command line: bad input is one clear line and exit status 2, never a traceback."""

import contextlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stf_jax.config import KEYS, Config, changed, check_config, flat_values, to_json
from stf_jax.errors import UserError
from stf_jax.main import main, parse, read_config
from stf_jax.run.run_files import run_config, write_run_files
from stf_jax.training.stop_request import RunStoppedError

CONFIGS = Path(__file__).parents[1] / "configs"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str]]:
    status = main(argv)
    return status, capsys.readouterr().err.strip().split("\n")


def test_overrides_reach_the_config() -> None:
    options, rest = parse(
        ["--config", str(CONFIGS / "mars.py"), "--workdir", "w", "--config.model.stages=(2,3,4)",
         "--config.optimizer.name=adam", "--config.train.epochs=7"]
    )  # fmt: skip
    config = read_config(options, rest)
    assert config.model.stages == (2, 3, 4)
    assert config.optimizer.name == "adam"
    assert config.train.epochs == 7


# One of these is another value that the key may hold.
OTHERS = [
    *(True, False, 2, 126, 0.25, 1.5, (0.1, 0.2), (2.0, 3.0), (3,), (10, 20), ("intra",)),
    *("words", "tfds", "train", "val", "identity", "skip", "resnet18", "learned", "reference"),
    *("bfloat16", "cosine", "adam", "shard_map", "frames", "max"),
    *("segments", "tracklet", "bnneck", "before", "gallery", "own"),
    ("step", "mars-official"),
]


def another_value(name: str) -> Any:
    """A value of the key that is not its default and fits the other keys' defaults."""
    default = KEYS[name].default
    for value in [0.25] if name == "loss.triplet_margin" else OTHERS:
        if value != default and type(value) in (type(default), float):
            with contextlib.suppress(UserError):
                check_config(changed(Config(), {name: value}))
                return value
    raise AssertionError(f"{name}: no value in OTHERS fits")


@pytest.mark.parametrize("name", KEYS)
def test_every_key_can_be_set(name: str) -> None:
    value = another_value(name)
    argv = ["--config", str(CONFIGS / "mars.py"), "--workdir", "w", f"--config.{name}={value}"]
    found = flat_values(read_config(*parse(argv)))
    assert found == {**flat_values(Config()), name: value}
    assert found[name] != KEYS[name].default
    assert type(found[name]) is type(value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.model.backbon=resnet18", "backbon"),
        ("--config.model.backbon=resnet18", "did you mean model.backbone?"),
        ("--config.train.epochs=many", "many"),
        ("--config.train.epochs=many", "expected a whole number of 0 or more"),
        ("--config.train.evaluate_before=maybe", "expected True or False"),
        ("--config.augment.erase=often", "expected a number from 0 to 1"),
        ("--config.augment.erase=2", "config.augment.erase is 2.0: expected a number from 0 to 1"),
        ("--config.model.stages=(4,", "expected a tuple of some of 1, 2, 3, 4"),
        ("--config.loss.triplet_margin=hard", "triplet_margin is 'hard': expected"),
        ("--config.data.height=3", "config.data.height is 3"),
    ],
)
def test_a_wrong_override_is_one_line(tmp_path, capsys, override: str, said: str) -> None:
    status, lines = run(
        capsys, "--config", str(CONFIGS / "mars.py"), "--workdir", str(tmp_path), override
    )
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert said in lines[0]


def test_an_error_of_many_lines_is_cut_with_a_count(tmp_path, capsys) -> None:
    write_run_files(tmp_path, {f"wheel{number}": number for number in range(40)}, {})
    status, lines = run(capsys, "--mode", "evaluate", "--workdir", str(tmp_path))
    with pytest.raises(UserError) as caught:
        run_config(tmp_path)
    whole = str(caught.value).split("\n")
    assert status == 2
    assert lines == [f"error: {whole[0]}", *whole[1:10], f"... and {len(whole) - 10} lines more"]
    assert len(whole) > 50


def test_no_data_says_what_was_looked_for_and_how_to_prepare_it(tmp_path, capsys) -> None:
    status, lines = run(
        capsys, "--config", str(CONFIGS / "mars.py"), "--workdir", str(tmp_path / "w"),
        f"--config.data.root={tmp_path / 'mars'}", "--config.compilation_cache=off",
    )  # fmt: skip
    assert status == 2
    assert len(lines) == 1
    assert "partitions.pkl" in lines[0]
    assert "python -m stf_jax.prepare" in lines[0]


@pytest.mark.parametrize("override", ["data.root=nowhere", "model.backbone=resnet"])
@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_a_wrong_config_is_reported_before_frameworks_are_imported(
    tmp_path, mode: str, override: str
) -> None:
    write_run_files(tmp_path / "run", to_json(Config()), {})
    argv = ["--mode", mode, "--workdir", str(tmp_path / "run"), f"--config.{override}"]
    argv += ["--config", str(CONFIGS / "mars.py")] * (mode == "train")
    code = (
        f"import sys; from stf_jax.main import main; assert main({argv!r}) == 2; "
        "sys.exit(', '.join({'jax', 'flax', 'tensorflow', 'torch'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert override.split("=")[1] in done.stderr


def test_the_config_of_another_program_is_named_with_its_file(tmp_path, capsys) -> None:
    write_run_files(tmp_path, {"data": {"colour": "red"}}, {})
    status, lines = run(capsys, "--mode", "evaluate", "--workdir", str(tmp_path))
    assert status == 2
    assert lines[0].startswith(f"error: {tmp_path / 'config.json'}: config.data.colour: no such")


def test_evaluating_nothing_says_so(tmp_path, capsys) -> None:
    status, lines = run(capsys, "--mode", "evaluate", "--workdir", str(tmp_path))
    assert status == 2
    assert "no run has begun" in lines[0]


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_stopped_training_is_no_success(tmp_path, monkeypatch, name: str, status: int) -> None:
    """So that `train && evaluate` goes no further."""

    def stop(config, workdir, which, *, resume_anyway):
        raise RunStoppedError(name)

    monkeypatch.setattr("stf_jax.train.train", stop)
    (tmp_path / "partitions.pkl").touch()
    argv = ["--config", str(CONFIGS / "mars.py"), "--workdir", str(tmp_path / "w")]
    argv.append(f"--config.data.root={tmp_path}")
    assert main([*argv, "--config.compilation_cache=off"]) == status


def test_options_reach_what_they_are_for(tmp_path, monkeypatch) -> None:
    calls: list[Any] = []

    def recorded(name: str, result: Any = None) -> None:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append((name.split(".")[-1], *arguments, options))
            return result or arguments[0]

        monkeypatch.setattr(f"stf_jax.{name}", call)

    few = SimpleNamespace(num_tracklets=1, names=[b"x"], with_prior=lambda prior: ("fit", prior))
    recorded("evaluate.evaluate_workdir")
    recorded("evaluate.evaluate_weights")
    recorded("embed.embed_tracklets", few)
    recorded("evaluation.features.feature_files.write_features")
    recorded("evaluation.calibration.fit_calibration", few)
    matches = SimpleNamespace(nobody=None)
    recorded("match.match_tracklets", matches)
    recorded("match.write_matches")
    monkeypatch.setattr("stf_jax.devices.use_compilation_cache", calls.append)
    read = "stf_jax.evaluation.features.feature_files.read_features"
    monkeypatch.setattr(read, lambda path: path.name)

    def selected(features: str, camera: int | None, option: str) -> Any:
        calls.append(("select_camera", features, camera, option))
        return SimpleNamespace(num_tracklets=1, camera=camera)

    monkeypatch.setattr("stf_jax.match.select_cameras", selected)
    joins = "stf_jax.evaluation.features.sources.join_pieces"
    monkeypatch.setattr(joins, lambda found: SimpleNamespace(joined=True, **vars(found)))
    common = ["--config", str(CONFIGS / "mars.py"), "--workdir", "w"]
    (tmp_path / "partitions.pkl").touch()
    common += ["--config.compilation_cache=elsewhere", f"--config.data.root={tmp_path}"]
    config = read_config(*parse(common))
    main(["--mode", "evaluate", *common])
    main(["--mode", "evaluate", *common, "--checkpoint", "3", "--no-report", "--output", "o"])
    assert calls == [
        "elsewhere",
        ("evaluate_workdir", config, Path("w"), None, {"output": None, "report": True}),
        "elsewhere",
        ("evaluate_workdir", config, Path("w"), "3", {"output": Path("o"), "report": False}),
    ]
    calls.clear()
    write_run_files(tmp_path / "run", to_json(config), {})
    given = ["--mode", "evaluate", "--output", "o", "--weights"]
    main([*given, "w.npz", *common])
    main([*given, str(tmp_path / "run"), "--checkpoint", "best"])
    assert calls[1::2] == [
        ("evaluate_weights", config, "w.npz", Path("o"), {"report": True}),
        (
            "evaluate_workdir",
            config,
            tmp_path / "run",
            "best",
            {"output": Path("o"), "report": True},
        ),
    ]
    calls.clear()
    output = tmp_path / "some" / "new" / "a.npz"
    main(
        [
            "--mode",
            "embed",
            *common,
            "--input",
            "in",
            "--output",
            str(output),
            "--checkpoint",
            "best",
            "--camera",
            "4",
        ]
    )
    options = {"config": config, "checkpoint": "best", "camera": 4}
    options |= {"frames_dir": output.parent / "a_frames", "parts_dir": output.parent / "a_parts"}
    assert calls[1:] == [
        ("embed_tracklets", Path("w"), "in", options),
        ("write_features", output, few, {}),
    ]
    calls.clear()
    main(
        [
            "--mode",
            "match",
            "--config",
            str(CONFIGS / "mars.py"),
            "--workdir",
            "w",
            "--query",
            "a/q.npz",
            "--gallery",
            "b/g.npz",
            "--output",
            "out",
            "--top",
            "3",
            "--query-camera",
            "1",
            "--gallery-camera",
            "2,4",
            "--pieces",
            "--same-camera",
            "--calibrate",
            "c.npz",
            "--prior",
            "0.2",
            "--false-alarms",
            "0.1",
            "--shown",
            "7",
        ]
    )
    chosen = [SimpleNamespace(num_tracklets=1, camera=cameras) for cameras in ([1], [2, 4])]
    assert calls == [
        ("fit_calibration", "c.npz", {"centred": False, "false_alarms": 0.1, "same_camera": True}),
        ("select_camera", "q.npz", [1], "--query-camera"),
        ("select_camera", "g.npz", [2, 4], "--gallery-camera"),
        (
            "match_tracklets",
            *chosen,
            {"top": 3, "calibration": ("fit", 0.2), "same_camera": True, "centre_with": None},
        ),
        ("write_matches", Path("out"), matches, {"title": "q among g", "shown": 7}),
    ]

    calls.clear()
    match = ["--mode", "match", "--workdir", "w", "--output", "out"]
    match += ["--query", "q.npz", "--gallery", "g.npz", "--config", str(CONFIGS / "mars.py")]
    main(match)
    chosen = SimpleNamespace(num_tracklets=1, camera=None, joined=True)
    assert calls[:-1] == [
        ("select_camera", "q.npz", None, "--query-camera"),
        ("select_camera", "g.npz", None, "--gallery-camera"),
        (
            "match_tracklets",
            chosen,
            chosen,
            {"top": 10, "calibration": None, "same_camera": False, "centre_with": None},
        ),
    ]
    main([*match, "--calibrate", "c.npz"])
    options = {"top": 10, "calibration": few, "same_camera": False, "centre_with": None}
    assert calls[-2] == ("match_tracklets", chosen, chosen, options)
    main([*match, "--calibrate", "c.npz", "--centre-with", "gallery"])
    fitted = {"centred": True, "false_alarms": None, "same_camera": False}
    assert ("fit_calibration", "c.npz", fitted) in calls
    assert calls[-2] == ("match_tracklets", chosen, chosen, {**options, "centre_with": "gallery"})
    calls.clear()
    monkeypatch.setattr("stf_jax.hosts.initialize_arguments", lambda *given: calls.append(given))
    hosts = ["--coordinator", "h:1", "--num-processes", "2", "--process-id", "1"]
    main(["--mode", "evaluate", *common, *hosts])
    assert calls[0] == ("h:1", 2, 1, False)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--mode", "evaluate"], "--mode evaluate needs --workdir"),
        (["--mode", "evaluate", "--weights", "w.npz"], "--weights needs --config, --output"),
        (["--mode", "evaluate", "--weights", "."], "--mode evaluate --weights needs --output"),
        (["--workdir", "w", "--weights", "w.npz"], "--weights is of --mode evaluate"),
        (["--workdir", "w", "--centre-with", "gallery"], "--centre-with is of --mode match"),
    ],
)
def test_what_a_mode_needs(argv: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_mode_that_there_is_not_is_refused(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--mode", "evalute", "--config", str(CONFIGS / "mars.py"), "--workdir", "w"])
    assert ended.value.code == 2
    assert "invalid choice: 'evalute'" in capsys.readouterr().err


def test_code_that_needs_no_tensorflow_does_not_import_it() -> None:
    code = (
        "import sys; import stf_jax.models, stf_jax.training.steps, stf_jax.training.optim, "
        "stf_jax.run.checkpoint, stf_jax.evaluation, stf_jax.evaluation.features.extract, "
        "stf_jax.models.weights.pretrained, stf_jax.data.augment, stf_jax.data.sampling, "
        "stf_jax.data.layout.partitions, stf_jax.config; "
        "sys.exit(any(m.split('.')[0] in ('tensorflow', 'torch') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_help_shows_examples() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stf_jax.main", "--help"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0
    assert "--mode evaluate" in done.stdout
