"""A training run killed at moments that are drawn, and on a full disk, ends as one that was not.

STF_CHAOS_KILLS=200 STF_CHAOS_SEED=1 pytest tests/run/test_chaos.py     more kills, other ones
STF_SOAK_EPOCHS=450 pytest tests/run/test_chaos.py                      and what a long run uses
"""

import os
from pathlib import Path

import pytest
from drivers import drive

KILLS = int(os.environ.get("STF_CHAOS_KILLS", "20"))
SEED = int(os.environ.get("STF_CHAOS_SEED", "0"))
SOAK_EPOCHS = int(os.environ.get("STF_SOAK_EPOCHS", "0"))


@pytest.mark.slow
@pytest.mark.timeout(900 + 30 * KILLS)
def test_killed_or_on_a_full_disk_it_ends_the_same(tmp_path: Path) -> None:
    killed, filled = drive("chaos_driver.py", "killed", tmp_path, KILLS, SEED)
    assert killed["kills"] == KILLS
    assert len(killed["places"]) >= min(4, KILLS // 4)
    assert filled == {"filled": 10}


if SOAK_EPOCHS:

    @pytest.mark.slow
    @pytest.mark.timeout(900 + 5 * SOAK_EPOCHS)
    def test_memory_threads_and_files_do_not_grow(tmp_path: Path) -> None:
        drive("chaos_driver.py", "soak", tmp_path, SOAK_EPOCHS)
