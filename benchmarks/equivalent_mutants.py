"""Mutants that no test can notice, each with the reason. They count as survivors: this list explains the score."""

from __future__ import annotations

# Module -> (before, after) -> why the behaviour is the same.
EQUIVALENT: dict[str, dict[tuple[str, str], str]] = {}
