"""CPU time of a short call, undisturbed by other work of the machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

# Rounds are short, so that other work of the machine disturbs only some of them.
TIMED_CALLS, TIMED_ROUNDS, ROUNDS_AT_ONCE, PAUSE_S = 20, 600, 200, 0.5


def best_call_us(call: Callable[[], object]) -> float:
    """CPU time of a call, in microseconds: the mean of the best of many rounds."""
    clock = time.thread_time_ns
    best = math.inf
    for number in range(TIMED_ROUNDS):
        if number and number % ROUNDS_AT_ONCE == 0:
            time.sleep(PAUSE_S)  # a slow phase of the machine may pass
        began = clock()
        for _ in range(TIMED_CALLS):
            call()
        best = min(best, (clock() - began) / TIMED_CALLS)
    return best / 1000
