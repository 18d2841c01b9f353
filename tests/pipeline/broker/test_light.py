"""The light broker is there when asked for and leaves nothing behind."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.broker import light as module
from pipeline.broker.light import LightBroker, broker_binary
from pipeline.stream.kafka import connect
from tests.processes import exists


def _installed() -> bool:
    try:
        broker_binary()
    except UnavailableError:
        return False
    return True


needs_light = pytest.mark.skipif(not _installed(), reason="the light broker is for Linux on x86-64")


@needs_light
@pytest.mark.process
def test_port_0_becomes_a_free_one_and_it_ends_with_its_context() -> None:
    with LightBroker("127.0.0.1", 0) as running:
        assert running.port > 0
        pid = running.pid
        connect(KafkaConfig(bootstrap_servers=f"127.0.0.1:{running.port}"))
    assert not running.alive
    assert pid is not None
    assert not exists(pid)


@pytest.mark.process
def test_what_does_not_start_is_told_with_its_own_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "tansu"
    fake.write_text("#!/bin/sh\necho 'first'\necho 'no such engine' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(module, "broker_binary", lambda: fake)
    with pytest.raises(UnavailableError, match=r"^broker: did not start on tcp://127\.0\.0\.1:\d+: no such engine$"):
        LightBroker("127.0.0.1", free_port()).start()


@needs_light
@pytest.mark.process
def test_of_two_brokers_that_start_together_exactly_one_runs() -> None:
    port = free_port()
    barrier = threading.Barrier(2)
    checked = threading.Event()
    outcomes: queue.Queue[LightBroker | UnavailableError] = queue.Queue()

    def start() -> None:
        barrier.wait()
        broker = LightBroker("127.0.0.1", port)
        try:
            broker.start()
        except UnavailableError as error:
            outcomes.put(error)
        else:
            outcomes.put(broker)
            checked.wait()  # the kernel ends a broker with the thread that started it
            broker.stop()

    threads = [threading.Thread(target=start) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        ended = [outcomes.get(timeout=30) for _ in threads]
        (winner,) = [outcome for outcome in ended if isinstance(outcome, LightBroker)]
        (loser,) = [outcome for outcome in ended if isinstance(outcome, UnavailableError)]
        assert winner.alive
        assert str(loser) == (
            f"port {port} on 127.0.0.1: Address already in use; choose another with --port or broker.port"
        )
    finally:
        checked.set()
        for thread in threads:
            thread.join()


@pytest.mark.process
def test_what_never_listens_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "tansu"
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setattr(module, "broker_binary", lambda: fake)
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.1)
    waiting = LightBroker("127.0.0.1", free_port())
    with pytest.raises(UnavailableError, match=r"did not start on .*: no output"):
        waiting.start()
    assert not waiting.alive
