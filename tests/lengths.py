"""How long tests go on that find more the longer they run: shortly for a submission, at length in `make nightly`."""

from __future__ import annotations

import os

AT_LENGTH = os.environ.get("VOLCAST_TEST_AT_LENGTH", "") == "1"


def length(short: int, long: int) -> int:
    return long if AT_LENGTH else short
