"""Compiles training, extraction, re-ranking and an exported file for an NVIDIA GPU, without one.

scripts/compile_for_gpu.sh [--only NAME ...] [--all] [--target h100] [--jobs N]

XLA compiles for a chip that is described, so a fault of its GPU compiler shows on any machine.
Needs jax[cuda13] (the .sh installs it into an environment of its own). Exit status 1 where a
program does not compile, or takes more bytes or kernels on an H100 than its goal. It does not
measure time. python scripts/gpu_program.py says more about one config's programs.
"""

import argparse
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from gpu_program import CARDS, ROOT, Program, measure_in_children

BFLOAT16 = "--config.model.dtype=bfloat16"
# Each augmentation with a probability other than 0.
AUGMENTED = tuple(
    f"--config.augment.{name}=0.5" for name in ("mirror", "blur", "crop", "hsv", "erase")
)
# At most so many MB a frame and kernels a step, on an H100: what was reached.
GOALS = {
    "mars, train, bfloat16": (470, 1300),
    "mars, train, float32": (900, 1300),
    "mars, extract, bfloat16": (115, 320),
}


def programs(rare: bool = False) -> dict[str, Program]:
    """Return the programs that users are likely to run by name; all programs where `rare`."""
    from stf_jax.models import BACKBONES

    bf16 = (BFLOAT16,)
    extract = Program(step="extract", frames=100)
    demo, ablation = "configs/demo.py", "configs/ablation.py"
    found = {
        "mars, train, bfloat16": Program(options=bf16),
        "mars, extract, bfloat16": replace(extract, options=bf16),
        "mars, train, float32": Program(),
        "mars, extract, float32": replace(extract, options=("--config.evaluation.flip=True",)),
        "mars_strong, train": Program("configs/mars_strong.py"),
        "demo, train": Program(demo, frames=96),
        "demo, extract": Program(demo, step="extract", frames=128),
        "demo, exported file": Program(demo, step="export", frames=128),
        "mars, train, remat": Program(options=(BFLOAT16, "--config.model.remat=True")),
        "re-ranking, neighbours": Program(step="neighbours", frames=13_000),
        "mars, train, every augmentation": Program(options=(*bf16, *AUGMENTED)),
    }
    for devices, synced in ((2, False), (8, True)):
        option = f"--config.train.sync_batch_norm={synced}"
        name = f"mars, train, {devices} devices{', synchronised' if synced else ''}"
        options = (*bf16, option, f"--config.data.tracklets={4 * devices}")
        found[name] = Program(options=options, devices=devices)
    variants = runpy.run_path(str(ROOT / ablation))["VARIANTS"]
    for variant, (stages, frame_attention, stage_attention) in variants.items():
        options = (
            f"--config.model.stages={stages}",
            f"--config.model.frame_attention={frame_attention}",
            f"--config.model.stage_attention={stage_attention}",
        )
        found[f"ablation, {variant}"] = Program(ablation, options, frames=96)
    for backbone in ("resnet34", "resnet50"):  # the demo's own is ResNet-18
        option = f"--config.model.backbone={backbone}"
        found[f"demo, train, {backbone}"] = Program(demo, (option,), frames=96)
    if not rare:
        return found
    for name, program in list(found.items()):
        if program.config == ablation:
            found[f"{name}, bfloat16"] = replace(program, options=(*program.options, BFLOAT16))
    for backbone in BACKBONES:
        for dtype in ("float32", "bfloat16"):
            options = f"--config.model.backbone={backbone}", f"--config.model.dtype={dtype}"
            name = f"mars, train, {backbone}, {dtype}, 100 frames"
            found[name] = Program(options=options, frames=100)
    for config in ("ilids_vid", "prid2011", "ls_vid", "street"):
        found[f"{config}, train"] = Program(f"configs/{config}.py")
    return found


def verdict(name: str, program: Program, row: dict[str, Any], target: str) -> str:
    """Say why the program is not as it should be; "" where it is."""
    if "failed" in row:
        return row["failed"]
    megabytes, most = GOALS.get(name, (float("inf"),) * 2) if target == "h100" else (1e9, 1e9)
    moved = row["moved"] / program.frames / 1e6
    if moved > megabytes:
        return f"moves {moved:.0f} MB a frame, at most {megabytes} are the goal"
    if row["kernels"] > most:
        return f"{row['kernels']} kernels, at most {most} are the goal"
    return ""


def compile_all(chosen: dict[str, Program], target: str) -> list[str]:
    """Compile the programs, print a line for each, return the names of those that fail."""
    names, failed = list(chosen), []

    def report(number: int, row: dict[str, Any]) -> None:
        name = names[number]
        wrong = verdict(name, chosen[name], row, target)
        if wrong:
            failed.append(name)
            print(f"FAILED  {name}: {wrong}", flush=True)
            return
        sizes = f"{row['arguments'] / 1e9:6.2f} {row['temporary'] / 1e9:6.2f} GB"
        moved = row["moved"] / chosen[name].frames / 1e6
        print(
            f"{name:48}{row['seconds']:6.0f} s  {sizes} {row['kernels']:7,} {moved:7.1f} MB",
            flush=True,
        )

    measure_in_children(list(chosen.values()), target, report)
    return failed


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=CARDS, default="h100")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="programs whose name has this")
    parser.add_argument("--all", action="store_true", help="also the rarely used ones")
    parser.add_argument("--list", action="store_true", help="print the programs' names")
    parser.add_argument("--jobs", type=int, default=1, help="processes in parallel")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        return 0
    known = programs(rare=options.all or bool(options.only))
    chosen = {
        name: program
        for name, program in known.items()
        if not options.only or any(part in name for part in options.only)
    }
    if options.list or not chosen:
        print("\n".join(chosen) or f"error: no program is called {' or '.join(options.only)}")
        return 0 if chosen else 2
    head = f"{'compiled for ' + options.target:48}{'time':>8}  {'args':>6} {'temp.':>6}"
    print(f"{head}    {'kernels':>7} {'a frame':>7}", flush=True)
    items = list(chosen.items())
    shares = [dict(items[k :: options.jobs]) for k in range(options.jobs)]
    with ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(lambda share: compile_all(share, options.target), shares)
        failed = [name for names in found for name in names]
    print(f"{len(chosen) - len(failed)} of {len(chosen)} programs compile for {options.target}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
