"""Where frames come from: the layout's folder, or a tfds data set or array made from it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stf_jax.config import DataConfig
from stf_jax.data.decoded import DecodedFrames, decoded_batches, open_decoded
from stf_jax.data.layout.partitions import Layout, TrackletTable, load_layout
from stf_jax.data.sampling import Plan
from stf_jax.errors import UserError

if TYPE_CHECKING:
    from stf_jax.data.batch import PackedBatch


def open_layout(data: DataConfig, subsets: Sequence[str] | None = None) -> Layout:
    """Return the layout that the config section `data` names.

    With `source` "tfds", root is the built data set's folder (`.../video_reid/NAME/1.0.0`), with
    "decoded" the folder that `stf_jax.data.decode` wrote; both keep the partitions and hold no
    image files. Raises UserError as `load_layout` does.
    """
    return load_layout(
        data.root, data.partitions, check_files=data.source == "folder", subsets=subsets
    )


def evaluation_table(
    data: DataConfig,
    *,
    subset: str | None = None,
    report: Callable[[str], object] | None = None,
) -> TrackletTable:
    """Return a subset, by default `eval_subset`, of the layout that the config section names.

    `report` is called with each note about it, a line. Raises UserError as `open_layout` does, and
    where the layout has no such subset.
    """
    subset = subset or data.eval_subset
    layout = open_layout(data, subsets=(subset,))
    if report is not None:
        for finding in layout.findings:
            report(f"note: {finding}")
    table = getattr(layout, subset)
    if table is None:
        use = "rank" if subset == data.eval_subset else "centre with (config.evaluation.centring)"
        raise UserError(f"{layout.root}: no {subset} images; expected some to {use}")
    return table


def frame_source(
    data: DataConfig, subset: str, table: TrackletTable
) -> Callable[[np.ndarray], Sequence[bytes]] | None:
    """Return `read_frames` for `batches`: None reads the files of the folder.

    All sources give the same batches bit for bit. Raises UserError where `data.root` is not such a
    source, or one of other images.
    """
    if data.source == "folder":
        return None
    if data.source == "decoded":
        return open_decoded(data.root, table)
    # Imported here: only this choice needs TensorFlow's data sets.
    from stf_jax.data.video_reid_builder import frame_reader

    return frame_reader(data.root, subset, table)


def batches(
    table: TrackletTable,
    plan: Plan,
    *,
    read_frames: Callable[[np.ndarray], Sequence[bytes]] | None = None,
    **options: Any,
) -> "Iterator[PackedBatch]":
    """Yield the batches of `plan` from the source that `frame_source` gave.

    Options are those of `stf_jax.data.pipeline.batches`, which needs TensorFlow; decoded frames
    do not.
    """
    if isinstance(read_frames, DecodedFrames):
        return decoded_batches(table, plan, read_frames, **options)
    from stf_jax.data import pipeline

    return pipeline.batches(table, plan, read_frames=read_frames, **options)
