import pytest

from stf_jax.prepare.__main__ import SOURCES, main

PUBLISHED = ["mars", "ilids-vid", "prid2011", "ls-vid", "pku-reid"]


@pytest.mark.parametrize("source", ["mot", *PUBLISHED, "verify"])
def test_every_source_has_help_with_an_example(source, capsys):
    assert source in SOURCES
    with pytest.raises(SystemExit) as caught:
        main([source, "--help"])
    assert caught.value.code == 0
    assert f"python -m stf_jax.prepare {source} " in capsys.readouterr().out.partition("example")[2]


@pytest.mark.parametrize("source", PUBLISHED)
def test_a_missing_source_is_one_line_and_status_2(source, tmp_path, capsys):
    options = ["--source", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]
    assert main([source, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'nowhere'}: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_verify_says_by_its_status_whether_there_is_something_to_fix(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "no such file; expected a layout's partitions file" in capsys.readouterr().err
