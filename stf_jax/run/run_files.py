"""The files next to a run's checkpoints: its config, its label map, and what it was made with.

`config.json`, `labels.json` (person id -> classifier label) and `versions.json` (a list with an
entry for each start of the run: versions, code, devices, data), in the workdir.
"""

import functools
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import stf_jax
from stf_jax.config import Config, from_json
from stf_jax.errors import UserError
from stf_jax.files import atomic_write
from stf_jax.reading.limits import read_json

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("tensorflow", "tensorflow-cpu", "pillow"),  # read the images
)
# Keys of a start: those of the code, and those that do not change what is computed.
_CODE = ("stf_jax", "git", "code")
_FREE = ("time", "devices", "data")
CONFIG_FILE, LABELS_FILE, VERSIONS_FILE = "config.json", "labels.json", "versions.json"


@dataclass(frozen=True)
class RunFiles:
    """The three files as read back; tuples of the config are lists."""

    config: dict[str, Any]
    labels: dict[int, int]
    starts: list[dict[str, Any]]  # what `versions` gave at each start, its `time` and `data`


def write_run_files(
    workdir: str | os.PathLike[str],
    config: Mapping[str, Any],
    labels: Mapping[int, int] | Mapping[np.integer, np.integer],
    data: Mapping[str, Any] | None = None,
) -> None:
    """Writes the files into `workdir` (made if need be), each atomically.

    Args:
        workdir: folder of the run.
        config: nested mappings of numbers, strings, bools, None and sequences.
        labels: person id -> label 0..K-1 of the classifier; both whole numbers.
        data: `data_facts.data_facts` by subset.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    before = read_run_files(workdir)
    now = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **versions()}
    about = {} if data is None else {"data": data}
    _write_json(workdir / VERSIONS_FILE, [*(before.starts if before else []), {**now, **about}])
    _write_json(workdir / LABELS_FILE, {str(int(p)): int(k) for p, k in sorted(labels.items())})
    _write_json(workdir / CONFIG_FILE, _plain(config))  # last: it marks the set as whole


def read_run_files(workdir: str | os.PathLike[str]) -> RunFiles | None:
    """The files of `workdir`; None where no run has begun.

    Raises:
        UserError: one of the files is missing, or is not what `write_run_files` writes.
    """
    workdir = Path(workdir)
    if not (workdir / CONFIG_FILE).exists():
        return None
    labels = _read_json(workdir / LABELS_FILE)
    try:
        by_person = {int(person): int(label) for person, label in labels.items()}
    except (OverflowError, TypeError, ValueError) as error:
        where = workdir / LABELS_FILE
        raise UserError(f"{where}: {error}; expected person ids mapped to labels") from error
    starts = _read_json(workdir / VERSIONS_FILE, list | dict)
    # Earlier revisions kept the last start only.
    starts = starts if isinstance(starts, list) else [starts]
    return RunFiles(_read_json(workdir / CONFIG_FILE), by_person, starts)


def check_are_there(workdir: Path, others: Sequence[str] = ()) -> None:
    """Raise UserError where one of the three files, or of `others`, is no longer in `workdir`."""
    for name in (CONFIG_FILE, LABELS_FILE, VERSIONS_FILE, *others):
        if not (workdir / name).exists():
            raise UserError(
                f"{workdir / name}: was removed during training; start again, in a folder that "
                "stays"
            )


def run_config(workdir: str | os.PathLike[str]) -> Config:
    """The config of the run in `workdir`, an older one's, too.

    Raises:
        UserError: no run has begun there, or its config is none of this program's.
    """
    stored = read_run_files(workdir)
    if stored is None:
        raise UserError(f"{workdir}: no run has begun there; expected a trained one, or --config")
    try:
        num_devices = int(stored.starts[0].get("devices", 1))
    except (AttributeError, TypeError, ValueError) as error:
        where = Path(workdir) / VERSIONS_FILE
        raise UserError(f"{where}: {error}; expected what training wrote") from error
    try:
        return from_json(stored.config, num_devices=num_devices)
    except UserError as error:
        path = Path(workdir) / CONFIG_FILE
        raise UserError("\n".join(f"{path}: {line}" for line in str(error).split("\n"))) from error


def versions() -> dict[str, str]:
    """Versions of Python, this package and those it computes with; git revision; kind of device.

    The revision is that of the checkout this package is in, "-dirty" where tracked files are
    changed; left out where there is none. `code` is a digest of the package's own files.
    """
    found = {"python": platform.python_version(), "stf_jax": stf_jax.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    revision = _git_revision()
    if revision:
        found["git"] = revision
    found["code"] = _code_digest()
    import jax  # here: whoever only reads a run's config need not wait for it

    devices = jax.devices()
    return {**found, "device": devices[0].device_kind, "devices": str(len(devices))}


def code_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the code of two starts differs: "git aaa -> bbb"; "" where it does not.

    Both as `versions` gives them. Uncommitted changes count where they are in the package.
    """
    changes = []
    for name in _CODE:
        was, has = (str(v.get(name, "")).removesuffix("-dirty") for v in (before, now))
        if was and has and was != has:
            changes.append(f"{name} {was} -> {has}")
    return ", ".join(changes)


def library_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which versions of Python, libraries and device differ between two starts, as text."""
    names = [name for name in now if name not in (*_CODE, *_FREE) and name in before]
    return ", ".join(f"{n} {before[n]} -> {now[n]}" for n in names if before[n] != now[n])


def differing_keys(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What differs between two configs: dotted key -> "stored value -> value now".

    Numbers equal in value, and lists and tuples of equal members, are the same. A key that only one
    of the configs has counts as a difference, with "nothing" on the other side.
    """
    before, after = _flat(_plain(stored)), _flat(_plain(now))
    return {
        key: f"{_shown(before, key)} -> {_shown(after, key)}"
        for key in [*after, *(k for k in before if k not in after)]
        if key not in before or key not in after or before[key] != after[key]
    }


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "nothing"


def _plain(config: Any) -> Any:
    """Dicts, lists and scalars only, as JSON gives them back."""
    if hasattr(config, "items"):
        return {str(key): _plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [_plain(value) for value in config]
    if hasattr(config, "item"):  # numpy scalars
        return config.item()
    return str(config) if isinstance(config, os.PathLike) else config


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


@functools.cache  # of the code that is running: a start asks twice
def _code_digest() -> str:
    root = Path(stf_jax.__file__).resolve().parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        contents = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(contents)}\n".encode() + contents)
    return digest.hexdigest()[:16]


def _git_revision() -> str | None:
    root = Path(stf_jax.__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed: a repository further up would be another one
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        # Tags would make it a name that moves.
        run = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read_json(path: Path, kind: Any = dict) -> Any:
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not found beside {CONFIG_FILE}; copy the whole workdir") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); expected what training wrote") from error
    if not isinstance(value, kind) or value == []:
        raise UserError(f"{path}: found {type(value).__name__}, expected what training wrote")
    return value
