"""The training run, top to bottom as the data flows: layout -> batches -> steps -> scores."""

import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from stf_jax import hosts
from stf_jax.config import Config, check_config, to_json
from stf_jax.data.layout.partitions import TrackletTable
from stf_jax.data.sampling import training_buckets, training_plan
from stf_jax.data.source import open_layout
from stf_jax.devices import DEVICES, replicate
from stf_jax.errors import UserError
from stf_jax.models import build_model
from stf_jax.run import checkpoint, run_files
from stf_jax.run.metrics_log import MetricsLog, progress_bar
from stf_jax.run.restore import starting_variables
from stf_jax.run.same_run import check_hosts
from stf_jax.training.batches import plan_options, training_batches
from stf_jax.training.loss_watch import LossWatch
from stf_jax.training.optim import make_optimizer
from stf_jax.training.state import init_state
from stf_jax.training.steps import parallel_train_step
from stf_jax.training.stop_request import RunStoppedError, StopRequest
from stf_jax.training.validation import validate

# What a resumed run may have changed: nothing that is learnt depends on it.
FREE_KEYS = (
    "data.root",
    "data.source",
    "data.threads",
    "evaluation.",
    "train.evaluate_",
    "train.checkpoint_minutes",
    "train.log_every",
    "profile_steps",
    "compilation_cache",
)


def begin_run(workdir: Path, config: Config, table: TrackletTable) -> None:
    """Write the run's config, label map and versions, or check them against an earlier start's.

    Raises UserError when `workdir` holds a run of another config (but for keys that change nothing
    of what is learnt) or of other identities.
    """
    labelled = table.labels >= 0
    labels = dict(
        zip(table.person_ids[labelled].tolist(), table.labels[labelled].tolist(), strict=True)
    )
    before = run_files.read_run_files(workdir)
    if before is not None:
        changed = run_files.differing_keys(to_json(run_files.run_config(workdir)), to_json(config))
        found = [
            f"{workdir}: config.{key} was {change}"
            for key, change in changed.items()
            if not key.startswith(FREE_KEYS)
        ]
        if before.labels != labels:
            found.append(
                f"{workdir}: the run's {len(before.labels)} identities are not this data's"
            )
        if found:
            mend = "expected this run's own; use another --workdir, or config.pretrained=WORKDIR"
            raise UserError("\n".join(f"{line}: {mend}" for line in found))
    run_files.write_run_files(workdir, to_json(config), labels)


def say(text: str) -> None:
    """Print a line of the run's story, on the first host, without tearing the progress bar."""
    if not hosts.is_first():
        return
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def train(config: Config, workdir: Path) -> dict[str, float]:
    """Train as `config` says, in `workdir`; go on where an earlier run there stopped.

    Returns the last evaluation's scores (mAP, rank-1 ...) under the first protocol; empty if there
    was none. Of several hosts all have to call it; the first one writes. Raises RunStoppedError
    where it was told to stop (SIGTERM, Ctrl-C) before the last step; UserError for a bad config,
    bad data, a workdir of another run, or a loss that is no longer finite.
    """
    check_config(config)
    num_devices = jax.device_count()

    layout = open_layout(config.data)
    for finding in layout.findings:
        say(f"note: {finding}")
    table: TrackletTable | None = getattr(layout, config.data.train_subset)
    eval_table: TrackletTable | None = getattr(layout, config.data.eval_subset)
    if table is None:
        raise UserError(
            f"{layout.root}: no {config.data.train_subset} images in {config.data.partitions}; "
            "expected some to train on; name another config.data.train_subset"
        )
    axis_name = DEVICES if config.train.sync_batch_norm else None
    model = build_model(config.model, table.num_labels, axis_name=axis_name)
    options = plan_options(config, num_devices)
    buckets = training_buckets(table, config.data.frame_buckets, **options)
    steps_per_epoch = training_plan(table, epoch=1, **options).tracklets.shape[0]
    total_steps = steps_per_epoch * config.train.epochs
    if config.train.max_steps:
        total_steps = min(total_steps, config.train.max_steps)
    say(
        f"{table.num_labels} identities, {table.num_tracklets} tracklets, {table.num_frames} "
        f"frames; {steps_per_epoch} steps an epoch on {num_devices} x "
        f"{jax.devices()[0].device_kind}; packed batches of {', '.join(map(str, buckets))} frames"
    )

    checkpoints = workdir / "checkpoints"
    first = hosts.is_first()
    hosts.from_first(lambda: begin_run(workdir, config, table))
    variables = starting_variables(model, config, report=say)
    optimizer, schedules = make_optimizer(
        config.optimizer, steps_per_epoch, total_steps, variables["params"]
    )
    state = init_state(variables, optimizer)
    position = checkpoint.Position(epoch=1, step_in_epoch=0, seed=config.seed)
    stored = max((entry.step for entry in checkpoint.describe(checkpoints)), default=None)
    hosts.check_same({f"the latest checkpoint in {checkpoints}": str(stored)})
    if stored is not None:
        state, position = checkpoint.restore_state(checkpoints, state, stored)
        say(
            f"resumed {workdir} at step {int(state.step)} (epoch {position.epoch}, step "
            f"{position.step_in_epoch} of {steps_per_epoch} done)"
        )
    step_function = parallel_train_step(
        model=model,
        optimizer=optimizer,
        num_slots=config.data.max_frames,
        loss_options=config.loss,
        augment_options=config.augment,
    )
    check_hosts(config, (table, eval_table), state)
    state, key = replicate((state, jax.random.key(config.seed)))
    scores: dict[str, float] = {}
    first_profiled, last_profiled = config.profile_steps or (0, 0)
    last_good = f"step {int(state.step)} in {checkpoints}" if stored is not None else "none yet"
    step, last_evaluated, saved_at = int(state.step), -1, time.monotonic()

    def evaluate() -> dict[str, float]:
        if eval_table is None:
            return {}
        protocol, result, sizes = validate(model, state.variables, eval_table, config)
        log.write(step, {f"{protocol}/{name}": value for name, value in result.items()})
        told = ", ".join(f"{name} {value:.4f}" for name, value in result.items())
        say(f"step {step}: {protocol}: {told} ({sizes})")
        return result

    def log_steps() -> None:
        nonlocal window_start, window_frames, waited
        means = watch.drain()
        elapsed = max(time.monotonic() - window_start, 1e-9)
        frames = int(hosts.combine(np.array(window_frames), np.add))
        rates = {f"lr/{group}": float(schedule(step - 1)) for group, schedule in schedules.items()}
        speed = {"frames_per_second": frames / elapsed, "data_wait": waited / elapsed}
        log.write(step, {"epoch": epoch, **means, **rates, **speed})
        bar.set_postfix(
            loss=f"{means['loss']:.3f}", frames_per_s=f"{speed['frames_per_second']:.0f}"
        )
        window_start, window_frames, waited = time.monotonic(), 0, 0.0

    def store(metrics: Mapping[str, float] | None = None) -> None:
        nonlocal saved_at
        if manager is None:
            return
        where = checkpoint.Position(epoch, done_in_epoch, config.seed)
        checkpoint.save(manager, state, where, metrics or None)
        watch.last_good, saved_at = f"step {step} in {checkpoints}", time.monotonic()

    watch = LossWatch(last_good)
    epoch, done_in_epoch = position.epoch, position.step_in_epoch
    with (
        checkpoint.open_manager(checkpoints) if first else nullcontext() as manager,
        MetricsLog(workdir, step, writes=first) as log,
        StopRequest() as stop,
        progress_bar(total_steps, step, shown=first) as bar,
    ):
        if config.train.evaluate_before and step == 0:
            evaluate()
        window_start, window_frames, waited = time.monotonic(), 0, 0.0
        stream = training_batches(table, config, buckets, num_devices, position)
        while step < total_steps and not stop.reached():
            before = time.monotonic()
            epoch, done_in_epoch, batch = next(stream)
            waited += time.monotonic() - before
            window_frames += int((batch["tracklet"] < batch["labels"].shape[-1]).sum())
            if step + 1 == first_profiled and first:
                jax.profiler.start_trace(str(workdir / "profile"))
            arrays = {name: batch[name] for name in ("images", "tracklet", "slot", "labels")}
            state, metrics = step_function(state, arrays, key)
            step += 1
            bar.update()
            watch.add(step, metrics)
            if step == last_profiled and first:
                jax.block_until_ready(metrics)
                jax.profiler.stop_trace()
                say(f"profile of steps {first_profiled} to {step} written to {workdir / 'profile'}")
            if step % config.train.log_every == 0 or step == total_steps:
                log_steps()
            every = config.train.evaluate_every
            epoch_ends = done_in_epoch == steps_per_epoch
            if step == total_steps or (epoch_ends and every and epoch % every == 0):
                watch.wait()
                scores, last_evaluated = evaluate(), step
                store(scores)
                window_start, window_frames, waited = time.monotonic(), 0, 0.0
            elif config.train.checkpoint_minutes and (
                time.monotonic() - saved_at > 60 * config.train.checkpoint_minutes
            ):
                watch.wait()
                store()
        if stop.name:
            watch.wait()
            store()
            say(f"{stop.name}: stopped after step {step}; the same command goes on from there")
        elif last_evaluated != step:
            say(f"nothing left to train: {step} of {total_steps} steps were done before")
    hosts.from_first(lambda: None)  # what the first host writes is whole when the others return
    if stop.name and step < total_steps:
        raise RunStoppedError(stop.name)
    return scores
