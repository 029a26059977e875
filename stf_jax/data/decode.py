"""A layout's images decoded once, so that training reads pixels and needs no TensorFlow.

    python -m stf_jax.data.decode data/mars data/mars-256x128 --height 256 --width 128
    python -m stf_jax.main --config configs/mars.py --config.data.source=decoded \\
        --config.data.root=data/mars-256x128 --config.data.height=256 ...

Batches are the same bit for bit as from the image files, as the same code decodes and resizes
them. An interrupted run resumes where it stopped. See `stf_jax.data.decoded` for what is written.
"""

import argparse
import io
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from stf_jax.config import AugmentConfig
from stf_jax.data.decoded import ABOUT, FRAMES, NAMES, check, read_about, read_array
from stf_jax.data.layout.partitions import SUBSETS, load_layout
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.sampling import Plan
from stf_jax.errors import UserError, prints_user_errors
from stf_jax.files import atomic_write, is_leftover
from stf_jax.folder_lock import one_owner
from stf_jax.reading.limits import read_json

BLOCK = 256  # frames at most that share a checksum
_PARTIAL, _PROGRESS = "frames.part", "decoding.json"


@dataclass
class _Progress:
    """How far an output is, and whose."""

    receipt: Mapping[str, Any]
    ends: list[int] = field(default_factory=list)  # frames up to the end of each block
    crc32: list[int] = field(default_factory=list)  # of each block
    lost: dict[str, str] = field(default_factory=dict)  # why an image could not be decoded

    def add(self, pixels: np.ndarray, lost: Mapping[str, str]) -> None:
        """Counts a block that was written."""
        self.ends.append((self.ends[-1] if self.ends else 0) + len(pixels))
        self.crc32.append(zlib.crc32(pixels.data))
        self.lost.update(lost)


def decode(
    root: Path,
    output: Path,
    *,
    height: int,
    width: int,
    partitions: Sequence[str] = ("partitions.pkl",),
    pad_ratio: float = 0.0,
    on_corrupt: str = "error",
    threads: int | None = None,
) -> int:
    """Writes every image of the partitions files into `output`; returns how many.

    Args:
        root: folder of the layout.
        output: a new folder, or one in which the same call was interrupted.
        height: H, pixels.
        width: W, pixels.
        partitions: names of partitions files in `root`; an image of several is decoded once.
        pad_ratio: `config.augment.pad_ratio` of the runs that will read it.
        on_corrupt: "error", or "skip": images that cannot be decoded are noted by name, and
            training leaves them out where it may skip.
        threads: that decode; by default as many as the process may use cores.

    Raises:
        UserError: a layout with errors, an unreadable image, a folder of something else, too
            little space on the disk. What is on the disk stays and is resumed.
    """
    parts = _parts(root, partitions)
    names = np.concatenate([table.names[rows] for table, rows in parts])
    shape = [len(names), height, width, 3]
    receipt = {"images": zlib.crc32(names.tobytes()), "shape": shape, "pad_ratio": pad_ratio}
    progress = _claim(output, receipt)
    if progress is None:
        return len(names)
    header = _header(shape)
    frame_bytes = height * width * 3
    done = progress.ends[-1] if progress.ends else 0
    partial = output / _PARTIAL
    written = len(header) + done * frame_bytes
    needed = (len(names) - done) * frame_bytes
    free = shutil.disk_usage(output).free
    print(
        f"{len(names) - done:,} images of {height} x {width}: {needed / 1e9:.1f} GB; "
        f"{free / 1e9:.1f} GB are free in {output}",
        file=sys.stderr,
    )
    if needed > free:
        raise UserError(
            f"{output}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; free some, "
            "or give a folder on another disk"
        )
    try:
        with open(partial, "r+b" if done else "w+b") as file:
            if file.seek(0, os.SEEK_END) < written and done:
                raise UserError(
                    f"{partial}: is shorter than what was written; remove {output} and start anew"
                )
            file.truncate(written)
            file.seek(0)
            file.write(header)
            file.seek(written)
            stream = _decoded(parts, done, height, width, pad_ratio, on_corrupt, threads)
            with tqdm(total=len(names), initial=done, unit="image", disable=None) as bar:
                try:
                    for pixels, lost in stream:
                        file.write(pixels.data)
                        progress.add(pixels, lost)
                        bar.update(len(pixels))
                        if len(progress.ends) % 16 == 0:
                            _note(output, file, progress)
                finally:
                    _note(output, file, progress)
        for name in partitions:
            with atomic_write(output / name) as temporary:
                shutil.copyfile(root / name, temporary)
        with atomic_write(output / NAMES) as temporary, open(temporary, "wb") as file:
            np.save(file, names)
        partial.replace(output / FRAMES)
        about = {"height": height, "width": width, **asdict(progress)}
        _write_json(output / ABOUT, {**about, "pad_ratio": pad_ratio})
        (output / _PROGRESS).unlink()
    except OSError as error:
        raise UserError(
            f"{error.filename or output}: {error.strerror or error}; what is in {output} stays; "
            "run the same command again, it resumes where it stopped"
        ) from None
    return len(names)


def _parts(root: Path, partitions: Sequence[str]) -> list[tuple[TrackletTable, np.ndarray]]:
    """Tables and the rows of each that no table before it has: every image once."""
    parts: list[tuple[TrackletTable, np.ndarray]] = []
    seen = np.zeros(0, "S1")
    for name in partitions:
        layout = load_layout(root, name)
        for subset in SUBSETS:
            table: TrackletTable | None = getattr(layout, subset)
            if table is not None:
                rows = np.flatnonzero(~np.isin(table.names, seen))
                seen = np.concatenate([seen, table.names[rows]])
                parts.append((table, rows))
    return parts


def _claim(output: Path, receipt: Mapping[str, Any]) -> _Progress | None:
    """How far a folder is that the same call began, or a new one; None where it is whole.

    Raises UserError for a folder of something else.
    """
    output.mkdir(parents=True, exist_ok=True)
    if (output / ABOUT).exists():
        about = read_about(output)
        names = read_array(output / NAMES, "S")
        shape = [len(names), about["height"], about["width"], 3]
        images = zlib.crc32(names.tobytes())
        found = {"images": images, "shape": shape, "pad_ratio": about["pad_ratio"]}
        if found != receipt:
            raise UserError(f"{output}: holds other images, or of another size; give a new folder")
        return None
    path = output / _PROGRESS
    if path.exists():
        try:
            before = read_json(path)
            if before.pop("receipt") == receipt:
                return _Progress(receipt, **before)
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            pass
        raise UserError(f"{output}: was begun with other images or options; give a new folder")
    if not all(is_leftover(child.name) for child in output.iterdir()):
        raise UserError(
            f"{output}: is not empty and was not begun by this command; give a new folder"
        )
    return _Progress(receipt)


def _decoded(
    parts: Sequence[tuple[TrackletTable, np.ndarray]],
    done: int,
    height: int,
    width: int,
    pad_ratio: float,
    on_corrupt: str,
    threads: int | None,
) -> Iterator[tuple[np.ndarray, dict[str, str]]]:
    """Blocks of frames, uint8 [k, H, W, 3], `done` frames left out, and why some are lost."""
    from stf_jax.data.pipeline import batches, undecodable  # TensorFlow

    for table, part in parts:
        rows = part[done:]
        done = max(done - len(part), 0)
        frame_rows = np.full((-(-len(rows) // BLOCK), 1, 1, BLOCK), -1)
        frame_rows.reshape(-1)[: len(rows)] = rows
        plan = Plan(np.zeros(frame_rows.shape[:3], np.int64), frame_rows)
        stream = batches(
            table,
            plan,
            height=height,
            width=width,
            buckets=(BLOCK,),
            on_corrupt=on_corrupt,
            threads=threads,
            host_augment=AugmentConfig(pad_ratio=pad_ratio),
        )
        for planned, batch in zip(frame_rows[:, 0, 0], stream, strict=True):
            planned = planned[planned >= 0]
            slots = batch.slot[batch.real]
            pixels = np.zeros((len(planned), height, width, 3), np.uint8)
            pixels[slots] = batch.images[batch.real]
            lost = {}
            for row in np.delete(planned, slots).tolist():
                path = table.image_dir / os.fsdecode(bytes(table.names[row]))
                lost[path.name] = undecodable(path.read_bytes()) or "could not be decoded"
            yield pixels, lost


def _header(shape: Sequence[int]) -> bytes:
    """What an .npy file of uint8 begins with."""
    file = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def _note(output: Path, file: IO[bytes], progress: _Progress) -> None:
    file.flush()
    os.fsync(file.fileno())
    _write_json(output / _PROGRESS, {"receipt": progress.receipt, **asdict(progress)})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value) + "\n", encoding="utf-8")


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Decodes one layout; returns 0, 2 for bad input (see stderr), 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m stf_jax.data.decode", description=__doc__, allow_abbrev=False
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("root", type=Path, metavar="ROOT", help="folder of the layout")
    add("output", type=Path, metavar="OUTPUT", help="a new folder, or one that was interrupted")
    add("--height", type=int, help="pixels; config.data.height of the runs that read it")
    add("--width", type=int, help="pixels; config.data.width")
    add(
        "--partitions",
        nargs="+",
        default=["partitions.pkl"],
        metavar="FILE",
        help="whose images are decoded, each once (default: partitions.pkl)",
    )
    add("--pad-ratio", type=float, default=0.0, help="config.augment.pad_ratio (default: 0)")
    add(
        "--on-corrupt",
        choices=("error", "skip"),
        default="error",
        help="skip: note what cannot be decoded, by name (default: error)",
    )
    add("--threads", type=int, help="that decode (default: as many as usable cores)")
    add("--check", action="store_true", help="decode nothing; compare OUTPUT with its checksums")
    args = parser.parse_args(argv)
    if args.check:
        print(f"{args.output}: {check(args.output):,} frames are as they were written")
        return 0
    for name, least in (("height", 32), ("width", 16)):
        if getattr(args, name) is None or getattr(args, name) < least:
            parser.error(f"--{name}: expected {least} or more")
    if not 0 <= args.pad_ratio <= 20:
        parser.error("--pad-ratio: expected 0 to 20")
    if args.threads is not None and args.threads < 1:
        parser.error("--threads: expected 1 or more")
    options = {k: v for k, v in vars(args).items() if k not in ("root", "output", "check")}
    try:
        with one_owner(args.output):
            count = decode(args.root, args.output, **options)
    except KeyboardInterrupt:
        print("interrupted: the same command resumes where it stopped", file=sys.stderr)
        return 130
    print(f"{count:,} images; written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
