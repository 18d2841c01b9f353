"""Turns of the event loop for compressed messages: each turn inflates a bounded number of bytes."""

from __future__ import annotations

import asyncio
from typing import Protocol

from server.http2.inflating import InflateBudget


class Inflating(Protocol):
    def inflate(self) -> bool:
        """Inflates within the budget; returns whether messages still wait."""


class InflateTurns:
    """Connections whose messages wait for the budget take turns; other work of the loop runs between two turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.budget = InflateBudget()
        self._loop = loop
        self._waiting: dict[Inflating, None] = {}
        self._is_scheduled = False

    def add(self, connection: Inflating) -> None:
        self._waiting[connection] = None
        self._schedule()

    def discard(self, connection: Inflating) -> None:
        self._waiting.pop(connection, None)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        self.budget.refill()
        while self._waiting and self.budget.left > 0:
            connection = next(iter(self._waiting))
            del self._waiting[connection]
            if connection.inflate():
                self._waiting[connection] = None  # at the end of the queue
        if self._waiting:
            self._schedule()
