"""The rooms of the package and who may import whom, held as a table and checked against every import.

A new edge is a change to this table, argued in its commit. When two rooms need one thing it moves down, never sideways.
"""
import ast
import json
import re
import statistics
from pathlib import Path

import pytest

ROOMS = {  # room: the rooms it may import (a room may always import itself)
    "core": set(),
    "data": {"core"},
    "blocks": {"core"},
    "models": {"core", "blocks"},
    "objectives": {"core", "models"},
    "training": {"core"},
    "evaluation": {"core", "training"},
    "figures": {"core"},
    "recipes": {"core", "data", "blocks", "models", "objectives", "training", "evaluation", "figures"},
    "runs": {"core", "data", "recipes"},     # data: a bare machine prepares its own windows
    "cli": {"core", "data", "models", "recipes", "runs"},     # recipes: `embed` joins data and model, which only a recipe may
}
NEVER = {"nbdev", "fastcore", "execnb", "ghapi", "IPython", "papermill", "dvc", "beartype", "pytest"}          # tools of the workshop
LATE = {"pooch", "typer", "transformers", "tensorboard", "seaborn", "pyarrow", "huggingface_hub", "onnx", "pybullet"}      # heavy: inside functions
LATE_ALLOWED = {"cli": {"typer"}, "models": {"huggingface_hub"}}
ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(p for p in (ROOT / "slotpapers").rglob("*.py") if p.name not in ("_modidx.py",) and p.parent != ROOT / "slotpapers" or p.name in ("runs.py", "cli.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def imports_of(path: Path) -> list[tuple[str, bool]]:
    "Absolute dotted names a module imports, and whether it does so at the top level."
    tree, name = ast.parse(path.read_text(encoding="utf-8")), dotted(path)
    base = name if path.name == "__init__.py" else name.rpartition(".")[0]
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(base.split(".")[: len(base.split(".")) + 1 - node.level]) if node.level else ""
            found.append((".".join(p for p in (parent, node.module) if p), id(node) in top))
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_stay_in_the_table(path):
    room = room_of(dotted(path))
    assert room in ROOMS, f"{dotted(path)}: no room of this name in the table"
    for name, at_top in imports_of(path):
        root = name.split(".")[0]
        assert root not in NEVER, f"{dotted(path)} imports {name}: users do not have it"
        if at_top:
            assert root not in LATE - LATE_ALLOWED.get(room, set()), f"{dotted(path)} imports {name} at the top: move it into the function"
        if root == "slotpapers" and name != "slotpapers":
            assert room_of(name) in ROOMS[room] | {room}, f"{dotted(path)} imports {name}: {room} may import {sorted(ROOMS[room])}"
            is_room = name.count(".") == 1 and (ROOT / "slotpapers" / room_of(name) / "__init__.py").exists()
            assert not is_room, f"{dotted(path)} imports the room {name}: import the module that defines the name"


def test_no_cycles_between_modules():
    graph = {dotted(p): {n for n, _ in imports_of(p) if n.startswith("slotpapers.")} for p in MODULES if p.name != "__init__.py"}
    state: dict[str, str] = {}

    def visit(name, trail):
        if state.get(name) == "done" or name not in graph:
            return
        assert state.get(name) != "open", "a cycle: " + " -> ".join([*trail, name])
        state[name] = "open"
        for other in sorted(graph[name]):
            visit(other, [*trail, name])
        state[name] = "done"

    for name in graph:
        visit(name, [])
    assert set(state) == set(graph)


def test_the_table_itself_has_no_cycle():
    order = list(ROOMS)
    for room, allowed in ROOMS.items():
        assert all(order.index(other) < order.index(room) for other in allowed), f"{room} imports a room that comes after it"


def exported_cells(notebook: Path) -> list[int]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return [len([l for l in s.splitlines() if l.strip()]) for s in sources if re.search(r"^#\|\s*export", s, re.M)]


LIBRARY = sorted(p for p in (ROOT / "nbs").glob("[0-8]*/*.ipynb") if not p.parent.name.startswith(("85",)))


def test_cells_stay_readable():
    lengths = [n for notebook in LIBRARY for n in exported_cells(notebook)]
    assert statistics.median(lengths) <= 25, statistics.median(lengths)
    longest = {f"{p.parent.name}/{p.name}": max(exported_cells(p), default=0) for p in LIBRARY}
    assert max(longest.values()) <= 45, max(longest, key=longest.get)


@pytest.mark.parametrize("notebook", LIBRARY, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_notebooks_open_with_title_purpose_and_kernel(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    first = "".join(content["cells"][0]["source"])
    assert re.match(r"# .+\n> .+", first), f"{notebook.name} must open with '# Title' and '> purpose'"
    assert content["metadata"]["kernelspec"]["language"] == "python"
