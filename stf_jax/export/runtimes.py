"""The exported formats: each written from a program, and read again by its own runtime."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Float32

from stf_jax.errors import import_extra
from stf_jax.export.onnx_graph import OPSET, onnx_model
from stf_jax.export.program import INPUTS, OUTPUTS, feature_program, folded
from stf_jax.models import TemporalFusionNet

PLATFORMS = ("cpu", "cuda")
Results = tuple[Float32[np.ndarray, "b d"], Float32[np.ndarray, "b t"], Float32[np.ndarray, " b"]]
Runner = Callable[[np.ndarray, np.ndarray], Results]


class Format(NamedTuple):
    """How a format is written to a file, run from it, and which versions made it."""

    write: Callable[[Path, TemporalFusionNet, Any, bool, int, int], None]
    load: Callable[[Path], Runner]
    made_by: Callable[[], dict[str, Any]]


def symbolic_inputs(height: int, width: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The program's inputs for any number of tracklets B and of frames T."""
    tracklets, frames = jax_export.symbolic_shape("B, T")
    shapes = (tracklets, frames, height, width, 3), (tracklets, frames)
    dtypes = jnp.uint8, jnp.bool_
    specs = [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, dtypes, strict=True)]
    return dict(zip(INPUTS, specs, strict=True))


def jax_runner(model: TemporalFusionNet, variables: Any, flip: bool) -> Runner:
    """The program itself, computed by JAX on a CPU."""
    return _on_cpu(jax.jit(feature_program(model, variables, flip=flip)))


def _on_cpu(function: Callable[..., Any]) -> Runner:
    def run(frames: np.ndarray, mask: np.ndarray) -> Results:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            features, weights, norms = jax.device_get(function(frames, mask))
        return features, weights, norms

    return run


def _write_stablehlo(
    path: Path, model: TemporalFusionNet, variables: Any, flip: bool, height: int, width: int
) -> None:
    program = jax.jit(feature_program(model, variables, flip=flip))
    exported = jax_export.export(program, platforms=PLATFORMS)
    path.write_bytes(exported(*symbolic_inputs(height, width).values()).serialize())


def _load_stablehlo(path: Path) -> Runner:
    return _on_cpu(jax_export.deserialize(bytearray(path.read_bytes())).call)


def _write_onnx(
    path: Path, model: TemporalFusionNet, variables: Any, flip: bool, height: int, width: int
) -> None:
    program = feature_program(model, folded(variables), flip=flip)
    path.write_bytes(
        onnx_model(program, symbolic_inputs(height, width), OUTPUTS).SerializeToString()
    )


def _load_onnx(path: Path) -> Runner:
    runtime = import_extra("onnxruntime", "export")
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def run(frames: np.ndarray, mask: np.ndarray) -> Results:
        features, weights, norms = session.run(OUTPUTS, {"frames": frames, "mask": mask})
        return features, weights, norms

    return run


def _onnx_versions() -> dict[str, Any]:
    packages = [import_extra(name, "export") for name in ("onnx", "onnxruntime")]
    return {"opset": OPSET, **{p.__name__: p.__version__ for p in packages}}


FORMATS = {
    "stablehlo": Format(_write_stablehlo, _load_stablehlo, lambda: {"platforms": list(PLATFORMS)}),
    "onnx": Format(_write_onnx, _load_onnx, _onnx_versions),
}


def versions(name: str) -> dict[str, Any]:
    """What a file of format `name` is made by; UserError where a package is missing."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, "jax": jax.__version__, **FORMATS[name].made_by()}
