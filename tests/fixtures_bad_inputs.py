"""Inputs that must be refused, with what their message must say: damaged copies of published sets, users' own files, and windows that do not fit the weights.

`tests/test_bad_inputs.py` holds every one to its message; the page `nbs/10_data/bad_inputs.ipynb` shows the messages.
"""
import gzip
import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import fixtures_accelerometer as published
import numpy as np
import pandas as pd
import torch

from slotpapers.core.seeds import forked_rng
from slotpapers.data.readers import LAYOUTS
from slotpapers.data.readers_layouts import read_set
from slotpapers.models.slotfm import SlotFM
from slotpapers.recipes.slotfm_embed import embed_file

RECORDING = published.motion(61.0, 100, "walk", 1)                                    # (6100, 3), m/s²


def frame(x=RECORDING, fs=100, **more):
    return pd.DataFrame(x, columns=list("xyz")).assign(time=np.arange(len(x)) / fs, **more)


def write(folder, table, kind):
    path = folder / f"walk.{kind}"
    {"csv": lambda: table.to_csv(path, index=False), "csv.gz": lambda: table.to_csv(path), "parquet": lambda: table.to_parquet(path),
     "npy": lambda: np.save(path, table[["x", "y", "z"]].to_numpy())}[kind]()
    return path


def bad(name, change, said, **options):
    return name, change, said, options


REFUSED = [
    bad("no time order", lambda d: write(d, frame().iloc[[*range(100), 50, *range(100, 6100)]], "csv"), "row 102: time goes back"),
    bad("a word", lambda d: write(d, frame().astype(object).replace({"y": {RECORDING[70, 1]: "high"}}), "csv"), "row 72, column 'y': 'high' is not a number"),
    bad("a cell too many", lambda d: (d / "walk.csv").write_text("x,y,z\n1,2,3\n1,2,3,4\n") and d / "walk.csv", "row 3: 4 cells, expected 3"),
    bad("wrong unit", lambda d: write(d, frame(), "csv"), "looks like 'm/s^2': pass that unit", unit="g"),
    bad("unknown unit", lambda d: write(d, frame(), "csv"), "unit must be one of 'm/s^2', 'g', 'mg'; got 'ft'", unit="ft"),
    bad("gravity removed", lambda d: write(d, frame(RECORDING - RECORDING.mean(0)), "csv"), "is gravity removed"),
    bad("wrong rate", lambda d: write(d, frame(), "csv"), "median step of its time is 0.01 s, and fs=25 Hz", fs=25),
    bad("milliseconds", lambda d: write(d, frame(fs=0.1), "csv"), "is fs right? Is time in milliseconds"),
    bad("no axes", lambda d: write(d, frame().rename(columns={"x": "u"}), "csv"), "which columns are the three axes?"),
    bad("axes that are not there", lambda d: write(d, frame(), "csv"), "no column 'a'; it has 'x', 'y', 'z', 'time'", axes=["a", "b", "c"]),
    bad("one axis twice", lambda d: write(d, frame(), "csv"), "three different columns", axes=["x", "x", "y"]),
    bad("no date", lambda d: write(d, frame().assign(time="yesterday"), "csv"), "row 2: 'yesterday' is no time"),
    bad("time lost", lambda d: write(d, frame().assign(time=lambda f: f.time.where(f.time != 5.0)), "csv"), "row 502: 'nan' is no time"),
    bad("time unit", lambda d: write(d, frame(), "csv"), "time_unit must be one of", time_unit="min"),
    bad("empty", lambda d: (d / "walk.csv").write_text("") or d / "walk.csv", "empty"),
    bad("header only", lambda d: (d / "walk.csv").write_text("x,y,z\n") and d / "walk.csv", "holds no rows"),
    bad("semicolons", lambda d: (d / "walk.csv").write_text("x;y;z\n1;2;3\n") and d / "walk.csv", "which columns are the three axes"),
    bad("too short", lambda d: write(d, frame().iloc[:150], "csv"), "no window of 2 s"),
    bad("spreadsheet", lambda d: (d / "walk.xlsx").write_text("PK") and d / "walk.xlsx", "must end in .csv, .csv.gz, .parquet or .npy"),
    bad("gzip cut off", lambda d: (d / "walk.csv.gz").write_bytes(gzip.compress(frame().to_csv().encode())[:20_000]) and d / "walk.csv.gz", "cut off"),
    bad("not Parquet", lambda d: (d / "walk.parquet").write_text("x,y,z") and d / "walk.parquet", "not a Parquet file"),
    bad("Parquet of text", lambda d: write(d, frame().astype({"y": str}), "parquet"), "column 'y' must hold numbers"),
    bad("not NPY", lambda d: (d / "walk.npy").write_text("x,y,z") and d / "walk.npy", "not an array of numbers"),
    bad("pickled array", lambda d: np.save(d / "walk.npy", np.array([{}], object)) or d / "walk.npy", "not an array of numbers"),
    bad("six columns", lambda d: np.save(d / "walk.npy", np.zeros((9, 6))) or d / "walk.npy", "shape (T, 3) or (3, T); it holds float64 (9, 6)"),
    bad("NPY with names", lambda d: write(d, frame(), "npy"), "no columns to be named", axes=["x", "y", "z"]),
    bad("no weights", lambda d: write(d, frame(), "npy"), "embed needs weights: --weights DIR", weights=None),
    bad("no weights in the folder", lambda d: write(d, frame(), "npy"), "no config.json in it", weights="."),
    bad("no rate", lambda d: write(d, frame(), "npy"), "fs must be a positive number", fs=0),
]


@cache
def weights() -> tempfile.TemporaryDirectory:
    "A tiny untrained model on disk; it goes when Python ends."
    home = tempfile.TemporaryDirectory()
    with forked_rng(0, "embed"):
        SlotFM(n_slots=3, slot_dim=4, hidden=8, n_blocks=1, n_steps=100).save_pretrained(home.name)
    return home


WINDOWS = {   # what does not fit the weights: arguments of encode, and the message
    "windows at another rate": ({"fs": 100}, "fs must be 50 Hz, the rate of these weights; got 100: resample"),
    "windows in g": ({"unit": "g"}, "unit must be 'm/s^2', the unit of these weights; got 'g': convert"),
    "windows of another length": ({"x": torch.zeros(2, 3, 250)}, "x must be (B, 3, 100); got (2, 3, 250)"),
    "windows of six channels": ({"x": torch.zeros(2, 6, 100)}, "x must be (B, 3, 100); got (2, 6, 100)"),
    "windows without a batch": ({"x": torch.zeros(3, 100)}, "x must be (B, 3, 100); got (3, 100)"),
    "windows with NaN": ({"x": torch.full((2, 3, 100), torch.nan)}, "x must be finite; 600 of 600"),
}


class Bad(NamedTuple):
    "An input that must be refused."
    name: str
    read_by: str                            # the set, `embed` or `encode`
    try_in: Callable[[Path], object]        # makes the input in an empty folder and reads it: must raise
    said: tuple[str, ...]                   # what the message must hold


@contextmanager
def inside(folder: Path):
    "The folder as the working directory."
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def bad_inputs() -> list[Bad]:
    "All of them."
    def published_set(name, damage):
        def attempt(folder):
            damage(published.copy_of(name, folder))
            read_set(LAYOUTS[name], folder, seconds=2)
        return attempt

    def own_file(make, options):
        def attempt(folder):
            path = make(folder)
            with inside(folder):
                embed_file(path, folder / "out.parquet", **{"fs": 100, "unit": "m/s^2", "weights": weights().name} | options)
        return attempt

    def window(arguments):
        return lambda folder: SlotFM.from_pretrained(weights().name).encode(**{"x": torch.zeros(2, 3, 100)} | arguments)

    return [*(Bad(name, of, published_set(of, damage), said) for name, (of, damage, said) in published.damaged_files().items()),
            *(Bad(name, "embed", own_file(make, options), (said,)) for name, make, said, options in REFUSED),
            *(Bad(name, "encode", window(arguments), (said,)) for name, (arguments, said) in WINDOWS.items())]


def message(bad: Bad) -> str:
    "The message that the input gets, with the folder left out; AssertionError when it is let through."
    with tempfile.TemporaryDirectory() as home:
        try:
            bad.try_in(Path(home))
        except (ValueError, FileNotFoundError) as error:
            assert not (Path(home) / "out.parquet").exists(), "a half result was left"
            return str(error).replace(f"{home}/", "").replace(home, ".")
    raise AssertionError(f"{bad.name} ({bad.read_by}) was let through")
