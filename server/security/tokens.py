"""Bearer tokens (RFC 6750). The server stores only their SHA-256.

A plain hash is enough: `volcast token` draws 256 random bits, so a dictionary attack is impossible. A slow hash
would cost time in every call.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import InputError, UnauthenticatedError
from server.security.files import signature

HEADER = "authorization"
REFUSAL_TEXT = "a valid bearer token is needed"  # a missing, a malformed and an unknown token give equal errors
MAX_HEADER_CHARS = 512  # our headers have 50; a longer header is refused without hashing it
MAX_TOKENS = 1000  # every call compares its token with all of them

_LINE = re.compile(r"([0-9a-fA-F]{64})\s+(\S+)")


class Tokens:
    """The tokens of a file, read again after a change. If the new file is invalid, the previous tokens stay."""

    def __init__(self, path: Path, log: Any) -> None:
        """Raises InputError if the file cannot be used."""
        self._path = path
        self._log = log
        self._seen = signature([path])
        self._entries = read_tokens(path)
        self.reloads = 0
        self.failures = 0

    def __len__(self) -> int:
        return len(self._entries)

    def verify(self, header: str | None) -> str | None:
        """Returns the caller's name for an Authorization header; None if no token matches.

        The duration does not reveal which entry matches or how many of its bytes do: every digest is compared, each
        in constant time.
        """
        if header is None or len(header) > MAX_HEADER_CHARS or header[:7].lower() != "bearer ":
            return None
        digest = hashlib.sha256(header[7:].encode("utf-8", "replace")).digest()
        caller = None
        for known, name in self._entries:
            if hmac.compare_digest(known, digest):
                caller = name
        return caller

    @contextmanager
    def temporary_header(self) -> Iterator[str]:
        """A header for the server's own self-check at start. Its token is valid only inside the context."""
        token = secrets.token_urlsafe(32)
        own = (hashlib.sha256(token.encode()).digest(), "self")
        self._entries = (*self._entries, own)
        try:
            yield f"Bearer {token}"
        finally:
            self._entries = tuple(entry for entry in self._entries if entry != own)

    def refresh(self, force: bool = False) -> bool:
        """Reads the file again if it has changed; costs one stat. Returns True if the tokens were replaced."""
        now = signature([self._path])
        if now == self._seen and not force:
            return False
        self._seen = now
        try:
            self._entries = read_tokens(self._path)
        except InputError as error:
            self.failures += 1
            self._log.error("tokens_refused", reason=str(error), kept=len(self._entries))
            return False
        self.reloads += 1
        self._log.info("tokens_loaded", file=str(self._path), tokens=len(self._entries))
        return True


class Gate:
    """Decides which calls are allowed. Without tokens every call is allowed."""

    OPEN = ("/grpc.health.v1.Health/",)

    def __init__(self, tokens: Tokens | None, open_prefixes: tuple[str, ...] = OPEN) -> None:
        """open_prefixes: paths that begin with these need no token."""
        self._tokens = tokens
        self._open = open_prefixes
        self.refused = 0

    def admit(self, path: str, header: str | None) -> str | None:
        """Returns the caller's name; None if the path needs no token. Raises UnauthenticatedError."""
        if self._tokens is None or path.startswith(self._open):
            return None
        name = self._tokens.verify(header)
        if name is None:
            self.refused += 1
            raise UnauthenticatedError(REFUSAL_TEXT)
        return name

    def refusal(self, path: bytes, header: bytes) -> str:
        """Returns the reason why the call is refused, or "" if it is allowed. Used by server.http2."""
        try:
            self.admit(path.decode("latin-1"), header.decode("latin-1"))
        except UnauthenticatedError as error:
            return str(error)
        return ""


def authorization(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Returns the Authorization header of a call's metadata; None unless there is exactly one."""
    values = [value for key, value in metadata if key == HEADER]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None


def read_tokens(path: Path) -> tuple[tuple[bytes, str], ...]:
    """Returns (digest, name) for each line. Raises InputError with the number of the line, never with its content."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise InputError(f"tokens file {path}: cannot be read: {reason}") from None
    entries: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            # The message must not quote the line: it may contain a token instead of its hash.
            raise InputError(
                f"tokens file {path}: line {number}: expected `SHA-256 name`, as `volcast token` prints it"
            )
        digest = bytes.fromhex(match[1])
        if digest in entries:
            raise InputError(f"tokens file {path}: line {number}: the token of an earlier line again")
        entries[digest] = match[2]
    if not 0 < len(entries) <= MAX_TOKENS:
        # An empty file would refuse every caller. More likely the file is being written at this moment.
        raise InputError(f"tokens file {path}: expected 1 to {MAX_TOKENS} tokens, got {len(entries)}")
    return tuple(entries.items())
