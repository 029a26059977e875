"""Checks of the arrays handed to the evaluation: every error names the argument at fault."""

import numpy as np

from stf_jax.errors import UserError


class ArgumentError(UserError, ValueError):
    """An argument that cannot be scored: its name, what was found, what was expected."""


def checked_labels(name: str, value, length: int | None = None, per: str = "entry") -> np.ndarray:
    """`value` as int64 [n]: identities, cameras or marks.

    Raises:
        ArgumentError: not one-dimensional, not integers, or not `length` long (`per` says of what).
    """
    array = np.asarray(value)
    if array.ndim != 1:
        raise ArgumentError(f"{name}: shape {array.shape}; expected one integer per {per}")
    if array.dtype.kind not in "iu" and array.size:
        raise ArgumentError(f"{name}: dtype {array.dtype}; expected integers")
    if length is not None and len(array) != length:
        raise ArgumentError(f"{name}: {len(array)} entries; expected {length}, one per {per}")
    return array.astype(np.int64)


def checked_matrix(
    name: str, value, shape: tuple[int | None, int | None] = (None, None)
) -> np.ndarray:
    """`value` as a two-dimensional floating-point array, not copied when it is one already.

    Half precision becomes float32. NaN is looked for by `require_no_nan`, block by block.

    Raises:
        ArgumentError: not two-dimensional, not floating point, or not of `shape` (None: any size).
    """
    array = np.asarray(value)
    if array.ndim != 2:
        raise ArgumentError(f"{name}: shape {array.shape}; expected two dimensions")
    if not np.issubdtype(array.dtype, np.floating):
        raise ArgumentError(f"{name}: dtype {array.dtype}; expected float32 or float64")
    if any(
        want is not None and have != want for have, want in zip(array.shape, shape, strict=True)
    ):
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        raise ArgumentError(f"{name}: shape {array.shape}; expected {wanted}")
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def require_no_nan(name: str, block: np.ndarray, first_row: int = 0) -> None:
    """Raises ArgumentError naming the first NaN of `block`, whose row 0 is row `first_row`."""
    found = np.isnan(block)
    if found.any():
        row, column = np.argwhere(found)[0]
        raise ArgumentError(
            f"{name}: NaN at row {first_row + row}, column {column} "
            f"({np.count_nonzero(found)} in this block); expected numbers"
        )


def checked_count(name: str, value, least: int = 1) -> int:
    """`value` as an int. Raises ArgumentError where it is not an integer or below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ArgumentError(f"{name}: {value!r}; expected an integer of at least {least}")
    return int(value)


def checked_choice(name: str, value, choices) -> str:
    """`value` if it is one of `choices`. Raises ArgumentError listing them otherwise."""
    if value not in choices:
        raise ArgumentError(f"{name}: {value!r}; expected one of {', '.join(choices)}")
    return value
