"""Hosts of unlike config, data or weights are told apart; what is a host's own is let be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stf_jax import hosts
from stf_jax.config import Config, changed
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.run.same_run import check_hosts


def table(frames: int) -> TrackletTable:
    numbers = np.zeros(1, np.int64)
    return TrackletTable(
        image_dir=Path("images"),
        names=np.array([b"%d" % k for k in range(frames)]),
        offsets=np.array([0, frames]),
        person_ids=numbers,
        cameras=numbers,
        tracks=numbers,
        marks=numbers.astype(np.int8),
        labels=numbers,
    )


def test_what_differs_between_hosts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, str]] = []
    monkeypatch.setattr(hosts, "check_same", told.append)
    config, arrays = Config(), {"params": {"w": np.ones(3)}, "step": np.zeros(())}

    def differing(config: Config, tables: Any, arrays: Any) -> set[str]:
        check_hosts(config, tables, arrays)
        return {name for name in told[0] if told[-1][name] != told[0][name]}

    same = (table(2), None)
    check_hosts(config, same, arrays)
    assert told == []  # one host
    monkeypatch.setattr(hosts, "several", lambda: True)
    assert differing(config, same, arrays) == set()
    own = {"data.root": "elsewhere", "data.threads": 3, "compilation_cache": "/other"}
    assert differing(changed(config, own), same, arrays) == set()
    for key, value in (("seed", 1), ("data.height", 64), ("train.parallel", "shard_map")):
        assert differing(changed(config, {key: value}), same, arrays) == {"the config"}
    assert differing(config, (table(3), None), arrays) == {"the data (partitions)"}
    assert differing(config, (table(2), table(2)), arrays) == {"the data (partitions)"}
    other = {"params": {"w": np.array([1, 1, 2.0])}, "step": np.zeros(())}
    assert differing(config, same, other) == {"the weights it starts from"}
    assert differing(config, same, {**arrays, "step": np.ones(())}) == {
        "the weights it starts from"
    }
