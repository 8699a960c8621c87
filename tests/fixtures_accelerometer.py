"""Makers of tiny files in the published layouts of the accelerometer sets.

The signals are those of the simulated wearer; the layouts, with every oddity that a reader must survive, are those of the
data sheet ("SlotFM: data sheets"), whose section or line is cited beside each oddity. Nothing here is read by the package.
"""
import functools
import gzip
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from slotpapers.core.units import STANDARD_GRAVITY
from slotpapers.data.simulated import simulated_window, wearer


def motion(seconds: float, fs: float, activity: str = "walk", subject: int = 0, seed: int = 0) -> np.ndarray:
    "A recording of the simulated wearer, (T, 3), m/s²."
    t = np.arange(round(seconds * fs)) / fs
    return simulated_window(seed, subject, wearer(seed, subject), activity, t)[0].T


def pack(folder: Path, archive: Path) -> Path:
    "A zip of the folder, with the folder itself on top, and the side files that macOS adds (sheet 3.3, pitfalls)."
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as box:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                box.write(path, path.relative_to(folder.parent).as_posix())
                box.writestr(f"__MACOSX/{path.relative_to(folder.parent).parent.as_posix()}/._{path.name}", b"\x00\x05\x16\x07")
    return archive


def write_csv(path: Path, header: str, rows, end: str = "\n") -> Path:
    "A text table; cells are written as given."
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ([header] if header else []) + [",".join(str(c) for c in row) for row in rows]
    path.write_text(end.join(lines) + end)
    return path


def motionsense(root, part: str = "B", seconds: float = 12.0, zipped: bool = False) -> Path:
    "Three subjects, three trials. Sheet 3.3: columns; index without a name; B is raw in g, A splits gravity off; Apple's sign (section 0)."
    top = Path(root) / "motionsense" / {"B": "B_Accelerometer_data", "A": "A_DeviceMotion_data"}[part]
    for trial, activity in (("dws_1", "walk"), ("std_14", "still"), ("jog_16", "run")):
        for subject in (1, 2, 10):
            g = -np.round(motion(seconds, 50, activity, subject) / STANDARD_GRAVITY, 6)
            if part == "B":
                rows, header = [(i, *r) for i, r in enumerate(g.tolist())], ",x,y,z"
            else:
                down = np.round(g.mean(axis=0, keepdims=True).repeat(len(g), 0), 6)
                rest, turn = [0.1] * 3, [0.25, -0.5, 0.75]                # rad, rad/s
                rows = [(i, *rest, *d, *turn, *np.round(a - d, 6)) for i, (a, d) in enumerate(zip(g, down))]
                header = "," + ",".join([f"attitude.{a}" for a in ("roll", "pitch", "yaw")] + [
                    f"{p}.{a}" for p in ("gravity", "rotationRate", "userAcceleration") for a in "xyz"])
            write_csv(top / trial / f"sub_{subject}.csv", header, rows)
    return pack(top, top.with_suffix(".zip")) if zipped else top


def wisdm2019(root, seconds: float = 31.0, zipped: bool = False) -> Path:
    "Two watches, one phone. Sample README: `subject,activity,nanoseconds,x,y,z;`, 20 Hz, m/s^2, a clock that jumps back. Seen in the sample: 100 Hz."
    top = Path(root) / "wisdm2019" / "wisdm-dataset"
    for device, subject, clock in (("watch", 1600, 9.0e13), ("watch", 1601, 2.5e14), ("phone", 1600, 3.1e14)):
        lines = []
        for k, (letter, activity) in enumerate((("A", "walk"), ("B", "run"), ("E", "still"))):
            x = motion(seconds, 100, activity, subject)
            t = np.arange(len(x)) * 9.984e6
            keep = np.arange(len(x)) % 5 == 0
            if device == "watch" and letter == "B":
                keep[800:1600] = True                                        # eight seconds at 100 Hz
            if device == "watch" and letter == "A":
                keep[1500:1590] = False                                      # a hole of 0.9 s
            back = -5e12 if k == 2 else 200e9 * k                            # the clock jumps back before the third
            lines += [f"{subject},{letter},{int(clock + back + s)},{','.join(map(str, v))};" for s, v in zip(t[keep], np.round(x[keep], 6).tolist())]
        path = top / "raw" / device / "accel" / f"data_{subject}_accel_{device}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    (top / "activity_key.txt").write_text("walking = A\njogging = B\nstanding = E\n")
    return pack(top, top.with_suffix(".zip")) if zipped else top


def hhar(root, seconds: float = 14.0, zipped: bool = False) -> Path:
    "Sheet 3.1: one file for all watches, rows in order of arrival, `null` labels; design: repeated stamps, gaps. Nested zip when zipped."
    top, stream = Path(root) / "hhar" / "Activity recognition exp", np.random.default_rng(0)
    rows = []
    for user, model, device, fs in (("a", "gear", "gear_1", 100), ("b", "gear", "gear_1", 100), ("a", "lgwatch", "lgwatch_1", 200)):
        offset = 1.424696633e18 if model == "gear" else 9.1e12               # Gear: epoch; LG: since it was switched on
        for k, (label, activity) in enumerate((("walk", "walk"), ("null", "still"), ("stand", "still"), ("bike", "run"))):
            x = np.round(motion(seconds, fs, activity, "ab".index(user)), 6)
            t = np.arange(len(x)) / fs + k * (seconds + 5) + stream.uniform(0, 0.2 / fs, len(x))
            t[50] = t[51]                                                    # a repeated stamp
            t[len(t) // 2:] += 1.5 * (label == "bike")                       # a gap of 1.5 s
            arrival = np.floor(1.424696638740e12 + 1e3 * (t + stream.uniform(0, 0.3, len(x))))   # late by up to 0.3 s: out of order
            rows += [(a, f"{a:.0f},{offset + 1e9 * s:.0f},{v[0]},{v[1]},{v[2]},{user},{model},{device},{label}") for a, s, v in zip(arrival, t, x.tolist())]
    rows.sort(key=lambda r: r[0])
    top.mkdir(parents=True, exist_ok=True)
    lines = ["Index,Arrival_Time,Creation_Time,x,y,z,User,Model,Device,gt"] + [f"{i},{r}" for i, (_, r) in enumerate(rows)]
    (top / "Watch_accelerometer.csv").write_text("\n".join(lines) + "\n")
    if not zipped:
        return top
    inner = pack(top, top.parent / "Activity recognition exp.zip")
    outer = top.parent / "heterogeneity+activity+recognition.zip"
    with zipfile.ZipFile(outer, "w") as box:                                 # a zip in a zip
        box.write(inner, inner.name)
    inner.unlink()
    return outer


def daphnet(root, seconds: float = 15.0, zipped: bool = False) -> Path:
    "Sheet 3.5: blanks, no header, integers, ms, milli-g; annotation 0 dropped; two runs of one user. Sample README: a thigh sensor that reads zero."
    top = Path(root) / "daphnet" / "dataset_fog_release"
    plan = [(0, "still"), (1, "walk"), (2, "slow tremor"), (1, "walk"), (0, "still")]
    for run, subject, plans in (("S01R01", 1, plan), ("S01R02", 1, plan[:3]), ("S03R03", 3, plan[:2])):
        rows, n = [], 0
        for label, activity in plans:
            length = 5.5 if label == 2 else seconds
            places = [motion(length, 64, activity, subject, seed) * 1000 / STANDARD_GRAVITY for seed in range(3)]
            places[1] *= run != "S03R03"                                     # the dead sensor
            values = np.round(np.concatenate(places, axis=1)).astype(int)
            rows += [f"{int((n + i + 1) * 15.625)} {' '.join(map(str, v))} {label}" for i, v in enumerate(values.tolist())]
            n += len(values)
        path = top / "dataset" / f"{run}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows) + "\n")
    (top / "README.txt").write_text("Daphnet Freezing of Gait, layout only: simulated signals\n")
    return pack(top, top.with_suffix(".zip")) if zipped else top


def pamap2(root, seconds: float = 22.0, zipped: bool = False) -> Path:
    "Sheet 3.4: 54 columns, blanks, no header, NaN from radio loss, activity 0, Protocol and Optional; 109 has little but rope jumping. Nested zip."
    top, plan = Path(root) / "pamap2" / "PAMAP2_Dataset", [(0, "still"), (4, "walk"), (1, "still"), (0, "still"), (5, "run")]
    for place, subject, plans in (("Protocol", 101, plan), ("Protocol", 109, [(0, "still"), (24, "run")]), ("Optional", 101, [(9, "still"), (4, "walk"), (18, "still")])):
        rows, n = [], 0
        for label, activity in plans:
            x = [motion(seconds, 100, activity, subject, seed) for seed in range(3)]
            for i in range(len(x[0])):
                blocks = [[33.5, *x[s][i], *(0.9 * x[s][i]), *[0.01] * 3, *[20.0] * 3, 1, 0, 0, 0] for s in range(3)]
                if label == 4 and 300 <= i < 310:                            # 0.1 s without contact: bridged and flagged
                    blocks[2][1:13] = ["NaN"] * 12
                if label == 4 and 900 <= i < 1000:                           # 1 s: splits
                    blocks[2] = ["NaN"] * 17
                heart = 100 if i % 11 == 0 else "NaN"                        # heart rate comes at 9 Hz
                rows.append(" ".join(str(v) for v in (round(5 + n / 100, 2), label, heart, *blocks[0], *blocks[1], *blocks[2])))
                n += 1
        path = top / place / f"subject{subject}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows) + "\n")
    if not zipped:
        return top
    inner = pack(top, top.with_suffix(".zip"))
    outer = top.parent / "pamap2+physical+activity+monitoring.zip"
    with zipfile.ZipFile(outer, "w") as box:
        box.write(inner, inner.name)
        box.writestr("readme.pdf", b"%PDF")
    inner.unlink()
    return outer


def usc_had(root, seconds: float = 9.0, zipped: bool = False) -> Path:
    "Sheet 3.2: `Subject<n>/a<k>t<m>.mat`, (time, 6) with acceleration in g first; one subject's files say `activity_numbr`."
    from scipy.io import savemat
    top = Path(root) / "usc_had" / "USC-HAD"
    for subject in (1, 2, 13):
        for number, activity in ((1, "walk"), (9, "still"), (11, "still")):
            for trial in (1, 2):
                x = motion(seconds, 100, activity, subject, trial) / STANDARD_GRAVITY
                path = top / f"Subject{subject}" / f"a{number}t{trial}.mat"
                path.parent.mkdir(parents=True, exist_ok=True)
                field = "activity_numbr" if subject == 13 and number == 11 else "activity_number"
                savemat(path, {"title": "USC-HAD layout, simulated", "subject": str(subject), field: str(number), "trial": str(trial),
                               "sensor_location": "front-right-hip", "sensor_readings": np.concatenate([x, 0 * x], axis=1)})
    (top / "Readme.txt").write_text("layout only: simulated signals\n")
    return pack(top, top.with_suffix(".zip")) if zipped else top


def capture24(root, minutes: float = 1.5, participants: int = 3, zipped: bool = False) -> Path:
    "Sheet 1: `P001.csv.gz`: time, x, y, z in g, annotation text or empty; 100 Hz with jitter, constant stretches from non-wear; the dictionary."
    top = Path(root) / "capture24" / "capture24"
    top.mkdir(parents=True, exist_ok=True)
    for subject in range(1, participants + 1):
        stream = np.random.default_rng(subject)
        n = round(minutes * 60)
        x = np.concatenate([motion(n / 3, 100, a, subject, k) for k, a in enumerate(("walk", "still", "slow tremor"))]) / STANDARD_GRAVITY
        x[len(x) // 8:len(x) // 8 + 800] = x[len(x) // 8]                     # eight seconds on the night table
        t = (np.arange(len(x)) / 100 + stream.uniform(0, 0.004, len(x))) * 1e9
        stamps = np.datetime64("2014-05-07T13:29:50.439", "ns") + t.astype("timedelta64[ns]")
        text = ['"home activity;household chores;7035 walking, household"', "7030 sleeping;MET 0.95", ""]
        notes = np.array(text)[np.minimum(np.arange(len(x)) * 4 // len(x), 3) % 3]   # the third quarter is not annotated
        notes[-(len(x) // 4):] = text[1]
        lines = ["time,x,y,z,annotation"] + [f"{str(s).replace('T', ' ')[:26]},{v[0]},{v[1]},{v[2]},{a}" for s, v, a in zip(stamps, np.round(x, 6).tolist(), notes)]
        with gzip.GzipFile(top / f"P{subject:03d}.csv.gz", "wb", mtime=0) as file:
            file.write(("\n".join(lines) + "\n").encode())
    (top / "annotation-label-dictionary.csv").write_text("annotation,label:Walmsley2020\n7030 sleeping;MET 0.95,sleep\n")
    return pack(top, top.with_suffix(".zip")) if zipped else top


@functools.cache
def _original(name: str) -> tuple:
    "A set made once for all copies; the folder goes when Python ends."
    home = tempfile.TemporaryDirectory()
    return home, globals()[name](home.name)


def copy_of(name: str, root) -> Path:
    "The set's files, unpacked, in `root`: a copy, so that making them costs once."
    home, top = _original(name)
    shutil.copytree(home.name, root, dirs_exist_ok=True)
    return Path(root) / top.relative_to(home.name)


# --- the same files, damaged in ways that happen -----------------------------------------------------------------------------------

def change(top: Path, pattern: str, row: int | None, old, new, once: bool = True) -> None:
    "Replaces text in one row (counted from 1; None: everywhere) of the first file of a pattern; `.gz` is packed again."
    path = sorted(top.rglob(pattern))[0]
    packed = path.suffix == ".gz"
    lines = (gzip.decompress(path.read_bytes()) if packed else path.read_bytes()).decode().split("\n")
    for i in range(len(lines)) if row is None else [row - 1]:
        changed = new(lines[i]) if callable(new) else lines[i].replace(old, new, 1 if once else -1)
        assert changed != lines[i] or row is None, (path, row, lines[i])
        lines[i] = changed
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)


def keep(top: Path, pattern: str, n: int | float, data: bytes | None = None) -> None:
    "Cuts the first file of a pattern off after n bytes (a fraction below 1), or puts other bytes there."
    path = sorted(top.rglob(pattern))[0]
    held = path.read_bytes()
    path.write_bytes(held[:int(n * len(held)) if n < 1 else n] if data is None else data)


def cut_in_row(top: Path, pattern: str, row: int, cells: int, separator: str = ",") -> None:
    "Ends the first file of a pattern after some cells of a row, as a download that stopped."
    path = sorted(top.rglob(pattern))[0]
    lines = path.read_text().split("\n")[:row]
    path.write_text("\n".join([*lines[:-1], separator.join(lines[-1].split(separator)[:cells])]))


def scaled(factor: float, columns, separator: str, digits: int = 6):
    "A change of a line that multiplies some cells: what a spreadsheet does to units."
    def line(text):
        cells = text.split(separator)
        if len(cells) <= max(columns) or not cells[columns[0]].lstrip("-").replace(".", "").isdigit():
            return text
        return separator.join(f"{float(c) * factor:.{digits}f}" if i in columns else c for i, c in enumerate(cells))
    return line


def rewrite_mat(pattern: str, **fields):
    "Changes (or with None removes) fields of the first MATLAB file of a pattern."
    def damage(top):
        from scipy.io import loadmat, savemat
        path = sorted(top.rglob(pattern))[0]
        held = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
        held |= {k: v(held[k]) if callable(v) else v for k, v in fields.items()}
        savemat(path, {k: v for k, v in held.items() if v is not None})
    return damage


def damaged_files() -> dict[str, tuple]:
    "What happened -> (set, damage to its folder, what the message must say)."
    cell = lambda i, text, sep=",": lambda line: sep.join(text if k == i else c for k, c in enumerate(line.split(sep)))
    drop = lambda i, sep=",": lambda line: sep.join(c for k, c in enumerate(line.split(sep)) if k != i)
    back = lambda sep, by: lambda line: sep.join([str(float(line.split(sep)[0]) - by), *line.split(sep)[1:]])
    ms, first = "motionsense", "dws_1/sub_1.csv"
    cases = {
        "column renamed": (ms, lambda t: change(t, first, 1, "z", "w"), ("dws_1/sub_1.csv, row 1", "no column 'z'", "published file")),
        "cell lost": (ms, lambda t: change(t, first, 100, None, drop(2)), ("dws_1/sub_1.csv, row 100", "3 cells, expected 4")),
        "cell too many": (ms, lambda t: change(t, first, 7, None, lambda x: x + ",0"), ("dws_1/sub_1.csv, row 7", "5 cells, expected 4")),
        "word in a cell": (ms, lambda t: change(t, first, 42, None, cell(2, "n/a")), ("dws_1/sub_1.csv, row 42", "column 'y'", "'n/a' is not a number")),
        "decimal commas": (ms, lambda t: change(t, first, None, ".", ",", once=False), ("dws_1/sub_1.csv, row 2", "expected 4")),
        "semicolons": (ms, lambda t: change(t, first, None, ",", ";", once=False), ("dws_1/sub_1.csv, row 1", "no column 'x', 'y', 'z'")),
        "empty file": (ms, lambda t: keep(t, first, 0, b""), ("dws_1/sub_1.csv, row 1", "empty", "get it again")),
        "header only": (ms, lambda t: keep(t, first, 7), ("dws_1/sub_1.csv", "no rows", "get it again")),
        "cut off in a row": (ms, lambda t: cut_in_row(t, first, 200, 2), ("dws_1/sub_1.csv, row 200", "2 cells, expected 4", "cut off")),
        "another kind of file": (ms, lambda t: keep(t, first, 0, b"\x89PNG\r\n\x1a\n" + bytes(range(256))), ("dws_1/sub_1.csv, row 1", "no column")),
        "blank line": (ms, lambda t: change(t, first, 30, None, lambda x: x + "\n"), ("dws_1/sub_1.csv, row 31", "0 cells, expected 4")),
        "g turned into m/s^2": (ms, lambda t: change(t, first, None, None, scaled(9.81, (1, 2, 3), ",")), ("dws_1/sub_1.csv", "looks like 'm/s^2'", "published file")),
        "gravity removed": (ms, lambda t: change(t, "std_14/sub_1.csv", None, None, scaled(0.05, (1, 2, 3), ",")), ("std_14/sub_1.csv", "was gravity removed?")),
        "unknown trial": (ms, lambda t: (t / "dws_1").rename(t / "swim_1"), ("swim_1", "unknown activity", "dws_1")),
        "web page for a zip": (ms, lambda t: t.rename(t.with_name("x")) and t.with_suffix(".zip").write_text("<html>Sign in</html>"), ("web page", "browser")),
        "zip cut off": (ms, lambda t: (keep(t.parent, pack(t, t.with_suffix(".zip")).name, 0.9), t.rename(t.with_name("x"))), ("B_Accelerometer_data.zip", "download it again")),
        "nothing inside": (ms, lambda t: [p.unlink() for p in t.rglob("sub_*.csv")], ("motionsense", "B_Accelerometer_data.zip", "To get it:")),
    }
    dn, run = "daphnet", "S01R01.txt"
    cases |= {
        "unknown annotation": (dn, lambda t: change(t, run, 20, None, cell(10, "3", " ")), ("S01R01.txt, row 20", "label 3", "another set")),
        "annotation missing": (dn, lambda t: change(t, run, 20, None, cell(10, "NaN", " ")), ("S01R01.txt, row 20", "label nan")),
        "rows swapped": (dn, lambda t: change(t, run, 50, None, back(" ", 40)), ("S01R01.txt, row 50", "time must increase", "sort by time")),
        "time missing": (dn, lambda t: change(t, run, 50, None, cell(0, "NaN", " ")), ("S01R01.txt, row 50", "time must increase")),
        "seconds for milliseconds": (dn, lambda t: change(t, run, None, None, scaled(0.001, (0,), " ")), ("S01R01.txt", "median step", "another unit")),
        "commas for blanks": (dn, lambda t: change(t, run, None, " ", ",", once=False), ("S01R01.txt, row 1", "1 cells, expected 11")),
        "header added": (dn, lambda t: change(t, run, 1, None, lambda x: "t a a a b b b c c c n\n" + x), ("S01R01.txt, row 1", "column 'time'", "'t' is not a number")),
        "Daphnet row cut": (dn, lambda t: cut_in_row(t, run, 200, 7, " "), ("S01R01.txt, row 200", "7 cells, expected 11", "cut off")),
        "milli-g turned into g": (dn, lambda t: change(t, run, None, None, scaled(0.001, range(1, 10), " ", 3)), ("S01R01.txt", "looks like 'g'")),
        "file names changed": (dn, lambda t: [p.rename(p.with_suffix(".dat")) for p in t.rglob("S*.txt")], ("daphnet", "S[0-9][0-9]R[0-9][0-9].txt", "fetch daphnet")),
    }
    wi, watch = "wisdm2019", "data_1600_accel_watch.txt"
    cases |= {
        "activity N": (wi, lambda t: change(t, watch, 9, ",A,", ",N,"), ("data_1600_accel_watch.txt, row 9", "A to S without N")),
        "another subject's row": (wi, lambda t: change(t, watch, 9, "1600", "1601"), ("data_1600_accel_watch.txt, row 9", "subject 1600")),
        "two records in a line": (wi, lambda t: change(t, watch, 9, None, lambda x: x + x), ("data_1600_accel_watch.txt, row 9", "11 cells, expected 6")),
        "stamp lost": (wi, lambda t: change(t, watch, 9, None, cell(2, "")), ("data_1600_accel_watch.txt, row 9", "and a time")),
        "milliseconds for nanoseconds": (wi, lambda t: change(t, watch, None, None, scaled(1e-6, (2,), ",")), ("data_1600_accel_watch.txt", "median step", "another unit")),
        "WISDM word": (wi, lambda t: change(t, watch, 9, None, cell(3, "?")), ("data_1600_accel_watch.txt, row 9, column 'x'", "'?' is not a number")),
    }
    hh, table = "hhar", "Watch_accelerometer.csv"
    cases |= {
        "label column lost": (hh, lambda t: change(t, table, None, None, drop(9)), ("Watch_accelerometer.csv, row 1", "no column 'gt'")),
        "unknown label": (hh, lambda t: change(t, table, 12, None, cell(9, "running")), ("Watch_accelerometer.csv, row 12", "of bike, sit")),
        "user lost": (hh, lambda t: change(t, table, 12, None, cell(6, "")), ("Watch_accelerometer.csv, row 12", "a user")),
        "HHAR word": (hh, lambda t: change(t, table, 12, None, cell(4, "1e")), ("Watch_accelerometer.csv, row 12, column 'y'", "'1e' is not a number")),
        "microseconds": (hh, lambda t: change(t, table, None, None, scaled(1e-3, (2,), ",", 3)), ("Watch_accelerometer.csv", "median step", "another unit")),
    }
    pa, subject = "pamap2", "Protocol/subject101.dat"
    cases |= {
        "53 columns": (pa, lambda t: change(t, subject, None, None, drop(2, " ")), ("subject101.dat, row 1", "53 cells, expected 54")),
        "unknown activity": (pa, lambda t: change(t, subject, 77, None, cell(1, "99", " ")), ("subject101.dat, row 77", "label 99")),
        "clock set back": (pa, lambda t: change(t, subject, 77, None, back(" ", 3)), ("subject101.dat, row 77", "time must increase")),
        "PAMAP2 word": (pa, lambda t: change(t, subject, 77, None, cell(39, "--", " ")), ("subject101.dat, row 77, column 'y'", "'--' is not a number")),
    }
    us, trial = "usc_had", "Subject1/a1t1.mat"
    cases |= {
        "MATLAB file cut off": (us, lambda t: keep(t, trial, 0.5), ("Subject1/a1t1.mat", "get it again")),
        "not a MATLAB file": (us, lambda t: keep(t, trial, 0, b"x,y,z\n" * 50), ("Subject1/a1t1.mat", "not a MATLAB 5 file")),
        "empty MATLAB file": (us, lambda t: keep(t, trial, 0, b""), ("Subject1/a1t1.mat", "not a MATLAB 5 file")),
        "readings lost": (us, rewrite_mat(trial, sensor_readings=None), ("Subject1/a1t1.mat", "(time, 6)", "published file")),
        "readings transposed": (us, rewrite_mat(trial, sensor_readings=lambda x: x.T), ("Subject1/a1t1.mat", "(time, 6)")),
        "MATLAB unit": (us, rewrite_mat(trial, sensor_readings=lambda x: 9.81 * x), ("Subject1/a1t1.mat", "looks like 'm/s^2'")),
        "activity 13": (us, lambda t: (t / trial).rename(t / "Subject1/a13t1.mat"), ("Subject1/a13t1.mat", "none of 1 to 12")),
    }
    ca, who = "capture24", "P001.csv.gz"
    cases |= {
        "gzip cut off": (ca, lambda t: keep(t, who, 0.7), ("P001.csv.gz", "download it again")),
        "not a gzip": (ca, lambda t: keep(t, who, 0, b"time,x,y,z,annotation\n"), ("P001.csv.gz", "download it again")),
        "CAPTURE-24 column lost": (ca, lambda t: change(t, who, 1, ",annotation", ""), ("P001.csv.gz, row 1", "no column 'annotation'")),
        "CAPTURE-24 word": (ca, lambda t: change(t, who, 9, None, cell(1, "high")), ("P001.csv.gz", "row 9", "'high'", "published file")),
        "CAPTURE-24 cell lost": (ca, lambda t: change(t, who, 9, None, drop(3)), ("P001.csv.gz", "row 9", "Expected 5 columns, got 4")),
        "no date": (ca, lambda t: change(t, who, 9, None, cell(0, "yesterday")), ("P001.csv.gz", "row 9", "'yesterday'")),
        "CAPTURE-24 time lost": (ca, lambda t: change(t, who, 9, None, cell(0, "")), ("P001.csv.gz, row 9", "no time")),
        "clock jumps": (ca, lambda t: change(t, who, 9, "13:29:50", "13:29:40"), ("P001.csv.gz, row 9", "time must increase")),
        "every tenth row": (ca, lambda t: thin(t, who, 10), ("P001.csv.gz", "median step", "rows left out")),
        "CAPTURE-24 header only": (ca, lambda t: keep(t, who, 0, gzip.compress(b"time,x,y,z,annotation\n")), ("P001.csv.gz", "no rows")),
        "CAPTURE-24 empty": (ca, lambda t: keep(t, who, 0, gzip.compress(b"")), ("P001.csv.gz, row 1", "empty")),
    }
    return cases


def thin(top: Path, pattern: str, step: int) -> None:
    "Leaves every n-th row of a gzipped table."
    path = sorted(top.rglob(pattern))[0]
    header, *rows = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join([header, *rows[::step], ""]).encode(), mtime=0))
