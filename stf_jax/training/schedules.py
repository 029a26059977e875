"""Learning rates: from the optimiser's settings to one number per parameter group and step.

Epochs count from 1, training steps from 0: epoch e starts at step (e - 1) * steps_per_epoch. A
learning rate belongs to the step whose update it scales.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from stf_jax.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

Config: TypeAlias = "Mapping[str, Any] | ConfigDict"
GROUPS = ("backbone", "classifier", "rest")

# Training step (0-based, int or array of ints) -> learning rate; an optax.Schedule with its types.
Schedule = Callable[[ArrayLike], Float[Array, "..."]]


@dataclass(frozen=True)
class OptimizerSettings:
    """The keys of `config.optimizer`; the defaults are the reference's recipe for MARS."""

    name: str = "sgd"  # "sgd", "adam" (weight decay added to the gradient) or "adamw" (decoupled)
    momentum: float = 0.9  # of SGD; Adam's two are 0.9 and 0.999
    nesterov: bool = True
    weight_decay: float = 5e-4  # on every parameter
    lr_backbone: float = 1e-4
    lr_classifier: float = 1e-3
    lr_rest: float = 1e-4
    schedule: str = "staircase"  # or "cosine", to zero at the last step
    staircase_epochs: tuple[float, ...] = (15, 30, 40, 50, 60, 70)
    staircase_factor: float = 0.2
    warmup_epochs: float = 0.0  # linear, after the classifier-only epochs
    classifier_only_epochs: float = 0.0
    classifier_only_lr: float = 0.1
    clip_norm: float = 0.0  # greatest global norm of the gradient; 0 switches clipping off
    accumulate: int = 1  # training steps per update


def settings_from_config(config: Config) -> OptimizerSettings:
    """Checks `config.optimizer` in full.

    Raises:
        UserError: a line for each unknown key, wrong type and value out of range, naming the key.
    """
    findings: list[str] = []
    known = {field.name: field for field in fields(OptimizerSettings)}
    values: dict[str, Any] = {}
    for key, value in config.items():
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            findings.append(f"optimizer.{key}: unknown key; {hint}")
            continue
        default = known[key].default
        assert default is not MISSING
        converted = _converted(value, default)
        if converted is None:
            kind = "a list of numbers" if isinstance(default, tuple) else type(default).__name__
            findings.append(f"optimizer.{key}: found {value!r}, expected {kind}")
        else:
            values[key] = converted
    settings = OptimizerSettings(**values)
    findings += [
        f"optimizer.{key}: found {getattr(settings, key)!r}, expected {expected}"
        for key, (holds, expected) in _requirements(settings).items()
        if not holds
    ]
    if findings:
        raise UserError("\n".join(findings))
    return settings


def _converted(value: Any, default: Any) -> Any:
    """`value` in the type of `default`, None where it is of another kind."""
    if isinstance(default, tuple):
        numbers = list(value) if isinstance(value, list | tuple) else None
        return tuple(numbers) if numbers is not None and all(map(_is_number, numbers)) else None
    if isinstance(default, bool | str):
        return value if isinstance(value, type(default)) else None
    if not _is_number(value) or (isinstance(default, int) and value != int(value)):
        return None
    return type(default)(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _requirements(s: OptimizerSettings) -> dict[str, tuple[bool, str]]:
    names, schedules = ("sgd", "adam", "adamw"), ("staircase", "cosine")
    at_least_zero = (
        *("weight_decay", "lr_backbone", "lr_classifier", "lr_rest", "warmup_epochs", "clip_norm"),
        *("classifier_only_epochs", "classifier_only_lr"),
    )
    sorted_from_one = all(a < b for a, b in pairwise((0.999, *s.staircase_epochs)))
    needs_momentum = s.name == "sgd" and s.nesterov
    return {
        "name": (s.name in names, f"one of {names}"),
        "schedule": (s.schedule in schedules, f"one of {schedules}"),
        "staircase_epochs": (sorted_from_one, "epochs counted from 1, in rising order"),
        "staircase_factor": (s.staircase_factor > 0, "a number > 0"),
        "momentum": (
            0 <= s.momentum < 1 and (s.momentum > 0 or not needs_momentum),
            "0 < momentum < 1 (0 only with nesterov=False)"
            if needs_momentum
            else "0..1, less than 1",
        ),
        "accumulate": (s.accumulate >= 1, "a whole number >= 1"),
        **{key: (getattr(s, key) >= 0, "a number >= 0") for key in at_least_zero},
    }


def make_schedules(
    settings: OptimizerSettings, steps_per_epoch: int, total_steps: int
) -> dict[str, Schedule]:
    """Learning rate of each group as a function of the training step (0-based; int or array).

    - staircase: the group's rate times `staircase_factor` for each epoch of `staircase_epochs` that
      has begun (the reference: 15, 30, 40, 50, 60, 70, each from its first step on);
    - cosine: the group's rate times (1 + cos(pi * done)) / 2, done from 0 at the end of the warm-up
      to 1 at `total_steps`, and stays 1 (rate 0) after it;
    - warm-up, for either: step i (from 0) of n has (i + 1) / n of the rate;
    - classifier-only epochs come first: the classifier has `classifier_only_lr`, the others 0.
      Epoch numbers go on through them; a warm-up begins behind them.
    """
    frozen = classifier_only_steps(settings, steps_per_epoch)
    warm = round(settings.warmup_epochs * steps_per_epoch)
    boundaries = np.array([round((e - 1) * steps_per_epoch) for e in settings.staircase_epochs])
    factors = settings.staircase_factor ** np.arange(len(boundaries) + 1)

    def shape(step: Array) -> Array:
        if settings.schedule == "staircase":
            return jnp.asarray(factors)[jnp.searchsorted(boundaries, step, side="right")]
        length = max(total_steps - frozen - warm, 1)
        done = jnp.clip((step - frozen - warm).astype(float) / length, 0, 1)
        return (1 + jnp.cos(jnp.pi * done)) / 2

    def schedule_of(group: str) -> Schedule:
        rate = getattr(settings, f"lr_{group}")
        first = settings.classifier_only_lr if group == "classifier" else 0.0

        def schedule(step: ArrayLike) -> Float[Array, "..."]:
            step = jnp.asarray(step)
            ramp = jnp.clip((step - frozen + 1).astype(float) / max(warm, 1), 0, 1)
            return jnp.where(step < frozen, first, rate * ramp * shape(step))

        return schedule

    return {group: schedule_of(group) for group in GROUPS}


def classifier_only_steps(settings: OptimizerSettings, steps_per_epoch: int) -> int:
    """Number of training steps, from the first, in which only the classifier learns."""
    return round(settings.classifier_only_epochs * steps_per_epoch)
