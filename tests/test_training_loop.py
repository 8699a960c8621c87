"What would bore the reader of the training notebooks: every keyword, parity with plain PyTorch, bad input, damaged files."
import importlib.util
import json
import logging
import math
import sys
import types
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from slotpapers.core.seeds import forked_rng, torch_stream
from slotpapers.training import loop, watching
from slotpapers.training.checkpoints import load_checkpoint, save_checkpoint
from slotpapers.training.loop import LoopConfig, train
from slotpapers.training.schedules import schedule_factor
from slotpapers.training.steps import map_tensors, rows_of_rank
from slotpapers.training.watching import History, HistoryFile

QUIET = LoopConfig(steps=20, lr=1e-2, accelerator="cpu", progress=False)


def network(dropout: float = 0.0) -> nn.Module:
    with forked_rng(0, "network"):
        return nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2))


def batches(step: int) -> dict:
    x = torch.randn(8, 3, generator=torch_stream(0, "x", step))
    return {"x": x, "y": x[:, :2].sin()}


def squared(model: nn.Module, batch: dict) -> dict:
    return {"mse": nn.functional.mse_loss(model(batch["x"]), batch["y"])}


def scores(model: nn.Module) -> dict:
    return {"mse": squared(model, batches(10**6))["mse"], "fit": -squared(model, batches(10**6))["mse"]}


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


# ---------------------------------------------------------------- schedules

@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_schedules_equal_torch(name, floor, warmup):
    steps, lr = 40, 0.1
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    falling = {
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "linear": lambda: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, floor or 1e-12, total_iters=steps - warmup),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, eta_min=floor * lr),
    }[name]()
    for step in range(warmup, steps):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(
            lr * schedule_factor(name, step, steps=steps, warmup_steps=warmup, floor=floor), abs=1e-10)
        optimizer.step()
        falling.step()
    assert [schedule_factor(name, s, steps=steps, warmup_steps=warmup) for s in range(warmup)] == [(s + 1) / warmup for s in range(warmup)]


# ---------------------------------------------------------------- the update

@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e6])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "amsgrad", "sgd"])
def test_an_update_is_plain_pytorch(optimizer, clip_norm):
    plain, model = network(), network()
    decay, rest = [p for p in plain.parameters() if p.ndim > 1], [p for p in plain.parameters() if p.ndim <= 1]
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": lambda groups, **k: torch.optim.SGD(groups, momentum=0.9, **k),
            "amsgrad": lambda groups, **k: torch.optim.Adam(groups, amsgrad=True, **k)}[optimizer]
    reference = make([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-2, fused=True)
    losses, norms = [], []
    for step in range(20):
        for group in reference.param_groups:
            group["lr"] = 1e-2 * schedule_factor("cosine", step, steps=20, warmup_steps=4, floor=0.1)
        loss = squared(plain, batches(step))["mse"]
        reference.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(plain.parameters(), math.inf if clip_norm is None else clip_norm)))
        reference.step()
        losses.append(loss.item())
    config = replace(QUIET, optimizer=optimizer, weight_decay=0.1, clip_norm=clip_norm, schedule="cosine", warmup_steps=4, floor=0.1)
    trained = train(model, squared, batches, config)
    assert trained.history.mse.tolist() == losses and trained.history.total.tolist() == losses and trained.history.grad_norm.tolist() == norms
    assert same_weights(plain, model)


def test_fused_equals_the_default_optimizer():
    plain, model = network().double(), network()
    reference = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=False)
    for step in range(20):
        reference.zero_grad()
        squared(plain, map_tensors(lambda t: t.double(), batches(step)))["mse"].backward()
        reference.step()
    train(model, squared, batches, replace(QUIET, clip_norm=None, precision="64-true"))
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_eight_samples_are_learned_by_heart():
    trained = train(network(), squared, lambda step: batches(0), replace(QUIET, steps=600, lr=2e-2, schedule="cosine"))
    assert trained.history.mse.iloc[-1] < 1e-4 * trained.history.mse.iloc[0]
    assert trained.history.step.tolist() == list(range(600)) and trained.stopped_at == 600 and trained.steps_per_second > 0


@pytest.mark.parametrize("precision, dtype", [("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_precisions(precision, dtype):
    seen, model = [], network()

    def objective(model, batch):
        out = model(batch["x"])
        seen.append(out.dtype)
        return {"mse": (out - batch["y"]).float().pow(2).mean()}

    trained = train(model, objective, lambda step: batches(0), replace(QUIET, precision=precision, steps=100))
    assert set(seen) == {torch.float64 if dtype == torch.float64 else torch.bfloat16}
    assert all(p.dtype == dtype for p in model.parameters()) and trained.history.mse.iloc[-1] < 0.5 * trained.history.mse.iloc[0]


def test_double_precision_reaches_the_history():
    trained = train(network(), squared, batches, replace(QUIET, steps=2, precision="64-true"))
    assert all(value != float(np.float32(value)) for value in trained.history.mse)


def test_frozen_parameters_stay_and_unused_ones_are_left_alone():
    model = network()
    model.spare = nn.Parameter(torch.ones(2))
    model[0].requires_grad_(False)
    before, spare = model[0].weight.clone(), model.spare.clone()
    train(model, lambda m, b: squared(m[:5], b), batches, QUIET)
    assert torch.equal(model[0].weight, before) and torch.equal(model.spare, spare) and model[0].weight.grad is None


def test_terms_may_come_late():
    def objective(model, batch):
        mse = squared(model, batch)["mse"]
        return {"mse": mse, "size": 1e-3 * model[0].weight.pow(2).mean()} if batch["late"] else {"mse": mse}

    history = train(network(), objective, lambda step: {**batches(step), "late": step >= 5}, replace(QUIET, steps=8)).history
    assert history["size"].isna().tolist() == [True] * 5 + [False] * 3
    assert np.allclose(history.total[5:], history.mse[5:] + history["size"][5:])


# ---------------------------------------------------------------- random numbers, batches

def test_same_seed_same_curve_and_nothing_outside_moves():
    torch.manual_seed(5), np.random.seed(5)
    outside = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (train(network(0.5), squared, batches, replace(QUIET, seed=seed)).history for seed in (0, 0, 1))
    assert first.equals(again) and not first.mse.equals(other.mse)
    assert torch.equal(outside[0], torch.get_rng_state()) and (outside[1] == np.random.get_state()[1]).all()


def test_validation_does_not_move_the_training():
    def noisy(model):
        return {"mse": torch.rand(()) + torch.randn(3, 100).sum() * 0}

    model, watched = network(0.5), network(0.5)
    plain = train(model, squared, batches, QUIET).history
    seen = train(watched, squared, batches, replace(QUIET, validate_every=3, monitor="mse"), validation=noisy, restore="last").history
    assert seen[plain.columns].equals(plain) and same_weights(model, watched)
    assert seen.val_mse.nunique() == 1, "every validation draws the same"


@pytest.mark.parametrize("options", [dict(prefetch=True), dict(sharded=True)])
def test_other_ways_to_a_batch(options):
    given = (lambda step, rank, processes: batches(step + rank)) if "sharded" in options else batches
    plain, other = train(network(0.5), squared, batches, QUIET).history, train(network(0.5), squared, given, QUIET, **options).history
    assert plain.equals(other)


def test_an_error_in_the_prefetching_thread_arrives():
    def fails(step):
        if step == 3:
            raise OSError("file 3 is gone")
        return batches(step)

    with pytest.raises(OSError, match="file 3 is gone"):
        train(network(), squared, fails, QUIET, prefetch=True)


@pytest.mark.parametrize("every", [3, 16, 100])
def test_reading_late_changes_nothing(monkeypatch, every):
    config = replace(QUIET, steps=40, validate_every=7, patience=50, monitor="mse")
    plain = train(network(0.5), squared, batches, config, validation=scores)
    make = watching.Ledger.__init__
    monkeypatch.setattr(watching.Ledger, "__init__", lambda self, *a, **k: (make(self, *a, **k), setattr(self, "every", every))[0])
    late = train(network(0.5), squared, batches, config, validation=scores)
    assert late.history.equals(plain.history) and late.best_step == plain.best_step
    with pytest.raises(FloatingPointError, match=r"the term 'mse' is nan at step 4 \(seed 0\)"):
        train(network(), squared, lambda step: batches(step) if step != 4 else {**batches(4), "x": torch.full((8, 3), torch.nan)}, config,
              validation=scores)


def test_nests():
    Pair = namedtuple("Pair", "left right")
    nest = {"pair": Pair(torch.arange(4), [torch.arange(8).reshape(4, 2), None]), "text": "kept", "scale": torch.tensor(2)}
    share = rows_of_rank(nest, 1, 2)
    assert type(share["pair"]) is Pair and share["pair"].left.tolist() == [2, 3] and share["pair"].right[0].tolist() == [[4, 5], [6, 7]]
    assert share["pair"].right[1] is None and share["text"] == "kept" and share["scale"] == 2


# ---------------------------------------------------------------- stopping

def test_a_term_that_is_not_finite():
    model = network()
    with pytest.raises(FloatingPointError, match=r"the term 'log' is -inf at step 2 \(seed 9\)") as caught:
        train(model, lambda m, b: {**squared(m, b), "log": (0 * m(b["x"]).mean() + b["z"]).log()},
              lambda step: {**batches(step), "z": torch.tensor(float(step != 2))}, replace(QUIET, seed=9))
    assert "batches(2) is not finite" in str(caught.value)
    assert all(p.isfinite().all() for p in model.parameters()), "the weights are those that caused the error"


def test_a_gradient_that_is_not_finite():
    with pytest.raises(FloatingPointError, match=r"the gradient norm is nan at step 0 \(seed 0\): the terms are finite, their slope is not: a root"):
        train(network(), lambda m, b: {"root": (m(b["x"]) * 0).pow(2).sum().sqrt()}, batches, QUIET)


def test_a_score_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="the validation score 'mse' is nan at step 19"):
        train(network(), squared, batches, replace(QUIET, monitor="mse"), validation=lambda model: {"mse": math.nan})


def scripted(values):
    left = iter(values)
    return lambda model: {"score": next(left), "other": 1.0}


@pytest.mark.parametrize("monitor, values, best, stopped", [
    ("score", [3, 2, 2, 2, 9], 3, 8), ("-score", [1, 2, 2, 1, 9], 3, 8), ("score", [5, 4, 3, 2, 1, 1, 1], 9, 14)])
def test_patience(monitor, values, best, stopped):
    trained = train(network(), squared, batches, replace(QUIET, validate_every=2, patience=2, monitor=monitor), validation=scripted(values))
    assert (trained.best_step, trained.stopped_at, trained.why) == (best, stopped, "patience")
    assert trained.best_score == values[best // 2] and trained.history.val_score.dropna().tolist() == values[:stopped // 2]


def test_min_steps_holds_patience_back():
    config = replace(QUIET, validate_every=2, patience=1, monitor="score")
    trained = train(network(), squared, batches, config, validation=scripted([1, 2, 2, 2, 2, 2, 2]), min_steps=9)
    assert (trained.stopped_at, trained.why, trained.best_step) == (10, "patience", 1)


def test_best_and_last_weights():
    config = replace(QUIET, steps=30, lr=0.3, optimizer="sgd", clip_norm=None, validate_every=1, monitor="mse")
    best, last, plain = network(), network(), network()
    trained = train(best, squared, batches, config, validation=scores)
    also = train(last, squared, batches, config, validation=scores, restore="last")
    train(plain, squared, batches, replace(config, validate_every=0))
    assert trained.best_step < 29 and same_weights(last, plain) and not same_weights(best, last)
    assert scores(best)["mse"].item() == trained.best_score == trained.history.val_mse.min() == also.best_score
    last.load_state_dict(also.best_weights)
    assert same_weights(best, last)


def test_one_validation_at_the_end_by_default():
    history = train(network(), squared, batches, replace(QUIET, monitor="-fit"), validation=scores).history
    assert history.val_fit.isna().tolist() == [True] * 19 + [False] and history.columns.tolist() == [
        "step", "mse", "total", "lr", "grad_norm", "val_mse", "val_fit"]


def test_modes():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.frozen, self.seen = network(), nn.Dropout(), []

        def train(self, mode=True):
            super().train(mode)
            self.frozen.eval()
            return self

        def forward(self, x):
            self.seen.append((self.training, self.body.training, self.frozen.training))
            return self.body(x)

    model = Partly()
    train(model, squared, batches, replace(QUIET, steps=4, validate_every=2, monitor="mse"), validation=scores)
    training, scoring = (True, True, False), (False, False, False)
    assert model.seen == [training, training, scoring, scoring, training, training, scoring, scoring] and not model.training


# ---------------------------------------------------------------- on disk

STORED = replace(QUIET, checkpoint_every=4, validate_every=5, monitor="mse")


def interrupted(at: int):
    def given(step):
        if step == at:
            raise KeyboardInterrupt
        return batches(step)
    return given


def break_off(folder: Path, config: LoopConfig = STORED, at: int = 14, **options) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(network(0.5), squared, interrupted(at), config, validation=scores, folder=folder, **options)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(network(), squared, batches, STORED, validation=scores)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "amsgrad", "sgd"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_resume_is_exact(tmp_path, optimizer, precision):
    config = replace(STORED, optimizer=optimizer, precision=precision, validate_every=0)
    whole, model = network(0.5), network(0.5)
    expected = train(whole, squared_in_model_precision, batches, config)
    with pytest.raises(KeyboardInterrupt):
        train(network(0.5), squared_in_model_precision, interrupted(14), config, folder=tmp_path)
    assert pd.read_csv(tmp_path / "history.csv").equals(expected.history[:14]), "the log holds all that was done"
    got = train(model, squared_in_model_precision, batches, config, folder=tmp_path)
    assert got.resumed_from == 12 and got.history.equals(expected.history) and same_weights(whole, model)
    assert pd.read_csv(tmp_path / "history.csv").equals(expected.history)


def squared_in_model_precision(model, batch):
    out = model(batch["x"])
    return {"mse": (out - batch["y"].to(out.dtype)).pow(2).mean()}


@pytest.mark.parametrize("keep, files", [("nothing", {"history.csv"}), ("weights", {"history.csv", "weights.pt"}),
                                         ("checkpoint", {"history.csv", "checkpoint.pt"})])
def test_what_stays(tmp_path, keep, files):
    (tmp_path / ".checkpoint.pt.abc.part").write_bytes(b"killed")
    (tmp_path / ".weights.pt.abc.part").write_bytes(b"killed")
    model = network()
    trained = train(model, squared, batches, STORED, validation=scores, folder=tmp_path, keep=keep)
    assert {p.name for p in tmp_path.iterdir()} == files
    if keep == "weights":
        held = torch.load(tmp_path / "weights.pt", weights_only=True)
        assert all(torch.equal(held[name], value) for name, value in model.state_dict().items())
    if keep == "checkpoint":
        again = network()
        repeated = train(again, squared, interrupted(0), STORED, validation=scores, folder=tmp_path, keep=keep)
        assert repeated.resumed_from == 20 and repeated.history.equals(trained.history) and same_weights(again, model)
        assert (repeated.best_step, repeated.best_score, repeated.why) == (trained.best_step, trained.best_score, "finished")


@pytest.mark.parametrize("change, said", [
    (dict(config=replace(STORED, lr=0.5)), "lr (0.01 there, 0.5 here)"), (dict(config=replace(STORED, seed=1)), "seed (0 there, 1 here)"),
    (dict(fingerprint="data 2"), "caller (data 1 there, data 2 here)"), (dict(model=network().double()), "first weights"),
    (dict(min_steps=3), "min_steps")])
def test_another_training_starts_anew_and_says_so(tmp_path, caplog, change, said):
    break_off(tmp_path, fingerprint="data 1")
    arguments = {"model": network(0.5), "config": STORED, "fingerprint": "data 1", **change}
    precision = "64-true" if "model" in change else "32-true"
    with caplog.at_level(logging.WARNING, "slotpapers.training"):
        trained = train(arguments.pop("model"), squared, batches, replace(arguments.pop("config"), precision=precision), validation=scores_as_model,
                        folder=tmp_path, **arguments)
    assert trained.resumed_from == 0 and said in caplog.text and "Starting anew" in caplog.text and str(tmp_path) in caplog.text


def scores_as_model(model):
    dtype = next(model.parameters()).dtype
    return {"mse": squared(model, map_tensors(lambda t: t.to(dtype), batches(10**6)))["mse"]}


def test_what_is_watched_may_change(tmp_path, caplog):
    break_off(tmp_path)
    with caplog.at_level(logging.INFO, "slotpapers.training"):
        trained = train(network(0.5), squared, batches, replace(STORED, checkpoint_every=3, progress=True), validation=scores, folder=tmp_path)
    assert trained.resumed_from == 12 and "continuing at step 12" in caplog.text


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    break_off(tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    for damaged in (whole[:-200], whole[:50], b"", b"<html>", whole[: len(whole) // 2] + bytes(100)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} is not a whole checkpoint.*delete it to start anew"):
            train(network(0.5), squared, batches, STORED, validation=scores, folder=tmp_path)
    torch.save({"format": "slotpapers checkpoint 0"}, path)
    with pytest.raises(ValueError, match="holds 'slotpapers checkpoint 0' instead of 'slotpapers checkpoint 1'"):
        load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds 'list'"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "absent.pt")


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'trapped')!r}, 'w').close()",)

    torch.save({"format": "slotpapers checkpoint 1", "fingerprint": {}, "state": Trap()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is not a whole checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "trapped").exists()


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoint.pt", {"step": 1}, {})

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "checkpoint.pt", {"step": 2}, {})
    assert load_checkpoint(tmp_path / "checkpoint.pt")[0] == {"step": 1} and len(list(tmp_path.iterdir())) == 1


def test_history_survives_a_new_column_and_extreme_numbers(tmp_path):
    history, file = History(), HistoryFile(tmp_path / "history.csv")
    for step, value in enumerate([5e-324, 1 / 3, 1.7e308, -0.0]):
        history.add({"step": step, "a": value, **({"b": 1.0} if step == 2 else {})})
        file.write(history)
    read = pd.read_csv(tmp_path / "history.csv")
    assert read.equals(history.frame()) and read.b.isna().tolist() == [True, True, False, True] and math.copysign(1, read.a[3]) == -1


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    break_off(tmp_path, at=14, tensorboard=True)
    trained = train(network(0.5), squared, batches, STORED, validation=scores, folder=tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"mse", "total", "lr", "grad_norm", "validation/mse", "validation/fit"}
    assert [e.step for e in events.Scalars("mse")] == list(range(20)), "events after the last checkpoint are not shown twice"
    assert np.allclose([e.value for e in events.Scalars("mse")], trained.history.mse, rtol=1e-6)
    assert [e.step for e in events.Scalars("validation/mse")] == [4, 9, 14, 19]


def test_tensorboard_is_not_needed_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(network(), squared, batches, QUIET, folder=tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'slotpapers\[log\]'"):
        train(network(), squared, batches, QUIET, folder=tmp_path, tensorboard=True)


def test_progress_shows_the_terms(capsys):
    train(network(), squared, batches, replace(QUIET, progress=True))
    shown = capsys.readouterr().err
    assert "20/20" in shown and "mse=" in shown and "total=" in shown
    train(network(), squared, batches, QUIET)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- Fabric

def test_a_fabric_of_ones_own():
    fabric = loop.open_fabric(replace(QUIET, precision="64-true"))
    model = network()
    train(model, squared, batches, QUIET, fabric=fabric)
    assert model[0].weight.dtype == torch.float64


def test_fabric_from_lightning(monkeypatch):
    standin = types.ModuleType("lightning.fabric")
    standin.Fabric = lambda **settings: settings
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "lightning.fabric", standin)
    monkeypatch.setenv("GROUP_WORLD_SIZE", "3")
    assert loop.open_fabric(replace(QUIET, devices=2)) == {"accelerator": "cpu", "devices": 2, "precision": "32-true", "num_nodes": 3}


# ---------------------------------------------------------------- bad input

@pytest.mark.parametrize("wrong, said", [
    (dict(steps=0), "steps must be at least 1"), (dict(lr=math.nan), "lr must be at least 0, and finite; got nan"),
    (dict(schedule="step"), "schedule must be one of"), (dict(optimizer="lion"), "optimizer must be one of"), (dict(devices=0), "devices must be"),
    (dict(precision="fp8"), "precision must be one of"), (dict(weight_decay=-1), "weight_decay"), (dict(warmup_steps=-1), "warmup_steps"),
    (dict(checkpoint_every=-1), "checkpoint_every"), (dict(validate_every=-1), "validate_every"), (dict(floor=1.5), "floor must be a fraction"),
    (dict(clip_norm=-1.0), "clip_norm must be positive")])
def test_wrong_settings(plain_calls, wrong, said):
    with pytest.raises(ValueError, match=said):
        LoopConfig(**{"steps": 10, **wrong})


@pytest.mark.parametrize("config, options, said", [
    (replace(QUIET, patience=3), {}, "need each other"), (replace(QUIET, validate_every=3), {}, "need each other"),
    (replace(QUIET, patience=3), {"validation": scores}, "need each other"),
    (QUIET, {"validation": scores}, "monitor must name a score of validation \\(mse, fit\\); got 'total'"),
    (QUIET, {"keep": "weights"}, "need a folder"), (QUIET, {"tensorboard": True}, "need a folder"), (QUIET, {"keep": "all"}, "keep must be one of"),
    (QUIET, {"restore": "first"}, "restore must be one of")])
def test_wrong_arguments(plain_calls, config, options, said):
    with pytest.raises(ValueError, match=said):
        train(network(), squared, batches, config, **options)


@pytest.mark.parametrize("objective, said", [
    (lambda m, b: m(b["x"]).mean(), "dictionary of named scalars"), (lambda m, b: {}, "dictionary of named scalars"),
    (lambda m, b: {"lr": m(b["x"]).mean()}, "must not name a term 'lr'"), (lambda m, b: {"val_a": m(b["x"]).mean()}, "must not name a term 'val_a'"),
    (lambda m, b: {"a": m(b["x"])}, r"got \(8, 2\) for 'a'"), (lambda m, b: {"a": 1.0}, "got 1.0 for 'a'"),
    (lambda m, b: {"a": m(b["x"]).mean().detach()}, "depends on a parameter")])
def test_wrong_objectives(plain_calls, objective, said):
    with pytest.raises(ValueError, match=said):
        train(network(), objective, batches, QUIET)


def test_an_objective_with_weights_of_its_own_is_refused():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, model, batch):
            return {"mse": self.scale * squared(model, batch)["mse"]}

    with pytest.raises(ValueError, match="put them into the model"):
        train(network(), Head(), batches, QUIET)
    head = Head().requires_grad_(False)
    assert train(network(), head, batches, QUIET).why == "finished"


def test_a_frozen_model_is_refused():
    with pytest.raises(ValueError, match="is everything frozen"):
        train(network().requires_grad_(False), squared, batches, QUIET)


def test_settings_are_plain_numbers():
    config = LoopConfig(10, lr=np.float64(0.1), clip_norm=1)
    assert json.loads(json.dumps([config.lr, config.clip_norm])) == [0.1, 1.0] and config == LoopConfig(10, lr=0.1, clip_norm=1.0)
