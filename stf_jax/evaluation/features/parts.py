"""Features of a large table, part by part: each is on disk when it is done, and is not done again.

A part is whole tracklets of some 50,000 frames, in a file as `write_features` writes it. Of several
hosts the first one writes them.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np

from stf_jax import hosts
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.errors import UserError
from stf_jax.evaluation.features.feature_files import (
    TrackletFeatures,
    feature_set,
    read_features,
    write_features,
)
from stf_jax.evaluation.features.origin import FeatureOrigin

FRAMES = 50_000

_LOG = logging.getLogger(__name__)


def extract_in_parts(
    extract: Callable[[TrackletTable, str], TrackletFeatures],
    table: TrackletTable,
    origin: FeatureOrigin,
    folder: Path,
    *,
    frames: int = FRAMES,
) -> TrackletFeatures:
    """The features of `table`, by `extract` (a part of it, what to call it) unless in `folder`.

    A table of one part writes nothing. A part of another model or of other tracklets is done again.
    All hosts have to call it, and get the same.

    Args:
        extract: all hosts call it, and get the same.
        table: the whole of it.
        origin: of the features that `extract` gives.
        folder: where parts are kept, which all hosts see; the caller's to remove.
        frames: of a part, at least: a tracklet is never cut.

    Raises:
        UserError: a part that the first host has is not there on another one; and what `extract`
            and `write_features` raise.
    """
    parts = list(table_parts(table, frames))
    if len(parts) == 1:
        return extract(table, "features")
    found = []
    for number, part in enumerate(parts):
        path = folder / f"{number:05d}.npz"
        wanted = partial(_stored, path, part, origin)
        if hosts.from_first(lambda wanted=wanted: wanted() is not None):
            stored = wanted()
            if stored is None:
                raise UserError(
                    f"{path}: not what the first host has; expected storage that all hosts see"
                )
            found.append(stored)
            continue
        extracted = extract(part, f"features, part {number + 1} of {len(parts)}")
        found.append(extracted)
        if hosts.is_first():
            folder.mkdir(parents=True, exist_ok=True)
            write_features(path, feature_set(part, extracted, origin=origin))
    return TrackletFeatures(
        **{name: np.concatenate([getattr(each, name) for each in found]) for name in vars(found[0])}
    )


def table_parts(table: TrackletTable, frames: int) -> Iterator[TrackletTable]:
    """Yield whole tracklets, `frames` frames or more together, in order; the last has the rest."""
    first = 0
    while first < table.num_tracklets:
        end = int(np.searchsorted(table.offsets, table.offsets[first] + frames))
        end = min(max(end, first + 1), table.num_tracklets)
        yield table.part(first, end)
        first = end


def _stored(path: Path, part: TrackletTable, origin: FeatureOrigin) -> TrackletFeatures | None:
    """The features in `path` if they are of these tracklets by that model."""
    if not path.is_file():
        return None
    try:
        found = read_features(path)
    except UserError as error:
        _LOG.warning("%s; it is done again", error)
        return None
    features = TrackletFeatures(
        **{field.name: getattr(found, field.name) for field in fields(TrackletFeatures)}
    )
    wanted = feature_set(part, features, origin=origin)
    same = ("person_ids", "cameras", "tracks", "marks", "offsets", "names")
    if (found.origin, found.image_dir) != (wanted.origin, wanted.image_dir) or not all(
        np.array_equal(getattr(found, name), getattr(wanted, name)) for name in same
    ):
        _LOG.warning("%s: of another model or of other tracklets; it is done again", path)
        return None
    _LOG.info("%s: %d tracklets are done", path, found.num_tracklets)
    return features
