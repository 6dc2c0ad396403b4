"""Signals that request a stop."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from avjax.runtime.signals import (
    StopRequest,
    Terminated,
    deferred,
    loading,
    repeat_lost_interrupts,
    terminable,
)


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


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_deferred_signal_comes_after_the_block(number, kind):
    done = []

    def work():
        with deferred():
            os.kill(os.getpid(), number)
            done.append("block")

    with terminable(), pytest.raises(KeyboardInterrupt) as error:
        work()
    assert error.type is kind
    assert done == ["block"]
    with StopRequest() as stop, deferred():
        os.kill(os.getpid(), number)
        assert not stop.requested
    assert stop.requested


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_loading_restores_the_handler(number):
    handler = signal.getsignal(number)
    with loading():
        assert signal.getsignal(number) is not handler
    assert signal.getsignal(number) is handler
    signal.signal(number, signal.SIG_IGN)  # as for a background job
    try:
        with loading(), terminable():
            assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, handler)


LOAD_FOREVER = """
import time
from avjax.runtime.signals import loading
with loading():
    print("loading", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_while_loading_ends_the_process_with_a_line(number, status, root_dir):
    command = [sys.executable, "-c", LOAD_FOREVER]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=root_dir, **pipes) as process:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(number)
        assert process.communicate()[1] == "error: interrupted\n"
    assert process.returncode == status


def test_termination_is_raised_within_the_block():
    with pytest.raises(Terminated), terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_stop_request_comes_before_termination():
    with terminable(), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


class InCallback:
    """Raises in its finaliser, where Python ignores exceptions."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def test_termination_lost_in_a_callback_is_repeated():
    def work():
        InCallback()
        time.sleep(10)

    with pytest.raises(Terminated), terminable(), repeat_lost_interrupts():
        work()


def test_other_threads_do_not_change_handlers():
    requested = []

    def work():
        with loading(), StopRequest() as stop:
            requested.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requested == [False]
