"""Each side of a comparison runs its own files, not those of the editable install."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.checkout import ROOT, Checkout, checkouts, require_own_modules

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no repository to take a commit of")
Pair = tuple[Checkout, Checkout]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with checkouts("HEAD") as both:
        yield both


def module_file(checkout: Checkout, module: str) -> Path:
    command = [str(checkout.python), "-c", f"import {module}; print({module}.__file__)"]
    done = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()).resolve()


@pytest.mark.parametrize("module", ["server.core", "cli.main", "volcast.v1", "benchmarks.calls"])
def test_a_side_imports_its_own_modules(pair: Pair, module: str) -> None:
    for checkout in pair:
        assert module_file(checkout, module).is_relative_to(checkout.folder.resolve())


def test_both_sides_import_the_same_packages(pair: Pair) -> None:
    assert module_file(pair[0], "onnxruntime") == module_file(pair[1], "onnxruntime")


def test_a_side_whose_interpreter_imports_other_files_is_refused(pair: Pair, tmp_path: Path) -> None:
    here, there = pair
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError, match=f"expected modules of {tmp_path}"):
        require_own_modules(Checkout("mixed", tmp_path / "empty", there.python))
    with pytest.raises(RuntimeError, match="expected modules"):
        require_own_modules(Checkout("mixed", tmp_path / "empty", here.python))


def test_a_commit_that_does_not_exist_is_named() -> None:
    with pytest.raises(RuntimeError, match="commit nowhere: "), checkouts("nowhere"):
        pass
