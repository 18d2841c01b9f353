"""`volcast infer`: rows of a file through a bundle, offline, and how long that takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from common.cli import config_option, examples, json_option
from common.config import Config, load_config
from common.console import tables
from common.errors import InputError, UsageError
from common.log import configure_logs
from common.steps import counting

if TYPE_CHECKING:
    from common.bundle import Manifest
    from training.shipping.inference import Predict, Timed

SIZES = (1, 8, 32, 256, 1024, 8192)
CALLED = "InferenceSession.run"


class Sizes(click.ParamType[tuple[int, ...]]):
    """`1,32,256`"""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [one.strip() for one in str(value).split(",")]
        if not all(one.isdecimal() and 0 < int(one) <= 1_000_000 for one in parts):
            self.fail(f"{value!r} is no list of batch sizes such as 1,32,256", param, ctx)
        return tuple(int(one) for one in parts)


@click.command(
    "infer",
    epilog=examples(
        "volcast infer features.parquet --out predictions.parquet",
        "volcast infer rows.ndjson --bundle models/volatility/1          # JSON lines on standard output",
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
    help="A bundle (default: what servers answer with by default). --model-path is the older name.",
)
@click.option(
    "--out",
    default="-",
    show_default=True,
    metavar="FILE",
    help="*.parquet, *.csv, *.json or *.ndjson; -: JSON lines here.",
)
@click.option("--benchmark", is_flag=True, help="Time it by batch size, beside the trained form.")
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
    benchmark: bool,
    batch_sizes: tuple[int, ...],
    trained: Path | None,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """Scores every row of FILE (Parquet or JSON lines, as `volcast features` writes them).

    With --benchmark: what one call costs, by rows in it, in ONNX Runtime on one thread and in the trained form.
    Without a FILE it takes the row that the bundle brings for its self-test.
    """
    config = load_config(config_file)
    configure_logs(config.log, "infer")
    if file is None and not benchmark:
        raise UsageError("name a FILE of rows, or --benchmark")
    if as_json and out == "-" and not benchmark:
        raise UsageError("--json tells what was done: name a file with --out")
    from common.bundle import read_bundle

    folder = bundle_folder or _default_bundle(config)
    manifest, model = read_bundle(folder)
    predict = _predictor(manifest, model)
    if benchmark:
        return _benchmark(config, folder, manifest, predict, file, batch_sizes, trained, as_json)
    assert file is not None
    return _infer(manifest, predict, file, out, as_json)


def _default_bundle(config: Config) -> Path:
    from common.model_store import ModelStore

    return ModelStore(Path(config.server.models_dir), config.server.default_model).answering()


def _predictor(manifest: Manifest, model: bytes) -> Predict:
    """Of a forecast, the probability at the default spike size."""
    import numpy as np

    if manifest.forecast is None:
        from training.shipping.onnx_model import OnnxModel

        return OnnxModel(model).probabilities
    from training.forecasting.onnx_forecast import OnnxForecast

    forecast, size_bps = OnnxForecast(model), manifest.forecast.spike_bps

    def predict(features: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        rows = len(features)
        return forecast.run(features, np.full(rows, size_bps), np.zeros((rows, 0)))[0]

    return predict


def _infer(manifest: Manifest, predict: Predict, file: Path, out: str, as_json: bool) -> int:
    import numpy as np

    from training.shipping.inference import AnswerWriter, read_chunks, score

    rows = unscored = spikes = 0
    with AnswerWriter(out, manifest.decision_threshold, sys.stdout.buffer) as writer, counting("rows") as step:
        for chunk in read_chunks(file, manifest.feature_schema()):
            said = score(chunk, predict)
            writer.write(chunk, said)
            rows += len(chunk)
            unscored += int(np.count_nonzero(np.isnan(said)))
            spikes += int(np.count_nonzero(said >= manifest.decision_threshold))
            step(rows)
        if rows == 0:
            raise InputError(f"{file}: no row in it")
    told = {"model": manifest.name, "version": manifest.version, "file": str(file), "out": out}
    counts = {"rows": rows, "scored": rows - unscored, "not_finite": unscored, "spikes": spikes}
    if as_json:
        click.echo(msgspec.json.encode({**told, **counts}).decode())
    else:
        at = f"{spikes:,} at or above {manifest.decision_threshold:g}"
        skipped = f"; {unscored:,} without an answer (a feature is not finite)" if unscored else ""
        click.echo(
            f"{out}: {rows - unscored:,} of {rows:,} rows scored by {manifest.name}/{manifest.version}, {at}{skipped}",
            err=out == "-",
        )
    return 0


def _benchmark(
    config: Config,
    folder: Path,
    manifest: Manifest,
    predict: Predict,
    file: Path | None,
    sizes: tuple[int, ...],
    trained: Path | None,
    as_json: bool,
) -> int:
    import numpy as np

    from training.shipping.inference import benchmark, read_chunks
    from training.shipping.trained_form import TRAINED_FILE, read_trained, require_schema

    rows = np.array([manifest.self_test.features], dtype=np.float64)
    if file is not None:
        first = next(read_chunks(file, manifest.feature_schema()), None)
        good = None if first is None else first.features[np.isfinite(first.features).all(axis=1)]
        if good is None or len(good) == 0:
            raise InputError(f"{file}: no row in it that can be scored")
        rows = good
    found = None if manifest.forecast is None else trained or _trained_folder(config, folder)
    expected: Predict | None = None
    if found is not None and manifest.forecast is not None:
        fitted, size_bps = read_trained(found), manifest.forecast.spike_bps
        require_schema(fitted, manifest.feature_schema())

        def expected(features: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
            return fitted.forecasts(features).exceedance(size_bps)

    timed = benchmark(predict, expected, rows, sizes)
    difference = None if expected is None else float(np.max(np.abs(predict(rows) - expected(rows))))
    if as_json:
        told = {
            "model": manifest.name,
            "version": manifest.version,
            "kind": manifest.kind,
            "rows": len(rows),
            "called": CALLED,
            "trained": None if found is None else str(found),
            "max_abs_difference": difference,
            "batches": [
                {"rows": one.rows, "onnx_us": one.onnx_us, "trained_us": one.trained_us, "ratio": one.ratio}
                for one in timed
            ],
        }
        click.echo(msgspec.json.encode(told).decode())
        return 0
    _print_timed(manifest, timed)
    click.echo(f"ONNX Runtime by {CALLED}; the gate binds input and output beforehand, which saves the handing over")
    if difference is None:
        click.echo(
            f"no trained form of a forecast is kept beside {folder}, and no run in {config.tracking.runs_dir} made it; "
            f"train keeps it in the folder of its run, `models promote` puts {TRAINED_FILE} beside a bundle; --trained "
            "names another folder"
        )
    else:
        click.echo(f"the two differ by {difference:.2g} at most, on {len(rows):,} row{'' if len(rows) == 1 else 's'}")
    return 0


def _trained_folder(config: Config, bundle: Path) -> Path | None:
    from training.shipping.aliases import run_of_bundle
    from training.shipping.tracking.record import TRAINED
    from training.shipping.trained_form import TRAINED_FILE

    run = run_of_bundle(bundle, Path(config.tracking.runs_dir))
    folders = [bundle, bundle.parent / TRAINED, *([] if run is None else [run / TRAINED])]
    return next((one for one in folders if (one / TRAINED_FILE).is_file()), None)


def _print_timed(manifest: Manifest, timed: list[Timed]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    title = f"{manifest.name}/{manifest.version} ({manifest.kind}): median time of a call, one thread"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    columns = ["rows", "ONNX Runtime, µs", "rows/s", "trained form, µs", "times ONNX"]
    for column in columns if timed[0].ratio is not None else columns[:3]:
        table.add_column(column, justify="right", no_wrap=True)
    for one in timed:
        trained = [] if one.ratio is None else [f"{one.trained_us:,.1f}", f"{one.ratio:.2f}"]
        table.add_row(f"{one.rows:,}", f"{one.onnx_us:,.1f}", f"{one.onnx_rows_per_s:,.0f}", *trained)
    tables().print(table)
