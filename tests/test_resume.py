"A training in a process of its own, killed at five seeded moments, one of them inside a checkpoint write: nothing is lost."
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slotpapers.core.seeds import numpy_stream
from slotpapers.training.checkpoints import load_checkpoint

WORKERS = Path(__file__).parent / "workers"
sys.path.insert(0, str(WORKERS))
import resume_worker  # noqa: E402

KILLS = 5


def start(folder: Path, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(WORKERS / "resume_worker.py"), str(folder)], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def kill_when(process: subprocess.Popen, reached) -> list[str]:
    "Reads what the process prints until a line satisfies `reached`, then kills it with SIGKILL."
    said = []
    with process:
        for line in process.stdout:
            said.append(line.strip())
            if reached(said[-1]):
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
    assert process.wait() == -signal.SIGKILL, f"it ended before it could be killed: {said[-3:]}"
    return said


@pytest.mark.slow
def test_killed_at_five_seeded_moments(tmp_path):
    whole = resume_worker.run(tmp_path / "whole")
    assert whole.why == "patience", "the early-stopping state is to be carried over as well"

    moments = numpy_stream(2026, "kills")
    folder, done = tmp_path / "killed", 0
    for kill in range(KILLS):
        if kill == 2:
            said = kill_when(start(folder, HANG_IN_WRITE=str(moments.integers(2, 5))), "writing".__eq__)
            assert list(folder.glob(".checkpoint.pt.*.part")), "the killed write leaves its temporary file"
        else:
            moment = done + int(moments.integers(8, 33))
            said = kill_when(start(folder), lambda line: line.isdigit() and int(line) >= moment)
        state, _ = load_checkpoint(folder / "checkpoint.pt")
        first = int(said[0])
        assert first == done, "it continues at the checkpoint, not before and not after"
        assert state["step"] % 7 == 0 and state["step"] > done
        done = state["step"]

    last = start(folder)
    said = last.communicate(timeout=120)[0].splitlines()
    assert last.returncode == 0 and said[-1] == f"resumed from {done} stopped at {whole.stopped_at} patience"
    assert (folder / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()
    mine, theirs = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("whole", "killed"))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert sorted(p.name for p in folder.iterdir()) == ["history.csv", "weights.pt"]
