"Contrastive losses against loops over pairs and candidates, at their edges; the objectives of the comparison methods."
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from slotpapers.core.seeds import forked_rng, numpy_stream, torch_stream
from slotpapers.data.augmented_batches import (Augmented, altered_copies, changed_windows, fixed_batches, masked_windows,
                                               ranked_candidates, two_views)
from slotpapers.models.slotfm_baselines import AugmentationPredictor, Autoencoder, MaskedAutoencoder, RelCon, SimCLR, Supervised, WindowModel
from slotpapers.models.slotfm_distance import distance_table
from slotpapers.objectives.contrastive import identical_share, nt_xent, relative_contrastive
from slotpapers.objectives.slotfm_baselines import (agree, classify, mean_terms, rank, rebuild_from_copies, rebuild_windows,
                                                    recognise_changes, regress)
from slotpapers.training.loop import LoopConfig, train

TINY = dict(n_steps=40, hidden=8, n_blocks=1, dim=16)


def noise(*shape, seed=0):
    return torch.from_numpy(numpy_stream(seed, "contrastive", *shape).normal(size=shape))


def windows(n=8, n_steps=40):
    return noise(n, 3, n_steps).float() + 3 * noise(n, 3, 1).float()


def made(kind, seed=0, **settings):
    with forked_rng(seed, "contrastive tests"):
        return kind(**TINY, **settings)


# ---- NT-Xent -------------------------------------------------------------------------------------------------------

def nt_xent_by_loop(a, b, temperature):
    views = [v / np.linalg.norm(v) for v in np.concatenate([a, b])]
    n, losses = len(a), []
    for i, view in enumerate(views):
        others = [j for j in range(2 * n) if j != i]
        partner = i + n if i < n else i - n
        scores = {j: math.exp(float(view @ views[j]) / temperature) for j in others}
        losses.append(-math.log(scores[partner] / sum(scores.values())))
    return float(np.mean(losses))


@pytest.mark.parametrize("n, temperature", [(1, 0.1), (2, 0.1), (7, 0.1), (7, 1), (20, 0.5)])
def test_nt_xent_against_a_loop(n, temperature):
    a, b = noise(n, 6), noise(n, 6, seed=1)
    assert abs(float(nt_xent(a, b, temperature)) - nt_xent_by_loop(a.numpy(), b.numpy(), temperature)) < 1e-10


def test_nt_xent_is_symmetric_and_blind_to_length_and_order():
    a, b = noise(9, 6), noise(9, 6, seed=1)
    loss = nt_xent(a, b)
    order = torch.randperm(9, generator=torch_stream(0, "order"))
    for other in (nt_xent(b, a), nt_xent(5 * a, 0.1 * b), nt_xent(a[order], b[order])):
        assert torch.allclose(other, loss, rtol=1e-12)
    assert not torch.allclose(nt_xent(a, b.roll(1, dims=0)), loss)


def test_nt_xent_has_a_finite_gradient_in_low_precision_too():
    a, b = (noise(9, 6, seed=k).float().requires_grad_() for k in range(2))
    nt_xent(a, b, 0.01).backward()
    assert torch.isfinite(a.grad).all() and a.grad.abs().max() > 0
    assert nt_xent(a.bfloat16(), b.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(nt_xent(a, b), nt_xent(a.detach(), b.detach())) and nt_xent(a, b).dtype == torch.float32


@pytest.mark.parametrize("temperature", [0, -0.1, math.nan])
def test_temperatures_that_are_none(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        nt_xent(noise(2, 3), noise(2, 3), temperature)
    with pytest.raises(ValueError, match="temperature positive"):
        relative_contrastive(noise(2, 3), noise(2, 4, 3), noise(2, 4), temperature)


def test_identical_share_counts_whole_windows():
    a = windows(10)
    b = a.clone()
    b[3, 0, 0] += 1
    b[7] *= 2
    assert identical_share(a, b) == pytest.approx(0.8) and identical_share(a, a + 1) == 0


# ---- RelCon --------------------------------------------------------------------------------------------------------

def relative_contrastive_by_loop(anchors, candidates, distances, temperature):
    losses = []
    for z, cs, ds in zip(anchors, candidates, distances):
        s = [float(z @ c / np.linalg.norm(z) / np.linalg.norm(c)) / temperature for c in cs]
        loss = 0.0
        for i in range(len(cs)):
            if ds[i] < max(ds):
                loss -= math.log(math.exp(s[i]) / sum(math.exp(s[j]) for j in range(len(cs)) if ds[j] >= ds[i]))
        losses.append(loss)
    return float(np.mean(losses))


@pytest.mark.parametrize("n_anchors, n_candidates, temperature", [(1, 2, 0.1), (4, 3, 0.1), (6, 25, 0.1), (6, 25, 1)])
def test_relative_contrastive_against_a_loop(n_anchors, n_candidates, temperature):
    z, c, d = noise(n_anchors, 5), noise(n_anchors, n_candidates, 5), noise(n_anchors, n_candidates).abs()
    expected = relative_contrastive_by_loop(z.numpy(), c.numpy(), d.numpy(), temperature)
    assert abs(float(relative_contrastive(z, c, d, temperature)) - expected) < 1e-9 * max(1, expected)


def test_relative_contrastive_does_not_overflow_where_sums_of_exponentials_do():
    z, c, d = noise(3, 5).float(), noise(3, 10, 5).float().requires_grad_(), noise(3, 10).abs().float()
    loss = relative_contrastive(z, c, d, 0.002)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(c.grad).all()
    plain = torch.exp(F.cosine_similarity(z[:, None], z[:, None], dim=2) / 0.002)
    assert torch.isinf(plain).any()                                            # the trap


def test_one_candidate_is_no_ranking():
    with pytest.raises(ValueError, match="candidates must be at least 2 an anchor, .* got 1 and 0.1"):
        relative_contrastive(noise(3, 5), noise(3, 1, 5), noise(3, 1))


# ---- objectives ----------------------------------------------------------------------------------------------------

def plain(step):
    return {"x": windows()}


CASES = {
    "autoencoder": (Autoencoder, rebuild_windows, plain, {"mse"}),
    "masked": (MaskedAutoencoder, rebuild_windows, Augmented(plain, masked_windows, each=4), {"mse"}),
    "changes": (AugmentationPredictor, recognise_changes, Augmented(plain, partial(changed_windows), each=4), {"flip", "permute", "warp"}),
    "simclr": (SimCLR, agree, Augmented(plain, two_views, each=4), {"nt_xent"}),
    "relcon": (lambda **s: RelCon(**s, distance_dim=8).freeze_distance(), rank,
               Augmented(plain, partial(ranked_candidates, n_anchors=4, n_same=2), each=4), {"relcon"}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_learns_and_nothing_else_moves(name):
    kind, objective, batches, names = CASES[name]
    model = made(kind)
    terms = objective(model, batches(0))
    assert set(terms) == names
    sum(terms.values()).backward()
    for key, parameter in model.named_parameters():
        if key.startswith("distance."):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", CASES)
def test_every_loss_falls_in_the_training_loop(name):
    kind, objective, batches, _ = CASES[name]
    fixed = batches(0)
    history = train(made(kind), objective, lambda step: fixed, LoopConfig(steps=60, lr=1e-2, progress=False, accelerator="cpu")).history.total
    assert history[-5:].mean() < 0.8 * history[:5].mean()


def test_masked_windows_are_judged_by_all_of_the_window():
    model, batch = made(MaskedAutoencoder).eval(), Augmented(plain, masked_windows, each=4)(0)
    expected = ((model(batch["x"]) - batch["target"]) ** 2).mean()
    assert torch.allclose(rebuild_windows(model, batch)["mse"], expected) and not batch["x"].equal(batch["target"])


def test_changes_are_averaged_cross_entropies():
    model, batch = made(AugmentationPredictor).eval(), Augmented(plain, changed_windows, each=4)(0)
    terms, logits = recognise_changes(model, batch), model(batch["x"])
    for k, name in enumerate(("flip", "permute", "warp")):
        by_hand = -torch.stack([logits[i, k].log_softmax(0)[batch["changed"][i, k]] for i in range(8)]).mean() / 3
        assert torch.allclose(terms[name], by_hand, atol=1e-6)
    with pytest.raises(ValueError, match="names must be one for each of the 3 changes; got \\['flip'\\]"):
        recognise_changes(model, batch, names=("flip",))


def test_distance_errors_as_mean_and_as_sum():
    net, batch = made(RelCon, distance_dim=8).distance.eval(), Augmented(plain, altered_copies, each=4)(0)
    mean, total = rebuild_from_copies(net, batch), rebuild_from_copies(net, batch, reduction="sum")
    assert torch.allclose(total["sse"], mean["mse"] * 8 * 3 * 40) and set(mean) == {"mse"}
    assert torch.allclose(total["sse"], ((net(batch["x"], batch["copy"]) - batch["x"]) ** 2).sum(), rtol=1e-4)
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum'; got 'none'"):
        rebuild_from_copies(net, batch, reduction="none")


def test_ranking_is_by_the_frozen_distance():
    model, batch = made(RelCon, distance_dim=8), CASES["relcon"][2](0)
    with pytest.raises(ValueError, match="must be trained and frozen before it ranks: train model.distance"):
        rank(model, batch)
    model = model.freeze_distance().eval()
    z = model(batch["x"])
    d = distance_table(model.distance, batch["x"], batch["anchors"], batch["candidates"])
    expected = relative_contrastive(z[batch["anchors"]], z[batch["candidates"]], d)
    assert torch.allclose(rank(model, batch)["relcon"], expected) and torch.allclose(rank(model, batch, chunk=1)["relcon"], expected, rtol=1e-4)
    weights = {k: v.clone() for k, v in model.distance.state_dict().items()}
    train(model, rank, CASES["relcon"][2], LoopConfig(steps=2, lr=1e-2, progress=False, accelerator="cpu"))
    assert all(v.equal(weights[k]) for k, v in model.distance.state_dict().items())


def test_supervised_losses():
    with forked_rng(0, "supervised"):
        model = Supervised(WindowModel(**TINY), nn.Linear(16, 3)).eval()
        single = Supervised(WindowModel(**TINY), nn.Linear(16, 1)).eval()
    x, y = windows(), torch.arange(8) % 3
    weight = torch.tensor([1.0, 2.0, 0.5])
    assert torch.allclose(classify(model, {"x": x, "y": y})["cross_entropy"], F.cross_entropy(model(x), y))
    assert torch.allclose(classify(model, {"x": x, "y": y}, weight)["cross_entropy"], F.cross_entropy(model(x), y, weight))
    assert torch.allclose(regress(single, {"x": x, "y": y.float()})["mse"], ((single(x)[:, 0] - y) ** 2).mean())


def test_validation_weighs_batches_by_their_windows():
    model = made(MaskedAutoencoder).eval()
    x, groups = windows(8), torch.arange(8) // 4
    held = fixed_batches(x, masked_windows, groups, batch_size=6)
    scores = mean_terms(rebuild_windows, held, model)
    by_hand = np.average([float(rebuild_windows(model, b)["mse"].detach()) for b in held], weights=[6, 2])
    assert scores["mse"] == pytest.approx(by_hand) and scores["total"] == scores["mse"]
    assert mean_terms(rebuild_windows, held, model) == scores
    config = LoopConfig(steps=4, lr=1e-2, progress=False, accelerator="cpu", validate_every=2)
    trained = train(model, rebuild_windows, CASES["masked"][2], config, validation=lambda m: mean_terms(rebuild_windows, held, m))
    assert trained.best_score < scores["total"]
