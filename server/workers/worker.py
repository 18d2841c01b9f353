"""A worker: `python -m server.workers.worker`. The supervisor starts it and writes its job to standard input."""

from __future__ import annotations

import sys

import msgspec
import structlog
import uvloop

from common.errors import VolcastError
from common.lifecycle import stop_on_signals, survive_hangups
from common.log import configure_logs, get_logger
from common.status import StatusPipe
from common.streams import protect_standard_streams
from server.app.ports import ServerPorts
from server.app.run import run_server
from server.workers.job import WorkerJob


def main() -> int:
    survive_hangups()
    protect_standard_streams()
    stop = stop_on_signals()
    status = StatusPipe(stop)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerJob)
    configure_logs(job.log, "server")
    structlog.contextvars.bind_contextvars(worker=job.worker)
    try:
        uvloop.run(run_server(job.server, ServerPorts.bind_worker(job.server), stop, status, get_logger()))
    except VolcastError as error:
        # The supervisor prints the reason once, instead of every worker.
        status.report("failed", reason=str(error), exit_code=error.exit_code)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
