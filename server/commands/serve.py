"""`volcast serve`: the inference server."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import uvloop

from common.cli import config_option, examples
from common.config import load_config
from common.lifecycle import require_free_port, stop_on_signals
from common.log import configure_logs, get_logger
from common.status import StatusPipe
from server.run import run_server


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
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=None, help="Port of /metrics for Prometheus.")
def serve(
    config_file: Path | None, host: str | None, port: int | None, models_dir: Path | None, metrics_port: int | None
) -> None:
    """The inference server: Predict, StreamPredict and Health over gRPC, with health checks and reflection.

    Holds every bundle below the models folder; "stable" is the highest version. SIGTERM drains and
    stops; a second one stops at once.
    """
    stop = stop_on_signals()
    config = load_config(config_file)
    configure_logs(config.log, "server")
    options = {"host": host, "port": port, "models_dir": models_dir and str(models_dir), "metrics_port": metrics_port}
    server = msgspec.structs.replace(config.server, **{key: one for key, one in options.items() if one is not None})
    require_free_port(server.host, server.port, "--port or server.port")
    require_free_port(server.metrics_host, server.metrics_port, "--metrics-port or server.metrics_port")
    uvloop.run(run_server(server, stop, StatusPipe(stop), get_logger()))
