import subprocess
import sys
from types import SimpleNamespace

import pytest

from stf_jax.errors import UserError
from stf_jax.prepare import __main__ as command


def test_the_sources_are_listed(capsys):
    assert command.main(["--help"]) == 0
    out = capsys.readouterr().out
    for source in command.SOURCES:
        assert source in out
    assert command.main([]) == 2
    assert "usage" in capsys.readouterr().err


STAYS = "what was written whole stays; fix it and run the same command again"


@pytest.mark.parametrize("source", ["marz", "__main__", "layout", "../mot"])
def test_what_is_no_source_is_refused_in_one_line(source, capsys):
    assert command.main([source]) == 2
    err = capsys.readouterr().err
    assert source in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("source", sorted(command.SOURCES))
def test_every_source_has_help_with_an_example(source, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([source, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"python -m stf_jax.prepare {source}" in out
    assert "example" in out


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (UserError("a.txt: empty\nb.txt: empty"), 2, "error: a.txt: empty\nb.txt: empty\n"),
        (
            FileNotFoundError(2, "No such file", "c.txt"),
            2,
            f"error: c.txt: No such file; {STAYS}\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted: run the same command again to resume\n"),
    ],
)
def test_bad_input_is_reported_without_a_traceback(error, status, printed, monkeypatch, capsys):
    def fail(_args):
        raise error

    module = SimpleNamespace(add_arguments=lambda parser: None, run=fail)
    monkeypatch.setattr(command.importlib, "import_module", lambda name: module)
    assert command.main(["synthetic"]) == status
    assert capsys.readouterr().err == printed


def test_faults_of_the_program_keep_their_traceback(monkeypatch):
    def fail(_args):
        raise ZeroDivisionError

    module = SimpleNamespace(add_arguments=lambda parser: None, run=fail)
    monkeypatch.setattr(command.importlib, "import_module", lambda name: module)
    with pytest.raises(ZeroDivisionError):
        command.main(["synthetic"])


def test_a_source_does_not_load_the_others_nor_the_frameworks():
    code = (
        "import sys; from stf_jax.prepare.__main__ import main\n"
        "try: main(['synthetic', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'tensorflow', 'av', 'stf_jax.prepare.mot'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
