"""The loop over ticks, for numba: bare, no validation, outputs and state supplied by the caller.

State of product p, all plain arrays (FeatureEngine owns them):

- `cursors[p]`: int64, the columns below. Ticks of an unbroken history are counted from 0; tick i is at
  ring position `offset + (i & mask)` of `times`, `mids` and `squares`.
- `last[p]`: float64 (5,): price, bid, ask, bid quantity, ask quantity of the last tick used.
- `sums[p]`: uint64 (4,): exact sum of the squared returns in (t - 60 s, t] (see `sums`).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numba import config, njit, types

from pipeline.features import sums

WINDOWS_NS = (1_000_000_000, 5_000_000_000, 30_000_000_000, 60_000_000_000)
LONGEST_NS = WINDOWS_NS[-1]
LONGEST_S = LONGEST_NS / 1e9
FEATURES = 11

OK, GAP, JUMPED_BACK, REPEATED = 0, 1, 2, 3

# Columns of `cursors`. REFERENCE + k is the last tick at or before t - WINDOWS_NS[k]; that of the
# longest window is also the oldest tick kept.
COUNT, START_NS, SEQUENCE, OFFSET, MASK, REFERENCE = 0, 1, 2, 3, 4, 5
OLDEST = REFERENCE + len(WINDOWS_NS) - 1
CURSORS = OLDEST + 1
LAST_VALUES = 5

add, subtract, total = sums.add, sums.subtract, sums.total


@njit
def log_return(mid, before):
    """log(mid / before), within about an ulp for tiny moves too, and exactly antisymmetric.

    The quotient itself would round away the digits of a move much smaller than the price.
    """
    low, high = min(mid, before), max(mid, before)
    ratio = (high - low) / low
    size = math.log1p(ratio) if ratio < math.inf else math.log(high) - math.log(low)
    return size if mid >= before else -size


@njit
def judge(last, last_ns, last_sequence, time_ns, sequence_num, price, bid, ask, bid_quantity, ask_quantity):
    """What becomes of a tick after the last one used of an unbroken history."""
    if time_ns < last_ns:
        return JUMPED_BACK
    if (
        time_ns == last_ns
        and sequence_num == last_sequence
        and price == last[0]
        and bid == last[1]
        and ask == last[2]
        and bid_quantity == last[3]
        and ask_quantity == last[4]
    ):
        return REPEATED
    return OK


@njit
def advance(state, times, squares, words, time_ns):
    """Moves the references up to `time_ns` and takes out of the sum what leaves the longest window.

    Moving on to a time twice is moving on once, so a tick that found its ring full can be tried again.
    """
    count, offset, mask = state[COUNT], state[OFFSET], state[MASK]
    for window in range(len(WINDOWS_NS)):
        limit = time_ns - WINDOWS_NS[window]
        at = state[REFERENCE + window]
        while at + 1 < count and times[offset + ((at + 1) & mask)] <= limit:
            at += 1
            if window == len(WINDOWS_NS) - 1:
                subtract(words, squares[offset + (at & mask)])
        state[REFERENCE + window] = at


@njit
def write_row(row, state, mids, words, time_ns, mid, price, bid, ask, bid_quantity, ask_quantity):
    """Fills a row (11,) of core/1 as of the tick just pushed; True where all of it is warm."""
    offset, mask, start_ns = state[OFFSET], state[MASK], state[START_NS]
    row[0] = price
    row[1] = mid
    for window in range(len(WINDOWS_NS)):
        if time_ns - WINDOWS_NS[window] >= start_ns:
            row[2 + window] = log_return(mid, mids[offset + (state[REFERENCE + window] & mask)])
        else:
            row[2 + window] = math.nan
    warm = time_ns - LONGEST_NS >= start_ns
    row[6] = math.sqrt(total(words)) if warm else math.nan
    row[7] = (state[COUNT] - 1 - state[OLDEST]) / LONGEST_S if warm else math.nan
    spread = ask - bid
    row[8] = spread
    row[9] = spread / mid
    depth = bid_quantity + ask_quantity
    row[10] = (bid_quantity - ask_quantity) / depth if depth > 0.0 else 0.0
    return warm


def update(
    first, product, kind, event_time_ns, sequence_num, price, bid, ask, bid_quantity, ask_quantity,
    cursors, last, words, times, mids, squares, status, warm, values,
):  # fmt: skip
    """Takes records from `first` on; returns how many are done.

    It stops before a record whose product has no state yet or whose ring is full; the caller makes room
    and calls again from there.
    """
    for i in range(first, len(product)):
        p = product[i]
        if p < 0 or p >= len(cursors):
            return i
        state, previous = cursors[p], last[p]
        warm[i] = False
        count = state[COUNT]
        if kind[i] != 0:
            status[i] = GAP
            state[COUNT] = 0
        elif count > 0:
            status[i] = judge(
                previous, times[state[OFFSET] + ((count - 1) & state[MASK])], state[SEQUENCE], event_time_ns[i],
                sequence_num[i], price[i], bid[i], ask[i], bid_quantity[i], ask_quantity[i],
            )  # fmt: skip
        else:
            status[i] = OK
        if status[i] != OK:
            values[i, :] = math.nan
            continue
        if count == 0:
            state[START_NS] = event_time_ns[i]
            state[REFERENCE : OLDEST + 1] = 0
            words[p, :] = 0
        else:
            advance(state, times, squares, words[p], event_time_ns[i])
            if count - state[OLDEST] > state[MASK]:
                return i
        # Half the spread above the bid: no overflow for any two floats, and the same bits as their mean
        # wherever the ask is below twice the bid.
        mid = bid[i] + 0.5 * (ask[i] - bid[i])
        at = state[OFFSET] + (count & state[MASK])
        if count > 0:  # the first tick of a history has no return, and leaves the window without a square
            tick_return = log_return(mid, mids[state[OFFSET] + ((count - 1) & state[MASK])])
            squares[at] = tick_return * tick_return
            add(words[p], squares[at])
        times[at] = event_time_ns[i]
        mids[at] = mid
        state[COUNT] = count + 1
        state[SEQUENCE] = sequence_num[i]
        previous[0], previous[1], previous[2] = price[i], bid[i], ask[i]
        previous[3], previous[4] = bid_quantity[i], ask_quantity[i]
        warm[i] = write_row(
            values[i], state, mids, words[p], event_time_ns[i], mid,
            price[i], bid[i], ask[i], bid_quantity[i], ask_quantity[i],
        )  # fmt: skip
    return len(product)


def _read_only(item: Any) -> Any:
    return types.Array(item, 1, "C", readonly=True)


_INTS, _FLOATS = _read_only(types.int64), _read_only(types.float64)
# The arguments of any kernel are `first` and the columns of the ticks, its state, and the answer.
TICKS = (types.int64, _read_only(types.int32), _read_only(types.uint8), _INTS, _INTS, *[_FLOATS] * 5)
OUTPUTS = (types.uint8[::1], types.boolean[::1], types.float64[:, ::1])
SIGNATURE = types.int64(
    *TICKS, types.int64[:, ::1], types.float64[:, ::1], types.uint64[:, ::1],
    types.int64[::1], types.float64[::1], types.float64[::1], *OUTPUTS,
)  # fmt: skip


@functools.cache
def compiled() -> Callable[..., int]:
    """`update` as machine code, compiled once a process for the one signature it is called with.

    No fastmath: it would reorder and fuse, and give other bits elsewhere.
    """
    return machine_code(update, SIGNATURE)


def machine_code(function: Callable[..., int], signature: Any) -> Callable[..., int]:
    """The function compiled for one signature, without numba's dispatcher.

    The dispatcher looks at the type of each of some twenty arguments to choose among versions, of which there is
    one: 0.6 µs a call. The arguments are still checked to be arrays of the right item size; `TickColumns` and
    FeatureEngine see to their types.
    """
    with _cache_folder() as cache:
        dispatcher = njit(signature, nogil=True, error_model="numpy", cache=cache)(function)
    (version,) = dispatcher.overloads.values()
    entry: Callable[..., int] = version.entry_point
    return entry


@contextmanager
def _cache_folder() -> Iterator[bool]:
    """Whether machine code is kept on disk: in the folder that numba's variable NUMBA_CACHE_DIR names, if it is set.

    numba looks at the file of the compiled function alone. So the folder's name holds a hash of all functions that it
    may call. A cache is not shipped: it is of one CPU, and stale wherever the files have another time.
    """
    settings: Any = config  # whose names numba makes when it is imported
    folder = settings.CACHE_DIR
    own = os.path.join(folder, f"volcast-{_hash_of_sources()}") if folder else ""
    if not own or not _can_be_written(own):  # of a folder that it cannot write, numba would take another
        yield False
        return
    settings.CACHE_DIR = own
    try:
        yield True
    finally:
        settings.CACHE_DIR = folder


def _can_be_written(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _hash_of_sources() -> str:
    digest, package = sha256(), os.path.dirname(__file__)
    for name in sorted(os.listdir(package)):
        if name.endswith(".py"):
            with open(os.path.join(package, name), "rb") as source:
                digest.update(source.read())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Kernel:
    """A loop over ticks and the state it takes: what FeatureEngine needs to know of it.

    Its cursors begin with COUNT…MASK as here. Arrays of state are handed over in the order given.
    """

    compiled: Callable[[], Callable[..., int]]
    longest_ns: int  # how much unbroken history makes a row warm
    reach_ns: int  # how much of the history a row depends on
    features: int
    of_product: tuple[tuple[tuple[int, ...], type], ...]  # shape and type for each product; the cursors first
    of_tick: tuple[type, ...]  # types of the rings
    oldest: int  # the cursor that holds the number of the oldest tick kept
    tick_numbers: tuple[int, ...]  # cursors that count ticks of the unbroken history
    queue: tuple[int, int] | None = None  # cursors of the head and tail of the last ring, which holds tick numbers


KERNEL = Kernel(
    compiled,
    LONGEST_NS,
    LONGEST_NS,
    FEATURES,
    of_product=(((CURSORS,), np.int64), ((LAST_VALUES,), np.float64), ((sums.WORDS,), np.uint64)),
    of_tick=(np.int64, np.float64, np.float64),
    oldest=OLDEST,
    tick_numbers=(COUNT, *range(REFERENCE, OLDEST + 1)),
)
