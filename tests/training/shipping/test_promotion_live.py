"""A server takes up a promotion and a rollback while clients call it, and no call is lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import grpc
import pytest

from common.model_store import ModelStore
from tests.processes import await_true
from tests.server.conformance.calls import channel_to, packed, predict
from tests.server.processes import Process, serve
from tests.training.runs import make
from training.judging.gate import Limits
from training.shipping import promotion

pytestmark = pytest.mark.process

LIMITS = Limits(max_latency_us=1000.0, champion_margin=0.2)
CALLERS = 3


class Caller(threading.Thread):
    """Calls on a channel of its own, one call after another, until it is told to stop."""

    def __init__(self, address: str, rows: object) -> None:
        super().__init__(daemon=True)
        self.answers: list[tuple[str, float]] = []
        self.faults: list[str] = []
        self._address = address
        self._rows = rows
        self._ended = threading.Event()

    def run(self) -> None:
        with channel_to(self._address) as channel:
            while not self._ended.is_set():
                try:
                    answer = predict(channel, packed(self._rows))
                    self.answers.append((answer.model_version, answer.probabilities[0]))
                except grpc.RpcError as error:
                    self.faults.append(str(error))

    def stop(self) -> None:
        self._ended.set()
        self.join(30)


@pytest.mark.timeout(240)
def test_a_promotion_and_a_rollback_lose_no_call_and_no_answer_is_of_two_models(tmp_path: Path) -> None:
    store, runs_dir = ModelStore(tmp_path / "models", "volatility"), tmp_path / "runs"
    first = make()
    second = make(rows=first.rows, columns=("volatility", "trade_intensity"))
    row = first.rows.features[:1]
    expected = {"1": first.fitted.probabilities(row)[0], "2": second.fitted.probabilities(row)[0]}
    promotion.promote(promotion.judge(first.write(runs_dir), store, LIMITS), store, None, "champion", now_ms=1)
    judged = promotion.judge(second.write(runs_dir), store, LIMITS)
    with serve(tmp_path / "models", VOLCAST_SERVER__WATCH_S="0.05") as server:
        callers = [Caller(server.address, row) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()

        def answered_by(version: str) -> bool:
            return all(caller.answers and caller.answers[-1][0] == version for caller in callers)

        await_true(lambda: answered_by("1"), what="the first champion's answer")
        promotion.promote(judged, store, None, "candidate", now_ms=2)
        await_true(lambda: _shadows(server) > 0, what="a row scored by the shadow")
        assert answered_by("1")
        promotion.promote(judged, store, None, "champion", now_ms=3)
        await_true(lambda: answered_by("2"), what="the new champion's answer")
        assert store.rollback().version == "1"
        await_true(lambda: answered_by("1"), what="the answer of the champion before")
        time.sleep(0.1)
        for caller in callers:
            caller.stop()
        assert [caller.faults for caller in callers] == [[]] * CALLERS
        for version, probability in (one for caller in callers for one in caller.answers):
            assert probability == pytest.approx(expected[version], abs=1e-5)
        assert all({"1", "2"} == {version for version, _ in caller.answers} for caller in callers)
        refused = [event for event in server.events() if event.get("event") == "model_refused"]
        assert refused == []


def _shadows(server: Process) -> float:
    metrics = server.metrics()
    return float(sum(value for name, value in metrics.items() if name.startswith("volcast_server_shadow_rows_total")))
