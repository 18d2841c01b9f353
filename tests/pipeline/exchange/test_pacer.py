from __future__ import annotations

import math

from pipeline.exchange.pacer import Pacer


def test_delays_are_from_the_first_message_so_they_never_add_up() -> None:
    pacer = Pacer(speed=2.0)
    assert pacer.delay_s(10_000_000_000, now_s=100.0) == 0
    assert pacer.delay_s(14_000_000_000, now_s=100.0) == 2.0
    assert pacer.delay_s(14_000_000_000, now_s=101.5) == 0.5
    assert pacer.delay_s(11_000_000_000, now_s=103.0) == -2.5


def test_after_a_reset_the_next_message_is_due_at_once() -> None:
    pacer = Pacer(speed=1.0)
    pacer.delay_s(0, now_s=0.0)
    pacer.reset()
    assert pacer.delay_s(5_400_000_000_000, now_s=3.0) == 0
    assert pacer.delay_s(5_401_000_000_000, now_s=3.0) == 1.0


def test_so_much_of_the_start_is_due_at_once() -> None:
    pacer = Pacer(speed=1.0, fast_forward_s=60.0)
    assert pacer.delay_s(0, now_s=5.0) <= 0
    assert pacer.delay_s(60_000_000_000, now_s=5.0) == 0
    assert pacer.delay_s(61_000_000_000, now_s=5.0) == 1.0
    pacer.reset()
    assert pacer.delay_s(70_000_000_000, now_s=9.0) == 0
    assert pacer.delay_s(71_000_000_000, now_s=9.0) == 1.0, "once, not after every wait"


def test_at_full_speed_and_without_a_time_nothing_waits() -> None:
    full = Pacer(math.inf)
    assert [full.delay_s(time_ns, now_s=0.0) for time_ns in (0, 10**18)] == [0, 0]
    assert Pacer(1.0).delay_s(None, now_s=0.0) == 0
