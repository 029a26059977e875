"""The layout on disk -> packed batches of frames."""

from typing import TYPE_CHECKING, Any

from stf_jax.data.layout.partitions import Layout, load_layout
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.packing import frame_buckets
from stf_jax.data.sampling import evaluation_plan, training_plan

if TYPE_CHECKING:
    from stf_jax.data.batch import PackedBatch
    from stf_jax.data.pipeline import batches

__all__ = [
    "Layout",
    "PackedBatch",
    "TrackletTable",
    "batches",
    "evaluation_plan",
    "frame_buckets",
    "load_layout",
    "training_plan",
]


def __getattr__(name: str) -> Any:
    """Import what needs TensorFlow (`batches`) or JAX on first use."""
    if name == "batches":
        from stf_jax.data.pipeline import batches

        return batches
    if name == "PackedBatch":
        from stf_jax.data.batch import PackedBatch

        return PackedBatch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
