"""Records of recordings in every format: archives of messages, and flat files with one tick per row."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from common.errors import InputError
from pipeline.archive import messages
from pipeline.archive.columns import COMMON_NAMES, complete
from pipeline.archive.entries import read_entry
from pipeline.archive.flat import FlatFile, RowFault, find_columns, is_empty, is_tick_row, open_flat, rows, tick_of
from pipeline.archive.lines import read_lines
from pipeline.archive.paths import expand_name
from pipeline.feed.gate import GapRule, TickGate
from pipeline.feed.message import Message
from pipeline.feed.protocol import Result
from pipeline.feed.rfc3339 import NS_PER_S
from pipeline.feed.venues import recognized
from pipeline.records import DeadLetter

# Rows carry neither heartbeats nor connections. A window of a minute that holds no row is not known to be quiet.
FLAT_GAP_AFTER_NS = 60 * NS_PER_S
_PEEK_LINES = 100  # how far into a file a message is searched for


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """columns: role -> column of flat recordings, beside the guessed ones. product: of files without such a column.
    gap_after_ns: a silence of a product that is a gap; 0: the exchange's rule, and FLAT_GAP_AFTER_NS for flat files.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    product: str = ""
    gap_after_ns: int = 0


class RecordingFormat(msgspec.Struct, frozen=True):
    """How a flat recording is read: for the user to check."""

    file: str
    format: str
    columns: dict[str, str]  # role -> column
    guessed: list[str]  # the roles among them that the user did not give
    product: str  # of all rows; "": there is a column
    not_computed: dict[str, str]  # feature -> reason
    substituted: dict[str, str]  # value -> the value that replaces it


DEFAULT_OPTIONS = ReadOptions()


def read_archive(
    paths: Iterable[Path], options: ReadOptions = DEFAULT_OPTIONS, *, gap_after_ns: int = 0
) -> Iterator[Result]:
    """The records of recordings, in time order.

    Raises InputError, at the call, for a path that cannot be read, and for archives and flat files together.
    """
    gap_after_ns = gap_after_ns or options.gap_after_ns
    files = [file for path in paths for file in expand_name(str(path))]
    flat = _flat_files(files, options)
    if not flat:
        return messages.read_archive(files, gap_after_ns=gap_after_ns)
    flat_paths = {each.path for each in flat}
    for other in (file for file in files if file not in flat_paths):
        if not is_empty(other):
            raise InputError(f"recording {other}: holds messages, but {flat[0].path} holds rows; read them apart")
    return _flat_records(sorted(flat, key=_first_time_ns), gap_after_ns or FLAT_GAP_AFTER_NS)


def describe(paths: Iterable[Path], options: ReadOptions = DEFAULT_OPTIONS) -> list[RecordingFormat]:
    """How `read_archive` reads the flat files among the recordings; nothing for archives of messages."""
    files = [file for path in paths for file in expand_name(str(path))]
    return [
        RecordingFormat(
            file=str(flat.path),
            format=flat.kind,
            columns=dict(flat.columns.columns),
            guessed=sorted(flat.columns.guessed),
            product=flat.product,
            not_computed=flat.columns.not_computed(),
            substituted=flat.columns.substituted(),
        )
        for flat in _flat_files(files, options)
    ]


def require_messages(paths: Iterable[Path], venue: str) -> None:
    """Raises InputError for recordings that a simulated exchange of `venue` cannot send."""
    files = [file for path in paths for file in expand_name(str(path))]
    advice = f"which cannot be sent as messages of {venue}; `volcast replay` and `volcast features` read it"
    for flat in describe(files):
        raise InputError(f"recording {flat.file}: holds one row per tick, {advice}")
    for file in messages.recordings_in_order(files):
        if file.feed.venue != venue:
            raise InputError(f"recording {file.path}: holds messages of {file.feed.venue}, {advice}")


def explain_unknown(path: Path, first: DeadLetter | None, options: ReadOptions = DEFAULT_OPTIONS) -> str:
    """Why a recording holds no tick, in a line: the format that was expected, and the first reason."""
    if first is not None:
        path = Path(first.source.rpartition(":")[0])
    kind_and_names = None if first is None else find_columns(path, options.columns)
    text = "the format is not known" if first is not None else "it holds no message and no row"
    if first is not None:
        text += f"; first reason, at {first.source}: {first.reason}: {first.detail}"
    if kind_and_names is not None:
        kind, names = kind_and_names
        lacks = complete(options.columns, names).missing
        if lacks:
            roles = ", ".join(f"{role}=COLUMN" for role in COMMON_NAMES if role in ("product", "time", "bid", "ask"))
            text += f"; as {kind} rows it lacks a column for {lacks} among {', '.join(names)}; try --columns {roles}"
    return text


def _flat_files(files: list[Path], options: ReadOptions) -> list[FlatFile]:
    opened = (_as_flat(file, options) for file in files)
    return [flat for flat in opened if flat is not None]


def _as_flat(path: Path, options: ReadOptions) -> FlatFile | None:
    try:
        names = find_columns(path, options.columns)
        if names is not None and names[0] == "NDJSON" and _holds_messages(path, options):
            return None
        flat = open_flat(path, options.columns, options.product)
        if flat is None and names is not None and names[0] != "NDJSON":
            lacks = complete(options.columns, names[1]).missing
            raise InputError(
                f"recording {path}: the format is not known: as {names[0]} rows it lacks a column for {lacks} "
                f"among {', '.join(names[1])}; try --columns time=COLUMN,bid=COLUMN,ask=COLUMN"
            )
        return flat
    except OSError as error:
        raise InputError(f"recording {path}: cannot be read: {error.strerror or error}") from None


def _holds_messages(path: Path, options: ReadOptions) -> bool:
    """Whether the lines are messages of an exchange, perhaps in a recorder's wrapper. The first known line decides."""
    for line in itertools.islice(read_lines(path), _PEEK_LINES):
        entry = read_entry(line.content)
        if entry.header is not None or entry.raw != line.content or recognized(entry.raw) is not None:
            return True
        if is_tick_row(line.content, options.columns):
            return False
    return False


def _first_time_ns(flat: FlatFile) -> tuple[int, str]:
    for row in itertools.islice(rows(flat), 1000):
        try:
            return tick_of(row, flat, 0).event_time_ns, flat.path.name
        except RowFault:
            continue
    return 2**63, flat.path.name


def _flat_records(files: list[FlatFile], gap_after_ns: int) -> Iterator[Result]:
    gates: dict[str, TickGate] = {}  # by venue
    number = 0
    for file in files:
        for row in rows(file):
            number += 1
            if row.fault:
                yield DeadLetter.of("not_json", row.fault, row.source, row.raw)
                continue
            try:
                tick = tick_of(row, file, number)
            except RowFault as fault:
                yield DeadLetter.of(fault.reason, fault.detail, row.source, row.raw)
                continue
            gate = gates.get(tick.venue)
            if gate is None:
                gate = gates[tick.venue] = TickGate(tick.venue, GapRule(reconnect=False, silence_ns=gap_after_ns))
            results: list[Result] = []
            gate.accept(results, tick, Message(row.raw, tick.ingest_time_ns, row.source, tick.event_time_ns))
            yield from results
