"""`volcast infer`: predictions of a bundle for the rows of a file, offline, and the time of a call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from common.cli import FiniteRange, config_option, examples, json_option
from common.config import Config, load_config
from common.console import tables
from common.errors import InputError, UsageError
from common.log import configure_logs
from common.steps import counting

if TYPE_CHECKING:
    from common.bundle import Manifest
    from training.shipping.inference import Predict, Predictor, Timed

SIZES = (1, 8, 32, 256, 1024, 8192)
CALLED = "InferenceSession.run"


class Sizes(click.ParamType[tuple[int, ...]]):
    """`1,32,256`"""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and 0 < int(part) <= 1_000_000 for part in parts):
            self.fail(f"{value!r} is no list of batch sizes such as 1,32,256", param, ctx)
        return tuple(int(part) for part in parts)


class Levels(click.ParamType[tuple[float, ...]]):
    """`0.1,0.5,0.9`"""

    name = "levels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(level) for level in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of levels such as 0.1,0.5,0.9", param, ctx)


@click.command(
    "infer",
    epilog=examples(
        "volcast infer features.parquet --out predictions.parquet",
        "volcast infer rows.ndjson --bundle models/volatility/4          # JSON lines on standard output",
        "volcast infer features.parquet --spike-bps 5 --quantiles 0.1,0.5,0.9 --out predictions.ndjson",
        "volcast infer --benchmark",
        "volcast infer features.parquet --benchmark --batch-sizes 1,256 --json",
    ),
)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--bundle",
    "--model-path",
    "bundle_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A bundle (default: the version that servers answer with). --model-path is the older name.",
)
@click.option(
    "--out",
    default="-",
    show_default=True,
    metavar="FILE",
    help="*.parquet, *.csv, *.json or *.ndjson; -: JSON lines here.",
)
@click.option(
    "--spike-bps",
    type=FiniteRange(min=0, min_open=True),
    default=None,
    help="Spike size, bps of volatility (default: the model's).",
)
@click.option("--quantiles", type=Levels(), default=(), metavar="LEVELS", help="Such as 0.1,0.5,0.9 (default: none).")
@click.option("--benchmark", is_flag=True, help="Time a call by batch size, next to the trained form.")
@click.option(
    "--batch-sizes", type=Sizes(), default=SIZES, show_default=",".join(map(str, SIZES)), help="Of --benchmark."
)
@click.option(
    "--trained",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the trained form (default: beside the bundle, else of the run that made it).",
)
@json_option
@config_option
def infer(
    file: Path | None,
    bundle_folder: Path | None,
    out: str,
    spike_bps: float | None,
    quantiles: tuple[float, ...],
    benchmark: bool,
    batch_sizes: tuple[int, ...],
    trained: Path | None,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Writes predictions for every row of FILE (Parquet or JSON lines, as `volcast features` writes them).

    Predictions have the fields of the predictions topic. A forecast model gives the probability of the spike size, the
    median and the quantiles; an old-style model gives a probability.

    With --benchmark: the time of a call by its number of rows, in ONNX Runtime on one thread and in the trained form.
    Without a FILE it uses the row of the bundle's self-test.
    """
    config = load_config(config_file)
    configure_logs(config.log, "infer")
    if file is None and not benchmark:
        raise UsageError("name a FILE of rows, or --benchmark")
    if as_json and out == "-" and not benchmark:
        raise UsageError("--json prints a summary: name a file with --out")
    from common.bundle import read_bundle
    from training.shipping.inference import Predictor

    folder = bundle_folder or _default_bundle(config)
    manifest, model = read_bundle(folder)
    predictor = Predictor(manifest, model, spike_bps or 0.0, quantiles)
    if benchmark:
        return _benchmark(config, folder, predictor, file, batch_sizes, trained, as_json)
    assert file is not None
    return _infer(predictor, file, out, as_json)


def _default_bundle(config: Config) -> Path:
    from common.model_store import ModelStore

    return ModelStore(Path(config.server.models_dir), config.server.default_model).answering()


def _infer(predictor: Predictor, file: Path, out: str, as_json: bool) -> int:
    import numpy as np

    from training.shipping.inference import AnswerWriter, read_chunks

    manifest = predictor.manifest
    rows = unscored = spikes = 0
    with AnswerWriter(out, predictor, sys.stdout.buffer) as writer, counting("rows") as step:
        for chunk in read_chunks(file, manifest.feature_schema()):
            answers = predictor.answers(chunk.features)
            writer.write(chunk, answers)
            rows += len(chunk)
            unscored += int(np.count_nonzero(np.isnan(answers.probability)))
            spikes += int(np.count_nonzero(answers.probability >= manifest.decision_threshold))
            step(rows)
        if rows == 0:
            raise InputError(f"{file}: no row in it")
    if as_json:
        summary = {
            "model": manifest.name, "version": manifest.version, "file": str(file), "out": out, "rows": rows,
            "scored": rows - unscored, "not_finite": unscored, "spikes": spikes, "spike_bps": predictor.spike_bps,
            "base_rate": predictor.base_rate,
        }  # fmt: skip
        click.echo(msgspec.json.encode(summary).decode())
        return 0
    size = f" of a spike of {predictor.spike_bps:g} bps (base rate {predictor.base_rate:.3g})" * bool(
        predictor.spike_bps
    )
    skipped = f"; {unscored:,} without an answer (a feature is not finite)" if unscored else ""
    click.echo(
        f"{out}: {rows - unscored:,} of {rows:,} rows scored by {manifest.name}/{manifest.version}, {spikes:,} with a "
        f"probability{size} at or above {manifest.decision_threshold:g}{skipped}",
        err=out == "-",
    )
    return 0


def _benchmark(
    config: Config,
    folder: Path,
    predictor: Predictor,
    file: Path | None,
    sizes: tuple[int, ...],
    trained: Path | None,
    as_json: bool,
) -> int:
    import numpy as np

    from training.shipping.inference import benchmark, read_chunks
    from training.shipping.trained_form import TRAINED_FILE

    manifest = predictor.manifest
    rows = np.array([manifest.self_test.features], dtype=np.float64)
    if file is not None:
        first = next(read_chunks(file, manifest.feature_schema()), None)
        good = None if first is None else first.features[np.isfinite(first.features).all(axis=1)]
        if good is None or len(good) == 0:
            raise InputError(f"{file}: no row in it that can be scored")
        rows = good
    form = trained or _trained_folder(config, folder)
    expected = None if manifest.forecast is None or form is None else _trained_form(form, predictor)
    timed = benchmark(predictor.probabilities, expected, rows, sizes)
    difference = None if expected is None else float(np.max(np.abs(predictor.probabilities(rows) - expected(rows))))
    if as_json:
        summary = {
            "model": manifest.name,
            "version": manifest.version,
            "kind": manifest.kind,
            "rows": len(rows),
            "called": CALLED,
            "trained": None if expected is None else str(form),
            "max_abs_difference": difference,
            "batches": [
                {"rows": each.rows, "onnx_us": each.onnx_us, "trained_us": each.trained_us, "ratio": each.ratio}
                for each in timed
            ],
        }
        click.echo(msgspec.json.encode(summary).decode())
        return 0
    _print_timed(manifest, timed)
    click.echo(f"ONNX Runtime by {CALLED}; the gate binds input and output beforehand, which saves copies")
    if manifest.forecast is None:
        click.echo(f"{manifest.name}/{manifest.version} forecasts no distribution: no trained form is compared")
    elif difference is None:
        click.echo(
            f"no trained form is kept beside {folder}, and no run in {config.tracking.runs_dir} made it; train keeps "
            f"one in its run's folder, `models promote` puts {TRAINED_FILE} beside a bundle; --trained FOLDER names one"
        )
    else:
        click.echo(
            f"both forms differ by {difference:.2g} at most, on {len(rows):,} row{'' if len(rows) == 1 else 's'}"
        )
    return 0


def _trained_form(folder: Path, predictor: Predictor) -> Predict:
    """The probabilities of the trained form. Raises InputError if it does not fit the bundle."""
    from training.shipping.trained_form import read_trained, require_schema

    fitted = read_trained(folder)
    require_schema(fitted, predictor.manifest.feature_schema())
    return lambda features: fitted.forecasts(features).exceedance(predictor.spike_bps)


def _trained_folder(config: Config, bundle: Path) -> Path | None:
    from training.shipping.aliases import run_of_bundle
    from training.shipping.tracking.record import TRAINED
    from training.shipping.trained_form import TRAINED_FILE

    run = run_of_bundle(bundle, Path(config.tracking.runs_dir))
    folders = [bundle, bundle.parent / TRAINED, *([] if run is None else [run / TRAINED])]
    return next((folder for folder in folders if (folder / TRAINED_FILE).is_file()), None)


def _print_timed(manifest: Manifest, timed: list[Timed]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    title = f"{manifest.name}/{manifest.version} ({manifest.kind}): median time of a call, one thread"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    columns = ["rows", "ONNX Runtime, µs", "rows/s", "trained form, µs", "times ONNX"]
    for column in columns if timed[0].ratio is not None else columns[:3]:
        table.add_column(column, justify="right", no_wrap=True)
    for each in timed:
        trained = [] if each.ratio is None else [f"{each.trained_us:,.1f}", f"{each.ratio:.2f}"]
        table.add_row(f"{each.rows:,}", f"{each.onnx_us:,.1f}", f"{each.onnx_rows_per_s:,.0f}", *trained)
    tables().print(table)
