"""The line for a package that is missing because its extra is not installed."""

from __future__ import annotations

import click

OWN_PACKAGES = {"cli", "common", "volcast"}  # always installed: a missing module of theirs is a fault of ours


def missing_extra(command: str, extra: str, error: ModuleNotFoundError) -> Exception:
    """The error to raise; `error` itself if no extra brings the package."""
    if not extra or (error.name or "").split(".")[0] in OWN_PACKAGES:
        return error
    return click.ClickException(
        f"`volcast {command}` needs the extra [{extra}]: {error.name} is not installed (make setup)"
    )
