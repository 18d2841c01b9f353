"""Signals: SIGINT and SIGTERM end a process in order, SIGHUP never kills it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_hangup = threading.Event()


def stop_on_signals(hurry: threading.Event | None = None) -> threading.Event:
    """An event that SIGINT and SIGTERM set. Call from the main thread, before work begins.

    hurry: set by a second signal of the two.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and hurry is not None:
            hurry.set()
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


def survive_hangups() -> None:
    """SIGHUP does not kill this process any more. For the main function of a program, before all else.

    A server that reads its files again for SIGHUP may get the signal before it has set up its own handler;
    `hangup_pending` tells it so. If the terminal has gone, SIGHUP does what Ctrl-C does.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return  # nohup
    terminals = [fd for fd in (0, 1, 2) if os.isatty(fd)]

    def on_hangup(number: int, frame: FrameType | None) -> None:
        if terminals and not any(os.isatty(fd) for fd in terminals):
            signal.raise_signal(signal.SIGINT)
        else:
            _hangup.set()

    signal.signal(signal.SIGHUP, on_hangup)


def hangup_pending() -> bool:
    """Whether SIGHUP came since the last call of this function."""
    pending = _hangup.is_set()
    _hangup.clear()
    return pending
