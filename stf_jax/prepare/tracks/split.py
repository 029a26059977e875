"""Which tracklets of a multi-camera recording train, query and fill the gallery."""

import random
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from stf_jax.errors import UserError
from stf_jax.reading.limits import read_text

TRAIN_RULES = ("odd", "even", "all", "none")


MOST = 1_000_000  # numbers of one range
MOST_IN_ALL = 2 * MOST


def parse_numbers(text: str, what: str) -> list[int]:
    """Whole numbers from `1,3,5-9`, or from a file of them (white space or commas, `#` comments).

    Returns them sorted, each once. `what` names the option in errors.

    Raises:
        UserError: neither a file nor a list of numbers.
    """
    source = text
    if _is_file(text):
        try:
            lines = read_text(text).splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"{what} {text}: not a readable text file ({error})") from None
        source = " ".join(line.split("#", 1)[0] for line in lines)
    numbers: set[int] = set()
    listed = 0
    for part in re.split(r"[\s,]+", source.strip(" \t\r\n,")):
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
        if match is None:
            raise UserError(
                f"{what} {text}: found {part!r}; expected numbers such as 1,3,5-9, or a file"
            )
        if len(part) > 40:
            raise UserError(f"{what} {text:.80}: {part:.40}... has numbers beyond 64 bits")
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high:
            raise UserError(f"{what} {text}: {part!r} counts down; expected {high}-{low}")
        if high - low >= MOST:
            raise UserError(
                f"{what} {text}: {part!r} are more than {MOST:,} numbers; expected less"
            )
        listed += high - low + 1
        if listed > MOST_IN_ALL:
            raise UserError(f"{what} {text:.80}: more than {MOST_IN_ALL:,} numbers; expected less")
        numbers.update(range(low, high + 1))
    return sorted(numbers)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than a name may be, or with a zero byte
        return False


def train_ids_by_rule(ids: Collection[int], rule: str) -> set[int]:
    """Identities that train: those that are odd, those that are even, all, or none."""
    if rule not in TRAIN_RULES:
        raise UserError(f"--train-rule {rule}: expected one of {', '.join(TRAIN_RULES)}")
    keep = {"odd": lambda i: i % 2 == 1, "even": lambda i: i % 2 == 0, "all": lambda _: True}
    return {i for i in ids if rule != "none" and keep[rule](i)}


def train_ids_by_share(ids: Collection[int], share: float, seed: int) -> set[int]:
    """A share of the identities (rounded to whole ones), drawn with a seed; same seed, same ids."""
    if not 0.0 <= share <= 1.0:
        raise UserError(f"--train-fraction {share}: expected a share from 0 to 1")
    ordered = sorted(set(ids))
    return set(random.Random(seed).sample(ordered, round(share * len(ordered))))


def query_tracklets(
    person_ids: Int[np.ndarray, " n"],
    cameras: Int[np.ndarray, " n"],
    query_cameras: Collection[int],
    *,
    need_match: bool = True,
) -> Bool[np.ndarray, " n"]:
    """Which test tracklets are queries: those in query cameras of people that others saw too.

    A person seen by one camera only cannot be found in another one, so its tracklets stay in
    the gallery, where they distract. With `need_match=False` (identities unknown) every
    tracklet of the query cameras is a query.
    """
    in_camera = np.isin(cameras, sorted(query_cameras))
    if not need_match:
        return in_camera
    seen = np.unique(np.stack([person_ids, cameras], axis=1), axis=0)
    people, num_cameras = np.unique(seen[:, 0], return_counts=True)
    return in_camera & np.isin(person_ids, people[num_cameras > 1])
