"""Weights shown and converted.

    python -m stf_jax.weights inspect SOURCE       every tensor's name, shape, dtype, norm
    python -m stf_jax.weights convert SOURCE OUT   the same, and writes OUT

SOURCE is a file, hf://OWNER/REPOSITORY/FILE, or the workdir of a run; formats go by the suffixes
.safetensors, .npz and .pth (PyTorch's). Names and layouts in files stay PyTorch's: `torch_names`.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stf_jax.errors import UserError, prints_user_errors
from stf_jax.models.weights.files import read_tensors, write_tensors
from stf_jax.models.weights.location import locate_weights


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Inspect or convert weights; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m stf_jax.weights",
        description="Print the tensors of a file of weights or of a run, or write them to a file.",
        epilog="a run's model as a file:  python -m stf_jax.weights convert runs/mars "
        "mars.safetensors",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="print name, shape, dtype, norm of each tensor")
    convert = commands.add_parser("convert", help="the same, and write the tensors to OUT")
    for command in (inspect, convert):
        command.add_argument(
            "source", metavar="SOURCE", help="path, hf://OWNER/REPOSITORY/FILE, or a run's workdir"
        )
        command.add_argument(
            "--checkpoint", help="of a run: best, latest or a step (default as for --mode evaluate)"
        )
    convert.add_argument("target", metavar="OUT", help="path ending in .safetensors, .npz or .pth")
    args = parser.parse_args(argv)
    tensors = source_tensors(args.source, args.checkpoint)
    if args.command == "convert":
        write_tensors(args.target, tensors)
    print(layer_report(tensors))
    return 0


def source_tensors(source: str, which: str | None = None) -> dict[str, np.ndarray]:
    """Return the tensors of a file, hf:// address or run, by PyTorch's names.

    Of a run those of checkpoint `which` (best, latest or a step; by default as
    `restore.default_checkpoint`), its classifier among them. Raises UserError where there are none.
    """
    if Path(source).is_dir():
        from stf_jax.models.weights.pretrained import variables_to_torch
        from stf_jax.run.restore import run_variables

        return variables_to_torch(run_variables(Path(source), which))
    if which is not None:
        raise UserError(f"--checkpoint {which}: {source} is no folder; expected a run's workdir")
    return read_tensors(locate_weights(source))


def layer_report(tensors: Mapping[str, np.ndarray]) -> str:
    """A line for each tensor: name, shape, dtype, Euclidean norm; then the totals."""
    rows = [
        (name, "x".join(map(str, array.shape)) or "scalar", str(array.dtype), _norm(array))
        for name, array in tensors.items()
    ]
    name_width = max((len(row[0]) for row in rows), default=0)
    lines = [f"{row[0]:{name_width}}  {row[1]:>16}  {row[2]:>8}  {row[3]:12.6g}" for row in rows]
    total = sum(array.size for array in tensors.values())
    return "\n".join([*lines, f"{len(rows)} tensors, {total:,} numbers"])


def _norm(array: np.ndarray) -> float:
    return math.sqrt(float(np.square(array.astype(np.float64)).sum()))


if __name__ == "__main__":
    sys.exit(main())
