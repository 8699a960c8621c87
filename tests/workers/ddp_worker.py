"""Trains in float64 on the CPU, on one process or several, and keeps the curves and weights that test_ddp.py compares.

    python ddp_worker.py FOLDER PROCESSES              # Fabric starts this script again for each further process
    python ddp_worker.py FOLDER PROCESSES notebook     # as in a notebook: Fabric forks
    torchrun --nproc-per-node 2 ddp_worker.py FOLDER 2
"""
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from slotpapers.core.results import write_json
from slotpapers.core.seeds import forked_rng, torch_stream
from slotpapers.training.loop import LoopConfig, Trained, train

CONFIG = LoopConfig(steps=30, lr=1e-2, optimizer="adamw", weight_decay=0.1, schedule="linear", warmup_steps=5, clip_norm=0.3, precision="64-true",
                    accelerator="cpu", validate_every=7, patience=50, monitor="mse", progress=False)


def network(dropout: float = 0.0) -> nn.Module:
    with forked_rng(0, "network"):
        return nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2))


def batches(step: int) -> dict:
    x = torch.randn(8, 3, generator=torch_stream(0, "x", step), dtype=torch.float64)
    return {"x": x, "targets": [x[:, :2].sin()], "scale": torch.tensor(0.01)}


def share(step: int, rank: int, processes: int) -> dict:
    batch, n = batches(step), 8 // processes
    rows = slice(rank * n, (rank + 1) * n)
    return {"x": batch["x"][rows], "targets": [batch["targets"][0][rows]], "scale": batch["scale"]}


def objective(model: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    out, again = model(batch["x"]), model(-batch["x"])   # a model may be called twice
    return {"mse": nn.functional.mse_loss(out, batch["targets"][0]), "odd": batch["scale"] * (out + again).pow(2).mean()}


def validation(model: nn.Module) -> dict[str, torch.Tensor]:
    held_out = batches(10**6)
    return {"mse": nn.functional.mse_loss(model(held_out["x"]), held_out["targets"][0])}


def one_bad_row(step: int) -> dict:
    batch = batches(step)
    if step == 4:
        batch["x"][-1] = torch.nan   # a row of the last process
    return batch


def drawn(model: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    return {"first": model(batch["x"]).mean() * 0 + torch.rand(())}


def keep(folder: Path, name: str, model: nn.Module, trained: Trained) -> None:
    if trained.rank == 0:
        trained.history.to_csv(folder / f"{name}.csv", index=False)
        torch.save({**model.state_dict(), "best_step": trained.best_step}, folder / f"{name}.pt")


def everything(folder: Path, devices: int) -> None:
    config = replace(CONFIG, devices=devices)
    for name, given, options in [("split", batches, {}), ("sharded", share if devices > 1 else batches, {"sharded": devices > 1})]:
        model = network()
        keep(folder, name, model, train(model, objective, given, config, validation=validation, folder=folder / name, **options))
    try:
        train(network(), objective, one_bad_row, config, validation=validation)
    except FloatingPointError as error:
        (folder / f"error of {torch.distributed.get_rank() if devices > 1 else 0}.txt").write_text(str(error))
    streams = train(network(), drawn, batches, replace(config, steps=3, validate_every=0, patience=None))
    if streams.rank == 0:
        write_json(folder / "streams.json", streams.history["first"].tolist())


def like_a_notebook(folder: Path, devices: int) -> None:
    model = network()
    trained = train(model, objective, batches, replace(CONFIG, devices=devices), validation=validation)
    assert trained.rank == 0 and not model.training
    keep(folder, "split", model, trained)


if __name__ == "__main__":
    torch.set_num_threads(1)
    target, processes = Path(sys.argv[1]), int(sys.argv[2])
    if sys.argv[3:] == ["notebook"]:
        sys.ps1 = ">>> "   # what Fabric takes for an interactive session
        like_a_notebook(target, processes)
    else:
        everything(target, processes)
