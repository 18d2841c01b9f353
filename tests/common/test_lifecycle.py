"""SIGINT and SIGTERM become an event; SIGHUP kills nothing."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from common.lifecycle import SignalEvent, hangup_pending, stop_on_signals, survive_hangups
from tests.processes import ROOT


@pytest.fixture
def _handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_event(number: signal.Signals) -> None:
    stop = stop_on_signals()
    assert not stop.is_set()
    signal.raise_signal(number)
    assert stop.is_set()


@pytest.mark.usefixtures("_handlers")
def test_only_a_second_signal_hurries() -> None:
    hurry = SignalEvent()
    stop = stop_on_signals(hurry)
    signal.raise_signal(signal.SIGINT)
    assert stop.is_set()
    assert not hurry.is_set()
    signal.raise_signal(signal.SIGTERM)
    assert hurry.is_set()


@pytest.mark.usefixtures("_handlers")
def test_a_hangup_is_remembered_until_it_is_asked_for() -> None:
    survive_hangups()
    assert not hangup_pending()
    signal.raise_signal(signal.SIGHUP)
    assert hangup_pending()
    assert not hangup_pending()


@pytest.mark.usefixtures("_handlers")
def test_a_process_under_nohup_keeps_ignoring_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    survive_hangups()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


FREQUENT = """
import sys, time
from common.lifecycle import SignalEvent, hangup_pending, stop_on_signals, survive_hangups
survive_hangups()
stop = stop_on_signals(SignalEvent())
print("up", flush=True)
deadline = time.monotonic() + 1
while time.monotonic() < deadline:
    hangup_pending()
    stop.wait(0)
    stop.clear()
print("done", flush=True)
"""


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_that_interrupts_the_use_of_its_event_does_not_block_the_process(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", FREQUENT], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    deadline = time.monotonic() + 0.8
    while time.monotonic() < deadline:
        process.send_signal(number)
        time.sleep(0.001)
    output, _ = process.communicate(timeout=30)
    assert output == "done\n"
    assert process.returncode == 0


SLEEPER = """
import time
from common.lifecycle import survive_hangups
survive_hangups()
print("up", flush=True)
time.sleep(30)
"""


@pytest.mark.process
def test_a_hangup_of_a_terminal_that_has_gone_is_an_interrupt() -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(slave)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGHUP)  # a user's: the terminal is still there
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in error
