"""A rate is of calls that were answered: HTTP says 200 to a refusal too."""

from __future__ import annotations

import shutil
from itertools import count
from typing import Any

import grpc
import pytest

from benchmarks.h2load import h2load
from benchmarks.native.peers import NotBuiltError
from benchmarks.requests import request
from tests.benchmarks.test_native_peers import answer, fake

with_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")


@with_h2load
def test_calls_that_are_answered_give_a_rate() -> None:
    seen = count()

    def predict(raw: bytes, context: Any) -> bytes:
        assert raw == request(3).SerializeToString()
        next(seen)
        return answer(3)

    with fake(predict) as address:
        assert h2load(address, 4, 100, 3) > 0
    assert next(seen) == 101


@with_h2load
def test_calls_that_are_refused_give_none() -> None:
    number = count()

    def predict(raw: bytes, context: Any) -> bytes:
        if next(number) % 4 == 1:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return answer()

    with fake(predict) as address, pytest.raises(RuntimeError, match="bytes for 100 calls"):
        h2load(address, 4, 100)


@with_h2load
def test_a_server_that_answers_wrongly_is_not_measured() -> None:
    with fake(lambda raw, context: answer(2)) as address, pytest.raises(RuntimeError, match="answers wrongly"):
        h2load(address, 4, 100)


def test_where_h2load_is_absent_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotBuiltError, match="nghttp2-client"):
        h2load("127.0.0.1:1", 1, 1)
