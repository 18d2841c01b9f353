"""Machine code is kept on disk where NUMBA_CACHE_DIR is set, and never used for other sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numba import config as numba_config
from numba import types

from pipeline.features import kernels

config: Any = numba_config  # whose names numba makes when it is imported
SIGNATURE = types.int64(types.int64, types.int64)


def added(left: int, right: int) -> int:
    return left + right


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def test_what_is_kept_is_used_again_and_other_sources_have_a_folder_of_their_own(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernels.machine_code(added, SIGNATURE)(2, 3) == 5
    (first,) = cache.iterdir()
    (code,) = first.rglob("*.nbc")
    written_ns = code.stat().st_mtime_ns
    assert kernels.machine_code(added, SIGNATURE)(20, 30) == 50
    assert (list(cache.iterdir()), code.stat().st_mtime_ns) == ([first], written_ns)
    monkeypatch.setattr(kernels, "_hash_of_sources", lambda: "other")
    assert kernels.machine_code(added, SIGNATURE)(2, 3) == 5
    assert sorted(cache.iterdir()) == sorted([first, cache / "volcast-other"])
    assert str(cache) == config.CACHE_DIR


def test_nothing_is_kept_unless_a_folder_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    assert kernels.machine_code(added, SIGNATURE)(2, 3) == 5
    assert list(cache.iterdir()) == []
    assert not list(Path(__file__).parent.rglob("*added*.nbc"))


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert kernels.machine_code(added, SIGNATURE)(2, 3) == 5
    assert not list(Path(__file__).parent.rglob("*added*.nbc"))


def test_the_hash_of_the_sources_changes_with_each_file_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kernels.py", "sums.py", "notes.txt"):
        (tmp_path / name).write_text("first")
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "kernels.py"))
    hashes = [kernels._hash_of_sources()]
    for name in ("notes.txt", "sums.py", "kernels.py"):
        (tmp_path / name).write_text("second")
        hashes.append(kernels._hash_of_sources())
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
