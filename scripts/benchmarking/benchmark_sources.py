"""Frames per second of a layout's folder, a tfds data set and decoded frames made from it.

python scripts/benchmarking/benchmark_sources.py [--root LAYOUT] [--frames N] [--folder DIR]

Without --root a layout of that many frames is drawn: JPEGs of 256 x 128 in tracklets of 58, as MARS
has on average. A data set is built as `python -m stf_jax.data.video_reid_builder` does, frames are
decoded to 384 x 128 as `python -m stf_jax.data.decode` does. Both and the folder are read as by
training, at 384 x 128: every frame in order (as evaluation does), and an epoch of training (5 to 25
frames of each tracklet). What was just written is in the page cache, so disks are not measured.
Where a rate is of all frames, the time at MARS's size is given, too: 1,191,003 frames.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from stf_jax.config import DataConfig
from stf_jax.cores import usable_cores
from stf_jax.data import video_reid_builder
from stf_jax.data.decode import decode
from stf_jax.data.layout.partitions import TrackletTable, load_layout
from stf_jax.data.pipeline import tf
from stf_jax.data.sampling import evaluation_plan, frame_buckets, frame_counts, training_plan
from stf_jax.data.source import batches, frame_source
from stf_jax.errors import UserError, prints_user_errors
from stf_jax.prepare.layout import image_name, write_partitions

MARS_FRAMES = 1_191_003
TRACKLET = 58  # frames; MARS's 1,191,003 are in 20,478 tracklets
HEIGHT, WIDTH = 384, 128
SUBSETS = {"trainval": 5, "test": 7}  # parts of a dozen


def draw_layout(root: Path, frames: int) -> None:
    """Writes a layout of about `frames` images, each with bytes of its own."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pictures = [_picture(rng) for _ in range(200)]
    names: dict[str, list[str]] = {"trainval": [], "test": []}
    marks: list[int] = []
    for tracklet in range(max(frames // TRACKLET, 12)):
        subset = "trainval" if tracklet % 12 < SUBSETS["trainval"] else "test"
        person, camera = tracklet // 24 * 2 + (subset == "test"), tracklet // 12 % 2 + 1
        for offset in range(TRACKLET):
            name = image_name(person, camera, tracklet % 12, offset, ext="jpg")
            own = f"{tracklet} {offset}".encode()
            comment = b"\xff\xfe" + (len(own) + 2).to_bytes(2, "big") + own
            picture = pictures[int(rng.integers(len(pictures)))]
            (root / "images" / name).write_bytes(picture[:2] + comment + picture[2:])
            names[subset].append(name)
        if subset == "test":
            marks += [camera - 1] * TRACKLET
    write_partitions(root, trainval=names["trainval"], test=names["test"], test_marks=marks)


def _picture(rng: np.random.Generator) -> bytes:
    """A JPEG of 256 x 128, about as many bytes as one of MARS: soft forms and some noise."""
    small = Image.fromarray(rng.integers(0, 256, (16, 8, 3), np.uint8))
    soft = np.asarray(small.resize((128, 256), Image.Resampling.BICUBIC), np.float64)
    noisy = soft + rng.normal(0, 6, soft.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Runs `work`, which returns how many frames it did; frames, wall seconds, frames a second."""
    start = time.perf_counter()
    frames = work()
    seconds = time.perf_counter() - start
    return {"frames": frames, "seconds": seconds, "frames_per_second": frames / seconds}


def _table(root: Path, subset: str, check_files: bool) -> TrackletTable:
    table = getattr(load_layout(root, subsets=(subset,), check_files=check_files), subset)
    assert table is not None
    return table


def read_all(root: Path, source: str, *, training: bool) -> int:
    """Reads every test frame in order, or an epoch of training; returns the frames."""
    subset = "trainval" if training else "test"
    table = _table(root, subset, check_files=source == "folder")
    data = DataConfig(root=str(root), source=source)
    read_frames = frame_source(data, subset, table)
    if training:
        plan = training_plan(
            table,
            seed=0,
            epoch=1,
            num_devices=1,
            sampler="tracklet",
            tracklets=4,
            min_frames=5,
            max_frames=25,
        )
    else:
        plan = evaluation_plan(table, num_devices=1, chunk=25, frames_per_device=100)
    buckets = frame_buckets(frame_counts(plan).max(1), 1)
    stream = batches(
        table, plan, height=HEIGHT, width=WIDTH, buckets=buckets, read_frames=read_frames
    )
    return sum(int(batch.real.sum()) for batch in stream)


def measure(layout: Path, scratch: Path) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """What was measured on, and the rate of each kind of work."""
    load_layout(layout, subsets=tuple(SUBSETS))
    files = [os.path.getsize(entry) for entry in os.scandir(layout / "images")]
    about = {
        "processor": _processor(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "tensorflow-datasets": tfds.__version__,
        "images": len(files),
        "mean_bytes": round(float(np.mean(files))),
    }

    def build() -> int:
        argv = ["--layout", str(layout), "--data-dir", str(scratch / "tfds"), "--name", "benchmark"]
        with contextlib.redirect_stdout(io.StringIO()):
            if video_reid_builder.main(argv):
                raise UserError(f"{layout}: could not be built; see above")
        return sum(_table(layout, subset, False).num_frames for subset in SUBSETS)

    decoded = scratch / "decoded"
    rates = {
        "build tfds": timed(build),
        "decode": timed(lambda: decode(layout, decoded, height=HEIGHT, width=WIDTH)),
    }
    built = scratch / "tfds" / "video_reid" / "benchmark" / "1.0.0"
    sources = {"tfds": built, "folder": layout, "decoded": decoded}
    for training in (False, True):
        what = "training epoch" if training else "every frame"
        for source, root in sources.items():
            rates[f"read {source}, {what}"] = timed(
                lambda root=root, source=source, training=training: read_all(
                    root, source, training=training
                )
            )
    for name, rate in rates.items():
        if "training" not in name:
            rate["seconds_at_mars_size"] = MARS_FRAMES / rate["frames_per_second"]
    return about, rates


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def report(about: Mapping[str, Any], rates: Mapping[str, Mapping[str, float]]) -> str:
    """The measurements as a table, under a line about what they were made on."""
    lines = [", ".join(f"{name} {value}" for name, value in about.items()), ""]
    lines.append(f"{'':28}{'frames':>10}{'seconds':>10}{'frames/s':>10}{'MARS size':>12}")
    for name, rate in rates.items():
        at_mars = rate.get("seconds_at_mars_size")
        minutes = "" if at_mars is None else f"{at_mars / 60:.1f} min"
        lines.append(
            f"{name:28}{rate['frames']:>10,}{rate['seconds']:>10.1f}"
            f"{rate['frames_per_second']:>10,.0f}{minutes:>12}"
        )
    return "\n".join(lines)


@prints_user_errors
def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="a layout with trainval and test; default: drawn")
    parser.add_argument("--frames", type=int, default=20_000, help="to draw (default %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="for what is drawn and made (default: temporary)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="benchmark_sources_", dir=args.folder))
    try:
        layout = args.root or scratch / "layout"
        if args.root is None:
            draw_layout(layout, args.frames)
        about, rates = measure(layout, scratch)
    finally:
        shutil.rmtree(scratch)
    print(report(about, rates))
    if args.json is not None:
        args.json.write_text(json.dumps({"about": about, "rates": rates}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
