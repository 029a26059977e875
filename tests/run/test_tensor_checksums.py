"""The digest of a tree of tensors."""

from typing import Any

import jax
import numpy as np

from stf_jax.devices import replicate
from stf_jax.run.tensor_checksums import digest


def make_tree() -> dict[str, Any]:
    kernel, mean = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(3, np.float32)
    return {"params": {"conv": {"kernel": kernel}}, "batch_stats": {"bn": {"mean": mean}}}


def test_digest_does_not_depend_on_where_the_arrays_are() -> None:
    tree = make_tree()
    assert jax.local_device_count() == 2
    placed = [jax.device_put(tree, jax.local_devices()[1]), replicate(tree)]
    assert {digest(one) for one in (tree, *placed)} == {digest(make_tree())}
    assert len(digest(tree)) == 64


def test_digest_changes_with_every_tensor() -> None:
    trees = [make_tree() for _ in range(6)]
    trees[1]["params"]["conv"]["kernel"][1, 2] = 7
    trees[2]["batch_stats"]["bn"]["mean"][0] = 1e-6
    trees[3]["params"]["conv"]["kernel"] = trees[3]["params"]["conv"]["kernel"].reshape(3, 2)
    trees[4]["batch_stats"]["bn"]["mean"] = np.zeros(3, np.int32)  # the same bytes
    trees[5]["params"]["other"] = trees[5]["params"].pop("conv")
    assert len({digest(tree) for tree in trees}) == len(trees)
