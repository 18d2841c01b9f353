"""Lively spells of the simulated market: when they start, how long they last, and what ends them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.exchange.volatility import (
    AFTERMATH_S,
    BLOCK_S,
    FALL_S,
    MAX_HOLD_S,
    RISE_S,
    STEP_S,
    WINDOW_S,
    Spell,
    Volatility,
)

STEPS = BLOCK_S // STEP_S
CALM = np.zeros(STEPS)
SPIKE_RETURN = Volatility.SPIKE_BPS / 1e4 / math.sqrt(WINDOW_S / STEP_S)


def spells(returns: NDArray[np.float64], hours: int = 6, seed: int = 1) -> list[Spell]:
    """The spells of a market whose every block has the same returns (STEPS,)."""
    volatility = Volatility(np.random.default_rng(seed))
    seen: list[Spell] = []
    for _ in range(hours * 60):
        volatility.block()
        if volatility._spell.height and volatility._spell not in seen:  # before the first spell, the height is 0
            seen.append(volatility._spell)
        volatility.release(returns)
    return seen


def test_each_slot_has_a_spell_which_starts_in_its_first_half() -> None:
    starts_s = np.array([spell.start_s for spell in spells(CALM)])
    slots = starts_s // Volatility.SLOT_S
    assert slots.tolist() == list(range(len(starts_s)))
    offsets = starts_s / Volatility.SLOT_S - slots
    assert 0.0 <= offsets.min() < 0.1
    assert 0.4 < offsets.max() < 0.5


def test_spells_grow_to_the_longest_if_the_market_stays_calm() -> None:
    holds_s = [spell.hold_s for spell in spells(CALM)]
    assert holds_s[0] == pytest.approx(Volatility.SPIKE_SHARE * Volatility.SLOT_S - AFTERMATH_S)
    assert set(holds_s[1:]) == {MAX_HOLD_S}, "twice the stress is more than the longest"


def test_spells_have_no_length_if_the_market_is_lively_without_them() -> None:
    assert {spell.hold_s for spell in spells(np.full(STEPS, 1.01 * SPIKE_RETURN))[1:]} == {0.0}


@pytest.mark.parametrize(("factor", "released_s"), [(0.99, 0.0), (1.01, STEP_S)])
def test_a_step_at_or_above_the_spike_size_releases_its_seconds(factor: float, released_s: float) -> None:
    volatility = Volatility(np.random.default_rng(1))
    half = STEPS // 2
    first, second = np.zeros(STEPS), np.zeros(STEPS)
    first[half:] = second[:half] = factor * SPIKE_RETURN
    volatility.release(first)
    assert volatility._stress_s == 0.0, "half a window"
    volatility.release(second)
    assert volatility._stress_s == -released_s, "the window that spans both blocks"


def test_a_spell_rises_lasts_and_falls() -> None:
    spell = Spell(100.0, 50.0, 3.0)
    end_s = 100.0 + RISE_S + 50.0
    times_s = np.array([0.0, 100.0, 100.0 + RISE_S / 2, 100.0 + RISE_S, end_s, end_s + FALL_S])
    assert spell.variance(times_s) == pytest.approx([0.0, 0.0, 2.25, 9.0, 9.0, 9.0 * math.exp(-2)])
