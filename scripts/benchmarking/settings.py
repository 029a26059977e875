"""Sizes and options of a benchmark run; plain values, so that they travel between processes."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from stf_jax.config import ModelConfig

ROOT = Path(__file__).resolve().parents[2]

# Of configs/mars.py; a test compares them.
SIZES: dict[str, dict[str, Any]] = {
    "mars": {"backbone": "resnet50", "height": 384, "width": 128, "embed_dim": 4096},
    "small": {"backbone": "resnet18", "height": 64, "width": 32, "embed_dim": 256},
}


@dataclass(frozen=True)
class Settings:
    """A field is a flag of the command: `embed_dim` is --embed-dim; all but `platform`."""

    platform: str = "cpu"  # of the device, as JAX calls it
    backbone: str = "resnet50"
    height: int = 384  # pixels
    width: int = 128
    embed_dim: int = 4096
    num_classes: int = 625
    tracklets: int = 4  # a device and step
    min_frames: int = 5  # drawn from a tracklet
    slots: int = 25  # drawn at most; also frames of an evaluation chunk
    frame_buckets: int = 6
    extract_frames: int = 100  # packed frames of an evaluation batch
    dtype: str = "float32"
    remat: bool = False
    steps: int = 10  # of a measurement
    rounds: int = 3  # measurements; medians are reported
    seed: int = 0
    repeats: int = 3  # of ranking
    dimensions: int = 4096  # of the features that are ranked
    rows: int = 0  # test tracklets that are ranked; 0: all
    queries: int = 2_000  # of match
    gallery: int = 1_000_000  # tracklets of match
    tracklets_joined: int = 10_000  # of identify
    identities: int = 24  # people of the drawn layout
    threads: int = 0  # that decode, and of the peer; 0: as the program sees fit
    tables: str = str(ROOT / "tests" / "fixtures" / "mars_info")  # MARS's info folder
    root: str = ""  # a layout; "" draws one
    compilation_cache: str = ""  # as config.compilation_cache

    @property
    def model(self) -> ModelConfig:
        """The `model` section of a config."""
        return ModelConfig(
            backbone=self.backbone, embed_dim=self.embed_dim, dtype=self.dtype, remat=self.remat
        )

    def plan(self, num_devices: int = 1) -> dict[str, Any]:
        """Options of `training_plan`, without the epoch."""
        return {
            "seed": self.seed,
            "num_devices": num_devices,
            "tracklets": self.tracklets * num_devices,
            "min_frames": min(self.min_frames, self.slots),
            "max_frames": self.slots,
        }


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field, with the field's default left out."""
    parser.add_argument(
        "--size",
        choices=("auto", *SIZES),
        default="auto",
        help="of model and images; auto: mars on an accelerator, small on a CPU",
    )
    for field in fields(Settings)[1:]:
        flag = f"--{field.name.replace('_', '-')}"
        if field.type is bool:
            parser.add_argument(flag, action="store_true", default=None)
        else:
            kind = field.type if isinstance(field.type, type) else str
            parser.add_argument(flag, type=kind, default=None, help=f"default {field.default!r}")


def from_flags(values: Mapping[str, Any], *, platform: str) -> Settings:
    """Return the settings of parsed flags; `platform` decides what --size auto is."""
    size = values.get("size", "auto")
    size = ("small" if platform == "cpu" else "mars") if size == "auto" else size
    given = {
        field.name: values[field.name]
        for field in fields(Settings)
        if values.get(field.name) is not None
    }
    return Settings(**{**SIZES[size], **given, "platform": platform})


def to_dict(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON values."""
    return asdict(settings)


def changed(settings: Settings, **values: Any) -> Settings:
    """Return a copy with other values."""
    return replace(settings, **values)
