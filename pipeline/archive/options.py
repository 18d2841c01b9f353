"""Options and messages that all commands which read recordings share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.archive import ReadOptions, RecordingFormat
from pipeline.archive.columns import ROLES, parse_map
from pipeline.archive.reader import explain_unknown
from pipeline.records import DeadLetter


def flat_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --columns and --product, for recordings with one row per tick."""
    columns = click.option(
        "--columns",
        "columns_text",
        default="",
        metavar="ROLE=COLUMN,...",
        help=f"Columns of a recording with one row per tick, beside the guessed ones. Roles: {', '.join(ROLES)}.",
    )
    product = click.option("--product", default="", help="Product of such a recording without a product column.")
    return columns(product(command))


def read_options(columns_text: str, product: str, gap_after_s: float = 0.0) -> ReadOptions:
    """Raises UsageError for a column map that cannot be parsed."""
    return ReadOptions(parse_map(columns_text), product, round(gap_after_s * 1e9))


def show_formats(formats: Sequence[RecordingFormat]) -> None:
    """Reports on standard error how flat recordings are read."""
    for each in formats:
        columns = ", ".join(f"{role}={column}" for role, column in each.columns.items())
        guess = " (guessed; change with --columns)" if each.guessed else ""
        click.echo(f"volcast: {each.file}: {each.format}, one row per tick: {columns}{guess}", err=True)
        for feature, reason in each.not_computed.items():
            click.echo(f"volcast:   {feature} cannot be computed: {reason}", err=True)
        for feature, source in each.substituted.items():
            click.echo(f"volcast:   {feature}: {source}", err=True)


def no_tick(files: Sequence[Path], first: DeadLetter | None, options: ReadOptions, where: str) -> str:
    """The error for recordings without a tick. where: the place of the dead letters, "" if there are none."""
    names = ", ".join(map(str, files))
    return f"no tick in {names}: {explain_unknown(files[0], first, options)}{where}"
