"""Part `devices`: the same tracklets on 1, 2, 4 and 8 virtual CPU devices give the same losses.

Correctness only: virtual devices share the processor, so their times say nothing of scaling.
"""

from collections.abc import Iterator

import jax
import numpy as np

from benchmarking import child, workload
from benchmarking.child import Row
from benchmarking.lengths import plan_of_counts
from benchmarking.settings import Settings, changed
from stf_jax.config import AugmentConfig
from stf_jax.data.sampling import Plan

COUNTS = (1, 2, 4, 8)
STEPS = 3
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={max(COUNTS)}",
}
SMALLEST = {"backbone": "resnet18", "height": 32, "width": 16, "embed_dim": 16, "slots": 2}


def run(settings: Settings) -> Iterator[Row]:
    """Yield the losses by number of devices, and whether they are equal."""
    found = child.stream(__name__, "losses", changed(settings, **SMALLEST), environment=ENVIRONMENT)
    yield {
        "note": "virtual devices on one processor: this checks that losses are equal, which says "
        "nothing of speed; statistics synchronised, no augmentation, resnet18 at 32x16"
    }
    for row in child.rows_of(found):
        yield {
            "devices": row["devices"],
            **{f"loss {k}": f"{loss:.6f}" for k, loss in enumerate(row["losses"], 1)},
        }
    losses = np.array([row["losses"] for row in child.rows_of(found)])
    np.testing.assert_allclose(losses, np.broadcast_to(losses[0], losses.shape), rtol=1e-4)
    yield {"note": f"equal to {np.ptp(losses / losses[0], axis=0).max():.1e} of their values"}


def losses(settings: Settings) -> Iterator[Row]:
    """Yield a row for each number of devices: the losses of a few steps on max(COUNTS) tracklets.

    Needs that many devices. The state goes to the devices of each run.
    """
    counts = np.full((1, 1, max(COUNTS)), settings.slots)
    whole = plan_of_counts(counts, settings.slots)
    for number in COUNTS:
        shape = (1, number, max(COUNTS) // number)
        plan = Plan(
            whole.tracklets.reshape(shape), whole.frame_rows.reshape(*shape, settings.slots)
        )
        run = workload.training(
            settings,
            devices=jax.devices()[:number],
            augment=AugmentConfig(mirror=0.0, blur=0.0),
            synchronised=True,
        )
        batch = workload.make_batch(settings, plan, 0, shape[2] * settings.slots)
        run.state, run.key = jax.tree.map(np.asarray, run.state), jax.random.key(settings.seed)
        found = []
        for _ in range(STEPS):
            run.state, metrics = run.step(run.state, batch, run.key)
            found.append(float(metrics["loss"]))
        yield {"devices": number, "losses": found}
