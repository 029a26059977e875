"""The folder that a command writes: claimed once, gone on with after an interruption."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from stf_jax.errors import UserError
from stf_jax.files import TEMPORARY_SUFFIX, atomic_write, is_leftover
from stf_jax.reading.limits import read_json


@contextlib.contextmanager
def whole_file(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """As `atomic_write`; any OSError in the block, such as a full disk, is raised as UserError."""
    try:
        with atomic_write(path, sync=sync) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); fix it and run the same "
            "command again, it resumes where it stopped"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically; raises UserError where it cannot be written."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def claim_output(root: Path, receipt: Mapping[str, object]) -> tuple[Path, set[str]]:
    """Takes a new or empty folder, or one that the same command began; refuses any other.

    Returns the folder's `images`, made if need be, and the names of the whole images in it; what
    an interrupted run left half-written is removed.

    Args:
        root: the folder; created if need be.
        receipt: what must be the same for a second run to resume where the first one stopped;
            plain JSON values, among them "source", the name of the command. It is kept in the
            folder as `prepare_<source>.json`.

    Raises:
        UserError: a folder of something else, or one begun with other input or options.
    """
    path = root / f"prepare_{receipt['source']}.json"
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is not a folder")
    interrupted = f"{path.name}.*{TEMPORARY_SUFFIX}"
    if root.exists() and any(
        not child.match(interrupted) and not is_leftover(child.name) for child in root.iterdir()
    ):
        try:
            before = dict(read_json(path))
        except (OSError, TypeError, ValueError):
            raise UserError(
                f"{root}: is not empty and was not begun by this command; give a new folder"
            ) from None
        changed = sorted(key for key in {*before, *receipt} if before.get(key) != receipt.get(key))
        if changed:
            raise UserError(
                f"{root}: was begun with other input or options ({', '.join(changed)}); "
                "give a new folder, or remove this one"
            )
    else:
        root.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(receipt, indent=1, sort_keys=True) + "\n")
    for leftover in root.glob(f"*{TEMPORARY_SUFFIX}"):
        leftover.unlink()
    folder, present = root / "images", set()
    folder.mkdir(exist_ok=True)
    for entry in os.scandir(folder):
        if entry.name.endswith(TEMPORARY_SUFFIX):
            os.unlink(entry.path)
        elif entry.stat().st_size:
            present.add(entry.name)
    return folder, present
