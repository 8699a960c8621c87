"Every library notebook and walk-through runs from top to bottom, each as its own item."
import json
import multiprocessing
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parent / "workers"))

import notebook_page  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb")
                   if p.parent.name != "85_runs" and "checkpoints" not in str(p) and "_proc" not in p.parts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_saved_outputs_hold_no_noise_of_the_machine_that_made_them(path):
    outputs = [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]
    assert not [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"], "warnings and progress bars are not for readers"
    assert not re.search(r"/(root|home|Users)/", json.dumps([o.get("text", "") for o in outputs])), "a path of somebody's machine"


@pytest.fixture(scope="module")
def pages():
    "A server that forks a process for each page from one that has imported torch."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(notebook_page.SHARED)
    return context


def outcome(pages, path, seconds):
    "What a page said, in a process that does not outlive this call, whatever the page does. Raises AssertionError where it says nothing in time."
    here, there = pages.Pipe(duplex=False)
    process = pages.Process(target=notebook_page.run, args=(str(path), there), daemon=True)
    process.start()
    there.close()
    try:
        assert here.poll(seconds), f"{path.name} ran for more than {seconds} s"
        said = here.recv()
        process.join(30)          # it tidies up after itself
        return said
    finally:
        process.kill()
        process.join()


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_notebook_runs(path, pages, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.delenv("SLOTPAPERS_DATA", raising=False)     # pages are the same with and without real samples
    said = outcome(pages, path, 300)
    assert said is None, said


def test_a_failing_page_is_told_with_its_cell(tmp_path, pages):
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("assert x == 2, 'planted'")])
    nbformat.write(page, tmp_path / "broken.ipynb")
    said = outcome(pages, tmp_path / "broken.ipynb", 60)
    assert "planted" in said and "assert x == 2" in said


def test_a_page_that_never_ends_is_told_and_ended(tmp_path, pages):
    "Its process would otherwise be waited for when the tests are over."
    cell = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(600)"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), tmp_path / "endless.ipynb")
    with pytest.raises(AssertionError, match="endless.ipynb ran for more than 20 s"):
        outcome(pages, tmp_path / "endless.ipynb", 20)
    number = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
