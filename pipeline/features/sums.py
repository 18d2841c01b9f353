"""Exact sums of squared returns over a sliding window (docs/decisions/0002-exact-window-sums.md).

A sum is a 256-bit unsigned fixed-point number, four 64-bit words, least significant first, in units of
2^-170. Every square of a log return between two prices, which are float64, fits without rounding:

- Two floats that differ, differ by at least 2^-53 of the smaller, so a square is 0 or at least about
  2^-106, and the lowest of its 53 bits stands at 2^-158 or above.
- Two positive finite floats are less than e^1455 apart, so a square is below 2^21.1, and the words hold
  2^86: as many moves of the largest size as an int64 can count.

Adding is therefore exact, subtracting undoes it to the bit, and the words depend on nothing but what is
in the window: not on its past, not on the order. This is Kulisch's accumulator, cut to the range that
log returns have (R. Neal, "Fast exact summation using small and large superaccumulators", 2015).

These are bare functions for numba, float64 and 64-bit integers only; `kernels` compiles them.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

WORDS = 4
UNIT_EXPONENT = -170

# Of IEEE 754 binary64: value = mantissa * 2^(exponent field - 1075).
_MANTISSA_BITS = np.int64(52)
_MANTISSA_MASK = np.int64((1 << 52) - 1)
_IMPLICIT_BIT = np.int64(1 << 52)
_BIAS = np.int64(1075 + UNIT_EXPONENT)
_ONE = np.uint64(1)
_63 = np.uint64(63)


@njit
def _split(square):
    """The word that holds the lowest bit of a positive square, its part there and its part in the next."""
    bits = np.float64(square).view(np.int64)
    position = (bits >> _MANTISSA_BITS) - _BIAS
    mantissa = np.uint64((bits & _MANTISSA_MASK) | _IMPLICIT_BIT)
    shift = np.uint64(position & 63)
    return position >> 6, mantissa << shift, (mantissa >> _ONE) >> (_63 - shift)


@njit
def add(words, square):
    """words (4,) uint64 += square, a square of a log return."""
    if square == 0.0:
        return
    word, low, high = _split(square)
    new = words[word] + low
    high += np.uint64(new < low)
    words[word] = new
    word += 1
    new = words[word] + high
    carry = new < high
    words[word] = new
    while carry:
        word += 1
        new = words[word] + _ONE
        words[word] = new
        carry = new == 0


@njit
def subtract(words, square):
    """words (4,) uint64 -= square, which was added before."""
    if square == 0.0:
        return
    word, low, high = _split(square)
    old = words[word]
    words[word] = old - low
    high += np.uint64(old < low)
    word += 1
    old = words[word]
    borrow = old < high
    words[word] = old - high
    while borrow:
        word += 1
        old = words[word]
        words[word] = old - _ONE
        borrow = old == 0


@njit
def total(words):
    """The sum as float64, rounded once, to nearest, ties to even: what math.fsum gives of the window."""
    top = WORDS - 1
    while top > 0 and words[top] == 0:
        top -= 1
    leading = words[top]
    if leading == 0:
        return 0.0
    # The float nearest to the leading word tells its length (one too many where it rounds up to a power
    # of two, which costs a bit of the 63 that there are).
    half = np.int64(leading >> _ONE) | np.int64(1)
    shift = 63 - ((np.float64(half).view(np.int64) >> _MANTISSA_BITS) - 1022)
    up = np.uint64(shift)
    leading <<= up
    sticky = np.int64(0)
    if top > 0:
        following = words[top - 1]
        leading |= (following >> _ONE) >> (_63 - up)
        sticky = np.int64((following << up) != 0)
        for below in range(top - 1):
            sticky |= np.int64(words[below] != 0)
    # 62 bits or more, and whether anything is below them: converting them rounds as all bits would.
    significant = np.int64(leading >> _ONE) | np.int64(leading & _ONE) | sticky
    exponent = 64 * top - shift + 1 + UNIT_EXPONENT
    return np.float64(significant) * np.int64(np.int64(exponent + 1023) << _MANTISSA_BITS).view(np.float64)
