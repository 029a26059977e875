"""Programs of this folder that tests run in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]


def drive(driver: str, *arguments: object, **more: str) -> list[dict[str, Any]]:
    """The rows that `driver` prints, run on one CPU device; `more` goes into its environment."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "JAX_NUM_CPU_DEVICES": "1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles in half the time
        **more,
    }
    done = subprocess.run(
        [sys.executable, str(SUPPORT / driver), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
