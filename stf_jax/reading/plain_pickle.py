"""An unpickler that calls nothing but a short table's functions, and of bounded work and memory.

A pickle is a program. Its names are looked up in a table of the caller's, so that it cannot run
others; but with lists alone it can ask for any amount of memory and time: by containers that are
shared a thousand times, by keys made to collide or to be hashed without end, by copies of copies.
So a key is one number or text, a call may copy only as much as the file could hold, and what is
returned has few levels and unfolds to no more than a few times the file.

The interpreter's pure-Python unpickler is used: the C one allocates as much memory as a corrupt
file asks for. Reading 1.2 million names takes it one to two seconds.
"""

import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

DEPTH = 32  # levels of containers in containers
OBJECTS = 8_000_000  # containers and remembered values
TIMES = 8  # what calls may copy, and shared containers unfold to, for each byte of the file
_FREE = 10_000  # of these, whatever the file's size

_CONTAINERS = (list, tuple, dict, set, frozenset)
_SIZED = (*_CONTAINERS, str, bytes, bytearray)
_COUNTED = (
    *(pickle.MARK, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.LIST),
    *(pickle.DICT, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.FROZENSET),
    *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
)
# Objects of classes, which no file of plain values has.
_OF_CLASSES = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


class RefusedError(Exception):
    """Something that a file of plain values has no business holding; the message names it."""


def check_key(key: object) -> None:
    """Raise RefusedError for what may not be a key: its hash could be endless, or made to collide.

    That of text is secret and other, in every process, and few numbers of 64 bits share theirs.
    """
    if not isinstance(key, str | bytes | int | float | None):
        raise RefusedError(f"a {type(key).__name__} as a key")
    if isinstance(key, int) and not -(2**63) <= key < 2**64:
        raise RefusedError("a key beyond 64 bits")


def checked_keys(keys: Iterable[Any]) -> Iterator[Any]:
    """The same keys, each checked."""
    for key in keys:
        check_key(key)
        yield key


def plain_dict(items: Any = ()) -> dict[Any, Any]:
    """A dict of pairs, or of a dict."""
    pairs = items.items() if isinstance(items, dict) else items
    return {key: value for key, value in pairs if check_key(key) is None}


class _WholeLines(io.BytesIO):
    """Tells a name cut off at the end of a truncated file from a shorter name."""

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise EOFError("cut off within a line")
        return line


class PlainUnpickler(pickle._Unpickler):
    """The unpickler; `find_class` is the subclass's, or looks names up in `admitted`.

    Args:
        content: the pickle.
        encoding: of the text of Python 2.
        admitted: (module, name) -> what stands for it.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    metastack: list[list[Any]]

    def __init__(
        self, content: bytes, encoding: str, admitted: Mapping[tuple[str, str], Any]
    ) -> None:
        self.stream = _WholeLines(content)
        super().__init__(self.stream, encoding=encoding)
        self.admitted = admitted
        self.most = TIMES * len(content) + _FREE
        self.copied = self.objects = 0

    def load(self) -> Any:
        """What the pickle holds; raises RefusedError, or whatever a corrupt one leads into."""
        value = super().load()
        check_tree(value, self.most)
        return value

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the table."""
        try:
            return self.admitted[module, name]
        except KeyError:
            raise RefusedError(f"{module}.{name}") from None

    def count_copied(self, values: Iterable[Any]) -> None:
        """Count what a call, or an array's state, may copy."""
        self.copied += sum(len(value) for value in values if isinstance(value, _SIZED))
        if self.copied > self.most:
            raise RefusedError("copies of copies, far more than the file's size")

    def load_reduce(self) -> None:
        """Calls a function of the table."""
        self.count_copied(self.stack[-1])
        super().load_reduce()  # type: ignore[misc]

    dispatch[pickle.REDUCE[0]] = load_reduce


def _counted(load: Callable[[Any], None]) -> Callable[[PlainUnpickler], None]:
    def counted(self: PlainUnpickler) -> None:
        self.objects += 1
        if self.objects > OBJECTS:
            raise RefusedError(f"more than {OBJECTS:,} objects")
        load(self)

    return counted


def _with_keys(
    load: Callable[[Any], None], keys: Callable[[list[Any]], list[Any]]
) -> Callable[[PlainUnpickler], None]:
    """`load` after a check of the keys that it will take from the stack."""

    def checked(self: PlainUnpickler) -> None:
        for key in keys(self.stack):
            check_key(key)
        load(self)

    return checked


def _refuse_object(_: PlainUnpickler) -> None:
    raise RefusedError("an object of a class")


_load = PlainUnpickler.dispatch
for _code in _COUNTED:
    _load[_code[0]] = _counted(_load[_code[0]])
for _code in _OF_CLASSES:
    _load[_code[0]] = _refuse_object
_load[pickle.SETITEM[0]] = _with_keys(_load[pickle.SETITEM[0]], lambda stack: stack[-2:-1])
for _code in (pickle.SETITEMS, pickle.DICT):
    _load[_code[0]] = _with_keys(_load[_code[0]], lambda stack: stack[::2])
for _code in (pickle.ADDITEMS, pickle.FROZENSET):
    _load[_code[0]] = _with_keys(_load[_code[0]], lambda stack: stack)


def check_tree(value: Any, most: int) -> None:
    """Raise RefusedError for containers that hold themselves, are deep, or unfold to too much.

    Args:
        value: of any type; only the containers of Python are looked into.
        most: objects, a shared container counted as often as it is shared.
    """
    if not isinstance(value, _CONTAINERS):
        return
    unfolded: dict[int, int] = {}
    heights: dict[int, int] = {}
    branch = [(value, iter(_inner(value)))]  # containers, each within the one before
    open_ones = {id(value)}
    while branch:
        container, rest = branch[-1]
        inner = next(rest, None)
        if inner is None:
            branch.pop()
            open_ones.discard(id(container))
            parts = _inner(container)
            unfolded[id(container)] = len(container) + sum(unfolded[id(p)] for p in parts)
            heights[id(container)] = 1 + max((heights[id(p)] for p in parts), default=0)
            if unfolded[id(container)] > most:
                raise RefusedError("shared lists that unfold to far more than the file's size")
        elif id(inner) in open_ones:
            raise RefusedError(f"a {type(inner).__name__} that holds itself")
        elif id(inner) not in unfolded:
            branch.append((inner, iter(_inner(inner))))
            open_ones.add(id(inner))
        if len(branch) + (heights.get(id(inner), 0) if inner is not None else 0) > DEPTH:
            raise RefusedError(f"more than {DEPTH} containers one in another")


def _inner(container: Any) -> list[Any]:
    values = container.values() if isinstance(container, dict) else container
    return [value for value in values if isinstance(value, _CONTAINERS)]
