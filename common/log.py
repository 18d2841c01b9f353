"""Structured logs on standard error: one JSON event a line, or readable text on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from common.config import LogConfig


def configure_logs(config: LogConfig, component: str) -> None:
    """Sets up structlog for this process; every event carries the component's name."""
    console = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[config.level.upper()]),
        # A line and its end in one write: a server's workers share the stream, and lines must not mix.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(component=component)


def get_logger() -> Any:
    """The logger of this process; fields are keyword arguments: log.info("subscribed", products=[…])."""
    return structlog.get_logger()
