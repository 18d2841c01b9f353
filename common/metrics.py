"""/metrics of a process, for Prometheus."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from common.log import get_logger
from common.losses import not_stored
from common.streams import lost_lines
from common.threads import essential_thread

REQUEST_TIMEOUT_S = 10.0  # for a caller that connects and sends nothing
POLL_S = 0.1  # how soon `close` is seen


class LostLogLines(Collector):
    def collect(self) -> Iterator[Metric]:
        text = "Log lines that could not be written: a full disk, a closed pipe, a reader that does not read."
        yield CounterMetricFamily("volcast_log_lines_lost", text, value=float(lost_lines()))


class NotStored(Collector):
    def collect(self) -> Iterator[Metric]:
        text = "Items that an auxiliary store could not keep: a full disk, a failed disk, a full backlog."
        family = CounterMetricFamily("volcast_not_stored", text, labels=["store"])
        for store, items in sorted(not_stored().items()):
            family.add_metric([store], float(items))
        yield family


class MetricsServer:
    """Serves a registry over HTTP on a socket that listens, on a thread of its own, until `close`."""

    def __init__(self, listener: socket.socket, registry: CollectorRegistry) -> None:
        self.port = int(listener.getsockname()[1])
        self._server = _Server(listener)
        self._server.set_app(_logged(make_wsgi_app(registry)))
        self._thread = essential_thread("metrics", lambda: self._server.serve_forever(POLL_S), get_logger())
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _logged(app: Any) -> Any:
    """The WSGI application, with a log event for a collector that fails. wsgiref prints a traceback."""

    def call(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            return app(environ, start_response)
        except Exception:
            get_logger().exception("scrape_failed")
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"the metrics cannot be collected; the log of the process has the reason\n"]

    return call


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not logged."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()  # the base class makes one of its own
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that leaves in the middle of an answer. The base class prints a traceback."""
        get_logger().debug("scrape_failed", exc_info=True)


def serve_registry(listener: socket.socket, registry: CollectorRegistry) -> MetricsServer:
    """Serves the registry and, beside it, what every process counts."""
    registry.register(LostLogLines())
    registry.register(NotStored())
    return MetricsServer(listener, registry)
