"""Reads and validates a certificate and its key before a server presents them."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from common.errors import InputError
from server.security.files import signature

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A certificate chain, its key, and the CA of client certificates.

    client_ca: None if clients present no certificates.
    expires_s: the earliest end of validity in the chain, seconds since 1970.
    context: the pair as a context of the standard library's ssl, configured for gRPC.
    """

    cert: bytes
    key: bytes
    client_ca: bytes | None
    expires_s: float
    context: ssl.SSLContext = field(compare=False, repr=False)


def read_pair(cert: Path, key: Path, client_ca: Path | None, now_s: float) -> CertificatePair:
    """Raises InputError with file and reason: unreadable, not PEM, a key of another certificate, expired."""
    paths = [cert, key] if client_ca is None else [cert, key, client_ca]
    before = signature(paths)
    pair = _read_files(cert, key, client_ca)
    if signature(paths) != before:
        raise InputError(f"TLS certificate {cert}: changed while it was read")
    if pair.expires_s <= now_s:
        raise InputError(f"TLS certificate {cert}: expired on {datetime.fromtimestamp(pair.expires_s, UTC):%Y-%m-%d}")
    return pair


def _read_files(cert: Path, key: Path, client_ca: Path | None) -> CertificatePair:
    chain, secret = _read("certificate", cert), _read("key", key)
    expires_s = min(_expiries(cert, chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password callback OpenSSL would prompt on the terminal.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (OSError, ssl.SSLError):
        raise InputError(f"TLS key {key}: not an unencrypted PEM key of the certificate {cert}") from None
    roots = None
    if client_ca is not None:
        roots = _read("client CA", client_ca)
        list(_expiries(client_ca, roots))
    return CertificatePair(chain, secret, roots, expires_s, _for_grpc(context, roots))


def _for_grpc(context: ssl.SSLContext, roots: bytes | None) -> ssl.SSLContext:
    """Requires HTTP/2 over TLS 1.2 or later without renegotiation (RFC 9113, section 9.2).

    roots: if given, every client must present a certificate that one of these CAs signed.
    """
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    if roots is not None:
        context.load_verify_locations(cadata=roots.decode("ascii", "replace"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"TLS {what} {path}: cannot be read: {error.strerror}") from None


def _expiries(path: Path, pem: bytes) -> Iterator[float]:
    blocks = _PEM.findall(pem.decode("ascii", "replace"))
    if not blocks:
        raise InputError(f"TLS certificate {path}: no PEM certificate in it")
    for block in blocks:
        try:
            yield not_after_s(ssl.PEM_cert_to_DER_cert(block))
        except (ValueError, IndexError):
            raise InputError(f"TLS certificate {path}: damaged") from None


def not_after_s(der: bytes) -> float:
    """Returns the end of validity of an X.509 certificate, seconds since 1970.

    The standard library reads this field of verified certificates only. RFC 5280 section 4.1: validity is the fifth
    field of TBSCertificate, or the fourth if the version is omitted. Raises ValueError or IndexError if the bytes
    are no certificate.
    """
    tbs = _next(_next(der, _SEQUENCE)[0], _SEQUENCE)[0]
    rest = _next(tbs, _VERSION)[1] if tbs[0] == _VERSION else tbs
    for _ in ("serialNumber", "signature", "issuer"):
        rest = _next(rest)[1]
    validity = _next(rest, _SEQUENCE)[0]
    after = _next(validity)[1]
    text = _next(after)[0].decode("ascii")
    if after[0] == _UTC_TIME:
        # RFC 5280 section 4.1.2.5.1: years from 50 to 99 mean 1950 to 1999.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif after[0] != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _next(data: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """Returns the content of the first DER element and the bytes after that element."""
    if tag is not None and data[0] != tag:
        raise ValueError("another field")
    size, start = data[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    if start + size > len(data):
        raise ValueError("cut short")
    return data[start : start + size], data[start + size :]
