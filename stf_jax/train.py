"""Training a run: `python -m stf_jax.main --config FILE --workdir DIR`.

Top to bottom as the data flows: layout -> plan -> model -> state -> steps -> scores.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zlib import crc32

import jax

from stf_jax import hosts
from stf_jax.config import RANDOM, Config, TrainConfig, changed, check_config, flat_values, to_json
from stf_jax.data.batch import PackedBatch
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.sampling import Position, training_buckets, training_plan
from stf_jax.data.source import frame_source, open_layout
from stf_jax.devices import DEVICES, replicate
from stf_jax.errors import UserError
from stf_jax.evaluation.features.table import extract_table, training_means
from stf_jax.evaluation.scoring import check_centring, headline, rank_table, ranking_rules
from stf_jax.folder_lock import one_owner
from stf_jax.models import TemporalFusionNet, build_model
from stf_jax.run import checkpoint, run_files
from stf_jax.run.data_facts import data_changes, data_facts
from stf_jax.run.metrics_log import METRICS_FILE, MetricsLog, progress_bar
from stf_jax.run.recovery import clear_the_way, find_resume
from stf_jax.run.restore import check_pretrained, starting_variables
from stf_jax.run.run_log import LOG_FILE, RunLog, percents
from stf_jax.run.same_run import check_hosts
from stf_jax.training.batches import plan_options, training_batches
from stf_jax.training.loop import run_steps
from stf_jax.training.loss_watch import LossWatch
from stf_jax.training.optim import make_optimizer
from stf_jax.training.profile import profiled
from stf_jax.training.state import TrainState, init_state
from stf_jax.training.steps import parallel_train_step
from stf_jax.training.stop_request import RunStoppedError, StopRequest, outlives_its_terminal

# What a resumed run may have changed: nothing that is learnt depends on it.
FREE_KEYS = (
    "data.max_lost",
    "data.root",
    "data.source",
    "data.threads",
    "evaluation.",
    "train.evaluate_",
    "train.parallel",
    "train.checkpoint_minutes",
    "train.log_every",
    "profile_steps",
    "compilation_cache",
)


# What may grow, and what that does to the learning rates.
_LENGTHS = ("train.epochs", "train.max_steps")
_LONGER = {
    "staircase": "the learning rates go on by the same staircase",
    "cosine": "the learning rates are now those of a cosine of the new length, so they jump up at "
    "this step and are zero at the new last one",
}


def check_run(
    workdir: Path,
    config: Config,
    table: TrackletTable,
    data: Mapping[str, Any] = MappingProxyType({}),
    *,
    resume_anyway: bool = False,
) -> list[str]:
    """Check config and label map against those of an earlier start, if there was one.

    `data` are the facts of this start's subsets. Returns notes on what is allowed to differ and
    does: with `resume_anyway` other data and another revision of the code, too.

    Raises UserError when `workdir` holds a run of another config (but for keys that change nothing
    of what is learnt), of other identities, data or code.
    """
    notes: list[str] = []
    before = run_files.read_run_files(workdir)
    if before is not None:
        earlier = run_files.run_config(workdir)
        differing = run_files.differing_keys(to_json(earlier), to_json(config))
        grown = _is_longer(earlier.train, config.train)
        longer = [key for key in differing if key in _LENGTHS and grown]
        found = [
            f"{workdir}: config.{key} was {change}"
            for key, change in differing.items()
            if not key.startswith(FREE_KEYS) and key not in longer
        ]
        if before.labels != _labels(table):
            found.append(
                f"{workdir}: the run's {len(before.labels)} identities are not this data's"
            )
        if found:
            hint = "expected this run's own; use another --workdir, or config.pretrained=WORKDIR"
            if "pretrained" in differing:  # of old runs: the configs' default was another
                hint = f"expected this run's own: --config.pretrained={earlier.pretrained}"
            raise UserError("\n".join(f"{line}: {hint}" for line in found))
        last, now = before.starts[-1], run_files.versions()
        unlike = [f"the data are others: {c}" for c in data_changes(last.get("data", {}), data)]
        code = run_files.code_changes(last, now)
        unlike += [f"the code is another: {code}"] if code else []
        if unlike and not resume_anyway:
            hint = "expected the run's own; add --resume-anyway to continue the run all the same"
            raise UserError("\n".join(f"{workdir}: {line}: {hint}" for line in unlike))
        notes += [f"note: {line}: resumed anyway" for line in unlike]
        libraries = run_files.library_changes(last, now)
        if libraries:
            notes.append(f"note: {libraries}: what follows may differ from before in rounding")
        for key in longer:
            rule = _LONGER[config.optimizer.schedule]
            notes.append(f"note: config.{key} was {differing[key]}: {rule}")
        on, here = last.get("devices"), str(jax.device_count())
        if on != here:
            notes.append(f"note: on {here} devices now, on {on} before: the same batches and steps")
    return notes


def _is_longer(before: TrainConfig, now: TrainConfig) -> bool:
    """Whether neither epochs nor steps are fewer than before."""
    most, most_now = (train.max_steps or math.inf for train in (before, now))
    return now.epochs >= before.epochs and most_now >= most


def begin_run(
    workdir: Path, config: Config, table: TrackletTable, data: Mapping[str, Any] | None = None
) -> None:
    """Write the run's config, label map and versions: from now on the workdir is this run's."""
    run_files.write_run_files(workdir, to_json(config), _labels(table), data)


def _labels(table: TrackletTable) -> dict[int, int]:
    """The classifier's label of each person who has one."""
    labelled = table.labels >= 0
    people, labels = table.person_ids[labelled].tolist(), table.labels[labelled].tolist()
    return dict(zip(people, labels, strict=True))


def _ranked_by(config: Config) -> list[Any]:
    """All of the config that the mAP of an evaluation while training depends on."""
    evaluation = config.evaluation
    return [
        evaluation.protocols[0],
        *(evaluation.chunk, evaluation.chunk_weighting, evaluation.flip, evaluation.distance),
        *(evaluation.multi_query, evaluation.separate_camera_set),
        *([] if evaluation.centring == "none" else [evaluation.centring]),  # older runs had none
    ]


def validate(
    model: TemporalFusionNet,
    variables: Any,
    table: TrackletTable,
    config: Config,
    training: TrackletTable | None = None,
) -> tuple[str, dict[str, float], str]:
    """Return the config's first protocol, its scores (mAP, rank-1 ...) and the sizes, as text.

    `training` is the training subset, for `centring="training"`, which extracts it, too.

    All hosts have to call it. Each extracts its share of `table`; the first one ranks, so that the
    scores, by which the best checkpoint is chosen, are the same everywhere.
    """
    evaluation = config.evaluation
    read_frames = frame_source(config.data, config.data.eval_subset, table)
    found = extract_table(
        model, variables, table, config, read_frames=read_frames, label="evaluating"
    )

    means = None
    if evaluation.centring == "training":
        if training is None:
            raise ValueError("training=None: expected the training subset to centre with")
        means = training_means(model, variables, training, config)

    def rank() -> tuple[str, dict[str, float], str]:
        rankings = rank_table(
            found.features,
            table,
            evaluation.protocols[:1],
            means=means,
            **ranking_rules(config),
        )
        ((protocol, ranking),) = rankings.items()
        sizes = f"{ranking.valid_queries} queries, {ranking.gallery_size} gallery"
        return protocol, dict(headline(ranking)), sizes

    protocol, scores, sizes = hosts.from_first(rank)
    return protocol, scores, sizes


def train(
    config: Config, workdir: Path, which: str | None = None, *, resume_anyway: bool = False
) -> dict[str, float]:
    """Train as `config` says, in `workdir`; resume where an earlier run there stopped.

    That is its newest whole checkpoint; or `which` ("best", "latest" or a step), and later ones
    are set aside. With `resume_anyway` also with other data or code than the run's.

    Returns the last evaluation's scores (mAP, rank-1 ...) under the first protocol; empty if there
    was none. Of several hosts all have to call it; the first one writes. Raises RunStoppedError
    where it was stopped (SIGTERM, Ctrl-C) before the last step; UserError for a bad config,
    bad data, a workdir of another run or that another process trains in, that cannot be written or
    is removed meanwhile, or a loss that is no longer finite.
    """
    check_config(config)
    with ExitStack() as stack:
        stack.enter_context(_system_errors_reported(workdir))
        stack.enter_context(outlives_its_terminal())
        checks: list[Callable[[], None]] = []

        def own() -> None:
            checks.append(stack.enter_context(one_owner(workdir)))

        hosts.from_first(own)
        log = stack.enter_context(RunLog(writes=hosts.is_first()))
        try:
            return _train(config, workdir, log, which, resume_anyway, checks)
        except (UserError, OSError):
            for check in checks:  # a workdir that is gone is the cause of whatever failed
                check()
            raise


@contextmanager
def _system_errors_reported(workdir: Path) -> Iterator[None]:
    """A full disk, a folder that may not be written ...: a line in place of a traceback."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or workdir}: {error.strerror or error}; what was written before is "
            "whole; fix it, and the same command resumes from the latest checkpoint"
        ) from error


def _train(
    config: Config,
    workdir: Path,
    run_log: RunLog,
    which: str | None,
    resume_anyway: bool,
    checks: list[Callable[[], None]],
) -> dict[str, float]:
    """`checks` raise UserError where the workdir is gone; what has to be there is added."""
    say = run_log.say
    num_devices = jax.device_count()

    checkpoints = workdir / "checkpoints"
    found = hosts.from_first(lambda: find_resume(workdir, which))
    stored: int | None = found["step"]
    for note in found["notes"]:
        say(note)
    seen = max((entry.step for entry in checkpoint.describe(checkpoints)), default=None)
    hosts.check_same({f"the latest checkpoint in {checkpoints}": str(seen)})
    # A resumed run has its weights: those it started from may no longer exist.
    started = config if stored is None else changed(config, {"pretrained": RANDOM})
    check_pretrained(started)
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
    data: dict[str, Any] = {}

    def check() -> list[str]:
        files = config.data.source == "folder"
        for subset in (config.data.train_subset, config.data.eval_subset):
            if (found := getattr(layout, subset)) is not None:
                data[subset] = data_facts(found, files=files)
        return check_run(workdir, config, table, data, resume_anyway=resume_anyway)

    for note in hosts.from_first(check):
        say(note)
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

    variables = starting_variables(model, started, report=say)
    optimizer, schedules = make_optimizer(
        config.optimizer, steps_per_epoch, total_steps, variables["params"]
    )
    state = init_state(variables, optimizer)
    position = Position(epoch=1, step_in_epoch=0, seed=config.seed)
    if stored is not None:
        state, position = checkpoint.restore_state(checkpoints, state, stored)
        say(
            f"resumed {workdir} at step {int(state.step)} (epoch {position.epoch}, step "
            f"{position.step_in_epoch} of {steps_per_epoch} done)"
        )
    check_hosts(config, (table, eval_table), state)
    if eval_table is not None:
        check_centring(
            eval_table,
            config.evaluation.protocols[0],
            centring=config.evaluation.centring,
            training=table,
            multi_query=config.evaluation.multi_query,
        )
    state, key = replicate((state, jax.random.key(config.seed)))

    # Not before: a start that failed must not bind the workdir to its config.
    def begin() -> None:
        clear_the_way(workdir, found)
        begin_run(workdir, config, table, data)

    hosts.from_first(begin)
    run_log.open(workdir)
    begun, first = int(state.step), hosts.is_first()
    step_of = parallel_train_step(
        how=config.train.parallel,
        model=model,
        optimizer=optimizer,
        num_slots=config.data.max_frames,
        loss_options=config.loss,
        augment_options=config.augment,
    )

    def train_step(state: TrainState, batch: PackedBatch) -> tuple[TrainState, Mapping[str, Any]]:
        return step_of(state, batch, key)

    evaluated = {}
    if eval_table is not None:
        rules = crc32(json.dumps(_ranked_by(config)).encode())
        evaluated = {checkpoint.SUBSET: eval_table.checksum, checkpoint.RULES: rules}
    start, end = config.profile_steps if first and config.profile_steps else (0, -1)
    if stored is None:
        watch = LossWatch("none yet")
    else:
        window = checkpoint.restore_window(checkpoints, stored)
        watch = LossWatch(f"step {begun} in {checkpoints}", window)
    with (
        checkpoint.open_manager(checkpoints, evaluated) if first else nullcontext() as manager,
        MetricsLog(workdir, begun, writes=first, config=flat_values(config)) as log,
        StopRequest() as stop,
        progress_bar(total_steps, begun, shown=first) as bar,
        profiled(
            train_step, done=begun, first=start, last=end, folder=workdir / "profile", report=say
        ) as step,
    ):
        if first:
            there = LOG_FILE, METRICS_FILE
            checks.append(lambda: run_files.check_are_there(workdir, there))

        def check_owned() -> None:
            for check in checks:
                check()

        def log_steps(
            step: int, epoch: int, means: Mapping[str, float], speed: Mapping[str, float]
        ) -> None:
            check_owned()
            rates = {group: float(rate(step - 1)) for group, rate in schedules.items()}
            logged = {f"lr/{group}": rate for group, rate in rates.items()}
            log.write(step, {"epoch": epoch, **means, **logged, **speed})
            run_log.progress(
                step, total_steps, epoch, config.train.epochs, {**means, **speed}, rates
            )
            per_second = f"{speed['frames_per_second']:.0f}"
            accuracy = f"{100 * means['accuracy']:.1f} %"
            bar.set_postfix(
                epoch=epoch, loss=f"{means['loss']:.3f}", accuracy=accuracy, frames_per_s=per_second
            )

        def evaluate(step: int, state: TrainState) -> dict[str, float]:
            if eval_table is None:
                return {}
            protocol, result, sizes = validate(model, state.variables, eval_table, config, table)
            log.write(step, {f"{protocol}/{name}": value for name, value in result.items()})
            say(f"evaluated after step {step}: {percents(result)} (protocol {protocol}; {sizes})")
            return result

        def store(state: TrainState, position: Position, scores: Mapping[str, float]) -> None:
            step = int(state.step)
            watch.check(step, state.variables)
            check_owned()
            window = watch.window()
            if manager is not None:
                about = {**scores, **evaluated} if scores else {}
                checkpoint.save(manager, state, position, about, window)
                watch.last_good = f"step {step} in {checkpoints}"

        if config.train.evaluate_before and begun == 0:
            evaluate(0, state)
        state, scores = run_steps(
            state,
            position,
            training_batches(table, config, buckets, num_devices, position),
            step,
            config.train,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
            stop=stop.reached,
            watch=watch,
            bar=bar,
            log=log_steps,
            evaluate=evaluate,
            store=store,
        )
        done = int(state.step)
        if done < total_steps:
            say(f"{stop.name}: stopped after step {done}; the same command resumes from there")
        elif begun >= total_steps:
            say(f"nothing left to train: {done} of {total_steps} steps were done before")
    hosts.from_first(check_owned)  # what the first host writes is whole when the others return
    if done < total_steps:
        raise RunStoppedError(stop.name)
    return scores
