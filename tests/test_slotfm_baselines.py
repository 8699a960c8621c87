"SlotFM's comparison methods: sizes, inputs that are refused, saving, and RelCon's distance against slow twins."
import math

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from slotpapers.core.seeds import forked_rng, numpy_stream
from slotpapers.evaluation.probes import VectorHead, matched_hidden, precompute
from slotpapers.models.slotfm import SlotFM
from slotpapers.models.slotfm_baselines import (AugmentationPredictor, Autoencoder, MaskedAutoencoder, RelCon, SimCLR, Supervised,
                                                WindowEncoder, WindowModel, parameter_table)
from slotpapers.models.slotfm_classifiers import NETWORKS, HARClassifier
from slotpapers.models.slotfm_distance import BorderConv, DilatedBlock, DistanceNet, distance, distance_table, sparsemax, statistics_of

TINY = dict(n_steps=40, hidden=8, n_blocks=1, dim=16)
KINDS = {"plain": WindowModel, "autoencoder": Autoencoder, "masked": MaskedAutoencoder, "changes": AugmentationPredictor,
         "simclr": SimCLR, "relcon": RelCon}


def noise(*shape, seed=0):
    return torch.from_numpy(numpy_stream(seed, "baselines", *shape).normal(size=shape))


def windows(n=5):
    return (noise(n, 3, 40) + 3 * noise(n, 3, 1)).float()


def made(name, **settings):
    with forked_rng(0, "baseline tests"):
        return KINDS[name](**TINY | settings).eval()


# ---- sizes ---------------------------------------------------------------------------------------------------------

def test_parameters_are_those_of_table_6(root):
    table = parameter_table()
    assert table == {
        "slotfm": {"encoder": 4_773_952, "pretext": [4_809_996], "total": 9_583_948},
        "autoencoder": {"encoder": 4_805_888, "pretext": [4_805_891], "total": 9_611_779},
        "masked_autoencoder": {"encoder": 4_805_888, "pretext": [4_805_891], "total": 9_611_779},
        "augmentation_prediction": {"encoder": 4_805_888, "pretext": [1_542], "total": 4_807_430},
        "simclr": {"encoder": 4_805_888, "pretext": [82_240], "total": 4_888_128},
        "relcon": {"encoder": 4_805_888, "pretext": [82_240, 58_617], "total": 4_946_745}}
    printed = yaml.safe_load((root / "data/papers/slotfm.yaml").read_text())["tables"]["table6"]["rows"]
    assert set(printed) == set(table)
    for method, (encoder, _, total) in printed.items():
        assert f"{table[method]['encoder'] / 1e6:.1f}M" == encoder and f"{table[method]['total'] / 1e6:.1f}M" == total


def test_sizes_of_other_settings():
    small = parameter_table(hidden=8, n_blocks=1, dim=16)
    assert small["simclr"]["encoder"] == sum(p.numel() for p in WindowEncoder(hidden=8, n_blocks=1, dim=16).parameters())
    with torch.device("meta"):
        count = lambda **settings: sum(p.numel() for p in Autoencoder(**settings).decoder.parameters())
        assert count(time="fourier") - count() == 12_032 and count(n_steps=100) == count()


def test_baseline_heads_have_the_size_of_slotfms():
    assert matched_hidden(256, 8, 2, 72_136) == 272
    with torch.device("meta"):
        assert abs(sum(p.numel() for p in VectorHead(256, 8, 2, 272).parameters()) - 72_136) < 133        # half a unit's worth


# ---- inputs --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", KINDS)
def test_embeddings_have_one_shape_and_do_not_depend_on_batch_mates(name):
    model, x = made(name), windows()
    z = model.encode(x, fs=50, unit="m/s^2")
    assert z.shape == (5, 16) and torch.allclose(model.encode(x[2:3]), z[2:3], atol=1e-5)
    assert torch.allclose(precompute(model.encode, x.numpy(), batch_size=2), z, atol=1e-5)


BAD = {
    "rate": (dict(fs=100), "fs must be 50 Hz, the rate of these weights; got 100: resample"),
    "unit": (dict(unit="g"), "unit must be 'm/s\\^2', the unit of these weights; got 'g': convert"),
    "length": (dict(x=torch.zeros(2, 3, 41)), "x must be \\(B, 3, 40\\); got \\(2, 3, 41\\)"),
    "axes": (dict(x=torch.zeros(2, 4, 40)), "x must be \\(B, 3, 40\\); got \\(2, 4, 40\\)"),
    "no batch": (dict(x=torch.zeros(3, 40)), "x must be \\(B, 3, 40\\); got \\(3, 40\\)"),
    "missing sample": (dict(x=torch.full((2, 3, 40), math.nan)), "x must be finite; 240 of 240"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", KINDS)
def test_windows_that_do_not_fit_the_weights_are_refused(name, bad, plain_calls):
    wrong, said = BAD[bad]
    with pytest.raises(ValueError, match=said):
        made(name).encode(**{"x": windows(2)} | wrong)


def test_reconstruct_checks_too_and_decode_refuses_other_vectors(plain_calls):
    model = made("autoencoder")
    assert model.reconstruct(windows(), fs=50.0).shape == (5, 3, 40) and model(windows()).equal(model.reconstruct(windows()))
    with pytest.raises(ValueError, match="fs must be 50 Hz"):
        model.reconstruct(windows(), fs=25)
    with pytest.raises(ValueError, match="vectors must be \\(B, 16\\); got \\(2, 7\\): embeddings of another model"):
        model.decode(torch.zeros(2, 7))


@pytest.mark.parametrize("name", KINDS)
def test_weights_and_settings_travel_together(name, tmp_path):
    model, x = made(name, fs=50, n_steps=40), windows()
    model.save_pretrained(tmp_path)
    loaded = KINDS[name].from_pretrained(tmp_path)
    assert not loaded.training and loaded.encode(x).equal(model.encode(x)) and loaded(x).equal(model(x))
    assert (loaded.fs, loaded.unit, loaded.n_steps, loaded.dim) == (50.0, "m/s^2", 40, 16)


def test_other_axes_and_half_precision():
    with forked_rng(0, "six"):
        model = WindowModel(**TINY, channels=6, unit="mixed").eval()
    assert model.encode(torch.zeros(2, 6, 40), unit="mixed").shape == (2, 16)
    assert made("simclr").bfloat16()(windows()).dtype == torch.bfloat16
    assert made("autoencoder").double()(windows().double()).dtype == torch.float64


def test_supervised_trains_encoder_and_head_of_any_backbone():
    with forked_rng(0, "supervised"):
        slotfm = SlotFM(n_steps=100, hidden=8, n_blocks=1, n_slots=2, slot_dim=8)
        model = Supervised(slotfm, nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))
    out = model(noise(3, 3, 100).float())
    out.square().sum().backward()
    assert out.shape == (3, 4) and all(p.grad is not None for p in slotfm.encoder_parameters())


def test_changes_have_one_head_each():
    assert made("changes", n_changes=5)(windows()).shape == (5, 5, 2)


# ---- the benchmark's classifiers -----------------------------------------------------------------------------------

@pytest.mark.parametrize("network", NETWORKS)
def test_benchmark_classifiers_check_save_and_learn_with_every_parameter(network, tmp_path):
    with forked_rng(0, "benchmark"):
        model, x = HARClassifier(network, 5), noise(4, 3, 100).float()
        assert model(x).shape == (4, 5) and model.encode(x, fs=50, unit="m/s^2").shape == (4, 128)
        model(x).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with pytest.raises(ValueError, match="fs must be 50 Hz"):
        model.encode(x, fs=100)
    model.eval().save_pretrained(tmp_path)
    assert HARClassifier.from_pretrained(tmp_path)(x).equal(model(x))


def test_benchmark_classifiers_see_the_whole_window():
    for network in NETWORKS:
        with forked_rng(0, "benchmark"):
            model = HARClassifier(network, 2, n_steps=40).eval()
        x = noise(1, 3, 40).float().requires_grad_()
        model(x).sum().backward()
        assert (x.grad[0].abs().sum(dim=0) > 0).all(), network


def test_benchmark_classifiers_that_cannot_be_built():
    with pytest.raises(ValueError, match="network must be one of 'deep_conv_lstm', 'gru', 'conv', 'mlp'; got 'lstm'"):
        HARClassifier("lstm", 2)
    with pytest.raises(ValueError, match="n_steps must be at least 17, what four convolutions of five samples see; got 16"):
        HARClassifier("deep_conv_lstm", 2, n_steps=16)
    assert HARClassifier("deep_conv_lstm", 2, n_steps=17)(torch.zeros(1, 3, 17)).shape == (1, 2)


# ---- RelCon's distance ---------------------------------------------------------------------------------------------

def sparsemax_by_bisection(z):
    low, high = z.max() - 1, z.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(z - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(z - (low + high) / 2, 0)


@pytest.mark.parametrize("size, scale", [(1, 1), (2, 1), (17, 0.01), (17, 1), (17, 30), (250, 1)])
def test_sparsemax_against_bisection(size, scale):
    logits = scale * noise(6, size)
    ours = sparsemax(logits).numpy()
    assert max(np.abs(ours[i] - sparsemax_by_bisection(logits[i].numpy())).max() for i in range(6)) < 1e-10


def test_sparsemax_with_ties_shifts_and_gradients():
    assert torch.allclose(sparsemax(torch.tensor([1.0, 1.0, 1.0, -5.0])), torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]))
    logits = noise(4, 3, 9).requires_grad_()
    assert torch.allclose(sparsemax(logits + 100), sparsemax(logits), atol=1e-12)
    assert torch.autograd.gradcheck(sparsemax, (logits,))
    narrow = sparsemax(noise(20, 250).bfloat16())
    assert narrow.dtype == torch.float32 and torch.allclose(narrow.sum(dim=1), torch.ones(20), atol=1e-5)


def test_border_correction_against_a_loop():
    with forked_rng(0, "border"):
        conv = BorderConv(2, 3, 5).double()
    x = noise(2, 2, 9)
    for t in range(9):
        taps = [(k, t + k - 2) for k in range(5) if 0 <= t + k - 2 < 9]
        expected = sum(torch.einsum("oi,bi->bo", conv.weight[:, :, k], x[:, :, s]) for k, s in taps) * 5 / len(taps) + conv.bias
        assert torch.allclose(conv(x)[:, :, t], expected, atol=1e-12)
    block = DilatedBlock(16, 2, 15, 2)
    assert block(torch.randn(2, 16, 30)).mean(dim=2).abs().max() < 1e-5


def net_of(attention="sparsemax", **settings):
    with forked_rng(0, "distance"):
        return DistanceNet(dim=8, attention=attention, **settings).double()


def test_rebuilding_by_hand():
    net, a, c = net_of().eval(), noise(1, 3, 20), noise(1, 3, 20, seed=1) * 2 + 1
    with torch.no_grad():
        net.gain.copy_(torch.tensor([1.0, 2.0, 0.5])), net.shift.copy_(torch.tensor([0.1, 0.0, -0.2]))
        mean, spread = c.mean(dim=2, keepdim=True), (c.var(dim=2, keepdim=True, unbiased=False) + 1e-5).sqrt()
        seen = lambda x: (x - mean) / spread * net.gain[:, None] + net.shift[:, None]
        q, k, v = net.queries(seen(a))[0], net.keys(seen(c))[0], net.values(seen(c))[0]
        rows = [sparsemax(q[:, t] @ k / math.sqrt(8)) @ v.T for t in range(20)]
        out = (torch.stack([net.leave(row) for row in rows]) - net.shift) / net.gain
        assert torch.allclose(net(a, c)[0], out.T * spread[0] + mean[0], atol=1e-9)


def test_no_gradient_flows_through_mean_and_spread():
    c = noise(2, 3, 20).requires_grad_()
    assert not any(part.requires_grad for part in statistics_of(c))
    assert torch.isfinite(statistics_of(torch.ones(1, 3, 20))[1].reciprocal()).all()         # a still window


@pytest.mark.parametrize("attention", ["sparsemax", "softmax", "released"])
def test_which_attention_runs_in_which_mode(attention):
    net, q, k = net_of(attention, dropout=0), noise(2, 8, 30), noise(2, 8, 30, seed=1)
    zeros = {training: bool((net.attend(3 * q, k, training) == 0).any()) for training in (True, False)}
    assert zeros == {"sparsemax": {True: True, False: True}, "softmax": {True: False, False: False},
                     "released": {True: True, False: False}}[attention]
    assert all(torch.allclose(net.attend(q, k, training).sum(dim=2), torch.ones(2, 30, dtype=torch.float64)) for training in (True, False))


def test_dropout_acts_in_training_alone():
    net, x = net_of(dropout=0.5), noise(2, 3, 20)
    with forked_rng(0, "dropout"):
        assert not net.train()(x, x).equal(net(x, x)) and net.eval()(x, x).equal(net(x, x))
        assert distance(net.train(), x, x).equal(distance(net.eval(), x, x))


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("attention", ["sparsemax", "released"])
def test_the_table_of_distances_against_pairs(chunk, attention):
    net, x = net_of(attention), noise(7, 3, 20)
    anchors, candidates = torch.tensor([4, 0, 6]), torch.tensor([[1, 2, 4, 5], [3, 3, 2, 1], [0, 6, 5, 4]])
    table = distance_table(net, x, anchors, candidates, chunk)
    for row, anchor in enumerate(anchors):
        for column, candidate in enumerate(candidates[row]):
            rebuilt = net.eval()(x[anchor][None], x[candidate][None]).detach()
            assert abs(float(table[row, column] - ((rebuilt - x[anchor]) ** 2).sum())) < 1e-9 * float(table[row, column])


def test_a_trained_distance_puts_every_window_nearest_to_itself():
    t = torch.arange(40) / 50
    x = torch.sin(6.283 * torch.arange(1, 7)[:, None, None] * t + noise(6, 3, 1).float()) + 0.2 * noise(6, 3, 40).float()
    with forked_rng(0, "trained"):
        net, everyone = DistanceNet(dim=16), torch.arange(6).expand(6, 6).contiguous()
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(120):
            loss = nn.functional.mse_loss(net(x, x + 0.1 * torch.randn(x.shape)), x)
            optimiser.zero_grad(), loss.backward(), optimiser.step()
    table = distance_table(net, x, torch.arange(6), everyone)
    assert table.argmin(dim=1).tolist() == list(range(6)) and not torch.allclose(table, table.T, rtol=0.01)


def test_settings_that_are_refused(plain_calls):
    with pytest.raises(ValueError, match="attention must be one of 'sparsemax', 'softmax', 'released'; got 'entmax'"):
        DistanceNet(attention="entmax")
    with pytest.raises(ValueError, match="dim must be a multiple of 8, the narrowing of the blocks; got 20"):
        DistanceNet(dim=20)
    with pytest.raises(ValueError, match="anchors must be \\(P, 3, T\\)"):
        DistanceNet(dim=8)(torch.zeros(1, 2, 20), torch.zeros(1, 3, 20))
    with pytest.raises(ValueError, match="must be one of 'fourier', 'linear', 'learned', 'none'; got 'clock'"):
        Autoencoder(**TINY, time="clock")


def test_freezing_the_distance_leaves_the_rest_free():
    model = RelCon(**TINY, distance_dim=8)
    assert not model.distance_frozen
    model.freeze_distance()
    free = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert model.distance_frozen and free == {"encoder", "head"}
