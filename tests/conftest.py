"""Strict settings for every test: virtual devices, no silent broadcasting of ranks."""

import os
import sys
import tempfile

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


@pytest.fixture
def unchecked_types():
    """For tests that give a wrong type or shape on purpose, to see the function's own refusal."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
