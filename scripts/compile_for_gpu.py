"""Compiles the programs of training, extraction and re-ranking for an NVIDIA GPU, without a GPU.

scripts/compile_for_gpu.sh [--only NAME ...] [--all] [--target h100] [--jobs N]

XLA compiles for a chip that is described, so a fault of its GPU compiler shows on any machine.
Needs jax[cuda13] (the .sh installs it into an environment of its own). Exit status 1 where a
program does not compile; the compiler may end its process, so that each has one that may die.
It does not measure time.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TARGETS = ROOT / "scripts" / "gpu_targets"
BFLOAT16 = "--config.model.dtype=bfloat16"
# Each augmentation with a probability other than 0.
AUGMENTED = tuple(
    f"--config.augment.{name}=0.5" for name in ("mirror", "blur", "crop", "hsv", "erase")
)


@dataclass(frozen=True)
class Program:
    """What is compiled: a step of a config, changed by `options`, on batches of `frames`."""

    config: str = "mars"
    options: tuple[str, ...] = ()
    step: str = "train"  # or "extract", "neighbours" (of re-ranking)
    frames: int = 60  # packed frames of a device
    devices: int = 1
    likely: bool = True  # compiled without --all


def programs() -> dict[str, Program]:
    """Return all programs by name, the likely ones first."""
    from stf_jax.models import BACKBONES

    train, extract = Program(), Program(step="extract", frames=100)
    bf16 = (BFLOAT16,)
    found = {
        "mars, train, bfloat16": Program(options=bf16),
        "mars, extract, bfloat16": Program(options=bf16, step="extract", frames=100),
        "mars, train, float32": train,
        "mars, extract, float32": extract,
        "demo, train": Program("demo", frames=96),
        "demo, extract": Program("demo", step="extract", frames=128),
        "mars, train, remat": Program(options=(BFLOAT16, "--config.model.remat=True")),
        "re-ranking, neighbours": Program(step="neighbours", frames=13_000),
        "mars, train, every augmentation": Program(options=(*bf16, *AUGMENTED)),
    }
    for devices in (2, 8):
        for synced in (False, True):
            option = f"--config.train.sync_batch_norm={synced}"
            name = f"mars, train, {devices} devices{', synchronised' if synced else ''}"
            found[name] = Program(options=(*bf16, option), devices=devices)
    for variant, (stages, frame_attention, stage_attention) in runpy.run_path(
        str(ROOT / "configs" / "ablation.py")
    )["VARIANTS"].items():
        options = (
            f"--config.model.stages={stages}",
            f"--config.model.frame_attention={frame_attention}",
            f"--config.model.stage_attention={stage_attention}",
        )
        found[f"ablation, {variant}"] = Program("ablation", options, frames=96)
    for backbone in list(BACKBONES)[1:]:  # the first is the demo's own
        option = f"--config.model.backbone={backbone}"
        found[f"demo, train, {backbone}"] = Program("demo", (option,), frames=96)
    for backbone in BACKBONES:
        for dtype in ("float32", "bfloat16"):
            options = f"--config.model.backbone={backbone}", f"--config.model.dtype={dtype}"
            found[f"mars, train, {backbone}, {dtype}, 100 frames"] = Program(
                options=options, frames=100, likely=False
            )
    for config in ("ilids_vid", "prid2011", "ls_vid", "street"):
        found[f"{config}, train"] = Program(config, likely=False)
    for name, program in list(found.items()):
        if program.config == "ablation":
            options = (*program.options, BFLOAT16)
            found[f"{name}, bfloat16"] = Program("ablation", options, frames=96, likely=False)
    return found


def topology_devices(target: str, count: int) -> list[Any]:
    """Return `count` devices of the kind that scripts/gpu_targets/TARGET.txtpb describes."""
    from jax.experimental import topologies

    described = (TARGETS / f"{target}.txtpb").read_text(encoding="utf-8")
    return topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=described, topology=f"1x1x{count}"
    ).devices


def lower_program(program: Program, devices: list[Any]) -> Any:
    """Return the program, lowered for `devices` (`jax.stages.Lowered`)."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from stf_jax.devices import DEVICES, data_parallel

    mesh = Mesh(np.array(devices), (DEVICES,))
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
    from stf_jax.main import parse, read_config
    from stf_jax.models import build_model
    from stf_jax.models.variables import init_variables
    from stf_jax.training.optim import make_optimizer
    from stf_jax.training.state import init_state
    from stf_jax.training.steps import train_step

    arguments = ["--config", str(ROOT / "configs" / f"{program.config}.py"), "--workdir", "none"]
    config = read_config(*parse([*arguments, *program.options]))
    training = program.step == "train"
    synced = DEVICES if training and config.train.sync_batch_norm else None
    model = build_model(config.model, 625 if training else 0, axis_name=synced)
    height, width = config.data.height, config.data.width
    slots = config.data.max_frames if training else config.evaluation.chunk
    tracklets = config.data.tracklets if training else program.frames // slots
    variables = jax.eval_shape(lambda: init_variables(model, 0, height, width))
    lead = program.devices, program.frames
    batch = PackedBatch(
        images=jax.ShapeDtypeStruct((*lead, height, width, 3), jnp.uint8),
        tracklet=jax.ShapeDtypeStruct(lead, jnp.int32),
        slot=jax.ShapeDtypeStruct(lead, jnp.int32),
        labels=jax.ShapeDtypeStruct((program.devices, tracklets), jnp.int32),
        global_index=jax.ShapeDtypeStruct((program.devices, tracklets), jnp.int32),
    )
    if not training:
        extract = functools.partial(extract_step, model=model, num_slots=slots, flip=True)
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


def work(names: list[str], target: str) -> None:
    """Compile the programs one after the other; a line of JSON before and after each."""
    known = programs()
    for name in names:
        print(json.dumps({"begins": name}), flush=True)
        start = time.perf_counter()
        try:
            program = known[name]
            devices = topology_devices(target, program.devices)
            compiled = lower_program(program, devices).compile()
            memory = compiled.memory_analysis()
            found = {
                "temporary": memory.temp_size_in_bytes,
                "arguments": memory.argument_size_in_bytes,
            }
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(
            json.dumps({"name": name, "seconds": time.perf_counter() - start, **found}), flush=True
        )


def compile_in_children(names: list[str], target: str) -> list[dict[str, Any]]:
    """Compile in a child process, in a new one after each that the compiler ended."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"  # no device to time on
    environment = {**os.environ, "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "XLA_FLAGS": flags}
    results: list[dict[str, Any]] = []
    while len(results) < len(names):
        left = names[len(results) :]
        with tempfile.TemporaryFile("w+") as errors:
            command = [sys.executable, __file__, "--target", target, "--work", json.dumps(left)]
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:  # printed as they come
                    row = json.loads(line) if line.startswith("{") else {}
                    if "name" in row:
                        _print_row(row)
                        results.append(row)
            errors.seek(0)
            messages = [line for line in errors.read().splitlines() if line.strip()]
        if process.returncode or len(results) < len(names):
            reason = next(
                (line for line in messages if "Check failed" in line), "".join(messages[-1:])
            )
            name = names[len(results)] if len(results) < len(names) else left[-1]
            row = {"name": name, "failed": f"the process ended: {reason[:300]}"}
            _print_row(row)
            results.append(row)
    return results


def _print_row(row: dict[str, Any]) -> None:
    if "failed" in row:
        print(f"FAILED  {row['name']}: {row['failed']}", flush=True)
    else:
        sizes = f"{row['arguments'] / 1e9:6.2f} {row['temporary'] / 1e9:6.2f}"
        print(f"{row['name']:48}{row['seconds']:6.0f} s  {sizes} GB", flush=True)


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    targets = sorted(path.stem for path in TARGETS.glob("*.txtpb"))
    parser.add_argument("--target", choices=targets, default="h100")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="programs whose name has this")
    parser.add_argument("--all", action="store_true", help="also the rarely used ones")
    parser.add_argument("--list", action="store_true", help="print the programs' names")
    parser.add_argument("--jobs", type=int, default=1, help="processes in parallel")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        return 0
    if options.work:
        work(json.loads(options.work), options.target)
        return 0
    names = [
        name
        for name, program in programs().items()
        if (program.likely or options.all or options.only)
        and (not options.only or any(part in name for part in options.only))
    ]
    if options.list or not names:
        print("\n".join(names) or f"error: no program is called {' or '.join(options.only)}")
        return 0 if names else 2
    print(f"{'compiled for ' + options.target:48}{'time':>8}  {'args':>6} {'temp.':>6}", flush=True)
    shares = [names[k :: options.jobs] for k in range(options.jobs)]
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(lambda share: compile_in_children(share, options.target), shares))
    failed = [row["name"] for rows in found for row in rows if "failed" in row]
    print(f"{len(names) - len(failed)} of {len(names)} programs compile for {options.target}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
