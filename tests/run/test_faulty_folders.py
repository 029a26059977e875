"""A folder that fails while a command reads or writes it: a quota, a network that goes away.

STF_FAULT_POINTS=20 pytest tests/run/test_faulty_folders.py     more moments of each command
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from drivers import SUPPORT, drive

POINTS = int(os.environ.get("STF_FAULT_POINTS", "2"))


@pytest.mark.slow
@pytest.mark.timeout(900 + 120 * POINTS)
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs cc, Linux")
def test_a_folder_that_fails_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    library = tmp_path / "faulty_folder.so"
    source = SUPPORT / "faulty_folder.c"
    compiler = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(compiler, check=True)
    work = tmp_path / "work"
    work.mkdir()
    rows = drive("faulty_driver.py", work, POINTS, LD_PRELOAD=str(library))
    assert len(rows) == 12
    # Some of the calls come after all that matters: such a run ends well.
    assert all(row["statuses"].get("2", 0) >= POINTS // 2 for row in rows), rows
