"""The documentation site: how notebooks become pages, and that a broken site is noticed.

The slow tests need a browser and MathJax (extra `docs`). They are skipped where one is missing, but never in CI.
"""
import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def load(name):
    "A module of docs/, which is no package."
    spec = importlib.util.spec_from_file_location(name if name == "pages" else f"docs_{name}", DOCS / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages, build, check_site = load("pages"), load("build"), load("check_site")
markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
PICTURE = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")   # one pixel


# ---------------------------------------------------------------- cells

def test_directives_are_read_and_removed():
    source = '#| export\n#| fig-alt: "Two curves: low, high"\n%matplotlib inline\nx = 1  # | y\n'
    assert pages.directives(source) == {"export": "", "fig-alt": "Two curves: low, high"}
    assert pages.without_directives(source) == "x = 1  # | y"
    assert pages.is_exported(pages.directives("#|exporti\nx = 1")) and not pages.is_exported(pages.directives("x = 1"))


@pytest.mark.parametrize("source", ["#| hide\n1", "#| default_exp core.seeds", "#| include: false\n1"])
def test_hidden_cells(source):
    assert pages.is_hidden(pages.directives(source))


def test_only_imports():
    assert pages.only_imports("import a\nfrom b import c") and not pages.only_imports("import a\na.b()") and not pages.only_imports("")


# ---------------------------------------------------------------- tables

FUNCTION = '''
def compete(
    logits: Float[Tensor, "B K N"],   # similarity, m/s²
    *others: int,
    eps: float = 1e-8,                # keeps a slot | finite;
                                      # rule of `weigh`
    # of the softmax
    axis: "Axis" = "slots",
) -> Float[Tensor, "B K N"]:          # sums to 1
    "Shares."
'''.strip()


def listing(source):
    node = ast.parse(source).body[0]
    return pages.Listing(source), node


def test_parameters_with_types_defaults_and_comments():
    made, node = listing(FUNCTION)
    shape = 'Float[Tensor, "B K N"]'
    assert made.parameters(node) == [
        pages.Row("logits", shape, None, "similarity, m/s²"), pages.Row("*others", "int", None, ""),
        pages.Row("eps", "float", "1e-8", "keeps a slot | finite; rule of `weigh`"),
        pages.Row("axis", "Axis", '"slots"', "of the softmax"), pages.Row("returns", shape, None, "sums to 1")]


@pytest.mark.parametrize("source, rows", [
    ("def f(x: int, y: int) -> int:  # twice x\n    pass", [("x", ""), ("y", ""), ("returns", "twice x")]),
    ("def f(x):  # metres\n    pass", [("x", "metres")]),
    ("def f(x: Annotated[int, 'metres', '--x'], y: t.Annotated[int, 3] = 1):\n    pass", [("x", "metres"), ("y", "")]),
    ("def f(\n    x, y,  # the second\n) -> None:  # nothing\n    pass", [("x", ""), ("y", "the second")]),
])
def test_comments_of_short_functions(source, rows):
    made, node = listing(source)
    assert [(row.name, row.meaning) for row in made.parameters(node)] == rows


@pytest.mark.parametrize("head", ["f(a, b=1)", "f(a, /, b)", "f(a, *, b=2)", "f(*a, b=2, **c)", "f()"])
def test_signatures(head):
    made, node = listing(f"def {head}:\n    pass")
    assert pages.signature("f", node, made.parameters(node)) == head


def test_methods_lose_self_in_the_signature():
    made, node = listing("class A:\n    def f(self, x, *, y=2): pass")
    assert pages.signature("f", node.body[0], made.parameters(node.body[0])) == "f(x, *, y=2)"


def test_fields_of_records():
    made, node = listing("@dataclass(frozen=True)\nclass A:\n    x: int   # metres\n    y: list = field(default_factory=list)\n    n: ClassVar[int] = 1")
    assert pages.is_record(node)
    assert made.fields(node) == [pages.Row("x", "int", None, "metres"), pages.Row("y", "list", "list()", "")]


def test_tables_escape_markup_and_drop_empty_columns():
    table = pages.Listing("").table([pages.Row("x", "int | None", None, "a|b, c_d and `k|l` for $x|y$, <1")])
    assert r"| name | type and shape | meaning, unit |" in table and "default" not in table
    assert r"| `x` | `int \| None` | a\|b, c\_d and `k\|l` for $x\|y$, \<1 |" in table


def test_an_exported_cell_becomes_cards():
    source = ('LIMIT = 3   # of all\n\n\ndef _helper():\n    pass\n\n\n# about f\n@wraps\ndef f(x: int = 1) -> int:\n    "Sense of $f$."\n    return x\n\n\n'
              'class A(Module):\n    "Sense of A."\n    def __init__(self, dim: int = 4):   # width\n        self.dim = dim\n\n'
              '    @property\n    def half(self) -> float:\n        "Half."\n\n    def forward(self, x):\n        return x\n\n    def _inner(self): pass')
    seen = set()
    text = pages.exported_cell(source, seen)
    assert seen == {"LIMIT", "f", "A"}
    for expected in ("{py:data} LIMIT\n:no-typesetting:", "{py:function} f(x=1)", "# about f\n@wraps\ndef f", "Sense of $f$.", "{py:class} A(dim=4)",
                     "| `dim` | `int` | `4` | width |", "{py:property} half", "{py:method} forward(x)", "```python\nLIMIT = 3"):
        assert expected in text, expected
    assert "{py:method} _inner" not in text and "{py:function} _helper" not in text
    assert "py:" not in pages.exported_cell("def f(x):\n    return 2", seen)      # defined again: code alone, one anchor


def test_fences_hold_fences():
    text = pages.fence("py:function", "f()", "````python\n```\n````")
    assert text.startswith("`````{py:function} f()") and text.endswith("\n`````")


# ---------------------------------------------------------------- markdown

def test_formulas_get_a_paragraph_of_their_own():
    assert pages.set_apart("so\n$$a\n= b$$\nand") == "so\n\n$$\na\n= b\n$$\n\nand"
    assert pages.set_apart("- item\n  $$a$$\n  more") == "- item\n\n  $$\n  a\n  $$\n\n  more"
    untouched = "```\n$$\nnot math\n$$\n\n\n\nx\n```\ncosts $$ nothing"
    assert pages.set_apart(untouched) == untouched


def test_the_sentence_below_the_title_leads_the_page():
    assert pages.lead("# Bands\n> Splits a window.\n- skip_exec: true\n\nText.") == "# Bands\n\n:::{div} lead\nSplits a window.\n:::\n\nText."
    assert pages.lead("# Bands") == "# Bands" and pages.lead("Text.\n> quote") == "Text.\n> quote"


@pytest.fixture
def site(tmp_path):
    "A repository of two notebooks, a text, a module and a picture."
    for name in ("nbs/00_core/seeds.ipynb", "nbs/20_blocks/bands.ipynb", "CONTRIBUTING.md", "slotpapers/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "report").mkdir()
    (tmp_path / "report/a.png").write_bytes(b"png")
    made = pages.Site(tmp_path, tmp_path / "work", {
        tmp_path / "nbs/00_core/seeds.ipynb": Path("00_core/seeds.ipynb"), tmp_path / "nbs/20_blocks/bands.ipynb": Path("20_blocks/bands.ipynb"),
        tmp_path / "CONTRIBUTING.md": Path("contributing.md")})
    for module, name in [("core.seeds", ""), ("core.seeds", "numpy_stream"), ("core.seeds", "windows"), ("blocks.bands", "Bands"), ("blocks.a", "twice_it"), ("blocks.b", "twice_it")]:
        made.learn(module, name)
    return made


@pytest.mark.parametrize("before, after", [
    ("`numpy_stream`", "{py:obj}`numpy_stream <slotpapers.core.seeds.numpy_stream>`"),
    ("`core.seeds.numpy_stream()`", "{py:obj}`core.seeds.numpy_stream() <slotpapers.core.seeds.numpy_stream>`"),
    ("`slotpapers.core.seeds`", "{py:obj}`slotpapers.core.seeds <slotpapers.core.seeds>`"),
    ("`windows()`", "{py:obj}`windows() <slotpapers.core.seeds.windows>`"),
    ("`windows`", "`windows`"),                              # a plain word: a field, more likely
    ("`twice_it`", "`twice_it`"),                            # two modules have it
    ("[`Bands`](bands.ipynb)", "[`Bands`](bands.ipynb)"),
    ("## `Bands`", "## `Bands`"), ("```\n`Bands`\n```", "```\n`Bands`\n```"), ("`Bands + 1`", "`Bands + 1`")])
def test_names_become_links(site, before, after):
    assert pages.link_names(before, site) == after


@pytest.mark.parametrize("before, after", [
    ("[a](../20_blocks/bands.ipynb#where-we-differ)", "[a](../20_blocks/bands.ipynb#where-we-differ)"),
    ("[a](../20_blocks/bands.html)", "[a](../20_blocks/bands.ipynb)"),
    ("[a](../../CONTRIBUTING.md)", "[a](../contributing.md)"),
    ("[`x.py`](../../slotpapers/x.py)", "`x.py`"),
    ("![a slot](../../report/a.png)", "![a slot](../_assets/report/a.png)"),
    ("[a](gone.ipynb)", "[a](gone.ipynb)"),                  # left as it is: Jupyter Book stops there
    ("[a](https://arxiv.org/abs/2509.21673), [b](#here)", "[a](https://arxiv.org/abs/2509.21673), [b](#here)")])
def test_links_lead_to_pages(site, before, after):
    assert pages.relink(before, site.root / "nbs/00_core/seeds.ipynb", site) == after
    assert (site.work / "_assets/report/a.png").exists() == ("_assets" in after)


# ---------------------------------------------------------------- outputs and pages

def test_figures_are_described():
    before = "## The gain\nText.\n\nThe **gains** show it: [three](x.ipynb) of `Bands`.\n\n| a |\n|---|"
    assert pages.described({}, before, "Bands") == "Figure: The gains show it: three of Bands"
    assert pages.described({"fig-alt": "Two curves"}, before, "Bands") == "Two curves"
    assert pages.described({}, "", "Bands") == "Figure: Bands"


def outputs(*made):
    return code("1", outputs=[nbformat.v4.new_output(kind, **rest) for kind, rest in made])


@pytest.mark.parametrize("kind, rest, said", [
    ("error", {"ename": "ValueError", "evalue": "no", "traceback": []}, "the saved output is an error, ValueError"),
    ("stream", {"name": "stderr", "text": "x.py:1: UserWarning: old"}, "holds a warning"),
    ("stream", {"name": "stdout", "text": "{root}/data"}, "a path of one machine")])
def test_outputs_that_stop_the_build(site, kind, rest, said):
    rest = {name: value.replace("{root}", str(site.root)) if isinstance(value, str) else value for name, value in rest.items()}
    with pytest.raises(pages.PageError, match=said):
        pages.shown_outputs(outputs((kind, rest)), site.root / "nbs/00_core/seeds.ipynb", site, "cell 1")


def test_progress_bars_and_widgets_are_left_out(site):
    cell = outputs(("stream", {"name": "stderr", "text": "100%|###|\n/usr/lib/site-packages/tqdm/auto.py:21: TqdmWarning: no widgets"}),
                   ("display_data", {"data": {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"}}))
    kept = pages.shown_outputs(cell, site.root / "nbs/00_core/seeds.ipynb", site, "cell 1")
    assert [dict(out.data) for out in kept] == [{"text/plain": "bar"}]


def test_a_notebook_becomes_a_page(site):
    figure = nbformat.v4.new_output("display_data", data={"image/png": PICTURE})
    nb = nbformat.v4.new_notebook(cells=[
        markdown("# Seeds\n> Named streams."), code("#| default_exp core.seeds"), code("#| hide\n%load_ext jaxtyping"), code("#| export\nimport numpy as np"),
        code("%matplotlib inline\nimport random"), markdown("Draws."), code("#| export\ndef numpy_stream(seed: int):   # the seed\n    'A stream.'"),
        code("assert numpy_stream(0)"), code("#| fig-cap: Noise.\nplot()", outputs=[figure]), nbformat.v4.new_raw_cell("raw")])
    nb.cells[8].metadata["tags"] = ["parameters"]
    page = pages.convert(nb, site.root / "nbs/00_core/seeds.ipynb", site)
    nbformat.validate(page)
    title, imports, text, card, check, plot = page.cells
    assert ":::{div} lead\nNamed streams." in title.source and "{py:module} slotpapers.core.seeds" in title.source
    assert imports.source == "import numpy as np\nimport random" and "hide-input" in imports.metadata.tags
    assert text.source == "Draws." and "{py:function} numpy_stream(seed)" in card.source
    assert check.metadata.tags == ["check"] and plot.metadata.tags == ["parameters"]
    assert plot.metadata.mystnb.image == {"alt": "Noise."} and plot.metadata.mystnb.figure == {"caption": "Noise."} and plot.source == "plot()"


def test_the_index_of_a_room_shows_what_it_passes_on(site):
    nb = nbformat.v4.new_notebook(cells=[markdown("# Core\n> The floor."), code("#| default_exp core.__init__"),
                                         code("#| export\nfrom slotpapers.core.seeds import numpy_stream, windows"), code("#| export\n_all_ = ['windows']"), code("assert 1")])
    title, names = pages.convert(nb, site.root / "nbs/00_core/seeds.ipynb", site).cells
    assert "{py:module} slotpapers.core\n" in title.source
    assert names.source == "{py:obj}`numpy_stream <slotpapers.core.seeds.numpy_stream>` · {py:obj}`windows <slotpapers.core.seeds.windows>`"
    site.learn_reexports("core", pages.reexports(nb))
    assert site.full_name("slotpapers.core.windows") == "slotpapers.core.seeds.windows"


def test_a_page_needs_a_title():
    with pytest.raises(pages.PageError, match="title"):
        pages.heading_of(nbformat.v4.new_notebook(cells=[markdown("no title")]))


# ---------------------------------------------------------------- order

def notebook(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nb = nbformat.v4.new_notebook(cells=list(cells), metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nbformat.write(nb, path)
    return path


def test_reading_order(tmp_path):
    needs = {"blend": ["zebra"], "zebra": [], "zebra_fast": [], "index": ["blend", "zebra"]}
    room = [notebook(tmp_path / f"{name}.ipynb", code("#| export\n" + "\n".join(f"from slotpapers.blocks.{other} import x" for other in uses)))
            for name, uses in needs.items()]
    assert [path.stem for path in build.in_reading_order("20_blocks", room)] == ["index", "zebra", "zebra_fast", "blend"]
    walks = [Path(f"nbs/90_papers/{name}.ipynb") for name in ("scorecard", "smoothsa", "slotfm", "findings", "slotssm")]
    assert [path.stem for path in build.in_reading_order("90_papers", walks)] == ["slotfm", "slotssm", "smoothsa", "findings", "scorecard"]


def test_large_rooms_are_grouped(tmp_path):
    "Each page stands once; a group needs two pages; the landing page and the sidebar tell the same."
    stems = ["index", "slotfm_a", "slotfm_b", "smoothsa_alone", "scorecard"]
    paths = [notebook(tmp_path / f"nbs/80_recipes/{stem}.ipynb", nbformat.v4.new_markdown_cell(f"# Title of {stem}\n> What {stem} says.")) for stem in stems]
    assert {name: [path.stem for path in members] for name, members in build.grouped("80_recipes", paths).items()} == {
        "slotfm": ["slotfm_a", "slotfm_b"], "": ["smoothsa_alone", "scorecard"]}
    assert list(build.grouped("50_training", paths)) == [""]
    site = pages.Site(tmp_path, tmp_path / "work")
    site.pages = {path: path.relative_to(tmp_path / "nbs") for path in paths}
    (tmp_path / "work/80_recipes").mkdir(parents=True)
    [chapter] = build.write_rooms(site, {"80_recipes": paths}).values()
    assert [below["file"] for below in chapter["sections"]] == [f"80_recipes/{name}" for name in ("about_slotfm", "smoothsa_alone", "scorecard")]
    assert [below["file"] for below in chapter["sections"][0]["sections"]] == ["80_recipes/slotfm_a", "80_recipes/slotfm_b"]
    told = (tmp_path / "work/80_recipes/index.md").read_text()
    assert all(told.count(f"[Title of {stem}]") == 1 and f"What {stem} says." in told for stem in stems[1:])
    assert "What slotfm_b says." in (tmp_path / "work/80_recipes/about_slotfm.md").read_text()


def test_every_group_has_pages():
    for room, groups in build.GROUPS.items():
        stems = [path.stem for path in build.notebooks(ROOT)[room]]
        for name, (_, _, starts) in groups.items():
            assert groups is build.PAPERS or all(any(stem.startswith(start) for stem in stems) for start in starts), (room, name)


def test_a_folder_that_is_no_site_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("")
    with pytest.raises(pages.PageError, match="is no site"):
        build.publish(tmp_path / "html", tmp_path / "mine")
    assert (tmp_path / "mine/thesis.tex").exists()


# ---------------------------------------------------------------- the notebooks of this repository

EVERY = [path for paths in build.notebooks(ROOT).values() for path in paths]


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.relative_to(ROOT / "nbs").as_posix())
def test_every_notebook_can_be_shown(path, tmp_path):
    site = pages.Site(ROOT, tmp_path, {each: each.relative_to(ROOT / "nbs") for each in EVERY})
    nb = nbformat.read(path, 4)
    exported = [pages.without_directives(cell.source) for cell in nb.cells if cell.cell_type == "code" and pages.is_exported(pages.directives(cell.source))]
    text = "\n".join(cell.source for cell in pages.convert(nb, path, site).cells if cell.cell_type == "markdown")
    if (pages.module_of(nb) or "").endswith("__init__"):
        assert all(full in text for full in pages.reexports(nb).values())
        return
    for node, name in (pair for source in exported for pair in pages.public_names(source)):
        assert any(f"{{py:{kind}}} {name}" in text for kind in ("function", "class", "data")), f"{name} has no card"
    assert "#|" not in text


def test_every_room_stands_in_the_sidebar_of_nbdev():
    listed = (ROOT / "nbs/sidebar.yml").read_text(encoding="utf-8")
    assert all(f"contents: {room}/*" in listed for room in build.notebooks(ROOT) if room)


@pytest.mark.slow
def test_nbdev_docs_prepares_every_notebook(tmp_path):
    "Everything up to Quarto, whose place is taken by a program that writes its own arguments down."
    for name in ("nbs", "slotpapers", "settings.ini", "pyproject.toml", "setup.py", "README.md"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, tmp_path / name)
    quarto = tmp_path / "bin/quarto"
    quarto.parent.mkdir()
    quarto.write_text('#!/bin/sh\necho "$@" >> "$QUARTO_LOG"\nmkdir -p _docs\ntouch _docs/index.html _docs/README.md\n')
    quarto.chmod(0o755)
    env = os.environ | {"PATH": f"{quarto.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}", "QUARTO_LOG": str(tmp_path / "log")}
    subprocess.run([Path(sys.executable).with_name("nbdev_docs")], cwd=tmp_path, env=env, check=True, capture_output=True, timeout=500)
    assert "render --no-cache" in (tmp_path / "log").read_text()
    missing = {path.relative_to(ROOT / "nbs") for path in EVERY} - {path.relative_to(tmp_path / "_proc") for path in (tmp_path / "_proc").rglob("*.ipynb")}
    assert not missing
    for name in ("_quarto.yml", "nbdev.yml", "sidebar.yml", "styles.css"):
        assert (tmp_path / "_proc" / name).read_text() == (ROOT / "nbs" / name).read_text(), f"nbs/{name} is not what nbdev_docs makes of settings.ini"


# ---------------------------------------------------------------- the visitor

def need(found, what):
    "Skips where a tool is missing, and says so; in CI that is a failure."
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is missing")


@pytest.fixture
def browser():
    need(check_site.find_chromium(), "Chromium")


@pytest.fixture
def mathjax():
    need(importlib.util.find_spec("sphinx-mathjax-offline"), "MathJax (package sphinx-mathjax-offline of the extra docs)")
    return build.mathjax()


@pytest.mark.parametrize("ci, outcome", [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_browser_is_a_failure_in_ci(monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="Chromium is missing"):
        need(None, "Chromium")


def test_without_chromium_the_check_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert check_site.main([str(tmp_path)]) == 2 and "no Chromium" in capsys.readouterr().err


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title><link rel="icon" href="data:,"><script>{settings}</script><script async src="mathjax/tex-chtml.js"></script></head>
<body><h1 id="top-heading">{name}</h1><p><a href="index.html#top-heading">home</a> <a href="good.html">good</a></p>
<p>The energy is <span class="math">\\(E = \\frac{{1}}{{2}}\\)</span>.</p>{body}</body></html>"""
SETTINGS = "MathJax = {tex: {packages: {'[-]': ['noundefined']}}}"
SEARCH = """<div id="search-results"></div><script>
if (new URLSearchParams(location.search).get('q') === 'slots')
  document.getElementById('search-results').innerHTML = '<ul><li><a href="good.html">good</a></li></ul>';</script>"""
DEFECTS = {   # page -> (what is planted, what the check says of it)
    "link": ('<a href="nowhere.html">x</a>', "leads nowhere: nowhere.html"),
    "anchor": ('<a href="good.html#nowhere">x</a>', "leads to no anchor: good.html#nowhere"),
    "equation": ('<span class="math">\\(\\frac{1}\\)</span>', "formula in error: Missing argument for \\frac"),
    "command": ('<span class="math">\\(\\nosuchthing\\)</span>', "formula in error: Undefined control sequence \\nosuchthing"),
    "unset": ('<span class="math tex2jax_ignore mathjax_ignore">\\(x\\)</span>', "formula not set"),
    "dollars": ('<p class="mathjax_ignore">$$x$$ stayed</p>', "TeX in plain text"),
    "console": ("<script>console.error('planted')</script>", "console: planted"),
    "exception": ("<script>setTimeout(() => planted())</script>", "ReferenceError: planted is not defined"),
    "picture": ('<img src="gone.png" alt="gone">', "picture not loaded: gone.png"),
    "words": (f'<img src="data:image/png;base64,{PICTURE}">', "picture without words"),
    "filename": (f'<img src="data:image/png;base64,{PICTURE}" alt="../_images/a1b2.png">', "picture without words"),
    "outside": ('<link rel="stylesheet" href="https://fonts.example.org/a.css">', "leaves this machine: https://fonts.example.org"),
    "wide": ('<div style="width: 600px">wide</div>', "phone: the page is"),
    "button": ("<button style='width: 9px; height: 9px'></button>", "button without a name"),
}


def write_site(folder, mathjax, bodies):
    folder.mkdir()
    for name in ("tex-chtml.js", "output/chtml/fonts"):
        (folder / "mathjax" / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (mathjax / name).is_dir() else shutil.copyfile)(mathjax / name, folder / "mathjax" / name)
    scroll = '<div style="overflow-x: auto"><div style="width: 2000px">a table that scrolls by itself</div></div>'
    for name, body in {"index": scroll, "good": f'<img src="data:image/png;base64,{PICTURE}" alt="a pixel">', "search": SEARCH, **bodies}.items():
        (folder / f"{name}.html").write_text(PAGE.format(name=name, settings=SETTINGS, body=body), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_good_site_passes(browser, mathjax, tmp_path, capsys):
    folder = write_site(tmp_path / "site", mathjax, {})
    assert check_site.main([str(folder), "--screenshots", str(tmp_path / "shots"), "--only", "index"]) == 0, capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "shots").iterdir()) == [f"index__{size}_{scheme}.png" for size in ("desktop", "phone") for scheme in ("dark", "light")]


@pytest.mark.slow
def test_every_planted_defect_is_found(browser, mathjax, tmp_path, capsys):
    folder = write_site(tmp_path / "site", mathjax, {name: body for name, (body, _) in DEFECTS.items()})
    assert check_site.main([str(folder), "--search", "nothingsaysthis"]) == 1
    said = capsys.readouterr().out.splitlines()[:-1]
    for name, (_, expected) in DEFECTS.items():
        assert any(line.startswith(f"{name}.html") and expected in line for line in said), f"{name} went unnoticed:\n" + "\n".join(said)
    assert any("nothing found" in line for line in said)
    blamed = {line.split(".html")[0] for line in said}
    assert blamed == {*DEFECTS, "search"}, f"the good pages were blamed: {said}"


@pytest.fixture
def small_book(tmp_path):
    "A repository of three notebooks."
    shutil.copyfile(ROOT / "settings.ini", tmp_path / "settings.ini")
    notebook(tmp_path / "nbs/index.ipynb", markdown("# slotpapers\n> Three papers.\n\nSee [seeds](00_core/seeds.ipynb) and `numpy_stream`."))
    notebook(tmp_path / "nbs/00_core/seeds.ipynb", markdown("# Seeds\n> Named streams of slots.\n\nSo\n$$s = \\frac{1}{2}$$\nholds."), code("#| default_exp core.seeds"),
             code('#| export\ndef numpy_stream(\n    seed: int = 0,   # the seed, $s \\geq 0$\n) -> Float[Tensor, "B K D"]:   # slots\n    "A stream."'))
    notebook(tmp_path / "nbs/90_papers/slotfm.ipynb", markdown("# SlotFM\n> The walk-through."), code("print(6 * 7)"))
    return tmp_path


@pytest.mark.slow
def test_a_book_is_built_and_passes(browser, mathjax, small_book, capsys):
    need(importlib.util.find_spec("jupyter_book"), "Jupyter Book (extra docs)")
    build.build(small_book, small_book / "_site")
    assert ">42" in (small_book / "_site/90_papers/slotfm.html").read_text(encoding="utf-8").replace("\n", ""), "the walk-through was not run"
    card = (small_book / "_site/00_core/seeds.html").read_text(encoding="utf-8")
    assert 'id="slotpapers.core.seeds.numpy_stream"' in card and "the seed," in card
    assert 'href="00_core/seeds.html#slotpapers.core.seeds.numpy_stream"' in (small_book / "_site/index.html").read_text(encoding="utf-8")
    assert check_site.main([str(small_book / "_site")]) == 0, capsys.readouterr().out


@pytest.mark.slow
def test_a_warning_stops_the_build(mathjax, small_book, capfd):
    need(importlib.util.find_spec("jupyter_book"), "Jupyter Book (extra docs)")
    notebook(small_book / "nbs/00_core/seeds.ipynb", markdown("# Seeds\n> Named streams.\n\n[gone](gone.ipynb)"))
    notebook(small_book / "nbs/index.ipynb", markdown("# slotpapers\n> Three papers."))
    with pytest.raises(subprocess.CalledProcessError):
        build.build(small_book, small_book / "_site")
    assert "gone.ipynb" in "".join(capfd.readouterr()) and not (small_book / "_site").exists()


@pytest.mark.slow
def test_a_failing_walk_through_stops_the_build(mathjax, small_book):
    notebook(small_book / "nbs/90_papers/slotfm.ipynb", markdown("# SlotFM\n> The walk-through."), code("raise ValueError('no results')"))
    with pytest.raises(pages.PageError, match=r"(?s)90_papers/slotfm.ipynb.*no results"):
        build.build(small_book, small_book / "_site")


def test_the_settings_of_jupyter_book_name_no_network():
    config = yaml.safe_load((DOCS / "_config.yml").read_text(encoding="utf-8"))
    assert "://" not in str(config) and config["sphinx"]["config"]["mathjax_path"].startswith("mathjax/")
