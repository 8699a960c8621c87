"The table of data sets, and finding them in every layout in which they may lie."
import json
import re
import zipfile
from pathlib import Path

import pytest

from slotpapers.data.registry import (DATASETS, UNKNOWN, Fact, checksum_state, data_root, dataset, find, how_to_get, locate, open_set,
                                      places, recorded_checksums, table)

NAMES = sorted(DATASETS)
STORED = [name for name in NAMES if not DATASETS[name].generated]


def put_zip(path: Path, *names: str, inside: str = "") -> None:
    "A zip of small files at `path`, wrapped in another zip under the name `inside` when that is given."
    path.parent.mkdir(parents=True, exist_ok=True)
    inner = path.with_suffix(".inner") if inside else path
    with zipfile.ZipFile(inner, "w") as box:
        for name in names:
            box.writestr(name, "1")
    if inside:
        with zipfile.ZipFile(path, "w") as box:
            box.write(inner, inside)
        inner.unlink()


def put_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")


# the table -----------------------------------------------------------------------------------------------------------

def test_every_set_that_the_papers_name_is_there():
    by_paper = {paper: {e.name for e in DATASETS.values() if paper in e.papers} for paper in ("SlotFM", "SlotSSM", "SmoothSA")}
    assert by_paper["SlotFM"] == {"capture24", "hangtime", "prism", "realworld", "silent_impact", "shl", "wear", "hci_tabletop", "white2022",
                                  "santos2022", "gencoglu2020", "hhar", "usc_had", "motionsense", "pamap2", "daphnet"}
    assert by_paper["SlotSSM"] == {"movi_a", "movi_b", "cater", "clevrer", "ut_egocentric", "waymo", "tiktok", "bouncing_balls", "blinking_balls"}
    assert by_paper["SmoothSA"] == {"clevrtex", "coco2017", "voc2012", "voc2007", "movi_c", "movi_d", "movi_e", "ytvis_hq", "ytvis2022", "gqa", "clevrer"}
    tasks = " ".join(e.task for e in DATASETS.values())
    for task in "Basketball Cooking Locomotion TennisShot Transportation Workouts Writing JumpPower NumSteps WalkDistance ThrowSpeed FoG".split():
        assert task in tasks, task


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_complete_and_honest(name):
    entry = DATASETS[name]
    assert entry.title and entry.task
    for fact in (entry.licence, entry.size, entry.page, entry.citation):
        assert isinstance(fact, Fact) and fact.text
        assert ("unverified" in str(fact)) == (not fact.source)
    if entry.page is not UNKNOWN and not entry.generated:
        assert re.fullmatch(r"https?://\S+", entry.page.text), entry.page
    for item in entry.downloads:
        assert re.fullmatch(r"https?://\S+", item.url) and item.source and "/" not in item.file
        assert re.fullmatch(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})?", item.checksum), item
    if entry.may_fetch:   # terms read, addresses read; what is fetched is what is looked for
        assert entry.licence.source and entry.licence is not UNKNOWN and entry.downloads
        assert entry.files == () or set(entry.files) & {item.file for item in entry.downloads}
    else:
        assert bool(entry.how) != bool(entry.generated)
    assert entry.generated or entry.files or entry.unpacked


def test_memory_is_shown_as_unverified_and_ignorance_as_unknown():
    rows = {row["name"]: row for row in table("/nowhere")}
    assert rows["usc_had"]["licence"] == "free for research (unverified)"
    assert rows["hangtime"]["licence"] == rows["gencoglu2020"]["page"] == "unknown"
    assert rows["capture24"]["checksum"] == "unknown: recorded at first download"
    assert rows["voc2012"]["checksum"] == "1 of 1 published"


def test_the_table_has_all_columns_for_all_sets():
    rows = table("/nowhere")
    assert [row["name"] for row in rows] == list(DATASETS)
    columns = {"name", "title", "papers", "task", "licence", "size", "page", "citation", "get", "checksum", "found"}
    assert all(set(row) == columns and all(isinstance(v, str) and v for v in row.values()) for row in rows)
    assert {row["found"] for row in rows} == {"generated", "not found under /nowhere"}
    assert [row["name"] for row in table("/nowhere", ("hhar", "USC-HAD"))] == ["hhar", "usc_had"]


def test_names_are_found_with_any_spelling_and_wrong_ones_get_suggestions():
    assert dataset("Motion-Sense").name == "motionsense" and dataset("wisdm_2019").name == "wisdm2019"
    with pytest.raises(ValueError, match="called 'pamap': did you mean pamap2"):
        dataset("pamap")
    with pytest.raises(ValueError, match="slotpapers datasets"):
        dataset("qqqqqqq")


def test_every_reader_has_an_entry():
    from slotpapers.data.readers import LAYOUTS
    assert set(LAYOUTS) <= set(DATASETS)


# the data root -------------------------------------------------------------------------------------------------------

def test_argument_then_variable_then_data_raw(monkeypatch, tmp_path):
    monkeypatch.delenv("SLOTPAPERS_DATA", raising=False)
    assert data_root() == Path("data/raw")
    monkeypatch.setenv("SLOTPAPERS_DATA", str(tmp_path))
    assert data_root() == tmp_path and data_root("elsewhere") == Path("elsewhere")
    put_zip(tmp_path / "usc_had/USC-HAD.zip", "Subject1/a1t1.mat")
    assert find("usc_had") == tmp_path / "usc_had/USC-HAD.zip"


# finding -------------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "zip at home": lambda root: put_zip(root / "daphnet/dataset_fog_release.zip", "dataset_fog_release/dataset/S01R01.txt"),
    "zip at the root": lambda root: put_zip(root / "dataset_fog_release.zip", "dataset_fog_release/dataset/S01R01.txt"),
    "UCI's zip around it": lambda root: put_zip(root / "daphnet/daphnet+freezing+of+gait.zip", "dataset_fog_release/dataset/S01R01.txt",
                                                inside="dataset_fog_release.zip"),
    "UCI's zip, flat": lambda root: put_zip(root / "daphnet/daphnet+freezing+of+gait.zip", "dataset_fog_release/dataset/S01R01.txt"),
    "UCI's zip unpacked": lambda root: put_zip(root / "daphnet/dataset_fog_release.zip", "dataset_fog_release/dataset/S01R01.txt"),
    "unpacked at home": lambda root: put_files(root, "daphnet/dataset_fog_release/dataset/S01R01.txt"),
    "unpacked at home, flat": lambda root: put_files(root, "daphnet/dataset/S01R01.txt"),
    "unpacked at the root": lambda root: put_files(root, "dataset_fog_release/dataset/S01R01.txt"),
    "zip and unpacked": lambda root: (put_files(root, "daphnet/dataset_fog_release/dataset/S01R01.txt"),
                                      put_zip(root / "daphnet/dataset_fog_release.zip", "dataset_fog_release/dataset/S01R01.txt")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_is_found_in_every_layout(layout, tmp_path):
    LAYOUTS[layout](tmp_path)
    place = find("daphnet", tmp_path)
    assert place.exists() and place.is_relative_to(tmp_path) and place != tmp_path
    with open_set("daphnet", tmp_path) as files:
        found = files.match("S*R*.txt")
        assert found == files.match("dataset/S*R*.txt") and len(found) == 1
        assert files.open(found[0]).read() == b"1"


def test_several_archives_are_one_view(tmp_path):
    parts = [f"SHLDataset_preview_v1_part{i}.zip" for i in (1, 2, 3)]
    for place in ("shl", "."):
        root = tmp_path / place.replace(".", "top")
        for i, part in enumerate(parts, 1):
            put_zip(root / place / part, f"SHLDataset_preview_v1/User{i}/Hips_Motion.txt")
        with open_set("shl", root) as files:
            assert [name.split("/")[-2] for name in files.match("User*/Hips_Motion.txt")] == ["User1", "User2", "User3"]
    assert find("shl", tmp_path / "shl") == tmp_path / "shl/shl"


def test_what_lies_beside_an_archive_is_seen_too(tmp_path):
    put_zip(tmp_path / "motionsense/B_Accelerometer_data.zip", "B_Accelerometer_data/dws_1/sub_1.csv")
    put_files(tmp_path / "motionsense", "data_subjects_info.csv")
    with open_set("motionsense", tmp_path) as files:
        assert files.names() == ["B_Accelerometer_data/dws_1/sub_1.csv", "data_subjects_info.csv"]


def test_a_gzipped_tar_is_not_walked_again_beside_its_unpacked_copy(tmp_path):
    put_files(tmp_path, "clevrtex/clevrtex_full/0/x.png")
    (tmp_path / "clevrtex/clevrtex_full_part1.tar.gz").write_bytes(b"not opened")
    with open_set("clevrtex", tmp_path) as files:
        assert "clevrtex_full/0/x.png" in files


def test_a_folder_with_only_a_readme_is_no_set(tmp_path):
    put_files(tmp_path, "daphnet/README.md", "capture24/notes.txt", "coco2017/x.jpg")
    for name in ("daphnet", "capture24", "coco2017"):
        assert locate(name, tmp_path) is None
        with pytest.raises(FileNotFoundError):
            open_set(name, tmp_path)


@pytest.mark.parametrize("name", STORED)
def test_an_absent_set_says_what_was_looked_for_and_what_to_do(name, tmp_path):
    entry = dataset(name)
    with pytest.raises(FileNotFoundError) as caught:
        find(name, tmp_path / "none")
    said = str(caught.value)
    assert f"{tmp_path / 'none'} (a folder that does not exist)" in said and "SLOTPAPERS_DATA" in said
    assert all(f"{name}/{file}" in said for file in entry.files)
    assert f"slotpapers fetch {name}" in said if entry.may_fetch else entry.how in said and f"{name}/" in said


def test_a_generated_set_names_its_function(tmp_path):
    with pytest.raises(FileNotFoundError, match="generated, not stored: call slotpapers.data.balls.bouncing_balls"):
        find("bouncing_balls", tmp_path)
    assert how_to_get("bouncing_balls") == "nothing to get: slotpapers.data.balls.bouncing_balls draws it"


def test_checksums_are_counted_and_a_broken_record_is_named(tmp_path):
    assert recorded_checksums(tmp_path) == {}
    (tmp_path / "checksums.json").write_text(json.dumps({"capture24/capture24.zip": {"sha256": "0" * 64}}))
    assert checksum_state(dataset("capture24"), tmp_path) == "1 recorded here"
    assert checksum_state(dataset("motionsense"), tmp_path) == "1 of 2 published"
    (tmp_path / "checksums.json").write_text('{"capture24/')
    with pytest.raises(ValueError, match=r"checksums.json is not JSON \(line 1\)"):
        table(tmp_path)


def test_the_samples_are_found(data_root):
    found = {name for name in STORED if places(DATASETS[name], data_root)}
    assert {"motionsense", "daphnet", "wisdm2019", "clevrer", "coco2017", "movi_preview"} <= found
    with open_set("motionsense", data_root) as files:
        assert len(files.match("*_*/sub_*.csv")) == 120
    with open_set("clevrer", data_root) as files:
        assert len(files.match("video_*.mp4")) == 4
