import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from tapadl.training.stopping import StopRequestedError, StopSignal, leave_stopping_to_trainer


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_signal_is_noted_and_nothing_else_happens():
    with StopSignal() as stop:
        assert not stop.requested
        terminate()
        assert stop.requested


def test_what_heard_the_signal_before_hears_it_again():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with contextlib.suppress(ZeroDivisionError), StopSignal():
            terminate()
            raise ZeroDivisionError
        assert heard == []
        terminate()
        assert heard == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_block_that_may_be_interrupted_ends_at_once():
    reached = []
    with StopSignal() as stop:
        with contextlib.suppress(StopRequestedError), stop.interrupting():
            terminate()
            reached.append("end of the block")
        assert reached == []
        assert stop.requested


def test_libraries_do_not_take_the_signal_for_an_error_of_theirs():
    def library():
        try:
            terminate()
        except Exception as error:
            raise ValueError("could not download it") from error

    with StopSignal() as stop, pytest.raises(StopRequestedError), stop.interrupting():
        library()


def test_such_a_block_does_not_begin_after_the_signal():
    with StopSignal() as stop:
        terminate()
        with pytest.raises(StopRequestedError), stop.interrupting():
            pytest.fail("ran")


def test_what_ends_an_interrupted_block_is_not_interrupted_itself():
    ended = []
    with StopSignal() as stop, contextlib.suppress(StopRequestedError), stop.interrupting():
        try:
            terminate()
        finally:
            terminate()
            ended.append(1)
    assert ended == [1]


def test_after_such_a_block_the_signal_is_noted_alone():
    with StopSignal() as stop:
        with stop.interrupting():
            pass
        terminate()
        assert stop.requested


def test_outside_of_the_main_thread_nothing_changes():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def run():
        with StopSignal() as stop:
            found.extend([signal.getsignal(signal.SIGTERM), stop.requested])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before, False]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_loader_outlives_the_signal_and_ends_by_itself_when_it_is_forgotten():
    code = (
        "import os, signal, time\n"
        "from tapadl.training import stopping\n"
        "stopping._GRACE_SECONDS = 1\n"
        "stopping.leave_stopping_to_trainer()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('alive', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stdout == "alive\n"
    assert process.returncode == -signal.SIGALRM


def test_a_worker_number_is_taken_as_loaders_give_it():
    before = signal.getsignal(signal.SIGTERM)
    try:
        leave_stopping_to_trainer(3)
        assert signal.getsignal(signal.SIGTERM) != before
    finally:
        signal.signal(signal.SIGTERM, before)
