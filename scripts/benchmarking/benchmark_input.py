"""Input: this project's pipeline against a PyTorch DataLoader, on the same images and cores.

python scripts/benchmarking/benchmark_input.py [--root LAYOUT] [--rounds 3] [--cores N] [--needed N]

Both read the same training plan and give 384x128 pixels: ours packed uint8 batches (mirroring and
normalisation are done on the device), the DataLoader (`torch_peer.py input`) the reference's
mirrored, normalised float32 tensors, with OpenCV where that is installed, else Pillow. They take
turns. Without --root people are drawn first: crops of 256x128 as JPEG files of quality 95 with
halved chroma, OpenCV's defaults. Images are in the system's file cache after the first round.

Beside frames a second there are frames a processor second, which other programs on the machine
disturb less. Both count from a running pipeline to one that still has work to do.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from steps_plan import plan_steps

from stf_jax import __version__
from stf_jax.cores import usable_cores
from stf_jax.data.layout.partitions import load_layout
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.pipeline import batches
from stf_jax.data.sampling import Plan, frame_counts, training_buckets
from stf_jax.errors import UserError, prints_user_errors
from stf_jax.prepare.__main__ import main as prepare

HEIGHT, WIDTH, SLOTS, TRACKLETS = 384, 128, 25, 4
PEER = Path(__file__).with_name("torch_peer.py")
TARGET = 2.5  # times the DataLoader


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; raise UserError for numbers out of their range."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    default = " (default %(default)s)"
    add("--root", type=Path, metavar="LAYOUT", help="use its training images (default: draw some)")
    add("--rounds", type=int, default=3, help="times that each is measured" + default)
    add("--steps", type=int, default=60, help="timed steps of a round" + default)
    add("--warmup", type=int, default=10, help="steps before them" + default)
    add("--cores", type=int, metavar="N", help="use N cores only (default: all usable ones)")
    needed = "frames/s that the accelerator trains, for the arithmetic" + default
    add("--needed", type=float, default=2500, metavar="Z", help=needed)
    add("--identities", type=int, default=16, help="people to draw without --root" + default)
    add("--json", type=Path, metavar="FILE", help="also write all that was measured")
    options = parser.parse_args(argv)
    least = {"rounds": 1, "steps": 1, "warmup": 0, "cores": 1, "needed": 1, "identities": 2}
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise UserError(f"--{name} {value}: expected {low} or more")
    if options.json is not None and not options.json.parent.is_dir():
        raise UserError(f"--json {options.json}: there is no folder {options.json.parent}")
    return options


def use_cores(wanted: int | None) -> int:
    """Keep this process and its children to so many cores; how many they have."""
    if not hasattr(os, "sched_getaffinity"):
        if wanted is not None:
            raise UserError(f"--cores {wanted}: this system cannot restrict a process to cores")
        return usable_cores()
    usable = sorted(os.sched_getaffinity(0))
    if wanted is not None:
        if wanted > len(usable):
            raise UserError(f"--cores {wanted}: {len(usable)} are usable here")
        os.sched_setaffinity(0, usable[:wanted])
        usable = usable[:wanted]
    return len(usable)


def draw_layout(folder: Path, identities: int) -> Path:
    """Write a layout of drawn 256x128 crops as a camera's software would store them."""
    size = ["--height", "256", "--width", "128", "--min-length", "20", "--max-length", "40"]
    people = ["--identities", str(identities), "--train-fraction", "1", "--cameras", "2"]
    status = prepare(["synthetic", "--output", str(folder), "--ext", "jpg", *size, *people])
    if status:
        raise UserError(f"{folder}: people could not be drawn")
    for path in sorted((folder / "images").iterdir()):
        with Image.open(path) as image:
            image.load()
        image.save(path, quality=95, subsampling="4:2:0")
    return folder


def measure_ours(
    table: TrackletTable, plan: Plan, buckets: Sequence[int], warmup: int, steps: int
) -> dict[str, float]:
    """Frames a second out of `batches`, from step `warmup` on."""
    stream = batches(table, plan, height=HEIGHT, width=WIDTH, buckets=buckets)
    for _ in range(warmup):
        next(stream)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(stream)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    real = int(frame_counts(plan)[warmup : warmup + steps].sum())
    return {"real_frames_per_second": real / wall, "real_frames_per_cpu_second": real / cpu}


def measure_peer(root: Path, workers: int, warmup: int, steps: int) -> dict[str, Any]:
    """What `torch_peer.py input` finds, run beside this process."""
    numbers = {"workers": workers, "warmup": warmup, "steps": steps}
    numbers |= {"height": HEIGHT, "width": WIDTH, "slots": SLOTS, "tracklets": TRACKLETS}
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, str(PEER), "input", "--root", str(root), "--json", str(found)]
        for name, value in numbers.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise UserError(f"{PEER.name} input failed: {lines[-1].removeprefix('error: ')}")
        return json.loads(found.read_text())


def compare(root: Path, options: argparse.Namespace, cores: int) -> dict[str, Any]:
    """Measure both in turn; print a line for each round."""
    layout = load_layout(root)
    table = layout.trainval or layout.train
    if table is None:
        raise UserError(f"{root}: no training subset; expected trainval_im_names")
    # More than is timed, so that no thread is idle near the end; the DataLoader does the same.
    wanted = options.warmup + options.steps + 2 * max(cores, 2)
    plan = plan_steps(table, wanted, tracklets=TRACKLETS, slots=SLOTS)
    buckets = training_buckets(table, 6, num_devices=1, tracklets=TRACKLETS)
    ours, peers = [], []
    for number in range(1, options.rounds + 1):
        ours.append(measure_ours(table, plan, buckets, options.warmup, options.steps))
        peers.append(measure_peer(root, cores, options.warmup, options.steps))
        print(
            f"round {number}: ours {_rates(ours[-1])}; DataLoader {_rates(peers[-1])}", flush=True
        )
    sizes = [(table.image_dir / os.fsdecode(name)).stat().st_size for name in table.names[:1000]]
    found: dict[str, Any] = {
        "version": __version__,
        "torch": peers[0]["torch"],
        "decoder": peers[0]["decoder"],
        "numpy": np.__version__,
        "cores": cores,
        "load_average": os.getloadavg()[0],
        "mean_file_bytes": statistics.fmean(sizes),
        "rounds": options.rounds,
        "steps": options.steps,
    }
    for kind in ("real_frames_per_second", "real_frames_per_cpu_second"):
        a, b = (statistics.median(each[kind] for each in side) for side in (ours, peers))
        found[kind] = {"ours": a, "dataloader": b, "ratio": a / b}
    return {**found, "all": {"ours": ours, "dataloader": peers}}


def report(found: dict[str, Any], needed: float) -> str:
    """The medians, their ratio, and the arithmetic of feeding an accelerator."""
    cores, wall = found["cores"], found["real_frames_per_second"]
    cpu = found["real_frames_per_cpu_second"]
    each = wall["ours"] / cores
    verdict = "reached" if wall["ratio"] >= TARGET else "missed"
    lines = [
        f"{cores} cores (load average {found['load_average']:.1f}), files of "
        f"{found['mean_file_bytes'] / 1000:.1f} kB, median of {found['rounds']} rounds of "
        f"{found['steps']} steps; DataLoader: PyTorch {found['torch']}, {found['decoder']}",
        f"{'':28}{'ours':>10}{'DataLoader':>12}{'ratio':>8}",
    ]
    for name, row, share in (
        ("frames/s", wall, 1),
        ("frames/s a core", wall, cores),
        ("frames a processor second", cpu, 1),
    ):
        a, b = row["ours"] / share, row["dataloader"] / share
        lines.append(f"{name:28}{a:10.0f}{b:12.0f}{row['ratio']:8.2f}")
    lines.append(f"target {TARGET} times the DataLoader on the same cores: {verdict}")
    for count in sorted({cores, 16}):
        lines.append(
            f"{count} cores at {each:.0f} frames/s a core give {count * each:.0f} frames/s; an "
            f"accelerator that trains {needed:.0f} frames/s (--needed) uses "
            f"{100 * needed / (count * each):.0f} % of that"
        )
    return "\n".join(lines)


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parse(argv)
    cores = use_cores(options.cores)
    with tempfile.TemporaryDirectory(prefix="benchmark_input_") as folder:
        root = options.root or draw_layout(Path(folder) / "drawn", options.identities)
        found = compare(root, options, cores)
    print(report(found, options.needed))
    if options.json is not None:
        options.json.write_text(json.dumps({**found, "needed": options.needed}, indent=2) + "\n")
    return 0


def _rates(found: dict[str, Any]) -> str:
    return (
        f"{found['real_frames_per_second']:.0f} frames/s, "
        f"{found['real_frames_per_cpu_second']:.0f} a processor second"
    )


if __name__ == "__main__":
    sys.exit(main())
