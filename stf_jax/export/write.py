"""A run's model written as one file, once the file gives the same numbers."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from stf_jax import __version__
from stf_jax.config import Config, changed
from stf_jax.errors import UserError
from stf_jax.evaluation.features.origin import FeatureOrigin, feature_origin
from stf_jax.export.program import INPUTS, OUTPUTS
from stf_jax.export.runtimes import FORMATS, Results, Runner, jax_runner, versions
from stf_jax.files import atomic_write
from stf_jax.folder_lock import one_owner
from stf_jax.run.restore import default_checkpoint, restore_run
from stf_jax.run.run_files import run_config
from stf_jax.run.tensor_checksums import digest

TOLERANCE = 1e-4
# Real frames of each tracklet, and slots: one frame; padding, and a tracklet of no real frame.
_CHECKED = (((1,), 1), ((4, 2, 0), 4))


@dataclass(frozen=True)
class Exported:
    """What was written: the file, its description, and the largest difference from JAX's numbers.

    The description is what `<file>.json` holds.
    """

    path: Path
    description: dict[str, Any]
    difference: float


def export_run(
    workdir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    format_name: str = "stablehlo",
    *,
    checkpoint: str | None = None,
) -> Exported:
    """Write `model.<format>` and `model.<format>.json` of the run in `workdir` into `output`.

    Args:
        workdir: of a training run.
        output: folder, made if need be.
        format_name: "stablehlo" or "onnx".
        checkpoint: best, latest, or a step; by default as `restore.default_checkpoint`.

    The file computes in float32, whatever the run's `model.dtype`. What is written is first run
    by its own runtime on drawn frames; both files stay as they were where that differs by more
    than `TOLERANCE` from JAX's numbers.

    Raises:
        UserError: no such run or checkpoint, a package is missing, a part of the model that the
            format cannot hold, numbers that differ, or a folder that is being written.
    """
    form = FORMATS[format_name]
    made_by = versions(format_name)
    workdir, output = Path(workdir), Path(output)
    config = changed(run_config(workdir), {"model.dtype": "float32"})
    which = checkpoint or default_checkpoint(workdir)
    with one_owner(output):
        model, variables, step = restore_run(config, workdir, which)
        origin = feature_origin(config, digest(variables), step)
        path = output / f"model.{format_name}"
        size = config.data.height, config.data.width
        flip = config.evaluation.flip
        with atomic_write(path) as temporary:
            try:
                form.write(temporary, model, variables, flip, *size)
            except NotImplementedError as error:
                raise UserError(f"{workdir}: {error}; expected --format stablehlo") from error
            ours, theirs = jax_runner(model, variables, flip), form.load(temporary)
            difference, length = _difference(path, ours, theirs, size)
            contents = _description(config, origin, path, difference, length, made_by)
            contents["sha256"] = hashlib.sha256(temporary.read_bytes()).hexdigest()
        described = output / f"{path.name}.json"
        with atomic_write(described) as temporary:
            temporary.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
    return Exported(path, contents, difference)


def drawn_frames(
    lengths: tuple[int, ...], slots: int, height: int, width: int, seed: int
) -> tuple[UInt8[np.ndarray, "b t h w 3"], Bool[np.ndarray, "b t"]]:
    """Frames of coloured stripes with noise, and a mask that marks `lengths` of them as real."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (len(lengths), slots, 4, 1, 3))
    stripes = np.repeat(colours, -(-height // 4), axis=2)[:, :, :height]
    pixels = stripes + rng.normal(0, 20, (len(lengths), slots, height, width, 3))
    mask = np.arange(slots) < np.array(lengths)[:, None]
    return np.clip(pixels, 0, 255).astype(np.uint8), mask


def largest_difference(ours: Results, theirs: Results) -> float:
    """Of features and weights the largest, of norms the largest relative to the norm or 1."""
    scales = 1.0, 1.0, np.maximum(ours[2], 1)
    return max(
        float(np.nan_to_num(np.abs(a - b) / scale, nan=np.inf).max())
        for a, b, scale in zip(ours, theirs, scales, strict=True)
    )


def _difference(
    path: Path, ours: Runner, theirs: Runner, size: tuple[int, int]
) -> tuple[float, int]:
    """The largest difference on drawn frames, and the number of a feature's numbers."""
    found, length = 0.0, 0
    for seed, (lengths, slots) in enumerate(_CHECKED):
        frames, mask = drawn_frames(lengths, slots, *size, seed)
        expected = ours(frames, mask)
        found = max(found, largest_difference(expected, theirs(frames, mask)))
        length = expected[0].shape[1]
    if not found <= TOLERANCE:
        raise UserError(
            f"{path}: the exported model differs from JAX's by {found:.2g}; expected at most "
            f"{TOLERANCE:g}; nothing was written: try --format stablehlo, or other versions of the "
            "packages of the extra export"
        )
    return found, length


def _description(
    config: Config,
    origin: FeatureOrigin,
    path: Path,
    difference: float,
    length: int,
    made_by: dict[str, Any],
) -> dict[str, Any]:
    data = config.data
    shapes = {
        "frames": ("uint8", ["B", "T", data.height, data.width, 3]),
        "mask": ("bool", ["B", "T"]),
        "features": ("float32", ["B", length]),
        "frame_weights": ("float32", ["B", "T"]),
        "norms": ("float32", ["B"]),
    }

    def described(names: tuple[str, ...]) -> list[dict[str, Any]]:
        return [{"name": n, "dtype": shapes[n][0], "shape": shapes[n][1]} for n in names]

    return {
        "file": path.name,
        "format": path.suffix[1:],
        "inputs": described(INPUTS),
        "outputs": described(OUTPUTS),
        "resize": "bilinear with half-pixel centres, not antialiased, rounded to uint8",
        "pad_ratio": config.augment.pad_ratio,
        "metric": origin.metric,
        "chunk": origin.chunk,
        "chunk_weighting": origin.chunk_weighting,
        "fingerprint": vars(origin),
        "largest_difference": difference,
        "made_by": {"stf_jax": __version__, **made_by},
    }
