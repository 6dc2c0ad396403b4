"""Requests to stop, by signals."""

import os
import signal
import threading

import pytest

from avjax.runtime.signals import StopRequest


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_first_signal_asks_and_second_interrupts(number):
    former = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is former


def test_outside_the_main_thread_signals_stay_as_they_are():
    outcome = []

    def work():
        with StopRequest() as stop:
            outcome.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [False]
