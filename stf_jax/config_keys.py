"""What a key of the configuration is declared with: default, meaning, what it may hold."""

from collections.abc import Callable, Iterable
from dataclasses import field
from itertools import pairwise
from math import inf
from typing import Any


def key(default: Any, meaning: str, holds: Callable[[Any], bool], expected: str) -> Any:
    """A field of a section, with the condition on its values and that condition in words."""
    metadata = {"meaning": meaning, "holds": holds, "expected": expected}
    return field(default=default, metadata=metadata)


def flag(default: bool, meaning: str) -> Any:
    """A key that holds True or False."""
    return key(default, meaning, lambda v: isinstance(v, bool), "True or False")


def text(default: str, meaning: str) -> Any:
    """A key that holds text, which may be empty where the default is."""
    expected = "text that is not empty" if default else "text"
    return key(default, meaning, lambda v: isinstance(v, str) and bool(v or not default), expected)


def choice(values: tuple[Any, ...], meaning: str) -> Any:
    """A key that holds one of `values`; the first is the default."""
    return key(values[0], meaning, lambda v: among((v,), values), f"one of {listed(values)}")


def number(default: float, meaning: str, at_least: float = 0, at_most: float = inf) -> Any:
    """A key that holds a finite number of a range, a whole one where the default is an `int`."""
    kind, name = (int, "whole number") if type(default) is int else ((int, float), "number")
    return key(
        default,
        meaning,
        lambda v: within((v,), at_least, at_most, kind),
        f"a {name} {_limits(at_least, at_most)}",
    )


def span(
    default: tuple[float, float], meaning: str, at_least: float = 0, at_most: float = 1
) -> Any:
    """A key that holds the two ends of a range from which numbers are drawn."""
    return key(
        default,
        meaning,
        lambda v: within(v, at_least, at_most) and len(v) == 2 and v[0] <= v[1],
        f"two numbers {_limits(at_least, at_most)}, the lower one first",
    )


def among(v: Any, values: tuple[Any, ...]) -> bool:
    """Whether `v` is a tuple of different ones of `values`, which are of one type."""
    same_type = isinstance(v, tuple) and all(type(x) is type(values[0]) for x in v)
    return same_type and set(v) <= set(values) and len(set(v)) == len(v)


def within(v: Any, low: float, high: float = inf, kind: Any = (int, float)) -> bool:
    """Whether `v` is a tuple of finite numbers of a range, of 64 bits; bools are not numbers."""
    if not isinstance(v, tuple):
        return False
    numbers = all(isinstance(x, kind) and not isinstance(x, bool) for x in v)
    return numbers and all(low <= x <= high and x < (2**63 if type(x) is int else inf) for x in v)


def rising(v: tuple[float, ...]) -> bool:
    """Whether each of the numbers is more than the one before."""
    return all(a < b for a, b in pairwise(v))


def _limits(low: float, high: float) -> str:
    return f"of {low:g} or more" if high == inf else f"from {low:g} to {high:g}"


def listed(values: Iterable[Any]) -> str:
    """The values with commas between them."""
    return ", ".join('""' if value == "" else str(value) for value in values)
