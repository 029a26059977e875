"""Where a file of weights is: a path or a Hugging Face repository, with or without a digest."""

import hashlib
import os
from pathlib import Path

import huggingface_hub

from stf_jax.errors import UserError

_DIGEST = "#sha256="


def locate_weights(location: str | os.PathLike[str]) -> Path:
    """Return a local file for `location`, fetched once if need be.

    `location` is a path, or `hf://OWNER/REPOSITORY/FILE` (with `@REVISION` after the repository if
    wanted). Either may end in `#sha256=` and 64 hexadecimal digits: then the content is checked,
    each time. A file of the hub is taken from `weights_folder()` if someone put it there, else
    through huggingface_hub and its cache.

    Raises UserError: a malformed location, a file that is not there or not to be had, another
    digest.
    """
    text = os.fspath(location)
    source, mark, digest = text.partition(_DIGEST)
    digest = digest.lower()
    if mark and (len(digest) != 64 or set(digest) - set("0123456789abcdef")):
        raise UserError(f"{text}: found digest {digest!r}, expected 64 hexadecimal digits")
    path = _fetch(source) if source.startswith("hf://") else _home(source)
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights; correct the path, or fetch it first")
    if digest:
        with open(path, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != digest:
            raise UserError(
                f"{path}: found sha256 {found}, expected {digest}: damaged or another file; "
                "delete it and fetch it again, or correct the digest"
            )
    return path


def weights_folder() -> Path:
    """Folder for files of the hub on a machine without network: `STF_JAX_WEIGHTS` or a cache."""
    return _home(os.environ.get("STF_JAX_WEIGHTS", "~/.cache/stf_jax/weights"))


def _home(path: str) -> Path:
    """`~` and `~user` replaced by a folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        raise UserError(f"{path}: no such home folder; write the path in full") from None


def _fetch(source: str) -> Path:
    repository, revision, file = _parse(source)
    # Any revision's file may be here: whoever needs a certain one gives the digest.
    placed = weights_folder() / repository / file
    if placed.is_file():
        return placed
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # the hub's and its client's errors have no common base
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{source}: not to be had ({type(error).__name__}: {reason}); without network, fetch "
            f"{file} of the Hugging Face repository {repository} elsewhere and put it at {placed}"
        ) from error


def _parse(source: str) -> tuple[str, str | None, str]:
    """Split `hf://OWNER/REPOSITORY[@REVISION]/FILE`; the file may be in folders."""
    parts = source.removeprefix("hf://").split("/")
    if len(parts) < 2 or not all(parts) or ".." in parts:
        raise UserError(f"{source}: expected hf://OWNER/REPOSITORY/FILE")
    # Of two parts, the first is one of the hub's few repositories without an owner.
    size = 1 if len(parts) == 2 else 2
    repository, _, revision = "/".join(parts[:size]).partition("@")
    return repository, revision or None, "/".join(parts[size:])
