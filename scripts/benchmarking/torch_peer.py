"""The reference's workload in PyTorch, to measure this project against.

python scripts/benchmarking/torch_peer.py train [--variant tuned] [--lengths F.npy] [--json FILE]
python scripts/benchmarking/torch_peer.py extract [--variant tuned] [--lengths F.npy] [--json FILE]
python scripts/benchmarking/torch_peer.py memory [--variant tuned] [--json FILE]
python scripts/benchmarking/torch_peer.py input --root LAYOUT [--workers N] [--json FILE]

train: steps from a resident batch, every tracklet padded to --slots frames. extract: evaluation of
chunks of --slots frames, padded likewise, --tracklets chunks a batch. memory: the most tracklets a
training step holds on a GPU. input: a DataLoader over a layout's training images.

--variant plain is PyTorch as it comes, float32; tuned adds bfloat16 autocast, channels_last,
torch.compile, TF32 and cuDNN's search for the fastest convolutions. Needs the `convert` extra.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stf_jax.cores import usable_cores
from stf_jax.errors import UserError, prints_user_errors

PARTS = ("train", "extract", "input", "memory")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; raise UserError for numbers out of their range."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("part", metavar="PART", choices=PARTS, help="train, extract, input or memory")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--variant", choices=("plain", "tuned"), default="plain")
    default = " (default %(default)s)"
    add("--backbone", default="resnet50", help="resnet18, 34, 50 or 101" + default)
    add("--height", type=int, default=384, help="pixels" + default)
    add("--width", type=int, default=128, help="pixels" + default)
    add("--embed-dim", type=int, default=4096, help="channels of a feature" + default)
    add("--num-classes", type=int, default=625, help="identities to tell apart" + default)
    add("--tracklets", type=int, default=4, help="tracklets or chunks in a batch" + default)
    add("--slots", type=int, default=25, help="frames that each is padded to" + default)
    add(
        "--lengths",
        type=Path,
        metavar="FILE.npy",
        help="real frames: train [steps, tracklets], extract [chunks]; used in turn, from the "
        "start again at the end (default: train draws 5 to --slots, extract has full chunks)",
    )
    add("--root", type=Path, metavar="LAYOUT", help="input: folder of images and partitions.pkl")
    add("--workers", type=int, metavar="N", help="input: processes (default: one a core)")
    add("--steps", type=int, metavar="N", help="timed steps (default: --lengths once, or 10)")
    add("--warmup", type=int, default=2, metavar="N", help="steps before them" + default)
    add("--seed", type=int, default=0, help=default.strip())
    add("--threads", type=int, metavar="N", help="of PyTorch (default: its own choice)")
    add("--json", type=Path, metavar="FILE", help="also write all that was measured")
    options = parser.parse_args(argv)
    least = {
        "height": 32,
        "width": 32,
        "embed_dim": 1,
        "num_classes": 2,
        "tracklets": 2 if options.part == "train" else 1,  # BatchNorm refuses one value
        "slots": 1,
        "workers": 0,
        "steps": 1,
        "warmup": 0,
        "seed": 0,
        "threads": 1,
    }
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected {low} or more")
    if options.part == "input" and options.root is None:
        raise UserError("input needs --root, the folder of a layout (images/, partitions.pkl)")
    return options


def read_lengths(options: argparse.Namespace) -> np.ndarray:
    """int64 [steps, tracklets], 1 to `slots` each: from the file, or drawn (see --lengths)."""
    slots, tracklets = options.slots, options.tracklets
    shape = ("steps", tracklets) if options.part == "train" else ("chunks",)
    if options.lengths is None:
        count = (options.steps or 10, tracklets)
        if options.part == "extract":
            return np.full(count, slots)
        return np.random.default_rng(options.seed).integers(min(5, slots), slots + 1, count)
    try:
        lengths = np.load(options.lengths, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{options.lengths}: cannot be read ({error}); expected an .npy file"
        ) from None
    expected = f"integers [{', '.join(map(str, shape))}] of 1 to {slots} (--slots)"
    found = None
    if not isinstance(lengths, np.ndarray) or lengths.dtype.kind not in "iu":
        found = f"{type(lengths).__name__} of {getattr(lengths, 'dtype', 'several arrays')}"
    elif lengths.ndim != len(shape) or not lengths.size or lengths.shape[1:] != shape[1:]:
        found = f"shape {list(lengths.shape)}"
    elif lengths.min() < 1 or lengths.max() > slots:
        found = f"values from {lengths.min()} to {lengths.max()}"
    if found:
        raise UserError(f"{options.lengths}: found {found}, expected {expected}")
    if options.part == "extract":
        # Whole batches only; the last one goes on with the first chunks.
        steps = -(-len(lengths) // tracklets)
        lengths = np.resize(lengths, steps * tracklets).reshape(steps, tracklets)
    return lengths.astype(np.int64)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run one part. Raises UserError for what this machine or the options do not allow."""
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError("PyTorch is not installed; pip install -e '.[convert]'") from None
    from torch_peer_model import BACKBONES

    if options.backbone not in BACKBONES:
        names = ", ".join(BACKBONES)
        raise UserError(f"--backbone {options.backbone}: expected one of {names}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    if options.part == "input":
        from torch_peer_input import measure_input
        from torch_peer_measure import peak_memory

        if options.workers is None:
            options.workers = usable_cores()
        options.steps = options.steps or 10
        found = measure_input(options)
        found["peak_memory_bytes"] = peak_memory(torch.device("cpu"))
    else:
        from torch_peer_measure import measure_memory, measure_steps

        if options.part == "memory":
            if options.device == "cpu":
                raise UserError("memory needs a GPU (found --device cpu): it is CUDA's that fills")
            found = measure_memory(options)
        else:
            lengths = read_lengths(options)
            options.steps = options.steps or len(lengths)
            found = measure_steps(options, lengths)
    head = {"part": options.part, "variant": options.variant, "torch": torch.__version__}
    size = {
        name: getattr(options, name)
        for name in ("backbone", "height", "width", "embed_dim", "num_classes", "slots", "seed")
    }
    return {**head, "threads": torch.get_num_threads(), **size, "tracklets": options.tracklets} | (
        found
    )


def summary(found: dict[str, Any]) -> str:
    """One line of what was measured."""
    head = f"PyTorch {found['torch']} {found['part']}, {found['variant']}"
    memory = f"peak memory {found['peak_memory_bytes'] / 1e9:.2f} GB"
    if found["part"] == "memory":
        return (
            f"{head}, {found.get('device', 'cuda')}: {found['tracklets']} tracklets of "
            f"{found['slots']} frames fit; {memory}"
        )
    if found["part"] == "input":
        how = f"{found['workers']} workers, {found['decoder']}"
    else:
        compiled = ", compiled" if found["compiled"] else ""
        how = f"{found['device']}, {found['dtype']}{compiled}"
    return (
        f"{head} ({how}): {found['real_frames_per_second']:.2f} real frames/s; "
        f"{found['median_seconds_per_step']:.3f} s a step of {found['real_frames_per_step']:.1f} "
        f"real frames in {found['computed_frames_per_step']}; {memory}"
    )


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parse(argv)
    if options.json is not None and not options.json.parent.is_dir():
        raise UserError(f"--json {options.json}: there is no folder {options.json.parent}")
    found = measure(options)
    print(summary(found))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
