"""Signals: the first lets the epoch end, the second ends it at once; a termination signal leaves little time."""

from __future__ import annotations

import os
import signal
import time

import pytest

from reborn_nas.study.worker.stop import Stopper


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_lets_the_epoch_end_and_the_second_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    with Stopper() as stopper, pytest.raises(KeyboardInterrupt), stopper.training():  # noqa: PT012
        send(signal.SIGINT)
        assert stopper.wanted
        assert not stopper.at_once
        send(signal.SIGINT)
        raise AssertionError("the second one must end it")
    assert stopper.at_once
    assert not stopper.terminated
    assert "once more" in capfd.readouterr().err


def test_nothing_begins_after_the_first() -> None:
    with Stopper() as stopper:
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), stopper.training():
            raise AssertionError("no training begins")


def test_a_termination_signal_leaves_a_while_and_no_more() -> None:
    began = time.monotonic()
    with Stopper(notice=0.3) as stopper:
        stopper._first = -10.0
        with pytest.raises(KeyboardInterrupt), stopper.training():  # noqa: PT012
            send(signal.SIGTERM)
            send(signal.SIGTERM)  # a batch system signals a job's processes one by one: it is the same signal
            stopper._first = -10.0
            assert not stopper.at_once
            while time.monotonic() < began + 120:
                time.sleep(0.01)
    assert stopper.terminated
    assert 0.25 < time.monotonic() - began < 120


def test_ctrl_c_waits_for_the_epoch_however_long_it_takes() -> None:
    with Stopper(notice=0.1) as stopper, stopper.training():
        send(signal.SIGINT)
        time.sleep(0.4)
        assert stopper.wanted
    assert not stopper.at_once


def test_a_supervised_worker_does_not_see_the_keyboard_and_has_no_clock_of_its_own() -> None:
    with Stopper(parent=os.getppid(), notice=0.1) as stopper, stopper.training():
        send(signal.SIGINT)
        assert not stopper.wanted
        send(signal.SIGTERM)
        assert stopper.wanted
        time.sleep(0.3)
    assert not stopper.at_once
    assert Stopper(parent=os.getpid()).orphaned, "nobody is the parent of oneself"


def test_the_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Stopper():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
