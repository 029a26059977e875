"""LS-VID's lists of sequences, `prefix person` a line, and the images that begin with a prefix."""

import bisect
import functools
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from stf_jax.data.layout.checks import examples
from stf_jax.errors import UserError
from stf_jax.prepare.published.source_tracklets import LAST_NUMBER, SourceTracklet, is_image
from stf_jax.reading.limits import read_text

_PERSON = re.compile(r"-?[0-9]{1,18}")


def read_list(path: Path) -> list[tuple[str, int]]:
    """The sequences of a list: the prefix of the images' paths, and the person.

    Raises:
        UserError: a line of another form, or a prefix twice.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError):
        raise UserError(f"{path}: cannot be read as text; get the file again") from None
    sequences = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        prefix, _, person = line.strip().rpartition(" ")
        if not prefix or not _PERSON.fullmatch(person):
            raise UserError(f"{path}: line {number} is {line[:80]!r}; expected `prefix person`")
        sequences.append((prefix.strip().replace("\\", "/").lstrip("/"), int(person)))
    if not sequences:
        raise UserError(f"{path}: holds no sequence; expected `prefix person` a line")
    prefixes = [prefix for prefix, _ in sequences]
    if len(set(prefixes)) < len(prefixes):
        ordered = sorted(prefixes)
        twice = next(a for a, b in itertools.pairwise(ordered) if a == b)
        raise UserError(f"{path}: has the sequence {twice!r} twice; keep one line of them")
    return sequences


def _images(folder: Path) -> list[str]:
    """Sorted names of the images in a folder; none where there is no such folder."""
    try:
        return sorted(name for name in os.listdir(folder) if is_image(name))
    except (OSError, ValueError):  # or a name that can be none of a folder
        return []


def _beginning(names: list[str], prefix: str) -> list[str]:
    """Those of sorted `names` that begin so.

    A prefix may stop at the end of a field: `0001_1` then means `0001_1_...` and not
    `0001_10_...`, if there are images of the first kind.
    """
    for wanted in (prefix.rstrip("_") + "_", prefix):
        start = stop = bisect.bisect_left(names, wanted)
        while stop < len(names) and names[stop].startswith(wanted):
            stop += 1
        if stop > start:
            return names[start:stop]
    return []


def _camera(name: str) -> int | None:
    fields = name.split("_")
    if len(fields) < 4 or not re.fullmatch(r"c?[0-9]{1,2}", fields[2]):
        return None
    return int(fields[2].removeprefix("c"))


def _offsets(names: list[str]) -> tuple[int, ...]:
    """The last numbers in the names if they ascend, else 1, 2, ..."""
    matches = [LAST_NUMBER.search(name) for name in names]
    numbers = [int(match[1]) for match in matches if match]
    ascend = all(a < b for a, b in itertools.pairwise(numbers))
    if ascend and len(numbers) == len(names):
        return tuple(numbers)
    return tuple(range(1, len(names) + 1))


def read_sequences(
    source: Path, lists: Mapping[str, Path]
) -> dict[str, tuple[SourceTracklet, ...]]:
    """The tracklets of each list, in its order; tracks are numbered from 1 in person and camera.

    Args:
        source: folder that the prefixes are relative to.
        lists: subset -> list file.

    Raises:
        UserError: sequences without images, images of two sequences, cameras that names do not
            say.
    """
    images = functools.cache(lambda folder: _images(source / folder))
    tracks: defaultdict[tuple[int, int], itertools.count[int]] = defaultdict(
        lambda: itertools.count(1)
    )
    used: set[str] = set()
    groups = {}
    for subset, path in lists.items():
        group, empty, shared = [], [], []
        for prefix, person in read_list(path):
            folder, _, start = prefix.rpartition("/")
            names = _beginning(images(folder), start)
            if not names:
                empty.append(prefix)
                continue
            cameras = {_camera(name) for name in names}
            camera = next(iter(cameras))
            if len(cameras) > 1 or camera is None:
                raise UserError(
                    f"{source / folder}: images {names[0]} to {names[-1]} of the sequence {prefix} "
                    "do not name one camera; expected it as the third of their fields between '_'"
                )
            files = tuple(f"{folder}/{name}" if folder else name for name in names)
            if not used.isdisjoint(files):
                shared.append(prefix)
            used.update(files)
            track = next(tracks[person, camera])
            group.append(SourceTracklet(person, camera, track, files, _offsets(names)))
        if empty:
            raise UserError(
                f"{path}: {len(empty):,} of {len(empty) + len(group):,} sequences have no images "
                f"below {source} ({examples(empty)}); unpack the data set's archives there"
            )
        if shared:
            raise UserError(
                f"{path}: {len(shared):,} sequences share images with another one "
                f"({examples(shared)}); expected prefixes that distinguish sequences"
            )
        groups[subset] = tuple(group)
    return groups
