"""`volcast gateway`: the REST gateway."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import uvicorn
import uvloop

from common.access import make_access, read_token
from common.cli import config_option, examples
from common.config import GatewayConfig, load_config
from common.lifecycle import StopSignals, stop_on_signals
from common.log import configure_logs, get_logger
from common.ports import open_port
from common.status import StatusPipe
from server.gateway.app import create_app
from server.security.listener import require_safe_listener
from server.security.tls import Certificates
from server.security.tokens import Tokens

DRAIN_S = 5
STATS_EVERY_S = 1.0


@click.command(
    "gateway",
    epilog=examples(
        "volcast gateway",
        "volcast gateway --port 8080 --server 127.0.0.1:50051",
        "curl localhost:8000/health",
    ),
)
@config_option
@click.option("--host", default=None, metavar="ADDRESS", help="Address to listen on (default: gateway.host).")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="HTTP port; 0 takes a free one.")
@click.option("--server", default=None, metavar="HOST:PORT", help="The inference server (default: gateway.server).")
@click.option("--allow-plaintext", is_flag=True, default=None, help="Without TLS beyond loopback: a private network.")
def gateway(
    config_file: Path | None, host: str | None, port: int | None, server: str | None, allow_plaintext: bool | None
) -> None:
    """The REST gateway: /predict, /health, /version, /metrics and /docs, in front of an inference server.

    May be started before the server; /health turns 200 when the server is ready. SIGTERM turns /health to 503
    for gateway.lame_duck_s, then drains and stops.
    """
    stop = stop_on_signals()
    config = load_config(config_file)
    configure_logs(config.log, "gateway")
    options = {"host": host, "port": port, "server": server, "allow_plaintext": allow_plaintext}
    given = {key: value for key, value in options.items() if value is not None}
    settings = msgspec.structs.replace(config.gateway, **given)
    # First, since it tells a host that is no address of this machine from one that needs TLS.
    listener = open_port(settings.host, settings.port, "--port or gateway.port")
    require_safe_listener("gateway", settings.host, bool(settings.tls_cert), settings.allow_plaintext)
    log = get_logger()
    files = _WatchedFiles(settings, log)
    uvloop.run(_serve(settings, files, listener, stop, StatusPipe(stop), log))


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would close the port at the first one."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _WatchedFiles:
    """Certificates and tokens, read again when their files change."""

    def __init__(self, settings: GatewayConfig, log: Any) -> None:
        self.certificates = Certificates.of(settings, log)
        self.tokens = Tokens(Path(settings.tokens_file), log) if settings.tokens_file else None
        self.access = make_access(
            read_token(settings.server_token_file),
            ca=settings.server_ca,
            cert=settings.server_cert,
            key=settings.server_key,
        )
        self._files = (settings.tls_cert, settings.tls_key)
        self._log = log

    def refresh(self, context: ssl.SSLContext | None) -> None:
        """context: the TLS context of the listening socket; None without TLS."""
        if self.tokens is not None:
            self.tokens.refresh()
        if self.certificates is not None and context is not None and self.certificates.refresh():
            try:
                context.load_cert_chain(*self._files)
            except (OSError, ssl.SSLError):
                # The files changed again after the check; the next refresh reads them.
                self._log.warning("certificate_changed_again", file=self._files[0])


async def _serve(
    settings: GatewayConfig,
    files: _WatchedFiles,
    listener: socket.socket,
    stop: threading.Event,
    status: StatusPipe,
    log: Any,
) -> None:
    app = create_app(settings.server, settings.timeout_s, log, files.access, files.tokens)
    signals = StopSignals(stop)
    signals.install(asyncio.get_running_loop())
    server = _Server(
        uvicorn.Config(
            app, http="httptools", access_log=False, log_config=None, server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
            ssl_certfile=settings.tls_cert or None, ssl_keyfile=settings.tls_key or None,
        )
    )  # fmt: skip
    port = listener.getsockname()[1]
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    while not (server.started or serving.done()):
        await asyncio.wait([serving], timeout=0.01)
    log.info("ready", host=settings.host, port=port, server=settings.server)
    status.report("ready", host=settings.host, port=port)
    while not (serving.done() or await signals.requested(STATS_EVERY_S)):
        status.report("stats")
        files.refresh(server.config.ssl)
    if settings.lame_duck_s and not serving.done():
        log.info("leaving", lame_duck_s=settings.lame_duck_s)
        app.state.leaving = True
        await signals.lame_duck(settings.lame_duck_s)
    log.info("draining", drain_s=DRAIN_S)
    server.should_exit = True
    await serving
    status.report("summary")
    log.info("stopped")
