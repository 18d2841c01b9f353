"""Recordings of the exchange's messages: NDJSON, plain or gzipped, read in either form, written in one.

Bare:     the exchange's message as it came, one a line.
Wrapped:  {"ingest_time": RFC 3339, "product_id": ..., "payload": the message}. A message that is not JSON
          is kept too: as text in `payload`, or, where it is not even UTF-8, in `payload_base64`.

Reading never stops at damage: a line that is cut off or is no message becomes a dead letter, and the
lines before the damage in a truncated .gz are read. Whatever cannot be opened at all is an InputError.
"""

from __future__ import annotations

import base64
import binascii
import glob
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from common.errors import InputError
from pipeline.feed.coinbase import CoinbaseDecoder
from pipeline.feed.rfc3339 import NS_PER_S, format_ns, parse_ns
from pipeline.records import DeadLetter, Gap, LateTick, Tick

SUFFIXES = (".ndjson", ".ndjson.gz", ".jsonl", ".jsonl.gz")

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31  # zlib: a gzip header, and the largest window
_CHUNK_BYTES = 64 * 1024
_PEEK_LINES = 1000  # how far into a file its first time is looked for
# A counter that falls by more than this inside a file is a new connection whose first line is damaged or
# lost. Old messages are smaller too, but come from nearby.
_MAX_OLD_BY = 1000
_HOUR_NS = 3600 * NS_PER_S


class Message(NamedTuple):
    """One line of a recording: what the exchange sent, and what the recording knows of it."""

    raw: bytes  # the exchange's message; of a damaged line, the line
    ingest_time_ns: int  # 0 where the recording does not say
    source: str  # "FILE:LINE"
    starts_connection: bool  # the first message of a connection
    sequence_num: int | None  # None where the message does not say
    damage: DeadLetter | None  # the recording itself is damaged here; raw is not a message


class _Line(msgspec.Struct):
    """Both forms at once; anything may stand in a field until it is looked at."""

    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payload_base64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    ingest_time: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Head(msgspec.Struct):
    sequence_num: int | None = None
    timestamp: str = ""


class _Product(msgspec.Struct):
    product_id: str = ""


class _Event(msgspec.Struct):
    tickers: list[_Product] = []


class _Events(msgspec.Struct):
    events: list[_Event] = []


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_head = msgspec.json.Decoder(_Head, strict=False).decode
_decode_events = msgspec.json.Decoder(_Events).decode
_decode_text = msgspec.json.Decoder(str).decode
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def expand_paths(text: str) -> list[Path]:
    """The recordings that `FILE|DIR|GLOB[,...]` names, each once, in the order named.

    Raises InputError for what names nothing.
    """
    if text.strip() and Path(text).is_file():
        return [Path(text)]
    found: dict[Path, None] = {}
    for part in text.split(","):
        name = part.strip()
        if not name:
            raise InputError(f"recording {text!r}: expected FILE, DIR or GLOB, got an empty name")
        found.update(dict.fromkeys(_expand(name)))
    return list(found)


def _expand(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.name.endswith(SUFFIXES))
        if not files:
            raise InputError(f"recording {name}: the directory holds none ({', '.join(SUFFIXES)})")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(name):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        files = [match for match in matches if match.is_file()]
        if files:
            return files
        raise InputError(f"recording {name}: no file matches")
    raise InputError(f"recording {name}: no such file")


def latest_archive(directory: Path) -> Path:
    """The most recent recording of a directory, by the time in its name, else by when it was last written.

    Raises InputError where there is none.
    """
    if not directory.is_dir():
        raise InputError(f"archive {directory}: no such directory, so there is no recording to replay")
    return max(_expand(str(directory)), key=lambda path: (_named_time_s(path), path.name))


def _named_time_s(path: Path) -> float:
    match = re.search(r"_(\d{8}T\d{6})Z", path.name, re.ASCII)
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp() if match else _mtime(path)
    except ValueError:
        return _mtime(path)


def _mtime(path: Path) -> float:
    return path.stat().st_mtime


def read_archive(paths: Iterable[Path]) -> Iterator[Tick | Gap | LateTick | DeadLetter]:
    """The records of recordings, in time order, with a gap (reason "reconnect") where one connection ends
    and the next begins.

    Raises InputError, at the call, for a path that cannot be read.
    """
    return _records(read_messages(paths))


def _records(messages: Iterator[Message]) -> Iterator[Tick | Gap | LateTick | DeadLetter]:
    decoder = CoinbaseDecoder()
    for message in messages:
        if message.starts_connection:
            decoder = decoder.reconnected()
        if message.damage is not None:
            yield message.damage
        else:
            yield from decoder.decode(message.raw, message.ingest_time_ns, message.source)


def read_messages(paths: Iterable[Path]) -> Iterator[Message]:
    """The messages of recordings as they were received, files in the order of their first message's time.

    A connection starts where a file does not go on exactly where the one before it ended, and where the
    counter falls inside a file, back to 0 or by more than _MAX_OLD_BY.

    Raises InputError, at the call, for a path that cannot be read.
    """
    return _messages([file for _, file in recordings_in_order(paths)])


def recordings_in_order(paths: Iterable[Path]) -> list[tuple[int, Path]]:
    """The files of recordings with their first message's time (2^63 where none has one), by time and name.

    Raises InputError for a path that cannot be read.
    """
    files = [file for path in paths for file in _expand(str(path))]
    if not files:
        raise InputError("no recording was named")
    return sorted(((_first_time_ns(file), file) for file in files), key=lambda pair: (pair[0], pair[1].name))


def _messages(files: list[Path]) -> Iterator[Message]:
    last: int | None = None
    for file in files:
        at_start = True
        for message in _file_messages(file):
            sequence = message.sequence_num
            if sequence is None:
                yield message
                continue
            if last is None:
                starts = True
            elif at_start:
                starts = sequence != last + 1
            else:
                starts = sequence == 0 < last or last - sequence > _MAX_OLD_BY
            at_start = False
            last = sequence if starts or last is None else max(last, sequence)
            yield message._replace(starts_connection=True) if starts else message


def _first_time_ns(path: Path) -> int:
    """Event time of the first message that has one; a file without any comes last."""
    for count, message in enumerate(_file_messages(path)):
        if count >= _PEEK_LINES:
            break
        if message.damage is None:
            try:
                return parse_ns(_decode_head(message.raw).timestamp)
            except (*_NOT_DECODED, ValueError):
                continue
    return 2**63


def _file_messages(path: Path) -> Iterator[Message]:
    try:
        with path.open("rb") as file:
            number = 0
            for number, line, error in _lines(file):
                source = f"{path}:{number}"
                if error:
                    yield Message(line, 0, source, False, None, DeadLetter.of("not_json", error, source, line))
                elif line.strip():
                    yield _message(line, source)
    except OSError as error:
        raise InputError(f"recording {path}: cannot be read: {error.strerror or error}") from None


def _message(line: bytes, source: str) -> Message:
    try:
        parts = _decode_line(line)
    except _NOT_DECODED:
        return Message(line, 0, source, False, None, None)  # the feed's decoder says what is wrong with it
    if parts.payload is msgspec.UNSET and parts.payload_base64 is msgspec.UNSET:
        return Message(line, 0, source, False, _sequence_num(line), None)
    try:
        raw = _payload(parts)
    except (*_NOT_DECODED, binascii.Error) as error:
        damage = DeadLetter.of("wrong_shape", f"payload: {error}", source, line)
        return Message(line, 0, source, False, None, damage)
    try:
        ingest_time_ns = 0 if parts.ingest_time is msgspec.UNSET else parse_ns(_decode_text(parts.ingest_time))
    except (*_NOT_DECODED, ValueError):
        got = bytes(parts.ingest_time)[:60].decode(errors="replace")  # type: ignore[arg-type]
        detail = f"ingest_time: expected an RFC 3339 time with its offset from UTC, got {got}"
        return Message(line, 0, source, False, _sequence_num(raw), DeadLetter.of("bad_time", detail, source, line))
    return Message(raw, ingest_time_ns, source, False, _sequence_num(raw), None)


def _payload(parts: _Line) -> bytes:
    if isinstance(parts.payload, msgspec.Raw):
        raw = bytes(parts.payload)
        return _decode_text(raw).encode() if raw[:1] == b'"' else raw
    assert isinstance(parts.payload_base64, msgspec.Raw)
    return base64.b64decode(_decode_text(parts.payload_base64), validate=True)


def _sequence_num(raw: bytes) -> int | None:
    try:
        return _decode_head(raw).sequence_num
    except _NOT_DECODED:
        return None


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes, str]]:
    """Numbered lines without their ends; the last may carry an error that ended the file early."""
    zipped = file.read(2) == _GZIP_MAGIC
    file.seek(0)
    chunks = _unzipped(file) if zipped else iter(lambda: file.read(_CHUNK_BYTES), b"")
    number, rest, error = 0, b"", ""
    try:
        for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                number += 1
                yield number, line, ""
    except _CutOff as cut_off:
        error = str(cut_off)
    if rest or error:
        yield number + 1, rest, error


class _CutOff(Exception):  # noqa: N818 (never leaves this module)
    pass


def _unzipped(file: BinaryIO) -> Iterator[bytes]:
    """What a gzip file holds, member after member; _CutOff, after all that could be had, where it is damaged."""
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


class ArchiveWriter:
    """Writes messages in the wrapped form, one file a connection and hour, named by product and first time.

    Messages are kept until flush(), or until a good many have come; what reaches a file is complete
    lines in one write. Files are never continued: a second one of the same second gets a number.
    """

    _FLUSH_BYTES = 256 * 1024

    def __init__(self, directory: Path, products: Iterable[str] = ()) -> None:
        """products: those subscribed to; a single one gives files its name, else they are named "feed".

        Raises InputError where the directory cannot be made.
        """
        names = list(products)
        self._name = names[0] if len(names) == 1 else "feed"
        self._directory = directory
        self._fd: int | None = None
        self._path = directory
        self._hour = -1
        self._buffer = bytearray()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(directory, error) from None

    def begin_connection(self) -> None:
        """What is written from here on came over a new connection."""
        self.close()

    def write(self, raw: bytes, ingest_time_ns: int) -> None:
        """Takes one message as received. Raises InputError where the file cannot be written."""
        hour = ingest_time_ns // _HOUR_NS
        if hour != self._hour:
            self.close()
            self._hour = hour
        if self._fd is None:
            self._open(ingest_time_ns)
        self._buffer += _wrapped(raw, ingest_time_ns)
        if len(self._buffer) >= self._FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hands all that was taken to the operating system. Raises InputError where that fails."""
        if self._fd is None or not self._buffer:
            return
        try:
            written = os.write(self._fd, self._buffer)
            if written < len(self._buffer):  # the disk is full: no half a line
                os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_CUR) - written)
                os.lseek(self._fd, 0, os.SEEK_END)
                raise OSError(0, "the disk is full")
        except OSError as error:
            raise self._failed(self._path, error) from None
        self._buffer.clear()

    def close(self) -> None:
        """Flushes and closes; writing again opens a new file."""
        try:
            self.flush()
        finally:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            self._buffer.clear()

    def _open(self, ingest_time_ns: int) -> None:
        time = datetime.fromtimestamp(ingest_time_ns // NS_PER_S, UTC).strftime("%Y%m%dT%H%M%SZ")
        for attempt in range(1, 1000):
            number = "" if attempt == 1 else f"-{attempt}"
            self._path = self._directory / f"{self._name}_{time}{number}.ndjson"
            try:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                continue
            except OSError as error:
                raise self._failed(self._path, error) from None
            return
        raise InputError(f"archive {self._path}: a thousand recordings began in this second")

    @staticmethod
    def _failed(path: Path, error: OSError) -> InputError:
        return InputError(f"archive {path}: cannot be written: {error.strerror or error}")


def _wrapped(raw: bytes, ingest_time_ns: int) -> bytes:
    head = b'{"ingest_time":"%s","product_id":%s,' % (format_ns(ingest_time_ns).encode(), _product_json(raw))
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return head + b'"payload_base64":"%s"}\n' % base64.b64encode(raw)
    return head + b'"payload":%s}\n' % (raw if _is_line_of_json(raw) else msgspec.json.encode(text))


def _is_line_of_json(raw: bytes) -> bool:
    """Whether a message can stand in a line as it is, and is found again exactly so."""
    if raw[:1] != b"{" or raw[-1:] != b"}" or b"\n" in raw:
        return False
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except _NOT_DECODED:
        return False
    return True


def _product_json(raw: bytes) -> bytes:
    try:
        events = _decode_events(raw).events
    except _NOT_DECODED:
        return b"null"
    product = next((ticker.product_id for event in events for ticker in event.tickers), "")
    return msgspec.json.encode(product) if product else b"null"
