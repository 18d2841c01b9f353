"""What a supervisor gives to each worker: one configuration, read once, so that no two of them differ."""

from __future__ import annotations

import msgspec

from common.config import LogConfig, ServerConfig


class WorkerJob(msgspec.Struct, frozen=True):
    """worker: its number, from 0, which its successor inherits."""

    worker: int
    server: ServerConfig
    log: LogConfig
