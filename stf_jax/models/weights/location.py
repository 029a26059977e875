"""Where a file of weights is: a path or a Hugging Face repository, with or without a digest."""

import hashlib
import os
import threading
from pathlib import Path

import huggingface_hub

from stf_jax.errors import UserError

_DIGEST = "#sha256="
# How long the hub may take to answer at all; huggingface_hub alone tries for half a minute.
_ANSWER_SECONDS = 2.5


def locate_weights(location: str | os.PathLike[str]) -> Path:
    """Return a local file for `location`, fetched once if need be.

    `location` is a path, or `hf://OWNER/REPOSITORY/FILE` (with `@REVISION` after the repository if
    wanted). Either may end in `#sha256=` and 64 hexadecimal digits: then the content is checked,
    each time. A file of the hub is taken from `weights_folder()` if someone put it there, else
    through huggingface_hub and its cache.

    Raises UserError: a malformed location, a file that is not there or not to be had (without
    network after 2.5 seconds), another digest.
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
    url = huggingface_hub.hf_hub_url(repository, file, revision=revision)
    reason = _why_no_answer(url)
    if reason:
        found = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(found, str):
            return Path(found)
    else:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
        except Exception as error:  # the hub's and its client's errors have no common base
            reason = _in_a_line(error)
    raise UserError(
        f"{source}: not to be had ({reason}); without network, fetch {url} elsewhere and put it at "
        f"{placed}"
    )


def _why_no_answer(url: str) -> str:
    """Why the hub cannot be asked for `url`; "" where it answers, whatever it says."""
    answers: list[str] = []

    def ask() -> None:
        try:
            huggingface_hub.get_hf_file_metadata(url, timeout=_ANSWER_SECONDS)
        except huggingface_hub.errors.HfHubHTTPError:
            pass  # an answer, which the download reports
        except Exception as error:
            answers.append(_in_a_line(error))
            return
        answers.append("")

    # In a thread: no time-out holds for the look-up of a name. It ends with the process.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    return answers[0] if answers else f"no answer within {_ANSWER_SECONDS:g} s"


def _in_a_line(error: Exception) -> str:
    reason = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {reason}"


def _parse(source: str) -> tuple[str, str | None, str]:
    """Split `hf://OWNER/REPOSITORY[@REVISION]/FILE`; the file may be in folders."""
    parts = source.removeprefix("hf://").split("/")
    if len(parts) < 2 or not all(parts) or ".." in parts:
        raise UserError(f"{source}: expected hf://OWNER/REPOSITORY/FILE")
    # Of two parts, the first is one of the hub's few repositories without an owner.
    size = 1 if len(parts) == 2 else 2
    repository, _, revision = "/".join(parts[:size]).partition("@")
    return repository, revision or None, "/".join(parts[size:])
