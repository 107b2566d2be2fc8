"""The notebook runs from top to bottom, and each result shows itself."""

from __future__ import annotations

from pathlib import Path

import pytest

TOUR = Path(__file__).parents[2] / "docs" / "notebooks" / "tour.ipynb"


def test_tour(server, tmp_path, monkeypatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("ENDOSCOPE_SERVER", server.target)
    notebook = nbformat.read(TOUR, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are made, not committed"
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [cell for cell in notebook.cells if cell.cell_type == "code"]
    html = [output for cell in shown for output in cell.outputs if "text/html" in output.get("data", {})]
    assert len(html) >= len(shown) - 3
