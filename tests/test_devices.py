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
from stf_jax.devices import DEVICES, replicate, shard
from stf_jax.evaluation.features.extract import parallel_extract_step
from stf_jax.models import TemporalFusionNet, resnet
from stf_jax.models.variables import init_variables
from stf_jax.training.state import init_state
from stf_jax.training.steps import parallel_train_step

resnet.RESNETS["resnet18"] = (False, (1, 1, 1, 1))  # one block a stage: quicker to compile
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
batch = PackedBatch(images, tracklet, slot, labels, np.arange(8, dtype=np.int32).reshape(4, 2))
batch = shard(jax.tree.map(lambda array: array[:devices], batch))

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
        # Compiling copies constants; a step copies nothing.
        with jax.transfer_guard("disallow" if losses else "allow"):
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


SHARES = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
import numpy as np
import optax
from stf_jax.config import AugmentConfig, LossConfig
from stf_jax.data.batch import PackedBatch
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.sampling import training_plan
from stf_jax.devices import DEVICES
from stf_jax.models import TemporalFusionNet, resnet
from stf_jax.models.variables import init_variables
from stf_jax.training.state import init_state
from stf_jax.training.steps import parallel_train_step

resnet.RESNETS["resnet18"] = (False, (1, 1, 1, 1))  # one block a stage: quicker to compile
lengths = np.array([1, 5, 2, 3, 4, 2, 3, 1, 5, 4, 2, 2])
offsets = np.concatenate([[0], np.cumsum(lengths)])
labels = np.arange(12) // 3
table = TrackletTable(
    image_dir=None, names=np.zeros(offsets[-1], "S1"), offsets=offsets, person_ids=labels,
    cameras=np.arange(12) % 3, tracks=np.arange(12), marks=np.full(12, -1, np.int8), labels=labels,
)
pixels = np.random.default_rng(0).integers(0, 256, (offsets[-1], 32, 16, 3), dtype=np.uint8)


def batch_of(plan, s):
    devices, b = plan.tracklets.shape[1:]
    batch = PackedBatch(
        images=np.zeros((devices, 20, 32, 16, 3), np.uint8),
        tracklet=np.full((devices, 20), b, np.int32),
        slot=np.zeros((devices, 20), np.int32),
        labels=labels[plan.tracklets[s]].astype(np.int32),
        global_index=plan.global_index[s].astype(np.int32),
    )
    for d in range(devices):
        for m, (row, slot) in enumerate(zip(*np.nonzero(plan.frame_rows[s, d] >= 0))):
            batch.images[d, m] = pixels[plan.frame_rows[s, d, row, slot]]
            batch.tracklet[d, m], batch.slot[d, m] = row, slot
    return batch


model = TemporalFusionNet(num_classes=4, backbone="resnet18", embed_dim=8, axis_name=DEVICES)
variables = jax.tree.map(np.asarray, init_variables(model, 0, 32, 16))
optimizer = optax.sgd(0.01, momentum=0.9)
everything = AugmentConfig(
    mirror=0.5, blur=0.5, blur_kernels=(3, 5), crop=0.5, hsv=0.5, erase=0.5
)
found = {}
for devices in (1, 2, 4):
    step = parallel_train_step(
        jax.devices()[:devices], model=model, optimizer=optimizer, num_slots=5,
        loss_options=LossConfig(triplet_weight=1.0), augment_options=everything,
    )
    state, key = init_state(variables, optimizer), jax.random.key(0)
    losses = []
    for epoch in range(2):
        plan = training_plan(
            table, seed=0, epoch=epoch, num_devices=devices, sampler="identity", tracklets=8,
            tracklets_per_identity=2, min_frames=1, max_frames=5,
        )
        for s in range(len(plan.tracklets)):
            state, metrics = step(state, batch_of(plan, s), key)
            losses.append({name: float(value) for name, value in metrics.items()})
    found[devices] = jax.device_get((losses, state.params, state.batch_stats))
assert len(found[1][0]) == 2
for devices in (2, 4):
    jax.tree.map(
        lambda one, more: np.testing.assert_allclose(one, more, rtol=2e-4, atol=2e-5),
        found[1], found[devices],
    )
print("equal")
"""


def test_the_number_of_devices_changes_nothing(tmp_path) -> None:
    """Parameters, statistics, losses with synchronised BatchNorm: 1, 2 and 4 devices agree."""
    command = [sys.executable, "-c", SHARES, str(tmp_path)]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "equal\n"
