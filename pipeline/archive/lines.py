"""The lines of a text file, plain or gzipped, as far as damage allows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from common.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_GZIP_WBITS = 31  # zlib: a gzip header, and the largest window
_CHUNK_BYTES = 64 * 1024


class Line(msgspec.Struct, frozen=True, gc=False):  # made in a third of a NamedTuple's time
    """A line without its end. The last line may carry an error that ended the file early."""

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
    chunks = _unzipped(file) if zipped else iter(lambda: file.read(_CHUNK_BYTES), b"")
    number, rest, error = 0, b"", ""
    try:
        for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                number += 1
                yield Line(number, line, "")
    except _CutOff as cut_off:
        error = str(cut_off)
    if rest or error:
        yield Line(number + 1, rest, error)


class _CutOff(Exception):  # noqa: N818 (never leaves this module)
    pass


def _unzipped(file: BinaryIO) -> Iterator[bytes]:
    """The content of a gzip file, member after member; _CutOff at damage, after all content before it."""
    unzip = zlib.decompressobj(_GZIP_WBITS)
    while chunk := file.read(_CHUNK_BYTES):
        while chunk:
            if unzip.eof:
                unzip = zlib.decompressobj(_GZIP_WBITS)
            before = unzip.copy()
            try:
                yield unzip.decompress(chunk)
            except zlib.error as error:
                yield _until_damage(before, chunk)
                raise _CutOff(f"the gzip stream is damaged here: {error}") from None
            chunk = unzip.unused_data.lstrip(b"\0")  # gzip(1): zeros may pad a member
    if not unzip.eof:
        raise _CutOff("the gzip stream is cut off here")


def _until_damage(unzip: zlib._Decompress, chunk: bytes) -> bytes:
    data = bytearray()
    try:
        for position in range(len(chunk)):
            data += unzip.decompress(chunk[position : position + 1])
    except zlib.error:
        pass
    return bytes(data)
