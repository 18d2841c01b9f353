"""`volcast features`: archive to Parquet, offline, through the same engine as the live path."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import BinaryIO, Self

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from common.cli import config_option, examples, json_option
from common.cluster import dask_client
from common.config import load_config
from common.errors import InputError, UsageError
from common.lifecycle import stop_on_signals
from common.log import configure_logs
from common.schema import CORE_1, SCHEMAS, FeatureSchema
from common.steps import steps
from pipeline.archive import ReadOptions, RecordingFormat, describe, expand_paths, latest_archive, read_archive
from pipeline.archive.options import flat_options, no_tick, read_options, show_formats
from pipeline.backfill.run import ATTEMPTS, backfill
from pipeline.backfill.tasks import REFUSED
from pipeline.features.engine import longest_ns
from pipeline.features.table import FeatureCounts, feature_chunks
from pipeline.feed.advice import GapWatch, order_advice
from pipeline.parquet import SUFFIX, FeatureParquetWriter
from pipeline.records import DeadLetter, LateTick, encode

DEFAULT_OUT = Path("data/processed/features.parquet")
CHUNK_RECORDS = 8192  # small enough to stop, and to show progress, at once
INTERRUPTED = 130
NAMED_FAILURES = 5


@click.command(
    "features",
    epilog=examples(
        "volcast features                                     # the most recent recording",
        "volcast features --data-file recording.ndjson.gz --out features.parquet",
        "volcast features --data-file 'recordings/*.ndjson.gz' --json",
        "volcast features --schema full/1 --data-file recording.ndjson.gz",
        "volcast features --data-file quotes.csv --columns time=t,bid=b,ask=a --product BTC-USD",
        "volcast features --cluster local --data-file recordings --out months",
    ),
)
@click.option(
    "--data-file",
    "data_files",
    multiple=True,
    metavar="FILE|DIR|GLOB",
    help="A recording; may be given again (default: the most recent one in ingest.archive_dir).",
)
@click.option(
    "--schema",
    "schema_name",
    type=click.Choice(list(SCHEMAS)),
    default=CORE_1.name,
    show_default=True,
    help="Which features.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_OUT,
    show_default=True,
    help="The Parquet file to write. An existing file is replaced once the new file is complete.",
)
@flat_options
@click.option(
    "--cluster",
    metavar="local|ADDRESS",
    help="Work in Dask: processes of this machine, or a scheduler such as tcp://host:8786 whose workers have volcast "
    "and see the same folders. OUT, without .parquet, is then a folder with a file for each product and day.",
)
@json_option
@config_option
def features(
    data_files: tuple[str, ...],
    schema_name: str,
    out: Path,
    columns_text: str,
    product: str,
    cluster: str | None,
    as_json: bool,
    config_file: Path | None,
) -> int | None:
    """Features for each tick of recordings, as a Parquet file.

    A recording is an archive of messages, or has one row per tick: NDJSON, CSV or Parquet with product, time, best
    bid and ask. Its columns are guessed from common names, and the guess is reported.

    Records that are late or cannot be parsed are counted by reason. They are kept in OUT.late.ndjson and
    OUT.dead.ndjson, or, with --cluster, in the folder OUT/_refused.
    """
    config = load_config(config_file)
    configure_logs(config.log, "features")
    if cluster is None and out.suffix != SUFFIX:
        raise UsageError(f"--out: expected a name that ends in {SUFFIX}, got {out}")
    if data_files:
        files = [path for text in data_files for path in expand_paths(text)]
    else:
        files = [_latest(config.ingest.archive_dir)]
    options = read_options(columns_text, product, config.ingest.gap_after_s)
    formats = describe(files, options)
    show_formats(formats)
    if cluster is None:
        summary = _convert(files, out, SCHEMAS[schema_name], options, formats)
    else:
        out = out.with_suffix("") if out.suffix == SUFFIX else out
        summary = _convert_on(cluster, files, out, SCHEMAS[schema_name], options, formats)
    if summary is None:
        click.echo(f"volcast: interrupted; {out} was not written", err=True)
        return INTERRUPTED
    click.echo(msgspec.json.encode(summary).decode() if as_json else _describe(summary))
    return None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    files: list[str]
    out: str
    schema: str
    schema_hash: str
    ticks: int
    features: int
    not_warm: int
    gaps: int
    gaps_by_reason: dict[str, int]
    advice: str  # why so few rows are warm, and what to do; "": enough are
    late: int
    late_by_reason: dict[str, int]
    late_file: str | None
    dead: int
    dead_by_reason: dict[str, int]
    dead_file: str | None
    recordings: list[RecordingFormat]  # the flat ones among the files
    not_computed: list[str]  # features that are NaN in every row
    duration_s: float


def _latest(archive_dir: str) -> Path:
    if not archive_dir:
        raise InputError("no --data-file was given, and ingest.archive_dir is empty")
    return latest_archive(Path(archive_dir))


def _convert(
    files: list[Path], out: Path, schema: FeatureSchema, options: ReadOptions, formats: list[RecordingFormat]
) -> Summary | None:
    """Writes the features of the files' ticks; None, without any output, if a signal came first."""
    stop = stop_on_signals()
    began = time.monotonic()
    counts = FeatureCounts()
    not_computed = _not_computed(files, formats, schema)
    blank = [schema.names.index(name) for name in not_computed]
    first_dead: DeadLetter | None = None
    gaps = GapWatch()
    rows = FeatureParquetWriter(out, schema=schema)
    with rows as writer, Kept(out, "late") as late, Kept(out, "dead") as dead:
        with _progress() as progress:
            task = progress.add_task("ticks", ticks=0)
            for chunk in feature_chunks(gaps.watch(read_archive(files, options)), counts, CHUNK_RECORDS, schema):
                if stop.is_set():
                    writer.abort()
                    return None
                chunk.rows.values[:, blank] = np.nan
                writer.write(chunk.rows.product_ids, chunk.rows, chunk.rows.values, chunk.rows.warm)
                for record in chunk.refused:
                    if first_dead is None and isinstance(record, DeadLetter):
                        first_dead = record
                    (dead if isinstance(record, DeadLetter) else late).add(record)
                progress.update(task, ticks=counts.ticks)
        late_file, dead_file = late.keep(), dead.keep()
        if counts.features == 0:
            writer.abort()
            kept = f"; the dead letters are in {dead_file}" if dead_file else ""
            raise InputError(no_tick(files, first_dead, options, kept))
    took_s = time.monotonic() - began
    advice = gaps.advice() or order_advice(counts.late["time_jumped_back"], counts.ticks)
    return _summary(files, out, schema, counts, advice, late_file, dead_file, formats, not_computed, took_s)


def _not_computed(files: list[Path], formats: list[RecordingFormat], schema: FeatureSchema) -> list[str]:
    """Features that no file allows. The engine would give 0, which looks like a measurement."""
    if len(formats) < len(files):
        return []
    return [name for name in schema.names if all(name in each.not_computed for each in formats)]


def _convert_on(
    cluster: str,
    files: list[Path],
    out: Path,
    schema: FeatureSchema,
    options: ReadOptions,
    formats: list[RecordingFormat],
) -> Summary | None:
    """As _convert, but on a Dask cluster and into a folder."""
    stop = stop_on_signals()
    began = time.monotonic()
    not_computed = _not_computed(files, formats, schema)
    read_archive(files, options)  # raises for archives and flat files together, before the cluster is asked
    with dask_client(cluster, os.cpu_count() or 1) as client, steps() as report:
        totals = backfill(client, files, out, schema, stop, report, options, bool(formats), not_computed)
    if totals is None:
        return None
    if totals.failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(totals.failed.items())[:NAMED_FAILURES])
        more = len(totals.failed) - NAMED_FAILURES
        raise InputError(
            f"{len(totals.failed)} tasks failed {ATTEMPTS} times each, so {out} was not written: {reasons}"
            + (f"; and {more} more" if more > 0 else "")
        )
    if totals.features == 0:
        raise InputError(no_tick(files, totals.first_dead, options, ""))
    late_files = any(".late." in name for name in totals.refused_files)
    dead_files = any(".dead." in name for name in totals.refused_files)
    counts = FeatureCounts(totals.ticks, totals.features, totals.not_warm, totals.gaps, totals.late, totals.dead)
    refused = out / REFUSED
    took_s = time.monotonic() - began
    late_file, dead_file = refused if late_files else None, refused if dead_files else None
    advice = totals.advice or order_advice(totals.late["time_jumped_back"], totals.ticks)
    return _summary(files, out, schema, counts, advice, late_file, dead_file, formats, not_computed, took_s)


class Kept:
    """Records beside the output, one per line. Without records there is no file."""

    def __init__(self, out: Path, kind: str) -> None:
        self._path = out.with_name(f"{out.name}.{kind}.ndjson")
        self._unfinished = out.with_name(f".{out.name}.{kind}.ndjson.{os.getpid()}")
        self._stream: BinaryIO | None = None

    def add(self, record: LateTick | DeadLetter) -> None:
        try:
            if self._stream is None:
                self._stream = self._unfinished.open("wb")
            self._stream.write(encode(record) + b"\n")
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written: {error.strerror or error}") from None

    def keep(self) -> Path | None:
        """Completes the file and returns its path. The file of an earlier run is replaced or removed."""
        if self._stream is None:
            self._path.unlink(missing_ok=True)
            return None
        self._stream.close()
        self._stream = None
        self._unfinished.replace(self._path)
        return self._path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            self._stream.close()
            self._unfinished.unlink(missing_ok=True)


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[ticks]:,} ticks"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _summary(
    files: list[Path],
    out: Path,
    schema: FeatureSchema,
    counts: FeatureCounts,
    advice: str,
    late_file: Path | None,
    dead_file: Path | None,
    formats: list[RecordingFormat],
    not_computed: list[str],
    took_s: float,
) -> Summary:
    return Summary(
        files=[str(path) for path in files],
        out=str(out),
        schema=schema.name,
        schema_hash=schema.hash,
        ticks=counts.ticks,
        features=counts.features,
        not_warm=counts.not_warm,
        gaps=counts.gaps.total(),
        gaps_by_reason=dict(counts.gaps),
        advice=advice,
        late=counts.late.total(),
        late_by_reason=dict(counts.late),
        late_file=str(late_file) if late_file else None,
        dead=counts.dead.total(),
        dead_by_reason=dict(counts.dead),
        dead_file=str(dead_file) if dead_file else None,
        recordings=formats,
        not_computed=not_computed,
        duration_s=round(took_s, 3),
    )


def _describe(summary: Summary) -> str:
    plural = "" if len(summary.files) == 1 else "s"
    history_s = longest_ns(SCHEMAS[summary.schema]) / 1e9
    lines = [
        f"{summary.out}: {summary.features:,} rows of {summary.schema} from {summary.ticks:,} ticks "
        f"in {len(summary.files)} file{plural}, {summary.duration_s:.2f} s",
        f"  not warm  {summary.not_warm:,} (less than {history_s:g} s of unbroken history)",
        f"  gaps      {_reasons(summary.gaps, summary.gaps_by_reason)}",
        f"  late      {_reasons(summary.late, summary.late_by_reason, summary.late_file)}",
        f"  dead      {_reasons(summary.dead, summary.dead_by_reason, summary.dead_file)}",
    ]
    if summary.not_computed:
        lines.append(f"  NaN       {', '.join(summary.not_computed)} (the recording lacks the columns)")
    if summary.advice:
        lines.append(f"  advice    {summary.advice}")
    return "\n".join(lines)


def _reasons(count: int, by_reason: dict[str, int], file: str | None = None) -> str:
    if count == 0:
        return "0"
    kept = f"; kept in {file}" if file else ""
    return f"{count:,} ({', '.join(f'{reason} {number:,}' for reason, number in sorted(by_reason.items()))}{kept})"
