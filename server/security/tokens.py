"""Bearer tokens (RFC 6750), known by their SHA-256 alone.

A plain hash is enough because `volcast token` draws 256 random bits: there is no dictionary to try, as
there is with passwords, and a slow hash would cost every call.
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
REFUSED = "a valid bearer token is needed"  # the same for none, a malformed and an unknown one
MAX_HEADER_CHARS = 512  # ours take 50; what is longer is not even hashed
MAX_TOKENS = 1000  # all are compared with each call

_LINE = re.compile(r"([0-9a-fA-F]{64})\s+(\S+)")


class Tokens:
    """The tokens of a file, read again when it changes. A file that is no good leaves those before it."""

    def __init__(self, path: Path, log: Any) -> None:
        """Raises InputError for a file that cannot be used."""
        self._path = path
        self._log = log
        self._seen = signature([path])
        self._entries = read_tokens(path)
        self.reloads = 0
        self.failures = 0

    def __len__(self) -> int:
        return len(self._entries)

    def verify(self, header: str | None) -> str | None:
        """The name of the caller that an Authorization header speaks for; None where it is nobody's.

        How long it takes does not depend on which entry fits, or on how much of one does: every digest
        is compared, each in constant time.
        """
        if header is None or len(header) > MAX_HEADER_CHARS or header[:7].lower() != "bearer ":
            return None
        digest = hashlib.sha256(header[7:].encode("utf-8", "replace")).digest()
        found = None
        for known, name in self._entries:
            if hmac.compare_digest(known, digest):
                found = name
        return found

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The header of a token for the process itself, for its trial call at start; known only meanwhile."""
        drawn = secrets.token_urlsafe(32)
        own = (hashlib.sha256(drawn.encode()).digest(), "self")
        self._entries = (*self._entries, own)
        try:
            yield f"Bearer {drawn}"
        finally:
            self._entries = tuple(one for one in self._entries if one != own)

    def refresh(self, force: bool = False) -> bool:
        """Reads the file again where it has changed; costs one stat. Returns whether other tokens count now."""
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
    """Who may call what. Without tokens everyone may call everything."""

    OPEN = ("/grpc.health.v1.Health/",)

    def __init__(self, tokens: Tokens | None, open_prefixes: tuple[str, ...] = OPEN) -> None:
        """open_prefixes: of the paths that need no token."""
        self._tokens = tokens
        self._open = open_prefixes
        self.refused = 0

    def admit(self, path: str, header: str | None) -> str | None:
        """The caller's name; None where no token is needed. Raises UnauthenticatedError."""
        if self._tokens is None or path.startswith(self._open):
            return None
        name = self._tokens.verify(header)
        if name is None:
            self.refused += 1
            raise UnauthenticatedError(REFUSED)
        return name

    def refusal(self, path: bytes, header: bytes) -> str:
        """What server.http2 asks: why the caller may not call this; empty where it may."""
        try:
            self.admit(path.decode("latin-1"), header.decode("latin-1"))
        except UnauthenticatedError as error:
            return str(error)
        return ""


def authorization(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The Authorization header among a call's metadata; None unless there is exactly one."""
    found = [value for key, value in metadata if key == HEADER]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else None


def read_tokens(path: Path) -> tuple[tuple[bytes, str], ...]:
    """(digest, name) for each line. Raises InputError naming the line, never what stands in it."""
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
            # The line may hold a token that somebody took for its hash.
            raise InputError(
                f"tokens file {path}: line {number}: expected `SHA-256 name`, as `volcast token` prints it"
            )
        digest = bytes.fromhex(match[1])
        if digest in entries:
            raise InputError(f"tokens file {path}: line {number}: the token of an earlier line again")
        entries[digest] = match[2]
    if not 0 < len(entries) <= MAX_TOKENS:
        # None would shut everybody out: more likely a file that is being written than a wish.
        raise InputError(f"tokens file {path}: expected 1 to {MAX_TOKENS} tokens, got {len(entries)}")
    return tuple(entries.items())
