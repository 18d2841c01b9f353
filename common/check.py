"""The result of one rule: what a gate or a verification prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and its finding; `text` reads as a reason if the rule did not pass."""

    name: str
    passed: bool
    text: str
