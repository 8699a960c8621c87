"Scores against scikit-learn, heads and their sizes, the probe's protocol, and what probing must leave alone."
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from slotpapers.core.seeds import forked_rng, numpy_stream
from slotpapers.evaluation.classification import class_weights, confusion, macro_f1, rmse
from slotpapers.evaluation.probes import (GRID, Configuration, HARHead, Protocol, SlotHead, SlotMixer, Task, VectorHead, build_head,
                                          check_folds, count_parameters, epoch_batches, fit_head, fit_probe, matched_hidden, mlp,
                                          precompute, select, standardised, targets_of)
from slotpapers.evaluation.statistics_forest import fit_forest, statistics_features, statistics_names
from slotpapers.training.loop import LoopConfig, train


# ---------------------------------------------------------------------------------------------------------------- scores
@pytest.mark.parametrize("seed", range(20))
def test_classification_scores_equal_scikit_learn(seed):
    draw = np.random.default_rng(seed)
    n_classes, n = int(draw.integers(2, 9)), int(draw.integers(1, 60))
    allowed = draw.choice(n_classes, int(draw.integers(1, n_classes + 1)), replace=False)   # some classes are missing
    true, pred = draw.choice(allowed, n), draw.integers(0, n_classes, n)
    every = list(range(n_classes))
    assert np.array_equal(confusion(pred, true, n_classes), metrics.confusion_matrix(true, pred, labels=every))
    for labels, ours in ((every, "all"), (np.unique(true), "present")):
        theirs = metrics.f1_score(true, pred, labels=labels, average="macro", zero_division=0)
        assert np.isclose(macro_f1(pred, true, n_classes, labels=ours), theirs, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rmse_equals_scikit_learn(dtype):
    draw = np.random.default_rng(0)
    true, pred = draw.normal(500, 2, 1000).astype(dtype), draw.normal(500, 2, 1000).astype(dtype)
    assert np.isclose(rmse(pred, true), metrics.root_mean_squared_error(true.astype(np.float64), pred.astype(np.float64)), atol=1e-10)


def test_weights_equal_scikit_learns_balanced_ones():
    from sklearn.utils.class_weight import compute_class_weight
    y = np.repeat([0, 2, 3], [300, 20, 5])
    assert np.allclose(class_weights(y, 5)[[0, 2, 3]], compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=y))
    assert class_weights(y, 5)[[1, 4]].tolist() == [0, 0]
    assert class_weights(y, 5, imbalance=60.0) is None and class_weights(y[y != 3], 5, imbalance=15.0) is None
    assert class_weights(np.repeat([0, 1], 10), 2, imbalance=0.0).tolist() == [1, 1]


@pytest.mark.parametrize("call, said", [
    (lambda: macro_f1(np.array([0]), np.array([0, 1]), 2), "one label a sample; got 1 and 2"),
    (lambda: macro_f1(np.array([0, 2]), np.array([0, 1]), 2), "pred must lie in 0..1; got 0..2"),
    (lambda: macro_f1(np.array([], int), np.array([], int), 2), "at least one label"),
    (lambda: macro_f1(np.array([0]), np.array([0]), 2, labels="some"), "'all', 'present'; got 'some'"),
    (lambda: rmse(np.zeros(0), np.zeros(0)), "at least one; got 0 and 0"), (lambda: rmse(np.zeros(2), np.zeros(3)), "got 2 and 3"),
    (lambda: class_weights(np.array([-1, 0]), 2), "drop unlabelled rows")])
def test_bad_labels(plain_calls, call, said):
    with pytest.raises(ValueError, match=said):
        call()


# ---------------------------------------------------------------------------------------------------------------- heads
@pytest.mark.parametrize("n_out, depth, total", [(8, 2, 72_136), (8, 3, 137_928), (1, 2, 70_337), (39, 2, 80_103)])
def test_size_of_the_slot_head(n_out, depth, total):
    head = SlotHead(32, 8, n_out, depth)
    assert count_parameters(head) == total and count_parameters(head.mixer) == 4_288
    assert count_parameters(head.mixer) < 0.1 * total      # "less than 10%"
    assert count_parameters(SlotHead(32, 8, n_out, depth, attention=False)) == total - 4_288


@pytest.mark.parametrize("n_out", [1, 5, 8, 39])
@pytest.mark.parametrize("depth", [2, 3])
def test_vector_heads_match_in_size(n_out, depth):
    target = count_parameters(SlotHead(32, 8, n_out, depth))
    sizes = {h: count_parameters(VectorHead(256, n_out, depth, h)) for h in range(240, 300)}
    best = min(sizes, key=lambda h: abs(sizes[h] - target))
    assert matched_hidden(256, n_out, depth, target) == best
    assert count_parameters(build_head(torch.zeros(2, 256), n_out, depth, Protocol())) == sizes[best]


def test_slot_head_equals_its_equation():
    with forked_rng(0, "head"):
        head = SlotHead(8, 3, 5, depth=3, hidden=16, n_heads=2).double().eval()
    slots = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 8)))
    layer = head.mixer.attention
    q, k, v = (slots @ w.T + b for w, b in zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)))
    mixed = []
    for h in range(2):
        cut = slice(4 * h, 4 * h + 4)
        weights = (q[..., cut] @ k[..., cut].transpose(1, 2) / 2).softmax(-1)
        mixed.append(weights @ v[..., cut])
    rows = slots + torch.cat(mixed, -1) @ layer.out_proj.weight.T + layer.out_proj.bias
    flat = nn.functional.layer_norm(rows, (8,), head.mixer.norm.weight, head.mixer.norm.bias).reshape(4, 24)
    first, second, last = (m for m in head.mlp if isinstance(m, nn.Linear))
    assert torch.allclose(head(slots), last(second(first(flat).relu()).relu()), atol=1e-10)


def test_every_head_parameter_learns():
    for head, x in ((SlotHead(8, 3, 5, 3, 16), torch.randn(6, 3, 8)), (VectorHead(24, 5, 3, 16), torch.randn(6, 24)),
                    (HARHead(24, 5, slot_dim=8), torch.randn(6, 3, 8)), (HARHead(24, 5), torch.randn(6, 24))):
        head(x).square().sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
        quiet = [n for n, p in head.named_parameters() if p.grad.abs().sum() == 0]
        # the softmax does not see a shift of all scores: the key's bias is part of in_proj_bias, which learns through the others
        assert not quiet


def test_har_head_is_three_layers_with_batchnorm_and_dropout():
    kinds = [type(m).__name__ for m in HARHead(128, 6).mlp]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert isinstance(HARHead(128, 6, slot_dim=32).mixer, SlotMixer)
    assert HARHead(128, 6, slot_dim=32, attention=False).mixer.attention is None


@pytest.mark.parametrize("call, said", [
    (lambda: SlotHead(32, 8, 5, depth=4), "depth must be one of 2, 3; got 4"), (lambda: VectorHead(256, 5, depth=1), "got 1"),
    (lambda: SlotHead(30, 8, 5), "n_heads must divide slot_dim = 30; got 4"), (lambda: Protocol(head="linear"), "got 'linear'"),
    (lambda: Protocol(labels="some"), "got 'some'")])
def test_bad_heads(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# ---------------------------------------------------------------------------------------------------------------- frozen backbone
class Backbone(nn.Module):
    "A small encoder with BatchNorm and Dropout, so that training mode would show."

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(3, 16, 5), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool1d(4), nn.Flatten())

    def encode(self, x):
        return self.body(x).unflatten(1, (4, 16))


@pytest.fixture
def probed():
    "A backbone in training mode, windows, labels, folds."
    with forked_rng(0, "backbone"):
        model = Backbone()
    model.body[0].eval()      # a mixed state must come back as it was
    draw = numpy_stream(0, "probed")
    y = draw.integers(0, 2, 90)
    x = draw.normal(size=(90, 3, 40)) + 2 * np.sin(np.arange(40) * np.array([0.3, 1.2])[y][:, None])[:, None]
    return model, x.astype(np.float32), y, [(np.arange(50), np.arange(50, 70), np.arange(70, 90))]


def test_probing_leaves_the_backbone_alone(probed):
    model, x, y, folds = probed
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    features = precompute(model.encode, x, 16)
    assert not features.requires_grad
    fit_probe(features, y, folds, 2, grid=GRID[:1], protocol=Protocol(epochs=3, hidden=8, accelerator="cpu"))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert {"body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"} <= set(state)
    assert [m.training for m in model.modules()] == modes and all(p.grad is None for p in model.parameters())
    assert torch.equal(rng, torch.get_rng_state())


def test_features_do_not_depend_on_batch_mates(probed):
    model, x, _, _ = probed
    whole = precompute(model.encode, x, 90)
    assert torch.allclose(whole, precompute(model.encode, x, 7), atol=1e-6)
    assert torch.allclose(whole[[5, 3]], precompute(model.encode, x[[5, 3]]), atol=1e-6)
    assert not torch.allclose(whole, model.encode(torch.from_numpy(x)), atol=1e-3)     # training mode is another function


def test_modes_come_back_after_an_error(probed):
    model, x, _, _ = probed
    with pytest.raises(RuntimeError):
        precompute(model.encode, x[:, :2])
    assert model.training and not model.body[0].training


def test_random_start_is_repeatable(probed):
    class Drawn(Backbone):
        def encode(self, x):
            return super().encode(x) + torch.randn(len(x), 4, 16)
    model, x = Drawn(), probed[1]
    one, same, other = (precompute(model.encode, x, seed=s) for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.allclose(one, other, atol=0.1)


def test_a_function_around_a_model_is_refused(probed):
    model, x, _, _ = probed
    with pytest.raises(ValueError, match="pass model.encode, not a function around it"):
        precompute(lambda x: model.encode(x), x)


# ---------------------------------------------------------------------------------------------------------------- protocol
QUICK = Protocol(epochs=30, batch_size=32, hidden=16, n_slots=4, accelerator="cpu")


@pytest.fixture(scope="module")
def made():
    "Slots that hold a class in one slot and a number in another; three folds."
    draw = numpy_stream(0, "made slots")
    y, number = draw.integers(0, 3, 240), draw.normal(50, 10, 240)
    slots = draw.normal(size=(240, 4, 8)).astype(np.float32)
    slots[:, 1, :3] += 3 * np.eye(3, dtype=np.float32)[y]
    slots[:, 2, 0] = (number - 50) / 10
    parts = np.array_split(np.arange(240), 3)
    folds = [(np.concatenate([parts[(i + 1) % 3], parts[(i + 2) % 3][:40]]), parts[(i + 2) % 3][40:], parts[i]) for i in range(3)]
    return torch.from_numpy(slots), y, number, folds


def test_the_six_configurations():
    assert set(GRID) == {Configuration(lr, depth) for lr in (1e-3, 5e-4, 1e-4) for depth in (2, 3)}
    paper = Protocol()
    assert (paper.epochs, paper.patience, paper.batch_size, paper.hidden) == (200, 10, 256, 256)


def test_probe_finds_the_class_in_every_fold(made):
    slots, y, _, folds = made
    result = fit_probe(slots, y, folds, 3, grid=(Configuration(1e-2, 2),), protocol=QUICK)
    assert min(result.test) > 0.8 and result.metric == "macro_f1" and len(result.predictions) == 3
    for (_, _, test), predictions, score in zip(folds, result.predictions, result.test):
        assert np.isclose(metrics.f1_score(y[test], predictions, average="macro"), score)


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_regression_is_scored_in_its_unit(made, unit):
    slots, _, number, folds = made
    result = fit_probe(slots, number * unit, folds[:1], grid=(Configuration(1e-2, 2),), protocol=QUICK)
    test = folds[0][2]
    assert np.isclose(result.score, np.sqrt(np.mean((result.predictions[0] - unit * number[test]) ** 2)))
    assert result.metric == "rmse" and result.score < 0.7 * unit * number.std()      # 120 rows do not suffice for more


def test_same_seed_same_numbers(made):
    slots, y, _, folds = made
    short = replace(QUICK, epochs=4)
    one, same, other = (fit_probe(slots, y, folds[:1], 3, grid=GRID[:2], protocol=short, seed=s) for s in (0, 0, 1))
    assert one.table == same.table and one.table != other.table
    torch.randn(7)      # a drawn number in between changes nothing
    assert fit_probe(slots, y, folds[:1], 3, grid=GRID[:2], protocol=short).table == one.table


def test_test_rows_do_not_touch_the_choice(made):
    "Test labels turned upside down: the same configuration, weights and predictions."
    slots, y, _, folds = made
    lied = y.copy()
    lied[folds[0][2]] = 2 - lied[folds[0][2]]
    one, other = (fit_probe(slots, labels, folds[:1], 3, grid=GRID[:3], protocol=replace(QUICK, epochs=5)) for labels in (y, lied))
    assert one.chosen == other.chosen and one.validation == other.validation and one.test != other.test
    assert np.array_equal(one.predictions[0], other.predictions[0])


def test_choice_is_by_mean_validation_over_folds():
    table = [dict(lr=1.0, depth=2, validation=[0.9, 0.1], test=[0.9, 0.9], epochs=[1, 1]),
             dict(lr=2.0, depth=2, validation=[0.6, 0.6], test=[0.1, 0.2], epochs=[1, 1])]
    for n_classes, chosen, by_test in ((2, 2.0, 1.0), (None, 1.0, 2.0)):      # high F1, low RMSE
        result = select(Task(np.array([0, 1]), n_classes), table, [[], []])
        assert result.chosen == {"lr": chosen, "depth": 2} and result.test_best["lr"] == by_test
        listed = result.rows(arm="slotfm", dataset="simulated", seed=3)
        assert [r["metric"] for r in listed] == [p + result.metric for p in ("", "", "test_best_", "test_best_")]
        assert all(set(r) == {"arm", "dataset", "seed", "fold", "metric", "value"} for r in listed)


def test_patience_stops_and_the_best_epoch_is_kept(made):
    slots, y, _, folds = made
    noise = numpy_stream(0, "noise").permutation(y)
    fitted = fit_head(slots, Task(noise, 3), folds[0], Configuration(1e-2, 2), replace(QUICK, epochs=100, patience=3), 0)
    assert fitted.epochs < 100 and fitted.epochs == int(fitted.epochs)
    held = folds[0][1]
    fitted.head.eval()
    with torch.no_grad():
        predicted = fitted.head(slots[held]).argmax(-1).numpy()
    assert np.isclose(macro_f1(predicted, noise[held], 3), fitted.validation)


@pytest.mark.parametrize("n_classes", [3, None])
def test_the_plain_loop_makes_the_numbers_of_the_general_one(made, n_classes):
    slots, y, number, folds = made
    task, (known, held, test), configuration = Task(y if n_classes else number, n_classes), folds[0], Configuration(1e-2, 3)
    fitted = fit_head(slots, task, folds[0], configuration, replace(QUICK, epochs=40, patience=4), 5)
    targets, loss, predict = targets_of(task, known)
    with forked_rng(5, "head", 3):
        head = build_head(slots, n_classes or 1, 3, QUICK)
    per_epoch, rows = epoch_batches(len(known), QUICK.batch_size, 5)
    config = LoopConfig(steps=40 * per_epoch, lr=1e-2, clip_norm=None, validate_every=per_epoch, seed=5, patience=4, progress=False,
                        accelerator="cpu", monitor="-macro_f1" if n_classes else "rmse")
    trained = train(head, lambda model, batch: {"loss": loss(model(batch["x"]), batch["y"])},
                    lambda step: {"x": slots[known[rows(step)]], "y": targets[known[rows(step)]]}, config,
                    validation=lambda model: {task.metric: task.score(predict(model(slots[held])), held)})
    assert fitted.epochs == trained.stopped_at / per_epoch < 40 and np.isclose(fitted.validation, trained.best_score, rtol=1e-6)
    with torch.no_grad():
        assert torch.allclose(fitted.head(slots[test]), head(slots[test]), atol=1e-6)


def test_a_head_that_diverges_is_stopped(made):
    slots, _, number, folds = made
    with pytest.raises(ValueError, match="loss must be finite; got .* epoch 0, seed 0"):
        fit_head(slots * 1e30, Task(number, None), folds[0], Configuration(1e-2, 2), QUICK, 0)


def test_rare_classes_are_weighted():
    y = np.repeat([0, 1], [110, 10])
    _, loss, _ = targets_of(Task(y, 2), np.arange(120))
    out, target = torch.zeros(2, 2).requires_grad_(), torch.tensor([0, 1])
    loss(out, target).backward()
    assert np.isclose((out.grad[1, 1] / out.grad[0, 0]).item(), 11, rtol=1e-5)


def test_training_split_alone_standardises(made):
    slots, _, number, folds = made
    z, _, back = targets_of(Task(number, None), folds[0][0])
    assert np.isclose(z[folds[0][0]].mean(), 0, atol=1e-5) and np.allclose(back(z[:, None]), number, rtol=1e-5)
    scaled = standardised(slots, folds[0][0])
    assert scaled[folds[0][0]].mean(0).abs().max() < 1e-5 and not scaled.mean(0).abs().max() < 1e-3
    assert torch.isfinite(standardised(torch.ones(4, 3), np.arange(2))).all()


@pytest.mark.parametrize("n, size", [(257, 256), (256, 256), (5, 256), (1000, 64)])
def test_epochs_see_every_row_once_and_no_lonely_one(n, size):
    per_epoch, rows = epoch_batches(n, size, seed=1)
    for epoch in range(2):
        parts = [rows(epoch * per_epoch + i) for i in range(per_epoch)]
        assert sorted(np.concatenate(parts)) == list(range(n)) and max(map(len, parts)) <= size
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    other_epoch, other_seed = rows(per_epoch), epoch_batches(n, size, seed=2)[1](0)
    if n > 5:
        assert not np.array_equal(rows(0)[:5], other_epoch[:5]) and not np.array_equal(rows(0)[:5], other_seed[:5])
    assert np.array_equal(rows(0), epoch_batches(n, size, seed=1)[1](0))      # whatever was asked in between


@pytest.mark.parametrize("change", [dict(head="har"), dict(attention=False), dict(standardise=True), dict(labels="present")])
@pytest.mark.parametrize("axes", [2, 3])
def test_every_keyword_runs(made, change, axes):
    slots, y, _, folds = made
    features = slots if axes == 3 else slots.flatten(1)
    result = fit_probe(features, y, folds[:1], 3, grid=GRID[:1], protocol=replace(QUICK, epochs=2, **change))
    assert 0 <= result.score <= 1


@pytest.mark.parametrize("change, said", [
    (lambda f, y, folds: (f[:-1], y, folds), "one row for each of the 240 targets; got \\(239, 4, 8\\)"),
    (lambda f, y, folds: (f * float("nan"), y, folds), "values not finite"),
    (lambda f, y, folds: (f, y, [(folds[0][0], folds[0][1], folds[0][1])]), "rows on two sides"),
    (lambda f, y, folds: (f, y, [(folds[0][0], folds[0][1], folds[0][1][:0])]), "must have test rows"),
    (lambda f, y, folds: (f, y, [(folds[0][0], folds[0][1], folds[0][1] + 1000)]), "rows in 0..239")])
def test_bad_probes(made, change, said):
    slots, y, _, folds = made
    features, labels, parts = change(slots, y, folds)
    with pytest.raises(ValueError, match=said):
        fit_probe(features, labels, parts, 3, grid=GRID[:1], protocol=QUICK)


def test_a_participant_on_two_sides_is_refused(made):
    slots, y, _, folds = made
    subject = np.array([f"p{i // 24}" for i in range(240)])
    with pytest.raises(ValueError, match="fold 0 has participants on two sides"):
        check_folds(folds, 240, np.full(240, "p0"))
    check_folds([(np.arange(0, 120), np.arange(120, 168), np.arange(168, 240))], 240, subject)


def test_constant_targets_are_refused(made):
    slots, _, _, folds = made
    with pytest.raises(ValueError, match="training targets must differ; all of them are 1.0"):
        fit_probe(slots, np.ones(240), folds, grid=GRID[:1], protocol=QUICK)


# ---------------------------------------------------------------------------------------------------------------- statistics and forest
def test_statistics_against_plain_loops():
    x = np.random.default_rng(0).normal(1, 2, (3, 3, 100)).astype(np.float32)
    named = [dict(zip(statistics_names(), row, strict=True)) for row in statistics_features(x)]
    for window, row in zip(x.astype(np.float64), named):
        norm = np.sqrt((window**2).sum(0))
        for name, channel in zip(("x", "y", "z", "norm"), (*window, norm)):
            assert np.isclose(row[f"{name}_mean"], channel.mean()) and np.isclose(row[f"{name}_std"], channel.std())
            assert np.isclose(row[f"{name}_q25"], np.quantile(channel, 0.25)) and np.isclose(row[f"{name}_q95"], np.quantile(channel, 0.95))
            power = np.abs(np.fft.rfft(channel - channel.mean())) ** 2 / 100**2
            assert np.isclose(10 ** row[f"{name}_energy_low"], power[:2].sum() + 1e-6)        # 0 and 0.5 Hz
            assert np.isclose(10 ** row[f"{name}_energy_mid"], power[2:8].sum() + 1e-6)       # 1 to 3.5 Hz
            assert np.isclose(row[f"{name}_peak_hz"], 0.5 * power.argmax())
        assert np.isclose(row["corr_xz"], np.corrcoef(window[0], window[2])[0, 1])


def test_forest_is_seeded_and_weighs_rare_classes():
    draw = numpy_stream(0, "forest")
    y = np.repeat([0, 1], [220, 20])[draw.permutation(240)]
    features = draw.normal(size=(240, 6))
    features[:, 0] += y
    folds = [(np.arange(120), np.arange(120, 160), np.arange(160, 240))]
    one, same, other = (fit_forest(features, y, folds, 2, n_trees=10, seed=s) for s in (0, 0, 1))
    assert one.table == same.table and not np.array_equal(one.predictions[0], other.predictions[0])
    assert set(one.chosen) == {"min_samples_leaf"} and one.metric == "macro_f1"
    assert fit_forest(features, features[:, 0] * 2, folds, n_trees=10).score < 1.0


def test_mlp_depths():
    assert [type(m).__name__ for m in mlp(3, 4, 2, 3)] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
