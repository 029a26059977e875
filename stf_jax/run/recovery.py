"""Where a run resumes: at its newest whole checkpoint, or an earlier one that is asked for.

What stands in the way of that is never deleted: it is moved to `set_aside/` in the workdir.
"""

import errno
import os
from pathlib import Path
from typing import Any

from stf_jax.errors import UserError
from stf_jax.run import checkpoint

CHECKPOINTS, ASIDE = "checkpoints", "set_aside"


def find_resume(workdir: Path, which: str | None = None) -> dict[str, Any]:
    """Find the checkpoint to resume from; changes nothing.

    Args:
        workdir: folder of the run.
        which: "latest", "best" or a step, which has to be whole; None for the newest whole one.

    Returns:
        What JSON has: `step`, None at the start of a run; `aside`, names in `checkpoints` that
        `clear_the_way` has to move; `scoreless`, steps whose metrics are broken; `notes`, a line
        on each of these.

    Raises:
        UserError: no checkpoint is whole, or the one asked for is damaged or not there.
    """
    folder = workdir / CHECKPOINTS
    steps = [entry.step for entry in checkpoint.describe(folder)]
    notes, aside = [], []
    if which is None:
        step = _newest_whole(folder, steps)
    else:
        step = checkpoint.find_step(folder, which)
        checkpoint.verify(folder, step)
    later = [] if step is None else [other for other in steps if other > step]
    to = workdir / ASIDE
    for path in checkpoint.numbered(folder):
        if path.is_dir() and checkpoint.is_checkpoint(path):
            continue
        aside.append(path.name)
        notes.append(f"note: {path}: no checkpoint, though named as one: moved to {to}")
    for other in later:
        aside.append(str(other))
        if which is None:
            damage = _damage(folder, other)
            notes.append(
                f"note: {damage}: moved to {to}; training resumes from step {step} and repeats "
                f"{other - (step or 0)} steps"
            )
    if later and which is not None:
        names = ", ".join(map(str, later))
        notes.append(
            f"note: resuming from step {step} as asked; later steps moved to {to}: {names}"
        )
    scoreless = [s for s in steps if s not in later and checkpoint.read_scores(folder, s) is None]
    notes += [
        f"note: {folder / str(s)}: its scores cannot be read; it no longer counts as the best"
        for s in scoreless
    ]
    return {"step": step, "aside": aside, "scoreless": scoreless, "notes": notes}


def clear_the_way(workdir: Path, found: dict[str, Any]) -> None:
    """Do what `find_resume` has found: move, and replace broken metrics. For the run's owner."""
    folder, to = workdir / CHECKPOINTS, workdir / ASIDE
    # The highest first: interrupted, those that stay are still a run up to some step.
    for name in sorted(found["aside"], key=int, reverse=True):
        to.mkdir(exist_ok=True)
        _move(folder / name, to)
    for step in found["scoreless"]:
        checkpoint.write_scores(folder, step, {})


def _move(path: Path, into: Path) -> None:
    number = 1
    while True:
        target = into / (path.name if number == 1 else f"{path.name}.{number}")
        number += 1
        if target.exists():
            continue
        try:
            os.rename(path, target)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def _newest_whole(folder: Path, steps: list[int]) -> int | None:
    damages = []
    for step in reversed(steps):
        damage = _damage(folder, step)
        if damage is None:
            return step
        damages.append(damage)
    if damages:
        raise UserError(
            "\n".join(
                f"{damage}: no other one is whole; put back a copy, or train in another --workdir"
                for damage in damages
            )
        )
    return None


def _damage(folder: Path, step: int) -> str | None:
    try:
        checkpoint.verify(folder, step)
    except UserError as error:
        return str(error).rpartition("; ")[0]  # but for the hint to name another step
    return None
