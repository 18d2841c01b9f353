"""What is compared is measured in turns, so that a ratio is of the same machine at the same minute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rich.progress import Progress, TaskID

Measure = Callable[[], float]
Figures = TypeVar("Figures")


@dataclass(frozen=True)
class Run:
    """How thoroughly to measure, and where to show how far that is."""

    quick: bool
    progress: Progress
    task: TaskID
    round_count: int = 0  # 0: 2 in a quick run, 5 in another

    @property
    def rounds(self) -> int:
        return self.round_count or (2 if self.quick else 5)

    def scaled(self, full: int) -> int:
        """A count of calls or messages, a fifth of it in a quick run."""
        return full // 5 if self.quick else full

    def seconds(self, full: float, quick: float) -> float:
        return quick if self.quick else full

    def say(self, step: str) -> None:
        self.progress.update(self.task, step=step)

    def in_turns(self, what: str, measures: dict[str, Callable[[], Figures]]) -> dict[str, list[Figures]]:
        """Each measure once a round, every other round backwards: none always follows the same one."""
        figures: dict[str, list[Figures]] = {name: [] for name in measures}
        for number in range(self.rounds):
            names = list(measures) if number % 2 == 0 else list(reversed(measures))
            for name in names:
                self.say(f"{what}, round {number + 1} of {self.rounds}, {name}")
                figures[name].append(measures[name]())
        return figures
