"""Every step's loss is looked at before it is averaged, logged or saved."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax

from stf_jax.errors import UserError

# Steps computed ahead of the one whose loss is looked at.
IN_FLIGHT = 2


class LossWatch:
    """Looks at every step's metrics, a few steps late, so that the devices never wait for it."""

    def __init__(self, last_good: str) -> None:
        self.pending: deque[tuple[int, Mapping[str, Any]]] = deque()
        self.sums: dict[str, float] = {}
        self.count = 0
        self.last_good = last_good

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take the metrics of `step`; raise UserError once a loss turns out not to be finite."""
        self.pending.append((step, metrics))
        while len(self.pending) > IN_FLIGHT:
            self._look()

    def _look(self) -> None:
        step, metrics = self.pending.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"step {step}: the loss is {values['loss']}; expected a finite number. "
                f"Last good checkpoint: {self.last_good}. Lower the learning rates, or set "
                "config.optimizer.clip_norm, and start again from it"
            )
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def wait(self) -> None:
        """Look at all steps: what is saved after this is known to be finite."""
        while self.pending:
            self._look()

    def drain(self) -> dict[str, float]:
        """Wait for all steps; return the means since the last call."""
        self.wait()
        means = {name: total / max(self.count, 1) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means
