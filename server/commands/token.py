"""`volcast token`: a new bearer token."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path

import click

from common.cli import config_option, examples, json_option
from common.config import load_config
from common.errors import UsageError

TOKEN_BYTES = 32  # with 256 random bits a plain SHA-256 in the tokens file is enough


@click.command("token", epilog=examples("volcast token worker", "volcast token worker --json"))
@click.argument("name", default="caller")
@config_option
@json_option
def token(config_file: Path | None, name: str, as_json: bool) -> None:
    """Draws a bearer token for NAME ("caller") and prints it, once, with the line for server.tokens_file.

    Give the token to the caller and only the line to the server: the token cannot be found from it.
    The line goes to standard output as the last one; nothing is written to any file.
    """
    if not name or "#" in name or any(char.isspace() or not char.isprintable() for char in name):
        raise UsageError(f"NAME: expected one word without #, got {name!r}")
    file = load_config(config_file).server.tokens_file or "server.tokens_file"
    drawn = secrets.token_urlsafe(TOKEN_BYTES)
    line = f"{hashlib.sha256(drawn.encode()).hexdigest()}  {name}"
    if as_json:
        click.echo(json.dumps({"token": drawn, "line": line}))
        return
    click.echo(f"token, for the caller, shown this once:\n{drawn}\nline, for {file}:\n{line}")
