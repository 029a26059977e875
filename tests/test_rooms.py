"""README's picture of the rooms against the imports of every module; what an import costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stf_jax"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def picture() -> list[list[str]]:
    """README's floors, the highest first, each the rooms on it: `data/`, `main.py`."""
    (block,) = re.findall(
        r"^```\nstf_jax/\n(.*?)^```$", (ROOT / "README.md").read_text(), re.S | re.M
    )
    floors = [re.findall(r"^  (\S+)  +\S", floor, re.M) for floor in block.split("\n\n")]
    assert sum(map(len, floors)) == len([line for line in block.split("\n") if line])
    return floors


def floor_of() -> dict[str, int]:
    """Room, without `/` and `.py` -> its floor, 0 the highest."""
    return {
        room.removesuffix("/").removesuffix(".py"): number
        for number, rooms in enumerate(picture())
        for room in rooms
    }


def imported(path: Path) -> set[str]:
    """The modules of the package that `path` imports, wherever in it, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("stf_jax.")}


def test_the_picture_names_every_room_and_no_other() -> None:
    drawn = [room for floor in picture() for room in floor]
    there = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in PACKAGE.iterdir()
        if (path / "__init__.py").is_file() or path.suffix == ".py"
    ]
    assert sorted(drawn) == sorted(set(there) - {"__init__.py"})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_or_stay_in_the_room(path: Path) -> None:
    floors = floor_of()
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(path):
        room = name.split(".")[1]
        if room == own or room.startswith("__"):  # stf_jax.__version__
            continue
        assert room in floors, f"{name}: no room of the picture"
        assert floors[room] > floors[own], f"{own} is not above {room}: {name}"


HEAVY = "tensorflow", "torch"


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        ("stf_jax.main", ("jax", *HEAVY)),
        ("stf_jax.match", ("jax", *HEAVY)),
        ("stf_jax.identify", ("jax", *HEAVY)),
        ("stf_jax.evaluation", ("jax", *HEAVY)),
        ("stf_jax.evaluation.scoring", ("jax", *HEAVY)),
        ("stf_jax.evaluation.calibration", ("jax", *HEAVY)),
        ("stf_jax.evaluation.pages.run_report", ("jax", *HEAVY)),
        ("stf_jax.data", ("jax", *HEAVY)),
        ("stf_jax.models, stf_jax.training", ("safetensors", "huggingface_hub", *HEAVY)),
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
