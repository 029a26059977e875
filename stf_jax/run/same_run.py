"""Whether all hosts are in one and the same run: else they would wait for each other forever."""

import json
from collections.abc import Sequence
from typing import Any

from stf_jax import hosts
from stf_jax.config import Config, to_json
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.run.tensor_checksums import digest

# What may differ between hosts: where their own disks and cores are.
OWN_KEYS = (("data", "root"), ("data", "threads"), ("compilation_cache",))


def check_hosts(config: Config, tables: Sequence[TrackletTable | None], arrays: Any) -> None:
    """Raise UserError, on every host, unless all have the same config, data and `arrays`.

    `tables` are the data; `arrays` is a pytree (state or variables). All hosts have to call it.
    """
    if not hosts.several():
        return
    plain = to_json(config)
    for *sections, key in OWN_KEYS:
        inner = plain
        for section in sections:
            inner = inner[section]
        inner.pop(key, None)
    data = [table.checksum for table in tables if table is not None]
    hosts.check_same(
        {
            "the config": json.dumps(plain, sort_keys=True),
            "the data (partitions)": str(data),
            "the weights it starts from": digest(arrays),
        }
    )
