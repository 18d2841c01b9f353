"""`volcast serve`: the inference server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
import msgspec

from common.cli import FiniteRange, config_option, examples
from common.config import load_config
from common.lifecycle import stop_on_signals
from common.log import configure_logs, get_logger
from common.status import StatusPipe


@click.command(
    "serve",
    epilog=examples(
        "volcast serve",
        "volcast serve --port 50052 --models-dir models",
        "grpcurl -plaintext localhost:50051 volcast.v1.InferenceService/Health",
    ),
)
@config_option
@click.option("--host", default=None, metavar="ADDRESS", help="Address to listen on (default: server.host).")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="gRPC port; 0 takes a free one.")
@click.option(
    "--models-dir",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Folder of bundles, NAME/VERSION below it.",
)
@click.option(
    "--front", type=click.Choice(["auto", "native", "grpcio"]), default=None, help="Implementation of HTTP/2 and gRPC."
)
@click.option(
    "--workers", type=click.IntRange(1), default=None, help="Processes that share the port, for as many cores (1)."
)
@click.option("--max-batch", type=click.IntRange(1), default=None, help="Rows of one run of a model, at most.")
@click.option(
    "--max-queue-delay-us",
    type=click.IntRange(0, 4_000_000),
    default=None,
    help="How long a batch waits for more calls (0).",
)
@click.option("--tls-cert", metavar="FILE", default=None, help="PEM certificate chain; with --tls-key.")
@click.option("--tls-key", metavar="FILE", default=None, help="PEM key of that certificate.")
@click.option(
    "--tls-client-ca", metavar="FILE", default=None, help="PEM; callers must show a certificate of it (mTLS)."
)
@click.option("--tokens-file", metavar="FILE", default=None, help="Tokens that callers must show; see: volcast token.")
@click.option("--allow-plaintext", is_flag=True, default=None, help="Plaintext beyond loopback, on a private network.")
@click.option(
    "--lame-duck-s",
    type=FiniteRange(0),
    default=None,
    help="Seconds after SIGTERM in which new calls are accepted while health reports NOT_SERVING (1).",
)
@click.option(
    "--drain-s", type=FiniteRange(0), default=None, help="Seconds for pending calls after the lame-duck time (5)."
)
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=None, help="Port of /metrics for Prometheus.")
def serve(config_file: Path | None, models_dir: Path | None, **options: Any) -> None:
    """The inference server: Predict, StreamPredict and Health over gRPC, with health checks and reflection.

    Holds every bundle below the models folder and takes up what changes there; labels.json beside the
    versions says which is stable, canary or shadow (docs/models.md). SIGHUP reads models, tokens and
    certificates again. SIGTERM reports NOT_SERVING for a while (--lame-duck-s), drains and stops; a second
    one skips to the drain, or ends a drain at once.
    """
    stop = stop_on_signals()
    config = load_config(config_file)
    configure_logs(config.log, "server")
    options["models_dir"] = models_dir and str(models_dir)
    given = {key: value for key, value in options.items() if value is not None}
    server = msgspec.structs.replace(config.server, **given)
    status, log = StatusPipe(stop), get_logger()
    # Imported only here: the supervisor does not load the modules that serve calls.
    if server.workers > 1:
        from server.workers.supervisor import supervise

        asyncio.run(supervise(server, config.log, stop, status, log))
    else:
        import uvloop

        from server.app.ports import ServerPorts
        from server.app.run import run_server

        uvloop.run(run_server(server, ServerPorts.bind(server), stop, status, log))
