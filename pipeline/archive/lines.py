"""The lines of a text file, plain or gzipped, as far as damage allows."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import msgspec

from common.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# The start of a member (RFC 1952, section 2.3): magic, method, flags, time, extra flags, operating system.
_MEMBER_HEAD = re.compile(rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL)
_HEAD_BYTES = 10
_GZIP_WBITS = 31  # zlib: a gzip header, and the largest window
_CHUNK_BYTES = 64 * 1024


class Line(msgspec.Struct, frozen=True, gc=False):  # made in a third of a NamedTuple's time
    """A line without its end. A line may carry an error that ended it early, as damage to the file does."""

    number: int
    content: bytes
    error: str


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file, without a byte-order mark. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            for line in _lines(file):
                if line.number == 1 and line.content.startswith(BYTE_ORDER_MARK):
                    yield Line(1, line.content.removeprefix(BYTE_ORDER_MARK), line.error)
                else:
                    yield line
    except OSError as error:
        raise InputError(f"recording {path}: cannot be read: {error.strerror or error}") from None


def _lines(file: BinaryIO) -> Iterator[Line]:
    zipped = file.read(2) == GZIP_MAGIC
    file.seek(0)
    chunks: Iterator[bytes | _Damage] = _unzipped(file) if zipped else iter(lambda: file.read(_CHUNK_BYTES), b"")
    number, rest = 0, b""
    for chunk in chunks:
        if isinstance(chunk, _Damage):
            number += 1
            yield Line(number, rest, chunk.error)
            rest = b""
            continue
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            yield Line(number, line, "")
    if rest:
        yield Line(number + 1, rest, "")


class _Damage(msgspec.Struct, frozen=True, gc=False):
    error: str


def _unzipped(file: BinaryIO) -> Iterator[bytes | _Damage]:
    """The content of a gzip file, member after member. After damage it goes on with the next member, since a recorder
    that was killed inside a member may have appended others.
    """
    unzip, damaged, begun = zlib.decompressobj(_GZIP_WBITS), False, False
    for piece, is_start in _pieces(file):
        # The start of a member inside another: a member was cut off before it. zlib may not notice.
        if is_start and begun and not unzip.eof and _decompresses(piece):
            if not damaged:
                yield _Damage("the gzip stream is cut off here")
            unzip, damaged = zlib.decompressobj(_GZIP_WBITS), False
        begun = True
        while not damaged:
            if unzip.eof:
                piece = piece.lstrip(b"\0")  # gzip(1): zeros may pad a member
            if not piece:
                break
            if unzip.eof:
                unzip = zlib.decompressobj(_GZIP_WBITS)
            before = unzip.copy()
            try:
                content = unzip.decompress(piece)
            except zlib.error as error:
                yield _until_damage(before, piece)
                yield _Damage(f"the gzip stream is damaged here: {error}")
                unzip, damaged = zlib.decompressobj(_GZIP_WBITS), True
            else:
                yield content
                piece = unzip.unused_data
    if not unzip.eof and not damaged:
        yield _Damage("the gzip stream is cut off here")


def _pieces(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """The bytes of a file, and whether they look like the start of a gzip member. Each such start begins a piece."""
    data = b""
    while more := file.read(_CHUNK_BYTES):
        data += more
        end = max(0, len(data) - _HEAD_BYTES + 1)  # a start may continue in the next chunk
        starts = {match.start() for match in _MEMBER_HEAD.finditer(data)}
        for start, stop in pairwise(sorted({0, end} | {start for start in starts if start < end})):
            yield data[start:stop], start in starts
        data = data[end:]
    if data:
        yield data, False


def _decompresses(data: bytes) -> bool:
    try:
        zlib.decompressobj(_GZIP_WBITS).decompress(data)
    except zlib.error:
        return False
    return True


def _until_damage(unzip: zlib._Decompress, chunk: bytes) -> bytes:
    data = bytearray()
    try:
        for position in range(len(chunk)):
            data += unzip.decompress(chunk[position : position + 1])
    except zlib.error:
        pass
    return bytes(data)
