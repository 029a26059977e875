"""A model and a table of tracklets -> a feature for each, read, computed and counted."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from stf_jax import hosts
from stf_jax.config import Config
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.prefetch import prefetched
from stf_jax.data.sampling import Plan, evaluation_plan, frame_buckets, frame_counts
from stf_jax.data.source import batches, frame_source
from stf_jax.devices import replicate, shard
from stf_jax.evaluation.centring import CameraMeans, camera_means
from stf_jax.evaluation.features.extract import extract_features, parallel_extract_step
from stf_jax.evaluation.features.feature_files import TrackletFeatures
from stf_jax.models import TemporalFusionNet

# Batches from which on another compiled size is worth its compilation.
MANY_BATCHES = 200

_LOG = logging.getLogger(__name__)


def training_means(
    model: TemporalFusionNet, variables: Any, table: TrackletTable, config: Config
) -> CameraMeans:
    """The mean feature of each camera of `table`, the config's `data.train_subset`.

    All hosts have to call it. Raises as `extract_table` does.
    """
    read_frames = frame_source(config.data, config.data.train_subset, table)
    found = extract_table(
        model, variables, table, config, read_frames=read_frames, label="training features"
    )
    return camera_means(found.features, table.cameras)


def extract_table(
    model: TemporalFusionNet,
    variables: Any,
    table: TrackletTable,
    config: Config,
    *,
    read_frames: Callable[[np.ndarray], Sequence[bytes]] | None = None,
    label: str = "features",
    few_sizes: bool = False,
) -> TrackletFeatures:
    """Return a feature for every tracklet of `table`, as the config's `evaluation` section says.

    With `few_sizes` batches are padded to a power of two, so that calls share their programs.

    All hosts have to call it: each extracts its share, and all get the same features.
    Raises UserError for an unreadable image (unless `config.data.on_corrupt` is "skip") and
    RuntimeError should a frame be missed.
    """
    data, evaluation, num_devices = config.data, config.evaluation, jax.device_count()
    plan = evaluation_plan(
        table,
        num_devices=num_devices,
        chunk=evaluation.chunk,
        frames_per_device=evaluation.frames_per_device,
    )
    # The packed batches are nearly full; a second size pays where there are many.
    counts = frame_counts(plan).max(1)
    buckets = frame_buckets(counts, 2 if len(counts) > MANY_BATCHES else 1)
    if few_sizes:
        powers = 2 ** np.ceil(np.log2(np.array(buckets))).astype(int)
        buckets = tuple(np.minimum(powers, max(evaluation.frames_per_device, *buckets)).tolist())
    own = hosts.share(num_devices)
    share = Plan(plan.tracklets[:, own], plan.frame_rows[:, own])
    variables = replicate(variables)
    step = parallel_extract_step(
        model, num_slots=evaluation.chunk, flip=evaluation.flip, how=config.train.parallel
    )
    stream = batches(
        table,
        plan,
        height=data.height,
        width=data.width,
        buckets=buckets,
        on_corrupt=data.on_corrupt,
        threads=data.threads or None,
        # Images are padded in evaluation as in training; nothing random is done to them.
        host_augment=replace(config.augment, horizontal_crop=0.0),
        devices=own,
        read_frames=read_frames,
    )
    frames = int(frame_counts(share).sum())
    hidden = None if hosts.is_first() else True  # None: where there is no terminal
    with tqdm(total=frames, desc=label, unit="frame", disable=hidden, leave=False) as bar:
        found = extract_features(
            step,
            variables,
            prefetched(stream, shard),
            share,
            table.num_tracklets,
            table.num_frames,
            weighting=evaluation.chunk_weighting,
            progress=bar.update,
        )
    unread = np.flatnonzero(found.num_frames == 0)
    if len(unread):
        _LOG.warning(
            "%s: of %d of %d tracklets no image could be read (e.g. that of %s); they have "
            "no feature",
            table.image_dir,
            len(unread),
            table.num_tracklets,
            table.names.tolist()[table.offsets[unread[0]]].decode("utf-8", "backslashreplace"),
        )
    missed = int(table.num_frames - found.num_frames.sum())
    if missed and data.on_corrupt == "error":
        raise RuntimeError(f"{missed} of {table.num_frames} frames entered no feature")
    return found
