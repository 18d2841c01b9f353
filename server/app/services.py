"""All methods of a server as one table."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from server.core.models import ReloadResult, Repository
from server.oip.service import SERVICE as OPEN_INFERENCE
from server.oip.service import OpenInference
from server.rpc import inference, reflection
from server.rpc.health import SERVICE as HEALTH_SERVICE
from server.rpc.health import HealthService
from server.rpc.methods import Methods
from server.runtime.state import ServerState


def methods(
    repository: Repository,
    state: ServerState,
    *,
    with_reflection: bool,
    reload: Callable[[], Future[ReloadResult]] | None = None,
) -> tuple[Methods, HealthService]:
    """Returns the table of methods and the health service.

    reload: requests a new read of the models folder; None: models are not loaded on request.
    """
    health = HealthService([inference.SERVICE, OPEN_INFERENCE])
    protocol = OpenInference(repository, state, reload)
    table = {**inference.methods(repository, state), **protocol.methods(), **health.methods()}
    if with_reflection:
        table |= reflection.methods([inference.SERVICE, OPEN_INFERENCE, HEALTH_SERVICE])
    return table, health
