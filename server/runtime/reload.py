"""Reloads models during serving: on a thread of its own, one load at a time.

A signal, an RPC or a change in the models folder starts a load. Every `watch_s` the thread compares names, times and
sizes in the folder, which takes tens of microseconds and works on every file system.
"""

from __future__ import annotations

import queue
from concurrent.futures import Future
from pathlib import Path
from time import perf_counter
from typing import Any

from common.errors import InputError
from common.threads import essential_thread
from server.core.bundles import fingerprint
from server.core.models import ReloadResult, Repository


class Reloader:
    """watch_s: the time between two comparisons of the folder; 0: reload on request only."""

    def __init__(self, repository: Repository, folder: Path, watch_s: float, log: Any) -> None:
        self._repository = repository
        self._folder = folder
        self._watch_s = watch_s
        self._log = log
        # A SimpleQueue, since a signal handler may call its put() at any moment. None ends the thread.
        self._requests: queue.SimpleQueue[Future[ReloadResult] | None] = queue.SimpleQueue()
        self._seen: object = None
        self._thread = essential_thread("reload", self._run, log)

    def load(self) -> ReloadResult:
        """The first load, on the calling thread and before `start`; raises InputError."""
        self._seen = fingerprint(self._folder)
        return self._load("start")

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Waits for a running load to finish."""
        self._requests.put(None)
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def request(self) -> Future[ReloadResult]:
        """Requests a load; never blocks. The future gets its result, or the InputError that it raised.

        Requests that wait for the same load share its result. Await the future with asyncio.wrap_future.
        """
        future: Future[ReloadResult] = Future()
        self._requests.put(future)
        return future

    def _run(self) -> None:
        while True:
            try:
                waiting = [self._requests.get(timeout=self._watch_s or None)]
            except queue.Empty:
                self._reload_if_changed()
                continue
            while not self._requests.empty():
                waiting.append(self._requests.get())
            futures = [future for future in waiting if future is not None and future.set_running_or_notify_cancel()]
            if None in waiting:
                for future in futures:
                    future.set_exception(InputError("the server is stopping"))
                return
            self._respond(futures)

    def _reload_if_changed(self) -> None:
        # Taken before the load: the next comparison notices a change during the load.
        seen = fingerprint(self._folder)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._load("folder")
        except InputError as error:
            self._log.error("models_folder_unreadable", reason=str(error))
        except Exception:
            self._log.exception("reload_failed")

    def _respond(self, futures: list[Future[ReloadResult]]) -> None:
        try:
            self._seen = fingerprint(self._folder)
            changes = self._load("request")
        except Exception as error:
            if isinstance(error, InputError):
                self._log.error("models_folder_unreadable", reason=str(error))
            else:
                self._log.exception("reload_failed")
            for future in futures:
                future.set_exception(error)
            return
        for future in futures:
            future.set_result(changes)

    def _load(self, cause: str) -> ReloadResult:
        started_s = perf_counter()
        changes = self._repository.reload(self._folder)
        snapshot = changes.snapshot
        for failure in changes.refused:
            self._log.error("model_refused", model=failure.name, version=failure.version, reason=failure.reason)
        for model in changes.loaded:
            self._log.info("model_loaded", model=model.name, version=model.version, labels=snapshot.labels(model))
        for model in changes.retired:
            self._log.info("model_retired", model=model.name, version=model.version)
        for name in changes.relabelled:
            labels = {label: model.version for (owner, label), model in snapshot.labelled.items() if owner == name}
            canary, shadows = snapshot.canaries.get(name), snapshot.shadows.get(name, ())
            share = canary.split.share if canary else None
            self._log.info("labels", model=name, **labels, share=share, shadow=[shadow.version for shadow in shadows])
        took_ms = round((perf_counter() - started_s) * 1000, 1)
        self._log.info(
            "models_read", cause=cause, swapped=changes.swapped, models=len(snapshot.models), took_ms=took_ms
        )
        return changes
