"""Strict settings for every test: virtual devices, no silent broadcasting of ranks."""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import pytest

# Triton's library crashes in a process that has TensorFlow's; PyTorch on a CPU does without it.
sys.modules["triton"] = None  # pyright: ignore[reportArgumentType]

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same program is compiled once in a test session, however many tests build it anew.
_compiled = tempfile.TemporaryDirectory(prefix="stf_jax_test_programs_")
jax.config.update("jax_compilation_cache_dir", _compiled.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_runtest_teardown() -> None:
    """Linux gives a process 65,530 memory maps, and every compiled program takes some of them."""
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def unchecked_types():
    """For tests that give a wrong type or shape on purpose, to see the function's own refusal."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# Fixtures that bring what is not installed with the tests, and the marker of tests that use them.
NEEDS = ("torch", "browser", "onnx", "lancedb")


@pytest.fixture
def torch():
    """PyTorch, where it is installed."""
    return pytest.importorskip("torch")


@pytest.fixture
def onnx():
    """ONNX and ONNX Runtime (extra export), where they are installed."""
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


@pytest.fixture
def lancedb():
    """LanceDB (extra gallery), where it is installed."""
    return pytest.importorskip("lancedb")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in set(NEEDS) & set(getattr(item, "fixturenames", ())):
            item.add_marker(name)


def _may_be_missing(node: pytest.Item | pytest.Collector) -> bool:
    everything = os.environ.get("STF_NOTHING_MISSING", "") not in ("", "0")
    marked = any(node.get_closest_marker(name) is not None for name in NEEDS)
    return marked and not everything


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """A test is skipped only where what its marker names is missing; never if all must be there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and not _may_be_missing(item):
        report.outcome = "failed"
        report.longrepr = f"skipped, which nothing allows: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """The same of a file that is skipped as a whole."""
    report = yield
    if report.skipped and not _may_be_missing(collector):
        report.outcome = "failed"
        report.longrepr = f"skipped, which nothing allows: {report.longrepr}"
    return report
