"""A batch of frames, as the input pipeline yields it and the steps take it."""

from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Array, Bool


@flax.struct.dataclass
class PackedBatch:
    """The frames of B tracklets, of T slots each, packed into M rows: no tracklet is padded.

    Row m is the frame in slot `slot[m]` of tracklet `tracklet[m]`. The rows of real frames come
    first; the others pad the batch to one of few sizes M, so that few programs are compiled. No two
    real frames share a tracklet and a slot, and a tracklet may have none. Between pipeline and step
    every field has a leading axis of devices D (`devices.data_parallel` takes it away).
    """

    images: Any  # uint8 [M, H, W, 3], RGB; 0 in padding
    tracklet: Any  # int32 [M], 0..B-1; B in padding
    slot: Any  # int32 [M], 0..T-1; 0 in padding
    labels: Any  # int32 [B], class 0..K-1; -1 where there is none, or no frame
    global_index: Any  # int32 [B], number of the tracklet in the step, over all devices

    @property
    def real(self) -> Bool[Array | np.ndarray, "*d m"]:
        """Which rows hold a frame."""
        return self.tracklet < self.labels.shape[-1]
