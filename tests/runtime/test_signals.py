"""Requests to stop, by signals."""

import os
import signal
import threading

import pytest

from avjax.runtime.signals import StopRequest, Terminated, loading


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


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_an_interrupt_knows_its_signal(number, kind):
    def loop():
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
            assert stop.requested
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        loop()
    assert caught.type is kind


def test_loading_leaves_the_handler_as_it_was():
    former = signal.getsignal(signal.SIGINT)
    with loading():
        assert signal.getsignal(signal.SIGINT) is not former
    assert signal.getsignal(signal.SIGINT) is former
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a job in the background
    try:
        with loading():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former)


def test_outside_the_main_thread_signals_stay_as_they_are():
    outcome = []

    def work():
        with loading(), StopRequest() as stop:
            outcome.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [False]
