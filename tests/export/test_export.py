"""A run as one file: its numbers, where it runs, what is refused."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import draw_variables, make_run, tiny_config

from stf_jax.embed import Extractor
from stf_jax.errors import UserError
from stf_jax.evaluation.features.origin import FeatureOrigin
from stf_jax.export import runtimes, write
from stf_jax.export.__main__ import main
from stf_jax.export.onnx_graph import onnx_model
from stf_jax.export.program import feature_program, folded
from stf_jax.export.write import drawn_frames, export_run, largest_difference
from stf_jax.folder_lock import one_owner
from stf_jax.models import build_model, resnet

ROOT = Path(__file__).parents[2]
# Every part of the model that can be chosen, in two runs; the rest is of the fixture's.
OTHERS: dict[str, dict[str, Any]] = {
    "mobilenet": {"model.backbone": "mobilenet_v2", "model.frame_attention": ()},
    "others": {
        "model.stages": (3, 4),
        "model.stage_attention": "learned",
        "model.tail_statistics": "own",
        "model.neck": "bnneck",
        "model.num_stripes": 2,
        "model.pooling": "max",
        "model.bounded_attention": False,
        "model.relation_padding": "reference",
        "model.dtype": "bfloat16",
        "evaluation.flip": True,
    },
}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """One block a stage, and compilers in a hurry: every number of frames is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.RESNETS, "resnet18", (False, (1, 1, 1, 1)))
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    make_run(workdir, **{"compilation_cache": "off", "evaluation.flip": True})
    return workdir


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "exported"
    assert main(["--workdir", str(run), "--output", str(output)]) == 0
    return output


def padded() -> tuple[np.ndarray, np.ndarray]:
    """A short tracklet, and the three chunks of a long one."""
    return drawn_frames((3, 4, 4, 2), 4, 32, 16, seed=9)


@pytest.fixture(scope="module")
def embedded(run: Path) -> tuple[FeatureOrigin, np.ndarray]:
    """The features that embedding gives those two, and their origin."""
    extractor, (frames, mask) = Extractor(run), padded()
    assert extractor.config.evaluation.chunk == mask.shape[1]
    tracklets = [frames[0][mask[0]], frames[1:][mask[1:]]]
    return extractor.origin, extractor.features(tracklets)


def check_features(embedded: np.ndarray, load: Any) -> None:
    frames, mask = padded()
    features, weights, norms = load(frames, mask)
    np.testing.assert_allclose(features[0], embedded[0], atol=1e-4)
    mean = (norms[1:, None] * features[1:]).mean(0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), embedded[1], atol=1e-4)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert (weights[~mask] == 0).all()


def test_stablehlo_gives_the_features_of_embed(exported: Path, embedded: Any) -> None:
    path = exported / "model.stablehlo"
    check_features(embedded[1], runtimes.FORMATS["stablehlo"].load(path))
    assert {p.name for p in exported.iterdir()} == {path.name, f"{path.name}.json"}


def test_the_description_says_what_the_file_is(exported: Path, embedded: Any) -> None:
    about = json.loads((exported / "model.stablehlo.json").read_text())
    assert about["inputs"] == [
        {"name": "frames", "dtype": "uint8", "shape": ["B", "T", 32, 16, 3]},
        {"name": "mask", "dtype": "bool", "shape": ["B", "T"]},
    ]
    assert [o["shape"] for o in about["outputs"]] == [["B", 8], ["B", "T"], ["B"]]
    assert about["fingerprint"] == vars(embedded[0])
    assert (about["metric"], about["chunk"]) == ("euclidean", 4)
    contents = (exported / about["file"]).read_bytes()
    assert about["sha256"] == hashlib.sha256(contents).hexdigest()
    assert about["largest_difference"] <= write.TOLERANCE


def test_one_file_holds_programs_for_cpu_and_cuda(exported: Path) -> None:
    contents = bytearray((exported / "model.stablehlo").read_bytes())
    assert jax.export.deserialize(contents).platforms == ("cpu", "cuda")


def test_the_lines_of_the_docs_run_without_this_package(exported: Path) -> None:
    page = (ROOT / "docs/export.md").read_text()
    (lines,) = [b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "jax import" in b]
    body = [line for line in lines.split("\n") if line and "import" not in line]
    assert len(body) <= 10
    without = "import sys; sys.modules['stf_jax'] = None\n"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{without}{lines}"],
        cwd=exported.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "(2, 8)" in done.stdout
    assert "euclidean" in done.stdout


def test_onnx_gives_the_features_of_embed(
    run: Path, onnx: Any, embedded: Any, tmp_path: Path, capsys
) -> None:
    assert main(["--workdir", str(run), "--output", str(tmp_path), "--format", "onnx"]) == 0
    assert "largest difference" in capsys.readouterr().out
    check_features(embedded[1], runtimes.FORMATS["onnx"].load(tmp_path / "model.onnx"))
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [d.dim_param for d in graph.input[0].type.tensor_type.shape.dim][:2] == ["B", "T"]
    kinds = [node.op_type for node in graph.node]
    # Folded: no BatchNorm's subtraction or factor is left of those behind convolutions.
    assert kinds.count("Sub") < 5 < kinds.count("Conv")


@pytest.mark.parametrize("name", OTHERS)
def test_onnx_of_every_other_part(name: str, onnx: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "run", **OTHERS[name])
    done = export_run(tmp_path / "run", tmp_path / "out", "onnx")
    assert done.difference <= write.TOLERANCE
    assert json.loads((tmp_path / "out" / "model.onnx.json").read_text()) == done.description


def test_what_differs_is_not_written(
    run: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def wrong(path, model, variables, *others):
        larger = jax.tree.map(lambda leaf: leaf * 1.01, variables)
        right(path, model, larger, *others)

    right, load, made_by = runtimes.FORMATS["stablehlo"]
    format_of = runtimes.Format(wrong, load, made_by)
    monkeypatch.setitem(runtimes.FORMATS, "stablehlo", format_of)
    before = {path: path.read_bytes() for path in exported.iterdir()}
    assert main(["--workdir", str(run), "--output", str(exported)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "differs from JAX's by" in line
    assert {path: path.read_bytes() for path in exported.iterdir()} == before


def test_numbers_that_are_none_differ() -> None:
    ones = partial(np.ones, dtype=np.float32)
    right = ones((1, 2)), ones((1, 3)), ones(1)
    assert largest_difference(right, right) == 0
    assert largest_difference(right, (right[0], right[1] + np.float32(np.nan), right[2])) == np.inf
    assert largest_difference(right, (right[0], right[1], right[2] + 3)) == 3


def test_a_missing_package_is_a_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    argv = ["--workdir", str(run), "--output", str(tmp_path / "out"), "--format", "onnx"]
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "onnx: the package is not installed" in line
    assert "stf-jax[export]" in line
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_being_written_is_refused(run: Path, tmp_path: Path, capsys) -> None:
    with one_owner(tmp_path):
        assert main(["--workdir", str(run), "--output", str(tmp_path)]) == 2
    assert "is being written" in capsys.readouterr().err


def test_no_run_is_a_line(tmp_path: Path, capsys) -> None:
    assert main(["--workdir", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_part_without_a_translation_is_named(
    run: Path, onnx: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def sort(x: jax.Array) -> tuple[jax.Array]:
        return (jnp.sort(x),)

    spec = {"x": jax.ShapeDtypeStruct((3,), jnp.float32)}
    with pytest.raises(NotImplementedError, match="sort"):
        onnx_model(sort, spec, ["y"])
    monkeypatch.setattr(runtimes, "onnx_model", lambda *_: onnx_model(sort, spec, ["y"]))
    with pytest.raises(UserError, match="sort has no translation to ONNX; expected --format"):
        export_run(run, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("statistics", ["shared", "own"])
def test_folding_leaves_the_function_as_it_is(statistics: str) -> None:
    values = {"model.frame_attention": (), "model.tail_statistics": statistics}
    model = build_model(tiny_config(**values).model, 0)
    variables = draw_variables(model, scales=True)
    frames, mask = drawn_frames((2, 1), 2, 32, 16, seed=0)
    ours, theirs = (
        jax.device_get(jax.jit(feature_program(model, v, flip=False))(frames, mask))
        for v in (variables, folded(variables))
    )
    assert largest_difference(ours, theirs) < 1e-5
    kernels = [v["params"]["backbone"]["conv1"]["kernel"] for v in (variables, folded(variables))]
    assert not np.allclose(*kernels)
