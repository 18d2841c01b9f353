"""Orderly ends: SIGINT and SIGTERM become events that loops wait on."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from common.errors import UnavailableError


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set. Call from the main thread, before work begins."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


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


def require_free_port(host: str, port: int, option: str) -> int:
    """The port, or a free one for 0.

    option: what changes the port; its last word is the key, as in "--port or server.port".

    Raises UnavailableError where host:port is taken or no address of this machine, naming what changes it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
        except (OSError, UnicodeError) as error:
            raise _cannot_listen(host, port, option, error) from None


def _cannot_listen(host: str, port: int, option: str, error: OSError | UnicodeError) -> UnavailableError:
    """What bind(2), or looking up the host before it, said of host:port; `option` as for require_free_port."""
    reason = getattr(error, "strerror", None) or str(error)
    # A name that no resolver knows (or that cannot be one at all), and an address of some other machine.
    if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
        key = option.split()[-1].removesuffix("port") + "host"
        return UnavailableError(f"host {host}: {reason}; set an address of this machine with {key}")
    return UnavailableError(f"port {port} on {host}: {reason}; choose another with {option}")
