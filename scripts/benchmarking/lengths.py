"""MARS's tracklets without its pictures: tables of the official lengths, people and cameras."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64
from scipy.io import loadmat

from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.sampling import Plan, frame_counts
from stf_jax.errors import UserError

FILES = {"train": "tracks_train_info.mat", "test": "tracks_test_info.mat"}


def mars_table(folder: str | Path, subset: str) -> TrackletTable:
    """Return the "train" or "test" tracklets of MARS's `info` folder, junk (-1) left out.

    Image names are placeholders. Raises UserError when a table is not there.
    """
    path = Path(folder) / FILES[subset]
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected MARS's info folder as --tables")
    (rows,) = (value for name, value in loadmat(path).items() if not name.startswith("_"))
    rows = rows.astype(np.int64)
    rows = rows[rows[:, 2] != -1]
    return table_of(rows[:, 1] - rows[:, 0] + 1, rows[:, 2], rows[:, 3])


def table_of(
    lengths: Int64[np.ndarray, " n"],
    people: Int64[np.ndarray, " n"],
    cameras: Int64[np.ndarray, " n"],
) -> TrackletTable:
    """Return a table of tracklets of these lengths; people are labelled in their order."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TrackletTable(
        image_dir=Path("images"),
        names=np.full(offsets[-1], b"-"),
        offsets=offsets,
        person_ids=people,
        cameras=cameras,
        tracks=np.arange(len(lengths)),
        marks=np.full(len(lengths), -1, np.int8),
        labels=np.unique(people, return_inverse=True)[1].astype(np.int64),
    )


def representative_steps(plan: Plan, count: int) -> Int64[np.ndarray, " n"]:
    """Return `count` steps of a plan whose frame counts are its quantiles, in mixed order."""
    order = np.argsort(frame_counts(plan).sum(1), kind="stable")
    middles = ((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)
    return np.random.default_rng(0).permutation(order[middles])


def plan_of_counts(counts: Int64[np.ndarray, "s d b"], slots: int) -> Plan:
    """Return a plan of new tracklets with so many real frames each."""
    first = (np.cumsum(counts) - counts.ravel()).reshape(counts.shape)
    slot = np.arange(slots)
    frames = np.where(slot < counts[..., None], first[..., None] + slot, -1)
    tracklets = np.where(counts > 0, np.arange(counts.size).reshape(counts.shape), -1)
    return Plan(tracklets, frames)


def padded_plan(plan: Plan, chunks: int) -> Plan:
    """Return the chunks of an evaluation plan in its order, `chunks` a device and step."""
    real = plan.tracklets >= 0
    devices, slots = plan.tracklets.shape[1], plan.frame_rows.shape[3]
    steps = -(-int(real.sum()) // (devices * chunks))
    tracklets = np.full(steps * devices * chunks, -1)
    frames = np.full((len(tracklets), slots), -1)
    tracklets[: real.sum()], frames[: real.sum()] = plan.tracklets[real], plan.frame_rows[real]
    shape = (steps, devices, chunks)
    return Plan(tracklets.reshape(shape), frames.reshape(*shape, slots))


def sample(table: TrackletTable, count: int) -> TrackletTable:
    """Return `count` tracklets whose lengths are the table's quantiles, in mixed order."""
    order = np.argsort(table.lengths, kind="stable")
    middles = ((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)
    rows = np.random.default_rng(0).permutation(order[middles])
    return table_of(table.lengths[rows], table.person_ids[rows], table.cameras[rows])
