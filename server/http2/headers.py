"""Header blocks of requests and responses.

The `hpack` library decodes the blocks of requests. A client repeats the same block for many calls, so a connection
caches decoded blocks until its dynamic table changes. Blocks of responses use only the static table and literals: they
need no state, and most are built once.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from hpack import Decoder, HPACKError
from hpack.exceptions import OversizedHeaderListError

from common.http2.frames import HEADERS, ErrorCode, ProtocolError

NO_TIMEOUT = -1
MAX_CACHED_BLOCKS, MAX_CACHED_BLOCK_BYTES = 64, 4096  # of one connection; larger blocks are not cached
_UNITS_NS = {b"H": 3_600_000_000_000, b"M": 60_000_000_000, b"S": 1_000_000_000, b"m": 1_000_000, b"u": 1000, b"n": 1}
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
# Other message formats, such as +json, are not supported.
_GRPC = re.compile(rb"application/grpc(?:\+proto)?(?:[ \t]*;.*)?", re.DOTALL)
_INDEXED = 0x80
_STATUS_200 = b"\x88"  # index 8 of the static table
_CONTENT_TYPE = b"\x0f\x10\x10application/grpc"  # literal, name of index 31
_STATUS_415 = b"\x08\x03415"
NO_TABLE = b"\x20"  # a dynamic table of 0 bytes (RFC 7541, section 6.3)
_PLAIN_TEXT = b"\x0f\x10\x0atext/plain"
ENCODINGS = b"identity,deflate,gzip"


Kind = int
STREAMING, UNARY, FAST_UNARY = range(3)  # FAST_UNARY: a unary method whose calls may take the fast path


class CallPolicy(Protocol):
    """Decisions of the application about a call that need only its headers."""

    def kind(self, method: Any) -> Kind: ...

    def refusal(self, path: bytes, authorization: bytes) -> str:
        """The reason to refuse the call; empty if the call is allowed."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """The decoded header block of one call."""

    path: bytes
    method: Any  # the method table's entry for the path; None: no such method
    timeout_ns: int = NO_TIMEOUT
    encoding: bytes = b"identity"
    kind: Kind = 0  # of the method
    unsupported: bool = False  # no gRPC request: answered with HTTP status 415
    refusal: str = ""  # the reason to refuse the call; empty if the call is allowed
    content_length: int | None = None
    size: int = 0  # as in SETTINGS_MAX_HEADER_LIST_SIZE: names, values, and 32 bytes per field
    fast_path: bool = False  # the call may take the connection's fast path


class HeadReader:
    """Reads the header blocks of one connection."""

    def __init__(self, methods: Mapping[bytes, Any], gate: CallPolicy, max_bytes: int) -> None:
        """max_bytes: limit of one header list. A list more than four times as large ends the connection."""
        self._methods = methods
        self._gate = gate
        self._max_bytes = max_bytes
        self._decoder = Decoder(max_header_list_size=4 * max_bytes)
        self.cached: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Raises ProtocolError if the block is not HPACK, MalformedError if it is not a request of HTTP/2."""
        head = self.cached.get(block)
        if head is not None:
            return head
        table = self._decoder.header_table
        # Keep the newest entry itself: after its eviction, another entry may have the same id().
        newest, length, room = next(iter(table.dynamic_entries), None), len(table.dynamic_entries), table.maxsize
        fields = self._fields(block)
        now = next(iter(table.dynamic_entries), None)
        same = now is newest and len(table.dynamic_entries) == length and table.maxsize == room
        if not same:
            self.cached.clear()  # with another table, the same bytes may decode to other fields
        head = self._parse(fields)
        if same and len(self.cached) < MAX_CACHED_BLOCKS and len(block) <= MAX_CACHED_BLOCK_BYTES:
            self.cached[block] = head
        return head

    def forget(self) -> None:
        self.cached.clear()

    def skip(self, block: bytes) -> bool:
        """Decodes request trailers: they can change the table. Returns whether they have pseudo-headers."""
        self.cached.clear()
        return any(name.startswith(b":") for name, _ in self._fields(block))

    def _fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        try:
            fields: list[tuple[bytes, bytes]] = list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large") from None
        except HPACKError:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, "the header block is not HPACK") from None
        return fields

    def _parse(self, fields: list[tuple[bytes, bytes]]) -> Head:
        seen = _checked(fields)
        size = sum(len(name) + len(value) + 32 for name, value in fields)
        path, authorization = seen[b":path"], seen.get(b"authorization", b"")
        grpc = seen[b":method"] == b"POST" and _GRPC.fullmatch(seen.get(b"content-type", b"")) is not None
        method = self._methods.get(path)
        kind = UNARY if method is None else self._gate.kind(method)
        refusal = self._gate.refusal(path, authorization)
        length = seen.get(b"content-length")
        if length is not None and not _DIGITS.fullmatch(length):
            raise MalformedError
        return Head(
            path,
            method,
            _timeout_ns(seen.get(b"grpc-timeout")),
            seen.get(b"grpc-encoding", b"identity"),
            kind,
            not grpc,
            refusal,
            None if length is None else int(length),
            size,
            kind == FAST_UNARY and grpc and not refusal and size <= self._max_bytes,
        )


def _checked(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name, with the last value of each. Raises MalformedError (RFC 9113, sections 8.2 and 8.3)."""
    seen: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if _BAD_VALUE.search(value):
            raise MalformedError
        if name.startswith(b":"):
            if regular or name in seen or name not in _PSEUDO or not (value or name == b":authority"):
                raise MalformedError
        else:
            regular = True
            if _NAME.fullmatch(name) is None or name in _FORBIDDEN or (name == b"te" and value != b"trailers"):
                raise MalformedError
            if name in _SINGLE and seen.get(name, value) != value:
                raise MalformedError
            if name == b"authorization" and name in seen:
                value = b""  # more than one Authorization header counts as none, as on the grpcio front
        seen[name] = value
    if not {b":method", b":scheme", b":path"} <= seen.keys():
        raise MalformedError
    return seen


_DIGITS = re.compile(rb"\d{1,18}")
# RFC 9113, section 8.2.1. It forbids blanks around a value; we accept them, since gRPC lets a peer strip them.
_NAME = re.compile(rb"[\x21-\x39\x3b-\x40\x5b-\x7e]+")
_BAD_VALUE = re.compile(rb"[\0\r\n]")
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
# If such a header has two different values, a proxy and this server could each use another one.
_SINGLE = frozenset({b"content-length", b"content-type", b"grpc-encoding", b"grpc-timeout"})
_FORBIDDEN = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})


class MalformedError(Exception):
    """A malformed request (RFC 9113, section 8.1.1). It resets its stream; the connection continues."""


def _timeout_ns(value: bytes | None) -> int:
    """grpc-timeout: up to eight digits and a unit (gRPC over HTTP/2); another form is ignored, as grpc-core does."""
    if value is None:
        return NO_TIMEOUT
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * _UNITS_NS[match[2]] if match else NO_TIMEOUT


def literal(name: bytes, value: bytes) -> bytes:
    """A header without indexing and without Huffman coding (RFC 7541, section 6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes((length,)) + text
    length -= 127
    prefix = bytearray((127,))
    while length >= 128:
        prefix.append(length % 128 + 128)
        length //= 128
    prefix.append(length)
    return bytes(prefix) + text


RESPONSE = _STATUS_200 + _CONTENT_TYPE
OK_TRAILERS = literal(b"grpc-status", b"0")
# The first word of each frame: length and type.
RESPONSE_WORD = len(RESPONSE) << 8 | HEADERS
TRAILERS_WORD = len(OK_TRAILERS) << 8 | HEADERS
NOT_GRPC = _STATUS_415 + _PLAIN_TEXT
NOT_GRPC_TEXT = b"this port speaks gRPC: POST with content-type application/grpc\n"


def failure(code: int, message: str, details: bytes, *, started: bool) -> bytes:
    """The block that ends a call. started: the response headers have been sent."""
    block = OK_TRAILERS if code == 0 else literal(b"grpc-status", b"%d" % code)
    if message:
        # Percent-encoding of gRPC over HTTP/2: the bytes from space to tilde stay, except the per cent sign.
        safe = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
        text = quote(message, safe=safe)
        inner = text.strip(" ")  # HTTP/2 allows no blanks around a value (RFC 9113, section 8.2.1)
        begin = len(text) - len(text.lstrip(" "))
        text = "%20" * begin + inner + "%20" * (len(text) - begin - len(inner))
        block += literal(b"grpc-message", text.encode())
    if details:
        block += literal(b"grpc-status-details-bin", b64encode(details).rstrip(b"="))
    if code == 12:  # UNIMPLEMENTED may refer to a message's encoding: list the supported encodings
        block += literal(b"grpc-accept-encoding", ENCODINGS)
    return block if started else RESPONSE + block


# Fields that every response needs.
_REQUIRED = frozenset({b":status", b"content-type", b"grpc-status"})
_BROKEN_ESCAPE = re.compile(rb"%.?$")


def fitted(block: bytes, max_bytes: int) -> bytes:
    """Shortens a response block to the peer's limit of a header list: drops the details, then the message's end."""
    fields = [(bytes(name), bytes(value)) for name, value in Decoder().decode(block, raw=True)]
    room = max_bytes - sum(len(name) + len(value) + 32 for name, value in fields if name in _REQUIRED)
    out = b""
    for name, value in fields:  # the message stands before the details
        if name not in _REQUIRED:
            left = room - len(name) - 32
            if name == b"grpc-message" and left < len(value):
                value = _BROKEN_ESCAPE.sub(b"", value[: max(0, left)]).rstrip(b" ")
            if not value or left < len(value):
                continue
            room = left - len(value)
        out += _STATUS_200 if (name, value) == (b":status", b"200") else literal(name, value)
    return out
