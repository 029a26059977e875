"""What training reads: this host's batches, epoch after epoch, on its devices."""

from collections.abc import Iterator
from typing import Any

from stf_jax import hosts
from stf_jax.config import Config
from stf_jax.data.batch import PackedBatch
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.prefetch import prefetched
from stf_jax.data.sampling import Position, training_plan
from stf_jax.data.source import batches, frame_source
from stf_jax.devices import shard


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
        "frame_sampling": data.frame_sampling,
        "tracklets_per_identity": data.tracklets_per_identity,
    }


def training_batches(
    table: TrackletTable,
    config: Config,
    buckets: tuple[int, ...],
    num_devices: int,
    position: Position,
) -> Iterator[tuple[Position, int, PackedBatch]]:
    """Yield position after it, real frames and batch, from `position` on, epoch after epoch.

    `num_devices` are those of all hosts; a batch (of `data.pipeline.batches`) has this host's only,
    is on its devices, and is made while the one before it is trained on.
    """

    def place(item: tuple[Position, PackedBatch]) -> tuple[Position, int, PackedBatch]:
        after, batch = item
        return after, int(batch.real.sum()), shard(batch)

    return prefetched(_host_batches(table, config, buckets, num_devices, position), place)


def _host_batches(
    table: TrackletTable,
    config: Config,
    buckets: tuple[int, ...],
    num_devices: int,
    position: Position,
) -> Iterator[tuple[Position, PackedBatch]]:
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
