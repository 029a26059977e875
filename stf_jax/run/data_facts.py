"""What a run was trained on, in a few numbers, so that other data in its place are noticed."""

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stf_jax.config import DataConfig
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.errors import raise_system_fault
from stf_jax.run.run_files import read_run_files, run_config

_LOOKED_AT = 100  # images whose contents are read
_COUNTS = ("tracklets", "frames", "persons")
_REST = {
    "names": "other names of images",
    "structure": "other persons, cameras, lengths or marks of the tracklets",
    "contents": f"other contents of images (of {_LOOKED_AT} that are compared)",
}


def data_facts(table: TrackletTable, *, files: bool) -> dict[str, int]:
    """Describe one subset: counts, and CRC-32 of names, of numbers and of some images' bytes.

    With `files`, the images are files in its folder, and every n-th of them, 100 in all, is read;
    else what is in the images is not looked at.
    """
    numbers = (
        *(table.person_ids, table.cameras, table.tracks),
        *(table.offsets, table.marks, table.labels),
    )
    facts = {
        "tracklets": table.num_tracklets,
        "frames": table.num_frames,
        "persons": len(np.unique(table.person_ids)),
        "names": zlib.crc32(b"\n".join(table.names.tolist())),
        "structure": zlib.crc32(b"".join(array.tobytes() for array in numbers)),
    }
    if files:
        rows = np.unique(np.linspace(0, table.num_frames - 1, _LOOKED_AT).astype(int))
        facts["contents"] = _contents(table, rows.tolist())
    return facts


def trained_on(workdir: Path) -> dict[str, Any] | None:
    """What the run in `workdir` was trained on: `data` (its folder), `partitions`, `subset`.

    And `tracklets`, `frames` and `persons`, which runs of older revisions did not keep. None where
    no run has begun.
    """
    files = read_run_files(workdir)
    if files is None:
        return None
    data = run_config(workdir).data
    last: Any = files.starts[-1] if files.starts else None
    kept = last.get("data") if isinstance(last, dict) else None
    facts = kept.get(data.train_subset) if isinstance(kept, dict) else None
    return _place(data, data.train_subset, facts if isinstance(facts, dict) else {})


def scored_on(data: DataConfig, table: TrackletTable) -> dict[str, Any]:
    """The same of `table`, the `eval_subset` of the config section `data`."""
    return _place(data, data.eval_subset, data_facts(table, files=False))


def _place(data: DataConfig, subset: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: facts[name] for name in _COUNTS if type(facts.get(name)) is int}
    return {"data": str(data.root), "partitions": data.partitions, "subset": subset, **counts}


def _contents(table: TrackletTable, rows: list[int]) -> int:
    checksum = 0
    for row in rows if table.num_frames else []:
        path = table.image_dir / os.fsdecode(bytes(table.names[row]))
        try:
            contents = path.read_bytes()
        except OSError as error:  # its loss is for the reading of frames to count
            raise_system_fault(error, path)
            contents = b""
        checksum = zlib.crc32(contents, zlib.crc32(len(contents).to_bytes(8, "big"), checksum))
    return checksum


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs between the facts of two starts, subset by subset; nothing if all agree.

    Both are {subset: facts}. What only one of them knows is not compared.
    """
    changes = []
    for subset in sorted(set(before) & set(now)):
        was, has = before[subset], now[subset]
        differing = [name for name in has if name in was and has[name] != was[name]]
        found = [f"{was[n]:,} -> {has[n]:,} {n}" for n in _COUNTS if n in differing]
        # Other counts come with all the rest.
        found = found or [text for name, text in _REST.items() if name in differing]
        if found:
            changes.append(f"{subset}: {', '.join(found)}")
    return changes
