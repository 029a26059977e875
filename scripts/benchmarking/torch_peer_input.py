"""The reference's input in PyTorch, a DataLoader over image files, for `torch_peer.py`.

A worker reads, decodes, resizes, mirrors and normalises the frames of a tracklet, one by one, into
a float32 tensor padded with zeros to T slots. Which frames: this project's training plan.
"""

import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, __version__
from steps_plan import plan_steps
from torch.utils.data import DataLoader, Dataset

from stf_jax.data.image_statistics import IMAGE_MEAN, IMAGE_STD
from stf_jax.data.layout.partitions import load_layout
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.errors import UserError

try:
    import cv2  # pyright: ignore[reportMissingImports] - used where it happens to be installed
except ImportError:
    cv2 = None

_PREFETCH = 2  # batches that each worker reads ahead, PyTorch's default

Read = Callable[[str, int, int], np.ndarray]


def read_opencv(path: str, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3], RGB, of an image file."""
    assert cv2 is not None
    image = cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def read_pillow(path: str, height: int, width: int) -> np.ndarray:
    """As `read_opencv`."""
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized)


class Tracklets(Dataset):
    """Visit i is float32 [T, 3, H, W]: its frames, mirrored by chance, normalised, then zeros."""

    def __init__(
        self, table: TrackletTable, frames: np.ndarray, height: int, width: int, seed: int
    ) -> None:
        self.names = [os.path.join(table.image_dir, os.fsdecode(name)) for name in table.names]
        self.frames, self.size, self.seed = frames, (height, width), seed
        self.read: Read = read_pillow if cv2 is None else read_opencv

    def __len__(self) -> int:
        """Visits."""
        return len(self.frames)

    def __getitem__(self, visit: int) -> torch.Tensor:
        """Read, decode and arrange the frames of a visit."""
        rows = self.frames[visit]
        out = np.zeros((len(rows), 3, *self.size), np.float32)
        mirror = np.random.default_rng((self.seed, visit)).random(len(rows)) < 0.5
        mean, deviation = np.array(IMAGE_MEAN, np.float32), np.array(IMAGE_STD, np.float32)
        for slot, row in enumerate(rows[rows >= 0]):
            image = self.read(self.names[row], *self.size)
            if mirror[slot]:
                image = image[:, ::-1]
            image = (image / np.float32(255) - mean) / deviation
            out[slot] = image.transpose(2, 0, 1)
        return torch.from_numpy(out)


def measure_input(options: Namespace) -> dict[str, Any]:
    """Frames a second out of the DataLoader, its start not counted."""
    workers = options.workers
    ahead = _PREFETCH * workers
    layout = load_layout(options.root)
    table = layout.trainval or layout.train
    if table is None:
        raise UserError(f"{options.root}: no training subset; expected trainval_im_names")
    wanted = options.warmup + options.steps + ahead  # so that no worker is idle near the end
    plan = plan_steps(
        table, wanted, tracklets=options.tracklets, slots=options.slots, seed=options.seed
    )
    frames = plan.frame_rows.reshape(-1, options.slots)
    loader = DataLoader(
        Tracklets(table, frames, options.height, options.width, options.seed),
        batch_size=options.tracklets,
        num_workers=workers,
        worker_init_fn=_one_thread,
        prefetch_factor=_PREFETCH if workers else None,
    )
    before = child_processes()
    batches: Iterator[torch.Tensor] = iter(loader)
    processes = [os.getpid(), *(child_processes() - before)]
    for _ in range(options.warmup):
        next(batches)
    seconds, cpu = [], cpu_seconds(processes)
    for _ in range(options.steps):
        start = time.perf_counter()
        next(batches)
        seconds.append(time.perf_counter() - start)
    # Linux counts in hundredths of a second: a short run may have used none.
    cpu = max(cpu_seconds(processes) - cpu, 1 / os.sysconf("SC_CLK_TCK"))
    first = options.warmup * options.tracklets
    real = int((frames[first : first + options.steps * options.tracklets] >= 0).sum())
    return {
        "device": "cpu",
        "decoder": f"Pillow {__version__}" if cv2 is None else f"OpenCV {cv2.__version__}",
        "dtype": "float32",
        "compiled": False,
        "workers": workers,
        "steps": options.steps,
        "seconds_per_step": seconds,
        "median_seconds_per_step": median(seconds),
        "real_frames_per_step": real / options.steps,
        "computed_frames_per_step": options.tracklets * options.slots,
        "real_frames_per_second": real / sum(seconds),  # steps come in bursts, a worker each
        "cpu_seconds": cpu,
        "real_frames_per_cpu_second": real / cpu,
        "losses": [],
    }


def cpu_seconds(processes: list[int]) -> float:
    """Processor seconds that the processes have used so far, by Linux's count."""
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def child_processes() -> set[int]:
    """This process's children, by Linux's count."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


def _one_thread(worker: int) -> None:
    if cv2 is not None:
        cv2.setNumThreads(0)
