"""The training step and the extraction step as runs use them, and batches that are on the device.

Needs neither ml_collections nor TensorFlow.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from benchmarking.settings import Settings
from stf_jax.config import AugmentConfig, LossConfig, OptimizerConfig
from stf_jax.data.batch import PackedBatch
from stf_jax.data.sampling import Plan
from stf_jax.devices import DEVICES, replicate, set_up_process
from stf_jax.evaluation.features.extract import parallel_extract_step
from stf_jax.models import build_model
from stf_jax.models.variables import init_variables
from stf_jax.training.optim import make_optimizer
from stf_jax.training.state import init_state
from stf_jax.training.steps import parallel_train_step


@dataclass
class Training:
    """The step of a run, its state (donated by each step, so replaced) and its key."""

    step: Callable[..., Any]
    state: Any
    key: Any


def training(
    settings: Settings,
    *,
    devices: Sequence[Any] | None = None,
    augment: AugmentConfig | None = None,
    synchronised: bool = False,
) -> Training:
    """Return the recipe's step over `devices` (default: all) and the state before the first one."""
    set_up_process(settings.compilation_cache)
    model = build_model(
        settings.model, settings.num_classes, axis_name=DEVICES if synchronised else None
    )
    variables = init_variables(model, settings.seed, settings.height, settings.width)
    optimizer, _ = make_optimizer(OptimizerConfig(), 2074, 200 * 2074, variables["params"])
    step = parallel_train_step(
        devices,
        model=model,
        optimizer=optimizer,
        num_slots=settings.slots,
        loss_options=LossConfig(),
        augment_options=augment or AugmentConfig(),
    )
    state, key = replicate((init_state(variables, optimizer), jax.random.key(settings.seed)))
    return Training(step, state, key)


def extraction(settings: Settings) -> tuple[Callable[..., Any], Any]:
    """Return the extraction step over all devices and the variables it takes."""
    set_up_process(settings.compilation_cache)
    model = build_model(settings.model, 0)
    variables = init_variables(model, settings.seed, settings.height, settings.width)
    return parallel_extract_step(model, num_slots=settings.slots), replicate(variables)


def make_batch(settings: Settings, plan: Plan, step: int, size: int) -> PackedBatch:
    """Return a step of a plan as `stf_jax.data.pipeline` yields it, of drawn pixels and labels.

    The first rows of each device's `size` are real. A frame's pixels depend on its row of the table
    and on the seed only, so that plans of the same frames can be compared.
    """
    planned = plan.frame_rows[step]
    devices, tracklets, _ = planned.shape
    shape = (settings.height, settings.width, 3)
    pool = _pixels(settings.seed, shape)
    batch = PackedBatch(
        images=np.zeros((devices, size, *shape), np.uint8),
        tracklet=np.full((devices, size), tracklets, np.int32),
        slot=np.zeros((devices, size), np.int32),
        labels=(np.maximum(plan.tracklets[step], 0) % settings.num_classes).astype(np.int32),
        global_index=np.arange(devices * tracklets, dtype=np.int32).reshape(devices, tracklets),
    )
    for d in range(devices):
        tracklet, slot = np.nonzero(planned[d] >= 0)
        real = slice(len(slot))
        batch.images[d, real] = pool[planned[d, tracklet, slot] % len(pool)]
        batch.tracklet[d, real], batch.slot[d, real] = tracklet, slot
    batch.labels[plan.tracklets[step] < 0] = -1
    return batch


@functools.cache
def _pixels(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (97, *shape), dtype=np.uint8)


@dataclass(frozen=True)
class Program:
    """A compiled step; `place` puts a batch where it takes it from."""

    call: Any
    seconds: float  # to compile, or to load from the compilation cache
    cached: bool

    def place(self, batch: PackedBatch) -> PackedBatch:
        """Return the batch on the device."""
        arguments, _ = self.call.input_shardings
        return jax.block_until_ready(jax.device_put(batch, arguments[1]))

    def cost(self, name: str) -> float | None:
        """Return the compiler's own count, "flops" or "bytes accessed"; None where it has none."""
        found = self.call.cost_analysis()
        found = found[0] if isinstance(found, list | tuple) else found
        value = (found or {}).get(name, 0)
        return float(value) if value > 0 else None

    def memory(self) -> int | None:
        """Return the bytes of arguments, results that are not arguments, and what is between."""
        found = self.call.memory_analysis()
        if found is None:
            return None
        results = found.output_size_in_bytes - found.alias_size_in_bytes
        return int(found.argument_size_in_bytes + found.temp_size_in_bytes + results)


_cache_hits = [0]


def _note_event(event: str, **_: Any) -> None:
    _cache_hits[0] += event == "/jax/compilation_cache/cache_hits"


jax.monitoring.register_event_listener(_note_event)


def compile_step(step: Any, *arguments: Any) -> Program:
    """Return the program for arguments of these shapes."""
    hits, start = _cache_hits[0], time.perf_counter()
    call = step.lower(*arguments).compile()
    return Program(call, time.perf_counter() - start, _cache_hits[0] > hits)


def compile_training(run: Training, batch: PackedBatch) -> Program:
    """Return the training program for batches like this one."""
    return compile_step(run.step, run.state, batch, run.key)


def train_steps(
    run: Training, steps: Sequence[tuple[Program, PackedBatch]], *, each: bool = False
) -> tuple[list[float], list[Any]]:
    """Run the steps one after another; return seconds, of all or of each, and the metrics.

    Without `each` the device is waited for at the end only, as the training loop does.
    """
    seconds, metrics = [], []
    start = time.perf_counter()
    for program, batch in steps:
        run.state, found = program.call(run.state, batch, run.key)
        metrics.append(found)
        if each:
            jax.block_until_ready(found)
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
    if not each:
        jax.block_until_ready((run.state, metrics))
        seconds.append(time.perf_counter() - start)
    return seconds, metrics


def step_seconds(settings: Settings, run: Training, program: Program, batch: PackedBatch) -> float:
    """Return the median over rounds of the seconds of a step, after one that does not count."""
    train_steps(run, [(program, batch)])
    steps = [(program, batch)] * settings.steps
    rounds = [train_steps(run, steps)[0][0] for _ in range(settings.rounds)]
    return statistics.median(rounds) / settings.steps


def kept_bytes(settings: Settings, batch: PackedBatch) -> int:
    """Return what the forward pass keeps for the backward one, weights included; runs nothing.

    Of the traced program, so what the compiler makes of it (`Program.memory`) is another matter.
    """
    model = build_model(settings.model, settings.num_classes)
    variables = jax.eval_shape(
        lambda: init_variables(model, settings.seed, settings.height, settings.width)
    )

    def backward(variables, images, tracklet, slot):
        def logits(params):
            output, _ = model.apply(
                {**variables, "params": params},
                images.astype(model.dtype),
                tracklet,
                slot,
                num_tracklets=settings.tracklets,
                num_slots=settings.slots,
                train=True,
                method="packed",
                mutable=["batch_stats"],
            )
            return output.logits

        return jax.vjp(logits, variables["params"])[1]

    share = jax.tree.map(lambda array: array[0], batch)
    kept = jax.eval_shape(backward, variables, share.images, share.tracklet, share.slot)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def peak_device_memory() -> int | None:
    """Return the most bytes in use on the first device so far; None where it does not say."""
    found = jax.local_devices()[0].memory_stats() or {}
    return found.get("peak_bytes_in_use")


def peak_host_memory() -> int:
    """Return the most resident bytes of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
