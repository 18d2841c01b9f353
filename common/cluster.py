"""A Dask cluster: local processes, or a scheduler elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common.errors import InputError, UnavailableError

CONNECT_S = 10


@contextmanager
def dask_client(cluster: str, local_workers: int) -> Iterator[Any]:
    """A `distributed.Client`. cluster: "local" for `local_workers` processes here, else a scheduler's address.

    Raises InputError if Dask is missing or no scheduler answers, UnavailableError if local processes do not start.
    """
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError:
        raise InputError("--cluster: needs Dask; install the extra `cluster` (or `training`) of volcast") from None

    if cluster == "local":
        try:
            made = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=local_workers,
                threads_per_worker=1,
                dashboard_address=None,
                host="127.0.0.1",
                memory_limit=0,
                silence_logs=50,
            )
        except (RuntimeError, OSError, TimeoutError) as error:  # on a busy machine a worker may start too late
            raise UnavailableError(f"--cluster local: its processes did not start: {error}; try again") from None
        with made, Client(made) as client:  # type: ignore[no-untyped-call]
            yield client
        return
    try:
        client = Client(cluster, timeout=CONNECT_S)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"--cluster {cluster}: no Dask scheduler answers: {error}") from None
    with client:
        yield client
