"""Images into a layout's folder by hard link, or by copy; resumes wherever it was stopped."""

import argparse
import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stf_jax.errors import UserError
from stf_jax.files import atomic_write
from stf_jax.prepare.output import claim_output
from stf_jax.prepare.published.source_tracklets import SourceTracklet, image_names, listing_digest
from stf_jax.prepare.validation import add_val_share

_NO_LINKS = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EINVAL,
}


def add_placing_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that all commands that place images share."""
    add = parser.add_argument
    add("--source", required=True, type=Path, metavar="DIR", help="the data set as unpacked")
    add("--output", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    add(
        "--copy",
        action="store_true",
        help="copy the images; without it they are hard links, which take no room, but an image "
        "changed in place then changes in both folders (copied anyway where links cannot be made)",
    )
    add_val_share(add)


def place_images(
    source: Path,
    groups: Mapping[Any, Sequence[SourceTracklet]],
    output: Path,
    receipt: Mapping[str, object],
    *,
    copy: bool,
    camera_digits: int = 1,
    partitions: Sequence[str] = ("partitions.pkl",),
) -> tuple[dict[Any, list[str]], str]:
    """Places the files of tracklets in `<output>/images`.

    Returns the names there of each group's images, in order, and a line that says how.

    An image is placed atomically. Those that an interrupted run placed are left as they
    are. While images are missing there is no partitions file, the sign of a whole layout: the
    caller writes it afterwards.

    Args:
        source: folder that the tracklets' files are relative to.
        groups: tracklets, such as those of a subset.
        output: the layout's folder; claimed by `receipt` (see `claim_output`).
        receipt: plain values that, with the list of files, distinguish this input from any other.
        copy: copy, rather than link and copy only where the file system makes no links.
        camera_digits: as `image_name` takes it.
        partitions: names of the partitions files that the caller will write.

    Raises:
        UserError: an output folder of something else, a file that cannot be read, a full disk.
    """
    names_of = {
        key: [name for tracklet in group for name in image_names(tracklet, camera_digits)]
        for key, group in groups.items()
    }
    files = [file for group in groups.values() for tracklet in group for file in tracklet.files]
    names = [name for group in names_of.values() for name in group]
    receipt = {**receipt, "files": listing_digest(files, names)}
    folder, present = claim_output(output, receipt)
    todo = [k for k, name in enumerate(names) if name not in present]
    if todo:
        for name in partitions:
            (output / name).unlink(missing_ok=True)
    linked = copied = 0
    root, target = os.fspath(source.resolve()), os.fspath(folder)
    for k in tqdm(todo, desc="images", unit="image", disable=None):
        path, into = os.path.join(root, files[k]), os.path.join(target, names[k])
        try:
            if not copy:
                try:
                    _link(path, into)
                    linked += 1
                    continue
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    copy = True  # one file system serves all, so this holds for the rest
            with atomic_write(Path(into), sync=False) as temporary:
                shutil.copyfile(path, temporary)
            copied += 1
        except OSError as error:
            raise UserError(
                f"{path}: cannot be placed as {into} ({error.strerror}); fix it and run the same "
                f"command again, it resumes after {linked + copied:,} of {len(todo):,} images"
            ) from None
    counts = {"linked": linked, "copied": copied, "there before": len(names) - len(todo)}
    return names_of, ", ".join(f"{count:,} {how}" for how, count in counts.items() if count)


def _link(path: str, into: str) -> None:
    if os.path.islink(path):  # a hard link to a relative link would point to nothing
        path = os.path.realpath(path)
    if os.path.lexists(into):  # an empty file: damaged at its source, or undone by a power cut
        os.unlink(into)
    os.link(path, into)
