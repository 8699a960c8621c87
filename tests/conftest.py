"Fixtures shared by all tests."
import os
from pathlib import Path

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)   # two workers share two cores
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    "The repository."
    return ROOT


@pytest.fixture
def plain_calls():
    "Switches the shape hook off: what a user without it sees, our own error messages first."
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def data_root() -> Path:
    "The folder of real samples; tests that need one are skipped without it."
    if not os.environ.get("SLOTPAPERS_DATA"):
        pytest.skip("real samples: SLOTPAPERS_DATA is not set")
    return Path(os.environ["SLOTPAPERS_DATA"])
