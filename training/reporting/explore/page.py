"""An exploration as one HTML page that stands alone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from training.reporting.explore.result import Exploration, Feature
from training.reporting.report_style import document, picture

SECTIONS = {
    "percentiles.png": (
        "Volatility to come, and the threshold",
        "A spike is a row in the shaded part. The threshold is a quantile of these rows alone.",
    ),
    "threshold_cost.png": (
        "What the threshold costs",
        "An alert is a run of spikes with less than a horizon between them: what a perfect forecast would send.",
    ),
    "autocorrelation.png": (
        "Memory",
        "Why a forecast is possible at all, and how far back a feature need look.",
    ),
    "diurnal.png": ("The day's course", "Hours are of UTC. A bar rests on the days that were recorded at that hour."),
    "days.png": (
        "Day by day",
        "One threshold over days of unlike volatility: on some days most rows are spikes, on others none is.",
    ),
    "distributions.png": ("Features", "Powers of ten: the axis is logarithmic, of values above zero."),
    "deciles.png": (
        "Features against the label",
        "A feature that says something rises, falls or dips; one that says nothing lies on the line.",
    ),
    "correlation.png": (
        "Features with one another",
        "Blocks of deep red say the same thing several times; a linear model needs few of them.",
    ),
    "stability.png": (
        "Stability over days",
        "A feature that keeps its colour is one that tomorrow's rows will resemble.",
    ),
}
TABLE_QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)


def page(exploration: Exploration, pictures: Mapping[str, bytes]) -> str:
    """The whole document; pictures: file name -> PNG."""
    one = exploration
    title = f"Exploration: {one.kind}, {one.schema}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(", ".join(one.products))} · {one.start} to {one.end} · '
        f"volatility of the next {one.horizon_s} s</p>",
        _tiles(one),
        _read(one),
    ]
    for name, (heading, caption) in SECTIONS.items():
        if name in pictures:
            parts.append(f"<h2>{escape(heading)}</h2><section>{picture(pictures[name], heading, caption)}")
            if name == "threshold_cost.png":
                parts.append(_costs(one))
            if name == "deciles.png":
                parts.append(_features(one))
            parts.append("</section>")
    return document(title, "\n".join(parts))


def _tiles(one: Exploration) -> str:
    chosen = next(cost for cost in one.thresholds if cost.quantile == one.quantile)
    tiles = [
        (f"{one.rows:,}", "rows explored"),
        (f"{one.hours:,.1f} h", "recorded"),
        (f"{1e4 * one.threshold:.3g} bps", f"τ, the {one.quantile:g} quantile"),
        (f"{one.base_rate:.1%}", "rows that are spikes"),
        (f"{chosen.alerts_per_hour:.2g}", "alerts an hour"),
        (f"{one.gaps:,}", f"gaps, the longest {_duration(one.longest_gap_s)}"),
    ]
    inside = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in tiles
    )
    return f'<div class="tiles">{inside}</div>'


def _read(one: Exploration) -> str:
    counts = {"read": one.counts["ticks"]}
    counts |= {f"dropped: {name}": n for name, n in one.counts.items() if n and name not in ("ticks", "gaps", "rows")}
    counts["rows left"] = one.counts["rows"]
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{count:,}</td></tr>" for name, count in counts.items()
    )
    left_out = (
        f"<p>The last {one.rows_left_out:,} rows are not looked at here: the ones a model is judged on, and those "
        "whose windows reach into them.</p>"
        if one.rows_left_out
        else ""
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in one.notes)
    return (
        f"<h2>What was read</h2><section><p>{len(one.files)} file{'' if len(one.files) == 1 else 's'}, "
        f"<code>SHA-256 {one.sha256[:16]}…</code>; schema {escape(one.schema)} "
        f"({one.schema_hash}), at most one row of a product in {one.sample_period_s}&nbsp;s.</p>{left_out}"
        f'<div class="wide"><table class="narrow"><tr><th></th><th>records</th></tr>{rows}</table></div>'
        f"{f'<ul>{notes}</ul>' if notes else ''}</section>"
    )


def _duration(seconds: float) -> str:
    if seconds >= 86_400:
        return f"{seconds / 86_400:.1f} days"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"


def _costs(one: Exploration) -> str:
    shown = sorted({*TABLE_QUANTILES, one.quantile})
    rows = "".join(
        f"<tr><td>{cost.quantile:g}</td><td>{1e4 * cost.threshold:.3g}</td><td>{cost.alerts_per_hour:.2f}</td>"
        f"<td>{cost.seconds_per_alert:.0f}</td><td>{cost.share_of_time:.1%}</td></tr>"
        for cost in one.thresholds
        if cost.quantile in shown
    )
    return (
        '<div class="wide"><table><tr><th>quantile</th><th>τ, bps</th><th>alerts an hour</th><th>seconds an alert</th>'
        f"<th>time under alert</th></tr>{rows}</table></div>"
    )


def _features(one: Exploration) -> str:
    ordered = sorted(one.features, key=lambda feature: abs((feature.roc_auc or 0.5) - 0.5), reverse=True)
    return (
        '<div class="wide"><table><tr><th>feature</th><th>unit</th><th>1 %</th><th>median</th><th>99 %</th>'
        "<th>ROC-AUC</th><th>first half</th><th>second half</th><th>rank correlation</th></tr>"
        f"{''.join(map(_feature_row, ordered))}</table></div>"
        '<p class="sub">ROC-AUC of the feature as it is, or of its size (|x|) where both signs are common; 0.5 says '
        "nothing, below 0.5 the other way round. Rank correlation is with the volatility to come.</p>"
    )


def _feature_row(feature: Feature) -> str:
    low, middle, high = feature.percentiles[1], feature.percentiles[4], feature.percentiles[7]
    aucs = [feature.roc_auc, *feature.halves_roc_auc]
    cells = [f"{low:.3g}", f"{middle:.3g}", f"{high:.3g}", *("–" if auc is None else f"{auc:.3f}" for auc in aucs)]
    name = f"|{feature.name}|" if feature.by_size else feature.name
    inside = "".join(f"<td>{cell}</td>" for cell in [*cells, f"{feature.rank_correlation:+.2f}"])
    return f"<tr><td>{escape(name)}</td><td>{escape(feature.unit)}</td>{inside}</tr>"
