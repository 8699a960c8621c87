"""The documentation site, from the notebooks alone: `python docs/build.py [--out _site] [--check]`.

nbs/ -> pages (docs/pages.py) -> Jupyter Book -> a folder that any web server can show, without a network. The notebooks of
nbs/90_papers and the front page are run first, so they show today's results/; the others carry their saved outputs.
Every warning stops the build.
"""
from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import nbformat
import yaml

import pages
from pages import PageError, Site

DOCS = Path(__file__).resolve().parent
WALKS = ["slotfm", "slotssm", "smoothsa"]     # the order in which the papers appeared; others follow by name
ROOMS = {   # folder -> title and sentence of its landing page, where no index.ipynb says better
    "00_core": ("Core", "What every other room stands on: shapes and their errors, records, named random streams, result files."),
    "10_data": ("Data", "Recordings, balls, scenes, images and videos, with their licences, checks and generators."),
    "20_blocks": ("Blocks", "One equation, or one box of a figure, a page: bands, slot attention, state spaces, preheating."),
    "30_models": ("Models", "The three papers' models and what they are compared with, wired from the blocks."),
    "40_objectives": ("Objectives", "What is minimised: pure functions from an output and a batch to named terms."),
    "50_training": ("Training", "One loop that knows nothing of what it trains, with schedules, checkpoints and resuming."),
    "60_evaluation": ("Evaluation", "Scores, probes, and the verdicts on the papers' claims."),
    "70_figures": ("Figures", "One function a figure or table: data frames in, a figure out."),
    "80_recipes": ("Recipes", "A paper's experiment in one configuration and five steps: data, build, fit, score, write."),
    "82_runs": ("Runs", "Every run by name, with or without notebook tools."),
    "84_app": ("Command line", "Datasets, fetching, embedding and scoring from a shell."),
    "85_runs": ("Run notebooks", "What the pipeline executes: parameters in, numbers out. They are shown as they are kept, without outputs."),
}
PAPERS = {   # pages of one paper, in rooms that hold all three
    "slotfm": ("SlotFM", "Slots over the time-frequency plane of an accelerometer window.", ("slotfm", "contrastive")),
    "slotssm": ("SlotSSM", "Slots as the state of a state-space model.", ("slotssm",)),
    "smoothsa": ("SmoothSA", "Slots whose first queries are preheated.", ("smoothsa",)),
}
GROUPS = {   # room -> short name of a group: title, sentence, and how the names of its pages begin; the other pages stand after the groups
    "10_data": {
        "recordings": ("Recordings", "Accelerometers: readers of the published archives, windows, folds, augmentations and a simulated wearer.",
                       ("accelerometer", "augment", "bad_inputs", "folds", "long_recordings", "readers", "sampling", "signals", "simulated", "streaming")),
        "balls": ("Balls", "Bouncing and blinking balls, drawn by index.", ("ball",)),
        "pictures": ("Pictures and clips", "Generated scenes, and readers of the published sets of images and videos.",
                     ("coco", "images", "movi", "scene", "tfrecords", "video")),
    },
    **dict.fromkeys(("30_models", "40_objectives", "70_figures", "80_recipes", "85_runs"), PAPERS),
}
PIPELINE = {"82_runs", "84_app", "85_runs"}
MATHJAX = ["tex-chtml.js", "input/tex/extensions", "output/chtml", "a11y", "sre/mathmaps/base.json", "sre/mathmaps/en.json"]


def notebooks(root: Path) -> dict[str, list[Path]]:
    "Room -> its notebooks in reading order; the front page stands under the empty name."
    rooms: dict[str, list[Path]] = {}
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        inside = path.relative_to(root / "nbs").parts
        if not any(part.startswith(("_", ".")) for part in inside):
            rooms.setdefault(inside[0] if len(inside) > 1 else "", []).append(path)
    return {room: in_reading_order(room, paths) for room, paths in rooms.items()}


def in_reading_order(room: str, paths: list[Path]) -> list[Path]:
    """Index first; a page stands after the pages of its room that it imports; walk-throughs in the papers' order.

    A page that extends another's name (`slot_attention_fast`) follows it and counts as a part of it.
    """
    if room == "90_papers":
        return sorted(paths, key=lambda p: (p.stem != "index", WALKS.index(p.stem) if p.stem in WALKS else len(WALKS), p.stem))
    stems = [path.stem for path in paths]
    base = {stem: min((other for other in stems if stem.startswith(f"{other}_")), key=len, default=stem) for stem in stems}
    uses: dict[str, set[str]] = {}
    for path in paths:
        uses.setdefault(base[path.stem], set()).update(base[name] for name in imported(path) if name in base)

    def depth(stem: str, above: tuple[str, ...] = ()) -> int:
        return max((depth(other, (*above, stem)) + 1 for other in uses[stem] - {*above, stem}), default=0)

    return sorted(paths, key=lambda p: (p.stem != "index", depth(base[p.stem]), base[p.stem], p.stem))


def imported(path: Path) -> set[str]:
    "Last names of the slotpapers modules that a notebook's exported cells import."
    names = set()
    for cell in nbformat.read(path, 4).cells:
        marks = pages.directives(cell.source) if cell.cell_type == "code" else {}
        if pages.is_exported(marks):
            for node in ast.walk(ast.parse(pages.without_directives(cell.source))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("slotpapers"):
                    names.add(node.module.split(".")[-1])
    return names


def learn_names(site: Site, paths: list[Path]) -> dict[str, list[str]]:
    "Tells the site every exported module and public name; module -> names, for the page of all names."
    found: dict[str, list[str]] = {}
    for path in paths:
        nb = nbformat.read(path, 4)
        module = pages.module_of(nb)
        if not module:
            continue
        site.learn(module.removesuffix(".__init__"))
        if module.endswith(".__init__"):
            site.learn_reexports(module.removesuffix(".__init__"), pages.reexports(nb))
            continue
        for cell in nb.cells:
            if cell.cell_type == "code" and pages.is_exported(pages.directives(cell.source)):
                for _, name in pages.public_names(pages.without_directives(cell.source)):
                    if name not in found.setdefault(module, []):
                        found[module].append(name)
                        site.learn(module, name)
    return found


def executed(nb: nbformat.NotebookNode, path: Path) -> nbformat.NotebookNode:
    "The notebook with fresh outputs, run in its own folder; a failing cell stops the build."
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if not any(cell.cell_type == "code" and pages.without_directives(cell.source) for cell in nb.cells):
        return nb
    try:
        return NotebookClient(nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    except CellExecutionError as error:
        raise PageError(str(error)) from None


def listing(site: Site, paths: list[Path]) -> str:
    "Titles of pages, each a link, with their sentences."
    lines = []
    for path in paths:
        name, said = pages.heading_of(nbformat.read(path, 4))
        lines.append(f"[{name}]({path.name})\n: {said or '&nbsp;'}\n")
    return pages.link_names("\n".join(lines), site)


def grouped(room: str, paths: list[Path]) -> dict[str, list[Path]]:
    "The pages of a room by the short name of their group; under the empty name those without one. A group of one page is none."
    found: dict[str, list[Path]] = {}
    for path in (path for path in paths if path.stem != "index"):
        named = (name for name, (_, _, starts) in GROUPS.get(room, {}).items() if path.stem.startswith(starts))
        found.setdefault(next(named, ""), []).append(path)
    return {name: members for name, members in found.items() if name and len(members) > 1} | {
        "": [path for name, members in found.items() if not name or len(members) == 1 for path in members]}


def write_room(site: Site, room: str, groups: dict[str, list[Path]]) -> tuple[Path, dict[str, Path]]:
    "The landing page of a room (its index notebook, or a title and a sentence, then its pages with their sentences), and those of its groups."
    title, sentence = ROOMS.get(room, (room.partition("_")[2].replace("_", " ").capitalize(), ""))
    landing, below, parts = site.work / room / "index.ipynb", {}, []
    for name, members in groups.items():
        if name:
            headline, said, _ = GROUPS[room][name]
            below[name] = site.work / room / f"about_{name}.md"
            below[name].write_text(f"# {headline}\n\n:::{{div}} lead\n{said}\n:::\n\n{listing(site, members)}", encoding="utf-8")
            parts.append(f"### [{headline}](about_{name}.md)\n\n{listing(site, members)}")
    if groups[""]:
        parts.append(("### Other pages\n\n" if below else "") + listing(site, groups[""]))
    pages_of_room = "## Pages of this room\n\n" + "\n".join(parts)
    if landing.exists():
        nb = nbformat.read(landing, 4)
        nb.cells.append(nbformat.v4.new_markdown_cell(pages_of_room))
        nbformat.write(nb, landing)
        return landing, below
    landing = site.work / room / "index.md"
    landing.write_text(f"# {title}\n\n:::{{div}} lead\n{sentence}\n:::\n\n{pages_of_room}", encoding="utf-8")
    return landing, below


def write_names(site: Site, found: dict[str, list[str]]) -> Path:
    "The page of all public names, module by module."
    lines = [f"{{py:mod}}`slotpapers.{module}`\n: " + pages.name_list({name: f"slotpapers.{module}.{name}" for name in names}) + "\n"
             for module, names in found.items()]
    page = site.work / "names.md"
    page.write_text("# All names\n\n:::{div} lead\nEvery public function, class and constant, in the order of the rooms.\n"
                    "Methods stand in the {ref}`alphabetical index <genindex>`.\n:::\n\n"
                    + "\n".join(lines), encoding="utf-8")
    return page


def write_text_page(site: Site, source: Path) -> None:
    "A markdown file of the repository (how to contribute, what changed) as a page."
    text = pages.relink(source.read_text(encoding="utf-8"), source, site)
    (site.work / site.pages[source]).write_text(pages.link_names(pages.set_apart(text), site), encoding="utf-8")


def contents(chapters: dict[str, dict], walks: list[dict], names: dict, extra: list[dict]) -> dict:
    "The table of contents: walk-throughs, library, pipeline, contributing."
    parts = {"Walk-throughs": walks, "Library": [chapters[room] for room in chapters if room not in PIPELINE] + [names],
             "Pipeline": [chapters[room] for room in chapters if room in PIPELINE], "Contributing": extra}
    return {"format": "jb-book", "root": "index",
            "parts": [{"caption": caption, "chapters": found} for caption, found in parts.items() if found]}


def entry(work: Path, page: Path, below: list[dict] | None = None) -> dict:
    "A page of the table of contents, with the entries below it."
    return {"file": page.relative_to(work).with_suffix("").as_posix()} | ({"sections": below} if below else {})


def write_rooms(site: Site, rooms: dict[str, list[Path]]) -> dict[str, dict]:
    "The landing pages of all rooms and their groups; room -> its entry in the table of contents."
    def entries(paths: list[Path]) -> list[dict]:
        return [entry(site.work, site.work / site.pages[path]) for path in paths]

    chapters = {}
    for room, paths in rooms.items():
        groups = grouped(room, paths)
        landing, below = write_room(site, room, groups)
        named = [entry(site.work, page, entries(groups[name])) for name, page in below.items()]
        chapters[room] = entry(site.work, landing, named + entries(groups[""]))
    return chapters


def write_notebooks(site: Site, every: list[Path], fresh: set[Path]) -> None:
    "Each notebook as a page, those of `fresh` run first; the faults of all of them are told together."
    faults = []
    for path in every:
        target = site.work / site.pages[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            nb = nbformat.read(path, 4)
            nbformat.write(pages.convert(executed(nb, path) if path in fresh else nb, path, site), target)
        except (SyntaxError, PageError) as error:
            faults.append(f"{path.relative_to(site.root)}: {error}")
    if faults:
        raise PageError("\n  ".join([f"{len(faults)} notebooks cannot be shown:", *faults]))


def write_sources(root: Path, work: Path) -> Site:
    "Everything Jupyter Book reads, in `work`."
    nbs, site = root / "nbs", Site(root, work)
    rooms = notebooks(root)
    front = nbs / "index.ipynb"
    if front not in rooms.get("", []):
        raise PageError("nbs/index.ipynb is missing: it is the front page")
    every = [front, *(path for room, paths in rooms.items() if room for path in paths)]
    extra = [root / name for name in ("CONTRIBUTING.md", "CHANGELOG.md") if (root / name).exists()]
    site.pages = {path: path.relative_to(nbs) for path in every} | {path: Path(path.name.lower()) for path in extra}
    found = learn_names(site, every)
    write_notebooks(site, every, fresh={front, *rooms.get("90_papers", [])})
    for path in extra:
        write_text_page(site, path)
    chapters = write_rooms(site, {room: paths for room, paths in rooms.items() if room and room != "90_papers"})
    page = lambda path: entry(work, work / site.pages[path])
    toc = contents(chapters, [page(path) for path in rooms.get("90_papers", [])], entry(work, write_names(site, found)),
                   [page(path) for path in extra])
    (work / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")
    return site


def write_config(root: Path, work: Path) -> None:
    "docs/_config.yml with what settings.ini says, and the style sheet."
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(root / "settings.ini", encoding="utf-8")
    said = settings["DEFAULT"]
    config = yaml.safe_load((DOCS / "_config.yml").read_text(encoding="utf-8"))
    config |= {"title": said["title"], "author": said["author"], "copyright": said["copyright"].split(",")[0]}
    (work / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    shutil.copytree(DOCS / "_static", work / "_static")


def mathjax() -> Path:
    "The folder of MathJax 3, from the package sphinx-mathjax-offline (extra `docs`)."
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None:
        raise PageError("MathJax is missing: pip install '.[docs]' brings it (package sphinx-mathjax-offline)")
    return Path(spec.origin).parent / "static" / "mathjax"


def add_mathjax(html: Path) -> None:
    "MathJax beside the pages: the renderer, its fonts, rare commands on demand, and speech in English."
    for name in MATHJAX:
        source, target = mathjax() / name, html / "_static" / "mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def publish(html: Path, out: Path) -> None:
    "Moves the finished site to `out`; a folder that holds something else is left alone."
    if out.exists() and any(out.iterdir()) and not (out / "searchindex.js").exists():
        raise PageError(f"{out} exists and is no site: name another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    for leftover in (".buildinfo", "_sources"):
        target = html / leftover
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    (html / ".nojekyll").touch()
    shutil.move(html, out)


def build(root: Path, out: Path) -> None:
    "The whole way, from notebooks to `out`."
    work = root / "build" / "docs"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    started = time.perf_counter()
    write_sources(root, work)
    write_config(root, work)
    print(f"pages written in {time.perf_counter() - started:.0f} s; now Jupyter Book", flush=True)
    book = "from jupyter_book.cli.main import main; main()"
    # -W: a warning is an error. Python's own warnings here are about the code of the tools, not about our pages.
    subprocess.run([sys.executable, "-c", book, "build", str(work), "--all", "-W", "--keep-going", "-q"], check=True,
                   env=os.environ | {"PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::PendingDeprecationWarning"})
    html = work / "_build" / "html"
    add_mathjax(html)
    publish(html, out)
    print(f"{len(list(out.rglob('*.html')))} pages in {out}, {time.perf_counter() - started:.0f} s")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DOCS.parent / "_site", help="folder of the site (default: _site)")
    parser.add_argument("--check", action="store_true", help="then visit every page in a headless Chromium (docs/check_site.py)")
    options = parser.parse_args(argv)
    try:
        build(DOCS.parent, options.out.resolve())
    except PageError as error:
        print(f"docs/build.py: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print("docs/build.py: Jupyter Book found errors (above); its sources are in build/docs", file=sys.stderr)
        return error.returncode
    return subprocess.call([sys.executable, str(DOCS / "check_site.py"), str(options.out)]) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
