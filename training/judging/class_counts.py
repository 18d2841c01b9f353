"""Whether a part holds enough rows of both classes for a statement about ranking."""

from __future__ import annotations

from collections.abc import Iterable

MIN_ROWS_PER_CLASS = 10  # a ranking of fewer rows depends on one or two of them


def too_few(rows: int, positives: int) -> str:
    """The counts as text if one class has too few rows for a ranking; "" if both classes have enough."""
    if min(positives, rows - positives) >= MIN_ROWS_PER_CLASS:
        return ""
    if positives == 0:
        return f"none of {rows:,} rows is a spike"
    if positives == rows:
        return f"all {rows:,} rows are spikes"
    return f"{positives:,} of {rows:,} rows {'is a spike' if positives == 1 else 'are spikes'}"


def unranked(parts: Iterable[tuple[str, int, int]]) -> str:
    """The parts (name, rows, positives) whose rows cannot be ranked, and why; "" if all can."""
    thin = [(name, rows, positives) for name, rows, positives in parts if too_few(rows, positives)]
    if not thin:
        return ""
    which = ", ".join(f"{part_text(name)} ({too_few(rows, positives)})" for name, rows, positives in thin)
    text = f"Nothing about ranking can be concluded from {which}: that takes {MIN_ROWS_PER_CLASS} rows of each class"
    if any(positives in (0, rows) for _, rows, positives in thin):
        text += "; of one class PR-AUC, lift, ROC-AUC and skill against the own base rate are not defined"
    if any(positives == rows for _, rows, positives in thin):
        text += ", and where all are spikes every alert is right"
    return text


def part_text(name: str) -> str:
    return name if name.startswith("fold") else f"the {name} part"
