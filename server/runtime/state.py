"""The state of a server: starting, ready, draining."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from common.errors import UnavailableError


@dataclass
class ServerState:
    """accepting: calls are accepted. ready: health reports SERVING; it ends before `accepting` does."""

    build: str
    front: str
    accepting: bool = False
    ready: bool = False
    draining: bool = False
    started_s: float = field(default_factory=monotonic)  # on the monotonic clock

    @property
    def uptime_s(self) -> float:
        return monotonic() - self.started_s

    def require_accepting(self) -> None:
        if not self.accepting:
            raise UnavailableError("the server is draining" if self.draining else "the server is starting")
