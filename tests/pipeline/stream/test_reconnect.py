"""Waits between attempts, and the limits on requests."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.feed.protocol import Allowance
from pipeline.stream.reconnect import FIRST_BACKOFF_S, MAX_BACKOFF_S, Backoff, RequestBudget


def test_waits_double_up_to_a_limit_are_random_and_start_anew_after_a_reset() -> None:
    backoff = Backoff()
    waits = [backoff.next_s() for _ in range(12)]
    for number, wait in enumerate(waits):
        full = min(FIRST_BACKOFF_S * 2**number, MAX_BACKOFF_S)
        assert full / 2 <= wait <= full
    assert len(set(waits)) == 12
    backoff.reset()
    assert backoff.next_s() <= FIRST_BACKOFF_S


@pytest.mark.parametrize("step_s", [0.0, 0.05, 0.2, 3.0])
def test_no_window_holds_more_requests_than_allowed(step_s: float) -> None:
    budget, now_s, sent_s = RequestBudget([Allowance(8, 1.0), Allowance(20, 10.0)]), 0.0, []
    for _ in range(60):
        now_s += budget.reserve_s(now_s)
        sent_s.append(now_s)
        now_s += step_s
    for requests, window_s in ((8, 1.0), (20, 10.0)):
        assert all(sent_s[number + requests] - sent_s[number] > window_s for number in range(60 - requests))
    if step_s == 3.0:
        assert all(later - earlier == pytest.approx(3.0) for earlier, later in pairwise(sent_s))


def test_requests_within_the_limit_do_not_wait() -> None:
    budget = RequestBudget([Allowance(8, 1.0)])
    assert [budget.reserve_s(5.0) for _ in range(8)] == [0.0] * 8
    assert budget.reserve_s(5.0) > 1.0


def test_without_limits_nothing_waits() -> None:
    budget = RequestBudget(())
    assert [budget.reserve_s(0.0) for _ in range(100)] == [0.0] * 100
