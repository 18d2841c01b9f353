"""The folder of compiled loops: the user's own, closed to others, or none."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from common.compiled_code import VARIABLE, keep_compiled_code


def chosen(**environ: str) -> str | None:
    keep_compiled_code(environ)
    return environ.get(VARIABLE)


def test_machine_code_is_kept_in_the_users_cache_folder(tmp_path: Path) -> None:
    folder = tmp_path / "volcast" / "numba"
    assert chosen(XDG_CACHE_HOME=str(tmp_path)) == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert chosen(XDG_CACHE_HOME=str(tmp_path)) == str(folder)
    assert chosen(HOME=str(tmp_path)) == str(tmp_path / ".cache" / "volcast" / "numba")


@pytest.mark.parametrize("value", ["", "/elsewhere"])
def test_a_variable_that_is_set_stays(tmp_path: Path, value: str) -> None:
    assert chosen(XDG_CACHE_HOME=str(tmp_path), NUMBA_CACHE_DIR=value) == value
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o755])
def test_a_folder_that_others_can_open_is_not_used(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "volcast" / "numba"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert chosen(XDG_CACHE_HOME=str(tmp_path)) is None


def test_a_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    another_user = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: another_user)
    assert chosen(XDG_CACHE_HOME=str(tmp_path)) is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "volcast").mkdir()
    (tmp_path / "volcast" / "numba").symlink_to(elsewhere)
    assert chosen(XDG_CACHE_HOME=str(tmp_path)) is None


def test_a_place_that_cannot_be_a_folder_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "volcast").write_text("")
    assert chosen(XDG_CACHE_HOME=str(tmp_path)) is None
    assert chosen(XDG_CACHE_HOME="relative") is None
