from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from server.core.models import Repository
from server.core.requests import Selection
from server.runtime.reload import Reloader
from tests.processes import await_true
from tests.server.bundles import write_bundle

FAST_S = 0.005


class Recorder:
    """A log that is kept."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    error = info
    exception = info

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]


@contextmanager
def reloading(models: Path, watch_s: float = 0.0) -> Iterator[tuple[Reloader, Repository, Recorder]]:
    repository, log = Repository("volatility"), Recorder()
    reloader = Reloader(repository, models, watch_s, log)
    reloader.load()
    reloader.start()
    try:
        yield reloader, repository, log
    finally:
        reloader.stop()
        assert not reloader.alive


def stable(repository: Repository) -> str:
    return repository.resolve(Selection()).version


def serves(repository: Repository, version: str) -> bool:
    return stable(repository) == version


def test_a_new_version_in_the_folder_is_taken_without_asking(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    with reloading(tmp_path, FAST_S) as (_, repository, log):
        assert stable(repository) == "1"
        write_bundle(tmp_path, version="2")
        await_true(lambda: stable(repository) == "2")
    assert {"model": "volatility", "version": "2", "labels": ["stable"]} in log.named("model_loaded")


def test_a_half_written_bundle_is_tried_again_when_it_is_whole(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_bundle(models)
    with reloading(models, FAST_S) as (_, repository, log):
        folder = write_bundle(tmp_path / "elsewhere", version="2")
        target = models / "volatility" / "2"
        target.mkdir()
        shutil.copy(folder / "manifest.json", target)
        await_true(lambda: len(repository.snapshot.failures) == 1)
        shutil.copy(folder / "model.onnx", target)
        await_true(lambda: stable(repository) == "2")
        await_true(lambda: len(repository.snapshot.failures) == 0)
    assert log.named("model_refused")[0]["version"] == "2"


def test_a_folder_that_does_not_change_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path)
    looks = 0
    real = __import__("server.runtime.reload", fromlist=["fingerprint"]).fingerprint

    def counted(folder: Path) -> object:
        nonlocal looks
        looks += 1
        return real(folder)

    monkeypatch.setattr("server.runtime.reload.fingerprint", counted)
    with reloading(tmp_path, FAST_S) as (_, _, log):
        await_true(lambda: looks > 5)
    assert [fields["cause"] for fields in log.named("models_read")] == ["start"]


def test_without_watching_only_asking_loads(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    with reloading(tmp_path) as (reloader, repository, log):
        write_bundle(tmp_path, version="2")
        changes = reloader.request().result(30)
        assert [model.version for model in changes.loaded] == ["2"]
        assert stable(repository) == "2"
    assert [fields["cause"] for fields in log.named("models_read")] == ["start", "request"]


def test_without_watching_a_change_is_not_even_looked_for(tmp_path: Path) -> None:
    """Another one that watches is the clock: it has looked, and more than once."""
    write_bundle(tmp_path)
    with reloading(tmp_path) as (_, repository, _), reloading(tmp_path, FAST_S) as (_, other, _):
        for version in ("2", "3", "4"):
            write_bundle(tmp_path, version=version)
            await_true(partial(serves, other, version))
        assert stable(repository) == "1"


def test_a_signal_asks_for_a_load(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    with reloading(tmp_path) as (reloader, repository, _):
        before = signal.signal(signal.SIGHUP, lambda number, frame: reloader.request())
        try:
            write_bundle(tmp_path, version="2")
            os.kill(os.getpid(), signal.SIGHUP)
            await_true(lambda: stable(repository) == "2")
        finally:
            signal.signal(signal.SIGHUP, before)


def slow_reload(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, Callable[[], int]]:
    """Loads that wait for the event; and the greatest number of loads at one time."""
    may_go = threading.Event()
    running = most = 0
    whole = repository.reload

    def reload(folder: Path) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        may_go.wait(30)
        changes = whole(folder)
        running -= 1
        return changes

    monkeypatch.setattr(repository, "reload", reload)
    return may_go, lambda: most


def test_asking_never_blocks_and_requests_that_wait_share_a_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path)
    with reloading(tmp_path) as (reloader, repository, log):
        may_go, most = slow_reload(repository, monkeypatch)
        first = reloader.request()
        await_true(lambda: most() == 1)
        others = [reloader.request() for _ in range(5)]
        write_bundle(tmp_path, version="2")
        may_go.set()
        first.result(30)
        results = [other.result(30) for other in others]
        assert all(result is results[0] for result in results)
        assert stable(repository) == "2"
        assert most() == 1
    assert [fields["cause"] for fields in log.named("models_read")] == ["start", "request", "request"]


def test_a_request_given_up_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path)
    with reloading(tmp_path) as (reloader, repository, _):
        may_go, most = slow_reload(repository, monkeypatch)
        reloader.request()
        await_true(lambda: most() == 1)
        given_up, other = reloader.request(), reloader.request()
        assert given_up.cancel()
        may_go.set()
        assert not other.result(30).swapped


def test_a_models_folder_that_is_away_is_told_to_whoever_asks_and_serving_goes_on(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_bundle(models)
    with reloading(models) as (reloader, repository, log):
        models.rename(tmp_path / "away")
        with pytest.raises(InputError, match="No such file"):
            reloader.request().result(30)
        assert stable(repository) == "1"
        (tmp_path / "away").rename(models)
        assert not reloader.request().result(30).swapped
    assert len(log.named("models_folder_unreadable")) == 1


def test_a_models_folder_that_is_away_is_logged_once_while_it_is(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_bundle(models)
    with reloading(models, FAST_S) as (_, repository, log):
        models.rename(tmp_path / "away")
        await_true(lambda: len(log.named("models_folder_unreadable")) > 0)
        write_bundle(tmp_path / "away", version="2")
        (tmp_path / "away").rename(models)
        await_true(lambda: stable(repository) == "2")
    assert len(log.named("models_folder_unreadable")) == 1


def test_a_fault_of_ours_fails_the_request_and_the_next_one_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path)
    with reloading(tmp_path) as (reloader, repository, log):
        whole = repository.reload

        def fails(folder: Path) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(repository, "reload", fails)
        with pytest.raises(ZeroDivisionError):
            reloader.request().result(30)
        monkeypatch.setattr(repository, "reload", whole)
        assert not reloader.request().result(30).swapped
    assert len(log.named("reload_failed")) == 1


def test_a_fault_of_ours_while_watching_is_logged_and_the_next_change_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path)
    with reloading(tmp_path, FAST_S) as (_, repository, log):
        whole = repository.reload

        def fails(folder: Path) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(repository, "reload", fails)
        write_bundle(tmp_path, version="2")
        await_true(lambda: len(log.named("reload_failed")) > 0)
        monkeypatch.setattr(repository, "reload", whole)
        write_bundle(tmp_path, version="3")
        await_true(lambda: stable(repository) == "3")


def test_whoever_asks_as_the_server_stops_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path)
    with reloading(tmp_path) as (reloader, repository, _):
        may_go, most = slow_reload(repository, monkeypatch)
        reloader.request()
        await_true(lambda: most() == 1)
        late = reloader.request()
        stopping = threading.Thread(target=reloader.stop)
        stopping.start()
        may_go.set()
        with pytest.raises(InputError, match="stopping"):
            late.result(30)
        stopping.join()


def test_what_changed_is_in_the_log(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        write_bundle(tmp_path, version=version)
    with reloading(tmp_path) as (reloader, _, log):
        shutil.rmtree(tmp_path / "volatility" / "3")
        labels = '{"stable": "1", "canary": {"version": "2", "share": 0.5}}'
        (tmp_path / "volatility" / "labels.json").write_text(labels)
        reloader.request().result(30)
    assert log.named("model_retired") == [{"model": "volatility", "version": "3"}]
    assert log.named("labels")[-1] == {
        "model": "volatility", "stable": "1", "canary": "2", "share": 0.5, "shadow": []
    }  # fmt: skip
