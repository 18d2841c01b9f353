"""A short form of `python -m benchmarks.abuse`."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.progress import Progress

from benchmarks.abuse.__main__ import Abuse, Findings
from benchmarks.abuse.corpus import PREDICT, header_block, packed
from benchmarks.abuse.target import serving
from benchmarks.abuse.wire import Wire, replay
from common.http2 import frames
from tests.processes import await_true


def abuse() -> Abuse:
    return Abuse(Console(quiet=True), Progress(disable=True), Findings(), seed=7)


def test_decoders_raise_nothing_but_what_tells_the_caller_his_fault() -> None:
    one = abuse()
    one.decoders(20_000, use_atheris=False)
    assert one.findings.faults == []
    assert len(one.findings.rows) == 5


@pytest.mark.parametrize("front", ["native", "grpcio"])
def test_a_front_outlives_bad_input_and_well_formed_calls_beside_it_are_right(front: str) -> None:
    one = abuse()
    one.front(front, 10_000, 0.02)
    assert one.findings.faults == []


def answers(address: str) -> bool:
    try:
        with Wire(address) as wire:
            return wire.calls([(PREDICT, packed().SerializeToString())])[0] == 1
    except OSError:
        return False


@pytest.mark.parametrize("front", ["native", "grpcio"])
def test_a_path_that_is_no_text_does_not_end_the_server(front: str) -> None:
    broken = header_block("/x").replace(b"/x", b"/\x80")
    with serving(front) as target:
        for _ in range(3):
            replay(target.address, frames.frame(frames.HEADERS, 5, 1, broken))
            try:
                with Wire(target.address) as wire:
                    statuses = wire.calls([(PREDICT, packed().SerializeToString())])
            except OSError:  # its listener has fallen and is not there again yet
                assert front == "grpcio"
                continue
            assert statuses[0] == 1 or front == "grpcio"
        assert target.alive
        assert target.faults() == []
        await_true(lambda: answers(target.address), 10)  # grpcio's front listens anew
