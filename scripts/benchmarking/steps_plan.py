"""The training plan of so many steps, over as many epochs as that takes."""

import numpy as np

from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.sampling import Plan, training_plan


def plan_steps(
    table: TrackletTable, steps: int, *, tracklets: int, slots: int, seed: int = 0
) -> Plan:
    """A plan of exactly `steps` steps for one device, epoch after epoch.

    Tracklets have 5 to `slots` frames, the reference's recipe. Raises UserError if the table has
    fewer than `tracklets` labelled tracklets.
    """
    plans: list[Plan] = []
    while sum(len(plan.frame_rows) for plan in plans) < steps:
        plans.append(
            training_plan(
                table,
                seed=seed,
                epoch=len(plans),
                num_devices=1,
                tracklets=tracklets,
                min_frames=min(5, slots),
                max_frames=slots,
            )
        )
    return Plan(
        np.concatenate([plan.tracklets for plan in plans])[:steps],
        np.concatenate([plan.frame_rows for plan in plans])[:steps],
    )
