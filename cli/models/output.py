"""What the `models` commands print: checks, moves, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from common.check import Check
from common.model_store import Moved

if TYPE_CHECKING:
    from cli.models.add import Added
    from training.shipping.promotion import Judged

REFUSED = 3


def print_verdict(judged: Judged, as_json: bool) -> int:
    """Prints the findings of the gate; returns the exit code."""
    print_checks(judged.checks, as_json, run=judged.run.id, model=judged.manifest.name)
    return 0 if judged.passed else REFUSED


def print_checks(checks: tuple[Check, ...], as_json: bool, **subject: str) -> None:
    passed = all(check.passed for check in checks)
    if as_json:
        print_json({**subject, "passed": passed, "checks": _plain(checks)})
        return
    click.echo(f"{', '.join(subject.values())}: {'passed' if passed else 'REFUSED'}")
    for check in checks:
        click.echo(f"  {'ok     ' if check.passed else 'REFUSED'} {check.name:<13} {check.text}")


def print_move(moved: Moved, checks: tuple[Check, ...], as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "name": moved.name,
                "version": moved.version,
                "role": moved.role,
                "changed": moved.changed,
                "previous": moved.previous,
                "labels": msgspec.to_builtins(moved.labels),
                "checks": _plain(checks),
            }
        )
        return
    for check in checks:
        click.echo(f"  ok      {check.name:<13} {check.text}")
    verb = "is now" if moved.changed else "was already"
    before = f" (before: {moved.previous})" if moved.previous else ""
    click.echo(f"{moved.name}: version {moved.version} {verb} the {moved.role}{before}")


def print_added(added: Added, file: str, changes: list[str], as_json: bool) -> None:
    every_change = [*changes, *added.changes]
    if as_json:
        print_json(
            {
                "name": added.name,
                "version": added.version,
                "folder": str(added.folder),
                "new": added.is_new,
                "label": added.label,
                "schema": {"name": added.schema.name, "hash": added.schema.hash, "features": added.schema.names},
                "threshold": added.threshold,
                "changes": every_change,
            }
        )
        return
    verb = "added as" if added.is_new else "is already"
    click.echo(f"{file} {verb} {added.name} version {added.version}: {added.folder}")
    count = len(added.schema)
    plural = "" if count == 1 else "s"
    click.echo(
        f"  schema    {added.schema.name} {added.schema.hash}, {count} feature{plural}; threshold {added.threshold:g}"
    )
    for line in every_change or ["nothing"]:
        click.echo(f"  changed   {line}")
    click.echo("  checked   a server loads it")
    label = f"{added.label} (the first version of a name answers)" if added.label else "none; labels.json decides"
    click.echo(f"  label     {label}")


def print_json(value: object) -> None:
    click.echo(msgspec.json.encode(value).decode())


def table(title: str, rows: list[dict[str, str]], columns: tuple[str, ...]) -> Any:
    """Rows as a table; columns without any text are left out."""
    from rich.box import SIMPLE
    from rich.table import Table

    shown = [column for column in columns if any(row.get(column) for row in rows)]
    drawn = Table(title=title if rows else f"{title}: none", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in shown:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(row.get(column, "") for column in shown))
    return drawn


def _plain(checks: tuple[Check, ...]) -> list[dict[str, object]]:
    return [{"name": check.name, "passed": check.passed, "text": check.text} for check in checks]
