from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.judging.episodes import NS_PER_S, Line, alarms

HORIZON_NS = 60 * NS_PER_S


def line(rows: int, product: NDArray[np.int64] | None = None) -> Line:
    return Line.of(np.zeros(rows, np.int64) if product is None else product, np.arange(rows) * NS_PER_S, HORIZON_NS)


def marked(rows: int, *spans: tuple[int, int]) -> NDArray[np.int8]:
    y = np.zeros(rows, np.int8)
    for first, last in spans:
        y[first : last + 1] = 1
    return y


def test_rows_at_most_a_horizon_apart_are_one_episode() -> None:
    y = marked(600, (100, 110), (170, 180), (300, 310))
    episodes = line(600).runs(y == 1)
    assert (episodes.first.tolist(), episodes.last.tolist()) == ([100, 300], [180, 310])


def test_a_perfect_alert_comes_a_horizon_before_the_spike_is_there_to_see() -> None:
    y = marked(600, (100, 130))
    found = alarms(line(600), y, y == 1)
    assert found.lead_s.tolist() == [60.0]
    assert found.raised.tolist() == [100]
    assert found.false.tolist() == [False]


def test_alerts_that_never_cease_are_an_alarm_each_horizon() -> None:
    found = alarms(line(600), marked(600, (100, 130)), np.ones(600, bool))
    assert found.raised.tolist() == list(range(0, 600, 61))  # an alarm speaks for (t, t + 60 s]
    assert np.flatnonzero(~found.false).tolist() == [1, 2]


@pytest.mark.parametrize(("first_alert", "lead_s"), [(90, 60), (120, 40), (165, -5)])
def test_lead_time_is_counted_from_the_first_alert_that_is_right(first_alert: int, lead_s: float) -> None:
    y = marked(600, (100, 200))
    assert alarms(line(600), y, marked(600, (first_alert, 210)) == 1).lead_s.tolist() == [lead_s]


def test_an_alarm_that_no_spike_follows_is_false_and_a_missed_episode_has_no_lead() -> None:
    y = marked(900, (100, 130), (500, 530))
    found = alarms(line(900), y, marked(900, (110, 111), (300, 302), (700, 700)) == 1)
    assert found.false.tolist() == [False, True, True]
    assert found.lead_s[0] == 50
    assert np.isnan(found.lead_s[1])


def test_nothing_is_counted_across_a_gap_or_from_one_product_to_another() -> None:
    time_ns = np.concatenate([np.arange(100), 1000 + np.arange(100)]) * NS_PER_S
    broken = Line.of(np.zeros(200, np.int64), time_ns, HORIZON_NS)
    assert len(broken.runs(np.ones(200, bool))) == 2
    assert broken.hours == pytest.approx(200 / 3600)
    two = line(200, np.arange(200) % 2)
    assert len(two.runs(np.ones(200, bool))) == 2
    assert two.hours == pytest.approx(400 / 3600)  # each of them was watched all the time


def test_without_spikes_or_alerts_there_are_no_events() -> None:
    found = alarms(line(100), np.zeros(100, np.int8), np.zeros(100, bool))
    assert (len(found.episodes), len(found.raised)) == (0, 0)
