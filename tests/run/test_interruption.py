"""The first signal waits for the run to save, the second does not; outside all is as it was."""

import signal

import pytest

from depthlab.run.interruption import Interruption

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_remembered_and_the_second_ends(number):
    before = [signal.getsignal(n) for n in SIGNALS]
    with Interruption().watching() as interruption:
        assert interruption.signal is None
        signal.raise_signal(number)
        assert interruption.signal == number
        with pytest.raises(SystemExit) as stop:
            signal.raise_signal(signal.SIGTERM)
        assert stop.value.code == 143
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_outside_signals_do_what_they_did_before(monkeypatch, error):
    def mine(number, frame):
        pass

    before = [signal.signal(n, mine) for n in SIGNALS]
    try:
        with pytest.raises(error), Interruption().watching():
            raise error if signal.getsignal(signal.SIGTERM) is not mine else AssertionError
        assert [signal.getsignal(n) for n in SIGNALS] == [mine, mine]
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
