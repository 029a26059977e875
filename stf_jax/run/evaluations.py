"""Where a run's evaluations are kept: each in its own folder, so that none replaces another."""

import os
import re
import zlib
from pathlib import Path
from typing import Any

from stf_jax.config import Config, flat_values
from stf_jax.errors import UserError, raise_system_fault
from stf_jax.reading.limits import read_json
from stf_jax.run.checkpoint import find_step
from stf_jax.run.restore import default_checkpoint
from stf_jax.run.run_files import read_run_files, run_config

SCORES_FILE = "scores.json"
EVALUATIONS_FOLDER = "evaluations"
# Beside these every key of `evaluation.` and `model.` may change a score, but for `_FREE`.
_OF_SCORES = (
    *("seed", "data.root", "data.source", "data.partitions", "data.eval_subset"),
    *("data.height", "data.width", "data.on_corrupt", "augment.pad_ratio"),
)
_OF_DATA = ("data.root", "data.source", "data.partitions", "data.eval_subset")
_FREE = ("evaluation.frames_per_device", "model.remat")
_LONGEST = 80  # characters of a folder's name


def evaluation_folder(config: Config, workdir: Path, step: int) -> Path:
    """Return the folder of the evaluation of checkpoint `step` as `config` says.

    `workdir` itself for what the run was made for: its own config's data and rules, and the
    checkpoint that is used where none is asked for. Any other is `workdir`/evaluations/NAME, NAME
    being of data set, subset and step, and the rules that differ from the run's.

    Raises UserError where that folder holds an evaluation of another data set of that name.
    """
    if read_run_files(workdir) is None:
        return workdir
    now, own = _scored_by(config), _scored_by(run_config(workdir))
    unlike = [key for key in now if now[key] != own[key]]
    if not unlike and step == find_step(workdir / "checkpoints", default_checkpoint(workdir)):
        return workdir
    data = config.data
    root = Path(now["data.root"])
    parts = [root.parent.name if data.source == "tfds" else root.name]
    parts += [Path(data.partitions).stem] * (data.partitions != "partitions.pkl")
    parts += [data.eval_subset, f"step{step}"]
    parts += [f"{key.rpartition('.')[2]}={now[key]}" for key in unlike if key not in _OF_DATA]
    name = re.sub(r"[^\w.+=-]+", "_", "-".join(parts))
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 9]}-{zlib.crc32(name.encode()):08x}"
    folder = workdir / EVALUATIONS_FOLDER / name
    there = _data_of(folder)
    if there is not None and os.path.abspath(there) != now["data.root"]:
        raise UserError(
            f"{folder}: holds an evaluation on {there}; expected one on {data.root}, or none; "
            "name another folder by --output"
        )
    return folder


def _scored_by(config: Config) -> dict[str, Any]:
    """All of the config that scores depend on."""
    values = {
        key: value
        for key, value in flat_values(config).items()
        if key in _OF_SCORES or (key.startswith(("evaluation.", "model.")) and key not in _FREE)
    }
    return values | {"data.root": os.path.abspath(config.data.root)}


def _data_of(folder: Path) -> str | None:
    try:
        return str(read_json(folder / SCORES_FILE)["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_system_fault(error, folder / SCORES_FILE)
        return None
