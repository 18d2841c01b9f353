"""Writes the model card v2 from the bundles and their evaluations, so that no figure is written by hand.

python -m training.reporting.model_card                             write the card again from what is kept (make docs)
python -m training.reporting.model_card models/volatility/4 reports/core [BUNDLE REPORTS …]
                                                                    keep evaluations of these bundles, and write it

A folder of reports has model_eval.json, pictures, and checks.json: `volcast models promote … --dry-run --json`.
The folder next to the card keeps what the card shows. benchmarks/forecasts.py writes the scores of models that were
trained on a single recording.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from common.bundle import Manifest, read_bundle
from common.errors import InputError, VolcastError
from common.files import replace_file
from training.forecasting.kinds import HAR, KINDS
from training.judging.comparison import Interval
from training.judging.evaluation_result import FoldsEval, ModelEval, PartEval, decode, encode
from training.reporting.training_summary import LABELS, UNKNOWN, base_rate, span_text, spike_bps

ROOT = Path(__file__).resolve().parents[2]
NAME = "model_card_v2"
INDEX_FILE, EVALUATION_FILE, CHECKS_FILE = "card.json", "model_eval.json", "checks.json"
PICTURES = {
    "fan_chart": "An hour of forecasts with the outcomes. Four of five outcomes should lie in the darker band",
    "pit": "PIT of the outcomes. Bars above the line: more outcomes lie in this part of the forecast than it claims",
    "reliability": "Reliability at five spike sizes. Points below the diagonal: the probability is too high",
}
STUDIES = {"core/1": "forecasts_core_1.json", "full/2": "forecasts.json"}  # schema -> in benchmarks/results
COLUMNS = {
    "qlike": ".4f",
    "coverage_80": ".1%",
    "coverage_95": ".1%",
    "log_loss": ".4f",
    "brier": ".4f",
    "pr_auc": ".4f",
}
WIDTH = 120

Kept = TypeVar("Kept")


class Verdict(msgspec.Struct, frozen=True):
    """A check of the gate."""

    name: str
    passed: bool
    text: str


class Verdicts(msgspec.Struct, frozen=True):
    checks: tuple[Verdict, ...]


class StudyScores(msgspec.Struct, frozen=True):
    kind: str
    crps_log: float
    coverage_80: float
    coverage_95: float
    crps_minus_har: Interval


class OnOne(msgspec.Struct, frozen=True):
    trained_on: str
    tested_on: str
    kinds: tuple[StudyScores, ...]


class OnOthers(msgspec.Struct, frozen=True):
    recording: str
    rows: int
    kinds: tuple[StudyScores, ...]


class Transfers(msgspec.Struct, frozen=True):
    """The part of a study of benchmarks/forecasts.py that the card shows."""

    date: str
    command: str
    left_out: tuple[OnOthers, ...]
    trained_on_one: tuple[OnOne, ...]


@dataclass(frozen=True, slots=True)
class CardModel:
    """A model of the card. stem: of its files in the folder NAME. pictures: names of PICTURES."""

    stem: str
    manifest: Manifest
    evaluation: ModelEval
    checks: tuple[Verdict, ...]
    pictures: tuple[str, ...]
    transfers: Transfers | None = None  # None: the schema was not studied


def render(models: Sequence[CardModel]) -> str:
    """The card as Markdown."""
    text = _template().render(models=models, captions=PICTURES, name=NAME, **_FUNCTIONS)
    return "\n".join(_wrapped(line) for line in text.splitlines()) + "\n"


def keep(bundles: Sequence[tuple[Path, Path]], root: Path = ROOT) -> None:
    """Keeps what the card shows of bundles and folders of reports, in place of what was kept.

    Raises InputError if a file is missing or damaged, or an evaluation is of another model.
    """
    folder = root / "docs" / NAME
    files: dict[Path, bytes] = {}
    for bundle, reports in bundles:
        manifest, _ = read_bundle(bundle)
        if manifest.forecast is None:
            raise InputError(f"bundle {bundle}: expected a forecast; docs/model_card_v1.md describes older models")
        evaluation = decode(_read(reports / EVALUATION_FILE), str(reports / EVALUATION_FILE))
        if evaluation.kind != manifest.kind or (
            evaluation.model is not None and evaluation.model.model_sha256 != manifest.model_sha256
        ):
            raise InputError(f"evaluation {reports / EVALUATION_FILE}: is of another model than {bundle}")
        stem = f"{manifest.name}_{manifest.version}"
        files[folder / f"{stem}.json"] = encode(brief(evaluation))
        verdicts = _decoded(reports / CHECKS_FILE, Verdicts)
        files[folder / f"{stem}_checks.json"] = msgspec.json.format(msgspec.json.encode(verdicts)) + b"\n"
        for picture in PICTURES:
            drawn = next(iter(sorted(reports.rglob(f"{picture}.png"))), None)
            if drawn is not None:
                files[folder / f"{stem}_{picture}.png"] = _read(drawn)
    names = [f"models/{manifest.name}/{manifest.version}" for manifest in (read_bundle(each)[0] for each, _ in bundles)]
    files[folder / INDEX_FILE] = msgspec.json.format(msgspec.json.encode(names)) + b"\n"
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        replace_file(path, data)
    for old in set(folder.iterdir()) - files.keys():
        old.unlink()


def kept(root: Path = ROOT) -> list[CardModel]:
    """The models of the card. Raises InputError if a file is missing or damaged."""
    folder = root / "docs" / NAME
    models = []
    for name in _decoded(folder / INDEX_FILE, list[str]):
        manifest, _ = read_bundle(root / name)
        stem = f"{manifest.name}_{manifest.version}"
        study = STUDIES.get(manifest.schema.name)
        models.append(
            CardModel(
                stem=stem,
                manifest=manifest,
                evaluation=decode(_read(folder / f"{stem}.json"), stem),
                checks=_decoded(folder / f"{stem}_checks.json", Verdicts).checks,
                pictures=tuple(each for each in PICTURES if (folder / f"{stem}_{each}.png").is_file()),
                transfers=_decoded(root / "benchmarks" / "results" / study, Transfers) if study else None,
            )
        )
    return models


def write(root: Path = ROOT) -> Path:
    """Writes the card from what is kept."""
    path = root / "docs" / f"{NAME}.md"
    replace_file(path, render(kept(root)).encode())
    return path


def brief(evaluation: ModelEval) -> ModelEval:
    """The evaluation without what the card does not show: the folds one by one, groups, and reports."""
    last = evaluation.headline
    models = {
        name: msgspec.structs.replace(
            each, classification_report={}, alerts=msgspec.structs.replace(each.alerts, cost_curve=None)
        )
        for name, each in last.models.items()
    }
    return msgspec.structs.replace(evaluation, parts=(msgspec.structs.replace(last, models=models, groupings=()),))


def score_rows(part: PartEval | FoldsEval) -> list[list[str]]:
    """Cells of each kind: label, CRPS, its difference to HAR, then COLUMNS."""
    metrics = {name: scores if isinstance(scores, dict) else scores.metrics for name, scores in part.models.items()}
    differences = {each.model: each.interval for each in part.differences if each.metric == "crps_log"}
    order = [kind.name for kind in KINDS if kind.name in metrics]
    return [
        [
            LABELS[kind],
            _number(metrics[kind], "crps_log", ".4f"),
            str(differences.get(kind, UNKNOWN)),
            *(_number(metrics[kind], name, form) for name, form in COLUMNS.items()),
        ]
        for kind in order
    ]


def size_rows(part: PartEval, kind: str) -> list[list[str]]:
    """Cells of each spike size: quantile, bps, base rate, rate of events, log loss and PR-AUC of the model and HAR."""
    compared = [part.models[name].metrics for name in (kind, HAR, "climatology") if name in part.models]
    return [
        [
            f"q{100 * size.level:.0f}",
            f"{size.spike_bps:.3g}",
            f"{size.base_rate:.1%}",
            f"{size.event_rate:.1%}",
            *(
                " / ".join(_number(metrics, f"{name}_q{100 * size.level:.0f}", ".4f") for metrics in compared)
                for name in ("log_loss", "pr_auc")
            ),
        ]
        for size in part.sizes
    ]


def alert_rows(part: PartEval, kind: str) -> list[list[str]]:
    """Cells of the model and HAR at the default size, then at the multiple of the trailing hour."""
    rows = []
    for name in (kind, *([HAR] if kind != HAR and HAR in part.models else [])):
        scores = part.models[name]
        for size, alerts in (("default", scores.alerts), ("3 × trailing hour", scores.alerts_of_multiple)):
            if alerts is None:
                continue
            at_budget = alerts.caught_at_budget
            rows.append(
                [
                    size,
                    LABELS[name],
                    f"{alerts.episodes:,}",
                    UNKNOWN if alerts.caught_in_advance is None else f"{alerts.caught_in_advance:.1%}",
                    f"{alerts.false_alarms_per_hour:.2f}",
                    f"{alerts.lead_s[2]:.0f} s" if alerts.lead_s else UNKNOWN,
                    UNKNOWN if at_budget is None else f"{at_budget.point:.1%}{_ends(at_budget)}",
                ]
            )
    return sorted(rows, key=lambda row: row[0] != "default")


def transfer_rows(transfers: Transfers, kind: str) -> tuple[list[str], list[list[str]]]:
    """Recordings that are tested on; then, for each training set, its name and a cell for each of them."""
    tested = [each.recording for each in transfers.left_out]
    cells = {(each.trained_on, each.tested_on): _cell(each.kinds, kind) for each in transfers.trained_on_one}
    rows = [[name, *(cells.get((name, test), "") for test in tested)] for name in tested]
    return tested, [*rows, ["the other three", *(_cell(each.kinds, kind) for each in transfers.left_out)]]


def _cell(kinds: Sequence[StudyScores], kind: str) -> str:
    scores = next(each for each in kinds if each.kind == kind)
    text = f"{scores.crps_log:.4f}, {scores.coverage_80:.0%} / {scores.coverage_95:.0%}"
    return text if kind == HAR else f"{text} ({scores.crps_minus_har.point:+.4f})"


def _ends(interval: Interval) -> str:
    return "" if interval.low is None else f" [{interval.low:.1%}, {interval.high:.1%}]"


def _number(metrics: Mapping[str, float], name: str, form: str) -> str:
    return format(metrics[name], form) if name in metrics else UNKNOWN


def _description(kind: str) -> str:
    return next((each.description for each in KINDS if each.name == kind), "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_FUNCTIONS: Mapping[str, Any] = {
    "labels": LABELS,
    "description": _description,
    "line": _line,
    "span": span_text,
    "spike_bps": spike_bps,
    "base_rate": base_rate,
    "score_rows": score_rows,
    "size_rows": size_rows,
    "alert_rows": alert_rows,
    "transfer_rows": transfer_rows,
    "har": HAR,
}


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("training.reporting"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("model_card.md.j2")


def _wrapped(line: str) -> str:
    """Long lines of prose broken as on other pages; tables, pictures and headings stay whole."""
    if len(line) <= WIDTH or line.startswith(("|", "!", "#")):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"card: {path} cannot be read: {error.strerror or error}") from None


def _decoded(path: Path, kind: type[Kept]) -> Kept:
    try:
        return msgspec.json.decode(_read(path), type=kind)
    except msgspec.DecodeError as error:
        raise InputError(f"card: {path}: {error}") from None


@click.command(help=__doc__)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, file_okay=False), metavar="[BUNDLE REPORTS]...")
def main(paths: tuple[Path, ...]) -> None:
    try:
        if len(paths) % 2:
            raise InputError(f"{paths[-1]}: expected a folder of reports after each bundle")
        if paths:
            keep(list(zip(paths[::2], paths[1::2], strict=True)))
        click.echo(f"wrote {write().relative_to(ROOT)}")
    except VolcastError as error:
        click.echo(f"model card: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
