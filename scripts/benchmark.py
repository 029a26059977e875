"""Measures this project on this machine: a table, and a JSON file of each run.

python scripts/benchmark.py PART [PART ...] [--minutes M] [--output FOLDER] [OPTION ...]

Each part runs in a process of its own and prints as soon as it is done; what was measured before
the minutes are over is kept. Sizes are those of configs/mars.py on an accelerator and small ones
on a CPU (--size), lengths those of MARS's official track tables.
"""

import argparse
import datetime
import sys
import time
from pathlib import Path
from typing import Any

from benchmarking import child, results
from benchmarking.settings import ROOT, Settings, add_flags, from_flags, to_dict

# Part -> what it measures; the order of `all`. A part is a module of benchmarking with run().
PARTS = {
    "correct": "outputs and gradients on this device against the CPU, and the reference's numbers",
    "packing": "packed batches against every tracklet padded to 25 frames, at equal results",
    "step": "training step from resident batches, each batch size: FLOP/s, bytes, compile time",
    "peer": "against scripts/benchmarking/torch_peer.py on this device: training and extraction",
    "kernels": "share of a step in kernels, in short ones, and the kinds that take most time",
    "layers": "each convolution of the backbone, by XLA and by PyTorch (needs torch)",
    "extraction": "evaluation features on MARS's test lengths",
    "export": "exported models (StableHLO, ONNX Runtime) against JAX's program, on the CPU",
    "memory": "host and device memory, remat's price, long tracklets",
    "largest": "the largest training batch that fits this device, ours and the peer's",
    "bfloat16": "step time against float32",
    "cache": "seconds to the first step of a fresh process, without and with compiled programs",
    "ranking": "ranking and re-ranking at MARS's size",
    "match": "--mode match, 2,000 queries against a million tracklets: time and memory",
    "identify": "--mode identify, 10,000 tracklets: time and memory",
    "gallery": "adding to a LanceDB gallery, exact search, and its index with recall",
    "drawn-run": "drawn people from decoded frames to scores: fusion, late fusion, mean pooling",
    "drawn-long": "the same, trained ten times as long (for accelerators)",
    "devices": "equal losses on 1, 2, 4 and 8 virtual CPU devices (correctness, not speed)",
    "input": "reading, decoding and resizing: frames/s, also per core (needs tensorflow)",
    "end-to-end": "the training loop: frames/s and share of time spent waiting (needs tensorflow)",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the command's options; `parts` are known and in the order of PARTS."""
    listing = "\n".join(f"  {name:<11} {text}" for name, text in PARTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nparts, or all:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("parts", nargs="+", metavar="PART")
    parser.add_argument("--minutes", type=float, help="stop after so many; prints what is left")
    parser.add_argument("--output", type=Path, default=ROOT / "scripts" / "benchmark_results")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    add_flags(parser)
    options = parser.parse_args(argv)
    for part in options.parts:
        if part not in (*PARTS, "all"):
            print(
                f"error: {part!r} is not a part; expected all, {', '.join(PARTS)}", file=sys.stderr
            )
            raise SystemExit(2)
    options.parts = [name for name in PARTS if {name, "all"} & set(options.parts)]
    return options


def recorded_command(argv: list[str] | None) -> list[str]:
    """Return the command's words without --output, which means nothing on another machine."""
    words = list(sys.argv[1:] if argv is None else argv)
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if "--output" not in (before, word.partition("=")[0])
    ]


def measure(part: str, settings: Settings, seconds: float | None, rows: Path) -> dict[str, Any]:
    """Run a part, print its table, return what the JSON file keeps of it."""
    print(f"\n{part}: {PARTS[part]}", flush=True)
    module = f"benchmarking.{part.replace('-', '_')}"
    found = child.stream(module, "run", settings, seconds=seconds, rows=rows)
    if found.rows:
        print(results.format_rows(found.rows))
    end = "" if found.status == "done" else f": {found.reason}"
    print(f"  [{found.status}{end}; {found.seconds:.0f} s]", flush=True)
    rows.unlink(missing_ok=True)
    return {
        "part": part,
        "status": found.status,
        "reason": found.reason,
        "seconds": found.seconds,
        "rows": found.rows,
    }


def own_file(folder: Path, device: dict[str, Any]) -> tuple[datetime.datetime, Path]:
    """Return the time and an empty file named after it, that no run beside this one writes."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        now = datetime.datetime.now(datetime.UTC)
        path = folder / results.file_name(device, now.strftime("%Y-%m-%dT%H%M%S"))
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            time.sleep(1)
        else:
            return now, path


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 1 when a part failed, 2 for bad options."""
    options = parse(argv)
    if options.check:
        return 0
    start = time.monotonic()
    looked = child.stream("benchmarking.results", "describe", Settings())
    if looked.status != "done":
        print(f"error: no device could be opened: {looked.reason}", file=sys.stderr)
        return 2
    (device,) = looked.rows
    settings = from_flags(vars(options), platform=device["platform"])
    now, path = own_file(options.output, device)
    print(
        f"{device['device_count']} x {device['device_kind']}, {device['cores']} cores of "
        f"{device['processor']}, Python {device['python']}, "
        + ", ".join(f"{name} {version}" for name, version in device["versions"].items())
        + f"; commit {device['revision'][:12]}"
        + (f"; XLA_FLAGS {device['xla_flags']}" if device["xla_flags"] else "")
    )
    kept: list[dict[str, Any]] = []
    left: list[str] = []
    for part in options.parts:
        remaining = None
        if options.minutes is not None:
            remaining = 60 * options.minutes - (time.monotonic() - start)
        if remaining is not None and remaining < 5:
            reason = "the time was up"
            kept.append({"part": part, "status": "not run", "reason": reason, "rows": []})
        else:
            kept.append(measure(part, settings, remaining, path.with_suffix(f".{part}.rows")))
        if kept[-1]["status"] == "out of time" or kept[-1]["reason"] == "the time was up":
            left.append(part)
        contents = {"date": now.isoformat(timespec="seconds"), "command": recorded_command(argv)}
        used = to_dict(settings)
        used["tables"] = used["tables"].removeprefix(f"{ROOT}/")
        contents |= {"device": device, "settings": used, "parts": kept}
        results.write(path, contents)
    if left:
        print(f"\nnot finished in {options.minutes:g} minutes: {' '.join(left)}")
    print(f"\nwritten to {path}")
    return int(any(part["status"] == "failed" for part in kept))


if __name__ == "__main__":
    sys.exit(main())
