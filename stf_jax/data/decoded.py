"""Frames decoded beforehand: batches from one memory-mapped array, without TensorFlow.

`python -m stf_jax.data.decode` writes such a folder; its batches are those of the image files, bit
for bit. In it are partitions files as in the layout, and

- `frames.npy`: uint8 [N, H, W, 3] RGB, every image once;
- `names.npy`: bytes [N], what each is called in the partitions files;
- `decoded.json`: H, W, `pad_ratio`, `lost` (name -> why it could not be decoded; its frame is 0),
  and `crc32` of the frames before each of `ends` and after the one before it.
"""

import os
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from PIL import Image

from stf_jax.config import AugmentConfig
from stf_jax.cores import usable_cores
from stf_jax.data.batch import PackedBatch
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.packed_steps import PlannedImages, packed_steps, planned_share
from stf_jax.data.pictures import png_file
from stf_jax.data.sampling import Plan
from stf_jax.errors import UserError, raise_system_fault
from stf_jax.reading.arrays import read_npy
from stf_jax.reading.limits import read_json

FRAMES, NAMES, ABOUT = "frames.npy", "names.npy", "decoded.json"
_BLOCK = 16  # frames that a thread copies at a time


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """An opened folder; called with rows of `table`, it gives PNG files, as other sources do."""

    folder: Path
    frames: np.ndarray  # uint8 [N, H, W, 3], memory-mapped
    about: dict[str, Any]  # what decoded.json holds
    rows: Int64[np.ndarray, " f"]  # of `frames`, of each frame of the table

    def __call__(self, rows: Int64[np.ndarray, " r"]) -> list[bytes]:
        """Returns a PNG file for each of `rows` of the table."""
        return [png_file(Image.fromarray(self.frames[row])) for row in self.rows[rows].tolist()]


def open_decoded(folder: str | os.PathLike[str], table: TrackletTable) -> DecodedFrames:
    """Returns the decoded frames of the images of `table`.

    Raises UserError where `folder` was not written by `stf_jax.data.decode`, or not completely,
    is damaged, or lacks images of the table.
    """
    folder = Path(folder)
    about = read_about(folder)
    frames, names = read_array(folder / FRAMES, "u", mapped=True), read_array(folder / NAMES, "S")
    expected = (names.size, about["height"], about["width"], 3)
    if frames.dtype != np.uint8 or frames.shape != expected or names.ndim != 1 or not len(names):
        raise UserError(
            f"{folder / FRAMES}: holds {frames.dtype} {frames.shape}; expected uint8 {expected}; "
            "decode it again"
        )
    order = np.argsort(names)
    at = np.minimum(np.searchsorted(names, table.names, sorter=order), len(names) - 1)
    rows = order[at]
    absent = np.flatnonzero(names[rows] != table.names)
    if len(absent):
        raise UserError(
            f"{folder}: {len(absent)} of {table.num_frames} images were not decoded (e.g. "
            f"{os.fsdecode(bytes(table.names[absent[0]]))}); decode them with this partitions file"
        )
    return DecodedFrames(folder, frames, about, rows)


def read_about(folder: Path) -> dict[str, Any]:
    """Returns what `decoded.json` of `folder` holds; raises UserError where there is no such."""
    try:
        about = read_json(folder / ABOUT)
    except (OSError, ValueError) as error:
        raise_system_fault(error, folder / ABOUT)
        raise UserError(
            f"{folder / ABOUT}: cannot be read ({getattr(error, 'strerror', error)}); expected a "
            "folder that `python -m stf_jax.data.decode` has finished"
        ) from None
    kinds = {"height": int, "width": int, "pad_ratio": (int, float), "lost": dict}
    kinds |= {"ends": list, "crc32": list}
    if not isinstance(about, dict) or not all(
        isinstance(about.get(name), kind) for name, kind in kinds.items()
    ):
        raise UserError(f"{folder / ABOUT}: is another program's; decode into a new folder")
    whole = [*about["ends"], *about["crc32"]]
    if not all(isinstance(number, int) for number in whole) or not all(
        isinstance(reason, str) for reason in about["lost"].values()
    ):
        raise UserError(f"{folder / ABOUT}: is damaged; decode into a new folder")
    return about


def decoded_batches(
    table: TrackletTable,
    plan: Plan,
    source: DecodedFrames,
    *,
    height: int,
    width: int,
    buckets: Sequence[int],
    start_step: int = 0,
    on_corrupt: str = "error",
    max_lost: float = 1.0,
    threads: int | None = None,
    host_augment: AugmentConfig | None = None,
    seed: int | Sequence[int] = 0,
    prefetch: int = 2,
    devices: slice = slice(None),
) -> Iterator[PackedBatch]:
    """Yields the batches of a plan, equal to those of `stf_jax.data.pipeline.batches`.

    Arguments and errors are the same; `threads` copy. Raises UserError as well where the frames
    were decoded for another size or padding, or parts of them are to be kept at random.
    """
    del seed  # of the random parts
    options = host_augment or AugmentConfig()
    about = source.about
    found = about["height"], about["width"], about["pad_ratio"]
    wanted = height, width, options.pad_ratio
    if found != wanted:
        raise UserError(
            f"{source.folder}: was decoded for height, width and pad_ratio "
            f"{', '.join(map(str, found))}; the config has {', '.join(map(str, wanted))}; decode "
            "it again with these, or change the config"
        )
    if options.horizontal_crop > 0:
        raise UserError(
            "augment.horizontal_crop works on whole images, of which decoded frames are left; "
            "set it to 0, or data.source to 'folder'"
        )
    share, sizes = planned_share(plan, buckets, start_step, devices, on_corrupt)
    planned_rows = share.frame_rows[share.frame_rows >= 0]
    names = table.names[planned_rows]
    rows = source.rows[planned_rows]
    lost = {os.fsencode(name): reason for name, reason in about["lost"].items()}
    readable = ~np.isin(names, np.array(list(lost), "S"))

    def failure(index: int) -> tuple[str, bool]:
        return lost.get(bytes(names[index]), ""), True

    images = PlannedImages(table.image_dir, names, failure)
    if on_corrupt == "error" and not readable.all():
        first = int(np.argmin(readable))
        raise images.unreadable(first, *failure(first))
    threads = usable_cores() if threads is None else threads
    ahead = -(-prefetch * share.frame_rows.shape[1] * int(sizes.max(initial=0)) // _BLOCK)
    return packed_steps(
        *(table, share, sizes, (height, width)),
        _blocks(source.frames, rows, np.flatnonzero(readable), threads, ahead),
        images,
        planned=int((plan.frame_rows[:, devices] >= 0).sum()),
        max_lost=max_lost,
    )


def check(folder: Path) -> int:
    """Compares every frame with its checksum; returns how many there are.

    Raises UserError for the first block that differs from what was written.
    """
    about = read_about(folder)
    frames = read_array(folder / FRAMES, "u", mapped=True)
    for start, end, expected in zip(
        [0, *about["ends"]], about["ends"], about["crc32"], strict=False
    ):
        if zlib.crc32(frames[start:end].data) != expected:
            raise UserError(
                f"{folder / FRAMES}: frames {start} to {end - 1} are not those that were written; "
                "decode again into a new folder"
            )
    return len(frames)


def read_array(path: Path, kinds: str, *, mapped: bool = False) -> np.ndarray:
    """Returns an array of a decoded folder; raises UserError where it cannot be read.

    `kinds` of dtypes are read, into memory or `mapped`.
    """
    try:
        return read_npy(path, kinds, mapped=mapped)
    except (OSError, ValueError) as error:
        raise_system_fault(error, path)
        raise UserError(
            f"{path}: cannot be read ({error}); expected what `python -m stf_jax.data.decode` "
            "wrote; decode again into a new folder"
        ) from None


def _blocks(
    frames: np.ndarray, rows: np.ndarray, index: np.ndarray, threads: int, ahead: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (index [k], image [k, H, W, 3]) in order, `ahead` of them copied beforehand."""

    def copy(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return block, frames[rows[block]]

    blocks = iter(np.split(index, range(_BLOCK, len(index), _BLOCK)) if len(index) else ())
    with ThreadPoolExecutor(threads, thread_name_prefix="decoded") as pool:
        pending = deque()
        for block in blocks:
            pending.append(pool.submit(copy, block))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
