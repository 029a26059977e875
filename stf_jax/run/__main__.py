"""The command `python -m stf_jax.run check WORKDIR`: is everything in a run's folder whole?"""

import argparse
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from stf_jax.errors import UserError, prints_user_errors, system_fault
from stf_jax.reading.limits import parse_json, read_json
from stf_jax.run import checkpoint
from stf_jax.run.evaluations import EVALUATIONS_FOLDER, SCORES_FILE
from stf_jax.run.metrics_log import METRICS_FILE
from stf_jax.run.recovery import CHECKPOINTS
from stf_jax.run.run_files import read_run_files, run_config


def check_run_folder(workdir: Path, report: Callable[[str], object]) -> bool:
    """Whether config, labels, versions, metrics, scores, features and all checkpoints are whole.

    Checkpoints are read and held against their checksums; nothing is changed. `report` gets a line
    for each. Raises UserError where there is no run.
    """
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder; expected the workdir of a run")
    folder = workdir / CHECKPOINTS
    entries = checkpoint.describe(folder)
    if _or_error(lambda: read_run_files(workdir)) is None and not entries:
        raise UserError(f"{workdir}: no run has begun there; expected the workdir of a run")
    checks: list[tuple[str, Callable[[], str]]] = [
        ("config.json, labels.json, versions.json", lambda: _run_files(workdir)),
        (METRICS_FILE, lambda: _metrics(workdir / METRICS_FILE)),
    ]
    for entry in entries:
        which = ", ".join(["latest"] * entry.is_latest + ["best"] * entry.is_best)
        name = f"{CHECKPOINTS}/{entry.step}" + (f" ({which})" if which else "")
        checks.append((name, lambda step=entry.step: _checkpoint(folder, step)))
    for path in checkpoint.numbered(folder):
        if not (path.is_dir() and checkpoint.is_checkpoint(path)):
            checks.append((f"{CHECKPOINTS}/{path.name}", _no_checkpoint))
    for place in (workdir, *sorted(p for p in (workdir / EVALUATIONS_FOLDER).glob("*/"))):
        for name, look in ((SCORES_FILE, _json), ("features.npz", _archive)):
            path = place / name
            if path.exists():
                where = str(path.relative_to(workdir))
                checks.append((where, lambda path=path, look=look: look(path)))
    whole = True
    for name, look in checks:
        try:
            report(f"whole    {name}: {look()}")
        except Exception as error:  # whatever damaged bytes raise
            place = workdir / name.split(" ")[0]
            if place.parent == folder and not place.exists():  # a run trains meanwhile
                report(f"gone     {name}: removed meanwhile")
                continue
            whole = False
            text = " ".join(f"{error or type(error).__name__}".split())
            report(f"{'unread ' if system_fault(error) else 'damaged'}  {name}: {text}")
    return whole


def _or_error(read: Callable[[], object]) -> object:
    # What it gives, or its error.
    try:
        return read()
    except UserError as error:
        return error


def _run_files(workdir: Path) -> str:
    run_config(workdir)
    found = read_run_files(workdir)
    assert found is not None
    return f"{len(found.starts)} starts, {len(found.labels)} persons"


def _metrics(path: Path) -> str:
    broken, steps = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            steps.append(int(parse_json(line)["step"]))
        except (ValueError, TypeError, KeyError):
            broken.append(number)
    if broken:
        raise ValueError(f"{len(broken)} broken lines, the first is line {broken[0]}")
    return f"{len(steps)} lines, up to step {max(steps, default=0)}"


def _checkpoint(folder: Path, step: int) -> str:
    tensors = checkpoint.verify(folder, step)
    if checkpoint.read_scores(folder, step) is None:
        raise ValueError("its scores cannot be read")
    return f"{tensors} tensors"


def _no_checkpoint() -> str:
    raise ValueError("no checkpoint, though named as one")


def _json(path: Path) -> str:
    read_json(path)
    return f"{path.stat().st_size:,} bytes"


def _archive(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        return f"{len(archive.namelist())} arrays"


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; status 0 where all is whole, 1 where something is damaged, 2 for no run."""
    parser = argparse.ArgumentParser(prog="python -m stf_jax.run", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="read every checkpoint and file of a run")
    check.add_argument("workdir", type=Path)
    return 0 if check_run_folder(parser.parse_args(argv).workdir, print) else 1


if __name__ == "__main__":
    sys.exit(main())
