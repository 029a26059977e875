"""One program on several devices: pmap and shard_map do the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Frames, tracklets and labels differ between the devices, and so do the augmentations drawn.
STEPS = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
import numpy as np
import optax
from stf_jax.config import AugmentConfig, LossConfig
from stf_jax.data.batch import PackedBatch
from stf_jax.devices import DEVICES, replicate
from stf_jax.evaluation.features.extract import parallel_extract_step
from stf_jax.models import TemporalFusionNet, resnet
from stf_jax.models.variables import init_variables
from stf_jax.training.state import init_state
from stf_jax.training.steps import parallel_train_step

resnet.BACKBONES["resnet18"] = (False, (1, 1, 1, 1))  # one block a stage: quicker to compile
devices = jax.device_count()
model = TemporalFusionNet(
    num_classes=5, backbone="resnet18", embed_dim=8, axis_name=DEVICES if devices == 2 else None
)
variables = jax.tree.map(np.asarray, init_variables(model, 0, 32, 16))
optimizer = optax.sgd(0.1, momentum=0.9)
rng = np.random.default_rng(0)
tracklet = np.array([[0, 0, 0, 1, 2], [0, 0, 1, 1, 2], [0, 1, 2, 2, 2], [1, 1, 1, 0, 0]], np.int32)
slot = np.array([[0, 1, 2, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 2, 0, 1]], np.int32)
labels = np.array([[0, 3], [1, 2], [4, 4], [2, 0]], np.int32)
images = rng.integers(0, 256, (4, 5, 32, 16, 3), dtype=np.uint8)
batch = PackedBatch(images, tracklet, slot, labels)
batch = jax.tree.map(lambda array: array[:devices], batch)

found = {}
for how in ("pmap", "shard_map"):
    step = parallel_train_step(
        how=how, model=model, optimizer=optimizer, num_slots=3,
        loss_options=LossConfig(), augment_options=AugmentConfig(blur=0.0),
    )
    state, key = replicate((init_state(variables, optimizer), jax.random.key(0)))
    losses = []
    for _ in range(3):
        given = jax.tree.leaves(state.params)[0]
        state, metrics = step(state, batch, key)
        assert given.is_deleted(), how  # donated
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3
    output = parallel_extract_step(model, num_slots=3, how=how)(state.variables, batch)
    assert output["features"].shape == (devices, 2, 8)
    found[how] = jax.device_get((losses, state, output))
jax.tree.map(
    lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7),
    *found.values(),
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_pmap_and_shard_map_learn_the_same(devices: int, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STEPS, str(devices), str(tmp_path)],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": root,
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles in half the time
        },
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
