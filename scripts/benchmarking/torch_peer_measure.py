"""Time and memory of the reference's workload in PyTorch, for `torch_peer.py`."""

import gc
import itertools
import platform
import resource
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_peer_model import TemporalFusion, make_optimiser, smoothed_loss

Work = Callable[[Tensor, Tensor, Tensor], Tensor]  # frames, mask, labels -> loss, or a feature sum
_LOSSES = 10  # of the first steps, that are reported


class Peer:
    """Network, optimiser and a resident batch on the device, as the options say."""

    def __init__(self, options: Namespace, tracklets: int) -> None:
        self.options, self.tracklets = options, tracklets
        self.device = torch.device(options.device)
        self.tuned = options.variant == "tuned"
        if self.tuned:
            # Convolutions may already by default.
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        torch.manual_seed(options.seed)
        model = TemporalFusion(options.backbone, options.embed_dim, options.num_classes)
        self.model = model.to(self.device).train(options.part != "extract")
        self.optimiser = make_optimiser(self.model)
        shape = (tracklets * options.slots, 3, options.height, options.width)
        self.frames = torch.randn(shape, device=self.device)
        if self.tuned:
            # The types of `to` know no memory formats of modules.
            self.model = self.model.to(memory_format=torch.channels_last)  # pyright: ignore
            self.frames = self.frames.contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(tracklets, device=self.device) % options.num_classes
        self.compiled = False
        self.call: Work = self._extract if options.part == "extract" else self._loss

    def batch(self, lengths: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Frames [B * T, 3, H, W] whose padded slots are zero, mask [B, T], labels [B]."""
        mask = torch.as_tensor(np.arange(self.options.slots) < lengths[:, None])
        mask = mask.to(self.device, torch.float32)
        return self.frames * mask.reshape(-1, 1, 1, 1), mask, self.labels

    def step(self, frames: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Train once, or extract; return the loss (the sum of the features), not waited for."""
        if self.options.part == "extract":
            with torch.no_grad():
                return self.call(frames, mask, labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.call(frames, mask, labels)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def compile(self) -> str | None:
        """Use `torch.compile` from now on; say why not, where it does not work here."""
        plain = self.call
        torch.compiler.reset()
        self.call = torch.compile(plain, dynamic=False)
        full = np.full(self.tracklets, self.options.slots)
        try:
            # A compiler that is missing or fails shows at the first call only.
            self.step(*self.batch(full))
            self.wait()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.call = plain
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        self.compiled = True
        return None

    def wait(self) -> None:
        """Return when the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _forward(self, frames: Tensor, mask: Tensor) -> Any:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.tuned):
            return self.model(frames, mask)

    def _loss(self, frames: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return smoothed_loss(self._forward(frames, mask).logits.float(), labels)

    def _extract(self, frames: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return self._forward(frames, mask).features.float().sum()


def measure_steps(options: Namespace, lengths: np.ndarray) -> dict[str, Any]:
    """Time training or extraction steps; `lengths` [steps, B] are used in turn."""
    peer = Peer(options, options.tracklets)
    compile_seconds = _compile(peer)
    for row in _rows(lengths, options.warmup):
        peer.step(*peer.batch(row))
    seconds, losses, real = [], [], 0
    for row in _rows(lengths, options.steps):
        batch = peer.batch(row)
        peer.wait()
        start = time.perf_counter()
        loss = peer.step(*batch)
        peer.wait()
        seconds.append(time.perf_counter() - start)
        losses.append(float(loss))
        real += int(row.sum())
    middle = median(seconds)
    return {
        **_describe(peer),
        "compile_seconds": compile_seconds,
        "steps": options.steps,
        "seconds_per_step": seconds,
        "median_seconds_per_step": middle,
        "real_frames_per_step": real / options.steps,
        "computed_frames_per_step": options.tracklets * options.slots,
        "real_frames_per_second": real / options.steps / middle,
        "peak_memory_bytes": peak_memory(peer.device),
        "losses": losses[:_LOSSES] if options.part == "train" else [],
    }


def measure_memory(options: Namespace) -> dict[str, Any]:
    """Find how many tracklets of full length a training step holds, CUDA only."""
    peaks: dict[int, int] = {}
    described: dict[str, Any] = {}

    def fits(tracklets: int) -> bool:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            peer = Peer(options, tracklets)
            _compile(peer)
            # The second step has the optimiser's momentum, too.
            for _ in range(2):
                peer.step(*peer.batch(np.full(tracklets, options.slots)))
            peer.wait()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        peaks[tracklets] = torch.cuda.max_memory_allocated()
        described.update(_describe(peer))
        return True

    tracklets = largest_that_fits(fits, 2)  # BatchNorm refuses one
    return {
        **described,
        "tracklets": tracklets,
        "computed_frames_per_step": tracklets * options.slots,
        "peak_memory_bytes": peaks.get(tracklets, 0),
        "device_memory_bytes": torch.cuda.get_device_properties(0).total_memory,
    }


def largest_that_fits(fits: Callable[[int], bool], least: int) -> int:
    """The largest n >= `least` >= 1 that `fits`, 0 if none, by doubling, then bisection.

    `fits` must be true up to some number and false from there on.
    """
    good, bad = 0, least
    while fits(bad):
        good, bad = bad, 2 * bad
    while good and bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU's memory was too small; each library says so in its own words."""
    words = ("ALLOC_FAILED", "unable to find an engine")
    full = isinstance(error, torch.cuda.OutOfMemoryError)
    return full or any(word in str(error) for word in words)


def peak_memory(device: torch.device) -> int:
    """Bytes: what PyTorch had allocated on a GPU at most, else this process's resident peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def device_name(device: torch.device) -> str:
    """The GPU's name, or the kind of processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU"


def _compile(peer: Peer) -> float | None:
    """Compile if the variant needs it; the seconds it took. A failure is printed, not raised."""
    if not peer.tuned:
        return None
    start = time.perf_counter()
    failure = peer.compile()
    if failure:
        print(f"torch.compile does not work here, continuing without ({failure})", file=sys.stderr)
        return None
    return time.perf_counter() - start


def _describe(peer: Peer) -> dict[str, Any]:
    return {
        "device": device_name(peer.device),
        "dtype": "bfloat16 (autocast)" if peer.tuned else "float32",
        "channels_last": peer.tuned,
        "compiled": peer.compiled,
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "products": torch.backends.cuda.matmul.allow_tf32,
        },
    }


def _rows(lengths: np.ndarray, count: int) -> itertools.islice:
    return itertools.islice(itertools.cycle(lengths), count)
