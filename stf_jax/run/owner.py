"""Who owns a folder where several hosts work as one: the first of them, for all."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stf_jax import hosts
from stf_jax.folder_lock import one_owner


@contextmanager
def one_owner_of_hosts(folder: Path, name: str) -> Iterator[None]:
    """`folder_lock.one_owner` on every host: the first one owns it, or all raise UserError."""
    with ExitStack() as stack:

        def own() -> None:
            stack.enter_context(one_owner(folder, name))

        hosts.from_first(own)
        yield
