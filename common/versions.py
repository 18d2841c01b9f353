"""The order of version names."""

from __future__ import annotations


def version_order(version: str) -> tuple[int, str]:
    """A sort key: numbers by value, above every other name."""
    return (int(version) if version.isdecimal() else -1, version)
