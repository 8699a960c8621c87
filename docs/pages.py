"""A notebook of nbs/ becomes a page: directives are obeyed and removed, exported code gets a table of what goes in and out.

Everything is read from the notebook's text (`ast`, `tokenize`): nothing is imported, so a page shows what was written,
`Float[Tensor, "B K D"]` and not what Python made of it. `docs/build.py` puts the pages together.
"""
from __future__ import annotations

import ast
import io
import os
import re
import shutil
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

PICTURES = {".png", ".jpg", ".jpeg", ".svg", ".gif", ".webp"}
FRONT_MATTER = r"^- *(?:skip_exec|skip_showdoc|order|output-file|hide|search|toc|image|categories) *:.*\n?"


class PageError(Exception):
    "Something in a notebook that must not reach a page."


# ---------------------------------------------------------------- cells

def directives(source: str) -> dict[str, str]:
    "The `#| name: value` lines of a cell, values stripped: `#| fig-alt: a curve` gives {'fig-alt': 'a curve'}."
    found = re.findall(r"^#[ \t]*\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*)$", source, re.M)
    return {name: value.strip().strip('"') for name, value in found}


def without_directives(source: str) -> str:
    "The cell as a reader sees it: no `#|` lines, no `%` settings, no blank lines around."
    return re.sub(r"^(#[ \t]*\||%[a-z]).*\n?", "", source, flags=re.M).strip("\n")


def is_hidden(marks: dict[str, str]) -> bool:
    "True for cells that no reader needs: module names, setup, and what the author hid."
    return "hide" in marks or "default_exp" in marks or marks.get("include") == "false"


def is_exported(marks: dict[str, str]) -> bool:
    "True for cells that end up in the package."
    return not marks.keys().isdisjoint({"export", "exporti", "exports"})


def only_imports(source: str) -> bool:
    "True for a cell that does nothing but import."
    try:
        body = ast.parse(source).body
    except SyntaxError:      # magics
        return False
    return bool(body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


def module_of(nb: nbformat.NotebookNode) -> str | None:
    "The module a notebook exports, e.g. 'core.seeds'; None when it exports nothing."
    marks = (directives(cell.source) for cell in nb.cells if cell.cell_type == "code")
    return next((mark["default_exp"] for mark in marks if "default_exp" in mark), None)


def reexports(nb: nbformat.NotebookNode) -> dict[str, str]:
    "Name -> full name of what a room's index notebook (`default_exp room.__init__`) passes on."
    exported = [without_directives(cell.source) for cell in nb.cells if cell.cell_type == "code" and is_exported(directives(cell.source))]
    imports = [node for source in exported for node in ast.parse(source).body
               if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("slotpapers.")]
    return {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in imports for alias in node.names}


def heading_of(nb: nbformat.NotebookNode) -> tuple[str, str]:
    "Title and `>` sentence of a notebook."
    for cell in nb.cells:
        title = re.search(r"^# +(.+)$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if title:
            quote = re.match(r"\s*((?:^>.*\n?)+)", cell.source[title.end():], re.M)
            said = " ".join(line.lstrip("> ").strip() for line in quote[1].splitlines()) if quote else ""
            return title[1].strip(), said
    raise PageError("no cell holds a title (`# Title`)")


# ---------------------------------------------------------------- code into tables

@dataclass(frozen=True)
class Row:
    "One row of a table: a parameter, a field, or what is returned."
    name: str
    type: str = ""
    default: str | None = None
    meaning: str = ""


class Listing:
    "The source of an exported cell, its comments by line, and how names in its words become links."

    def __init__(self, source: str, link: Callable[[str], str] = str):
        self.source, self.link = source, link
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        self.comments = {t.start[0]: (t.start[1], t.string.lstrip("# ").rstrip(), t.line.strip().startswith("#"))
                         for t in tokens if t.type == tokenize.COMMENT}   # column, text, alone on its line

    def words(self, node: ast.AST | None) -> str:
        "A node as it was written, on one line."
        return "" if node is None else re.sub(r"\s+", " ", ast.get_source_segment(self.source, node))

    def type_of(self, node: ast.AST | None) -> str:
        "A type as it was written; one that stands in quotes (`\"Windows\"`) without them."
        quoted = isinstance(node, ast.Constant) and isinstance(node.value, str)
        return node.value if quoted else self.words(annotated(node)[0])

    def comment(self, start: ast.AST, end: int) -> str:
        "The comment that ends line `end`, and its continuation below in the same column; else the one right above `start`."
        column, text, alone = self.comments.get(end, (0, "", True))
        if alone:
            above = self.comments.get(start.lineno - 1, (-1, "", False))
            return above[1] if above[2] and above[0] == start.col_offset else ""
        while (below := self.comments.get(end + 1)) and below[2] and below[0] == column:
            text, end = f"{text} {below[1]}", end + 1
        return text

    def parameters(self, node: ast.FunctionDef) -> list[Row]:
        "The parameters of a function without `self` and `cls`, then what it returns (named 'returns')."
        a = node.args
        plain = [*a.posonlyargs, *a.args]
        given = [("", arg, default) for arg, default in zip(plain, [None] * (len(plain) - len(a.defaults)) + a.defaults)]
        given += [("*", a.vararg, None)] if a.vararg else []
        given += [("", arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults)]
        given += [("**", a.kwarg, None)] if a.kwarg else []
        given = [each for each in given if each[1].arg not in ("self", "cls")]
        ends = [(default or arg).end_lineno for _, arg, default in given]
        close = node.returns.end_lineno if node.returns else 0    # a comment on this line speaks of the result
        rows = [Row(star + arg.arg, self.type_of(arg.annotation), self.words(default) or None,
                    (self.comment(arg, end) if end not in (close, *ends[i + 1:]) else "") or annotated(arg.annotation)[1])
                for i, ((star, arg, default), end) in enumerate(zip(given, ends))]
        if node.returns and self.words(node.returns) != "None":
            _, meaning, alone = self.comments.get(close, (0, "", True))
            rows.append(Row("returns", self.type_of(node.returns), None, "" if alone else meaning))
        return rows

    def fields(self, node: ast.ClassDef) -> list[Row]:
        "The fields of a dataclass or named tuple; a default factory is shown as its call."
        rows = []
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item.annotation):
                default = self.words(item.value) or None
                if default and default.startswith("field("):
                    said = {word.arg: self.words(word.value) for word in item.value.keywords}
                    default = f"{said['default_factory']}()" if "default_factory" in said else said.get("default")
                rows.append(Row(item.target.id, self.type_of(item.annotation), default, self.comment(item, item.end_lineno)))
        return rows

    def table(self, rows: list[Row]) -> str:
        "Name, type and shape, default, meaning and unit: one row each; empty columns are left out."
        columns = {"name": ["*returns*" if row.name == "returns" else as_code(row.name) for row in rows],
                   "type and shape": [self.link(as_code(row.type)) if row.type else "" for row in rows],
                   "default": [as_code(row.default) if row.default is not None else "" for row in rows],
                   "meaning, unit": [self.link(in_cell(row.meaning)) for row in rows]}
        columns = {head: cells for head, cells in columns.items() if any(cells)}
        lines = [columns.keys(), ["---"] * len(columns), *zip(*columns.values())]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f":::{{div}} parameters\n{body}\n:::" if rows else ""

    def card(self, kind: str, head: str, node: ast.AST, shown: str, rows: list[Row], inner: list[str] = (), options: str = "") -> str:
        "Signature, sentence, source, table, and the cards of methods."
        parts = [self.link(ast.get_docstring(node) or ""), code_block(shown) if shown else "", self.table(rows), *inner]
        return fence(kind, head, "\n\n".join(filter(None, parts)), options)

    def function(self, node: ast.FunctionDef, shown: str = "", kind: str = "py:function") -> str:
        "The card of a function or method."
        rows, marks = self.parameters(node), [ast.unparse(mark).split(".")[-1] for mark in node.decorator_list]
        if "property" in marks or "cached_property" in marks:
            return self.card("py:property", node.name, node, shown, rows)
        options = "".join(f":{mark}:\n" for mark in ("classmethod", "staticmethod") if mark in marks)
        return self.card(kind, signature(node.name, node, rows), node, shown, rows, options=options)

    def klass(self, node: ast.ClassDef, shown: str) -> str:
        "The card of a class: what builds it, its source, its table, then a card for each public method."
        methods = [item for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))]
        build = next((item for item in methods if item.name == "__init__"), None)
        rows = self.fields(node) if is_record(node) else self.parameters(build) if build else []
        public = {item.name: item for item in reversed(methods) if not item.name.startswith("_") or item.name == "__call__"}
        inner = [self.function(item, kind="py:method") for item in reversed(public.values())]
        return self.card("py:class", signature(node.name, build, rows), node, shown, rows, inner)


def annotated(node: ast.AST | None) -> tuple[ast.AST | None, str]:
    "Type and sentence of `Annotated[type, \"sentence\"]`; any other type as it is, without a sentence."
    if not (isinstance(node, ast.Subscript) and ast.unparse(node.value).split(".")[-1] == "Annotated"):
        return node, ""
    type_, *notes = node.slice.elts
    said = [note.value for note in notes if isinstance(note, ast.Constant) and isinstance(note.value, str)]
    return type_, said[0] if said else ""


def is_record(node: ast.ClassDef) -> bool:
    "True for dataclasses and named tuples: their fields are their parameters."
    return any(re.search(r"\b(dataclass|NamedTuple|TypedDict)\b", ast.unparse(mark)) for mark in [*node.decorator_list, *node.bases])


def signature(name: str, node: ast.FunctionDef | None, rows: list[Row]) -> str:
    "`name(a, b=1, *, c=2)`: names and defaults; types stand in the table."
    named = [row for row in rows if row.name != "returns"]
    shown = [row.name + (f"={row.default}" if row.default is not None else "") for row in named]
    if node is not None and node.args.kwonlyargs and not node.args.vararg:
        shown.insert([row.name for row in named].index(node.args.kwonlyargs[0].arg), "*")
    if node is not None and (first := [arg.arg for arg in node.args.posonlyargs if arg.arg not in ("self", "cls")]):
        shown.insert(len(first), "/")
    return f"{name}({', '.join(shown)})"


def in_cell(text: str) -> str:
    "Plain words for a table cell: markup characters escaped, but for `code` and $math$."
    kept = re.split(r"(`[^`]+`|\$(?=\S)[^$]+(?<=\S)\$)", text)
    return "".join(part.replace("|", r"\|") if i % 2 else re.sub(r"([\\*_$<>|\[\]{}~^@`])", r"\\\1", part)
                   for i, part in enumerate(kept))


def as_code(text: str) -> str:
    "Inline code for a table cell."
    return (f"`` {text} ``" if "`" in text else f"`{text}`").replace("|", r"\|")


def fence(kind: str, head: str, body: str, options: str = "") -> str:
    "A directive whose fence is longer than any within."
    longest = max((len(run) for run in re.findall(r"^ *(`{3,})", body, re.M)), default=2)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{{{kind}}} {head}\n{options}\n{body.strip()}\n{ticks}"


def code_block(source: str) -> str:
    "Source as a highlighted block."
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", source))])
    return f"{ticks}python\n{source.strip(chr(10))}\n{ticks}"


def public_names(source: str) -> Iterator[tuple[ast.stmt, str]]:
    "The public top-level functions, classes and constants of a cell."
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        names = [node.name] if is_definition(node) else [each.id for each in targets if isinstance(each, ast.Name)]
        yield from ((node, name) for name in names if not name.startswith("_"))


def is_definition(node: ast.AST | None) -> bool:
    "True for functions and classes."
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


def pieces(source: str) -> Iterator[tuple[ast.stmt | None, str]]:
    "A cell cut at its public functions and classes; what lies between (helpers, constants) stays together under None."
    lines, start = source.splitlines(), 0
    for node in (node for node, _ in public_names(source) if is_definition(node)):
        first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)]) - 1
        while first > start and lines[first - 1].startswith("#"):
            first -= 1
        if between := "\n".join(lines[start:first]).strip("\n"):
            yield None, between
        yield node, "\n".join(lines[first:node.end_lineno])
        start = node.end_lineno
    if rest := "\n".join(lines[start:]).strip("\n"):
        yield None, rest


def exported_cell(source: str, seen: set[str], link: Callable[[str], str] = str) -> str:
    "An exported cell as markdown: a card for each public function and class, blocks of code for the rest."
    listing, parts = Listing(source, link), []
    for node, name in public_names(source):
        if not is_definition(node) and name not in seen:
            parts.append(f"```{{py:data}} {name}\n:no-typesetting:\n```")
            seen.add(name)
    for node, shown in pieces(source):
        if node is None or node.name in seen:
            parts.append(code_block(shown))
        else:
            parts.append(listing.klass(node, shown) if isinstance(node, ast.ClassDef) else listing.function(node, shown))
            seen.add(node.name)
    return "\n\n".join(parts)


# ---------------------------------------------------------------- markdown

def outside_code(text: str, change: Callable[[str], str]) -> str:
    "`change` applied to the text between fenced blocks."
    parts = re.split(r"(^(?P<ticks>`{3,}|~{3,})[^\n]*\n.*?^(?P=ticks)[ \t]*$)", text, flags=re.M | re.S)
    return "".join(change(part) if i % 3 == 0 else part for i, part in enumerate(parts) if i % 3 != 2)


def set_apart(text: str) -> str:
    "Every `$$` block in a paragraph of its own: anything else is read as inline mathematics."
    def alone(found: re.Match) -> str:
        body = textwrap.dedent(found[2]).strip()
        return "\n\n" + textwrap.indent(f"$$\n{body}\n$$", found[1]) + "\n\n"   # within a list, the item's indentation
    blocks = r"(?:^|\n)([ \t]*)\$\$(.+?)\$\$[ \t]*(?=\n|$)"
    spread = outside_code(text, lambda part: re.sub(blocks, alone, part, flags=re.S))
    return outside_code(spread, lambda part: re.sub(r"\n{3,}", "\n\n", part)).strip("\n")


def lead(source: str) -> str:
    "The `>` sentence under the title becomes the page's opening paragraph; nbdev's front-matter lines go."
    opening = re.match(r"\s*(# .+(?:\n|$))\s*((?:>.*(?:\n|$))*)", source)
    if not opening:
        return source
    said = "\n".join(line.lstrip(">").strip() for line in opening[2].splitlines())
    rest = re.sub(FRONT_MATTER, "", source[opening.end():], flags=re.M).lstrip("\n")
    return opening[1] + (f"\n:::{{div}} lead\n{said}\n:::\n" if said else "") + (f"\n{rest}" if rest else "")


@dataclass
class Site:
    "What pages need to know of each other."
    root: Path                                               # the repository
    work: Path                                               # where the pages are written
    pages: dict[Path, Path] = field(default_factory=dict)     # file of the repository -> file of the site's sources
    names: dict[str, str | None] = field(default_factory=dict)   # name as written -> full name; None: not the only one

    def learn(self, module: str, name: str = "") -> None:
        "Makes a module or one of its public names known, in full and by every shorter form that nobody else has."
        full = f"slotpapers.{module}" + (f".{name}" if name else "")
        parts = full.split(".")
        for short in (".".join(parts[i:]) for i in range(len(parts) if name else 1)):
            self.names[short] = full if self.names.get(short, full) == full else None

    def learn_reexports(self, room: str, names: dict[str, str]) -> None:
        "Makes the names known that a room passes on, e.g. `slotpapers.models.SlotFM`."
        self.names |= {f"{start}{room}.{name}": full for name, full in names.items() for start in ("slotpapers.", "")}

    def full_name(self, code: str) -> str | None:
        "The documented name that a piece of inline code stands for. A plain lower-case word needs its brackets to count."
        word = code.removesuffix("()")
        plain = re.fullmatch(r"[a-z0-9]+", word) and word == code
        return None if plain else self.names.get(word)


def link_names(text: str, site: Site) -> str:
    "Inline code that names something of the package becomes a link to it; headings and existing links stay."
    def change(found: re.Match) -> str:
        full = site.full_name(found[1])
        return f"{{py:obj}}`{found[1]} <{full}>`" if full else found[0]
    def lines(part: str) -> str:
        return "\n".join(line if line.startswith("#") else re.sub(r"(?<![`\[}])`([\w.]+(?:\(\))?)`(?![`\]])", change, line)
                         for line in part.split("\n"))
    return outside_code(text, lines)


def relink(text: str, source: Path, site: Site) -> str:
    "Links to files of the repository become links to pages; pictures are copied along; other files stay as plain names."
    here = site.pages[source].parent
    def change(found: re.Match) -> str:
        bang, label, target, tail = found[1], found[2], found[3], found[4] or ""
        if re.match(r"[a-z]+:|#|/", target):
            return found[0]
        path, _, anchor = target.partition("#")
        file = Path(os.path.normpath(source.parent / path))
        if file.suffix == ".html" and not file.exists():
            file = file.with_suffix(".ipynb")
        if file.is_dir() and file / "index.ipynb" in site.pages:
            file = file / "index.ipynb"
        if file in site.pages:
            page = os.path.relpath(site.pages[file], here)
            return f"{bang}[{label}]({page}{'#' + anchor if anchor else ''}{tail})"
        if file.suffix.lower() in PICTURES and file.exists():
            kept = site.work / "_assets" / file.relative_to(site.root)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, kept)
            return f"{bang}[{label}]({os.path.relpath(kept, site.work / here)}{tail})"
        return label if file.exists() and not bang else found[0]
    return outside_code(text, lambda part: re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(<?([^()\s<>]+)>?(\s+\"[^\"]*\")?\)", change, part))


# ---------------------------------------------------------------- outputs

def plain(text: str) -> str:
    "Markdown as words."
    text = outside_code(text, lambda part: re.sub(r"^(#|\||>).*$", "", part, flags=re.M))
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[`*$\\]", "", text)).strip()


def described(marks: dict[str, str], before: str, title: str) -> str:
    "The text that stands for a figure: `fig-alt`, else `fig-cap`, else the first sentence of the paragraph that leads to it."
    if said := marks.get("fig-alt") or marks.get("fig-cap"):
        return said
    last = next(filter(None, map(plain, reversed(re.split(r"\n\s*\n", before)))), title)
    return textwrap.shorten(f"Figure: {last.rstrip('.:;')}", 240, placeholder=" ...").replace('"', "'")


def shown_outputs(cell: nbformat.NotebookNode, source: Path, site: Site, where: str) -> list:
    "The outputs that go on a page. Errors, warnings and paths of this machine do not: they stop the build."
    kept = []
    for out in cell.get("outputs", []):
        if out.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
            raise PageError(f"{where}: the saved output is an error, {out.ename}: {out.evalue}; run the notebook again")
        text = "".join(out.get("text", "")) + "".join(str(v) for k, v in out.get("data", {}).items() if k.startswith("text/"))
        if out.output_type == "stream" and out.name == "stderr":
            ours = [line for line in text.splitlines() if "Warning" in line and not re.search("(site|dist)-packages", line)]
            if ours:
                raise PageError(f"{where}: the output holds a warning: {ours[0][:200]}; cure it and run again")
            continue     # progress bars, font caches, other packages' warnings
        for path in (str(site.root), str(Path.home())):
            if re.search(re.escape(path) + r"(?=/|\b)", text) and len(path) > 1:
                raise PageError(f"{where}: the output names a path of one machine, {path}; print a relative one")
        for kind in [kind for kind in out.get("data", {}) if kind.startswith("application/vnd.jupyter")]:
            del out.data[kind]     # widgets need a server
        if "text/markdown" in out.get("data", {}):
            out.data["text/markdown"] = set_apart(relink("".join(out.data["text/markdown"]), source, site))
        kept.append(out)
    return kept


# ---------------------------------------------------------------- a page

def code_cell(cell: nbformat.NotebookNode, marks: dict[str, str], source: str, before: str, title: str) -> nbformat.NotebookNode:
    "A cell that stays code: what its directives ask for becomes tags; figures get their words."
    tags = [tag for tag in cell.metadata.get("tags", []) if tag != "raises-exception"]
    tags += ["remove-input"] if marks.get("echo") == "false" else []
    tags += ["remove-output"] if marks.get("output") == "false" else []
    tags += ["hide-input"] if marks.get("code-fold") in ("true", "show") or only_imports(source) else []
    tags += ["imports"] if only_imports(source) and not cell.outputs else []
    tags += ["check"] if re.search(r"^ *assert\b", source, re.M) and not cell.outputs else []
    about = {"code_prompt_show": "Imports" if only_imports(source) else "Code", "code_prompt_hide": "Hide"}
    if any(kind.startswith("image/") for out in cell.outputs for kind in out.get("data", {})):
        about["image"] = {"alt": described(marks, before, title)}
        if "fig-cap" in marks:
            about["figure"] = {"caption": marks["fig-cap"]}
    made = nbformat.v4.new_code_cell(source, outputs=cell.outputs, metadata={"tags": tags, "mystnb": about})
    made.id = cell.get("id", made.id)
    return made


def convert(nb: nbformat.NotebookNode, source: Path, site: Site) -> nbformat.NotebookNode:
    "The notebook as a page for Jupyter Book."
    module, cells, seen, before = module_of(nb), [], set(), ""
    title, _ = heading_of(nb)
    is_index = (module or "").endswith("__init__")     # of a room: its code says nothing to a reader but which names it passes on
    for number, cell in enumerate(nb.cells):
        where = f"cell {number}"
        if cell.cell_type == "markdown":
            text = re.sub(r"<!--.*?-->", "", cell.source, flags=re.S)
            before, first = text, not cells
            text = link_names(set_apart(relink(lead(text) if first else text, source, site)), site)
            if first and module:
                text += "\n\n" + module_line(module, source.relative_to(site.root))
            cells.append(nbformat.v4.new_markdown_cell(text))
        elif is_index and "export" in directives(cell.source) and only_imports(without_directives(cell.source)):
            cells.append(nbformat.v4.new_markdown_cell(name_list(reexports(nb))))
        elif cell.cell_type == "code" and not is_index:
            marks, code = directives(cell.source), without_directives(cell.source)
            cell.outputs = shown_outputs(cell, source, site, where)
            if is_hidden(marks) or not (code or cell.outputs):
                continue
            if is_exported(marks) and not only_imports(code):
                cells.append(nbformat.v4.new_markdown_cell(exported_cell(code, seen, lambda text: link_names(set_apart(text), site))))
                code = ""
            if only_imports(code) and cells and "imports" in cells[-1].metadata.get("tags", []) and not cell.outputs:
                cells[-1].source += "\n" + code
            elif code or cell.outputs:
                cells.append(code_cell(cell, marks | ({} if code else {"echo": "false"}), code, before, title))
    for number, cell in enumerate(cells):
        cell.id = f"c{number}"
    language = {"name": "python", "pygments_lexer": "ipython3"}
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": language})


def name_list(names: dict[str, str]) -> str:
    "Names as links, on one flowing line."
    return " · ".join(f"{{py:obj}}`{name} <{full}>`" for name, full in names.items())


def module_line(module: str, source: Path) -> str:
    "Which module the page is, for the index and for those who want to change it."
    module = module.removesuffix(".__init__")
    return (f"```{{py:module}} slotpapers.{module}\n```\n\n:::{{div}} module\n"
            f"Module `slotpapers.{module}`, written in `{source.as_posix()}`.\n:::")
