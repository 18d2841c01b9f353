"""Everything a server answers, as one table of methods."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from server.core.models import ReloadResult, Repository
from server.oip.service import SERVICE as OPEN_INFERENCE
from server.oip.service import OpenInference
from server.rpc import inference, reflection
from server.rpc.health import SERVICE as HEALTH_SERVICE
from server.rpc.health import HealthDoor
from server.rpc.methods import Methods
from server.runtime.state import ServerState


def methods(
    repository: Repository,
    state: ServerState,
    *,
    with_reflection: bool,
    reload: Callable[[], Future[ReloadResult]] | None = None,
) -> tuple[Methods, HealthDoor]:
    """The table, and the door that says whether it is served.

    reload: asks for the models folder to be read again; None: on no one's request.
    """
    health = HealthDoor([inference.SERVICE, OPEN_INFERENCE])
    protocol = OpenInference(repository, state, reload)
    table = {**inference.methods(repository, state), **protocol.methods(), **health.methods()}
    if with_reflection:
        table |= reflection.methods([inference.SERVICE, OPEN_INFERENCE, HEALTH_SERVICE])
    return table, health
