"""Trains a small network with dropout into a folder: the process that test_resume.py kills.

Prints each step before it is made. With HANG_IN_WRITE=n, the n-th checkpoint write stops halfway, says so, and waits.
"""
import os
import sys
import time

import torch
from torch import nn

from slotpapers.core.seeds import forked_rng, torch_stream
from slotpapers.training.loop import LoopConfig, Trained, train

CONFIG = LoopConfig(steps=400, lr=1e-2, optimizer="adamw", weight_decay=0.05, schedule="cosine", warmup_steps=20, floor=0.1, clip_norm=0.5,
                    accelerator="cpu", validate_every=11, patience=10, monitor="mse", checkpoint_every=7, seed=3, progress=False)


def network() -> nn.Module:
    with forked_rng(0, "network"):
        return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Dropout(0.2), nn.Linear(32, 1))


def points(name: str, rows: int, noise: float) -> dict[str, torch.Tensor]:
    x = torch.rand(rows, 1, generator=torch_stream(1, name, "x"))
    return {"x": x, "y": torch.sin(6 * x) + noise * torch.randn(rows, 1, generator=torch_stream(1, name, "noise"))}


def batches(step: int) -> dict[str, torch.Tensor]:
    chosen = torch.randperm(24, generator=torch_stream(1, "order", step))[:12]
    return {name: values[chosen] for name, values in points("train", 24, 0.5).items()}


def objective(model: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    out = model(batch["x"])
    return {"mse": nn.functional.mse_loss(out, batch["y"]), "size": 1e-3 * out.pow(2).mean()}


def validation(model: nn.Module) -> dict[str, torch.Tensor]:
    held_out = points("validation", 64, 0.0)
    return {"mse": nn.functional.mse_loss(model(held_out["x"]), held_out["y"])}


def run(folder: str, batches=batches) -> Trained:
    return train(network(), objective, batches, CONFIG, validation=validation, folder=folder, keep="weights")


def hang_in_write(turn: int) -> None:
    replace, calls = os.replace, [0]

    def half_written(source, target):
        calls[0] += str(target).endswith("checkpoint.pt")
        if calls[0] == turn:
            os.truncate(source, os.path.getsize(source) // 2)
            print("writing", flush=True)
            time.sleep(600)
        replace(source, target)

    os.replace = half_written


def slow_and_loud(step: int) -> dict[str, torch.Tensor]:
    print(step, flush=True)
    time.sleep(0.004)
    return batches(step)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "HANG_IN_WRITE" in os.environ:
        hang_in_write(int(os.environ["HANG_IN_WRITE"]))
    trained = run(sys.argv[1], slow_and_loud)
    print("resumed from", trained.resumed_from, "stopped at", trained.stopped_at, trained.why, flush=True)
