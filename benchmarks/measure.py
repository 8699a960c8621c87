"""How every benchmark here measures: one thread, CPU time, candidates in turn within one process.

* CPU time (`time.process_time`), not wall time: on a shared machine wall time measures the neighbours.
* One thread: with two, a preempted thread is waited for at every barrier, and the same product takes ten times as long.
* Candidates take turns (A B C A B C ...). The ratio is formed within each round, and its median and quartiles are
  reported: what disturbs a round disturbs all its candidates.
* The allocator changes the verdict. glibc hands large blocks back to the kernel and pays for fresh pages each time, which
  favours whoever allocates less. `--allocator no-mmap` (MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_=100000000000) takes
  that advantage away. Both are committed.
* Peak memory is measured in a process of its own, where every block above 64 kB is returned at once when freed
  (MALLOC_MMAP_THRESHOLD_=65536), so that the resident set is what is alive: its high-water mark during one call, above
  where it stood before the call.
* Raw rounds, machine, allocator and versions are written to `benchmarks/results/<script>-<allocator>.json`.

A benchmark is a script that builds a dictionary of cases and calls `run(__file__, cases)`.
"""
import argparse
import gc
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

Candidates = dict[str, Callable[[], object]]
ALLOCATORS = {"default": {}, "no-mmap": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}}
MALLOC_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_",
                   "MALLOC_ARENA_MAX", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES")
RESULTS = Path(__file__).parent / "results"
# A script's folder leads the search path, and slot_attention.py here would hide the installed package of that name.
sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != RESULTS.parent.resolve()]


@dataclass
class Case:
    "One row of a benchmark: what is built, and against whom it is held."
    build: Callable[[], Candidates]                  # () -> name of candidate -> function without arguments
    baseline: str                                    # the candidate that the others are compared with
    compared: str                                    # in words: what each candidate computes
    goals: dict[str, float] = field(default_factory=dict)          # candidate -> at least so many times faster
    memory_goals: dict[str, float] = field(default_factory=dict)   # candidate -> at most this part of the baseline's peak
    facts: Callable[[], dict] | None = None          # further numbers, e.g. the largest difference from the baseline
    peak: bool = True                                # measure peak memory too


def left_out(*modules: str) -> dict[str, str]:
    "Of these peers, those that are not installed, and how to get them."
    return {name: "not installed: pip install -e '.[bench]'" for name in modules if importlib.util.find_spec(name) is None}


def take_turns(candidates: Candidates, rounds: int) -> dict[str, list[float]]:
    "CPU seconds of each candidate in each round, after two rounds to warm up."
    seconds = {name: [] for name in candidates}
    for round_ in range(-2, rounds):
        gc.collect()
        for name, call in candidates.items():
            start = time.process_time()
            call()
            spent = time.process_time() - start
            if round_ >= 0:
                seconds[name].append(round(spent, 6))
    return seconds


def summary(seconds: dict[str, list[float]], baseline: str) -> dict[str, dict[str, float]]:
    "Median milliseconds, and how many times faster than the baseline: median, quartiles and range of the per-round ratios."
    table = {}
    for name, spent in seconds.items():
        ratios = [other / own for other, own in zip(seconds[baseline], spent)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        table[name] = {"ms": round(1000 * statistics.median(spent), 4), "ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)],
                       "range": [round(min(ratios), 3), round(max(ratios), 3)]}
    return table


def status(key: str) -> float:
    "A line of /proc/self/status, in MB."
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024


def peak_here(call: Callable[[], object]) -> float:
    "MB above the present resident set that one call reaches; the process must have been started by `peak_of`."
    call(), call()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")        # the high-water mark starts again at the present resident set
    before = status("VmRSS")
    call()
    return round(status("VmHWM") - before, 2)


def peak_of(script: str, case: str, candidate: str) -> float | None:
    "Peak memory of one candidate, in a fresh process; None where /proc does not offer it."
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    settings = {name: value for name, value in os.environ.items() if name not in MALLOC_SETTINGS}
    done = subprocess.run([sys.executable, script, "--peak", case, candidate], capture_output=True, text=True, check=True,
                          env={**settings, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"})
    return float(done.stdout.split()[-1])


def processor() -> str:
    "The processor's model, as the kernel names it."
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def surroundings(peers: tuple[str, ...]) -> dict:
    "Machine, allocator and versions."
    names = ("torch", "numpy", "scipy", "slotpapers", *peers)
    versions = {name: metadata.version(name) for name in names if any(metadata.distributions(name=name))}
    return {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "load_average": [round(x, 2) for x in os.getloadavg()],
            "system": f"{platform.system()} {platform.machine()}", "libc": " ".join(platform.libc_ver()),
            "python": platform.python_version(), "versions": versions,
            "malloc": {name: os.environ[name] for name in MALLOC_SETTINGS if name in os.environ}}


def judged(case: Case, table: dict, peaks: dict) -> list[dict]:
    "Each goal of the case beside what was measured."
    verdicts = []
    for name, goal in case.goals.items():
        if name in table:
            verdicts.append({"candidate": name, "goal": f"at least {goal}x", "measured": table[name]["ratio"], "met": table[name]["ratio"] >= goal})
    for name, goal in case.memory_goals.items():
        if peaks.get(name) and peaks.get(case.baseline):
            part = round(peaks[name] / peaks[case.baseline], 3)
            verdicts.append({"candidate": name, "goal": f"at most {goal} of the memory", "measured": part, "met": part <= goal})
    return verdicts


def measure(script: str, name: str, case: Case, rounds: int, peak: bool) -> dict:
    "All numbers of one case, printed as they come."
    candidates = case.build()
    baseline = case.baseline if case.baseline in candidates else next(iter(candidates))
    seconds = take_turns(candidates, rounds)
    table = summary(seconds, baseline)
    peaks = {one: peak_of(script, name, one) for one in candidates} if peak and case.peak else {}
    print(f"\n{name}: {case.compared}" + ("" if baseline == case.baseline else f" (baseline {case.baseline!r} left out)"))
    for one, row in table.items():
        memory = f"{peaks[one]:9.1f} MB" if peaks.get(one) else ""
        print(f"  {one:34s}{row['ms']:10.2f} ms {row['ratio']:8.2f}x  [{row['quartiles'][0]:.2f}, {row['quartiles'][1]:.2f}]{memory}")
    verdicts = judged(case, table, peaks) if baseline == case.baseline else []
    for verdict in verdicts:
        print(f"  goal for {verdict['candidate']}: {verdict['goal']}: {'met' if verdict['met'] else 'MISSED'} ({verdict['measured']})")
    facts = case.facts() if case.facts else {}
    for key, value in facts.items():
        print(f"  {key}: {value}")
    return {"compared": case.compared, "baseline": baseline, "summary": table, "peak_mb": peaks, "goals": verdicts, **facts, "seconds": seconds}


def write(path: Path, record: dict) -> None:
    "JSON, whole or not at all; a list of numbers stays on one line."
    from slotpapers.core.results import write_text
    text = json.dumps(record, indent=1)
    write_text(path, re.sub(r"\[[\d\s.,e+-]+\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n")


def run(script: str, cases: dict[str, Case], peers: tuple[str, ...] = (), missing: dict[str, str] | None = None) -> None:
    "The command line of a benchmark: measures its cases, prints a table and writes the record."
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="recorded rounds a case")
    parser.add_argument("--allocator", choices=ALLOCATORS, default="default")
    parser.add_argument("--only", help="cases whose name contains this; nothing is written")
    parser.add_argument("--no-peak", action="store_true", help="leave peak memory out; nothing is written")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "CANDIDATE"), help="one candidate's peak memory in this process, and no more")
    asked = parser.parse_args()

    import torch
    torch.set_num_threads(1)
    if asked.peak:
        print(peak_here(cases[asked.peak[0]].build()[asked.peak[1]]))
        return
    wanted = {**ALLOCATORS[asked.allocator], "OMP_NUM_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})   # read at the start of a process

    for name, reason in (missing or {}).items():
        print(f"left out: {name} ({reason})")
    chosen = {name: case for name, case in cases.items() if asked.only is None or asked.only in name}
    record = {"benchmark": Path(script).stem, "allocator": asked.allocator, "rounds": asked.rounds, "left_out": missing or {},
              "machine": surroundings(peers)}
    record["cases"] = {name: measure(script, name, case, asked.rounds, not asked.no_peak) for name, case in chosen.items()}
    record["machine"]["load_average_after"] = [round(x, 2) for x in os.getloadavg()]
    if asked.only is None and not asked.no_peak:
        path = RESULTS / f"{record['benchmark']}-{asked.allocator}.json"
        write(path, record)
        print(f"\nwritten: {path}")
