"""The summary of a run: an object for scripts, and a few lines for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from rich.console import Console

STAGES = {
    "transport": "received to read from Kafka",
    "features": "decoding, rolling windows",
    "predict": "StreamPredict and back",
}


class Quantiles(msgspec.Struct, frozen=True):
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a whole run."""

    ticks: int
    features: int
    predictions: int
    not_warm: int
    missing: int
    gaps: int
    late: int
    dead: int
    latency_ms: Quantiles  # from the receipt of a tick to its prediction
    duration_s: float  # from the request for the first tick to the last prediction
    first_prediction_s: float | None  # from the start of the command
    slowest: str | None  # the stage with the highest median
    stages_ms: dict[str, Quantiles] = field(default_factory=dict)
    holes: list[dict[str, Any]] = field(default_factory=list)
    trailing_known_s: dict[str, float] = field(default_factory=dict)  # products with less than an hour at the end

    @classmethod
    def of(
        cls, ingest: dict[str, Any], worker: dict[str, Any], duration_s: float, first_prediction_s: float | None
    ) -> Summary:
        stages = {name: Quantiles(**quantiles) for name, quantiles in worker.get("latency_ms", {}).items()}
        total = stages.pop("total", Quantiles(None, None))
        medians = {name: stage.p50 for name, stage in stages.items() if stage.p50 is not None}
        return cls(
            ticks=ingest.get("ticks", 0),
            features=worker.get("features", 0),
            predictions=worker.get("predictions", 0),
            not_warm=worker.get("not_warm", 0),
            missing=worker.get("missing", 0),
            gaps=ingest.get("gaps", 0),
            late=ingest.get("late", 0) + worker.get("late", 0),
            dead=ingest.get("dead", 0) + worker.get("dead", 0),
            latency_ms=total,
            duration_s=round(duration_s, 3),
            first_prediction_s=None if first_prediction_s is None else round(first_prediction_s, 2),
            slowest=max(medians, key=lambda name: medians[name]) if medians else None,
            stages_ms=stages,
            holes=ingest.get("holes", []),
            trailing_known_s=worker.get("trailing_known_s", {}),
        )

    def as_json(self) -> bytes:
        return msgspec.json.encode(self)

    def show(self, console: Console) -> None:
        for name, value, remark in self._rows():
            console.print(
                f"  [bold]{name:<20}[/bold] {value:>10}   [dim]{remark}[/dim]", highlight=False, soft_wrap=True
            )

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = [
            ("ticks", f"{self.ticks:,}", f"in {self.duration_s:.1f} s"),
            ("features", f"{self.features:,}", f"{self.not_warm:,} not warm (less than 60 s of unbroken history)"),
            ("predictions", f"{self.predictions:,}", f"{self.missing:,} missing"),
            ("gaps", f"{self.gaps:,}", self._longest_hole()),
            ("late", f"{self.late:,}", "kept on ticks.late"),
            ("dead", f"{self.dead:,}", "kept on ticks.dead"),
        ]
        if self.trailing_known_s:
            shortest = f"{min(self.trailing_known_s.values()) / 60:.0f} min"
            rows.append(("trailing hour", shortest, f"known at the end: {minutes_known(self.trailing_known_s)}"))
        if self.first_prediction_s is not None:
            rows.append(("first prediction", f"{self.first_prediction_s:.1f} s", "after the start of the command"))
        rows.append(("tick to prediction", _ms(self.latency_ms.p50), f"p50; p99 {_ms(self.latency_ms.p99)}"))
        for name, quantiles in self.stages_ms.items():
            mark = " (the slowest part)" if name == self.slowest else ""
            rows.append((f"  {name}", _ms(quantiles.p50), f"p50; p99 {_ms(quantiles.p99)}: {STAGES[name]}{mark}"))
        return rows

    def _longest_hole(self) -> str:
        # If the clock was set back, the length of a hole is zero.
        spans_s = [max(0, hole["until_ns"] - hole["after_ns"]) / 1e9 for hole in self.holes]
        return f"longest {max(spans_s):,.0f} s, {sum(spans_s):,.0f} s in all" if spans_s else ""


def minutes_known(known_s: dict[str, float]) -> str:
    """How much of the trailing hour is known of each product."""
    return ", ".join(f"{product} {seconds / 60:.0f} min" for product, seconds in sorted(known_s.items()))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"
