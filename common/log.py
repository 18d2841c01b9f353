"""Structured logs on standard error: one JSON event per line, or readable text on a terminal.

Logging never raises, for any value and any output. After common.streams.protect_standard_streams it never blocks;
common.streams then counts the lost lines.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, TextIO

import structlog

from common.config import LogConfig
from common.streams import count_lost_line


class _LineLogger:
    """Writes each event with its line end in one write: processes that share the stream must not mix lines."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(message + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed, or cannot encode the text
            count_lost_line()

    debug = info = warning = error = critical = msg


class _LineLoggerFactory:
    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __call__(self, *_: object) -> _LineLogger:
        return _LineLogger(self._stream)


def configure_logs(config: LogConfig, component: str) -> None:
    """Sets up structlog for this process; every event carries the component's name."""
    stream = sys.stderr  # None where a caller started the process without standard error
    console = config.format == "console" or (config.format == "auto" and stream is not None and stream.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=_safe_logger(logging.getLevelNamesMapping()[config.level.upper()]),
        logger_factory=_LineLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(component=component)
    _forward_library_logs()


def get_logger() -> Any:
    """The logger of this process; fields are keyword arguments: log.info("subscribed", products=[…])."""
    return structlog.get_logger()


def _safe_logger(level: int) -> type[Any]:
    """A logger that drops events below `level`, and that never raises."""
    base: Any = structlog.make_filtering_bound_logger(level)

    class SafeLogger(base):  # type: ignore[misc]
        def _proxy_to_logger(self, method_name: str, event: str | None = None, *args: Any, **fields: Any) -> Any:
            try:
                return super()._proxy_to_logger(method_name, event, *args, **fields)
            except Exception as error:
                # A value that cannot be shown, such as one whose repr fails.
                line = json.dumps({"event": str(event), "level": method_name, "log_error": type(error).__name__})
                self._logger.msg(line)
                return None

    return SafeLogger


class LibraryLogHandler(logging.Handler):
    """Warnings of libraries (asyncio, websockets, uvicorn) as events of this process's log.

    Without a handler the standard library writes them to standard error by itself, as text.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # the library's arguments do not fit its text
            text = str(record.msg)
        level = "error" if record.levelno >= logging.ERROR else "warning"
        error = record.exc_info if record.exc_info and record.exc_info[0] is not None else None
        fields = {"exc_info": error} if error else {}
        getattr(get_logger(), level)("library", logger=record.name, text=text, **fields)


def _forward_library_logs() -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, LibraryLogHandler) for handler in root.handlers):
        root.addHandler(LibraryLogHandler(logging.WARNING))
