"The public face: load_dataset, prepare; the simulated wearer; folds; prepared folders; the weighted sampler."
import hashlib
import json
import warnings
from dataclasses import replace

import fixtures_accelerometer as published
import numpy as np
import pytest
import torch

from slotpapers.core.records import Rows
from slotpapers.core.units import STANDARD_GRAVITY, check_gravity
from slotpapers.data.accelerometer import load_dataset, prepare, prepare_stamped, windows
from slotpapers.data.folds import Fold, check_folds, load_folds, participant_folds, save_folds
from slotpapers.data.prepared import load_prepared, prepare_capture24, prepare_in_parts, save_prepared, window_std
from slotpapers.data.readers import LAYOUTS
from slotpapers.data.sampling import WeightedParticipants
from slotpapers.data.simulated import ACTIVITIES, rotation_about, simulated_windows

GOLDEN = "e2ff8de26a128bdb442e66c1718823d1a8b2aceeaba4e8f20fd72995974bfb7a"


# --- load_dataset ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["motionsense", "usc_had", "hhar", "pamap2", "daphnet", "wisdm2019", "capture24"])
def test_every_set_by_name(name, tmp_path):
    published.copy_of(name, tmp_path)
    made = load_dataset(name, str(tmp_path), fs=50, seconds=2)
    assert made.x.shape[1:] == (3, 100) and made.name == name and made.classes == list(LAYOUTS[name].classes)
    check_gravity(name, made.x[made.valid])


def test_the_promised_names():
    assert set(LAYOUTS) | {"simulated"} == {"motionsense", "usc_had", "hhar", "pamap2", "daphnet", "wisdm2019", "capture24", "simulated"}
    with pytest.raises(ValueError, match="name must be one of 'simulated', 'motionsense'"):
        load_dataset("MotionSense")


def test_simulated_needs_no_root(monkeypatch):
    monkeypatch.delenv("SLOTPAPERS_DATA", raising=False)
    made = load_dataset("simulated", seconds=2, n=24, seed=3)
    assert made.simulated and made.x.shape == (24, 3, 100) and (made.x == simulated_windows(24, 3, seconds=2.0).x).all()
    with pytest.raises(ValueError, match="position"):
        load_dataset("simulated", position="wrist")


def test_windows_never_mix_labels(tmp_path):
    "Each window of the fixture equals a stretch of the one recording it claims to come from."
    published.copy_of("usc_had", tmp_path)
    made = load_dataset("usc_had", tmp_path, seconds=2, fs=100)
    for x, start, source in zip(made.x, made.start, made.source):
        subject, activity, trial = (int("".join(c for c in part if c.isdigit())) for part in (source.split("/")[0], source.split("/a")[1].split("t")[0], source.split("t")[-2]))
        motion = published.motion(9.0, 100, {1: "walk", 9: "still", 11: "still"}[activity], subject, trial)
        assert np.abs(x - motion[round(start * 100):][:200].T).max() < 1e-3


# --- prepare -----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("unit, factor", [("m/s^2", 1.0), ("g", 1 / STANDARD_GRAVITY), ("mg", 1000 / STANDARD_GRAVITY)])
@pytest.mark.parametrize("fs", [50, 64, 100.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_prepare(unit, factor, fs, dtype):
    x = published.motion(12.0, fs, "walk").T
    ready = prepare((x * factor).astype(dtype), fs, unit)
    assert ready.dtype == np.float32 and ready.shape == (3, 600) and ready.flags["C_CONTIGUOUS"]
    assert abs(np.linalg.norm(ready, axis=0).mean() - np.linalg.norm(x, axis=0).mean()) < 0.1
    assert windows(ready, 50, 5).shape == (2, 3, 250)


def test_prepare_takes_integers_and_short_recordings():
    counts = np.round(published.motion(3.0, 50, "still").T * 1000 / STANDARD_GRAVITY).astype(np.int16)
    assert prepare(counts, 50, "mg").shape == (3, 150) and prepare(counts[:, :7], 50, "mg").shape == (3, 7)


def wrong(**changes):
    return {"x": published.motion(5.0, 50, "still").T, "fs": 50, "unit": "m/s^2"} | changes


@pytest.mark.parametrize("arguments, said", [
    (wrong(unit="g"), "x must measure gravity at rest"),
    (wrong(unit="G"), "unit must be one of 'm/s^2', 'g', 'mg'; got 'G'"),
    (wrong(x=published.motion(5.0, 50, "still").T / STANDARD_GRAVITY), "it looks like 'g': pass unit='g'"),
    (wrong(x=np.diff(published.motion(5.0, 50, "still").T)), "is gravity removed"),
    (wrong(x=published.motion(5.0, 50, "still")), "axes come first, pass x.T"),
    (wrong(x=np.zeros((3, 0))), "T at least 1"),
    (wrong(x=np.zeros((2, 3, 50))), "x must be (3, T)"),
    (wrong(x=np.full((3, 50), np.nan)), "50 of 50 samples are not, the first run at sample 0 (0.00 s), 50 long"),
    (wrong(x=np.where(np.arange(250) // 10 == 7, np.nan, published.motion(5.0, 50, "still").T)), "the first run at sample 70 (1.40 s), 10 long"),
    (wrong(fs=0), "fs must be a positive number of Hz"),
    (wrong(fs=-50.0), "fs must be a positive number of Hz"),
])
def test_prepare_refuses(arguments, said, plain_calls):
    with pytest.raises(ValueError) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        prepare(**arguments)
    assert said in str(caught.value), str(caught.value)


def test_prepare_stamped_splits_and_says_when():
    x, t = published.motion(30.0, 100, "walk").T, np.arange(3000) / 100 + 17.0
    t[1000:] += 0.15                                   # shorter than the longest gap: one line is drawn
    t[2000:] += 5.0
    parts = prepare_stamped(t, x, "m/s^2")
    assert [(round(s, 2), p.shape) for s, p in parts] == [(0.0, (3, 1008)), (25.15, (3, 500))]
    assert all(p.dtype == np.float32 for _, p in parts)
    with pytest.raises(ValueError, match="time must increase"):
        prepare_stamped(t[::-1].copy(), x, "m/s^2", fs=100)


# --- the simulated wearer ----------------------------------------------------------------------------------------------------------

def test_golden_checksum():
    assert hashlib.sha256(simulated_windows(60, 0).x.tobytes()).hexdigest() == GOLDEN


@pytest.mark.parametrize("seconds, T", [(2.0, 100), (5.0, 250)])
def test_simulated_shapes_and_units(seconds, T):
    made = simulated_windows(240, seconds=seconds)
    assert made.x.shape == (240, 3, T) and made.x.dtype == np.float32 and made.simulated and made.valid.all()
    assert (made.x == np.round(1024 * made.x) / 1024).all()
    check_gravity("simulated", made.x)
    assert np.bincount(made.y).tolist() == [40] * 6 and len(set(made.subject)) == 24
    for s in set(made.subject):
        assert made.y[made.subject == s].max() < 6


@pytest.mark.parametrize("n", [1, 7, 60, 119])
def test_a_window_does_not_depend_on_how_many_there_are(n):
    few, many = simulated_windows(n, 5), simulated_windows(120, 5)
    assert (few.x == many.x[:n]).all() and (few.y == many.y[:n]).all() and (few.subject == many.subject[:n]).all()


def test_seeds_and_subjects_matter():
    assert not (simulated_windows(6, 0).x == simulated_windows(6, 1).x).any(axis=(1, 2)).all()
    balanced = simulated_windows(6 * 8, n_subjects=8)
    assert all(sorted(balanced.y[balanced.subject == s]) == list(range(6)) for s in set(balanced.subject))


def test_impacts_are_the_same_windows_with_counts():
    activity, counted = simulated_windows(600), simulated_windows(600, task="impacts")
    walks = np.isin(activity.y, [ACTIVITIES.index("walk"), ACTIVITIES.index("walk (twin)")])
    assert (activity.x == counted.x).all() and counted.classes == ["0", "1", "2", "3", "4"] and counted.y.dtype == np.int64
    assert not counted.y[~walks].any() and abs(counted.y[walks].std() - 2 ** 0.5) < 0.12
    peaks = np.abs(np.diff(np.linalg.norm(counted.x[walks], axis=1), axis=-1)).max(axis=-1)       # an impact is a jump of the length
    assert peaks[counted.y[walks] > 0].mean() > 1.5 * peaks[counted.y[walks] == 0].mean()


def test_twins_have_one_distribution():
    made = simulated_windows(2400, seconds=2.0)
    spread = [window_std(made.x[made.y == k]).mean() for k in (1, 5)]
    assert abs(spread[0] / spread[1] - 1) < 0.05
    assert abs(window_std(made.x[made.y == 2]).mean() / spread[0] - 1) > 0.2


@pytest.mark.parametrize("change, said", [({"n": 0}, "at least 1"), ({"n_subjects": 0}, "at least 1"), ({"seconds": 1.0}, "at least 1.5"),
                                          ({"task": "steps"}, "task must be one of"), ({"seconds": 5.003}, "whole number")])
def test_simulated_refuses(change, said):
    with pytest.raises(ValueError, match=said):
        simulated_windows(**({"n": 4} | change))


def test_rotations():
    R = rotation_about(np.array([1.0, 2.0, 2.0]), np.linspace(-4, 4, 9))
    assert np.allclose(R @ np.swapaxes(R, 1, 2), np.eye(3)) and np.allclose(np.linalg.det(R), 1)
    assert np.allclose(R @ np.array([1.0, 2.0, 2.0]), [1, 2, 2]) and np.allclose(np.trace(R, axis1=1, axis2=2), 1 + 2 * np.cos(np.linspace(-4, 4, 9)))


# --- folds -------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", list(range(5, 30)) + [73, 151])
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_of_any_size(n, seed):
    subjects = [f"P{i:03d}" for i in range(n)]
    folds = participant_folds(subjects, seed=seed)
    check_folds("sweep", folds)
    sizes = [len(f.test) for f in folds]
    assert max(sizes) - min(sizes) <= 1 and sorted(sizes, reverse=True) == sizes and sum(sizes) == n
    for f in folds:
        assert len(f.val) == max(1, round(0.2 * (n - len(f.test)))) and len(f.train) + len(f.val) + len(f.test) == n
    assert folds == participant_folds(subjects[::-1] * 2, seed=seed)


def test_folds_are_pinned():
    "The draw itself: a change would move every number that rests on it."
    folds = participant_folds([str(i) for i in range(1, 25)])
    assert (folds[0].test, folds[0].val) == PINNED
    assert hashlib.sha256(repr([(f.test, f.val) for f in folds]).encode()).hexdigest().startswith("001257c19b55060e")


PINNED = (("13", "15", "23", "6", "9"), ("12", "18", "21", "7"))


@pytest.mark.parametrize("subjects, n_folds", [(["a", "b"], 2), (["a"], 5), (list("abcd"), 5), (list("abc"), 1), ([], 5)])
def test_too_few_subjects(subjects, n_folds):
    with pytest.raises(ValueError, match="n_folds must be at least 2 and there must be at least"):
        participant_folds(subjects, n_folds)


def test_folds_on_disk(tmp_path):
    folds = participant_folds([str(i) for i in range(9)])
    save_folds(tmp_path / "folds.json", "hhar", folds)
    rows = json.loads((tmp_path / "folds.json").read_text())
    assert rows[0].keys() == {"task", "fold", "split", "pid"} and len(rows) == 45
    assert load_folds(tmp_path / "folds.json", "hhar") == folds
    with pytest.raises(ValueError, match="no folds of 'pamap2'"):
        load_folds(tmp_path / "folds.json", "pamap2")
    rows[0]["pid"] = next(r["pid"] for r in rows if r["fold"] == 0 and r["split"] == "test")
    (tmp_path / "folds.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="in two parts"):
        load_folds(tmp_path / "folds.json", "hhar")


def test_an_empty_part_is_refused():
    with pytest.raises(ValueError, match="a part is empty"):
        check_folds("x", [Fold(("a",), (), ("b",)), Fold(("b",), (), ("a",))])


# --- prepared folders --------------------------------------------------------------------------------------------------------------

def test_saved_and_opened(tmp_path):
    made = simulated_windows(30)
    manifest = save_prepared(made, tmp_path / "a", licence="mine")
    opened = load_prepared(tmp_path / "a")
    for field in ("x", "y", "subject", "start", "source", "valid"):
        assert (getattr(made, field) == getattr(opened, field)).all() and getattr(made, field).dtype == getattr(opened, field).dtype
    assert isinstance(opened.x, np.memmap) and not opened.x.flags.writeable
    assert manifest["licence"] == "mine" and manifest["simulated"] and manifest["seconds"] == 5.0 and manifest["counts"]["windows"] == 30
    assert (np.load(tmp_path / "a" / "std.npy") == window_std(made.x)).all() and sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_unlabelled_windows_stay_unlabelled(tmp_path):
    save_prepared(replace(simulated_windows(6), y=None, classes=[]), tmp_path / "a")
    assert load_prepared(tmp_path / "a").y is None and not (tmp_path / "a" / "y.npy").exists()


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    save_prepared(simulated_windows(6), tmp_path / "a")
    monkeypatch.setattr("slotpapers.data.prepared.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_prepared(simulated_windows(12), tmp_path / "a")
    assert len(load_prepared(tmp_path / "a")) == 6 and [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["x", "y", "subject", "std"])
def test_a_changed_array_is_found(name, tmp_path):
    save_prepared(simulated_windows(6), tmp_path / "a")
    data = bytearray((tmp_path / "a" / f"{name}.npy").read_bytes())
    data[-3] ^= 1
    (tmp_path / "a" / f"{name}.npy").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=f"{name}.npy is missing or not what was written"):
        load_prepared(tmp_path / "a")
    load_prepared(tmp_path / "a", verify=False)


def test_nothing_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match="no prepared windows here"):
        load_prepared(tmp_path)


def test_no_pickle_is_loaded(tmp_path):
    save_prepared(simulated_windows(6), tmp_path / "a")
    np.save(tmp_path / "a" / "source.npy", np.array([{}] * 6, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_prepared(tmp_path / "a", verify=False)


def test_parts_go_on_and_refuse_other_settings(tmp_path):
    made, calls = simulated_windows(20), []

    def maker(k):
        def make():
            calls.append(k)
            if k == "b" and calls.count("b") == 1:
                raise KeyboardInterrupt
            return made.select(np.arange(10) + 10 * "ab".index(k))
        return make
    makers = {k: maker(k) for k in "ab"}
    with pytest.raises(KeyboardInterrupt):
        prepare_in_parts(makers, tmp_path / "set", {"fs": 50})
    with pytest.raises(ValueError, match="holds parts made with"):
        prepare_in_parts(makers, tmp_path / "set", {"fs": 25})
    prepare_in_parts(makers, tmp_path / "set", {"fs": 50})
    assert calls == ["a", "b", "b"] and (load_prepared(tmp_path / "set").x == made.x).all()


def test_rows_of_a_set_larger_than_memory_stay_on_disk(tmp_path, monkeypatch):
    made = simulated_windows(96, seconds=2.0, n_subjects=8)
    save_prepared(made, tmp_path / "set")
    stored = load_prepared(tmp_path / "set")
    usable, chosen = np.flatnonzero(made.valid), sorted(set(made.subject))[::2]
    one = stored.select(usable).of(chosen)
    monkeypatch.setattr("slotpapers.core.records.IN_MEMORY", 1000)
    other = stored.select(usable).of(chosen)
    assert isinstance(one.x, np.ndarray) and isinstance(other.x, Rows) and isinstance(other.x.base, np.memmap)
    assert (np.asarray(other.x) == one.x).all() and (other.subject == one.subject).all() and (other.y == one.y).all() and (other.spread == one.spread).all()
    assert (window_std(other.x, chunk=7) == one.spread).all() and len(other) == len(one)
    for a, b in zip(*(WeightedParticipants(w, participants_per_batch=2, windows_per_participant=3, seed=1)(4).values() for w in (one, other))):
        assert a.equal(b)


def test_the_sampler_draws_by_the_spread_that_was_prepared(tmp_path, monkeypatch):
    made = simulated_windows(96, seconds=2.0, n_subjects=8)
    save_prepared(made, tmp_path / "set")
    wanted = WeightedParticipants(made, participants_per_batch=2, seed=3).indices(5)
    monkeypatch.setattr("slotpapers.data.sampling.window_std", lambda x: pytest.fail("all windows were read"))
    assert (WeightedParticipants(load_prepared(tmp_path / "set"), participants_per_batch=2, seed=3).indices(5) == wanted).all()


def test_capture24_in_parts_equals_capture24_at_once(tmp_path):
    published.copy_of("capture24", tmp_path)
    manifest = prepare_capture24(tmp_path, tmp_path / "prepared", seconds=2)
    parts, at_once = load_prepared(tmp_path / "prepared"), load_dataset("capture24", tmp_path, seconds=2)
    assert (parts.x == at_once.x).all() and (parts.start == at_once.start).all() and (parts.valid == at_once.valid).all()
    for key in ("rows", "files", "windows", "rows dropped: not annotated"):
        assert manifest["report"][key] == at_once.report[key]
    assert manifest["counts"]["windows"] == len(at_once) and manifest["licence"] == "CC BY 4.0"


# --- the weighted sampler ----------------------------------------------------------------------------------------------------------

def test_sampler_follows_the_spread():
    "Chi-square over many draws of one window: frequency is proportional to std; a constant window never comes."
    made = simulated_windows(12, n_subjects=1)
    x = made.x.copy()
    x[[2, 7]] = 9.81
    made = replace(made, x=x)
    draw = WeightedParticipants(made, participants_per_batch=1, windows_per_participant=1, seed=0)
    drawn = np.bincount([draw.indices(step)[0] for step in range(4000)], minlength=12)
    expected = 4000 * window_std(x) / window_std(x).sum()
    assert not drawn[[2, 7]].any()
    moving = expected > 0
    assert (((drawn - expected) ** 2)[moving] / expected[moving]).sum() < 27.9        # 0.1 % point, 9 degrees of freedom


def test_sampler_is_a_function_of_seed_and_step(tmp_path):
    made = simulated_windows(240, seconds=2.0, n_subjects=8)
    save_prepared(made, tmp_path / "a")
    kwargs = {"participants_per_batch": 4, "windows_per_participant": 10}
    memory, disk = WeightedParticipants(made, seed=1, **kwargs), WeightedParticipants(load_prepared(tmp_path / "a"), seed=1, **kwargs)
    for step in (5, 0, 17):
        batch = memory(step)["x"]
        assert batch.shape == (40, 3, 100) and batch.dtype == torch.float32 and torch.equal(batch, disk(step)["x"])
        rows = memory.indices(step)
        assert len(set(rows.tolist())) == 40 and len(set(made.subject[rows])) == 4
    assert not torch.equal(memory(0)["x"], WeightedParticipants(made, seed=2, **kwargs)(0)["x"])
    assert {s for step in (0, 1) for s in memory.participants(step)} == set(made.subject)      # an epoch: everybody once
