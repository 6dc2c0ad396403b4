"""Signals that request a stop."""

import os
import signal
import threading

import pytest

from avjax.runtime.signals import StopRequest, Terminated, loading


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_first_signal_requests_a_stop_and_second_interrupts(number):
    handler = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is handler


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_interrupt_has_the_type_of_its_signal(number, kind):
    def loop():
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
            assert stop.requested
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as error:
        loop()
    assert error.type is kind


def test_loading_restores_the_handler():
    handler = signal.getsignal(signal.SIGINT)
    with loading():
        assert signal.getsignal(signal.SIGINT) is not handler
    assert signal.getsignal(signal.SIGINT) is handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a background job
    try:
        with loading():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)


def test_other_threads_do_not_change_handlers():
    requested = []

    def work():
        with loading(), StopRequest() as stop:
            requested.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requested == [False]
