"""In which order the processes of `volcast run` start, and what each waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cli.run import command
from cli.run.command import RunSession
from cli.run.processes import Process, ProcessGroup
from cli.run.view import View
from common.config import Config

ADDRESS = "127.0.0.1:39092"


class Group:
    """Processes that are ready at the next look. The broker reports its address at the look before."""

    def __init__(self, *, light: str = "") -> None:
        self.all: list[Process] = []
        self.ready_at_start: dict[str, set[str]] = {}  # process -> processes that were ready when it started
        self.environ: dict[str, dict[str, str]] = {}
        self._light = light

    def start(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> Process:
        self.ready_at_start[name] = {process.name for process in self.all if process.ready is not None}
        self.environ[name] = dict(environ)
        self.all.append(Process(name, arguments, Path(f"{name}.log")))
        return self.all[-1]

    def listen(self, timeout_s: float) -> None:
        for process in self.all:
            if process.name == "broker" and not self._light and not process.stats:
                process.stats = {"reserved": ADDRESS}
            elif process.ready is None:
                process.ready = {"light": self._light, "address": ADDRESS, "url": "ws://here"}

    def require_alive(self, *, may_end: Sequence[Process | None] = ()) -> None:
        pass


def started(monkeypatch: pytest.MonkeyPatch, **broker: Any) -> Group:
    monkeypatch.setattr(command, "missing_jars", lambda folder, jars: [])
    group = Group(**broker)
    view = SimpleNamespace(print=lambda text: None, refresh=lambda: None)
    session = RunSession(cast(ProcessGroup, group), cast(View, view), {}, lambda: False)
    assert session.start(Config(), ["exchange"])
    return group


def test_the_worker_starts_before_kafka_answers_but_after_its_port_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started(monkeypatch)
    assert "broker" not in group.ready_at_start["worker"]
    assert group.environ["worker"]["VOLCAST_KAFKA__BOOTSTRAP_SERVERS"] == ADDRESS
    assert float(group.environ["worker"]["VOLCAST_KAFKA__TIMEOUT_S"]) >= 60
    assert "VOLCAST_KAFKA__TIMEOUT_S" not in group.environ["ingest"]


def test_ticks_flow_only_when_all_of_their_path_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started(monkeypatch)
    assert group.ready_at_start["ingest"] == {"server", "exchange", "broker", "worker"}
    assert [process.name for process in group.all][-1] == "gateway"


def test_with_the_light_broker_the_worker_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started(monkeypatch, light="for a first look")
    assert "broker" in group.ready_at_start["worker"]
    assert group.environ["worker"]["VOLCAST_KAFKA__BOOTSTRAP_SERVERS"] == ADDRESS
