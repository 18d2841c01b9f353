"""`volcast evaluate`: a bundle's forecasts, or predictions from a file, against the outcomes of recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.bundle import Manifest, read_bundle
from common.cli import Duration, FiniteRange, config_option, examples, json_option
from common.config import load_config
from common.console import tables
from common.errors import InputError, UsageError
from common.log import configure_logs
from common.model_store import ModelStore
from common.steps import steps
from pipeline.archive.options import flat_options, read_options, show_formats
from training.commands.folders import taken_back
from training.commands.training_options import chosen_recordings, dataset_option

if TYPE_CHECKING:
    from training.judging.evaluation_result import DataRef, EvalSettings, ModelEval, PredictionsRef
    from training.judging.predictions import Predictions
    from training.problem.forecast_rows import ForecastRows
    from training.problem.recordings import Recording
    from training.shipping.bundle_forecasts import BundlePart

Progress = Callable[[str], None]
SAMPLE_PERIOD_S = 5


@click.command(
    "evaluate",
    epilog=examples(
        "volcast evaluate",
        "volcast evaluate data/raw/BTC-USD_*.ndjson.gz --bundle models/volatility/4 --out reports",
        "volcast evaluate quotes.csv --product BTC-USD --columns time=ts_utc",
        "volcast evaluate RECORDING --predictions predictions.ndjson --json",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@flat_options
@dataset_option
@click.option(
    "--bundle",
    "bundle_folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="models/NAME/VERSION (default: the version that answers by default).",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"), show_default=True,
    help="Folder of model_eval.json, model_eval.html and the pictures.",
)  # fmt: skip
@click.option(
    "--predictions",
    "predictions_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    help="Evaluate these predictions (NDJSON or Parquet) next to the bundle's own answers for the same rows.",
)
@click.option("--model", "made_by", default=None, metavar="NAME/VERSION", help="Only this model's predictions.")
@click.option("--seen", is_flag=True, help="Also rows of the training span; the scores are then too good.")
@click.option(
    "--spike-bps", type=FiniteRange(min=0, min_open=True), default=None, help="Spike size (default: the bundle's)."
)
@click.option(
    "--alert-level", type=FiniteRange(min=0, max=1), default=None,
    help="Probability from which an alert is raised (default: the bundle's).",
)  # fmt: skip
@click.option("--block", type=Duration(), default=None, help="Length of the bootstrap's blocks (default: an embargo).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@json_option
@config_option
def evaluate(
    files: tuple[str, ...],
    columns_text: str,
    product: str,
    dataset: str,
    bundle_folder: Path | None,
    out: Path,
    predictions_file: Path | None,
    made_by: str | None,
    seen: bool,
    spike_bps: float | None,
    alert_level: float | None,
    block: float | None,
    seed: int,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Scores a model next to every baseline, with intervals: reports/model_eval.json and .html.

    FILEs are recordings and feature files; without any, the data set of --dataset. Rows of the time that the model was
    trained on are left out.
    """
    config = load_config(config_file)
    configure_logs(config.log, "evaluate")
    if made_by and predictions_file is None:
        raise UsageError("--model chooses rows of --predictions: set --predictions too")
    options = read_options(columns_text, product, config.ingest.gap_after_s)
    folder = bundle_folder or ModelStore(Path(config.server.models_dir), config.server.default_model).answering()
    manifest, model = read_bundle(folder)
    manifest.require_trained("volcast evaluate")
    from training.judging.evaluation_result import encode
    from training.reporting.forecast_report import PICTURES_FOLDER, write_report

    predictions = _predictions(predictions_file, made_by) if predictions_file else None
    settings = _settings(manifest, predictions, spike_bps, alert_level, block, seed)
    recordings = chosen_recordings(files, dataset, options)
    with steps() as step:
        evaluation, part = _evaluate(recordings, manifest, model, predictions, predictions_file, seen, settings, step)
        step("pictures")
        with taken_back(out, out / PICTURES_FOLDER):
            written = write_report(out, evaluation, [part])
    if as_json:
        click.echo(encode(evaluation))
        return 0
    default = "" if bundle_folder else ", the version that answers by default"
    # Not printed by rich, which would break the path at the width of the terminal.
    click.echo(f"{manifest.name}/{manifest.version}{default} ({folder})")
    _print(evaluation)
    click.echo(f"wrote {written[0]}, {written[1]} and {len(written) - 2} pictures")
    return 0


def _predictions(path: Path, made_by: str | None) -> Predictions:
    from training.judging.predictions import read_predictions

    predictions = read_predictions(path)
    makers = predictions.makers
    if made_by is not None:
        if made_by not in makers:
            raise InputError(f"predictions {path}: none is by {made_by}; they are by {', '.join(makers)}")
        predictions = predictions.of(made_by)
    elif len(makers) > 1:
        raise UsageError(f"predictions {path}: they are by {', '.join(makers)}; choose with --model")
    if len(predictions.sizes_bps) > 1:
        sizes = ", ".join(f"{size:g}" for size in predictions.sizes_bps[:4])
        raise InputError(f"predictions {path}: spike_bps: expected a single size, got {sizes}")
    return predictions


def _settings(
    manifest: Manifest,
    predictions: Predictions | None,
    size_bps: float | None,
    alert_level: float | None,
    block_s: float | None,
    seed: int,
) -> EvalSettings:
    from training.judging.evaluation_result import EvalSettings
    from training.shipping.bundle_forecasts import embargo_s, spike_bps

    own = spike_bps(manifest)
    if size_bps not in (None, own) and manifest.forecast is None:
        raise UsageError(f"--spike-bps: {manifest.name}/{manifest.version} answers at {own:g} bps only")
    given = predictions.sizes_bps if predictions else ()
    if given and size_bps not in (None, *given):
        raise UsageError(f"--spike-bps: the predictions are for {given[0]:g} bps")
    level = manifest.decision_threshold if alert_level is None else alert_level
    return EvalSettings(
        spike_bps=size_bps or (given[0] if given else own),
        alert_level=level,
        block_s=block_s or embargo_s(manifest),
        seed=seed,
        horizon_s=manifest.forecast.horizon_s if manifest.forecast else manifest.label.horizon_s,
    )


def _evaluate(
    recordings: Sequence[Recording],
    manifest: Manifest,
    model: bytes,
    predictions: Predictions | None,
    predictions_file: Path | None,
    seen: bool,
    settings: EvalSettings,
    step: Progress,
) -> tuple[ModelEval, BundlePart]:
    import msgspec

    from training.judging.evaluation import evaluate_parts
    from training.judging.evaluation_result import ModelRef
    from training.shipping import bundle_forecasts, given_predictions

    data, reference = _load(recordings, manifest, step)
    rows, notes = data if seen else bundle_forecasts.unseen(data, manifest), _notes(manifest, data)
    left_out, counts = len(data) - len(rows), dict(reference.counts)
    if left_out:
        counts |= {"of_the_training_span": left_out, "evaluated": len(rows)}
    if seen and len(bundle_forecasts.unseen(data, manifest)) < len(data):
        notes.append("Rows of the training span are evaluated too (--seen): the scores are too good.")
    if not len(rows):
        raise InputError(
            f"nothing to evaluate: all {len(data):,} rows are from the time that {manifest.name}/{manifest.version} "
            "was trained on; --seen evaluates them all the same"
        )
    step(f"the bundle's answers for {len(rows):,} rows")
    part, kind, joined = bundle_forecasts.bundle_part(manifest, model, rows), manifest.kind, None
    if predictions is not None and predictions_file is not None:
        kind = given_predictions.GIVEN
        part, joined = given_predictions.join(part, manifest.kind, predictions, predictions_file.name, settings)
    evaluation = evaluate_parts([part], kind, settings, progress=step)
    schema = manifest.schema
    return msgspec.structs.replace(
        evaluation,
        source="bundle" if joined is None else "predictions",
        model=ModelRef(manifest.name, manifest.version, manifest.kind, schema.name, schema.hash, manifest.model_sha256),
        data=msgspec.structs.replace(reference, counts=counts),
        predictions=joined,
        notes=tuple(notes),
    ), part


def _load(recordings: Sequence[Recording], manifest: Manifest, step: Progress) -> tuple[ForecastRows, DataRef]:
    """The rows of the recordings, with the features that the bundle and its baselines need."""
    from training.judging.evaluation_result import DataRef
    from training.problem.data.dataset import fingerprint
    from training.problem.recordings import read_recordings
    from training.shipping.bundle_forecasts import schema_for

    period_s = round(manifest.parameters.get("sample_period_s", SAMPLE_PERIOD_S))
    data = read_recordings(recordings, schema_for(manifest), period_s, step)
    show_formats(data.formats)
    names = tuple(path.name for path in data.paths)
    return data.rows, DataRef(names, fingerprint(data.paths), dict(data.rows.counts), data.rows.products)


def _notes(manifest: Manifest, rows: ForecastRows) -> list[str]:
    from training.shipping.bundle_forecasts import missing_baselines

    notes = []
    if manifest.forecast is None:
        notes.append(
            "The bundle gives the probability of a single spike size, so it has no CRPS and no coverage. Its label was "
            "the volatility from tick to tick; the outcome here is sampled on a grid."
        )
    if not (manifest.forecast.baselines if manifest.forecast else manifest.baselines):
        notes.append("The bundle's manifest has no baselines.")
    missing = missing_baselines(manifest, rows.schema)
    if missing:
        notes.append(f"Left out, since {rows.schema.name} lacks a feature of theirs: {', '.join(missing)}.")
    return notes


def _print(evaluation: ModelEval) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from training.reporting.evaluation_tables import METRICS, label, number, span_text, verdict

    part, console = evaluation.headline, tables()
    title = (
        f"{span_text(part)}: {part.rows:,} rows, {part.events / part.rows:.1%} reach {part.spike_bps:.3g} bps "
        f"(base rate {part.base_rate:.1%})"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in part.models:
        table.add_column(label(name), justify="right")
    for metric, (name, _) in METRICS.items():
        values = [scores.metrics.get(metric) for scores in part.models.values()]
        if any(value is not None for value in values):
            table.add_row(name, *(number(value, metric) for value in values))
    console.print(verdict(evaluation), style="bold", highlight=False, markup=False)
    console.print(table)
    for note in evaluation.notes:
        console.print(note, highlight=False, markup=False)
    if evaluation.predictions is not None:
        console.print(_joined_text(evaluation.predictions), highlight=False, markup=False)


def _joined_text(joined: PredictionsRef) -> str:
    text = (
        f"{joined.file}: {joined.rows_matched:,} rows have a prediction, {joined.rows_unmatched:,} have none. "
        f"Largest difference to the bundle's own answers: {joined.max_abs_difference:.2g} in probability"
    )
    if joined.max_rel_difference_median is not None:
        text += f", {joined.max_rel_difference_median:.2g} of the median"
    if joined.max_rel_difference_quantiles is not None:
        text += f", {joined.max_rel_difference_quantiles:.2g} of a quantile"
    return f"{text}."
