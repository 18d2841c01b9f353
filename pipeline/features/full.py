"""The loop over ticks for full/1 and full/2, beside `kernels` for core/1: bare, with outputs and state of the caller.

The first eleven columns are written by core/1's own code from a state that begins as core/1's does, so they
are the same bits. Every sum is exact (see `sums`), so each feature is a function of the ticks of its window.

State of product p, all plain arrays (FeatureEngine owns them):

- `cursors[p]`: int64, the columns below. Tick i of the unbroken history is at ring position
  `offset + (i & mask)`.
- `last[p]`: float64 (6,): price, bid, ask, bid quantity, ask quantity of the last tick used; DECAYED.
- `words[p]`: uint64 (SUMS, 4): exact sums, in the slots below.
- `seconds[p]`: float64 (512,): sums of squared returns of whole seconds, second s at `s & 511`.
- `hours[p]` and `grids[p]`: of full/2, see `trailing`.
- rings: `times`, `mids`, `moves` (absolute return), `flows` (order flow), `spreads` (over mid),
  `imbalances`, and `peaks`: the numbers of the ticks from HEAD to before TAIL, whose moves fall, the first
  being the largest of the last minute.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numba import njit, types

from pipeline.features import kernels, sums, trailing
from pipeline.features.kernels import COUNT, GAP, MASK, OFFSET, OK, REFERENCE, SEQUENCE, START_NS, Kernel

# Core/1's windows come first, with the minute as its longest.
WINDOWS_NS = (*kernels.WINDOWS_NS, 15_000_000_000, 120_000_000_000, 300_000_000_000)
FIVE_SECONDS, HALF_MINUTE, MINUTE, QUARTER_MINUTE, TWO_MINUTES, FIVE_MINUTES = range(1, 7)
MINUTE_NS, FIVE_SECONDS_NS = WINDOWS_NS[MINUTE], WINDOWS_NS[FIVE_SECONDS]
LONGEST_NS = WINDOWS_NS[FIVE_MINUTES]
FEATURES = 27  # of full/1

# Columns of `cursors` after the references.
OLDEST = REFERENCE + FIVE_MINUTES
SECOND, MOVED_NS, HEAD, TAIL = OLDEST + 1, OLDEST + 2, OLDEST + 3, OLDEST + 4
CURSORS = OLDEST + 5
POINT, KNOWN = CURSORS, CURSORS + 1  # of full/2: the last point of the grid, the returns known (see `trailing`)
DECAYED = 5  # of `last`: squares of the seconds before this one, by age
LAST_VALUES = 6

# Slots of `words`. Slot w holds the squared returns in window w, but no feature sums those of a second's
# window, so slot 0 holds those since the running second of the clock began.
THIS_SECOND = 0
PAIRS, SPREADS, BID_HEAVY, ASK_HEAVY, INFLOW, OUTFLOW = range(7, 13)
SUMS = 13

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
SECONDS = 512  # a power of two
SECONDS_MASK = SECONDS - 1
EWMA_SECONDS = 300
EWMA_DECAY = 0.94  # a second; RiskMetrics, Technical Document (1996)
WEIGHTS = np.array([EWMA_DECAY**age for age in range(EWMA_SECONDS)])
HALF_PI = math.pi / 2

# Order flow, in units of the base currency, is the one summand without a natural range. These bounds make
# any of it fit the words: nothing below the first is traded, and 2^28 ticks of the second can be summed.
SMALLEST_FLOW = 2.0**-118
LARGEST_FLOW = 2.0**58

log_return, write_core = kernels.log_return, kernels.write_row
add, subtract, total = sums.add, sums.subtract, sums.total


@njit
def order_flow(last, bid, ask, bid_quantity, ask_quantity):
    """What the change from the last top of the book adds to the bids less what it adds to the asks.

    e_n of R. Cont, A. Kukanov, S. Stoikov, "The price impact of order book events" (2014), section 2.1.
    """
    bids = (bid_quantity if bid >= last[1] else 0.0) - (last[3] if bid <= last[1] else 0.0)
    asks = (ask_quantity if ask <= last[2] else 0.0) - (last[4] if ask >= last[2] else 0.0)
    flow = bids - asks
    size = min(abs(flow), LARGEST_FLOW)
    if size < SMALLEST_FLOW:
        return 0.0
    return size if flow > 0.0 else -size


@njit
def leave_minute(state, words, at, moves, flows, spreads, imbalances):
    """Takes tick `at` out of the sums over a minute, and the pair of its return with the next."""
    offset, mask = state[OFFSET], state[MASK]
    here = offset + (at & mask)
    if at + 1 < state[COUNT]:
        subtract(words[PAIRS], moves[here] * moves[offset + ((at + 1) & mask)])
    subtract(words[SPREADS], spreads[here])
    if imbalances[here] > 0.0:
        subtract(words[BID_HEAVY], imbalances[here])
    else:
        subtract(words[ASK_HEAVY], -imbalances[here])
    if flows[here] > 0.0:
        subtract(words[INFLOW], flows[here])
    else:
        subtract(words[OUTFLOW], -flows[here])


@njit
def advance(state, words, time_ns, times, moves, flows, spreads, imbalances, peaks):
    """Moves the references up to `time_ns` and takes out of the sums what leaves their windows.

    Moving on to a time twice is moving on once, so a tick that found its ring full can be tried again.
    """
    count, offset, mask = state[COUNT], state[OFFSET], state[MASK]
    for window in range(len(WINDOWS_NS)):
        limit = time_ns - WINDOWS_NS[window]
        at = state[REFERENCE + window]
        while at + 1 < count and times[offset + ((at + 1) & mask)] <= limit:
            at += 1
            if window > 0:
                move = moves[offset + (at & mask)]
                subtract(words[window], move * move)
            if window == MINUTE:
                leave_minute(state, words, at, moves, flows, spreads, imbalances)
        state[REFERENCE + window] = at
    while state[HEAD] < state[TAIL] and peaks[offset + (state[HEAD] & mask)] <= state[REFERENCE + MINUTE]:
        state[HEAD] += 1


@njit
def begin_second(state, last, words, seconds, second):
    """Closes the running second of the clock and weighs those before `second` by their age.

    The weighted sum is made anew, in one order, so it is a function of the seconds; carried on from the
    last it would depend on all that ever was. Four chains, since one would wait on each addition.
    """
    closed = state[SECOND]
    seconds[closed & SECONDS_MASK] = total(words[THIS_SECOND])
    words[THIS_SECOND, :] = 0
    for silent in range(max(closed, second - EWMA_SECONDS) + 1, second + 1):
        seconds[silent & SECONDS_MASK] = 0.0
    state[SECOND] = second
    first = fourth = third = other = 0.0
    for age in range(0, EWMA_SECONDS, 4):  # the running second, of age 0, is still empty
        first += WEIGHTS[age] * seconds[(second - age) & SECONDS_MASK]
        other += WEIGHTS[age + 1] * seconds[(second - age - 1) & SECONDS_MASK]
        third += WEIGHTS[age + 2] * seconds[(second - age - 2) & SECONDS_MASK]
        fourth += WEIGHTS[age + 3] * seconds[(second - age - 3) & SECONDS_MASK]
    last[DECAYED] = (first + other) + (third + fourth)


@njit
def enter(state, words, move, flow, spread, imbalance, moves, peaks):
    """Puts the tick after the last one, not the first of its history, into the sums."""
    count, offset, mask = state[COUNT], state[OFFSET], state[MASK]
    if move > 0.0:
        square = move * move
        for window in range(len(WINDOWS_NS)):  # and THIS_SECOND
            add(words[window], square)
        if count - 1 > state[REFERENCE + MINUTE]:  # the return before is of the minute too
            add(words[PAIRS], moves[offset + ((count - 1) & mask)] * move)
    add(words[SPREADS], spread)
    if imbalance > 0.0:
        add(words[BID_HEAVY], imbalance)
    else:
        add(words[ASK_HEAVY], -imbalance)
    if flow > 0.0:
        add(words[INFLOW], flow)
    else:
        add(words[OUTFLOW], -flow)
    tail = state[TAIL]
    while tail > state[HEAD] and moves[offset + (peaks[offset + ((tail - 1) & mask)] & mask)] <= move:
        tail -= 1
    peaks[offset + (tail & mask)] = count
    state[TAIL] = tail + 1


@njit
def write_rest(row, state, last, words, time_ns, moves, peaks):
    """Fills columns 11… of a row (27,) as of the tick just pushed; True where all of them are warm."""
    history_ns = time_ns - state[START_NS]
    row[11] = root(words, FIVE_SECONDS, history_ns)
    row[12] = root(words, QUARTER_MINUTE, history_ns)
    row[13] = root(words, HALF_MINUTE, history_ns)
    row[14] = root(words, TWO_MINUTES, history_ns)
    row[15] = root(words, FIVE_MINUTES, history_ns)
    warm = history_ns >= LONGEST_NS
    row[16] = math.sqrt(last[DECAYED] + total(words[THIS_SECOND])) if warm else math.nan
    newest = state[COUNT] - 1
    if history_ns >= MINUTE_NS:
        ticks = newest - state[REFERENCE + MINUTE]
        row[17] = math.sqrt(HALF_PI * total(words[PAIRS]))
        row[18] = moves[state[OFFSET] + (peaks[state[OFFSET] + (state[HEAD] & state[MASK])] & state[MASK])]
        inflow, outflow = total(words[INFLOW]), total(words[OUTFLOW])
        row[19] = (inflow - outflow) / (inflow + outflow) if inflow + outflow > 0.0 else 0.0
        row[22] = total(words[SPREADS]) / ticks
        row[23] = (total(words[BID_HEAVY]) - total(words[ASK_HEAVY])) / ticks
    else:
        row[17:20] = math.nan
        row[22:24] = math.nan
    short = newest - state[REFERENCE + FIVE_SECONDS]
    row[20] = short / (FIVE_SECONDS_NS / 1e9) if history_ns >= FIVE_SECONDS_NS else math.nan
    row[21] = row[20] / row[7]  # NaN where the minute's is
    row[24] = min(time_ns - state[MOVED_NS], LONGEST_NS) / 1e9 if warm else math.nan
    turn = 2.0 * math.pi * ((time_ns % DAY_NS) / DAY_NS)
    row[25] = math.sin(turn)
    row[26] = math.cos(turn)
    return warm


@njit
def root(words, window, history_ns):
    """Realized volatility over a window: NaN before the history is as long."""
    return math.sqrt(total(words[window])) if history_ns >= WINDOWS_NS[window] else math.nan


def update(
    first, product, kind, event_time_ns, sequence_num, price, bid, ask, bid_quantity, ask_quantity,
    cursors, last, words, seconds, hours, grids,
    times, mids, moves, flows, spreads, imbalances, peaks, status, warm, values,
):  # fmt: skip
    """As kernels.update: takes records from `first` on; returns how many are done.

    hours and grids: for full/2; without a column for full/1.
    """
    trailing_hour = hours.shape[1] > 0
    for i in range(first, len(product)):
        p = product[i]
        if p < 0 or p >= len(cursors):
            return i
        state, before, sums_p = cursors[p], last[p], words[p]
        time_ns = event_time_ns[i]
        warm[i] = False
        count = state[COUNT]
        newest = state[OFFSET] + ((count - 1) & state[MASK])
        if kind[i] != 0:
            status[i] = GAP
            state[COUNT] = 0
        elif count > 0:
            status[i] = kernels.judge(
                before, times[newest], state[SEQUENCE], time_ns, sequence_num[i],
                price[i], bid[i], ask[i], bid_quantity[i], ask_quantity[i],
            )  # fmt: skip
        else:
            status[i] = OK
        if status[i] != OK:
            values[i, :] = math.nan
            continue
        second = time_ns // SECOND_NS
        if count == 0:
            state[START_NS] = time_ns
            state[REFERENCE : OLDEST + 1] = 0
            state[SECOND] = second
            state[MOVED_NS] = time_ns
            state[HEAD] = state[TAIL] = 0
            sums_p[:, :] = 0  # but not `seconds`: by the time a row is warm, all of them are of this history
            if trailing_hour:
                state[POINT], state[KNOWN] = trailing.last_point(time_ns), 0
                trailing.begin(hours[p], grids[p])
        else:
            advance(state, sums_p, time_ns, times, moves, flows, spreads, imbalances, peaks)
            if count - state[OLDEST] > state[MASK]:
                return i
            if second != state[SECOND]:
                begin_second(state, before, sums_p, seconds[p], second)
            if trailing_hour:
                point = trailing.last_point(time_ns)
                if point != state[POINT]:
                    state[KNOWN] = trailing.advance(
                        hours[p], grids[p], state[POINT], state[KNOWN], point, mids[newest]
                    )  # fmt: skip
                    state[POINT] = point
        mid = bid[i] + 0.5 * (ask[i] - bid[i])  # as in core/1
        spread = (ask[i] - bid[i]) / mid
        depth = bid_quantity[i] + ask_quantity[i]
        imbalance = (bid_quantity[i] - ask_quantity[i]) / depth if depth > 0.0 else 0.0
        move = flow = 0.0
        if count > 0:
            move = abs(log_return(mid, mids[newest]))
            flow = order_flow(before, bid[i], ask[i], bid_quantity[i], ask_quantity[i])
            enter(state, sums_p, move, flow, spread, imbalance, moves, peaks)
        if move > 0.0:
            state[MOVED_NS] = time_ns
        at = state[OFFSET] + (count & state[MASK])
        times[at], mids[at], moves[at], flows[at] = time_ns, mid, move, flow
        spreads[at], imbalances[at] = spread, imbalance
        state[COUNT] = count + 1
        state[SEQUENCE] = sequence_num[i]
        before[0], before[1], before[2] = price[i], bid[i], ask[i]
        before[3], before[4] = bid_quantity[i], ask_quantity[i]
        write_core(
            values[i], state, mids, sums_p[MINUTE], time_ns, mid,
            price[i], bid[i], ask[i], bid_quantity[i], ask_quantity[i],
        )  # fmt: skip
        warm[i] = write_rest(values[i], state, before, sums_p, time_ns, moves, peaks)
        if trailing_hour:
            for feature in range(trailing.FEATURES):
                values[i, FEATURES + feature] = hours[p, feature]
    return len(product)


SIGNATURE = types.int64(
    *kernels.TICKS, types.int64[:, ::1], types.float64[:, ::1], types.uint64[:, :, ::1], types.float64[:, ::1],
    types.float64[:, ::1], types.float64[:, :, ::1], types.int64[::1], *[types.float64[::1]] * 5, types.int64[::1],
    *kernels.OUTPUTS,
)  # fmt: skip


@functools.cache
def compiled() -> Callable[..., int]:
    """`update` as machine code, compiled once a process; see kernels.compiled."""
    return kernels.machine_code(update, SIGNATURE)


def _kernel(reach_ns: int, features: int, cursors: int, hour: int, grid: tuple[int, int]) -> Kernel:
    return Kernel(
        compiled,
        LONGEST_NS,
        reach_ns,
        features,
        of_product=(
            ((cursors,), np.int64),
            ((LAST_VALUES,), np.float64),
            ((SUMS, sums.WORDS), np.uint64),
            ((SECONDS,), np.float64),
            ((hour,), np.float64),
            (grid, np.float64),
        ),
        of_tick=(np.int64, *[np.float64] * 5, np.int64),
        oldest=OLDEST,
        tick_numbers=(COUNT, *range(REFERENCE, OLDEST + 1)),
        queue=(HEAD, TAIL),
    )


KERNEL_1 = _kernel(LONGEST_NS, FEATURES, CURSORS, hour=0, grid=(0, 0))
KERNEL_2 = _kernel(
    trailing.REACH_NS, FEATURES + trailing.FEATURES, KNOWN + 1, trailing.VALUES, (trailing.ROWS, trailing.HOUR)
)
