"""What the programs of a config are on a GPU, seen on a machine without one.

python scripts/gpu_program.py --config configs/mars.py [--target h100] [--devices N]
    [--frames N] [--largest] [--config.KEY=VALUE ...]

Compiles the training and the extraction step for the card and prints the memory they need, their
kernels, the bytes and the arithmetic of a frame, and the frames/s that the card's bandwidth and
arithmetic allow at most. Times are not known without the card. `--largest` finds the largest
batch that fits, with and without recomputation (`model.remat`); a few minutes more.
Needs the GPU build of JAX: this interpreter's, else the environment that
scripts/compile_for_gpu.sh builds.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from gpu_cards import CARDS, Card, target_config  # noqa: E402
from hlo_cost import Kernel, kernels  # noqa: E402

from stf_jax.errors import UserError, prints_user_errors  # noqa: E402

# What JAX takes of a card's memory (XLA_PYTHON_CLIENT_MEM_FRACTION changes it).
SHARE = 0.75


@dataclass(frozen=True)
class Program:
    """What is compiled: a step of a config, changed by `options`, on batches of `frames`."""

    config: str = "configs/mars.py"
    options: tuple[str, ...] = ()
    step: str = "train"  # or "extract", "neighbours" (of re-ranking), "export" (an exported file)
    frames: int = 60  # packed frames of a device
    devices: int = 1


def config_of(program: Program) -> Any:
    """Return the checked config of a program (`stf_jax.config.Config`)."""
    from stf_jax.main import parse, read_config

    path = str(ROOT / program.config)
    return read_config(*parse(["--config", path, "--workdir", "none", *program.options]))


def topology_devices(target: str, count: int) -> list[Any]:
    """Return `count` devices of the kind that card `target` is."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=target_config(CARDS[target]),
        topology=f"1x1x{count}",
    ).devices


def lower_program(program: Program, devices: list[Any]) -> Any:
    """Return the program, lowered for `devices` (`jax.stages.Lowered`)."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from stf_jax.devices import DEVICES, data_parallel

    mesh = Mesh(np.array(devices), (DEVICES,))
    if program.step == "export":
        return _lower_export(program, NamedSharding(mesh, PartitionSpec()))
    function, arguments, in_axes = _step(program)

    def placed(tree: Any, axis: int | None) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec(*([] if axis is None else [DEVICES])))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    given = [placed(tree, axis) for tree, axis in zip(arguments, in_axes, strict=True)]
    if program.step == "neighbours":
        return jax.jit(function).lower(*given)
    training = program.step == "train"
    step = data_parallel(
        function,
        in_axes=in_axes,
        out_axes=None if training else 0,
        donate=(0,) if training else (),
        devices=devices,
        how="shard_map",  # pmap takes no devices that are not there; it is the same program
    )
    return step.lower(*given)


def _lower_export(program: Program, sharding: Any) -> Any:
    """Return what a StableHLO file of `stf_jax.export` gives when it is read where a GPU is."""
    import jax
    import numpy as np

    from stf_jax.export.runtimes import FORMATS
    from stf_jax.models import build_model
    from stf_jax.models.variables import init_variables

    config = config_of(program)
    height, width, slots = config.data.height, config.data.width, config.evaluation.chunk
    model, rng = build_model(config.model, 0), np.random.default_rng(0)
    variables = jax.tree.map(  # any weights: they are constants of the file
        lambda leaf: rng.uniform(0.5, 1, leaf.shape).astype(leaf.dtype),
        jax.eval_shape(lambda: init_variables(model, 0, height, width)),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.stablehlo"
        FORMATS["stablehlo"].write(path, model, variables, config.evaluation.flip, height, width)
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
    shape = program.frames // slots, slots
    frames = jax.ShapeDtypeStruct((*shape, height, width, 3), np.uint8, sharding=sharding)
    mask = jax.ShapeDtypeStruct(shape, np.bool_, sharding=sharding)
    return jax.jit(exported.call).lower(frames, mask)


def _step(program: Program) -> tuple[Callable[..., Any], tuple[Any, ...], tuple[int | None, ...]]:
    """Return the step of one device, the shapes it takes, and `in_axes` of `data_parallel`."""
    import functools

    import jax
    import jax.numpy as jnp

    if program.step == "neighbours":
        from stf_jax.evaluation.neighbours_jax import neighbour_block

        block = functools.partial(neighbour_block, size=1024, count=30)
        shapes = ((program.frames, 4096), jnp.float32), ((program.frames,), jnp.float32)
        shapes = (*shapes, ((), jnp.int32))
        return block, tuple(jax.ShapeDtypeStruct(*shape) for shape in shapes), (None,) * 3

    from stf_jax.data.batch import PackedBatch
    from stf_jax.devices import DEVICES
    from stf_jax.evaluation.features.extract import extract_step
    from stf_jax.models import build_model
    from stf_jax.models.variables import init_variables
    from stf_jax.training.optim import make_optimizer
    from stf_jax.training.state import init_state
    from stf_jax.training.steps import train_step

    config = config_of(program)
    training = program.step == "train"
    synced = DEVICES if training and config.train.sync_batch_norm else None
    model = build_model(config.model, 625 if training else 0, axis_name=synced)
    height, width = config.data.height, config.data.width
    slots = config.data.max_frames if training else config.evaluation.chunk
    tracklets = config.data.tracklets // program.devices if training else program.frames // slots
    variables = jax.eval_shape(lambda: init_variables(model, 0, height, width))
    lead = program.devices, program.frames
    batch = PackedBatch(
        images=jax.ShapeDtypeStruct((*lead, height, width, 3), jnp.uint8),
        tracklet=jax.ShapeDtypeStruct(lead, jnp.int32),
        slot=jax.ShapeDtypeStruct(lead, jnp.int32),
        labels=jax.ShapeDtypeStruct((program.devices, max(tracklets, 1)), jnp.int32),
        global_index=jax.ShapeDtypeStruct((program.devices, max(tracklets, 1)), jnp.int32),
    )
    if not training:
        extract = functools.partial(
            extract_step, model=model, num_slots=slots, flip=config.evaluation.flip
        )
        return extract, (variables, batch), (None, 0)
    optimizer, _ = make_optimizer(config.optimizer, 1000, 100_000, variables["params"])
    state = jax.eval_shape(lambda: init_state(jax.tree.map(jnp.zeros_like, variables), optimizer))

    train = functools.partial(
        train_step,
        model=model,
        optimizer=optimizer,
        num_slots=slots,
        loss_options=config.loss,
        augment_options=config.augment,
    )
    return train, (state, batch, jax.eval_shape(lambda: jax.random.key(0))), (None, 0, None)


def layer_group(kernel: Kernel) -> str:
    """Name the part of the model, what the kernel does there, and the pass it belongs to."""
    origin = kernel.origin
    stage = re.search(r"/layer(\d)_", origin)
    feature = re.search(r"/features_(\d+)/", origin)  # MobileNetV2's
    if feature:
        number = sum(int(feature[1]) >= first for first in (0, 4, 7, 14))
    else:
        number = int(stage[1]) if stage else 0
    if number:
        part = f"stage {number}" + (" of the fused maps" if "_stage_feature" in origin else "")
    elif "backbone.stem" in origin:
        part = "stem"
    elif "TemporalFusionNet" not in origin:
        return "outside the model: optimiser, augmentation, copies"
    else:
        part = "fusion, attentions, embedding, classifier"
    what = "products" if kernel.flops else "all but products"
    return f"{part}: {what}, {'backward' if 'transpose(' in origin else 'forward'}"


def measure(program: Program, target: str) -> dict[str, Any]:
    """Compile the program; return its figures: bytes of a device, kernels, moved, flops, groups."""
    compiled = lower_program(program, topology_devices(target, program.devices)).compile()
    memory = compiled.memory_analysis()
    launches = kernels(compiled.as_text())
    groups: Counter[str] = Counter()
    for kernel in launches:
        groups[layer_group(kernel)] += kernel.moved
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return {
        "arguments": arguments,
        "temporary": temporary,
        "peak": arguments + temporary + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "kernels": len(launches),
        # What the card's bandwidth does within a microsecond: their launch takes longer.
        "small": sum(kernel.moved < CARDS[target].bandwidth * 1e-6 for kernel in launches),
        "moved": sum(kernel.moved for kernel in launches),
        "flops": sum(kernel.flops for kernel in launches),
        "groups": groups.most_common(),
    }


def work(programs: Sequence[Program], target: str) -> None:
    """Measure the programs one after the other; a line of JSON after each."""
    for program in programs:
        start = time.perf_counter()
        try:
            found = measure(program, target)
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps({"seconds": time.perf_counter() - start, **found}), flush=True)


def measure_in_children(
    programs: Sequence[Program],
    target: str,
    report: Callable[[int, dict[str, Any]], None] = lambda number, row: None,
) -> list[dict[str, Any]]:
    """Return `measure` of each program, or {"failed": reason}; `report` gets them as they come.

    In a child process, and in a new one after each program at which the compiler ended it.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"  # no device to time on
    environment = {**os.environ, "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "XLA_FLAGS": flags}
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        report(len(rows) - 1, row)

    while len(rows) < len(programs):
        left = json.dumps([asdict(program) for program in programs[len(rows) :]])
        with tempfile.TemporaryFile("w+") as errors:
            command = [sys.executable, __file__, "--target", target, "--work", left]
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith("{"):
                        add(json.loads(line))
            errors.seek(0)
            messages = [line for line in errors.read().splitlines() if line.strip()]
        if len(rows) < len(programs):
            reason = next(
                (line for line in messages if "Check failed" in line), "".join(messages[-1:])
            )
            add({"failed": f"the process ended: {reason[:300]}"})
    return rows


def largest_that_fits(peak_of: Callable[[int], float], limit: float) -> int:
    """Return the largest n >= 1 with `peak_of(n)` <= `limit`; 0 where not even 1 fits.

    `peak_of` grows with n, from some size on nearly as a line: a handful of calls.
    """
    peaks = {n: peak_of(n) for n in (1, 4)}
    while True:
        fit = max((n for n, peak in peaks.items() if peak <= limit), default=0)
        too_large = min((n for n, peak in peaks.items() if peak > limit), default=math.inf)
        (a, low), (b, high) = sorted(peaks.items())[-2:]
        guess = math.floor(b + (limit - high) * (b - a) / max(high - low, 1))
        guess = int(max(fit, 1, min(guess, 8 * b, too_large - 1)))
        if guess in peaks:
            guess = fit + 1
        if guess in peaks:
            return fit
        peaks[guess] = peak_of(guess)


def step_lines(program: Program, found: dict[str, Any], card: Card, dtype: str) -> list[str]:
    """Return the lines of one step's report."""
    frames = program.frames
    limit = SHARE * card.memory
    verdict = "fits" if found["peak"] <= limit else "DOES NOT FIT"
    rate, kind = (card.bfloat16, dtype) if dtype == "bfloat16" else (card.tf32, "TF32")
    allowed = {
        f"bandwidth ({card.bandwidth / 1e12:.2f} TB/s)": card.bandwidth * frames / found["moved"],
        f"arithmetic ({rate / 1e12:.0f} TFLOP/s in {kind})": rate * frames / found["flops"],
    }
    bounds = [f"{bound * program.devices:,.0f} by {what}" for what, bound in allowed.items()]
    binds = min(allowed, key=lambda what: allowed[what]).split(" (")[0]
    each = "" if program.devices == 1 else " a device"
    lines = [
        f"{'training' if program.step == 'train' else 'extraction'}, {frames} frames{each}",
        f"  memory    arguments {found['arguments'] / 1e9:.2f} GB, temporary "
        f"{found['temporary'] / 1e9:.2f}, peak {found['peak'] / 1e9:.2f}: {verdict} "
        f"{limit / 1e9:.0f} GB ({SHARE:.0%} of {card.memory / 1e9:.0f})",
        f"  kernels   {found['kernels']:,} a step, {found['small']:,} of them with bytes for less "
        "than a microsecond",
        f"  a frame   {found['moved'] / frames / 1e6:.0f} MB moved, "
        f"{found['flops'] / frames / 1e9:.1f} GFLOP",
        f"  frames/s  at most {' and '.join(bounds)}: {binds} binds",
        "  most bytes, MB a frame",
    ]
    for name, moved in found["groups"][:8]:
        lines.append(f"  {moved / frames / 1e6:9.1f}  {name}")
    return lines


def steps_of(program: Program, config: Any, frames: int | None) -> list[Program]:
    """The programs to show: training on a usual and on the largest batch, and extraction."""
    data = config.data
    share = data.tracklets / program.devices
    usual = math.ceil(share * (data.min_frames + data.max_frames) / 2)
    sizes = [frames] if frames else sorted({usual, math.ceil(share * data.max_frames)})
    chosen = [Program(**{**asdict(program), "frames": size}) for size in sizes]
    extracted = frames or config.evaluation.frames_per_device
    return [*chosen, Program(**{**asdict(program), "step": "extract", "frames": extracted})]


def print_largest(program: Program, config: Any, target: str) -> None:
    """Print the largest batch of training that fits the card, with and without recomputation."""
    data, card = config.data, CARDS[target]
    unit = program.devices
    if data.sampler == "identity":
        unit = math.lcm(unit, data.tracklets_per_identity)
    print(f"\nlargest batch of tracklets of {data.max_frames} frames, as training packs them")
    for remat in (False, True):
        peaks: dict[int, float] = {}

        def peak_of(n: int, remat: bool = remat, peaks: dict[int, float] = peaks) -> float:
            tracklets = n * unit
            options = f"--config.data.tracklets={tracklets}", f"--config.model.remat={remat}"
            frames = tracklets // program.devices * data.max_frames
            changed = {"options": (*program.options, *options), "frames": frames}
            row = measure_in_children([Program(**{**asdict(program), **changed})], target)[0]
            if "failed" in row:
                raise UserError(f"{tracklets} tracklets do not compile: {row['failed']}")
            peaks[n] = row["peak"]
            return peaks[n]

        n = largest_that_fits(peak_of, SHARE * card.memory)
        what = "with model.remat" if remat else "without remat"
        if n:
            frames = n * unit // program.devices * data.max_frames
            print(
                f"  {what:18}{n * unit} tracklets, {frames} frames a device: "
                f"peak {peaks[n] / 1e9:.1f} GB",
                flush=True,
            )
        else:
            print(f"  {what:18}none: {unit} tracklets need {peaks[1] / 1e9:.1f} GB", flush=True)


def check_program(program: Program, config: Any) -> None:
    """Raise UserError where the devices cannot share the batch."""
    tracklets, devices = config.data.tracklets, program.devices
    if devices < 1 or tracklets % devices:
        raise UserError(
            f"--devices {devices}: expected a divisor of config.data.tracklets, {tracklets}"
        )


def gpu_interpreter() -> str:
    """Return a Python that has JAX's CUDA plugin.

    Raises:
        UserError: neither this one nor that of scripts/compile_for_gpu.sh has it.
    """
    if any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)):
        return sys.executable
    python = Path(os.environ.get("STF_GPU_VENV") or ROOT / ".venv-gpu") / "bin" / "python"
    if not python.exists():
        raise UserError(
            "the GPU build of JAX: found none in this Python nor in .venv-gpu (STF_GPU_VENV); "
            "scripts/compile_for_gpu.sh --list installs it"
        )
    return str(python)


@prints_user_errors
def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="config file")
    parser.add_argument("--target", choices=CARDS, default="h100", help="card (default: h100)")
    parser.add_argument("--devices", type=int, default=1, help="cards (default: 1)")
    parser.add_argument("--frames", type=int, help="packed frames of a card in each step")
    parser.add_argument("--largest", action="store_true", help="find the largest batch, too")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.work:
        given = [Program(**fields) for fields in json.loads(options.work)]
        work(given, options.target)
        return 0
    if not options.config:
        parser.error("--config is needed")
    if options.frames is not None and options.frames < 1:
        parser.error(f"--frames {options.frames}: expected 1 or more")
    stray = [word for word in overrides if not word.startswith("--config.")]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    python = gpu_interpreter()
    if python != sys.executable:
        os.execv(python, [python, __file__, *sys.argv[1:]])
    path = str(Path(options.config).absolute())
    program = Program(path, tuple(overrides), devices=options.devices)
    config = config_of(program)
    check_program(program, config)
    card, dtype = CARDS[options.target], config.model.dtype
    count = "" if options.devices == 1 else f"{options.devices} x "
    print(f"{options.config} in {dtype} on {count}{card.name}; compiled, not run", flush=True)
    steps = steps_of(program, config, options.frames)

    def report(number: int, row: dict[str, Any]) -> None:
        if "failed" not in row:
            print("\n" + "\n".join(step_lines(steps[number], row, card, dtype)), flush=True)

    for step, row in zip(steps, measure_in_children(steps, options.target, report), strict=True):
        if "failed" in row:
            raise UserError(f"{step.step}, {step.frames} frames: {row['failed']}")
    if options.largest:
        print_largest(program, config, options.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
