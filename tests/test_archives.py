"Archives: equal views of zip, tar and folder, and one refusal for each way in which an archive can harm or mislead."
import copy
import errno
import gzip
import io
import os
import stat
import struct
import tarfile
import warnings
import zipfile

import pytest

from slotpapers.core.seeds import numpy_stream
from slotpapers.data import archives
from slotpapers.data.archives import ArchiveError, Caps, expand, extract, open_archive, open_stream, safe_name, watch


def make_zip(*entries, compression=zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as box:
        warnings.simplefilter("ignore")   # zipfile warns of duplicate names, and writes them
        for name, data in entries:
            box.writestr(name, data)
    return file.getvalue()


def make_tar(*entries, mode="w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as box:
        for name, data in entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            box.addfile(info, io.BytesIO(data))
    return file.getvalue()


def tar_header(**fields) -> bytes:
    info = tarfile.TarInfo("x")
    for key, value in fields.items():
        setattr(info, key, value)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as box:
        box.addfile(info)
    return file.getvalue()


def zip_info(name: str, mode: int = 0, **fields) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = name   # set afterwards: the constructor would tidy the name
    info.external_attr = mode << 16
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def read_all(data: bytes, caps: Caps = Caps()) -> dict[str, bytes]:
    with open_stream(io.BytesIO(data), "some.archive", caps) as view:
        return {name: view.open(name).read() for name in view.names()}


def refused(data: bytes, said: str, caps: Caps = Caps()) -> None:
    with pytest.raises(ArchiveError, match=said) as caught:
        read_all(data, caps)
    assert "some.archive" in str(caught.value)   # the file is always named
    assert isinstance(caught.value, ValueError)


# equal views ---------------------------------------------------------------------------------------------------------

def random_tree(seed: int) -> dict[str, bytes]:
    draw = numpy_stream(seed, "tree")
    words = ["data", "S01R01.txt", "mit Leerzeichen.csv", "größe", "x.tar.x", "b", "..c", "d.", "日本"]
    tree = {}
    for i in range(int(draw.integers(1, 12))):
        *folders, last = [words[k] + str(i) for k in draw.integers(0, len(words), draw.integers(1, 4))]
        tree["/".join([*folders, last + ".file"])] = draw.bytes(int(draw.integers(0, 3000)))
    return tree


@pytest.mark.parametrize("seed", range(12))
def test_zip_tar_and_folder_give_the_same_view(seed, tmp_path):
    tree = random_tree(seed)
    side = [("__MACOSX/data/._x", b"1"), (".DS_Store", b"2"), ("data0/._S01", b"3")]
    folder = tmp_path / "folder"
    for name, data in [*tree.items(), *side]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    packed = {"a.zip": make_zip(*tree.items(), *side), "stored.zip": make_zip(*tree.items(), *side, compression=zipfile.ZIP_STORED),
              "a.tar": make_tar(*tree.items(), *side), "a.tar.gz": make_tar(*tree.items(), *side, mode="w:gz")}
    for name, data in packed.items():
        (tmp_path / name).write_bytes(data)
    for kind in ("folder", *packed):
        with open_archive(tmp_path / kind) as view:
            assert view.names() == sorted(tree) and len(view) == len(tree)
            assert {name: view.open(name).read() for name in view.names()} == tree
            assert {name: view.members[name].size for name in view.names()} == {name: len(data) for name, data in tree.items()}
            out = extract(view, tmp_path / f"out-{kind}")
        assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == tree


def test_members_can_be_read_in_any_order_and_with_seeks():
    tree = {f"{i}.bin": bytes([i]) * 5000 for i in range(5)}
    for data in (make_zip(*tree.items()), make_tar(*tree.items()), make_tar(*tree.items(), mode="w:gz")):
        with open_stream(io.BytesIO(data), "a") as view:
            streams = {name: view.open(name) for name in reversed(view.names())}
            for name in view.names():
                streams[name].seek(4990)
                assert streams[name].read() == tree[name][4990:]
                streams[name].seek(0)
                assert streams[name].read(10) == tree[name][:10] and streams[name].tell() == 10


def test_a_stream_outlives_a_view_that_nobody_holds(tmp_path):
    (tmp_path / "a.zip").write_bytes(make_zip(("x", b"12345")))
    assert open_archive(tmp_path / "a.zip").open("x").read() == b"12345"


def test_match_counts_from_the_end_of_the_path():
    with open_stream(io.BytesIO(make_zip(("top/dataset/S01R01.txt", b""), ("top/doc/S01R01.txt", b""), ("S02R01.txt", b""))), "a") as view:
        assert view.match("dataset/S*.txt") == ["top/dataset/S01R01.txt"]
        assert view.match("S01*.txt", "S02*.txt") == view.names()
        assert view.match("*.csv") == []


def test_an_absent_member_is_named_with_what_is_there():
    with open_stream(io.BytesIO(make_zip(("a.txt", b""))), "set.zip") as view:
        with pytest.raises(FileNotFoundError, match=r"set.zip: no file 'b.txt'.*a.txt"):
            view.open("b.txt")
        with pytest.raises(FileNotFoundError, match="no file 'b.zip'"):
            view.open_archive("b.zip")


def test_reads_are_told_to_the_watcher():
    told = []
    with open_stream(io.BytesIO(make_zip(("a.csv.gz", gzip.compress(b"x" * 9000)))), "a.zip") as view:
        with watch(told.append):
            assert len(view.open("a.csv.gz", gunzip=True).read()) == 9000
        assert sum(told) == view.members["a.csv.gz"].size   # the packed bytes, once
        told.clear()
        view.open("a.csv.gz").read()
    assert told == []


# names ---------------------------------------------------------------------------------------------------------------

BAD_NAMES = {"../x": "leads out", "a/../../x": "leads out", "a/..": "leads out", "..": "leads out", "a\\..\\..\\x": "leads out",
             "/etc/passwd": "absolute", "//server/x": "absolute", "\\windows\\x": "absolute", "C:\\x": "drive letter", "c:x": "drive letter",
             "a/D:/x": "drive letter", "a\nb": "control character", "a\x7f": "control character", "x" * 256: "255 bytes", "ü" * 128: "255 bytes"}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_wherever_it_stands(name):
    for entries in ([(name, b"1")], [("good.txt", b"1"), (name, b"1"), ("other.txt", b"1")]):
        refused(make_zip(*((zip_info(n), d) for n, d in entries)), BAD_NAMES[name])
        refused(make_tar(*entries), BAD_NAMES[name])
        refused(make_tar(*entries, mode="w:gz"), BAD_NAMES[name])


def test_a_name_with_a_zero_byte_is_refused_in_a_zip():
    refused(make_zip((zip_info("good.txt\0.exe"), b"1")), "control character")


def test_a_folder_entry_may_not_leave_either():
    refused(make_zip((zip_info("../out/"), b"")), "leads out")
    refused(tar_header(name="../out", type=tarfile.DIRTYPE), "leads out")


def test_the_short_cut_for_plain_names_agrees_with_the_rules(monkeypatch):
    draw, never = numpy_stream(0, "names"), archives.re.compile("(?!)")
    pieces = ["a", "..", ".", "...", "/", "/", "\\", ":", "C:", "\n", "\0", "é", "x" * 64, " ", ".x", "x.", "日" * 63]
    results = {}
    for names in [["".join(pieces[k] for k in draw.integers(0, len(pieces), draw.integers(1, 6))) for _ in range(4000)]]:
        for pattern in (archives.PLAIN, never):
            monkeypatch.setattr(archives, "PLAIN", pattern)
            for name in names:
                try:
                    got = safe_name(name, "a.zip")
                except ArchiveError:
                    got = "refused"
                assert results.setdefault(name, got) == got, name
    assert 200 < sum(got == "refused" for got in results.values()) < len(results) - 200


def test_a_file_without_a_name_is_refused():
    refused(make_zip((zip_info(""), b"1")), "no name")
    refused(make_zip((zip_info("./."), b"1")), "no name")


def test_good_names_pass():
    for name in ("a..b/c...txt", "...", "a b/ü.csv", ".hidden", "x" * 255, "a:b"[1:], "data/2024-01-01T00.csv"):
        assert safe_name(name, "a.zip") == name
    assert safe_name("./a//b/./c", "a.zip") == "a/b/c" and safe_name("a\\b", "a.zip") == "a/b"


TWINS = [("README", "readme"), ("a/x", "A/X"), ("\u00e9.txt", "e\u0301.txt"), ("stra\u00dfe", "STRASSE"), ("a", "a"), ("a//b", "a/b"),
         ("x", "x/y"), ("x/y", "x"), ("X", "x/y/z"), ("a/b/c", "A/B")]


@pytest.mark.parametrize("first, second", TWINS)
def test_names_that_would_be_one_file_are_refused(first, second):
    for data in (make_zip((first, b"1"), (second, b"2")), make_tar((first, b"1"), (second, b"2"))):
        refused(data, "would be one file where case does not count")


def test_folders_may_differ_in_case_and_side_files_may_repeat():
    entries = [("A/x", b"1"), ("a/y", b"2"), (".DS_Store", b""), (".ds_store/x", b"3"), ("A/.DS_Store", b""), ("__MACOSX/A/x", b""), ("__MACOSX/a/x", b"")]
    assert set(read_all(make_zip(*entries))) == set(read_all(make_tar(*entries))) == {"A/x", "a/y", ".ds_store/x"}


# kinds of members ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, said", [(stat.S_IFLNK, "is a link"), (stat.S_IFCHR, "device or pipe"), (stat.S_IFBLK, "device or pipe"),
                                        (stat.S_IFIFO, "device or pipe"), (stat.S_IFSOCK, "device or pipe")])
def test_what_is_no_file_is_refused_in_a_zip(kind, said):
    refused(make_zip(("good", b"1"), (zip_info("odd", kind | 0o644), b"/etc/passwd")), said)


@pytest.mark.parametrize("kind, said", [(tarfile.SYMTYPE, "is a link"), (tarfile.LNKTYPE, "is a link"), (tarfile.CHRTYPE, "device"),
                                        (tarfile.BLKTYPE, "device"), (tarfile.FIFOTYPE, "pipe"), (b"Z", "device")])
def test_what_is_no_file_is_refused_in_a_tar(kind, said):
    header = tar_header(name="odd", type=kind, linkname="../../etc/passwd")
    refused(header, said)
    refused(gzip.compress(header), said)


def test_a_link_that_stays_inside_is_refused_too():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as box:
        box.addfile(tarfile.TarInfo("real"))
        for kind in (tarfile.LNKTYPE,):
            info = tarfile.TarInfo("alias")
            info.type, info.linkname = kind, "real"
            box.addfile(info)
    refused(file.getvalue(), "'alias' is a link")


def test_a_sparse_member_is_refused():
    "A header of the GNU sparse type: 512 bytes that claim a terabyte of holes."
    info = tarfile.TarInfo("holes")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % 2**40 if 2**40 < 8**11 else tarfile.itn(2**40, 12, tarfile.GNU_FORMAT)
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    refused(bytes(header) + bytes(1024), "sparse")


def test_an_encrypted_member_is_refused():
    data = bytearray(make_zip(("secret.csv", b"1,2,3")))
    data[6] |= 1                                              # the flag in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1                  # and in the directory
    refused(bytes(data), "is encrypted: unpack it with its password")


# caps ----------------------------------------------------------------------------------------------------------------

def test_caps_on_members_and_bytes():
    entries = [(f"{i}.txt", b"12345") for i in range(10)]
    for data in (make_zip(*entries), make_tar(*entries), make_tar(*entries, mode="w:gz")):
        assert len(read_all(data, Caps(members=10, total=50))) == 10
        refused(data, "more than 9 members", Caps(members=9))
        refused(data, "above the cap of 49", Caps(total=49))


def test_folders_count_as_members():
    refused(make_zip(*((zip_info(f"{i}/"), b"") for i in range(5))), "more than 4 members", Caps(members=4))


def test_a_folder_has_a_cap_on_members(tmp_path):
    for i in range(3):
        (tmp_path / str(i)).touch()
    with pytest.raises(ArchiveError, match="more than 2 files"):
        open_archive(tmp_path, Caps(members=2))


@pytest.mark.parametrize("entries", [[("zeros", bytes(2**22))], [(f"{i}", bytes(2**18)) for i in range(16)]])
def test_a_bomb_is_refused_whether_in_one_member_or_in_many(entries):
    caps = Caps(small=2**20)
    refused(make_zip(*entries), "more than 200 times", caps)
    refused(make_tar(*entries, mode="w:gz"), "more than 200 times|unpacks to more than", caps)
    assert len(read_all(make_zip(*entries), Caps(small=2**23))) == len(entries)   # small ones may compress as they like


def test_a_header_that_asks_for_gigabytes_of_memory_is_stopped():
    "A pax header is read into memory before its member is seen; here it would be 64 MiB from 64 kB."
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**26
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        read_all(gzip.compress(info.tobuf() + bytes(2**26 + 1024)), Caps(small=2**20))


def test_what_follows_the_end_of_a_tar_counts_too():
    packed = gzip.compress(make_tar(("x", b"1")) + bytes(2**24))
    refused(packed, "unpacks to more than", Caps(small=2**20))


def test_overlapping_members_are_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as box:
        box.writestr("a", bytes(1000))
        for i in range(20):
            twin = copy.copy(box.filelist[0])
            twin.filename = f"b{i}"
            box.filelist.append(twin)
    refused(file.getvalue(), "overlaps")


def test_nested_archives_end_at_the_depth():
    data = make_zip(("x", b"1"))
    for _ in range(6):
        data = make_zip(("inner.zip", data))
    view, depth = open_stream(io.BytesIO(data), "doll.zip", Caps(depth=3)), 1
    with pytest.raises(ArchiveError, match="nested deeper"):
        while True:
            view, depth = view.open_archive("inner.zip"), depth + 1
    assert depth == 3
    with pytest.raises(ArchiveError, match="nested deeper"):
        expand(open_stream(io.BytesIO(data), "doll.zip", Caps(depth=3)), {"inner.zip"})


def test_a_negative_size_is_refused():
    header = bytearray(tarfile.TarInfo("x").tobuf())
    header[124:136] = b"\xff" * 11 + b"\x00"
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    refused(bytes(header) + bytes(2048), "negative size|damaged")


# damage --------------------------------------------------------------------------------------------------------------

TREE = {f"data/{i}.bin": numpy_stream(0, "damage", i).bytes(700) for i in range(4)}


@pytest.mark.parametrize("make", [make_zip, lambda *e: make_tar(*e, mode="w:gz")])
def test_a_cut_anywhere_is_noticed(make):
    data = make(*TREE.items())
    assert read_all(data) == TREE
    for end in range(2, len(data) - 1, 13):
        with pytest.raises(ArchiveError):
            read_all(data[:end])


def test_a_tar_that_is_cut_between_two_members_is_noticed():
    data = make_tar(*TREE.items())
    for end in [*range(512, 4 * 1536, 256), 4 * 1536]:   # a member is a header and two blocks
        with pytest.raises(ArchiveError, match="damaged"):
            read_all(data[:end])
    assert read_all(data[:4 * 1536 + 1024]) == TREE      # two closing blocks, without the padding


@pytest.mark.parametrize("make", [make_zip, make_tar, lambda *e: make_tar(*e, mode="w:gz")])
def test_a_flipped_bit_never_gives_an_error_of_another_kind(make):
    data, draw = make(*TREE.items()), numpy_stream(0, "flips")
    for place in draw.integers(0, len(data), 300):
        broken = bytearray(data)
        broken[place] ^= 1 << int(draw.integers(8))
        try:
            seen = read_all(bytes(broken))
        except ArchiveError:
            continue
        if make is not make_tar:   # a plain tar has no checksum over its members' bytes
            assert set(seen.values()) <= set(TREE.values())


def test_a_member_that_lies_about_its_size_is_never_read_past_it():
    data = bytearray(make_zip(("x", bytes(10_000))))
    place = data.index(b"PK\x01\x02") + 24
    data[place:place + 4] = struct.pack("<I", 10)
    with pytest.raises(ArchiveError, match="x, after byte 0: BadZipFile: Bad CRC-32"):
        read_all(bytes(data))


def test_damage_inside_a_member_names_archive_member_and_byte():
    body = numpy_stream(0, "body").bytes(300_000)
    data = bytearray(make_zip(("a/b.bin", body), compression=zipfile.ZIP_STORED))
    data[250_000] ^= 255
    with open_stream(io.BytesIO(bytes(data)), "set.zip") as view, pytest.raises(ArchiveError) as caught:
        view.open("a/b.bin").read()
    assert str(caught.value).startswith("set.zip!a/b.bin, after byte ") and "download it again" in str(caught.value)


@pytest.mark.parametrize("end", [4, 11, 200, -9, -1])
def test_a_truncated_gzip_inside_is_named(end):
    table = b"time,x,y,z\n" + numpy_stream(0, "table").bytes(3000)
    with open_stream(io.BytesIO(make_zip(("P001.csv.gz", gzip.compress(table, mtime=0)[:end]))), "capture24.zip") as view:
        with pytest.raises(ArchiveError, match="capture24.zip!P001.csv.gz, after byte .*download it again"):
            view.open("P001.csv.gz", gunzip=True).read()


def test_trouble_of_the_disk_is_not_blamed_on_the_archive():
    class Failing(io.BytesIO):
        def read(self, *size):
            raise OSError(errno.EIO, "Input/output error")

        read1 = read

    with open_stream(io.BytesIO(make_zip(("x", b"1"))), "a.zip") as view:
        view.members["x"] = archives.Member(1, Failing)
        with pytest.raises(OSError, match="Input/output error") as caught:
            view.open("x").read()
    assert caught.value.errno == errno.EIO


def test_gunzip_reads_what_was_packed_and_stops_a_bomb():
    table = b"time,x,y,z\n" * 1000
    with open_stream(io.BytesIO(make_zip(("P001.csv.gz", gzip.compress(table)), ("bomb.gz", gzip.compress(bytes(2**24))))), "a.zip",
                     Caps(small=2**20)) as view:
        assert view.open("P001.csv.gz", gunzip=True).read() == table
        with pytest.raises(ArchiveError, match="bomb.gz unpacks to more than"):
            view.open("bomb.gz", gunzip=True).read()
        with pytest.raises(ArchiveError, match="incorrect header check"):
            open_stream(io.BytesIO(make_zip(("x.gz", b"plain text"))), "b.zip").open("x.gz", gunzip=True).read()


@pytest.mark.parametrize("data, said", [
    (b"<!DOCTYPE html><html>sign in</html>", "web page"), (b"\xef\xbb\xbf \n<html>", "web page"), (b"", "neither zip, tar nor tar.gz"),
    (b"time,x,y,z\n" * 100, "neither zip"), (b"Rar!\x1a\x07\x00" + bytes(600), "neither zip"), (gzip.compress(b"time,x,y,z\n" * 100), "damaged"),
    (gzip.compress(b""), "damaged")],
    ids=["page", "page after a mark", "nothing", "table", "rar", "gzip of a table", "gzip of nothing"])
def test_what_is_no_archive_says_what_it_is(data, said):
    refused(data, said)


def test_an_empty_zip_is_an_empty_view():
    assert read_all(make_zip()) == {}


# folders -------------------------------------------------------------------------------------------------------------

def test_links_in_a_folder_are_refused_but_the_folder_may_be_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.csv").write_text("1")
    (tmp_path / "set").symlink_to(tmp_path / "real")
    with open_archive(tmp_path / "set") as view:
        assert view.names() == ["x.csv"] and view.open("x.csv").read() == b"1"
    for name, target in (("file", "real/x.csv"), ("folder", "real"), ("dangling", "nowhere")):
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / name).symlink_to(tmp_path / target)
        with pytest.raises(ArchiveError, match=f"{name} is a link"):
            open_archive(tmp_path / "bad")
        (tmp_path / "bad" / name).unlink()
        (tmp_path / "bad").rmdir()


def test_a_pipe_in_a_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchiveError, match="pipe is a link, a device or a pipe"):
        open_archive(tmp_path)


def test_a_missing_path_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_archive(tmp_path / "nothing.zip")


# archives in archives ------------------------------------------------------------------------------------------------

def test_expand_gives_the_names_of_unpacking_in_place(tmp_path):
    inner = make_zip(("PAMAP2_Dataset/Protocol/subject101.dat", b"1 2 3"))
    outer = make_zip(("PAMAP2_Dataset.zip", inner), ("readme.pdf", b"pdf"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/pamap2.zip").write_bytes(outer)
    for source in (open_stream(io.BytesIO(outer), "pamap2.zip"), open_archive(tmp_path / "set")):
        with expand(source, {"pamap2.zip", "PAMAP2_Dataset.zip"}) as view:
            assert view.names() == ["PAMAP2_Dataset/Protocol/subject101.dat", "readme.pdf"]
            assert view.open(view.names()[0]).read() == b"1 2 3"
            assert view.members[view.names()[0]].place.endswith("pamap2.zip!PAMAP2_Dataset.zip!PAMAP2_Dataset/Protocol/subject101.dat")


def test_damage_in_a_nested_archive_names_the_whole_way():
    inner = make_zip(("x", b"1"))[:-30]
    with open_stream(io.BytesIO(make_zip(("inner.zip", inner))), "outer.zip") as view:
        with pytest.raises(ArchiveError, match="outer.zip!inner.zip: .*download it again"):
            view.open_archive("inner.zip")


def test_a_packed_copy_wins_over_one_unpacked_by_hand(tmp_path):
    (tmp_path / "a.zip").write_bytes(make_zip(("top/x", b"published")))
    (tmp_path / "top").mkdir()
    (tmp_path / "top/x").write_bytes(b"edited")
    (tmp_path / "top/y").write_bytes(b"added")
    with expand(open_archive(tmp_path), ["a.zip"]) as view:
        assert view.names() == ["top/x", "top/y"] and view.open("top/x").read() == b"published"


# unpacking -----------------------------------------------------------------------------------------------------------

def test_extract_leaves_nothing_when_it_fails(tmp_path):
    data = bytearray(make_zip(*TREE.items(), compression=zipfile.ZIP_STORED))
    data[-1200] ^= 255   # in the bytes of the last member
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ArchiveError, match="Bad CRC-32"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_extract_reports_a_full_disk_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(make_zip(*TREE.items()))

    def full(source, target, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with pytest.raises(ArchiveError, match=r"a.zip!data/0.bin: the disk .* is full .*make room"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_extract_does_not_overwrite(tmp_path):
    (tmp_path / "a.zip").write_bytes(make_zip(*TREE.items()))
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match="exists already"):
        extract(tmp_path / "a.zip", tmp_path / "out")


def test_the_samples_open(data_root):
    counts = {}
    for path in sorted(data_root.glob("*/*.zip")):
        with open_archive(path) as view:
            counts[path.name] = len(view)
            name = view.names()[0]
            assert len(view.open(name).read()) == view.members[name].size
    assert counts["A_DeviceMotion_data.zip"] == 120 and counts["dataset_fog_release.zip"] == 7
