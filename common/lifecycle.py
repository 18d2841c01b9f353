"""Signals: SIGINT and SIGTERM end a process in order, SIGHUP never kills it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType


class SignalEvent(threading.Event):
    """An event that a signal handler may set.

    A handler can interrupt its own thread while that thread holds the lock of the event. `threading.Event` then waits
    for itself forever; this lock can be acquired again by its owner.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cond = threading.Condition(threading.RLock())


_hangup = SignalEvent()


def stop_on_signals(hurry: SignalEvent | None = None) -> SignalEvent:
    """An event that SIGINT and SIGTERM set. Call from the main thread, before work begins.

    hurry: set by a second signal of the two.
    """
    stop = SignalEvent()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and hurry is not None:
            hurry.set()
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


def survive_hangups() -> None:
    """SIGHUP does not kill this process any more. For the main function of a program, before all else.

    If SIGHUP arrives before a server has installed its own handler, `hangup_pending` returns True afterwards. If the
    terminal is closed, SIGHUP does what Ctrl-C does.
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


class StopSignals:
    """SIGINT and SIGTERM: the first asks for an orderly end, the next one skips the lame duck, the next one ends
    the process at once."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop  # set by the first, or by who supervises us
        self._requested = asyncio.Event()
        self._hurry = asyncio.Event()
        self._in_lame_duck = False

    def install(self, loop: asyncio.AbstractEventLoop, reload: Callable[[], None] | None = None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        if reload is not None:
            loop.add_signal_handler(signal.SIGHUP, reload)
            if hangup_pending():
                reload()

    async def requested(self, timeout_s: float) -> bool:
        """Whether the end was asked for; waits up to timeout_s for it."""
        if not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._requested.wait(), timeout_s)
        return self._stop.is_set()

    async def lame_duck(self, lame_duck_s: float) -> None:
        self._in_lame_duck = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), lame_duck_s)
        self._in_lame_duck = False

    def _on_signal(self, number: int) -> None:
        if self._in_lame_duck:
            self._hurry.set()
            self._in_lame_duck = False
        elif self._requested.is_set():
            os._exit(128 + number)  # no drain, no clean-up
        self._stop.set()
        self._requested.set()
