"""CAPTURE-24: rows parsed in a second of CPU time, and memory that does not grow with the number of participants.

    python benchmarks/capture24.py

A table is generated in the published form: gzipped text, `time,x,y,z,annotation`, 100 Hz with jitter, g to six digits, a sentence
of annotation in two rows of three. It has two million rows, five and a half hours. Each candidate turns it into stamps in
nanoseconds, three axes in single precision, and whether a row is annotated, which is what preparation needs:

* "pandas, C engine": `read_csv` with every type given and the time parsed; the baseline.
* "pandas, pyarrow engine": the same through `engine="pyarrow"`.
* "capture24_samples": ours, Arrow's streaming reader block by block, with the checks of header, order of time and rate.

Preparation is then run in processes of their own on sets of 2, 8 and 32 participants of half an hour each: the peak of the resident set
above that of the imports.
"""
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

import measure
from slotpapers.data.archives import open_archive
from slotpapers.data.readers_capture24 import capture24_samples

COLUMNS = ["time", "x", "y", "z", "annotation"]
SENTENCES = ("7030 sleeping;MET 0.95", "home activity;household chores;preparing meals/cooking/washing dishes;5035 kitchen activity general cooking;MET 3.3", "")


def table(rows: int, seed: int = 0) -> bytes:
    "The text of one participant, packed."
    stream, out = np.random.default_rng(seed), io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, mtime=0) as file:
        file.write((",".join(COLUMNS) + "\n").encode())
        for first in range(0, rows, 100_000):
            at = np.arange(first, min(rows, first + 100_000))
            stamps = np.datetime64("2014-05-07T13:29:50", "us") + (at * 10_000 + stream.integers(0, 400, len(at))).astype("timedelta64[us]")
            x = np.stack([0.3 * np.sin(at / 37), 0.2 * np.cos(at / 11), 0.9 + 0.05 * np.sin(at / 90)], axis=1) + stream.normal(0, 0.05, (len(at), 3))
            file.write("".join(f"{str(s).replace('T', ' ')},{a:.6f},{b:.6f},{c:.6f},{SENTENCES[k]}\n" for s, (a, b, c), k in zip(
                stamps, x.tolist(), (at // 6000) % 3)).encode())
    return out.getvalue()


@cache
def home(rows: int) -> tempfile.TemporaryDirectory:
    "A folder with one participant's file; it goes when Python ends."
    folder = tempfile.TemporaryDirectory()
    Path(folder.name, "P001.csv.gz").write_bytes(table(rows))
    return folder


def by_pandas(path: Path, engine: str):
    "Stamps, axes and whether annotated, by pandas."
    types = dict.fromkeys("xyz", np.float32) | {"annotation": str}
    frame = pd.read_csv(path, engine=engine, dtype=types, parse_dates=["time"], compression="gzip")
    return frame.time.to_numpy("datetime64[ns]").astype(np.int64), frame[["x", "y", "z"]].to_numpy().T, frame.annotation.notna().to_numpy()


def candidates(rows: int) -> measure.Candidates:
    path = Path(home(rows).name, "P001.csv.gz")
    archive = open_archive(path.parent)
    return {"pandas, C engine": lambda: by_pandas(path, "c"), "pandas, pyarrow engine": lambda: by_pandas(path, "pyarrow"),
            "capture24_samples": lambda: capture24_samples(archive, path.name)}


def equal(rows: int) -> dict:
    "Whether both read the same, and rows in a second of CPU time."
    path = Path(home(rows).name, "P001.csv.gz")
    time, x, annotated = by_pandas(path, "c")
    ours = capture24_samples(open_archive(path.parent), path.name)
    return {"rows": rows, "megabytes packed": round(path.stat().st_size / 1e6, 1),
            "equal to pandas": bool((ours.time == time).all() and np.abs(ours.x - x).max() < 1e-6 and (ours.annotated == annotated).all())}


PREPARE = """
import json, sys
from pathlib import Path
from slotpapers.data.prepared import prepare_capture24
status = lambda key: int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key + ":")).split()[1]) / 1024
Path("/proc/self/clear_refs").write_text("5")        # the high-water mark starts again at the present resident set
before = status("VmRSS")
manifest = prepare_capture24(sys.argv[1], sys.argv[2])
print(json.dumps({"windows": manifest["counts"]["windows"], "peak_mb": round(status("VmHWM") - before, 1)}))
"""


def memory(participants: int, rows: int = 180_000) -> dict:
    "Windows made, and MB above the imports that preparing so many participants reaches, in a fresh process."
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "capture24")
        folder.mkdir()
        for k in range(participants):
            (folder / f"P{k + 1:03d}.csv.gz").write_bytes(table(rows, seed=k) if k < 2 else (folder / f"P{k % 2 + 1:03d}.csv.gz").read_bytes())
        done = subprocess.run([sys.executable, "-c", PREPARE, root, f"{root}/prepared"], capture_output=True, text=True, check=True,
                              env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})      # what is freed goes back at once
        return json.loads(done.stdout.splitlines()[-1])


def growth() -> dict:
    "Peaks by the number of participants; empty where /proc does not offer them."
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return {}
    peaks = {str(n): memory(n) for n in (2, 8, 32)}
    return {"preparing": peaks, "peak of 32 by peak of 2": round(peaks["32"]["peak_mb"] / peaks["2"]["peak_mb"], 3)}


CASES = {
    "two million rows": measure.Case(lambda: candidates(2_000_000), "pandas, C engine", "one participant, 2,000,000 rows, gzipped text to arrays",
                                     goals={"capture24_samples": 1.6}, peak=False, facts=lambda: equal(2_000_000)),
    "half an hour": measure.Case(lambda: candidates(180_000), "pandas, C engine", "one participant, 180,000 rows", facts=lambda: equal(180_000) | growth()),
}

if __name__ == "__main__":
    measure.run(__file__, CASES, peers=("pandas", "pyarrow"))
