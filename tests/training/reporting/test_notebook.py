"""The notebook runs from top to bottom, and holds no output in git."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.training.problem.data.files import quotes_table, write_quotes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOK = ROOT / "training" / "notebooks" / "eda.ipynb"


def test_the_notebook_runs_on_a_small_market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_quotes(tmp_path / "quotes.parquet", quotes_table(4000, seed=5))
    monkeypatch.setenv("VOLCAST_EDA_FILES", str(data))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "proto")]))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6
    assert any("quotes: 4,000 read" in output.get("text", "") for output in outputs)


def test_the_notebook_holds_no_output_in_git() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert len(code) > 8
    assert sys.prefix not in NOTEBOOK.read_text()
