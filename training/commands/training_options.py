"""Options that `volcast train` and `volcast retrain` share."""

from __future__ import annotations

from common.errors import UsageError
from common.model_store import model_name
from common.schema import FULL_1


def trained_name(name: str | None, schema_name: str | None) -> str:
    """--name, or the default name for the schema. Raises UsageError if the name is not valid."""
    return model_name(name or ("volatility-full" if schema_name == FULL_1.name else "volatility"), "--name")


def chosen_cluster(cluster: str | None, no_cluster: bool) -> str | None:
    """Where the fits run, as training.fitting.pool.open_pool takes it. Raises UsageError if both options are set."""
    if cluster and no_cluster:
        raise UsageError("--cluster and --no-cluster: choose one")
    return None if no_cluster else cluster or "local"
