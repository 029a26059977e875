"""A run's model as one file for other programs.

python -m stf_jax.export --workdir runs/mars --output exported --format stablehlo|onnx
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stf_jax.errors import prints_user_errors


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Export a run; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m stf_jax.export",
        description="Write a run's model as one file that takes uint8 frames [B, T, H, W, 3] and "
        "a mask [B, T], and gives features of unit length and frame weights; with a .json beside "
        "it. The file is run on drawn frames, and kept where its numbers are JAX's.",
        epilog="how to run the file: docs/export.md",
    )
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="of the run")
    add("--output", type=Path, required=True, help="folder for the two files")
    add(
        "--format",
        choices=("stablehlo", "onnx"),
        default="stablehlo",
        help="stablehlo (default): by JAX, for CPUs and CUDA; onnx: for ONNX Runtime and others "
        "(needs the extra export)",
    )
    add("--checkpoint", help="best, latest or a step (default as for --mode evaluate)")
    options = parser.parse_args(argv)
    from stf_jax.export.write import export_run

    done = export_run(
        options.workdir, options.output, options.format, checkpoint=options.checkpoint
    )
    size = done.path.stat().st_size / 1e6
    print(
        f"written: {done.path} ({size:.1f} MB) and {done.path.name}.json; largest difference "
        f"from JAX's numbers on drawn frames: {done.difference:.2g}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
