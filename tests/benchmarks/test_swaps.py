"""What benchmarks.rolling counts becomes rows; no call failed only where calls were answered."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from typing import Any

import pytest

from benchmarks import swaps
from benchmarks.native.peers import NotBuiltError
from tests.benchmarks.runs import silent

COUNTED = {"count": 1, "calls": 700, "frames": 1900, "failed": 0, "failures": [], "versions": 2, "seconds": 0.7}


def given(monkeypatch: pytest.MonkeyPatch, **restarts: Any) -> None:
    printed = json.dumps({"front": "native", "swaps": COUNTED, "restarts": COUNTED | restarts})
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, printed, ""))


def test_a_failed_call_is_a_target_missed_and_says_how_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, failed=1, failures=["UNAVAILABLE"])
    swapped, restarted = swaps.swaps(silent())
    assert (swapped.what, swapped.reached) == ("20 model swaps under load", True)
    assert "2,600 calls and frames answered in 0.7 s" in swapped.note
    assert (restarted.ours, restarted.reached) == (1, False)
    assert restarted.note.endswith("; UNAVAILABLE")


def test_where_nothing_was_answered_nothing_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, calls=0, frames=0)
    with pytest.raises(RuntimeError, match="nothing is proved"):
        list(swaps.swaps(silent()))


def test_it_is_left_out_where_the_script_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotBuiltError, match="not there"):
        list(swaps.swaps(silent()))
