"""Credentials for an inference server: token, TLS, client certificate. For clients, gateway and worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError, UsageError

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Access:
    """Credentials of a caller. The default is plaintext without a token. Secrets are not part of the repr."""

    tls: bool = False
    ca: bytes | None = None  # PEM of trusted authorities; None: those of the system
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    metadata: Metadata | None = field(default=None, repr=False)  # sent with each call


def make_access(
    token: str = "",
    tls: bool = False,
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    key: str | Path | None = None,
) -> Access:
    """Reads the PEM files; any of them turns TLS on.

    Raises UsageError if arguments contradict each other, InputError if a file cannot be read.
    """
    if bool(cert) != bool(key):
        raise UsageError("a client certificate and its key go together")
    if not token.isascii() or any(character.isspace() or not character.isprintable() for character in token):
        raise UsageError("a token is one word of printable ASCII")
    return Access(
        tls=tls or bool(ca) or bool(cert),
        ca=_pem(ca),
        cert=_pem(cert),
        key=_pem(key),
        metadata=(("authorization", f"Bearer {token}"),) if token else None,
    )


def read_token(file: str | Path) -> str:
    """The token in a file, without surrounding blanks; "" if no file is named.

    Raises InputError if the file cannot be read or is empty.
    """
    if not file:
        return ""
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"token file {file}: cannot be read: {getattr(error, 'strerror', None) or 'not text'}"
        ) from None
    if not token:
        raise InputError(f"token file {file}: empty")
    return token


def _pem(file: str | Path | None) -> bytes | None:
    if not file:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"PEM file {file}: cannot be read: {error.strerror}") from None
