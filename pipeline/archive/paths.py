"""Files of recordings: by name, folder or pattern, and the most recent one of a folder."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from common.errors import InputError

PLAIN_SUFFIX = ".ndjson"
ROLLED_SUFFIX = ".ndjson.gz"
SUFFIXES = (PLAIN_SUFFIX, ROLLED_SUFFIX, ".jsonl", ".jsonl.gz")
FLAT_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
OTHER_SUFFIX = ".gz"  # if a folder holds no recording with a suffix above

DEFAULT_DIRECTORY = Path("data/raw")
OLD_DIRECTORY = Path("data/archive")  # the default of versions before 0.2


def expand_paths(text: str) -> list[Path]:
    """The recordings that `FILE|DIR|GLOB[,...]` names, each once, in the order named.

    Raises InputError for a name without a file.
    """
    if text.strip() and Path(text).is_file():
        return [Path(text)]
    files: dict[Path, None] = {}
    for part in text.split(","):
        name = part.strip()
        if not name:
            raise InputError(f"recording {text!r}: expected FILE, DIR or GLOB, got an empty name")
        files.update(dict.fromkeys(expand_name(name)))
    return list(files)


def expand_name(name: str) -> list[Path]:
    """The recordings of one FILE, DIR or GLOB, sorted by name. Raises InputError if there is none."""
    path = Path(name).expanduser()
    if path.is_dir():
        suffixes = (*SUFFIXES, *FLAT_SUFFIXES)
        visible = sorted(file for file in path.iterdir() if file.name[0] != "." and file.is_file())
        files = [file for file in visible if file.name.lower().endswith(suffixes)]
        files = files or [file for file in visible if file.name.endswith(OTHER_SUFFIX)]
        if not files:
            raise InputError(f"recording {name}: the directory holds none ({', '.join(suffixes)})")
        return _without_compressed_twice(files)
    if path.exists():
        return [path]
    if glob.has_magic(name):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        files = [match for match in matches if match.is_file()]
        if files:
            return _without_compressed_twice(files)
        raise InputError(f"recording {name}: no file matches")
    raise InputError(f"recording {name}: no such file")


def _without_compressed_twice(files: list[Path]) -> list[Path]:
    """Without plain files that are there in compressed form too: a killed writer had no time to remove them."""
    names = {str(file) for file in files}
    return [file for file in files if not (file.name.endswith(PLAIN_SUFFIX) and f"{file}.gz" in names)]


def latest_archive(directory: Path) -> Path:
    """The most recent recording of a directory, by the time in its name, else by its time of modification.

    Raises InputError if there is none.
    """
    if not directory.is_dir():
        hint = old_directory_hint(directory)
        raise InputError(f"archive {directory}: no such directory, so there is no recording to read{hint}")
    return max(expand_name(str(directory)), key=lambda path: (_named_time_s(path), path.name))


def old_directory_hint(directory: Path) -> str:
    """How to move the archive of an older version, if it is still in the old default folder; else "" ."""
    if directory != DEFAULT_DIRECTORY or not _holds_recordings(OLD_DIRECTORY) or _holds_recordings(directory):
        return ""
    return (
        f"; {OLD_DIRECTORY} holds recordings of an older version: move it with "
        f"`mv {OLD_DIRECTORY} {DEFAULT_DIRECTORY}`, or set ingest.archive_dir (docs/operations.md)"
    )


def _holds_recordings(directory: Path) -> bool:
    return directory.is_dir() and any(file.name.endswith(SUFFIXES) for file in directory.iterdir())


def archive_files(directory: Path) -> Iterable[Path]:
    """The files of an archive, oldest first, as their names give it."""
    return sorted(
        (file for file in directory.glob("*") if file.name.endswith((PLAIN_SUFFIX, ROLLED_SUFFIX))),
        key=lambda path: (_named_time_s(path), path.name),
    )


def _named_time_s(path: Path) -> float:
    match = re.search(r"_(\d{8}T\d{6})Z", path.name, re.ASCII)
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp() if match else _mtime(path)
    except ValueError:
        return _mtime(path)


def _mtime(path: Path) -> float:
    return path.stat().st_mtime
