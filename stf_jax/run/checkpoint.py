"""Checkpoints: what a run needs to resume, written by Orbax while training continues.

A step's folder holds `model` (params and batch_stats), `training` (step, optimiser state),
`contents` (shape, type and checksum of every tensor: Orbax has no checksums of its own), `position`
(where in the data, and what is not yet logged) and `metrics`. Orbax writes it under another name
and renames it when it is whole, so that a killed run leaves whole steps only.
"""

import functools
import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from stf_jax.data.sampling import Position
from stf_jax.errors import UserError, raise_system_fault, system_fault
from stf_jax.files import atomic_write
from stf_jax.reading.limits import read_json
from stf_jax.run.tensor_checksums import (
    TensorInfo,
    differences,
    module_of,
    named_leaves,
    tensor_info,
)

BEST_METRIC = "mAP"
# Beside the metrics: what was evaluated, `TrackletTable.checksum`, and by which rules. An mAP is
# compared with those of the same ones only.
SUBSET, RULES = "subset_crc32", "rules_crc32"
MODEL_GROUPS = ("params", "batch_stats")
MAX_FINDINGS = 8
_PARTS = ("model", "training", "contents", "position")
_WINDOW = "window"  # beside the position's fields

State = TypeVar("State")
Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class StoredStep:
    """One checkpoint on disk; `metrics` is empty where the step was not evaluated."""

    step: int
    metrics: dict[str, float]
    is_latest: bool
    is_best: bool


class _Manager(ocp.CheckpointManager):
    """Leaves preemption to the loop (`hosts.noticed`).

    Orbax would ask jax about it at every save, and again from its thread when it is done, with a
    step long past: hosts that agree on where to stop by counting the questions could disagree.
    """

    def reached_preemption(self, step: int) -> bool:
        """Never: the loop saves when it has to stop."""
        return False

    def save(self, step: int, *args: Any, **kwargs: Any) -> bool:
        """Orbax's; raises UserError where it cannot be written."""
        with self._write_reported():
            return super().save(step, *args, **kwargs)

    def wait_until_finished(self) -> None:
        """Orbax's; raises UserError where the last save could not be written."""
        with self._write_reported():
            super().wait_until_finished()

    def close(self) -> None:
        """Orbax's; raises UserError where the last save could not be written."""
        with self._write_reported():
            super().close()

    @contextmanager
    def _write_reported(self) -> Iterator[None]:
        """Whatever Orbax raises while it writes is a full disk, a folder that is gone ..."""
        try:
            yield
        except (UserError, MemoryError):
            raise
        except Exception as error:
            raise UserError(
                f"{self.directory}: a checkpoint cannot be written ({_reason(error)}); those "
                "before it are whole; fix it, and the same command resumes from the latest"
            ) from error


def open_manager(
    directory: Folder, evaluated: Mapping[str, float] | None = None
) -> ocp.CheckpointManager:
    """Manager that writes into `directory` (made if need be).

    Keeps the latest two steps and the best of those whose metrics hold `evaluated` (`SUBSET`,
    `RULES`). Removes what a killed run left unfinished, so it is for the run that owns the folder;
    reading needs no manager. Close it (`manager.close()`, or `with`):
    that waits for the last save. Of several hosts one opens it: all have the whole state, so one
    writes, and none waits.
    """
    os.makedirs(directory, exist_ok=True)
    _silence_orbax()
    policies = ocp.checkpoint_managers

    def rank(metrics: Mapping[str, float]) -> float:
        return _rank(metrics) if _evaluated(metrics) == (evaluated or {}) else -math.inf

    best = policies.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False)
    return _Manager(
        os.path.abspath(directory),
        options=ocp.CheckpointManagerOptions(
            # A count and a best_fn alone would delete the latest step whenever it is not the best.
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), best]),
            best_fn=rank,
            cleanup_tmp_directories=True,
            create=False,
            multiprocessing_options=_alone(),
        ),
    )


@functools.cache
def _silence_orbax() -> None:
    """No tracebacks of a save that fails, to a full disk: what it raises is reported in a line.

    Orbax logs each error and raises it; the writes it had begun then call an event loop that is
    closed, in threads of their own.
    """
    logging.getLogger("absl").addFilter(
        lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname
    )
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook


def save(
    manager: ocp.CheckpointManager,
    state: Any,
    position: Position,
    metrics: Mapping[str, float] | None = None,
    window: Mapping[str, Any] | None = None,
) -> bool:
    """Starts saving `state` as its own step; waits for the save before, not for this one.

    Everything is copied to host memory before this returns: the state may be donated at once.

    Args:
        manager: from `open_manager`.
        state: a pytree with the fields (or keys) step, params, batch_stats and others; arrays whole
            on each device (replicated), or numpy.
        position: where in the data the state is.
        metrics: scores of this state, "mAP" among them; None where it was not evaluated.
        window: what `restore_window` gives back, of what JSON has: sums not yet logged.

    Returns:
        Whether a step is being written: False where it is stored already, which adds the metrics.

    Raises:
        UserError: a later step is stored; a run resumes from its latest step only.
    """
    arrays = {name: _host_copy(leaf) for name, leaf in named_leaves(state)}
    step = int(arrays["step"])
    manager.wait_until_finished()
    latest = manager.latest_step()
    scores = {name: float(value) for name, value in (metrics or {}).items()}
    if latest == step:
        _add_metrics(manager, step, scores)
        return False
    if latest is not None and latest > step:
        raise UserError(
            f"{manager.directory}: found a checkpoint of step {latest}, cannot save step {step} "
            "after it; train in another workdir, or remove the later steps"
        )
    model = {name: array for name, array in arrays.items() if _is_model(name)}
    training = {name: array for name, array in arrays.items() if not _is_model(name)}
    contents = {name: asdict(tensor_info(array)) for name, array in arrays.items()}
    manager.save(
        step,
        args=ocp.args.Composite(
            model=ocp.args.PyTreeSave(unflatten_dict(model, sep="/")),
            training=ocp.args.PyTreeSave(unflatten_dict(training, sep="/")),
            contents=ocp.args.JsonSave(contents),
            position=ocp.args.JsonSave({**asdict(position), _WINDOW: dict(window or {})}),
        ),
        # Never None: Orbax would warn at every save without an evaluation.
        metrics=scores,
        force=True,
    )
    return True


def describe(directory: Folder) -> list[StoredStep]:
    """All checkpoints in `directory`, by step; empty where there are none.

    Not whether their tensors are whole: that is `verify`'s to say. Metrics that cannot be read are
    none. A folder without any part of a checkpoint is none.
    """
    names = (path.name for path in numbered(directory) if is_checkpoint(path))
    stored = {step: read_scores(Path(directory), step) or {} for step in sorted(map(int, names))}
    scored = [step for step, metrics in stored.items() if BEST_METRIC in metrics]
    alike = [s for s in scored if _evaluated(stored[s]) == _evaluated(stored[scored[-1]])]
    # Of equal ones the later, as Orbax keeps it.
    best = max(alike, key=lambda step: (_rank(stored[step]), step), default=None)
    latest = max(stored, default=None)
    return [StoredStep(s, metrics, s == latest, s == best) for s, metrics in stored.items()]


def numbered(directory: Folder) -> list[Path]:
    """What in `directory` has a step's name, a checkpoint or not."""
    try:
        return [p for p in Path(directory).iterdir() if re.fullmatch("0|[1-9][0-9]{0,17}", p.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_checkpoint(path: Path) -> bool:
    """Whether a folder holds a part of a checkpoint, maybe a damaged one."""
    return any((path / part).is_dir() for part in _PARTS)


def read_scores(directory: Path, step: int) -> dict[str, float] | None:
    """The metrics of a step; None where their file is missing or broken."""
    try:
        found = read_json(_scores_file(directory, step))
        return {str(name): float(value) for name, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise_system_fault(error, _scores_file(directory, step))
        return None


def write_scores(directory: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Replaces the metrics of a step."""
    file = _scores_file(directory, step)
    file.parent.mkdir(exist_ok=True)
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(dict(metrics)))


def _scores_file(directory: Path, step: int) -> Path:
    return directory / str(step) / "metrics" / "metrics"


def verify(directory: Folder, step: int) -> int:
    """Reads a checkpoint, all of it, against its checksums; returns its number of tensors.

    Raises:
        UserError: it is damaged.
    """
    contents = _read_contents(directory, step)
    _read_tensors(directory, step, contents)
    with _damage_reported(directory, step):
        _read_position(directory, step)
    return len(contents)


def find_step(directory: Folder, which: str | int = "latest") -> int:
    """Step of the checkpoint called `which`: "latest", "best" (by mAP), or a step number.

    Raises:
        UserError: there is no such checkpoint; the message lists what there is.
    """
    stored = describe(directory)
    if not stored:
        raise UserError(
            f"{directory}: found no checkpoint, expected one of a training run; train first, or "
            "give the workdir of a run"
        )
    for entry in stored:
        if {"latest": entry.is_latest, "best": entry.is_best}.get(str(which)) or (
            str(entry.step) == str(which)
        ):
            return entry.step
    steps = ", ".join(str(entry.step) for entry in stored)
    hint = " (none was evaluated)" if which == "best" else ""
    raise UserError(f"{directory}: found no checkpoint {which!r}{hint}, expected one of: {steps}")


def restore_state(
    directory: Folder, template: State, which: str | int = "latest"
) -> tuple[State, Position]:
    """Whole state and position of a checkpoint, to resume training.

    Args:
        directory: where `open_manager` wrote.
        template: a state of the wanted structure; its values are not read. Leaves that are jax
            arrays give the result their placement, others (ShapeDtypeStruct, numpy) make it numpy.
        which: as in `find_step`.

    Raises:
        UserError: no such checkpoint, a damaged one, or one of other tensors, which are named.
    """
    step = find_step(directory, which)
    contents = _read_contents(directory, step)
    wanted = named_leaves(template)
    findings = differences(contents, dict(wanted))
    if findings:
        raise _misfit(directory, step, findings)
    arrays = _read_tensors(directory, step, contents)
    leaves = [_placed_like(leaf, arrays[name]) for name, leaf in wanted]
    with _damage_reported(directory, step):
        position, _ = _read_position(directory, step)
    return jax.tree.unflatten(jax.tree.structure(template), leaves), position


def restore_window(directory: Folder, step: int) -> dict[str, Any]:
    """The `window` that `save` was given; empty of older checkpoints."""
    with _damage_reported(directory, step):
        return _read_position(directory, step)[1]


def restore_model(
    directory: Folder,
    template: Mapping[str, PyTree],
    which: str | int = "latest",
    optional: Iterable[str] = (),
) -> tuple[dict[str, PyTree], list[str]]:
    """Only the variables of a checkpoint, to evaluate or to start another run from.

    Args:
        directory: where `open_manager` wrote.
        template: {"params": ..., "batch_stats": ...} as the model's `init` gives them.
        which: as in `find_step`.
        optional: modules (second part of a tensor's name, as "classifier") that may differ. Where
            anything in such a module does, or is missing, the whole module keeps the template's
            values; what the checkpoint has and the template has not is left out.

    Returns:
        The variables, placed as in `restore_state`, and a line for each difference let pass.

    Raises:
        UserError: as `restore_state`; differences outside of `optional` are all named.
    """
    step = find_step(directory, which)
    contents = _read_contents(directory, step)
    contents = {name: info for name, info in contents.items() if _is_model(name)}
    wanted = named_leaves(dict(template))
    findings = differences(contents, dict(wanted))
    passed = {n: line for n, line in findings.items() if module_of(n) in tuple(optional)}
    if len(passed) < len(findings):
        raise _misfit(directory, step, {n: f for n, f in findings.items() if n not in passed})
    keep = {module_of(name) for name in passed}
    arrays = _read_tensors(directory, step, contents)
    leaves = [
        leaf if module_of(name) in keep else _placed_like(leaf, arrays[name])
        for name, leaf in wanted
    ]
    return jax.tree.unflatten(jax.tree.structure(dict(template)), leaves), list(passed.values())


def _rank(metrics: Mapping[str, float]) -> float:
    value = metrics.get(BEST_METRIC, -math.inf)
    return -math.inf if math.isnan(value) else value


def _evaluated(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in (SUBSET, RULES) if name in metrics}


def _is_model(name: str) -> bool:
    return name.split("/")[0] in MODEL_GROUPS


def _host_copy(leaf: Any) -> np.ndarray:
    # A real copy: on the CPU device_get gives a view, and the next step could not reuse the buffer.
    return np.array(jax.device_get(leaf), copy=True)


def _placed_like(leaf: Any, array: np.ndarray) -> Any:
    return jax.device_put(array, leaf.sharding) if isinstance(leaf, jax.Array) else array


def _restore(directory: Folder, step: int, args: ocp.args.Composite) -> Any:
    """Orbax's, without a manager: it would read the metrics of every step, whole or not."""
    handler = ocp.CompositeCheckpointHandler()
    with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as checkpointer:
        return checkpointer.restore(Path(os.path.abspath(directory)) / str(step), args=args)


def _alone() -> ocp.options.MultiprocessingOptions:
    """This host does not wait for others; Orbax by itself would, at every call."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})


def _add_metrics(manager: ocp.CheckpointManager, step: int, metrics: dict[str, float]) -> None:
    """Gives a stored step, interrupted before its evaluation, the scores it got since."""
    if metrics:
        write_scores(Path(manager.directory), step, metrics)
    manager.reload()


def _read_json(directory: Folder, step: int, part: str) -> Any:
    return read_json(Path(directory) / str(step) / part / "metadata")


def _read_contents(directory: Folder, step: int) -> dict[str, TensorInfo]:
    with _damage_reported(directory, step):
        return {
            name: TensorInfo(tuple(info["shape"]), info["dtype"], info["crc32"])
            for name, info in _read_json(directory, step, "contents").items()
        }


def _read_position(directory: Folder, step: int) -> tuple[Position, dict[str, Any]]:
    stored = dict(_read_json(directory, step, "position"))
    window = dict(stored.pop(_WINDOW, {}))
    return Position(**stored), window


def _read_tensors(
    directory: Folder, step: int, contents: Mapping[str, TensorInfo]
) -> dict[str, np.ndarray]:
    """The tensors named in `contents`, as numpy arrays, each held against its checksum."""
    items: dict[str, dict[str, Any]] = {}
    for name in contents:
        item = items.setdefault("model" if _is_model(name) else "training", {})
        item[name] = ocp.RestoreArgs(restore_type=np.ndarray)
    args = {
        item: ocp.args.PyTreeRestore(restore_args=unflatten_dict(restore_args, sep="/"))
        for item, restore_args in items.items()
    }
    arrays: dict[str, Any] = {}
    with _damage_reported(directory, step):
        restored = _restore(directory, step, ocp.args.Composite(**args))
        for item in items:
            arrays |= flatten_dict(restored[item], sep="/")
        changed = [name for name, info in contents.items() if tensor_info(arrays[name]) != info]
        if changed:
            raise ValueError(f"wrong checksum of {', '.join(changed[:3])}")
    return arrays


@contextmanager
def _damage_reported(directory: Folder, step: int) -> Iterator[None]:
    """Whatever is raised while reading a step that exists means that the step is damaged.

    But for what the system refuses: that is an OSError.
    """
    before = sys.unraisablehook
    # Of many tensors that fail the first one ends the loop, of which the others then complain.
    sys.unraisablehook = functools.partial(_but_for_closed_loops, before)
    try:
        yield
        sys.unraisablehook = before
    except MemoryError:
        raise
    except Exception as error:
        raise_system_fault(error, Path(directory) / str(step))
        what = _reason(error)
        others = [str(entry.step) for entry in describe(directory) if entry.step != step]
        hint = f"name another step: {', '.join(others)}" if others else "no other step is stored"
        where = Path(directory) / str(step)
        raise UserError(f"{where}: damaged checkpoint ({what}); {hint}") from error


def _but_for_closed_loops(hook: Callable[[Any], Any], unraisable: Any) -> None:
    if "Event loop is closed" not in str(unraisable.exc_value):
        hook(unraisable)


def _reason(error: Exception) -> str:
    """The error in a line; the system's words of what it is rather than Orbax's of where."""
    text = f"{error or type(error).__name__}"
    fault = system_fault(error)
    if fault is not None:
        return os.strerror(fault.errno or 0)
    return text.splitlines()[0][:200]


def _misfit(directory: Folder, step: int, findings: Mapping[str, str]) -> UserError:
    lines = list(findings.values())
    if len(lines) > MAX_FINDINGS:
        lines[MAX_FINDINGS:] = [f"... and {len(lines) - MAX_FINDINGS} tensors more"]
    first = f"{Path(directory) / str(step)}: does not fit this config; use the one stored with it"
    return UserError("\n".join([first, *lines]))
