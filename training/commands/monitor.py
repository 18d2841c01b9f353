"""`volcast monitor`: predictions against outcomes, a minute later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from common.cli import Duration, config_option, examples, json_option
from common.config import Config, load_config
from common.console import tables
from common.errors import ConfigError, UsageError
from common.lifecycle import stop_on_signals
from common.log import configure_logs, get_logger
from common.status import StatusPipe
from common.steps import steps

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from training.commands.topics import TopicReader
    from training.monitoring.feed import Feed
    from training.monitoring.join import Join, Joined
    from training.monitoring.output import JoinedWriter
    from training.monitoring.scoreboard import Line, Scoreboard

WARM_UP_S = 60.0  # ticks read before the first prediction, beyond the history that features depend on
AHEAD_NS = 360 * 10**9  # most time that ticks are read beyond the newest prediction while predictions are left to read
STEP_S = 0.2


@click.command(
    "monitor",
    epilog=examples(
        "volcast monitor",
        "volcast monitor --shadow volatility-trailing/1 --json",
        "volcast monitor --once --out joined.ndjson     # whole topics",
    ),
)
@click.option(
    "--once", is_flag=True, help="Read the topics from the first record to the last, print the scores, and end."
)
@click.option("--since", type=Duration(), default=None, help="How far back to begin (default: the longest window).")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default=None, metavar="FILE",
    help="With --once: the joined predictions, as .ndjson or .parquet, for volcast evaluate --predictions.",
)  # fmt: skip
@click.option("--window", "windows", multiple=True, type=str, help="Such as 15m; may be given again (monitor.windows).")
@click.option("--shadow", "shadows", multiple=True, metavar="NAME/VERSION", help="Score this version too, offline.")
@click.option("--duration", type=Duration(), default=None, help="Stop after this long.")
@json_option
@config_option
def monitor(
    once: bool,
    since: float | None,
    out: Path | None,
    windows: tuple[str, ...],
    shadows: tuple[str, ...],
    duration: float | None,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Joins predictions with the volatility that followed, and scores them over rolling windows.

    CRPS on log volatility, QLIKE, coverage of the 80 and 95 % intervals, and at the served spike size PR-AUC, log loss,
    Brier, calibration, hit rate (recall) and precision: of every version that answers, its baselines and the shadows of
    labels.json; as a table, as JSON lines, and on /metrics. The state is in the topics: a restart reads the longest
    window again. An old-style version is scored by its probability only.
    """
    if out is not None and not once:
        raise UsageError("--out: goes with --once")
    config = load_config(config_file)
    configure_logs(config.log, "monitor")
    spans = _windows(windows or config.monitor.windows, "--window" if windows else "monitor.windows")
    stop = stop_on_signals()
    from training.monitoring.bundles import BundleFolder
    from training.monitoring.scoreboard import Scoreboard
    from training.problem.target import DEFAULT_TARGET

    with ExitStack() as cleanup:
        folder = BundleFolder(Path(config.server.models_dir), DEFAULT_TARGET, shadows)
        board = Scoreboard(spans, folder.bundle, folder.shadows_of)
        back_s = since if since is not None else None if once else max(spans.values())
        session = Session(config, board, back_s, cleanup)
        if once:
            with steps() as progress, _writer(out) as writer:
                session.run_once(stop.is_set, writer, progress)
            _print(session, as_json)
            return 0
        status = StatusPipe(stop)
        port = cleanup.enter_context(_metrics(config, session))
        status.report("ready", metrics_port=port)
        get_logger().info("ready", metrics_port=port)
        deadline = time.monotonic() + duration if duration else float("inf")
        session.run(lambda: stop.is_set() or time.monotonic() >= deadline, _shower(session, as_json))
        status.report("summary", **session.counts())
        if as_json:
            _print(session, as_json)
    return 0


def _windows(texts: Sequence[str], key: str) -> dict[str, float]:
    spans = {}
    for text in texts:
        try:
            spans[text] = Duration().convert(text, None, None)
        except click.BadParameter:
            raise ConfigError(key, text, "durations such as 15m or 24h") from None
    return spans


def _writer(out: Path | None) -> JoinedWriter:
    from training.monitoring.output import JoinedWriter

    return JoinedWriter(out)


class Session:
    """Both topics, the join and the scores."""

    def __init__(self, config: Config, board: Scoreboard, back_s: float | None, cleanup: ExitStack) -> None:
        """back_s: how far back in the topics to begin; None: at their first records."""
        from pipeline.features.engine import reach_ns
        from training.commands.topics import TopicReader
        from training.monitoring.feed import Feed
        from training.monitoring.join import Join
        from training.monitoring.served import SCHEMA
        from training.problem.target import DEFAULT_TARGET

        topics = config.kafka.topics
        now_ms = int(time.time() * 1000)
        begin_ms = None if back_s is None else now_ms - int(back_s * 1000)
        warm_ms = None if begin_ms is None else begin_ms - int(WARM_UP_S * 1000) - reach_ns(SCHEMA) // 10**6
        self.board = board
        self.join: Join = Join(DEFAULT_TARGET, len(SCHEMA))
        self.feed: Feed = Feed(self.join, round(config.ingest.max_future_s * 1e9))
        self.feed.compile()
        self._raw: TopicReader = TopicReader(config.kafka, topics.raw, warm_ms)
        cleanup.callback(self._raw.close)
        self._predictions: TopicReader = TopicReader(config.kafka, topics.predictions, begin_ms)
        cleanup.callback(self._predictions.close)
        self._refresh_s = config.monitor.refresh_s
        self.lines: list[Line] = []
        self.newest_truth_ns = 0

    def step(self, timeout_s: float) -> Joined:
        """Reads the records that are there and joins predictions whose outcome is known."""
        if self._wants_ticks():
            self.feed.raw([message.value() or b"" for message in self._raw.read(timeout_s / 2)])
        if self.join.wants_predictions or self._raw.at_end:
            self.feed.predictions([message.value() or b"" for message in self._predictions.read(timeout_s / 2)])
        return self.join.settle()

    def take(self, joined: Joined, writer: JoinedWriter | None = None) -> None:
        spike = self.board.add(joined)
        if len(joined):
            self.newest_truth_ns = max(self.newest_truth_ns, *(answer.event_time_ns for answer in joined.answers))
        if writer is not None:
            writer.write(joined, spike)

    def run_once(self, stopping: Callable[[], bool], writer: JoinedWriter, progress: Callable[[str], None]) -> None:
        """progress: called with the current step."""
        while not stopping() and not (self._raw.has_caught_up and self._predictions.has_caught_up):
            progress(f"reading both topics: {self.join.joined:,} predictions have their outcome")
            self.take(self.step(STEP_S), writer)
        progress("scoring")
        self.take(self.join.finish(), writer)
        self.lines = self.board.lines()

    def run(self, ended: Callable[[], bool], show: Callable[[], None]) -> None:
        due_s = time.monotonic()
        while not ended():
            self.take(self.step(STEP_S))
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + self._refresh_s
                self.lines = self.board.lines()
                show()
        self.lines = self.board.lines()

    def counts(self) -> dict[str, Any]:
        return {
            "joined": self.join.joined,
            "waiting": self.join.waiting,
            "unjoined": {reason: rows for reason, rows in sorted(self.join.unjoined.items()) if rows},
            "unreadable": dict(sorted(self.feed.unreadable.items())),
            "unscored": {reason: rows for reason, rows in sorted(self.board.unscored.items()) if rows},
            "refused": dict(sorted(self.board.refused.items())),
        }

    def as_json(self) -> dict[str, Any]:
        return {"newest_truth_ns": self.newest_truth_ns, **self.counts(), "figures": list(map(_line, self.lines))}

    def _wants_ticks(self) -> bool:
        """Ticks are kept until their predictions come, so they are read only a little ahead of the predictions."""
        ahead_ns = self.join.newest_tick_ns - self.join.newest_prediction_ns
        return ahead_ns < AHEAD_NS or self._predictions.at_end


def _line(line: Line) -> dict[str, Any]:
    return {
        "model": line.model, "role": line.role, "forecaster": line.forecaster, "window": line.window,
        "rows": line.rows, **line.metrics,
    }  # fmt: skip


def _print(session: Session, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(session.as_json()))
        return

    console = tables()
    console.print(_table(session))
    console.print(_footer(session), highlight=False, soft_wrap=True)


def _shower(session: Session, as_json: bool) -> Callable[[], None]:
    """The action at each refresh: a JSON line, the table on a terminal, or nothing."""
    from rich.console import Console

    if as_json:
        return lambda: click.echo(msgspec.json.encode(session.as_json()))
    console = Console()
    if not console.is_terminal:
        return lambda: None

    def show() -> None:
        console.clear()
        console.print(_table(session))
        console.print(_footer(session), highlight=False, soft_wrap=True)

    return show


# Metrics of the table, with heading and format.
_COLUMNS = {
    "crps": ("CRPS", ".4f"), "coverage_80": ("80 %", ".1%"), "coverage_95": ("95 %", ".1%"),
    "base_rate": ("base rate", ".1%"), "event_rate": ("spikes", ".1%"), "pr_auc": ("PR-AUC", ".3f"),
    "log_loss": ("log loss", ".4f"), "recall": ("hit rate", ".1%"), "precision": ("precision", ".1%"),
}  # fmt: skip


def _table(session: Session) -> Any:
    from rich.table import Column, Table

    table = Table(
        Column("model", no_wrap=True), "forecaster", "window", "rows", *(heading for heading, _ in _COLUMNS.values())
    )
    for line in session.lines:
        metrics = [
            format(line.metrics[name], form) if name in line.metrics else "-" for name, (_, form) in _COLUMNS.items()
        ]
        forecaster = "shadow" if line.role == "shadow" else line.forecaster
        table.add_row(line.model, forecaster, line.window, f"{line.rows:,}", *metrics)
    return table


def _footer(session: Session) -> str:
    counts = session.counts()
    unjoined = ", ".join(f"{count:,} {reason}" for reason, count in counts["unjoined"].items()) or "none"
    parts = [f"{counts['joined']:,} joined, {counts['waiting']:,} waiting; not joined: {unjoined}"]
    parts += [f"{reason}: {rows:,} rows" for reason, rows in counts["unscored"].items()]
    parts += [f"{model}: {why}" for model, why in counts["refused"].items()]
    return "\n".join(parts)


def _metrics(config: Config, session: Session) -> Any:
    from pipeline.stream.metrics import serve_metrics

    settings = config.monitor
    return serve_metrics(settings.metrics_host, settings.metrics_port, lambda: metrics(session), "monitor.metrics_port")


# Score -> name and text of its metric.
GAUGES = {
    "crps": ("volcast_monitor_crps", "CRPS on log volatility of live forecasts; smaller is better."),
    "qlike": ("volcast_monitor_qlike", "QLIKE of live forecasts; smaller is better."),
    "pr_auc": ("volcast_monitor_pr_auc", "PR-AUC of live predictions at the served spike size."),
    "pr_auc_lift": ("volcast_monitor_pr_auc_lift", "PR-AUC over the share of rows that a spike followed."),
    "roc_auc": ("volcast_monitor_roc_auc", "ROC-AUC of live predictions."),
    "brier": ("volcast_monitor_brier", "Brier score of live predictions."),
    "brier_skill": ("volcast_monitor_brier_skill", "Brier skill against the base rate."),
    "log_loss": ("volcast_monitor_log_loss", "Log loss of live predictions."),
    "ece": ("volcast_monitor_ece", "Expected calibration error, 15 bins of equal width."),
    "recall": ("volcast_monitor_hit_rate", "Share of the spikes that were alerted."),
    "precision": ("volcast_monitor_precision", "Share of the alerts that a spike followed."),
    "base_rate": ("volcast_monitor_base_rate", "Share of training rows at or above the served spike size."),
    "event_rate": ("volcast_monitor_event_rate", "Share of rows that a spike followed."),
    "alert_rate": ("volcast_monitor_alert_rate", "Share of rows that were alerts."),
    "mean_probability": ("volcast_monitor_mean_probability", "Mean of the probabilities."),
    "max_difference": (
        "volcast_monitor_probability_difference",
        "Largest difference of an answered probability to the bundle's graph on the same features.",
    ),
}
COVERAGE = {"coverage_80": "80", "coverage_95": "95"}  # score -> interval, in percent
_LABELS = ["model", "version", "role", "forecaster", "window"]


def metrics(session: Session) -> Iterable[Metric]:
    """The metrics of /metrics: scores of the last refresh, and current counts."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    from pipeline.stream.metrics import labelled

    lines = session.lines
    for score, (name, text) in GAUGES.items():
        family = GaugeMetricFamily(name, text, labels=_LABELS)
        for line in lines:
            if score in line.metrics:
                family.add_metric(_labels(line), line.metrics[score])
        yield family
    coverage = GaugeMetricFamily(
        "volcast_monitor_coverage", "Share of outcomes within the forecast's central interval.",
        labels=[*_LABELS, "interval"],
    )  # fmt: skip
    for line in lines:
        for score, interval in COVERAGE.items():
            if score in line.metrics:
                coverage.add_metric([*_labels(line), interval], line.metrics[score])
    yield coverage
    rows = GaugeMetricFamily(
        "volcast_monitor_rows", "Predictions with an outcome, at most one in 5 s for each product.", labels=_LABELS
    )
    for line in lines:
        rows.add_metric(_labels(line), line.rows)
    yield rows
    yield CounterMetricFamily(
        "volcast_monitor_joined_total", "Predictions joined with an outcome.", value=session.join.joined
    )
    yield labelled("volcast_monitor_unjoined_total", "Predictions not joined.", "reason", session.join.unjoined)
    yield labelled("volcast_monitor_unreadable_total", "Records not read.", "topic", session.feed.unreadable)
    yield labelled("volcast_monitor_unscored_total", "Joined rows not scored.", "reason", session.board.unscored)
    yield GaugeMetricFamily(
        "volcast_monitor_waiting", "Predictions without an outcome yet.", value=session.join.waiting
    )
    yield GaugeMetricFamily(
        "volcast_monitor_newest_truth_timestamp_seconds", "Event time of the newest joined prediction.",
        value=session.newest_truth_ns / 1e9,
    )  # fmt: skip


def _labels(line: Line) -> list[str]:
    name, _, version = line.model.rpartition("/")
    return [name, version, line.role, line.forecaster, line.window]
