"""What both fronts need of the rest of the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.core.dataplane import DataPlane
from server.rpc.methods import Methods
from server.runtime.batch_loop import BatchLoop
from server.runtime.metrics import ServerMetrics
from server.runtime.state import ServerState
from server.security.tokens import Gate


@dataclass(frozen=True)
class FrontDependencies:
    methods: Methods
    plane: DataPlane
    batches: BatchLoop
    state: ServerState
    metrics: ServerMetrics
    gate: Gate
    log: Any
