"""`volcast evaluate`: a bundle, or predictions made by one, against what happened."""

from __future__ import annotations

from collections.abc import Callable
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
from training.commands.folders import taken_back

if TYPE_CHECKING:
    from rich.console import Console

    from training.judging.evaluation import ModelEval, Settings
    from training.judging.evaluation.result import PredictionsRef
    from training.judging.predictions import Predictions
    from training.judging.scored_part import Scored
    from training.problem.data import Dataset

Progress = Callable[[str], None]


@click.command(
    "evaluate",
    epilog=examples(
        "volcast evaluate",
        "volcast evaluate data/raw/BTC-USD_*.ndjson.gz --bundle models/volatility/1 --out reports",
        "volcast evaluate RECORDING --predictions predictions.ndjson --json",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE]...")
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
    help="Where model_eval.json, model_eval.html and the pictures go.",
)  # fmt: skip
@click.option(
    "--predictions",
    "predictions_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    help="Evaluate these predictions (NDJSON or Parquet) beside what the bundle says of the same rows.",
)
@click.option("--model", "made_by", default=None, metavar="NAME/VERSION", help="Of the predictions: only this one's.")
@click.option("--seen", is_flag=True, help="Also rows of the training span; the figures then flatter.")
@click.option("--alarms-per-hour", type=FiniteRange(min=0, min_open=True), default=6.0, show_default=True)
@click.option(
    "--block",
    type=Duration(),
    default=None,
    help="Length of the bootstrap's blocks (default: feature window and horizon together, at least 5m).",
)
@click.option("--resamples", type=click.IntRange(min=40), default=1000, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@json_option
@config_option
def evaluate(
    files: tuple[str, ...],
    bundle_folder: Path | None,
    out: Path,
    predictions_file: Path | None,
    made_by: str | None,
    seen: bool,
    alarms_per_hour: float,
    block: float | None,
    resamples: int,
    seed: int,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """How good a model is, beside every baseline, with intervals: reports/model_eval.json and .html.

    FILEs are recordings, feature files, quotes or minutes; without any, the Coinbase recordings of December
    2025. Rows from the time that the model was trained on are left out.
    """
    config = load_config(config_file)
    configure_logs(config.log, "evaluate")
    if made_by and predictions_file is None:
        raise UsageError("--model chooses rows of --predictions: set --predictions too")
    folder = bundle_folder or ModelStore(Path(config.server.models_dir), config.server.default_model).answering()
    manifest, model = read_bundle(folder)
    manifest.require_trained("volcast evaluate")
    from training.judging.evaluation import Settings
    from training.judging.evaluation.blocks import MIN_BLOCK_S, block_s
    from training.reporting.evaluation_report import PICTURES_FOLDER, write_report

    settings = Settings(
        horizon_s=manifest.label.horizon_s,
        block_s=block or block_s(manifest.parameters.get("embargo_s", MIN_BLOCK_S)),
        resamples=resamples,
        alarms_per_hour=alarms_per_hour,
        seed=seed,
    )
    with steps() as step:
        predictions = _predictions(predictions_file, made_by) if predictions_file else None
        evaluation, scored = _evaluate(files, manifest, model, predictions, predictions_file, seen, settings, step)
        step("drawing")
        with taken_back(out, out / PICTURES_FOLDER):
            written = write_report(out, evaluation, [scored])
    if as_json:
        from training.judging.evaluation.result import encode

        click.echo(encode(evaluation))
        return 0

    default = "" if bundle_folder else ", the version that answers by default"
    # Not printed by rich, which would break the path at the width of the terminal.
    click.echo(f"{manifest.name}/{manifest.version}{default} ({folder})")
    _print(tables(), evaluation)
    click.echo(f"wrote {written[0]}, {written[1]} and {len(written) - 2} pictures in {written[-1].parent}")
    return 0


def _predictions(path: Path, made_by: str | None) -> Predictions:
    from training.judging.predictions import read_predictions

    found = read_predictions(path)
    makers = sorted(set(found.model))
    if made_by is not None:
        if made_by not in makers:
            raise InputError(f"predictions {path}: none is by {made_by}; they are by {', '.join(makers)}")
        return found.of(made_by)
    if len(makers) > 1:
        raise UsageError(f"predictions {path}: they are by {', '.join(makers)}; choose with --model")
    return found


def _evaluate(
    files: tuple[str, ...],
    manifest: Manifest,
    model: bytes,
    predictions: Predictions | None,
    predictions_file: Path | None,
    seen: bool,
    settings: Settings,
    step: Progress,
) -> tuple[ModelEval, Scored]:
    import msgspec

    from training.judging.evaluation import evaluate_scored
    from training.judging.evaluation.result import DataRef, ModelRef
    from training.shipping import scoring

    dataset = _load(files, manifest, predictions is not None, step)
    chosen = scoring.unseen(dataset.rows, manifest)
    rows, notes = dataset.rows if seen else chosen.rows, []
    counts = dict(dataset.counts)
    if chosen.set_aside and seen:
        notes.append(f"{chosen.set_aside:,} rows are from the time that the model was trained on: the figures flatter")
    elif chosen.set_aside:
        counts |= {"set_aside_seen_in_training": chosen.set_aside, "evaluated": len(rows)}
    if len(rows) == 0:
        why = "none has a whole feature window before it and a whole horizon after it"
        if len(dataset.rows):
            why = "all of them from the time that the model was trained on (--seen takes them too)"
        raise InputError(f"nothing to evaluate: {len(dataset.rows):,} rows, {why}")
    step("the bundle's graph over the rows")
    scored = scoring.score(manifest, model, rows)
    primary, given = manifest.kind, None
    if predictions is not None and predictions_file is not None:
        scored, given = _join(scored, dataset, predictions, predictions_file, manifest)
        primary = scoring.GIVEN
    notes += _baseline_notes(manifest, dataset)
    found = evaluate_scored([scored], primary, settings, products=dataset.products, progress=step)
    evaluation = msgspec.structs.replace(
        found,
        source="bundle" if given is None else "predictions",
        model=ModelRef(
            manifest.name, manifest.version, manifest.kind, manifest.schema.name, manifest.schema.hash,
            manifest.model_sha256,
        ),
        data=DataRef(dataset.files, dataset.sha256, counts, dataset.products),
        predictions=given,
        notes=(*notes, *(one for one in found.notes if manifest.baselines or "HAR logit" not in one)),
    )  # fmt: skip
    return evaluation, scored


def _load(files: tuple[str, ...], manifest: Manifest, answered: bool, step: Progress) -> Dataset:
    from pipeline.archive import expand_paths
    from pipeline.datasets import DATA_DIR, coinbase_ticker_2025
    from training.problem.data import load
    from training.problem.data.features import schema_of
    from training.problem.data.load import kind_of
    from training.shipping import scoring

    paths = list(dict.fromkeys(path for one in files for path in expand_paths(one))) or coinbase_ticker_2025()
    if not paths:
        raise InputError(
            f"no data found: set {DATA_DIR} to the folder that holds coinbase_ticker/, put it at ../shared/data, "
            "or name recordings (volcast evaluate FILE...)"
        )
    step(f"reading {len(paths)} files, computing features")
    kind = kind_of(paths[0])
    schema = scoring.schema_for(manifest, answered=answered) if kind == "ticks" else None
    if kind == "features":
        schema = schema_of(paths[0])
    dataset = load(
        paths,
        schema=schema,
        horizon_s=round(manifest.label.horizon_s),
        sample_period_s=round(manifest.parameters.get("sample_period_s", 1)),
        progress=step,
    )
    _require_features(manifest, dataset)
    return dataset


def _require_features(manifest: Manifest, dataset: Dataset) -> None:
    """Names alone are not enough: the units must agree too."""
    wanted = {(one.name, one.unit) for one in manifest.schema.features}
    missing = sorted(wanted - {(one.name, one.unit) for one in dataset.schema.features})
    if missing:
        raise InputError(
            f"bundle {manifest.name}/{manifest.version} takes schema {manifest.schema.name} ({manifest.schema.hash}); "
            f"the {dataset.kind} give {dataset.schema.name} ({dataset.schema.hash}), which lacks {missing[0][0]} "
            f"({missing[0][1]})"
        )


def _baseline_notes(manifest: Manifest, dataset: Dataset) -> list[str]:
    from training.shipping import scoring

    if not manifest.baselines:
        return ["The bundle's manifest holds no baselines (it is of an older training): they are left out"]
    missing = scoring.missing_baselines(manifest, dataset.schema)
    if missing:
        return [f"Left out, since {dataset.schema.name} lacks a feature they need: {', '.join(missing)}"]
    return []


def _join(
    scored: Scored, dataset: Dataset, predictions: Predictions, path: Path, manifest: Manifest
) -> tuple[Scored, PredictionsRef]:
    import numpy as np

    from training.judging.evaluation.result import PredictionsRef
    from training.problem.row_keys import Keys, match
    from training.shipping import scoring

    keys = Keys(
        scoring.product_codes(predictions.product_id, dataset.products),
        predictions.event_time_ns,
        predictions.sequence_num,
    )
    found = match(Keys.without_sequence(scored.product, scored.time_ns), keys)
    joined = scoring.given(scored, found, predictions.probability, manifest.decision_threshold)
    ours, theirs = joined.probabilities[manifest.kind], joined.probabilities[scoring.GIVEN]
    return joined, PredictionsRef(
        file=path.name,
        predictions=len(predictions),
        without_probability=int(np.isnan(predictions.probability).sum()),
        rows_matched=len(joined.y),
        rows_unmatched=len(scored.y) - len(joined.y),
        max_abs_difference=float(np.max(np.abs(ours - theirs))),
    )


def _print(console: Console, evaluation: ModelEval) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from common.paired_difference import model_name
    from training.judging.evaluation.figures import METRICS
    from training.reporting.narrative import findings, first, notes, number, span_text

    part = evaluation.headline
    title = (
        f"{span_text(part.start_ns, part.end_ns)}: {part.rows:,} rows, {part.positives / part.rows:.1%} spikes, "
        f"{part.episodes} episodes in {part.observed_hours:.1f} h"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in part.models:
        table.add_column(model_name(name), justify="right")
    for metric, (label, _) in METRICS.items():
        figures = [one.metrics.get(metric) for one in part.models.values()]
        if any(figures):
            texts = [
                "–" if one is None else number(one.value)
                if one.low is None or one.high is None
                else f"{number(one.value)} [{number(one.low)}, {number(one.high)}]"
                for one in figures
            ]  # fmt: skip
            table.add_row(label, *texts)
    if text := first(evaluation):
        console.print(f"{text}.", style="bold", highlight=False, markup=False)
    console.print(table)
    for line in [*findings(evaluation), *notes(evaluation)]:
        console.print(f"{line}.", highlight=False, markup=False)
    given = evaluation.predictions
    if given is not None:
        console.print(
            f"{given.file}: {given.rows_matched:,} rows have a prediction, {given.rows_unmatched:,} have none; they "
            f"differ from the bundle's own by at most {given.max_abs_difference:.2g}."
        )
