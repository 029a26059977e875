"""How much higher one model's mAP is than another's, over several runs of each."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stf_jax.evaluation import Ranking, mean_ap_difference


def gain(one: str, other: str, found: Sequence[Ranking], others: Sequence[Ranking]) -> str:
    """Return a line: mAP of `one` over `other` and its 95 % interval over people.

    `found` and `others` are their rankings of the same queries, run by run: seeds, splits or
    directions. A resample draws people with replacement; a person counts in all runs that test it.
    """
    difference = mean_ap_difference(_joined(found), _joined(others), resamples=2000)
    mean, low, high = (100 * value for value in difference)
    return (
        f"{one} over {other}: {mean:+.1f} mAP, 95 % interval over people {low:+.1f} to {high:+.1f}"
    )


def _joined(found: Sequence[Ranking]) -> Ranking:
    """The first one with the queries of all: enough for `mean_ap_difference`."""
    names = ("query_ids", "average_precisions", "match_counts")
    arrays = {name: np.concatenate([getattr(each, name) for each in found]) for name in names}
    return replace(found[0], **arrays)
