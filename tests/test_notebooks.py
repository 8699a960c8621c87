"Every library notebook and walk-through runs from top to bottom, each as its own item."
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb")
                   if p.parent.name != "85_runs" and "checkpoints" not in str(p) and "_proc" not in p.parts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_saved_outputs_hold_no_noise_of_the_machine_that_made_them(path):
    outputs = [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]
    assert not [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"], "warnings and progress bars are not for readers"
    assert not re.search(r"/(root|home|Users)/", json.dumps([o.get("text", "") for o in outputs])), "a path of somebody's machine"


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.delenv("SLOTPAPERS_DATA", raising=False)     # pages are the same with and without real samples
    assert os.environ["OMP_NUM_THREADS"] == "1"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
