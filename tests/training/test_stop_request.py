"""A signal is answered at once, and the loop is told to stop."""

import os
import signal

import pytest

from stf_jax.training.stop_request import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_at_once(number: signal.Signals, capfd) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.reached()
        os.kill(os.getpid(), number)
        assert f"{number.name}: stopping after this step" in capfd.readouterr().err
        assert stop.reached()
        assert stop.name == number.name
    assert signal.getsignal(number) == before
