"""A layout to read pictures from: the given one, or one drawn once into the user's cache folder."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarking.child import NotRunError, installed
from benchmarking.settings import Settings


def need_tensorflow() -> None:
    """Raise NotRunError where reading pictures is impossible."""
    if not installed("tensorflow"):
        raise NotRunError("needs tensorflow, which is not installed")


def layout_folder(settings: Settings) -> Path:
    """Return the layout's folder: `settings.root`, or drawn people at the size of MARS's images."""
    if settings.root:
        return Path(settings.root)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = f"drawn-{settings.identities}-{settings.seed}"
    folder = Path(cache) / "stf_jax" / "benchmark" / name
    command = [sys.executable, "-m", "stf_jax.prepare", "synthetic", "--ext", "jpg"]
    command += ["--identities", str(settings.identities), "--seed", str(settings.seed)]
    command += ["--height", "256", "--width", "128", "--output", str(folder)]
    if not (folder / "partitions.pkl").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True)
    return folder
