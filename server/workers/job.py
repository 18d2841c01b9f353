"""The job of a worker. The supervisor reads the configuration once, so that all workers use the same."""

from __future__ import annotations

import msgspec

from common.config import LogConfig, ServerConfig


class WorkerJob(msgspec.Struct, frozen=True):
    """worker: number of the worker, from 0. The process that replaces a dead worker gets the same number."""

    worker: int
    server: ServerConfig
    log: LogConfig
