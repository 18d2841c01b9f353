"""Loading models while serving goes on: on a thread of its own, one load at a time, for whoever asks.

Asked by a signal, by an RPC, or by a change of the models folder, which is looked at every `watch_s`:
names, times and sizes, which costs tens of microseconds and works on every file system.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from pathlib import Path
from time import perf_counter
from typing import Any

from common.errors import InputError
from server.core.bundles import fingerprint
from server.core.models import ReloadResult, Repository


class Reloader:
    """watch_s: how often the folder is looked at; 0: only when asked to."""

    def __init__(self, repository: Repository, folder: Path, watch_s: float, log: Any) -> None:
        self._repository = repository
        self._folder = folder
        self._watch_s = watch_s
        self._log = log
        # Its put() may be called from a signal handler, whatever it interrupted. None ends the thread.
        self._asked: queue.SimpleQueue[Future[ReloadResult] | None] = queue.SimpleQueue()
        self._seen: object = None
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def load(self) -> ReloadResult:
        """The first load, on the calling thread and before `start`; raises InputError."""
        self._seen = fingerprint(self._folder)
        return self._load("start")

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Lets a load under way finish."""
        self._asked.put(None)
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def request(self) -> Future[ReloadResult]:
        """Asks for a load; never blocks. The future has what it did, or the InputError it raised.

        Requests that wait for the same load share it. Await it by asyncio.wrap_future.
        """
        future: Future[ReloadResult] = Future()
        self._asked.put(future)
        return future

    def _run(self) -> None:
        while True:
            try:
                waiting = [self._asked.get(timeout=self._watch_s or None)]
            except queue.Empty:
                self._look()
                continue
            while not self._asked.empty():
                waiting.append(self._asked.get())
            futures = [one for one in waiting if one is not None and one.set_running_or_notify_cancel()]
            if None in waiting:
                for future in futures:
                    future.set_exception(InputError("the server is stopping"))
                return
            self._answer(futures)

    def _look(self) -> None:
        # Taken before the load: what changes while it goes on is seen at the next look.
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

    def _answer(self, futures: list[Future[ReloadResult]]) -> None:
        self._seen = fingerprint(self._folder)
        try:
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
            labels = {label: model.version for (one, label), model in snapshot.labelled.items() if one == name}
            canary, shadows = snapshot.canaries.get(name), snapshot.shadows.get(name, ())
            share = canary.split.share if canary else None
            self._log.info("labels", model=name, **labels, share=share, shadow=[one.version for one in shadows])
        took_ms = round((perf_counter() - started_s) * 1000, 1)
        self._log.info(
            "models_read", cause=cause, swapped=changes.swapped, models=len(snapshot.models), took_ms=took_ms
        )
        return changes
