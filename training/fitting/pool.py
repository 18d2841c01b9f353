"""Where the fits run: in this process, in a local process for each CPU, or on a Dask cluster elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from common.cluster import dask_client
from common.errors import TrainingError, VolcastError

Shared = TypeVar("Shared", contravariant=True)
Job = TypeVar("Job")
Result = TypeVar("Result")


class Pool(Protocol):
    def run(
        self,
        function: Callable[[Any, Job], Result],
        shared: Any,
        jobs: Sequence[Job],
        done: Callable[[int, int], None],
    ) -> list[Result]:
        """function(shared, job) for each job, in the jobs' order; done(finished, all) after each.

        The first error of a job is raised as it is. `shared` is sent to each worker once.
        """


class InProcess:
    def run(
        self,
        function: Callable[[Any, Job], Result],
        shared: Any,
        jobs: Sequence[Job],
        done: Callable[[int, int], None],
    ) -> list[Result]:
        results = []
        for job in jobs:
            results.append(on_one_thread(function, shared, job))
            done(len(results), len(jobs))
        return results


class OnDask:
    def __init__(self, client: Any) -> None:
        self._client = client

    def run(
        self,
        function: Callable[[Any, Job], Result],
        shared: Any,
        jobs: Sequence[Job],
        done: Callable[[int, int], None],
    ) -> list[Result]:
        from distributed import KilledWorker, as_completed

        everywhere = self._client.scatter(shared, broadcast=True, hash=False)
        futures = [self._client.submit(on_one_thread, function, everywhere, job, pure=False) for job in jobs]
        try:
            for finished, future in enumerate(as_completed(futures), 1):  # type: ignore[no-untyped-call]
                future.result()
                done(finished, len(jobs))
            return [future.result() for future in futures]
        except VolcastError:
            raise
        except (KilledWorker, OSError) as error:
            raise TrainingError(f"the Dask cluster lost a fit: {error}") from None
        finally:
            self._client.cancel(futures)


def on_one_thread(function: Callable[[Any, Job], Result], shared: Any, job: Job) -> Result:
    """Sums in one order whatever the machine: the same bits in this process and on any worker."""
    with threadpool_limits(1):
        return function(shared, job)


@contextmanager
def open_pool(cluster: str | None) -> Iterator[Pool]:
    """`cluster`: None for this process, "local" for a process for each CPU, or a scheduler's address.

    Raises InputError if no scheduler answers, UnavailableError if local processes do not start.
    """
    if cluster is None:
        yield InProcess()
        return
    with dask_client(cluster, os.cpu_count() or 1) as client:
        yield OnDask(client)
