"""The script that plants mistakes tells a mistake that a test notices from one that none does."""

import subprocess
from pathlib import Path

import plant_mistakes
import pytest

MODULE = '''\
def area(height: int, width: int) -> int:
    """The area."""
    return height * width


def last(rows: list[int]) -> int:
    return rows[-1]
'''
TESTS = """\
from module import area, last


def test_area() -> None:
    assert area(2, 3) == 6


def test_last() -> None:
    assert last([4]) == 4
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {"module.py": MODULE, "test_module.py": TESTS, "test_wrong.py": "def test(): assert 0"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for command in ("init", "add ."):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(plant_mistakes, "ROOT", tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return tmp_path


def test_a_caught_mistake_and_a_survivor(repository: Path, capsys: pytest.CaptureFixture) -> None:
    # The swapped index survives, as the test's list has one entry.
    assert plant_mistakes.main(["module.py", "--tests", "test_module.py", "--jobs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("without a mistake: passed in ")
    assert sorted(lines[1:-1]) == [
        "SURVIVED module.py:7 last (index): -1 -> 0",
        "caught   module.py:3 area (arithmetic): height * width -> height / width",
        "caught   module.py:3 area (name): height -> width",
        "caught   module.py:3 area (name): width -> height",
    ]
    assert lines[-1] == "4 of 4 mistakes planted, 1 survived"
    assert (repository / "module.py").read_text() == MODULE


def test_tests_that_fail_before_are_refused(
    repository: Path, capsys: pytest.CaptureFixture
) -> None:
    assert plant_mistakes.main(["module.py", "--tests", "test_wrong.py"]) == 2
    assert "error: these tests fail without a mistake" in capsys.readouterr().err


def test_kinds_of_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '''\
def function(query, gallery, config, *, more=True):
    """Not 1 - 2."""
    config.store(query)
    if query < 3 and more:
        raise ValueError(f"{query - 1}")
    found = config.rank(query, gallery, height=config.height, width=config.width)
    return min(found[1:]), [x for x in found if x]
'''
    (tmp_path / "module.py").write_text(text)
    monkeypatch.setattr(plant_mistakes, "ROOT", tmp_path)
    found = plant_mistakes.Finder(Path("module.py")).found
    changes = {(m.kind, m.after) for m in found}
    assert {
        ("truth", "False"),
        ("call removed", "pass"),
        ("comparison", "query <= 3"),
        ("and/or", "query < 3 or more"),
        ("condition", "not (query < 3 and more)"),
        ("constant", "4"),
        ("name", "gallery"),
        ("attribute", "config.width"),
        ("argument dropped", "config.rank(query, gallery, height=config.height)"),
        (
            "arguments exchanged",
            "config.rank(query, gallery, height=config.width, width=config.height)",
        ),
        (
            "arguments exchanged",
            "config.rank(gallery, query, height=config.height, width=config.width)",
        ),
        ("twin", "max"),
        ("slice", "(1) + 1"),
        ("condition", "True"),
    } <= changes
    assert not any("1 - 2" in m.before or "query - 1" in m.before for m in found)
    for mistake in found:
        assert text.encode()[mistake.start : mistake.end].decode() == mistake.before
        compile(text[: mistake.start] + mistake.after + text[mistake.end :], "module.py", "exec")
    assert list(plant_mistakes.drawn(found, 5, 1)) == list(plant_mistakes.drawn(found, 5, 1))
    assert len({m.kind for m in plant_mistakes.drawn(found, 5, 1)}) == 5
