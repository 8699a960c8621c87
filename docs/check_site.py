"""Looks at a finished site as a visitor would, in a headless Chromium: `python docs/check_site.py _site`.

Every page is opened in a wide window and in a phone's. It fails when a link or an anchor leads nowhere, a formula is not set,
a picture is missing or has no words, the console holds an error, a request fails or leaves this machine, a page is wider
than the window, or the search finds nothing. Only the standard library is needed: Chromium is spoken to through a pipe.
"""
from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import http.server
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--disable-extensions", "--disable-default-apps", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SCREENSHOT_HEIGHT = 2600    # pixels; what lies below looks like what lies above

# What a page says of itself once pictures, fonts and formulas are there.
LOOK = r"""
(async () => {
  for (const image of document.images) image.loading = 'eager';
  const settled = Promise.all([
    window.MathJax?.startup?.promise,
    document.fonts?.ready,
    ...[...document.images].map(image => image.complete || new Promise(done => { image.onload = image.onerror = done; })),
  ]);
  const late = await Promise.race([settled.then(() => false), new Promise(done => setTimeout(() => done(true), 20000))]);
  const shown = element => element.getClientRects().length > 0;
  const brief = text => (text || '').replace(/\s+/g, ' ').trim().slice(0, 90);
  const raw = [];   // TeX that nobody turned into a formula
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const home = walk.currentNode.parentElement;
    if (!home.closest('pre, code, script, style, mjx-container, .math') && /\$\$|\\[([]|\\(frac|sum|mathbf|mathcal|text|hat|in)\b/.test(walk.currentNode.data))
      raw.push(brief(walk.currentNode.data));
  }
  return {
    late,
    lang: document.documentElement.lang, title: document.title.trim(), headings: document.querySelectorAll('h1').length,
    ids: [...document.querySelectorAll('[id], a[name]')].map(element => element.id || element.name),
    links: [...document.querySelectorAll('a[href]')].map(link => [link.getAttribute('href'), brief(link.textContent)]),
    unset: [...document.querySelectorAll('.math')].filter(math => !math.querySelector('mjx-container')).map(math => brief(math.textContent)),
    wrong: [...document.querySelectorAll('mjx-merror, [data-mjx-error], mjx-container [style*="color: red"]')]
      .map(error => error.getAttribute('data-mjx-error') || error.querySelector('[title]')?.title || brief(error.textContent)),
    raw, formulas: document.querySelectorAll('mjx-container').length,
    images: [...document.images].map(image => ({ source: image.getAttribute('src').slice(0, 120), width: image.naturalWidth, alt: image.alt })),
    nameless: [...document.querySelectorAll('button')].filter(button => shown(button)
      && !brief(button.textContent) && !button.getAttribute('aria-label') && !button.title && !button.querySelector('[title]')).map(button => brief(button.outerHTML)),
  };
})()
"""
# Elements that stick out of the window, unless something around them scrolls.
WIDE = r"""
(() => {
  const room = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= room && document.body.scrollWidth <= room) return null;
  const held = element => { for (let up = element.parentElement; up; up = up.parentElement)
    if (up !== document.body && up !== document.documentElement && getComputedStyle(up).overflowX !== 'visible') return true; return false; };
  const out = [...document.body.querySelectorAll('*')].filter(element => element.getBoundingClientRect().right > room + 1 && !held(element));
  return { room, wide: document.documentElement.scrollWidth, by: out.slice(-3).map(e => `<${e.tagName.toLowerCase()} class="${e.className}">`) };
})()
"""


class Chromium:
    "A headless Chromium with one tab, spoken to in the DevTools protocol."

    def __init__(self, program: str):
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        read_here, write_there = os.pipe()
        read_there, write_here = os.pipe()
        # The protocol wants the pipes as file descriptors 3 and 4; a shell puts them there.
        script = f'exec "$@" 3<&{read_there} 4>&{write_there}'
        command = ["bash", "-c", script, "bash", program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=(read_there, write_there), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(read_there), os.close(write_there)
        self.read_end, self.write_end = read_here, write_here
        self.buffer, self.sent, self.session, self.events = b"", 0, None, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def message(self, deadline: float) -> dict | None:
        "The next message; None when there is none before the deadline."
        while b"\0" not in self.buffer:
            if not select.select([self.read_end], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            more = os.read(self.read_end, 1 << 20)
            if not more:
                raise RuntimeError("Chromium went away")
            self.buffer += more
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def ask(self, method: str, timeout: float = 60.0, **params) -> dict:
        "Sends a command and returns its result; what happens meanwhile goes to `events`."
        self.sent += 1
        request = {"id": self.sent, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.write_end, json.dumps(request).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while (answer := self.message(deadline)) is not None:
            if answer.get("id") == self.sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)
        raise TimeoutError(f"{method} was not answered within {timeout:.0f} s")

    def evaluate(self, script: str) -> object:
        "The value of a script in the page; promises are awaited."
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", "the script failed"))
        return answer["result"].get("value")

    def visit(self, url: str, timeout: float = 60.0) -> list[dict]:
        "Opens a page and waits until it has loaded; returns the events so far, and `events` starts anew."
        self.events = []
        self.ask("Page.navigate", url=url)
        deadline = time.monotonic() + timeout
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            event = self.message(deadline)
            if event is None:
                raise TimeoutError(f"{url} did not load within {timeout:.0f} s")
            self.events.append(event)
        return self.events

    def resize(self, size: str, height: int = 0) -> None:
        "A wide window, or a phone's."
        width, usual = SIZES[size]
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height or usual, deviceScaleFactor=1, mobile=size == "phone")

    def colours(self, scheme: str) -> None:
        "What the visitor prefers: light or dark."
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path, size: str) -> None:
        "The page from its top, in a window as high as the page (or SCREENSHOT_HEIGHT)."
        self.resize(size)
        self.evaluate("scrollTo(0, 0)")
        self.resize(size, min(self.evaluate("document.documentElement.scrollHeight"), SCREENSHOT_HEIGHT))
        self.evaluate("new Promise(done => setTimeout(done, 400))")     # side bars slide
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        "Ends this Chromium, its children and its profile."
        with contextlib.suppress(RuntimeError, OSError, TimeoutError):
            self.session = None
            self.ask("Browser.close", timeout=5)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.read_end), os.close(self.write_end)
        shutil.rmtree(self.profile, ignore_errors=True)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    "Serves a folder on this machine; yields its address."
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_): pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def from_events(events: list[dict], home: str) -> list[str]:
    "Errors of the console, failed requests, and requests that left this machine."
    found, asked = [], {}
    for event in events:
        kind, p = event["method"], event["params"]
        if kind == "Network.requestWillBeSent":
            asked[p["requestId"]] = p["request"]["url"]
            if not p["request"]["url"].startswith((home, "data:", "blob:", "about:")):
                found.append(f"a request leaves this machine: {p['request']['url'][:200]}")
        elif kind == "Network.responseReceived" and p["response"]["status"] >= 400:
            found.append(f"{p['response']['status']} for {p['response']['url']}")
        elif kind == "Network.loadingFailed" and not p.get("canceled"):
            found.append(f"failed request: {asked.get(p['requestId'], '?')[:200]} ({p['errorText']})")
        elif kind == "Runtime.exceptionThrown":
            details = p["exceptionDetails"]
            found.append("console: " + details.get("exception", {}).get("description", details["text"]).splitlines()[0])
        elif kind == "Runtime.consoleAPICalled" and p["type"] in ("error", "assert"):
            found.append("console: " + " ".join(str(a.get("value", a.get("description", ""))) for a in p["args"])[:300])
        elif kind == "Log.entryAdded" and p["entry"]["level"] == "error" and p["entry"]["source"] != "network":
            found.append(f"console: {p['entry']['text'][:300]}")
    return found


def from_page(look: dict) -> list[str]:
    "What is wrong with a page by its own account."
    found = ["was not ready within 20 s"] if look["late"] else []
    found += [] if look["lang"] and look["title"] and look["headings"] else ["has no language, title or first heading"]
    found += [f"formula not set: {text}" for text in look["unset"]]
    found += [f"formula in error: {text}" for text in look["wrong"]]
    found += [f"TeX in plain text: {text}" for text in look["raw"]]
    for image in look["images"]:
        found += [f"picture not loaded: {image['source']}"] if not image["width"] else []
        if not image["alt"].strip() or re.search(r"\.(png|svg|jpe?g|gif|webp)$", image["alt"].strip()):
            found.append(f"picture without words (alt): {image['source']}")
    return found + [f"button without a name: {text}" for text in look["nameless"]]


def status(url: str) -> int:
    "What the server answers to a plain request."
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def from_links(looks: dict[str, dict], home: str) -> list[str]:
    "Links within the site that lead nowhere, and anchors that are not there."
    found, answers = [], {}
    ids = {url: {*look["ids"], "", "top"} for url, look in looks.items()}
    for page, look in looks.items():
        for href, text in dict.fromkeys(map(tuple, look["links"])):
            target, anchor = urldefrag(urljoin(page, href))
            if not target.startswith(home):
                continue
            target = target.split("?")[0] + ("index.html" if target.split("?")[0].endswith("/") else "")
            if target not in ids:
                answers[target] = answers.get(target) or status(target)
                if answers[target] != 200:
                    found.append(f"{page.removeprefix(home)}: link '{text}' leads nowhere: {href}")
            elif unquote(anchor) not in ids[target]:
                found.append(f"{page.removeprefix(home)}: link '{text}' leads to no anchor: {href}")
    return found


def from_search(browser: Chromium, home: str, word: str, seconds: float = 15.0) -> list[str]:
    "Whether the site's own search finds a word."
    browser.visit(f"{home}search.html?q={word}")
    deadline, count = time.monotonic() + seconds, 0
    while not count and time.monotonic() < deadline:
        time.sleep(0.2)
        count = browser.evaluate("document.querySelectorAll('#search-results li a').length")
    time.sleep(0.5)          # summaries are fetched after the titles
    browser.evaluate("1")
    found = [f"search.html?q={word}: {text}" for text in from_events(browser.events, home)]
    return found if count else [*found, f"search.html?q={word}: nothing found"]


def pictures(browser: Chromium, folder: Path, name: str) -> None:
    "The page in both sizes, light and dark."
    for size in SIZES:
        for scheme in ("light", "dark"):
            browser.colours(scheme)
            browser.screenshot(folder / f"{name}__{size}_{scheme}.png", size)
    browser.colours("light")


def visit_all(browser: Chromium, folder: Path, home: str, screenshots: Path | None, only: str) -> tuple[dict[str, dict], list[str]]:
    "What every page says of itself, and what is wrong with it."
    looks, found = {}, []
    for path in sorted(folder.rglob("*.html")):
        name = path.relative_to(folder).as_posix()
        if "_static" in path.parts:
            continue
        browser.resize("desktop")
        browser.visit(home + name)
        looks[home + name] = look = browser.evaluate(LOOK)
        problems = from_page(look)
        for size in SIZES:
            browser.resize(size)
            if wide := browser.evaluate(WIDE):
                problems.append(f"{size}: the page is {wide['wide']} wide in a window of {wide['room']}: {', '.join(wide['by'])}")
        problems += from_events(browser.events, home)
        found += [f"{name}: {problem}" for problem in dict.fromkeys(problems)]
        if screenshots and re.search(only, name):
            pictures(browser, screenshots, name.removesuffix(".html").replace("/", "_"))
    return looks, found


def find_chromium() -> str | None:
    "The program, by the name it has here."
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "chrome"]
    return next(filter(None, map(shutil.which, filter(None, names))), None)


def check(folder: Path, *, search: str = "slots", screenshots: Path | None = None, only: str = "") -> tuple[list[str], str]:
    "The problems of a site (none: good), and what was looked at."
    program = find_chromium()
    if program is None:
        raise FileNotFoundError("no Chromium: install it, or name it in the environment variable CHROMIUM")
    if not (folder / "index.html").exists():
        raise FileNotFoundError(f"{folder} holds no index.html: build the site first (python docs/build.py)")
    if screenshots:
        screenshots.mkdir(parents=True, exist_ok=True)
    with served(folder) as home, contextlib.closing(Chromium(program)) as browser:
        looks, found = visit_all(browser, folder, home, screenshots, only)
        found += from_links(looks, home)
        found += from_search(browser, home, search) if search else []
    count = lambda key: sum(len(look[key]) for look in looks.values())
    summary = (f"{len(looks)} pages, {count('links')} links, {sum(look['formulas'] for look in looks.values())} formulas, "
               f"{count('images')} pictures")
    return found, summary


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--search", default="slots", help="a word that the search must find; '' for a site without search")
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the pages: both sizes, light and dark")
    parser.add_argument("--only", default="", help="regular expression: which pages to take pictures of")
    options = parser.parse_args(argv)
    started = time.perf_counter()
    try:
        found, summary = check(options.folder.resolve(), search=options.search, screenshots=options.screenshots, only=options.only)
    except FileNotFoundError as error:
        print(f"docs/check_site.py: {error}", file=sys.stderr)
        return 2
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{summary}: {len(found)} problems, {time.perf_counter() - started:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
