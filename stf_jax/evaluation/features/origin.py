"""What features were made by: those of another origin cannot be compared with them."""

import json
from dataclasses import dataclass
from typing import Any

from stf_jax.config import Config, flat_values
from stf_jax.errors import UserError

# Keys that change a feature, beside those of the model and those with a field of their own.
_KEYS = ("data.height", "data.width", "augment.pad_ratio")


@dataclass(frozen=True)
class FeatureOrigin:
    """Weights and settings of features; equal origins give the same features for the same frames.

    The file of a `FeatureSet` has an entry of the same name for each field.
    """

    weights_digest: str  # `run.tensor_checksums.digest` of the variables, without a classifier
    step: int  # of the checkpoint
    metric: str  # to compare them by: the run's config.evaluation.distance
    flip: bool
    chunk: int  # frames that went through the model together, counted from a tracklet's first
    chunk_weighting: str
    settings: str  # JSON: the other keys of the config that change a feature -> their values


def feature_origin(config: Config, weights_digest: str, step: int) -> FeatureOrigin:
    """The origin of features that are extracted as `config` says."""
    evaluation = config.evaluation
    return FeatureOrigin(
        weights_digest=weights_digest,
        step=step,
        metric=evaluation.distance,
        flip=evaluation.flip,
        chunk=evaluation.chunk,
        chunk_weighting=evaluation.chunk_weighting,
        settings=_settings(config),
    )


def _settings(config: Config) -> str:
    values = flat_values(config)
    # What model.remat saves in memory changes no feature.
    names = [n for n in values if n in _KEYS or (n.startswith("model.") and n != "model.remat")]
    return json.dumps({name: values[name] for name in names}, sort_keys=True)


def check_same_origin(**origins: FeatureOrigin) -> None:
    """Compare two origins by name: `check_same_origin(query=..., gallery=...)`.

    Raises:
        UserError: they differ; one line says in what.
    """
    ours, theirs = map(_values, origins.values())
    unlike = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if not unlike:
        return
    if "weights" in unlike or "step" in unlike:  # the rest is of no use then
        unlike = ["weights", "step"]
    found = (
        f"{name}: features of {', '.join(f'{key} {values.get(key)}' for key in unlike)}"
        for name, values in zip(origins, (ours, theirs), strict=True)
    )
    raise UserError(
        f"{'; '.join(found)}; expected one run, checkpoint and settings; write both again with "
        "--mode evaluate or --mode embed"
    )


def _values(origin: FeatureOrigin) -> dict[str, Any]:
    """Everything that has to be equal, by name; keys that an older file lacks as they were then."""
    values = {"weights": origin.weights_digest[:8], **vars(origin)}
    settings = json.loads(values.pop("settings"))
    older = json.loads(_settings(Config()))
    return {**values, **{k: v for k, v in older.items() if k.startswith("model.")}, **settings}
