"""Tracklets with their features, and as a file: what `--mode evaluate` and `--mode embed` write."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64

from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.errors import UserError, raise_system_fault
from stf_jax.evaluation.distances import METRICS
from stf_jax.evaluation.features.origin import FeatureOrigin
from stf_jax.files import atomic_write
from stf_jax.reading.arrays import read_npz
from stf_jax.reading.limits import parse_json

UNKNOWN_ID = -1

_WEIGHTS = ("frame_weights", "intra_weights", "inter_weights")
_OF_TRACKLETS = ("features", "person_ids", "cameras", "tracks", "marks", "titles", "num_frames")
_OF_FRAMES = ("names", *_WEIGHTS)
_MOST = 1e6  # of a number of a feature, which is of unit length, and of a weight
_DTYPES: dict[str, type[np.generic]] = {
    **dict.fromkeys(("features", *_WEIGHTS), np.float32),
    **dict.fromkeys(("person_ids", "cameras", "tracks", "num_frames", "offsets"), np.int64),
    "sources": np.int64,
    "rates": np.float64,
    "marks": np.int8,
}
# What a file holds: kinds of dtype, dimensions (one letter each: n tracklets, m = n + 1, f frames,
# d numbers a feature, 3), and the least and greatest value; fields of the origin have no dimension.
_HELD: dict[str, tuple[str, str, float, float]] = {
    "features": ("f", "nd", -_MOST, _MOST),
    **dict.fromkeys(("person_ids", "cameras", "tracks"), ("iu", "n", -(2**63), 2**63 - 1)),
    "marks": ("iu", "n", -1, 2),
    "titles": ("U", "n", 0, 0),
    "num_frames": ("iu", "n", 0, 2**31),
    "offsets": ("iu", "m", 0, 2**31),
    "names": ("S", "f", 0, 0),
    **dict.fromkeys(_WEIGHTS, ("f", "f", 0, _MOST)),
    "sources": ("iu", "n3", -1, 2**63 - 1),
    "rates": ("f", "n", 0, _MOST),
    **dict.fromkeys(("image_dir", "weights_digest"), ("U", "", 0, 0)),
    "step": ("iu", "", 0, 2**63 - 1),
    "metric": ("U", "", 0, 0),
    "flip": ("b", "", 0, 1),
    "chunk": ("iu", "", 1, 2**31),
    **dict.fromkeys(("chunk_weighting", "settings"), ("U", "", 0, 0)),
}


@dataclass(frozen=True)
class TrackletFeatures:
    """Features of N tracklets and the weights of their F frames (in table order).

    `features` [N, D] float32, unit length; a tracklet without any readable frame is all zero.
    Frame weights sum to 1 over a chunk; NaN where that attention is off or the frame was skipped.
    """

    features: np.ndarray
    frame_weights: np.ndarray
    intra_weights: np.ndarray
    inter_weights: np.ndarray
    num_frames: np.ndarray  # [N] int64, frames that entered the feature


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """N tracklets, their features, and the weights of their F frames.

    The frames of tracklet i are `names[offsets[i]:offsets[i + 1]]`, in time order. The file has an
    entry of the same name for each field, and for each of the origin's; it is read with
    `numpy.load`, and nothing in it is pickled.
    """

    features: Float32[np.ndarray, "n d"]  # of unit length; zero where no frame could be read
    person_ids: Int64[np.ndarray, " n"]  # -1: junk, or unknown
    cameras: Int64[np.ndarray, " n"]
    tracks: Int64[np.ndarray, " n"]
    marks: Int8[np.ndarray, " n"]  # 0 query, 1 gallery, 2 multi-query, -1 none
    titles: np.ndarray  # [N] text: where a tracklet comes from; empty where its numbers say it
    num_frames: Int64[np.ndarray, " n"]  # frames that entered the feature
    offsets: Int64[np.ndarray, " n_plus_1"]
    names: np.ndarray  # [F] bytes: image files, relative to image_dir
    # Each sums to 1 over a chunk; NaN where that attention is off or the frame was left out.
    frame_weights: Float32[np.ndarray, " f"]
    intra_weights: Float32[np.ndarray, " f"]
    inter_weights: Float32[np.ndarray, " f"]
    image_dir: str
    origin: FeatureOrigin
    # The tracker's id, first and last frame of each, as in its file; -1, or None, where not known.
    sources: Int64[np.ndarray, "n 3"] | None = None
    # Frames a second of the video of each; NaN, or None, where not known.
    rates: Float64[np.ndarray, " n"] | None = None

    def __repr__(self) -> str:
        """One line: sizes and where the images are."""
        size = self.features.shape[1] if self.features.ndim == 2 else 0
        return (
            f"FeatureSet({self.num_tracklets} tracklets of {len(self.names)} frames, {size} "
            f"numbers each, cameras {sorted(set(self.cameras.tolist()))}, {self.image_dir})"
        )

    @property
    def num_tracklets(self) -> int:
        """N, the number of tracklets."""
        return len(self.person_ids)

    def select(self, rows: np.ndarray) -> "FeatureSet":
        """The tracklets `rows` [M] (int64), in that order, with their frames."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        frames = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        chosen = {name: getattr(self, name)[rows] for name in _OF_TRACKLETS}
        chosen |= {name: getattr(self, name)[frames] for name in _OF_FRAMES}
        sources = None if self.sources is None else self.sources[rows]
        rates = None if self.rates is None else self.rates[rows]
        return dataclasses.replace(self, **chosen, offsets=offsets, sources=sources, rates=rates)


def feature_set(
    table: TrackletTable,
    found: TrackletFeatures,
    *,
    origin: FeatureOrigin,
    titles: np.ndarray | None = None,
    sources: np.ndarray | None = None,
    rates: np.ndarray | None = None,
) -> FeatureSet:
    """The tracklets of `table` with the features found; `titles` [N] is text, by default none."""
    return FeatureSet(
        **vars(found),
        person_ids=table.person_ids,
        cameras=table.cameras,
        tracks=table.tracks,
        marks=table.marks,
        titles=np.full(table.num_tracklets, "", "U1") if titles is None else titles,
        offsets=table.offsets,
        names=table.names,
        image_dir=os.path.abspath(table.image_dir),
        origin=origin,
        sources=sources,
        rates=rates,
    )


def write_features(path: Path, features: FeatureSet) -> None:
    """Write a compressed .npz of the fields of `features`, atomically."""
    values = {**vars(features), **vars(features.origin)}
    del values["origin"]
    if features.sources is None:
        values["sources"] = np.full((features.num_tracklets, 3), -1)
    if features.rates is None:
        values["rates"] = np.full(features.num_tracklets, np.nan)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, allow_pickle=False, **{name: np.asarray(v) for name, v in values.items()}
        )


def read_features(path: Path) -> FeatureSet:
    """Read what `write_features` wrote.

    Raises:
        UserError: no such file, not such a file, arrays of other kinds or dimensions, values that
            cannot be, or lengths that do not fit together.
    """
    hint = "write it with --mode evaluate or --mode embed"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected features; {hint}")
    try:
        values = read_npz(path, kinds="biufUS")
    except (OSError, ValueError) as error:
        raise_system_fault(error, path)
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a complete .npz file ({reason}); {hint}") from error
    missing = [name for name in _HELD if name not in values and name not in ("sources", "rates")]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; {hint}")
    # Files of earlier revisions lack them.
    values.setdefault("sources", np.full((len(np.atleast_1d(values["person_ids"])), 3), -1))
    values.setdefault("rates", np.full(len(np.atleast_1d(values["person_ids"])), np.nan))
    sizes: dict[str, int] = {}
    wrong = [
        f"{name}: {reason}"
        for name, held in _HELD.items()
        if (reason := _misfit(name, values[name], *held, sizes))
    ]
    if not wrong:
        wrong = _misfits(values, sizes)
    if wrong:
        tracklets, frames = sizes.get("n", 0), sizes.get("f", 0)
        raise UserError(
            f"{path}: {'; '.join(wrong[:3])}; expected {tracklets} tracklets of {frames} frames as "
            f"stf_jax writes them; {hint}"
        )
    of_origin = [field.name for field in dataclasses.fields(FeatureOrigin)]
    origin = FeatureOrigin(**{name: values.pop(name).item() for name in of_origin})
    fields = [field.name for field in dataclasses.fields(FeatureSet)]
    found: dict[str, Any] = {
        name: np.asarray(values[name], _DTYPES.get(name)) for name in fields if name in values
    }
    if (found["sources"][:, 0] < 0).all():
        del found["sources"]
    if np.isnan(found["rates"]).all():
        del found["rates"]
    found["image_dir"] = str(values["image_dir"])
    return FeatureSet(**found, origin=origin)


def _misfit(
    name: str,
    array: np.ndarray,
    kinds: str,
    dims: str,
    low: float,
    high: float,
    sizes: dict[str, int],
) -> str:
    """Why an array is not what the file should hold; "" where it is. Notes `sizes` by letter."""
    if array.dtype.kind not in kinds or array.ndim != len(dims):
        return f"{array.ndim}-dimensional {array.dtype}"
    for letter, size in zip(dims, array.shape, strict=True):
        if letter in "nfd":
            sizes.setdefault(letter, size)
        expected = {"m": sizes.get("n", 0) + 1, "3": 3}.get(letter, sizes.get(letter))
        if size != expected:
            return "lengths do not fit"
    if array.dtype.kind == "U":
        native = array.dtype.isnative
        if not native or (array.reshape(-1, 1).view(np.uint32) > 0x10FFFF).any():
            return "no text"
    if array.dtype.kind not in "US":
        # The weights of frames left out, and of an attention that is off, are NaN; of others it
        # comes out as least and greatest, and is outside.
        nan = dims == "f" or name == "rates"
        least, most = (np.fmin, np.fmax) if nan else (np.minimum, np.maximum)
        ends = [each.reduce(array, axis=None) for each in (least, most)] if array.size else []
        if not all((low <= end <= high) or (nan and end != end) for end in ends):
            return f"has values that are not {low:g} to {high:g}"
    return ""


def _misfits(values: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> list[str]:
    """What is wrong with values that have to fit each other, or are words and JSON."""
    offsets = values["offsets"].astype(np.int64)
    wrong = []
    if offsets[0] != 0 or offsets[-1] != sizes["f"] or (np.diff(offsets) < 0).any():
        wrong.append("offsets: do not rise from 0 to the number of frames")
    if "\0" in str(values["image_dir"]) or (b"\0" in b"".join(values["names"].tolist())):
        wrong.append("names: hold a zero byte")
    for name, words in (("metric", METRICS), ("chunk_weighting", ("mean", "frames"))):
        if str(values[name]) not in words:
            wrong.append(f"{name}: {str(values[name])!r:.40}, none of {', '.join(words)}")
    try:
        is_dict = isinstance(parse_json(str(values["settings"])), dict)
    except ValueError:
        is_dict = False
    if not is_dict:
        wrong.append("settings: no JSON object")
    return wrong


def tracklet_name(features: FeatureSet, row: int) -> str:
    """What to call a tracklet: its title, or person, camera and track, and its tracker's id."""
    if features.titles[row]:
        return str(features.titles[row])
    person, camera = int(features.person_ids[row]), int(features.cameras[row])
    who = f"person {person}" if person != UNKNOWN_ID else "person unknown"
    name = f"{who}, camera {camera}, track {int(features.tracks[row])}"
    if features.sources is None or features.sources[row, 0] < 0:
        return name
    source, first, last = features.sources[row].tolist()
    return f"{name}, id {source}, frames {first}-{last}"


def relative_weights(features: FeatureSet, row: int) -> dict[str, Float32[np.ndarray, " t"]]:
    """Weights of a tracklet's frames, 1 being the mean of its chunk: intra, inter, both.

    The raw weights of a short last chunk are larger, having to sum to 1 over fewer frames. A kind
    of attention that is off is left out; a frame left out is NaN.
    """
    frames = slice(int(features.offsets[row]), int(features.offsets[row + 1]))
    found = {}
    of_kinds = (features.intra_weights, features.inter_weights, features.frame_weights)
    for label, all_weights in zip(("intra", "inter", "both"), of_kinds, strict=True):
        weights = all_weights[frames].astype(np.float32)
        if np.isnan(weights).all():
            continue
        for start in range(0, len(weights), features.origin.chunk):
            part = weights[start : start + features.origin.chunk]
            part *= np.count_nonzero(~np.isnan(part))
        found[label] = weights
    return found
