"Fixtures shared by all tests."
import os
from pathlib import Path

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)   # two workers share two cores
ROOT = Path(__file__).resolve().parents[1]


LONG = ("test_pipeline", "test_notebooks", "test_runs", "test_docs")     # files that take minutes, the longest first


def pytest_collection_modifyitems(items):
    "A file is run by one worker, so the long ones come first: begun last, one would keep a worker busy while the other waits."
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


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


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    "Tiny random DINOv2 weights, with and without registers, as `transformers` writes the real ones."
    transformers = pytest.importorskip("transformers")
    import torch

    from slotpapers.core.seeds import forked_rng

    folder, sizes = tmp_path_factory.mktemp("dino"), dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    with forked_rng(0, "dino"):
        registers = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=4))
        plain = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
        other = transformers.ViTModel(transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4))
        for model in (registers, plain):
            for name, parameter in model.named_parameters():
                if "layer_scale" in name or name.startswith("layernorm"):
                    parameter.data = 1 + 0.3 * torch.randn(parameter.shape)
    for name, model in dict(registers=registers, plain=plain, other=other).items():
        model.save_pretrained(folder / name)
    return folder
