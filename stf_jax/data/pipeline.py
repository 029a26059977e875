"""A plan -> packed uint8 batches: images are read, decoded and resized in parallel, in order.

The only module of training that uses TensorFlow, and of it only tf.data and image decoding, on the
CPU. Frames flow one by one through a parallel map and `packed_steps` puts them into steps: on two
cores that took the same processor time a frame as a map over whole steps, and a step with an
unreadable image loses that image only. `scripts/benchmarking/benchmark_input.py` measures it.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from stf_jax.config import AugmentConfig
from stf_jax.cores import usable_cores
from stf_jax.data.batch import PackedBatch
from stf_jax.data.image_statistics import fill_colour
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.packed_steps import PlannedImages, packed_steps, planned_share
from stf_jax.data.pictures import MAX_PIXELS, picture_format
from stf_jax.data.sampling import Plan
from stf_jax.errors import raise_system_fault

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # not needed here, and it prints a notice

import tensorflow as tf

_LOG = logging.getLogger(__name__)
_BLOCK = 16  # frames that leave tf.data together
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # what such files begin with

try:
    # JAX owns the accelerators; before anything else, or TensorFlow takes all of their memory.
    tf.config.set_visible_devices([], "GPU")
except RuntimeError:
    _LOG.warning("TensorFlow was in use before stf_jax.data.pipeline and may hold GPU memory")


def batches(
    table: TrackletTable,
    plan: Plan,
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
    read_frames: Callable[[np.ndarray], Sequence[bytes]] | None = None,
) -> Iterator[PackedBatch]:
    """Yields the batches of a plan, from `start_step` on.

    A batch depends on the table, the plan, the step and the options only: not on threads, nor on
    where one started. Images (PNG or JPEG; grey, palette, alpha, 16 bit; alpha is dropped, EXIF
    rotation is not applied) become RGB and are resized with bilinear interpolation between the
    nearest four pixels and without antialiasing, as OpenCV's INTER_LINEAR does (pixel centres at
    halves; within one level of it).

    Args:
        table: that the plan was made for.
        plan: see `stf_jax.data.sampling`.
        height: H, pixels.
        width: W, pixels.
        buckets: allowed values of M, ascending. A step has the smallest one that holds the frames
            of its fullest device (of all devices of the plan, so that hosts agree).
        start_step: steps of the plan to leave out.
        on_corrupt: "error", or "skip": an image that cannot be decoded is left out of its batch, M
            stays. Logged with a count; a tracklet without any image left becomes an empty one. One
            that cannot be read at all, such as a missing file, is an error all the same.
        max_lost: under "skip", the greatest share of the plan's images on `devices` that may be
            left out; less than 1, no step may lose all of its images either.
        threads: that decode; by default as many as the process may use cores.
        host_augment: options of which `horizontal_crop`, `horizontal_crop_keep`, `pad_ratio` and
            `per` are used; None does none of them.
        seed: of the random crops: at least 0, one number or several, such as (seed, epoch). A
            frame's crop depends on this and on its place in the plan.
        prefetch: steps that are read ahead.
        devices: the share of the plan's devices (its second axis) that this host feeds.
        read_frames: from frame rows of the table, int64 [f], to the bytes of their image files;
            called from several threads. None reads the files in `table.image_dir` (see
            `stf_jax.data.video_reid_builder.frame_reader` for another place).

    Yields:
        Batches of numpy arrays with an axis of devices D; the real frames of each device are in
        the order of the plan. The arrays are new ones for each batch.

    Raises:
        UserError: no bucket is large enough; on_corrupt is neither; while iterating, an image
            cannot be read (it is named), or too many cannot be decoded.
    """
    share, sizes = planned_share(plan, buckets, start_step, devices, on_corrupt)
    options = host_augment or AugmentConfig()
    keep = _kept_shares(plan, options, seed)
    real = share.frame_rows >= 0
    if threads is None:
        threads = usable_cores()
    ahead = -(-prefetch * share.frame_rows.shape[1] * int(sizes.max(initial=0)) // _BLOCK)
    rows = share.frame_rows[real]
    names = table.names[rows]

    def read(key: Any) -> tf.Tensor:
        if read_frames is None:
            return tf.io.read_file(tf.strings.join([str(table.image_dir), key], separator=os.sep))
        reader = read_frames
        return tf.numpy_function(lambda row: reader(row[None])[0], [key], tf.string)

    def load(key: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        image = decode(read(key))
        if options.horizontal_crop > 0:
            image = keep_top(image, kept)
        if options.pad_ratio > 0:
            image = pad_to_ratio(image, options.pad_ratio)
        return resize(image, height, width)

    keys = names if read_frames is None else rows

    def failure(index: int) -> tuple[str, bool]:
        try:
            contents = bytes(read(keys[index]).numpy())
        except tf.errors.NotFoundError:
            return "no such file", False
        except Exception as reason:  # of TensorFlow, or whatever `read_frames` raises
            raise_system_fault(reason, table.image_dir / os.fsdecode(bytes(names[index])))
            return _first_line(reason), False
        return undecodable(contents) or misfit(contents), True

    def misfit(contents: bytes) -> str:
        """Why an image that decodes cannot be padded."""
        try:
            if options.pad_ratio > 0:
                pad_to_ratio(decode(tf.constant(contents)), options.pad_ratio)
        except tf.errors.OpError as reason:
            return f"cannot be padded to the ratio {options.pad_ratio:g} ({_first_line(reason)})"
        return ""

    images = PlannedImages(table.image_dir, names, failure)
    frames = _frames(load, keys, keep[start_step:, devices][real], on_corrupt, threads, ahead)
    planned = int((plan.frame_rows[:, devices] >= 0).sum())
    return packed_steps(
        *(table, share, sizes, (height, width), _explained(frames, images), images),
        planned=planned,
        max_lost=max_lost,
    )


def decode(contents: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 3] RGB from the bytes of a PNG or JPEG file of any mode.

    Other formats and pictures of more than `pictures.MAX_PIXELS` are errors of TensorFlow.
    """
    is_jpeg = tf.strings.substr(contents, 0, len(_JPEG)) == _JPEG
    is_png = tf.strings.substr(contents, 0, len(_PNG)) == _PNG
    is_png &= tf.strings.length(contents) >= 24
    known = tf.debugging.Assert(is_jpeg | is_png, ["neither JPEG nor PNG"])
    # A JPEG's size is at most 65,535 squared, in three bytes a pixel: memory enough for a decoder
    # that only then finds too little data. A PNG says its size in bytes 16 to 23.
    size = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(contents), lambda: _png_size(contents))
    pixels = tf.reduce_prod(tf.cast(size[:2], tf.int64))
    small = tf.debugging.Assert(pixels <= MAX_PIXELS, [f"more than {MAX_PIXELS} pixels"])
    with tf.control_dependencies([op for op in (known, small) if op is not None]):
        # This operation decodes PNGs, too. The accurate transform is that of OpenCV and Pillow.
        return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")


def undecodable(contents: bytes) -> str:
    """Why `decode` refuses the bytes of a file; "" where it does not."""
    try:
        decode(tf.constant(contents))
    except tf.errors.OpError as reason:
        kind = picture_format(contents)
        if kind not in ("", "JPEG", "MPO", "PNG"):
            return f"is {kind}, not JPEG or PNG"
        if not contents or not (kind or contents.startswith((_JPEG, _PNG))):
            return "not an image" if contents else "empty file"
        return f"does not decode ({_first_line(reason)})"
    return ""


def _png_size(contents: tf.Tensor) -> tf.Tensor:
    """Width, height and 1 of a PNG: as many numbers as of a JPEG."""
    header = tf.io.decode_raw(tf.strings.substr(contents, 16, 8), tf.int32, little_endian=False)
    return tf.concat([header, [1]], axis=0)


def resize(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """uint8 [h, w, 3] -> uint8 [H, W, 3], bilinear, pixel centres at halves, no antialiasing."""

    def both() -> tf.Tensor:
        return bilinear(image[None], [height, width])

    def rows_only() -> tf.Tensor:
        # One column of 3 w channels: the same numbers at less than half the cost, as the kernel
        # then runs along memory. A crop of 256x128 takes this way to 384x128.
        return bilinear(tf.reshape(image, [1, -1, 1, 3 * width]), [height, 1])

    def bilinear(images: tf.Tensor, size: list[int]) -> tf.Tensor:
        resized = tf.raw_ops.ResizeBilinear(images=images, size=size, half_pixel_centers=True)
        # Rounded here: what leaves a branch cannot be changed in place.
        return tf.cast(tf.reshape(resized, [height, width, 3]) + 0.5, tf.uint8)

    return tf.cond(tf.equal(tf.shape(image)[1], width), rows_only, both)


def keep_top(image: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """The top `share` (0..1, at least a row) of images taller than 1.5 times their width."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    rows = tf.cast(tf.round(tf.cast(height, tf.float32) * share), tf.int32)
    return image[: tf.where(2 * height > 3 * width, tf.maximum(rows, 1), height)]


def pad_to_ratio(image: tf.Tensor, ratio: float) -> tf.Tensor:
    """Adds the image mean on both sides, or above and below, until height / width is `ratio`.

    More than `pictures.MAX_PIXELS` afterwards are an error of TensorFlow.
    """
    size = tf.shape(image)[:2]
    height, width = tf.unstack(tf.cast(size, tf.float32))
    padded = tf.cast(tf.round(tf.stack([width * ratio, height / ratio])), tf.int32)
    pixels = tf.reduce_prod(tf.cast(tf.maximum(padded, size), tf.int64))
    small = tf.debugging.Assert(pixels <= MAX_PIXELS, [f"more than {MAX_PIXELS} pixels"])
    with tf.control_dependencies([small] if small is not None else []):
        padded = tf.identity(padded)
    missing = tf.maximum(padded - size, 0)
    before = missing // 2
    edges = tf.concat([tf.stack([before, missing - before], axis=1), [[0, 0]]], axis=0)
    colour = tf.constant(fill_colour())
    return tf.cast(tf.pad(tf.cast(image, tf.int32) - colour, edges) + colour, tf.uint8)


def _kept_shares(plan: Plan, options: AugmentConfig, seed: int | Sequence[int]) -> np.ndarray:
    """float32 [S, D, B, T]: the share of the height to keep of each frame."""
    if options.horizontal_crop <= 0:
        return np.broadcast_to(np.float32(1), plan.frame_rows.shape)
    # The spawn key makes these draws independent of the plan's.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    draws = rng.random((2, *plan.frame_rows.shape), np.float32)
    if plan.global_index is not None:  # as if one device had all of a step
        num_steps, _, _, num_slots = plan.frame_rows.shape
        steps = np.arange(num_steps)[:, None, None]
        draws = draws.reshape(2, num_steps, -1, num_slots)[:, steps, plan.global_index]
    if options.per == "tracklet":
        draws = np.broadcast_to(draws[..., :1], draws.shape)
    chance, place = draws
    low, high = options.horizontal_crop_keep
    share = low + (high - low) * place
    return np.where(chance < options.horizontal_crop, share, 1).astype(np.float32)


def _frames(
    load: Any, keys: np.ndarray, keep: np.ndarray, on_corrupt: str, threads: int, ahead: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (index [k], image [k, H, W, 3]) in the order of `keys`."""
    dataset = tf.data.Dataset.from_tensor_slices((keys, keep, np.arange(len(keys))))
    dataset = dataset.map(
        lambda key, kept, index: (index, load(key, kept)),
        num_parallel_calls=threads,
        deterministic=True,
    )
    if on_corrupt == "skip":
        dataset = dataset.ignore_errors()
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.batch(_BLOCK).prefetch(max(ahead, 1)).with_options(options)
    blocks: Any = dataset.as_numpy_iterator()
    return blocks


def _explained(
    frames: Iterator[tuple[np.ndarray, np.ndarray]], images: PlannedImages
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same blocks; a failure becomes a UserError that names the image."""
    start = 0
    while True:
        try:
            block = next(frames)
        except StopIteration:
            return
        except tf.errors.OpError:
            # Blocks come in order: the image is in the next one.
            for index in range(start, min(start + _BLOCK, len(images.names))):
                reason, was_read = images.failure(index)
                if reason:
                    raise images.unreadable(index, reason, was_read) from None
            raise images.changing() from None
        start += len(block[0])
        yield block


def _first_line(error: Exception) -> str:
    text = getattr(error, "message", str(error))  # without the code that TensorFlow puts before it
    line = (text.strip() or type(error).__name__).splitlines()[0]
    line = line.partition(" [Op:")[0].rpartition("}} ")[2]
    return line.rpartition("Summarized data: b")[2].strip("'")  # of a failed assertion
