import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import stf_jax
from stf_jax.errors import UserError
from stf_jax.run import run_files
from stf_jax.run.run_files import (
    differing_keys,
    read_run_files,
    run_config,
    versions,
    write_run_files,
)

OLD_CONFIGS = Path(__file__).parents[1] / "fixtures" / "old_configs"
CONFIG = {
    "seed": 0,
    "model": {"stages": (2, 4), "backbone": "resnet50", "dtype": None},
    "optimizer": {"lr_rest": 1e-4, "nesterov": True, "staircase_epochs": (15, 30)},
}
LABELS = {-1: 2, 7: 0, 1500: 1}


def test_what_is_written_is_read(tmp_path):
    workdir = tmp_path / "runs" / "a"
    assert read_run_files(workdir) is None
    write_run_files(workdir, CONFIG, LABELS)
    found = read_run_files(workdir)
    assert found is not None
    assert found.labels == LABELS
    assert found.config["model"] == {"stages": [2, 4], "backbone": "resnet50", "dtype": None}
    assert differing_keys(found.config, CONFIG) == {}
    (start,) = found.starts
    assert start.pop("time")[:2] == "20"
    assert start == versions()
    assert sorted(p.name for p in workdir.iterdir()) == [
        "config.json",
        "labels.json",
        "versions.json",
    ]
    of_numpy: Any = {np.int64(3): np.int64(0)}
    write_run_files(workdir, {"seed": np.int64(1)}, of_numpy)
    again = read_run_files(workdir)
    assert again is not None
    assert (again.config, again.labels) == ({"seed": 1}, {3: 0})
    assert len(again.starts) == 2
    (workdir / "versions.json").write_text('{"devices": "8"}')  # of earlier revisions
    older = read_run_files(workdir)
    assert older is not None
    assert older.starts == [{"devices": "8"}]


def test_an_older_config_is_of_the_devices_it_began_on(tmp_path):
    """`data.tracklets` was a device's own number once."""
    older = json.loads((OLD_CONFIGS / "demo.json").read_text())
    write_run_files(tmp_path, older, LABELS)
    starts = json.dumps([{"devices": "3"}, {"devices": "5"}])
    (tmp_path / "versions.json").write_text(starts)
    assert run_config(tmp_path).data.tracklets == 3 * older["data"]["tracklets_per_device"]


def test_differences_are_named_by_their_dotted_key():
    now = {
        "seed": 0.0,
        "model": {"stages": [2, 3, 4], "backbone": "resnet50"},
        "optimizer": {"lr_rest": 3e-4, "nesterov": True, "staircase_epochs": [15, 30]},
        "note": "x",
    }
    assert differing_keys(CONFIG, now) == {
        "model.stages": "[2, 4] -> [2, 3, 4]",
        "model.dtype": "null -> nothing",
        "optimizer.lr_rest": "0.0001 -> 0.0003",
        "note": 'nothing -> "x"',
    }
    assert differing_keys({"a": {}}, {"a": {"b": 1}}) == {
        "a.b": "nothing -> 1",
        "a": "{} -> nothing",
    }


def test_versions():
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert found["stf_jax"] == stf_jax.__version__
    assert {"flax", "optax", "orbax-checkpoint"} <= set(found)
    assert found["device"] == jax.devices()[0].device_kind
    assert found["devices"] == str(len(jax.devices()))
    json.dumps(found)


def _git(root, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *identity, "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_revision_is_that_of_the_packages_own_checkout(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "stf_jax"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(run_files.stf_jax, "__file__", str(package / "__init__.py"))
    assert "git" not in versions()
    _git(tmp_path, "init", "-q")  # a repository that only contains the installation
    assert "git" not in versions()
    root = tmp_path / "checkout"
    _git(root, "init", "-q")
    _git(root, "add", "stf_jax")
    _git(root, "commit", "-q", "-m", "a")
    _git(root, "tag", "v1")
    revision = _git(root, "rev-parse", "HEAD")
    assert versions()["git"] == revision
    (package / "__init__.py").write_text("1\n")
    assert versions()["git"] == f"{revision}-dirty"


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("labels.json", None, "not found beside config.json"),
        ("versions.json", None, "not found beside config.json"),
        ("config.json", '{"seed": ', "not JSON"),
        ("labels.json", "[1, 2]", "found list, expected what training wrote"),
        ("labels.json", '{"anna": 1}', "expected person ids mapped to labels"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name, text, match):
    write_run_files(tmp_path, CONFIG, LABELS)
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"^{tmp_path / name}: .*{match}"):
        read_run_files(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_run_files(tmp_path, CONFIG, LABELS)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(TypeError):
        write_run_files(tmp_path, {"seed": object()}, LABELS)
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "config.json").read_bytes() == before
