"Fetching, against a server on this machine that misbehaves in every way we know."
import errno
import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from slotpapers.core.seeds import numpy_stream
from slotpapers.data import fetch as module
from slotpapers.data.fetch import FetchError, Sink, download, fetch, record_found, transfer, verify
from slotpapers.data.registry import DATASETS, Dataset, Download, Fact, recorded_checksums


def make_zip(seed: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as box:
        box.writestr(zipfile.ZipInfo("dataset/S01R01.txt"), numpy_stream(seed, "fetch").bytes(300_000))
    return file.getvalue()


GOOD, OTHER, PAGE = make_zip(0), make_zip(1), b"<!DOCTYPE html><html><title>Please sign in</title></html>"
SHA256 = hashlib.sha256(GOOD).hexdigest()


class Handler(BaseHTTPRequestHandler):
    "What each address does; `server.mood` lets one address change its mind."
    def do_GET(self):
        self.server.asked.append(self.path)
        mood = self.server.mood or self.path.strip("/").split(".")[0]
        getattr(self, f"send_{mood}", self.send_gone)()

    def answer(self, body: bytes, length: int | None = None, status: int = 200, kind: str = "application/zip"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def send_good(self): self.answer(GOOD, len(GOOD))
    def send_other(self): self.answer(OTHER, len(OTHER))
    def send_silent(self): self.answer(GOOD)                               # no length announced, but complete
    def send_cut(self): self.answer(GOOD[:100_000], len(GOOD))             # the length is announced, the rest never comes
    def send_cut_silent(self): self.answer(GOOD[:100_000])                 # cut off, and no length to notice it by
    def send_cut_at_once(self): self.answer(b"", len(GOOD))
    def send_page(self): self.answer(PAGE, len(PAGE))                      # called a zip, is a page
    def send_gone(self): self.answer(PAGE, len(PAGE), 404, "text/html")
    def send_broken(self): self.answer(b"", 0, 503)
    def send_empty(self): self.answer(b"", 0)
    def send_huge(self): self.answer(GOOD, 10**16)                         # ten petabytes are announced

    def send_login(self):
        self.send_response(302)
        self.send_header("Location", "/page.zip")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_stall(self):
        self.answer(GOOD[:100_000], len(GOOD))
        self.server.release.wait(5)

    def log_message(self, *_): "Quiet."


@pytest.fixture
def server(monkeypatch):
    "A server of one thread, on a free port of 127.0.0.1, gone with the test."
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    httpd.mood, httpd.asked, httpd.release, httpd.timeout = "", [], threading.Event(), 5
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield httpd
    httpd.release.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join(5)


def toy(server, address="good.zip", checksum="", **fields) -> Dataset:
    return Dataset("toy", "Toy set", (), "a test", Fact("CC0", "this test"), may_fetch=True, files=("data.zip",),
                   downloads=(Download("data.zip", f"{server.url}/{address}", "this test", checksum),), **fields)


def contents(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


FAILURES = {
    "cut.zip": ("was cut off after 100,000 of 300,1", "Run the same command again"),
    "cut_at_once.zip": ("was cut off after 0 of 300,1", "Run the same command again"),
    "cut_silent.zip": ("cut off or damaged", "download it again"),
    "page.zip": ("a web page", "login or has moved"),
    "login.zip": ("a web page", "login or has moved"),
    "gone.zip": ("answered 404", "may have moved"),
    "broken.zip": ("answered 503", "look at the set's page"),
    "empty.zip": ("is empty", "try again"),
    "huge.zip": ("holds 10,000,000,000,000,000 bytes", "make room"),
}


@pytest.mark.parametrize("address", FAILURES)
def test_a_failed_download_is_explained_leaves_nothing_and_can_be_repeated(server, tmp_path, address):
    with pytest.raises(FetchError) as caught:
        fetch(toy(server, address), tmp_path, progress=False)
    said = str(caught.value)
    assert all(part in said for part in FAILURES[address]), said
    assert "data.zip" in said and "http://127.0.0.1" in said   # file and address
    assert contents(tmp_path) == []                            # not even half a file, and nothing recorded
    server.mood = "good"
    lines = []
    assert fetch(toy(server, address), tmp_path, progress=False, say=lines.append) == [tmp_path / "toy/data.zip"]
    assert (tmp_path / "toy/data.zip").read_bytes() == GOOD and contents(tmp_path) == ["checksums.json", "toy/data.zip"]
    assert "recorded" in lines[0] and SHA256 in lines[0]


def test_a_web_page_is_refused_for_files_that_are_no_archives_too(server, tmp_path):
    with pytest.raises(FetchError, match="a web page .*Please sign in.* instead of the file"):
        download(f"{server.url}/page.csv", tmp_path / "data_subjects_info.csv", progress=False)
    assert contents(tmp_path) == []


def test_a_server_that_is_not_there(tmp_path):
    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        port = httpd.server_port   # free again afterwards
    with pytest.raises(FetchError, match=f"the connection to http://127.0.0.1:{port}/x.zip was not made"):
        download(f"http://127.0.0.1:{port}/x.zip", tmp_path / "x.zip", progress=False)
    assert contents(tmp_path) == []


def test_a_server_that_falls_silent(server, tmp_path):
    with open(tmp_path / "part", "wb") as file, pytest.raises(FetchError, match=r"was cut off after .* of 300,1.* bytes"):
        transfer(f"{server.url}/stall.zip", Sink(file, tmp_path / "x.zip", f"{server.url}/stall.zip", False), timeout=0.3)


def test_a_length_that_is_not_announced_is_no_fault(server, tmp_path):
    assert download(f"{server.url}/silent.zip", tmp_path / "x.zip", progress=False) == SHA256


@pytest.mark.parametrize("checksum", ["sha256:" + "0" * 64, "md5:" + "0" * 32])
def test_a_wrong_checksum_refuses_the_file(server, tmp_path, checksum):
    with pytest.raises(FetchError) as caught:
        fetch(toy(server, checksum=checksum), tmp_path, progress=False)
    said = str(caught.value)
    found = hashlib.new(checksum.split(":")[0], GOOD).hexdigest()
    assert found in said and checksum.split(":")[1] in said and "has changed" in said and server.url in said
    assert contents(tmp_path) == []


@pytest.mark.parametrize("checksum", ["sha256:" + SHA256, "md5:" + hashlib.md5(GOOD).hexdigest()])
def test_a_published_checksum_is_accepted(server, tmp_path, checksum):
    fetch(toy(server, checksum=checksum), tmp_path, progress=False, say=lambda line: None)
    assert recorded_checksums(tmp_path)["toy/data.zip"] == {"sha256": SHA256, "bytes": len(GOOD), "url": f"{server.url}/good.zip"}


def test_the_first_download_is_recorded_and_later_ones_are_held_against_it(server, tmp_path):
    lines = []
    entry = toy(server)
    fetch(entry, tmp_path, progress=False, say=lines.append)
    fetch(entry, tmp_path, progress=False, say=lines.append)           # here already: verified, not asked for again
    assert server.asked == ["/good.zip"] and "recorded" in lines[0] and "verified" in lines[1]
    (tmp_path / "toy/data.zip").unlink()
    server.mood = "other"                                              # the same address serves other data now
    with pytest.raises(FetchError, match="has changed, or was altered"):
        fetch(entry, tmp_path, progress=False)
    assert contents(tmp_path) == ["checksums.json"]
    server.mood = ""
    fetch(entry, tmp_path, progress=False, say=lines.append)
    assert (tmp_path / "toy/data.zip").read_bytes() == GOOD


def test_a_file_that_was_altered_on_disk_is_refused_and_kept(server, tmp_path):
    fetch(toy(server), tmp_path, progress=False, say=lambda line: None)
    (tmp_path / "toy/data.zip").write_bytes(OTHER)
    with pytest.raises(FetchError, match="Delete it and try again"):
        fetch(toy(server), tmp_path, progress=False)
    assert (tmp_path / "toy/data.zip").read_bytes() == OTHER   # never deleted behind the user's back


def test_half_a_set_is_completed(server, tmp_path):
    entry = Dataset("toy", "Toy", (), "a test", may_fetch=True, downloads=(
        Download("a.zip", f"{server.url}/good.zip", "this test"), Download("b.zip", f"{server.url}/gone.zip", "this test")))
    with pytest.raises(FetchError, match="404"):
        fetch(entry, tmp_path, progress=False, say=lambda line: None)
    assert contents(tmp_path) == ["checksums.json", "toy/a.zip"]       # the first file is whole, and stays
    server.mood = "good"
    fetch(entry, tmp_path, progress=False, say=lambda line: None)
    assert contents(tmp_path) == ["checksums.json", "toy/a.zip", "toy/b.zip"] and server.asked == ["/good.zip", "/gone.zip", "/gone.zip"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained_and_leaves_nothing(server, tmp_path, monkeypatch, number):
    class Full(Sink):
        def write(self, data):
            if self.bytes >= 65536:
                raise OSError(number, "No space left on device")
            super().write(data)

    monkeypatch.setattr(module, "Sink", Full)
    with pytest.raises(FetchError, match=r"data.zip: the disk is full after 65,536 bytes of http.*Make room"):
        fetch(toy(server), tmp_path, progress=False)
    assert contents(tmp_path) == []
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fetch(toy(server), tmp_path, progress=False, say=lambda line: None)
    assert (tmp_path / "toy/data.zip").read_bytes() == GOOD


def test_a_disk_that_is_full_when_the_file_is_closed(server, tmp_path, monkeypatch):
    "The last bytes may be refused only when the buffers are written."
    real = open

    class FullAtTheEnd(io.BytesIO):
        def close(self):
            super().close()
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, mode="r", *args, **kwargs):
        return FullAtTheEnd() if mode == "wb" else real(path, mode, *args, **kwargs)

    monkeypatch.setattr(module, "open", opened, raising=False)
    with pytest.raises(FetchError, match="the disk is full"):
        download(f"{server.url}/good.zip", tmp_path / "x.zip", progress=False)
    assert contents(tmp_path) == []


def test_other_trouble_of_the_disk_is_not_hidden(server, tmp_path, monkeypatch):
    class Broken(Sink):
        def write(self, data):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "Sink", Broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        fetch(toy(server), tmp_path, progress=False)
    assert not isinstance(caught.value, FetchError) and contents(tmp_path) == []


def test_an_interruption_leaves_nothing(server, tmp_path, monkeypatch):
    class Interrupted(Sink):
        def write(self, data):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "Sink", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(toy(server), tmp_path, progress=False)
    assert contents(tmp_path) == []


def test_a_zip_that_must_not_be_opened_is_not_kept(tmp_path, server, monkeypatch):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as box:
        box.writestr("../../.bashrc", "echo")
    monkeypatch.setattr(Handler, "send_good", lambda self: self.answer(file.getvalue(), len(file.getvalue())))
    with pytest.raises(FetchError, match="leads out of its folder"):
        fetch(toy(server), tmp_path, progress=False)
    assert contents(tmp_path) == []


def test_the_bar_counts_bytes(server, tmp_path, capsys):
    download(f"{server.url}/good.zip", tmp_path / "x.zip")
    assert "x.zip: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in DATASETS if not DATASETS[name].may_fetch])
def test_a_set_with_unread_terms_is_never_fetched(name, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "transfer", lambda *a, **k: pytest.fail("something was downloaded"))
    with pytest.raises(FetchError, match=f"{name} cannot be fetched"):
        fetch(name, tmp_path)


def test_a_set_put_there_by_hand_gets_its_checksum(tmp_path):
    (tmp_path / "usc_had").mkdir()
    (tmp_path / "usc_had/USC-HAD.zip").write_bytes(GOOD)
    lines = []
    assert record_found("usc_had", tmp_path, say=lines.append) == [tmp_path / "usc_had/USC-HAD.zip"]
    assert json.loads((tmp_path / "checksums.json").read_text())["usc_had/USC-HAD.zip"]["sha256"] == SHA256
    (tmp_path / "usc_had/USC-HAD.zip").write_bytes(OTHER)
    with pytest.raises(FetchError, match="expected " + SHA256):
        record_found("usc_had", tmp_path)
    (tmp_path / "voc2012").mkdir()
    (tmp_path / "voc2012/VOCtrainval_11-May-2012.tar").write_bytes(b"not it")
    with pytest.raises(FetchError, match="expected 6cd6e144f989b92b3379bac3b3de84fd"):   # the published one
        record_found("voc2012", tmp_path)


def test_a_zip_without_checksum_must_at_least_be_complete(tmp_path):
    (tmp_path / "x.zip").write_bytes(GOOD[:-10])
    with pytest.raises(FetchError, match=r"x.zip: .*cut off or damaged.*\(from http://there\)"):
        verify(tmp_path / "x.zip", tmp_path / "x.zip", "http://there")
    (tmp_path / "x.csv").write_bytes(b"1,2,3\n")
    assert len(verify(tmp_path / "x.csv", tmp_path / "x.csv", "http://there")) == 64
