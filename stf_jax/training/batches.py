"""What training reads: this host's batches of one epoch's plan after the other's."""

from collections.abc import Iterator
from typing import Any

from stf_jax import hosts
from stf_jax.config import Config
from stf_jax.data.batch import PackedBatch
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.pipeline import batches
from stf_jax.data.sampling import Position, training_plan
from stf_jax.data.source import frame_source


def plan_options(config: Config, num_devices: int) -> dict[str, Any]:
    """Return the options of `training_plan` that every epoch of a run shares."""
    data = config.data
    return {
        "seed": config.seed,
        "num_devices": num_devices,
        "sampler": data.sampler,
        "tracklets": data.tracklets,
        "min_frames": data.min_frames,
        "max_frames": data.max_frames,
        "tracklets_per_identity": data.tracklets_per_identity,
    }


def training_batches(
    table: TrackletTable,
    config: Config,
    buckets: tuple[int, ...],
    num_devices: int,
    position: Position,
) -> Iterator[tuple[Position, PackedBatch]]:
    """Yield batches from `position` on, epoch after epoch, each with the position after it.

    `num_devices` are those of all hosts; a batch (of `data.pipeline.batches`) has this host's only.
    """
    data = config.data
    epoch, start = position.epoch, position.step_in_epoch
    read_frames = frame_source(data, data.train_subset, table)
    while epoch <= config.train.epochs:
        plan = training_plan(table, epoch=epoch, **plan_options(config, num_devices))
        stream = batches(
            table,
            plan,
            height=data.height,
            width=data.width,
            buckets=buckets,
            start_step=start,
            on_corrupt=data.on_corrupt,
            max_lost=data.max_lost,
            threads=data.threads or None,
            host_augment=config.augment,
            seed=(config.seed, epoch),
            devices=hosts.share(num_devices),
            read_frames=read_frames,
        )
        for k, batch in enumerate(stream, start=start + 1):
            yield Position(epoch, k, config.seed), batch
        epoch, start = epoch + 1, 0
