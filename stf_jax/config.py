"""Reading a config file and checking its values before anything expensive starts.

The sections `augment`, `model` and `optimizer` are checked by the rooms that own their keys.
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from stf_jax.errors import UserError

# An ml_collections.ConfigDict. Its attributes are typed as a union of everything, which no checker
# can follow through `config.data.height`; `check_config` does what types would.
Config = Any


def load_config(path: str | Path) -> Config:
    """Return `get_config()` of the Python file `path`.

    Raises UserError when there is no such file, it has no `get_config`, or that sets a key that
    does not exist or to a value of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such config file; the ones that come along are in configs/")
    spec = importlib.util.spec_from_file_location(f"stf_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: expected a Python file (.py) that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path}: expected a function get_config() that returns a ConfigDict")
        return module.get_config()
    except (AttributeError, ImportError, KeyError, SyntaxError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: {reason}; the keys and their types are in configs/mars.py"
        ) from error


def _is_int(low: int):
    return (
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low,
        f"an integer of {low} or more",
    )


def _is_number(low: float, high: float = float("inf")):
    def good(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and low <= value <= high

    end = "" if high == float("inf") else f" and at most {high}"
    return good, f"a number of {low} or more{end}"


def _is_one_of(*values: Any):
    return lambda v: v in values, "one of " + ", ".join(map(repr, values))


def _is_rising(kind: type | tuple[type, ...]):
    def good(value: Any) -> bool:
        whole = isinstance(value, tuple | list) and all(isinstance(v, kind) for v in value)
        return whole and list(value) == sorted(set(value))

    return good, "ascending numbers"


_TEXT = (lambda v: isinstance(v, str), "text")
_NAME = (lambda v: isinstance(v, str) and bool(v), "text that is not empty")
_FLAG = (lambda v: isinstance(v, bool), "True or False")
_ANY = (lambda v: True, "anything")


def _is_margin(value: Any) -> bool:
    # A number given on the command line comes as text, because the key's default is text.
    try:
        return value == "soft" or float(value) >= 0
    except (TypeError, ValueError):
        return False


_MARGIN = (_is_margin, '"soft" or a number of 0 or more')
_PROTOCOLS = ("step", "step+queries", "mars-official")

# Every key and what it may hold; the meaning stands beside each in configs/mars.py.
RULES: dict[str, Any] = {
    "seed": _is_int(0),
    "pretrained": _TEXT,
    "pretrained_partial": _FLAG,
    "profile_steps": _is_rising(int),
    "compilation_cache": _TEXT,
    "data": {
        "root": _NAME,
        "partitions": _NAME,
        "source": _is_one_of("folder", "tfds"),
        "train_subset": _is_one_of("trainval", "train"),
        "eval_subset": _is_one_of("test", "val"),
        "height": _is_int(32),
        "width": _is_int(16),
        "sampler": _is_one_of("tracklet", "identity"),
        "tracklets_per_device": _is_int(1),
        "tracklets_per_identity": _is_int(1),
        "min_frames": _is_int(1),
        "max_frames": _is_int(1),
        "frame_buckets": _is_int(1),
        "on_corrupt": _is_one_of("error", "skip"),
        "threads": _is_int(0),
    },
    "augment": _ANY,  # stf_jax.data.augment checks its own
    "model": _ANY,  # stf_jax.models.build checks its own
    "loss": {
        "label_smoothing": _is_number(0, 1),
        "triplet_weight": _is_number(0),
        "triplet_distance": _is_one_of("euclidean", "cosine"),
        "triplet_margin": _MARGIN,
    },
    "optimizer": _ANY,  # stf_jax.training.schedules checks its own
    "train": {
        "epochs": _is_int(0),
        "max_steps": _is_int(0),
        "evaluate_every": _is_int(0),
        "checkpoint_minutes": _is_number(0),
        "evaluate_before": _FLAG,
        "log_every": _is_int(1),
        "sync_batch_norm": _FLAG,
        "parallel": _is_one_of("pmap", "shard_map"),
    },
    "evaluation": {
        "chunk": _is_int(1),
        "chunk_weighting": _is_one_of("mean", "frames"),
        "frames_per_device": _is_int(1),
        "protocols": (
            lambda v: isinstance(v, tuple | list) and len(v) > 0 and set(v) <= set(_PROTOCOLS),
            "some of " + ", ".join(map(repr, _PROTOCOLS)),
        ),
        "max_rank": _is_int(1),
        "distance": _is_one_of("euclidean", "cosine"),
        "flip": _FLAG,
        "rerank": _FLAG,
        "multi_query": _is_one_of("", "mean", "max"),
        "single_gallery_shot": _FLAG,
        "separate_camera_set": _FLAG,
    },
}

# What keys of a section mean for runs that began before there were such keys.
_ADDED: dict[str, dict[str, Any]] = {
    "data": {"source": "folder"},
    "train": {"parallel": "pmap"},
    "evaluation": {"multi_query": "", "single_gallery_shot": False, "separate_camera_set": False},
}


def _findings(config: Mapping[str, Any], rules: Mapping[str, Any], prefix: str) -> list[str]:
    found = [f"{prefix}{key}: no such key" for key in sorted(set(config) - set(rules))]
    for key, rule in rules.items():
        name = f"{prefix}{key}"
        if key not in config:
            found.append(f"{name}: missing")
        elif isinstance(rule, dict):
            if isinstance(config[key], Mapping | ConfigDict):
                found += _findings(config[key], rule, f"{name}.")
            else:
                found.append(f"{name} is {config[key]!r}: expected a section of keys")
        elif not rule[0](config[key]):
            found.append(f"{name} is {config[key]!r}: expected {rule[1]}")
    return found


def check_config(config: Config) -> None:
    """Check the keys and values of `config`; see configs/mars.py for their meaning.

    Raises UserError with one line per unknown, missing or unusable value.
    """
    found = _findings(config, RULES, "config.")
    if not found:
        data, evaluation = config.data, config.evaluation
        if data.min_frames > data.max_frames:
            found.append(
                f"config.data.min_frames is {data.min_frames}: expected at most max_frames "
                f"({data.max_frames})"
            )
        if data.sampler == "identity" and data.tracklets_per_device % data.tracklets_per_identity:
            found.append(
                f"config.data.tracklets_per_device is {data.tracklets_per_device}: expected a "
                f"multiple of tracklets_per_identity ({data.tracklets_per_identity})"
            )
        if evaluation.frames_per_device < evaluation.chunk:
            found.append(
                f"config.evaluation.frames_per_device is {evaluation.frames_per_device}: expected "
                f"at least one chunk ({evaluation.chunk})"
            )
        if len(config.profile_steps) not in (0, 2):
            found.append("config.profile_steps: expected two steps, first and last, or none")
    if found:
        raise UserError("\n".join(found))


def to_json(config: Config) -> dict[str, Any]:
    """Return `config` as plain JSON values (tuples become lists)."""
    return json.loads(config.to_json())


def from_json(values: Mapping[str, Any]) -> Config:
    """Return the ConfigDict that `to_json` turned into `values`; lists become tuples.

    Keys that an older run could not have get the value that does what it did.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(v) for key, v in value.items()}
        return tuple(plain(v) for v in value) if isinstance(value, list) else value

    filled = dict(plain(values))
    for section, added in _ADDED.items():
        if isinstance(filled.get(section), Mapping):
            filled[section] = added | filled[section]
    return ConfigDict(filled)
