"""Which frames of which tracklets go into which step: a plan, a pure function of its seed.

A plan is fixed before the first image is read, so that resuming is slicing its first axis and
sharing work between hosts is slicing its second. numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.packing import frame_buckets, pack
from stf_jax.errors import UserError

__all__ = [
    "Plan",
    "Position",
    "evaluation_plan",
    "frame_buckets",
    "frame_counts",
    "training_buckets",
    "training_plan",
]


@dataclass(frozen=True, eq=False)
class Plan:
    """S steps on D devices, B tracklets a device and step, T frame slots a tracklet.

    `tracklets` are rows of the table and `frame_rows` rows of its names; -1 is empty. The frames
    of a tracklet fill its first slots and are in time order (the method does not depend on the
    order; its weights are easier to read so, and disks are read forwards). In an evaluation plan a
    slot of B holds a chunk of a tracklet and `chunks` says which.

    `global_index` numbers the tracklets of a training step over all devices, 0..D*B-1. Which
    tracklet and frames a number has does not depend on D, nor does what is drawn by it.
    """

    tracklets: Int64[np.ndarray, "s d b"]
    frame_rows: Int64[np.ndarray, "s d b t"]
    chunks: Int64[np.ndarray, "s d b"] | None = None
    global_index: Int64[np.ndarray, "s d b"] | None = None


@dataclass(frozen=True)
class Position:
    """Position in a run: `step_in_epoch` steps of `epoch` (from 1) are done, with this seed."""

    epoch: int
    step_in_epoch: int
    seed: int


def frame_counts(plan: Plan) -> Int64[np.ndarray, "s d"]:
    """Real frames of each step and device, 0..B*T."""
    return np.count_nonzero(plan.frame_rows >= 0, axis=(2, 3))


def training_plan(
    table: TrackletTable,
    *,
    seed: int,
    epoch: int,
    num_devices: int,
    sampler: str = "tracklet",
    tracklets: int,
    min_frames: int = 5,
    max_frames: int = 25,
    frame_sampling: str = "random",
    tracklets_per_identity: int = 4,
) -> Plan:
    """The plan of one epoch, a pure function of (table, seed, epoch) and the options.

    The number of devices changes only which of them has which tracklets of a step.

    Tracklets without a label (-1) take no part. From a tracklet of length L a number of frames
    is drawn, uniform from min(min_frames, L) to min(max_frames, L), and then so many
    different frames (the reference's recipe, 5 and 25).

    Args:
        table: the training subset.
        seed: of the run, at least 0.
        epoch: counted from 0; another one gives independent draws.
        num_devices: D, of all hosts.
        sampler: "tracklet": every tracklet once an epoch, shuffled; the last, short step is left
            out (the reference's recipe). "identity": P x K batches for the triplet loss (Hermans
            et al. 2017, "In Defense of the Triplet Loss"): P = tracklets / K different identities a
            step, every identity once an epoch, the last step filled up from a further shuffle; K
            tracklets of each, of as many cameras as it has, repeated (with frames drawn anew) only
            if it has fewer than K.
        tracklets: of a step, on all devices together; a multiple of D.
        min_frames: see above, at least 1.
        max_frames: T.
        frame_sampling: "random": any so many frames, equally likely. "segments": the tracklet is
            cut into so many segments, of L / number frames rounded either way, and one frame is
            drawn from each (restricted random sampling; Li et al., "Diversity Regularized
            Spatiotemporal Attention", CVPR 2018).
        tracklets_per_identity: K; `tracklets` must be a multiple of it. Only for "identity".

    Raises:
        UserError: too few labelled tracklets or identities for one step, more devices than divide
            its tracklets, or options that do not fit each other.
    """
    if not 1 <= min_frames <= max_frames:
        raise UserError(
            f"min_frames {min_frames} and max_frames {max_frames}: expected 1 <= min <= max"
        )
    if tracklets % num_devices:
        fitting = [n for n in range(1, tracklets + 1) if tracklets % n == 0]
        raise UserError(
            f"data.tracklets is {tracklets}: {num_devices} devices cannot have equal shares of it; "
            f"expected a multiple of {num_devices} (another recipe), or "
            f"{', '.join(map(str, fitting))} devices (CUDA_VISIBLE_DEVICES names those to use)"
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    candidates = np.flatnonzero(table.labels >= 0)
    if sampler == "tracklet":
        visits = _every_tracklet(rng, candidates, tracklets)
    elif sampler == "identity":
        visits = _every_identity(rng, table, candidates, tracklets, tracklets_per_identity)
    else:
        raise UserError(f"sampler {sampler!r}: expected 'tracklet' or 'identity'")
    if frame_sampling not in ("random", "segments"):
        raise UserError(f"frame_sampling {frame_sampling!r}: expected 'random' or 'segments'")
    length = table.lengths[visits]
    low, high = np.minimum(min_frames, length), np.minimum(max_frames, length)
    count = rng.integers(low, high, endpoint=True)
    draw = _draw_any if frame_sampling == "random" else _draw_from_segments
    drawn = draw(rng, length, count, max_frames)
    frames = np.where(drawn < 0, -1, table.offsets[visits, None] + drawn)
    global_index = _deal((frames >= 0).sum(axis=1).reshape(-1, tracklets), num_devices)
    at = global_index + tracklets * np.arange(len(global_index))[:, None, None]
    return Plan(visits[at], frames[at], global_index=global_index)


def _deal(counts: Int64[np.ndarray, "s v"], num_devices: int) -> Int64[np.ndarray, "s d b"]:
    """Indices of each step's visits, dealt so that its devices get similar numbers of frames.

    All devices compute as many frames as the fullest one. The longest `num_devices` visits go to
    the devices in turn, the next ones in reverse, and so on.
    """
    order = np.argsort(-counts, axis=1, kind="stable").reshape(len(counts), -1, num_devices)
    order[:, 1::2] = order[:, 1::2, ::-1]
    return order.swapaxes(1, 2)


def _every_tracklet(
    rng: np.random.Generator, candidates: Int64[np.ndarray, " n"], step_size: int
) -> Int64[np.ndarray, " v"]:
    num_steps = len(candidates) // step_size
    if num_steps == 0:
        raise UserError(
            f"{len(candidates)} labelled tracklets to train on, {step_size} needed for one "
            "step; use more tracklets, or a smaller data.tracklets"
        )
    return rng.permutation(candidates)[: num_steps * step_size]


def _every_identity(
    rng: np.random.Generator,
    table: TrackletTable,
    candidates: Int64[np.ndarray, " n"],
    tracklets: int,
    tracklets_per_identity: int,
) -> Int64[np.ndarray, " v"]:
    step_size, rest = divmod(tracklets, tracklets_per_identity)
    if rest or not step_size:
        raise UserError(
            f"tracklets {tracklets} is not a multiple of tracklets_per_identity "
            f"{tracklets_per_identity}; the identity sampler needs P x K"
        )
    labels = table.labels[candidates]
    cameras = table.cameras[candidates]
    chance = rng.random(len(candidates))
    # An identity's n-th tracklets of each camera come before its (n+1)-th of any camera.
    by_camera = np.lexsort((chance, cameras, labels))
    turn = np.empty(len(candidates), np.int64)
    turn[by_camera] = _rank_in_group(labels[by_camera], cameras[by_camera])
    order = np.lexsort((chance, turn, labels))
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    if len(first) < step_size:
        raise UserError(
            f"{len(first)} identities to train on, {step_size} different ones needed for one step; "
            "use a smaller data.tracklets or more tracklets_per_identity"
        )
    identities = _identity_order(rng, len(first), step_size)
    # An identity that is visited again continues where it stopped.
    visit = np.empty(len(identities), np.int64)
    by_identity = np.argsort(identities, kind="stable")
    visit[by_identity] = _rank_in_group(identities[by_identity])
    position = visit[:, None] * tracklets_per_identity + np.arange(tracklets_per_identity)
    chosen = order[first[identities, None] + position % counts[identities, None]]
    return candidates[chosen].ravel()


def _rank_in_group(*keys: Shaped[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """0, 1, 2 ... within each run of equal keys."""
    index = np.arange(len(keys[0]))
    changed = np.zeros(len(index), bool)
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return index - np.maximum.accumulate(np.where(changed, index, 0))


def _identity_order(
    rng: np.random.Generator, num_identities: int, step_size: int
) -> Int64[np.ndarray, " v"]:
    """Shuffles one after another, up to a whole step; those of a step differ."""
    total = -(-num_identities // step_size) * step_size
    order = rng.permutation(num_identities)
    while len(order) < total:
        more = rng.permutation(num_identities)
        begun = order[len(order) - len(order) % step_size :]
        late = np.isin(more, begun)
        order = np.concatenate([order, more[~late], more[late]])
    return order[:total]


def _draw_any(
    rng: np.random.Generator,
    length: Int64[np.ndarray, " v"],
    count: Int64[np.ndarray, " v"],
    max_frames: int,
) -> Int64[np.ndarray, "v t"]:
    """`count` distinct ones of 0..length-1 of each visit, ascending, then -1."""
    # Floyd's algorithm, all visits at once: a uniform subset for any length in T draws.
    unused = np.iinfo(np.int64).max
    chosen = np.full((len(length), max_frames), unused)
    for i in range(max_frames):
        top = np.maximum(length - count + i, 0)
        drawn = rng.integers(0, top, endpoint=True)
        taken = (chosen == drawn[:, None]).any(axis=1)
        chosen[:, i] = np.where(i < count, np.where(taken, top, drawn), unused)
    chosen.sort(axis=1)
    return np.where(chosen == unused, -1, chosen)


def _draw_from_segments(
    rng: np.random.Generator,
    length: Int64[np.ndarray, " v"],
    count: Int64[np.ndarray, " v"],
    max_frames: int,
) -> Int64[np.ndarray, "v t"]:
    """One of each of `count` segments of 0..length-1 of each visit, then -1."""
    ends = np.arange(max_frames + 1) * length[:, None] // count[:, None]
    drawn = rng.integers(ends[:, :-1], np.maximum(ends[:, 1:], ends[:, :-1] + 1))
    return np.where(np.arange(max_frames) < count[:, None], drawn, -1)


def training_buckets(
    table: TrackletTable, num_buckets: int, *, num_devices: int, **options: Any
) -> tuple[int, ...]:
    """At most `num_buckets` batch sizes for `training_plan`s of any epoch, ascending.

    They minimise the padding of a sample of at least 2,000 steps (a pure function of the
    arguments); the last one fits the fullest step there can be. Frames computed per real frame on
    the training lengths of MARS (8,298 tracklets, 13.2 frames drawn of one on average), 5..25
    frames, against 1.88 when every tracklet is padded to 25:

    | devices | tracklets of each | 4 sizes | 6 | 8 | 16 |
    |---|---|---|---|---|---|
    | 1 | 4 | 1.14 | 1.09 | 1.06 | 1.02 |
    | 1 | 16 | 1.08 | 1.05 | 1.03 | 1.02 |
    | 8 | 4 | 1.10 | 1.08 | 1.07 | 1.05 |

    Args:
        table: the training subset.
        num_buckets: compilations at most, at least 1.
        num_devices: D.
        options: those of `training_plan`, without `epoch`; `seed` is 0 by default.
    """
    options = {"seed": 0, **options}
    counts, epoch = np.zeros(0, np.int64), 0
    while len(counts) < 2000:
        plan = training_plan(table, num_devices=num_devices, epoch=epoch, **options)
        counts = np.append(counts, frame_counts(plan).max(axis=1))
        epoch += 1
    longest = int(table.lengths.max())
    largest = plan.tracklets.shape[2] * min(plan.frame_rows.shape[3], longest)
    return frame_buckets(counts, num_buckets, largest=largest)


def evaluation_plan(
    table: TrackletTable,
    *,
    num_devices: int,
    chunk: int = 25,
    frames_per_device: int,
    tracklets: Sequence[int] | Int64[np.ndarray, " n"] | None = None,
) -> Plan:
    """Every frame of every tracklet exactly once, in chunks, packed into nearly full batches.

    Tracklet i becomes ceil(length / chunk) chunks of consecutive frames, all but the last of
    `chunk` frames. Chunks are packed in the order of the table; where the next one does not fit,
    the largest that fits of the next ones is taken.

    Args:
        table: the subset to extract features of.
        num_devices: D. The last step may leave devices without a chunk.
        chunk: T, frames of a chunk.
        frames_per_device: frames of a device's batch at most, at least `chunk`.
        tracklets: rows of the table to use, in this order; all by default.

    Returns:
        The plan with `chunks`. B, the chunks of a device's batch at most, is chosen from the
        lengths: 15 % more than a batch holds on average.

    Raises:
        UserError: frames_per_device is less than a chunk, or there is no tracklet.
    """
    if frames_per_device < chunk or chunk < 1:
        raise UserError(
            f"frames_per_device {frames_per_device} holds no chunk of {chunk} frames; expected at "
            "least as many frames as a chunk has"
        )
    rows = np.arange(table.num_tracklets) if tracklets is None else np.asarray(tracklets, np.int64)
    if not len(rows):
        raise UserError("no tracklets to extract features of")
    lengths = table.lengths[rows]
    chunks_of = -(-lengths // chunk)
    owner = np.repeat(rows, chunks_of)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(chunks_of) - chunks_of, chunks_of)
    start = table.offsets[owner] + number * chunk
    size = np.minimum(table.offsets[owner + 1] - start, chunk)

    slots = -(-115 * frames_per_device * len(size) // (100 * int(size.sum())))
    slots = max(1, min(slots, frames_per_device, len(size)))
    batch, slot = pack(size.tolist(), frames_per_device, slots)
    num_steps = -(-(int(batch.max()) + 1) // num_devices)
    shape = (num_steps, num_devices, slots)
    at = (batch // num_devices, batch % num_devices, slot)
    plan = Plan(np.full(shape, -1), np.full((*shape, chunk), -1), np.full(shape, -1))
    assert plan.chunks is not None
    plan.tracklets[at], plan.chunks[at] = owner, number
    frames = start[:, None] + np.arange(chunk)
    plan.frame_rows[at] = np.where(np.arange(chunk) < size[:, None], frames, -1)
    return plan
