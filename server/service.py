"""Everything a server answers, as one table of methods."""

from __future__ import annotations

from server.core.models import Repository
from server.grpc import inference, reflection
from server.grpc.health import SERVICE as HEALTH_SERVICE
from server.grpc.health import HealthDoor
from server.grpc.methods import Methods
from server.state import ServerState


def methods(repository: Repository, state: ServerState, *, with_reflection: bool) -> tuple[Methods, HealthDoor]:
    """The table, and the door that says whether it is served."""
    health = HealthDoor([inference.SERVICE])
    table = {**inference.methods(repository, state), **health.methods()}
    if with_reflection:
        table |= reflection.methods([inference.SERVICE, HEALTH_SERVICE])
    return table, health
