"""Files of weights shown and converted.

    python -m stf_jax.models.weights inspect FILE      every tensor's name, shape, dtype, norm
    python -m stf_jax.models.weights convert IN OUT    the same, and writes OUT

IN and FILE are paths or hf://OWNER/REPOSITORY/FILE; formats are told by the suffixes .safetensors,
.npz and .pth (PyTorch's, which needs it). Names and layouts stay PyTorch's in files: `torch_names`.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from stf_jax.errors import prints_user_errors
from stf_jax.models.weights.files import read_tensors, write_tensors
from stf_jax.models.weights.location import locate_weights


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Inspect or convert a file; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m stf_jax.models.weights",
        description="Print the tensors of a file of weights, or convert it to another format.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="print name, shape, dtype, norm of each tensor")
    convert = commands.add_parser("convert", help="the same, and write the tensors to OUT")
    for command in (inspect, convert):
        command.add_argument("source", metavar="IN", help="path or hf://OWNER/REPOSITORY/FILE")
    convert.add_argument("target", metavar="OUT", help="path ending in .safetensors, .npz or .pth")
    args = parser.parse_args(argv)
    tensors = read_tensors(locate_weights(args.source))
    if args.command == "convert":
        write_tensors(args.target, tensors)
    print(layer_report(tensors))
    return 0


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
