"""Other running sums for the feature kernel, to compare with: add what enters, subtract what leaves.

They keep float64 in the words of the exact sum.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit

from common.schema import CORE_1
from pipeline.features import kernels
from pipeline.features.engine import FeatureEngine


@njit
def _get(words, place):
    return np.uint64(words[place]).view(np.float64)


@njit
def _put(words, place, value):
    words[place] = np.float64(value).view(np.uint64)


@njit
def _plain_add(words, square):
    _put(words, 0, _get(words, 0) + square)


@njit
def _plain_subtract(words, square):
    _put(words, 0, _get(words, 0) - square)


@njit
def _plain_total(words):
    return max(_get(words, 0), 0.0)


@njit
def _neumaier_add(words, square):
    before = _get(words, 0)
    after = before + square
    lost = (before - after) + square if abs(before) >= abs(square) else (square - after) + before
    _put(words, 0, after)
    _put(words, 1, _get(words, 1) + lost)


@njit
def _neumaier_subtract(words, square):
    _neumaier_add(words, -square)


@njit
def _neumaier_total(words):
    return max(_get(words, 0) + _get(words, 1), 0.0)


def _rival(add: Any, subtract: Any, total: Any) -> Callable[[], type[FeatureEngine]]:
    """The engine with the same loop, compiled in a copy of its module in which the sums are others."""

    def build() -> type[FeatureEngine]:
        scope = dict(vars(kernels)) | {"add": add, "subtract": subtract, "total": total}
        for name in ("advance", "write_row"):
            scope[name] = njit(FunctionType(getattr(kernels, name).py_func.__code__, scope, name))
        update = FunctionType(kernels.update.__code__, scope, "update")
        kernel = njit(kernels.SIGNATURE, nogil=True, error_model="numpy")(update)

        rival = dataclasses.replace(kernels.KERNEL, compiled=lambda: kernel)
        return type("RivalEngine", (FeatureEngine,), {"_kernels": {CORE_1.name: rival}})

    return build


RIVAL_SUMS = {
    "plain": _rival(_plain_add, _plain_subtract, _plain_total),
    "Neumaier": _rival(_neumaier_add, _neumaier_subtract, _neumaier_total),
}
