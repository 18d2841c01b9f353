"""A server takes up a promotion and a rollback while clients call it, and no call is lost."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import grpc
import pytest

from common.bundle import read_bundle
from common.model_store import ModelStore
from tests.processes import await_true
from tests.server.conformance.calls import channel_to, packed, predict
from tests.server.processes import Process, serve
from tests.training.runs import first
from training.judging.gate import GateLimits
from training.shipping import promotion
from training.shipping.onnx_model import OnnxModel

pytestmark = pytest.mark.process

LIMITS = GateLimits(max_latency_us=1000.0, champion_margin=0.2)
SHIPPED = Path(__file__).parents[3] / "models" / "volatility"  # version 3 gives the probability of a label
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
def test_a_promotion_from_an_old_style_model_to_a_forecast_and_back_loses_no_call(tmp_path: Path) -> None:
    store, runs_dir = ModelStore(tmp_path / "models", "volatility"), tmp_path / "runs"
    old, new = "3", "4"
    shutil.copytree(SHIPPED, store.folder, ignore=shutil.ignore_patterns(new, ".history.json"))
    (store.folder / "labels.json").write_text(json.dumps({"stable": old}))
    served, model = read_bundle(store.path(old))
    assert served.forecast is None
    made = first()
    row = made.rows.features[:1]
    assert made.manifest.forecast is not None
    expected = {
        old: OnnxModel(model).probabilities(row)[0],
        new: made.fitted.forecasts(row).exceedance(made.manifest.forecast.spike_bps)[0],
    }
    assert abs(expected[old] - expected[new]) > 1e-3
    judged = promotion.judge(made.write(runs_dir), store, LIMITS)
    assert f"log loss at {served.label.threshold * 1e4:.3g} bps" in {c.name: c for c in judged.checks}["champion"].text
    with serve(tmp_path / "models", VOLCAST_SERVER__WATCH_S="0.05") as server:
        callers = [Caller(server.address, row) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()

        def answered_by(version: str) -> bool:
            return all(caller.answers and caller.answers[-1][0] == version for caller in callers)

        await_true(lambda: answered_by(old), what="the old-style champion's answer")
        assert promotion.promote(judged, store, None, "candidate", now_ms=2).version == new
        await_true(lambda: _shadows(server) > 0, what="a row scored by the shadow")
        assert answered_by(old)
        promotion.promote(judged, store, None, "champion", now_ms=3)
        await_true(lambda: answered_by(new), what="the forecast's answer")
        assert store.rollback().version == old
        await_true(lambda: answered_by(old), what="the answer of the previous champion")
        time.sleep(0.1)
        for caller in callers:
            caller.stop()
        assert [caller.faults for caller in callers] == [[]] * CALLERS
        for version, probability in (answer for caller in callers for answer in caller.answers):
            assert probability == pytest.approx(expected[version], abs=1e-6)
        assert all({old, new} == {version for version, _ in caller.answers} for caller in callers)
        refused = [event for event in server.events() if event.get("event") == "model_refused"]
        assert refused == []


def _shadows(server: Process) -> float:
    metrics = server.metrics()
    return float(sum(value for name, value in metrics.items() if name.startswith("volcast_server_shadow_rows_total")))
