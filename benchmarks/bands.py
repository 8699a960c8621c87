"""Band split: fixed matrices against `scipy.signal.sosfiltfilt`.

    python benchmarks/bands.py [--allocator no-mmap]

All candidates take float32 windows (B, 3, T) and return (B, W, 3, T). SciPy works in float64 and returns it; its filters are
designed beforehand. Two readings of SciPy are timed. "low-passes" computes what we compute, bands as differences, and
needs one low-pass an edge; it is the baseline. "three filters" is the paper's wording, one filter a band, whose bands do not
add up to the window.
"""
import numpy as np
import torch
from scipy import signal

import measure
from slotpapers.blocks.bands import BAND_SWEEP, Bands, bands_by_scipy, padding_length


def windows(B, T):
    "Gravity, a swing and noise, m/s²."
    rng = np.random.default_rng(0)
    swing = 3 * np.sin(2 * np.pi * 1.8 * np.arange(T) / 50 + rng.uniform(0, 6, (B, 3, 1)))
    return (5.66 * rng.normal(size=(B, 3, 1)) + swing + rng.normal(size=(B, 3, T))).astype(np.float32)


def candidates(B, T, n_bands):
    "SciPy twice, and the module."
    x, edges, padlen = windows(B, T), BAND_SWEEP[n_bands], padding_length(T)
    design = lambda kind, edge: signal.butter(4, edge, kind, fs=50, output="sos")
    lows = [design("low", edge) for edge in edges]
    each = [design("low", edges[0]), *(design("band", pair) for pair in zip(edges, edges[1:])), design("high", edges[-1])]
    through = lambda sections: signal.sosfiltfilt(sections, x, axis=-1, padtype="odd", padlen=padlen)

    def low_passes():
        steps = [np.zeros_like(x), *(through(sections) for sections in lows), x]
        return np.stack([high - low for low, high in zip(steps, steps[1:])], axis=1)

    module, tensor = Bands(edges, n_steps=T), torch.from_numpy(x)
    return {"sosfiltfilt, low-passes": low_passes, "sosfiltfilt, one filter a band": lambda: np.stack([through(s) for s in each], axis=1),
            "Bands": lambda: module(tensor)}


def error(B, T, n_bands):
    "The largest difference from SciPy in float64."
    x, edges = windows(B, T), BAND_SWEEP[n_bands]
    worst = abs(Bands(edges, n_steps=T)(torch.from_numpy(x)).double().numpy() - bands_by_scipy(x, edges)).max()
    return {"largest difference from SciPy, m/s^2": float(f"{worst:.2e}"), "equal to 1e-5": bool(worst < 1e-5)}


def case(B, T, n_bands, goal=None):
    return measure.Case(lambda: candidates(B, T, n_bands), "sosfiltfilt, low-passes", f"({B}, 3, {T}), {n_bands} bands, forward",
                        goals={"Bands": goal} if goal else {}, facts=lambda: error(B, T, n_bands))


CASES = {"slotfm": case(512, 250, 3, goal=2.5), "two seconds": case(512, 100, 3), "twelve bands": case(512, 250, 12),
         "one window": case(1, 250, 3), "long windows": case(32, 3000, 3)}

if __name__ == "__main__":
    measure.run(__file__, CASES)
