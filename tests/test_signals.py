"Resampling, gaps, missing and idle samples, windows: sweeps, slow twins, bad input."
import numpy as np
import pytest
from scipy.signal import firwin

from slotpapers.data.signals import (
    check_increasing, fill_missing, idle_samples, long_runs, mark_windows, missing_samples, nominal_rate, polyphase_ratio, resample, runs,
    split_at_gaps, to_grid, window_length, windows)

RATES = [(100, 50), (64, 50), (20, 50), (200, 50), (250, 50), (98, 50), (50, 30), (25, 50)]


def resample_by_definition(x: np.ndarray, fs: float, to_fs: float) -> np.ndarray:
    "The slow twin: zeros inserted, one long convolution, every d-th sample kept."
    up, down = polyphase_ratio(fs, to_fs)
    half, mean = 10 * max(up, down), x.mean(axis=-1, keepdims=True)
    taps = up * firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0))
    pad = half // up + 2
    ends = np.pad(x - mean, ((0, 0), (pad, pad)), mode="edge")
    sparse = np.zeros((len(x), ends.shape[1] * up))
    sparse[:, ::up] = ends
    smooth = np.stack([np.convolve(axis, taps, mode="same") for axis in sparse])
    n = -(-x.shape[1] * up // down)
    return smooth[:, pad * up:][:, ::down][:, :n] + mean


@pytest.mark.parametrize("fs, to_fs", RATES)
def test_polyphase_equals_its_definition(fs, to_fs):
    x = np.random.default_rng(0).normal(size=(3, 333)) + np.array([[0.0], [9.81], [-3.0]])
    assert np.abs(resample(x, fs, to_fs) - resample_by_definition(x, fs, to_fs)).max() < 1e-10


@pytest.mark.parametrize("fs, to_fs", RATES)
@pytest.mark.parametrize("n", [1, 7, 500, 501])
def test_the_span_of_time_is_kept(fs, to_fs, n):
    y = resample(np.full((3, n), 9.81), fs, to_fs)
    assert y.shape == (3, int(np.ceil(round(n * to_fs / fs, 9)))) and np.abs(y - 9.81).max() < 1e-9


@pytest.mark.parametrize("fs", [64, 100, 200, 250])
def test_what_lies_above_25_hz_does_not_come_back_as_something_else(fs):
    t = np.arange(20 * fs) / fs
    for f in (29.0, 30.5, fs / 2 - 0.5):
        assert np.abs(resample(np.stack([np.sin(2 * np.pi * f * t)] * 3), fs)[:, 50:-50]).max() < 0.01, f


@pytest.mark.parametrize("fs", [20, 64, 100, 200, 250])
def test_motion_below_eight_hertz_passes(fs):
    t, t50 = np.arange(20 * fs) / fs, np.arange(1000) / 50
    for f in (0.3, 2.0, 7.5):
        error = resample(np.sin(2 * np.pi * f * t)[None], fs)[0] - np.sin(2 * np.pi * f * t50)
        assert np.abs(error[50:-50]).max() < 0.01, f


def test_the_same_rate_changes_nothing():
    x = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    assert resample(x, 50, 50.0) is x


@pytest.mark.parametrize("fs, to_fs", [(0, 50), (-1, 50), (50, 0), (float("nan"), 50), (float("inf"), 50)])
def test_a_rate_must_be_positive(fs, to_fs):
    with pytest.raises(ValueError, match="must be a positive number of Hz"):
        resample(np.zeros((3, 10)), fs, to_fs)


def test_irregular_stamps_cost_little():
    stream = np.random.default_rng(0)
    t = np.cumsum(stream.uniform(0.008, 0.012, 3000))
    on_grid = to_grid(t, np.sin(2 * np.pi * 2 * t)[None], 100.0)
    wanted = np.sin(2 * np.pi * 2 * (t[0] + np.arange(on_grid.shape[1]) / 100))
    assert np.abs(on_grid - wanted).max() < (2 * np.pi * 2 * 0.012) ** 2 / 8


def test_a_grid_ends_within_the_stamps():
    for t in (np.array([0.0, 0.01, 0.02]), np.array([5.0]), np.array([0.0, 0.1, 0.2999999])):
        assert to_grid(t, t[None], 10.0).shape[1] == int((t[-1] - t[0]) * 10 + 1e-6) + 1


@pytest.mark.parametrize("t, row", [([0.0, 0.0], 2), ([0.0, 1.0, 0.5, 2.0], 3), ([0.0, 1.0, np.nan, 2.0], 3)])
def test_time_that_does_not_increase_is_named(t, row):
    with pytest.raises(ValueError, match=f"file, row {row}: time must increase"):
        check_increasing("file", np.array(t))


def test_nominal_rate_needs_stamps():
    with pytest.raises(ValueError, match="at least two stamps"):
        nominal_rate(np.zeros(1))
    assert nominal_rate(np.arange(9) / 64) == 64.0


def test_runs_cover_everything_once():
    for seed in range(20):
        values = np.random.default_rng(seed).integers(0, 3, size=seed)
        found = runs(values)
        assert [i for r in found for i in range(r.start, r.stop)] == list(range(seed))
        assert all(len(set(values[r])) == 1 for r in found)
        assert all(values[a.start] != values[b.start] for a, b in zip(found, found[1:]))


def test_gaps():
    t = np.array([0.0, 0.1, 0.3, 0.51, 0.6])
    assert [(p.start, p.stop) for p in split_at_gaps(t)] == [(0, 3), (3, 5)]
    assert len(split_at_gaps(t, max_gap=1.0)) == 1 and len(split_at_gaps(t, max_gap=0.05)) == 5


@pytest.mark.parametrize("seed", range(10))
def test_long_runs_against_a_loop(seed):
    mask = np.random.default_rng(seed).random(60) < 0.6
    wanted = np.zeros(60, bool)
    for run in runs(mask):
        wanted[run] = mask[run.start] and run.stop - run.start > 3
    assert (long_runs(mask, 3) == wanted).all()


@pytest.mark.parametrize("seed", range(10))
def test_idle_against_a_loop(seed):
    x = np.random.default_rng(seed).integers(0, 2, size=(3, 80)).astype(float)
    x[:, 30:30 + 5 * (seed % 5)] = 7.0
    wanted = np.zeros(80, bool)
    for a in range(80):
        b = a
        while b + 1 < 80 and (x[:, b + 1] == x[:, a]).all():
            b += 1
        if b - a + 1 >= 10:
            wanted[a:b + 1] = True
    assert (idle_samples(x, 10.0, seconds=1.0) == wanted).all()


def test_one_live_axis_is_life():
    x = np.zeros((3, 200))
    x[1] = np.random.default_rng(0).normal(size=200)
    assert not idle_samples(x, 50.0).any() and idle_samples(0 * x, 50.0).all() and idle_samples(np.zeros((3, 0)), 50.0).shape == (0,)


def test_filling_keeps_what_is_there():
    x = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    holed = x.copy()
    holed[0, [0, 10, 11, 49]], holed[2, 20] = np.nan, np.inf
    missing = missing_samples(holed)
    filled = fill_missing(holed, missing)
    assert np.flatnonzero(missing).tolist() == [0, 10, 11, 20, 49]
    assert (filled[:, ~missing] == x[:, ~missing]).all() and np.isfinite(filled).all() and filled.dtype == np.float32
    assert np.allclose(filled[:, 20], (x[:, 19] + x[:, 21]) / 2) and (filled[:, 0] == x[:, 1]).all()


@pytest.mark.parametrize("fs, seconds", [(50, 5), (50, 2), (20, 0.5), (30.0, 10.0)])
@pytest.mark.parametrize("n", [0, 1, 249, 250, 601])
def test_windows_are_the_recording_in_order(fs, seconds, n):
    x = np.random.default_rng(0).normal(size=(3, n))
    cut = windows(x, fs, seconds)
    length = round(fs * seconds)
    assert cut.shape == (n // length, 3, length)
    assert (np.concatenate([x[:, :0], *cut], axis=1) == x[:, :n // length * length]).all()


@pytest.mark.parametrize("fs, seconds", [(50, 0.01), (64, 0.7), (50, 0), (50, -1), (50, float("nan"))])
def test_a_window_is_a_whole_number_of_samples(fs, seconds):
    with pytest.raises(ValueError, match=r"fs \* seconds must be a whole number"):
        window_length(fs, seconds)


@pytest.mark.parametrize("seed", range(20))
def test_marks_against_a_loop(seed):
    stream = np.random.default_rng(seed)
    times, spread, n = stream.uniform(-1, 12, size=seed % 5), float(stream.choice([0.0, 0.2, 3.0])), 5
    wanted = [any(k * 2.0 - spread <= t + 1e-9 and t - spread < (k + 1) * 2.0 - 1e-9 for t in times) for k in range(n)]
    assert mark_windows(times, 2.0, n, spread).tolist() == wanted
