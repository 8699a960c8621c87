"Two CPU processes make the same training as one with the same rows per step."
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from slotpapers.core.results import read_json

WORKERS = Path(__file__).parent / "workers"
sys.path.insert(0, str(WORKERS))
import ddp_worker  # noqa: E402

CLOSE = dict(rtol=1e-10, atol=1e-10)   # float64; sums over rows are taken in another order


def work(folder: Path, *arguments: str) -> Path:
    folder.mkdir()
    clean = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "NODE_RANK")}
    done = subprocess.run([sys.executable, str(WORKERS / "ddp_worker.py"), str(folder), *arguments], capture_output=True, text=True, timeout=300,
                          env={**clean, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ddp") / "one"
    folder.mkdir()
    ddp_worker.everything(folder, 1)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    return work(tmp_path_factory.mktemp("ddp") / "two", "2")


def assert_same_training(ours: Path, theirs: Path, name: str) -> None:
    left, right = (torch.load(folder / f"{name}.pt", weights_only=True) for folder in (ours, theirs))
    assert left.keys() == right.keys() and left["best_step"] == right["best_step"]
    for key in left.keys() - {"best_step"}:
        assert left[key].dtype == torch.float64
        torch.testing.assert_close(left[key], right[key], **CLOSE)
    curves = [pd.read_csv(folder / f"{name}.csv") for folder in (ours, theirs)]
    assert curves[0].columns.tolist() == ["step", "mse", "odd", "total", "lr", "grad_norm", "val_mse"] and len(curves[0]) == 30
    np.testing.assert_allclose(curves[0], curves[1], **CLOSE)
    assert (curves[0].grad_norm > 0.3).any(), "clipping took part"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["split", "sharded"])
def test_two_processes_equal_one(one, two, name):
    assert_same_training(one, two, name)
    assert pd.read_csv(two / name / "history.csv").equals(pd.read_csv(two / f"{name}.csv"))


@pytest.mark.slow
def test_all_processes_stop_at_one_bad_row(one, two):
    said = (one / "error of 0.txt").read_text()
    assert said.startswith("the term 'mse' is nan at step 4 (seed 0)")
    assert [(two / f"error of {rank}.txt").read_text() for rank in range(2)] == [said, said]


@pytest.mark.slow
def test_each_process_draws_from_its_own_stream(one, two):
    alone, shared = read_json(one / "streams.json"), read_json(two / "streams.json")
    assert all(a != s for a, s in zip(alone, shared)), "the mean over two processes holds a second draw"
    others = [2 * s - a for a, s in zip(alone, shared)]
    assert all(0 <= o <= 1 for o in others), "process 0 draws what one process draws"


@pytest.mark.slow
def test_a_notebook_forks_and_gets_the_weights_back(one, tmp_path):
    assert_same_training(one, work(tmp_path / "forked", "2", "notebook"), "split")
