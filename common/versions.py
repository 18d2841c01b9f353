"""The order of version names, and which version is the newest.

Names of versions are free. This module orders the usual forms:

- release numbers: `9`, `v10`, `1.10.0`, `1.10.0-rc.1`, `2.0b1`, each optionally with a prefix that all names share;
- dates with the year first: `2026-11-27`, `20261127T0930`, `20261127-a81bd02` if the days differ;
- names that differ in their numbers only: `run-2-fold-10`.

Other names (hashes, words, a mix of these forms, dates with the day first) have no order: `newest_version` then gives
None instead of a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

# A pre-release follows "-" (semver) or begins with one of the usual words ("2.0rc1").
_PRE_WORD = r"(?:(?:alpha|beta|preview|pre|rc|dev|snapshot|nightly|canary)[.\-_]?\d*|[abcm][.\-_]?\d{1,3})"
_RELEASE = re.compile(
    r"v?(?P<numbers>\d+(?:\.\d+)*)"
    rf"(?:[.\-_]?(?P<word>{_PRE_WORD}(?:[.\-][0-9a-z]+)*)|-(?P<semver>[0-9a-z\-]+(?:\.[0-9a-z\-]+)*))?"
    r"(?:\+[0-9a-z.\-]+)?",
    re.ASCII | re.IGNORECASE,
)
_DATE = re.compile(
    r"(?P<year>(?:19|20)\d\d)(?P<dash>[-_.]?)(?P<month>0[1-9]|1[0-2])(?P=dash)(?P<day>0[1-9]|[12]\d|3[01])"
    r"(?:[T _.\-]?(?P<time>\d\d(?:[:_\-]?\d\d){1,2})Z?)?",
    re.ASCII,
)
_DATED = re.compile(r"(?P<date>(?:19|20)\d\d([-_.]?)\d\d\2\d\d)(?!\d)", re.ASCII)
_DAY_FIRST = re.compile(r"(?<!\d)\d{1,2}([-_.])\d{1,2}\1(?:19|20)\d\d(?!\d)", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{7,64}", re.IGNORECASE)
_PREFIX = re.compile(r"[A-Za-z][A-Za-z_.\-]*")
_DESCRIBED = re.compile(r"-\d+-g[0-9a-f]{7,}")  # git describe: commits after a tag, where semver says before
_NUMBER = re.compile(r"(\d+)", re.ASCII)

_Key = tuple[Any, ...]


def version_order(version: str) -> _Key:
    """A sort key for lists: words, then names with numbers by the value of each, then release numbers.

    Every two names have an order here, for display. Which of them is the newest: `newest_version`.
    """
    release = _release(version)
    return (1, *release, version) if release is not None else (0, _natural(version), version)


def newest_version(versions: Collection[str]) -> str | None:
    """The newest of `versions`; None if their names have no order.

    As in package managers, a pre-release counts only if there is no release. A word without a digit, such as
    `experiment`, counts only if it is the only version.

        >>> newest_version(["v9", "v10", "v11"])
        'v11'
        >>> newest_version(["1.10.0", "1.9.3", "1.11.0-rc.1"])
        '1.10.0'
        >>> newest_version(["3f2e9c1", "a81bd02"]) is None
        True
    """
    if len(versions) < 2:
        return next(iter(versions), None)
    numbered = [version for version in versions if _NUMBER.search(version) or _is_hash(version)]
    keys = _keys(numbered) if numbered else None
    if keys is None:
        return None
    newest = max(keys)
    return None if keys.count(newest) > 1 else numbered[keys.index(newest)]


def next_version(versions: Collection[str]) -> str:
    """A number above every release number in `versions`; with a "v" if the newest version has one."""
    releases = [numbers[0] for version in versions if (numbers := _release_numbers(version))]
    newest = newest_version(versions) or ""
    prefix = newest[0] if re.fullmatch(r"[vV][0-9]+", newest) else ""
    return f"{prefix}{max(releases, default=0) + 1}"


def _keys(versions: list[str]) -> list[_Key] | None:
    """Comparable keys, one for each version; None if the names have no order."""
    if any(_is_hash(version) for version in versions):
        return None
    forms: tuple[Callable[[str], _Key | None], ...] = (_date, _release_first)
    for form in forms:
        keys = [key for version in versions if (key := form(version)) is not None]
        if len(keys) == len(versions):
            return keys
    prefixes = {match[0] if (match := _PREFIX.match(version)) else "" for version in versions}
    if len(prefixes) == 1 and (prefix := prefixes.pop()):
        return _keys([version[len(prefix) :] for version in versions])
    return _numbers(versions) or _leading_dates(versions)


def _date(version: str) -> _Key | None:
    match = _DATE.fullmatch(version)
    if match is None:
        return None
    time = [int(part) for part in re.findall(r"\d\d", match["time"] or "")]
    return (int(match["year"]), int(match["month"]), int(match["day"]), *time, *[0] * (3 - len(time)))


def _release(version: str) -> _Key | None:
    """(numbers, whether it is no pre-release, parts of the pre-release) of a release number."""
    match = _RELEASE.fullmatch(version)
    if match is None or _DAY_FIRST.search(version) or _DESCRIBED.search(version):
        return None
    numbers = [int(part) for part in match["numbers"].split(".")]
    if match["semver"] and len(numbers) != 3:
        return None  # "2026-11" or "3-fixed": not known to be a pre-release of 2026 or 3
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    pre = match["word"] or match["semver"]
    # A commit's hash is no order: two of them of one number are equal.
    return tuple(numbers), pre is None, () if pre is None or _is_hash(pre) else _natural(pre)


def _release_first(version: str) -> _Key | None:
    """As `_release`, with each release above each pre-release."""
    release = _release(version)
    return None if release is None else (release[1], *release)


def _release_numbers(version: str) -> tuple[int, ...]:
    release = _release(version)
    return () if release is None else release[0]


def _numbers(versions: list[str]) -> list[_Key] | None:
    """The numbers of each name, if the names differ in nothing else."""
    parts = [_NUMBER.split(version.lower()) for version in versions]
    if len({tuple(part[::2]) for part in parts}) > 1 or any(_DAY_FIRST.search(version) for version in versions):
        return None
    return [tuple(int(number) for number in part[1::2]) for part in parts]


def _leading_dates(versions: list[str]) -> list[_Key] | None:
    """The dates at the beginning of the names; any text may follow: `20261127-a81bd02`."""
    keys = []
    for version in versions:
        match = _DATED.match(version)
        date = None if match is None else _date(match["date"])
        if date is None:
            return None
        keys.append(date)
    return keys


def _is_hash(text: str) -> bool:
    return _HASH.fullmatch(text) is not None and not text.isdecimal()


def _natural(text: str) -> _Key:
    """A key of words and numbers: numbers by value, below words."""
    parts = re.findall(r"[0-9]+|[^0-9.\-_]+", text.lower())
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
