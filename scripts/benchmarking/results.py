"""Rows of figures -> a table in plain text and a JSON file with where and with what they came."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarking.child import Row
from benchmarking.settings import ROOT, Settings
from stf_jax.cores import usable_cores
from stf_jax.files import atomic_write

COLUMNS = 100
_INDENTED: Any = {"initial_indent": "  ", "subsequent_indent": "  "}
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "torch", "tensorflow"),
    *("onnx", "onnxruntime", "lancedb"),
)


def describe(settings: Settings) -> Iterator[Row]:
    """Yield one row: the device, processor, versions and compiler's flags of this process."""
    import jax

    device = jax.devices()[0]
    yield {
        "platform": device.platform,
        "device_kind": device.device_kind if device.platform != "cpu" else processor(),
        "device_count": jax.device_count(),
        "processor": processor(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "versions": versions(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "revision": revision(),
    }


def processor() -> str:
    """Return the processor's name."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.machine()


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that matter."""
    found = {}
    for name in PACKAGES:
        for distribution in (name, f"{name}-cpu"):
            try:
                found[name] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def revision() -> str:
    """Return the git commit, with "+" where files differ from it; "unknown" outside of git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def file_name(device: dict[str, Any], time_text: str) -> str:
    """Return the name of a run's file, such as nvidia-h100-80gb-hbm3_2026-01-31T120000.json."""
    kind = re.sub(r"[^a-z0-9]+", "-", device["device_kind"].lower()).strip("-")
    return f"{kind}_{time_text}.json"


def write(path: Path, contents: dict[str, Any]) -> None:
    """Write a run's JSON atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(contents, indent=1) + "\n")


def format_rows(rows: Sequence[Row]) -> str:
    """Return the rows as text: a table of those with equal keys, {"note": text} as a sentence."""
    lines = []
    for keys, group in groupby(rows, key=lambda row: tuple(row)):
        if keys == ("note",):
            for row in group:
                lines += textwrap.wrap(row["note"], COLUMNS, **_INDENTED)
            continue
        cells = [list(keys), *([shown(value) for value in row.values()] for row in group)]
        widths = [max(len(row[k]) for row in cells) for k in range(len(keys))]
        for row in cells:
            padded = [
                cell.ljust(width) if k == 0 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(padded).rstrip())
    return "\n".join(lines)


def shown(value: Any) -> str:
    """Return a value as a cell: numbers with three significant digits at least."""
    if value is None:
        return "-"
    if isinstance(value, float):
        magnitude = abs(value)
        digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3
        return f"{value:,.{digits}f}" if magnitude >= 1e-3 or value == 0 else f"{value:.1e}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
