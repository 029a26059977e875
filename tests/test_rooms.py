"""Who may import whom: commands -> rooms of a run -> data and models -> what all may use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stf_jax"
# An import goes to a later row, or stays within its room. The first row are the commands' files.
ROWS = (
    ("main", "train", "evaluate", "embed", "match"),
    ("run", "training", "evaluation", "prepare"),
    ("data", "models"),
    ("config", "config_keys", "hosts", "devices", "cores", "files", "errors"),
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "stf_jax"}


def may_import(room: str, other: str) -> bool:
    here, there = ROW_OF[room], ROW_OF[other]
    alike = room == "main" or here == len(ROWS) - 1  # main calls commands; the last row is all's
    return room == other or there > here or (there == here and alike)


def test_imports_go_down_the_rooms() -> None:
    wrong, rooms = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room == "__init__":  # the public names, which are of commands
            continue
        rooms.add(room)
        for name in imported(path) - {"stf_jax", "stf_jax.__version__"}:
            if not may_import(room, name.split(".")[1]):
                wrong.append(f"{path.relative_to(PACKAGE.parent)} imports {name}")
    assert not wrong, "\n".join(wrong)
    assert rooms <= set(ROW_OF)


HEAVY = "tensorflow", "torch"


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        ("stf_jax.main", ("jax", *HEAVY)),
        ("stf_jax.match", ("jax", *HEAVY)),
        ("stf_jax.evaluation", ("jax", *HEAVY)),
        ("stf_jax.evaluation.scoring", ("jax", *HEAVY)),
        ("stf_jax.evaluation.calibration", ("jax", *HEAVY)),
        ("stf_jax.evaluation.pages.run_report", ("jax", *HEAVY)),
        (
            "stf_jax.models, stf_jax.models.weights.pretrained, stf_jax.training.loop, "
            "stf_jax.training.steps, stf_jax.training.optim, stf_jax.run.checkpoint, "
            "stf_jax.evaluation.features.extract, stf_jax.evaluation.features.table, "
            "stf_jax.data.augment, stf_jax.data.sampling, stf_jax.data.layout.partitions, "
            "stf_jax.config",
            HEAVY,
        ),
    ],
)
def test_what_an_import_does_not_bring_along(modules: str, without: tuple[str, ...]) -> None:
    code = (
        f"import sys, {modules}; "
        f"sys.exit(', '.join(name for name in {without!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
