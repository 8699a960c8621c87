"""Writes README.md from nbs/index.ipynb: `python docs/readme.py` (with `--check`, only compares).

Text cells as they are, code cells as fenced blocks with their text outputs, hidden cells left out. Links that start
with `../` in the notebook are made relative to the root of the repository.
"""
import os
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
DIRECTIVE = re.compile(r"^#\|\s*(.+?)\s*$", re.M)


def cell_text(cell: nbformat.NotebookNode) -> str:
    "One cell as Markdown; empty for a hidden one."
    if cell.cell_type == "markdown":
        return relinked(cell.source)
    directives = DIRECTIVE.findall(cell.source)
    if cell.cell_type != "code" or any(d.split()[0] in ("hide", "default_exp") for d in directives):
        return ""
    code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
    shown = "" if any(re.fullmatch(r"echo:\s*false", d) for d in directives) else f"```python\n{code}\n```"
    return "\n\n".join(part for part in [shown, *map(output_text, cell.outputs)] if part)


def relinked(text: str) -> str:
    "Links of nbs/index.ipynb as seen from the root of the repository."
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", lambda found: f"]({os.path.normpath(os.path.join('nbs', found[1]))})", text)


def output_text(output: nbformat.NotebookNode) -> str:
    "One output as Markdown: Markdown stays, plain text becomes a block."
    data = output.get("data", {})
    if "text/markdown" in data:
        return data["text/markdown"].strip()
    text = output.get("text") or data.get("text/plain", "")
    return f"```\n{text.rstrip()}\n```" if text.strip() else ""


def readme(notebook: Path = ROOT / "nbs/index.ipynb") -> str:
    "The text of README.md."
    cells = nbformat.read(notebook, as_version=4).cells
    body = "\n\n".join(text for text in map(cell_text, cells) if text)
    note = "<!-- Written from nbs/index.ipynb by docs/readme.py; edit the notebook. -->"
    return f"{note}\n\n{body}\n"


def main(words: list[str]) -> int:
    text, path = readme(), ROOT / "README.md"
    if "--check" in words:
        same = path.read_text(encoding="utf-8") == text
        print("README.md is what nbs/index.ipynb says" if same else "README.md differs from nbs/index.ipynb: run python docs/readme.py")
        return 0 if same else 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
