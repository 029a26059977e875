"""Every step's loss and gradient and every state to be saved are looked at: finite, or the end."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax
import optax

from stf_jax.errors import UserError

# Steps computed ahead of the one whose loss is looked at.
IN_FLIGHT = 2

_norm = jax.jit(optax.tree.norm)


class LossWatch:
    """Looks at every step's metrics, a few steps late, so that the devices never wait for it."""

    def __init__(self, last_good: str, window: Mapping[str, Any] | None = None) -> None:
        """`window` is that of an earlier watch, whose steps are in the next means, too."""
        self.pending: deque[tuple[int, Mapping[str, Any]]] = deque()
        self.sums: dict[str, float] = dict((window or {}).get("sums", {}))
        self.count = int((window or {}).get("count", 0))
        self.last_good = last_good

    def window(self) -> dict[str, Any]:
        """What a resumed run needs for the same means: the steps since `drain`, in JSON's types."""
        self.wait()
        return {"sums": dict(self.sums), "count": self.count}

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take the metrics of `step`; raise UserError once its loss or gradient is not finite."""
        self.pending.append((step, metrics))
        while len(self.pending) > IN_FLIGHT:
            self._look()

    def _look(self) -> None:
        step, metrics = self.pending.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._expect_finite(step, "loss", values["loss"])
        self._expect_finite(step, "gradient's norm", values.get("grad_norm", 0.0))
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def wait(self) -> None:
        """Look at all steps: what is saved after this is known to be finite."""
        while self.pending:
            self._look()

    def check(self, step: int, variables: Any) -> None:
        """Raise UserError where the norm of `variables`, after `step`, overflows or is NaN.

        A loss is of the weights before its step: those after it may be worthless already.
        """
        self._expect_finite(step, "norm of the updated weights", float(_norm(variables)))

    def _expect_finite(self, step: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"step {step}: the {what} is {value}; expected a finite number. "
                f"Last good checkpoint: {self.last_good}. Lower the learning rates, or set "
                "config.optimizer.clip_norm, and start again from it"
            )

    def drain(self) -> dict[str, float]:
        """Wait for all steps; return the means since the last call."""
        self.wait()
        means = {name: total / max(self.count, 1) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means
