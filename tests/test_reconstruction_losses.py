"The reconstruction losses against slow twins, at their edges, and as SlotFM's weighted terms."
import math

import numpy as np
import pytest
import torch

from slotpapers.core.seeds import numpy_stream
from slotpapers.models.slotfm import SlotFM, SlotFMOutput
from slotpapers.objectives.reconstruction import local_means, ms_stft_loss, mse_loss, ssim_loss, ssim_map, stft_magnitudes
from slotpapers.objectives.slotfm import (HIGH, LOW, MID, ONLY_MSE, TABLE_5, BandWeights, SlotFMObjective, band_names,
                                          band_weights, slotfm_loss)


def noise(*shape, seed=0):
    return torch.from_numpy(numpy_stream(seed, "losses", len(shape)).normal(size=shape))


def ssim_by_loop(x, y, window, c1=1e-4, c2=9e-4):
    "SSIM of two vectors from its definition, place by place."
    values = []
    for i in range(len(x) - window + 1):
        a, b = x[i:i + window], y[i:i + window]
        cov = ((a - a.mean()) * (b - b.mean())).mean()
        values.append((2 * a.mean() * b.mean() + c1) * (2 * cov + c2)
                      / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var() + b.var() + c2)))
    return np.array(values)


def ms_stft_by_numpy(x, y, n_ffts, eps=1e-8):
    "The spectral loss of two vectors with np.fft, slice by slice."
    total = 0
    for n in n_ffts:
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
        def magnitudes(v):
            mirrored = np.pad(v, n // 2, mode="reflect")
            slices = [mirrored[i:i + n] * hann for i in range(0, len(v) + 1, n // 4)]
            return np.sqrt(np.abs(np.fft.rfft(slices)) ** 2 + eps)
        a, b = magnitudes(x), magnitudes(y)
        total += np.abs(a - b).mean() + ((a - b) ** 2).mean()
    return total / len(n_ffts)


# ---- SSIM ----

@pytest.mark.parametrize("window", [1, 2, 10, 25, 60])
@pytest.mark.parametrize("offset", [0.0, 9.81])
def test_ssim_by_loop(window, offset):
    x, y = noise(60) + offset, 0.7 * noise(60) + noise(60, seed=1) + offset
    assert np.abs(ssim_map(x, y, window).numpy() - ssim_by_loop(x.numpy(), y.numpy(), window)).max() < 1e-10


def test_ssim_treats_leading_axes_alike():
    x, y = noise(2, 3, 50), noise(2, 3, 50, seed=1)
    whole = ssim_map(x, y, 10)
    assert whole.shape == (2, 3, 41) and local_means(x, 10).shape == (2, 3, 41)
    assert torch.allclose(whole[1, 2], ssim_map(x[1, 2], y[1, 2], 10), atol=1e-12)
    assert torch.isclose(ssim_loss(x, y, 10), 1 - whole.mean())


@pytest.mark.parametrize("signed", [False, True])
def test_ssim_is_symmetric_bounded_and_one_for_equals(signed):
    for seed in range(5):
        x, y = noise(4, 80, seed=seed) * 10 ** (seed - 2), noise(4, 80, seed=seed + 9) * 3
        found = ssim_map(x, y, 10, signed=signed)
        assert torch.allclose(found, ssim_map(y, x, 10, signed=signed), atol=1e-12)
        assert found.abs().max() <= 1 and torch.allclose(ssim_map(x, x, 10, signed=signed), torch.ones(4, 71, dtype=torch.float64))
    assert ssim_loss(x, x, 10, signed=signed).abs() < 1e-12


def test_the_sign_trap_and_its_repair():
    "For a zero-mean wave the paper's SSIM likes the upside-down copy better than silence."
    x = torch.sin(2 * math.pi * 2 * torch.arange(250, dtype=torch.float64) / 50) * 2
    paper, repaired = (1 - ssim_loss(x, -x, 10, signed=signed) for signed in (False, True))
    assert paper > 0.5 > 1 - ssim_loss(x, 0 * x, 10) and repaired < -0.5
    assert ms_stft_loss(x, -x) == 0


def test_signed_changes_nothing_but_products_of_two_negatives():
    x, y = noise(500), noise(500, seed=1)
    paper, signed = ssim_map(x, y, 10), ssim_map(x, y, 10, signed=True)
    x_mu, y_mu = local_means(x, 10), local_means(y, 10)
    level = 2 * x_mu * y_mu + 1e-4
    shape = 2 * (local_means(x * y, 10) - x_mu * y_mu) + 9e-4
    both = (level < 0) & (shape < 0)
    assert 50 < both.sum() < len(both) - 50
    assert torch.allclose(signed[~both], paper[~both], atol=1e-12) and torch.allclose(signed[both], -paper[both], atol=1e-12)


def test_the_loss_reaches_from_zero_to_two():
    t = torch.arange(100, dtype=torch.float64)
    x = 10 + torch.sin(2 * math.pi * t / 10)
    assert 1.99 < ssim_loss(x, 20 - x, 10) <= 2          # same level, opposite shape


def test_the_constants_are_a_noise_floor():
    "Below 0.03 m/s² two signals count as equal, far above it silence counts as unlike."
    quiet, loud, silence = 0.003 * noise(300), 3 * noise(300), torch.zeros(300, dtype=torch.float64)
    assert ssim_loss(quiet, silence, 10) < 0.05 and ssim_loss(loud, silence, 10) > 0.95
    assert ssim_loss(loud, silence, 10, c1=(0.01 * 19.6) ** 2, c2=(0.03 * 19.6) ** 2) < ssim_loss(loud, silence, 10)


def test_gravity_costs_single_precision_few_digits():
    "Local variances come after the mean has been taken out: without that the error is two orders larger."
    x, y = 0.05 * noise(2, 3, 250) + 9.81, 0.05 * noise(2, 3, 250, seed=1) + 9.81
    assert (ssim_map(x.float(), y.float(), 10) - ssim_map(x, y, 10)).abs().max() < 1e-3


@pytest.mark.parametrize("x, y", [(0, 0), (9.81, 0), (9.81, 9.81), (None, 0), (0, None)])
@pytest.mark.parametrize("signed", [False, True])
def test_gradients_are_finite_where_a_signal_is_constant(x, y, signed):
    make = lambda level: noise(1, 3, 100).float() if level is None else torch.full((1, 3, 100), float(level))
    y = make(y).requires_grad_()
    loss = ssim_loss(make(x), y, 25, signed=signed) + ms_stft_loss(make(x), y)
    loss.backward()
    assert loss.isfinite() and y.grad.isfinite().all()


@pytest.mark.parametrize("loss", [lambda x, y: ssim_loss(x, y, 10), lambda x, y: ssim_loss(x, y, 10, signed=True), ms_stft_loss, mse_loss])
def test_gradients_by_finite_differences(loss):
    x, y = noise(2, 40), noise(2, 40, seed=1).requires_grad_()
    if loss is ms_stft_loss:
        loss = lambda x, y: ms_stft_loss(x, y, (8, 16))
    assert torch.autograd.gradcheck(lambda y: loss(x, y), y, atol=1e-5)


# ---- MS-STFT ----

@pytest.mark.parametrize("n_steps", [100, 250])
@pytest.mark.parametrize("n_ffts", [(16, 32, 64, 128), (16,), (128, 64)])
def test_ms_stft_by_numpy(n_steps, n_ffts):
    x, y = noise(n_steps), 0.5 * noise(n_steps, seed=1) + 1
    assert abs(float(ms_stft_loss(x, y, n_ffts)) - ms_stft_by_numpy(x.numpy(), y.numpy(), n_ffts)) < 1e-10


def test_ms_stft_averages_over_leading_axes():
    x, y = noise(2, 3, 100), noise(2, 3, 100, seed=1)
    each = [ms_stft_loss(x[b, c], y[b, c]) for b in range(2) for c in range(3)]
    assert torch.isclose(ms_stft_loss(x, y), sum(each) / 6, rtol=1e-12)


def test_ms_stft_hears_no_sign_and_no_phase():
    x = noise(3, 250)
    assert ms_stft_loss(x, x) == 0 and ms_stft_loss(x, -x) == 0 and ms_stft_loss(x, 0 * x) > 1


def test_demean_takes_out_what_is_constant():
    x, y = noise(3, 100), noise(3, 100, seed=1)
    assert torch.isclose(ms_stft_loss(x + 9.81, y - 3, demean=True), ms_stft_loss(x, y, demean=True), rtol=1e-10)
    assert ms_stft_loss(x + 9.81, y - 3) > 10 * ms_stft_loss(x, y)


def test_shapes_of_spectra():
    assert [tuple(stft_magnitudes(noise(2, 3, 250), n).shape) for n in (16, 32, 64, 128)] == [
        (2, 3, 9, 63), (2, 3, 17, 32), (2, 3, 33, 16), (2, 3, 65, 8)]
    assert stft_magnitudes(noise(100), 128).shape == (65, 4)


# ---- all of them ----

@pytest.mark.parametrize("loss", [lambda x, y: ssim_loss(x, y, 10), ms_stft_loss, mse_loss])
def test_half_precision_is_widened(loss):
    x, y = noise(2, 3, 100).bfloat16(), noise(2, 3, 100, seed=1).bfloat16()
    assert loss(x, y).dtype == torch.float32 and torch.isclose(loss(x, y).double(), loss(x.double(), y.double()), rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isclose(loss(x.float(), y.float()).double(), loss(x.double(), y.double()), rtol=1e-4)


def test_mse():
    x, y = noise(2, 3, 50), noise(2, 3, 50, seed=1)
    assert abs(float(mse_loss(x, y)) - ((x - y).numpy() ** 2).mean()) < 1e-12


@pytest.mark.parametrize("call, said", [
    (lambda x: ssim_loss(x, x[:, :, :50], 10), r"x and y must have one shape; got \(2, 3, 100\) and \(2, 3, 50\)"),
    (lambda x: ms_stft_loss(x, x[:1]), r"one shape; got \(2, 3, 100\) and \(1, 3, 100\)"),
    (lambda x: mse_loss(x, x[:, :1]), "x and y must have one shape"),
    (lambda x: ssim_loss(x, x, 101), "window must lie between 1 and the 100 samples of x; got 101"),
    (lambda x: ssim_loss(x, x, 0), "window must lie between 1 and the 100 samples of x; got 0"),
    (lambda x: ms_stft_loss(x, x, (200,)), "n_fft must be at least 4 and less than twice the 100 samples of x; got 200"),
    (lambda x: ms_stft_loss(x, x, (2,)), "n_fft must be at least 4"),
])
def test_bad_input_is_named(plain_calls, call, said):
    with pytest.raises(ValueError, match=said):
        call(noise(2, 3, 100))


# ---- SlotFM's terms ----

def output_of(bands, recon):
    b, w, c, t = bands.shape
    return SlotFMOutput(bands, bands.new_zeros(b, 1, w, c, t), bands.new_ones(b, 1, w, t), recon, recon.sum(dim=1), bands.new_zeros(b, 1, 1))


def test_table_5():
    assert [(w.mse, w.ssim, w.stft, w.window) for w in TABLE_5] == [(1, 0, 0, None), (1, 100, 0.1, 25), (0, 50, 0.1, 10)]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("stft_demean", [False, True])
def test_terms_by_hand(signed, stft_demean):
    bands, recon = noise(2, 3, 3, 100), noise(2, 3, 3, 100, seed=1) + 0.5
    terms = slotfm_loss(output_of(bands, recon), signed=signed, stft_demean=stft_demean)
    mid, high = (bands[:, 1], recon[:, 1]), (bands[:, 2], recon[:, 2])
    by_hand = {
        "mse_low": ((bands[:, 0] - recon[:, 0]) ** 2).mean(), "mse_mid": ((mid[0] - mid[1]) ** 2).mean(),
        "ssim_mid": 100 * ssim_loss(*mid, 25, signed=signed), "stft_mid": 0.1 * ms_stft_loss(*mid, demean=stft_demean),
        "ssim_high": 50 * ssim_loss(*high, 10, signed=signed), "stft_high": 0.1 * ms_stft_loss(*high, demean=stft_demean)}
    assert list(terms) == list(by_hand)
    assert all(torch.isclose(terms[name], by_hand[name], rtol=1e-12) for name in by_hand)


def test_bands_do_not_see_each_other():
    "The low band ignores SSIM and spectrum, the high band has no squared error, and a change in one band stays there."
    bands, recon = noise(2, 3, 3, 100), noise(2, 3, 3, 100, seed=1)
    before = slotfm_loss(output_of(bands, recon))
    assert "ssim_low" not in before and "stft_low" not in before and "mse_high" not in before
    for w, name in enumerate(("low", "mid", "high")):
        changed = recon.clone()
        changed[:, w] += 0.3 * noise(2, 3, 100, seed=2)
        after = slotfm_loss(output_of(bands, changed))
        moved = {term for term in after if after[term] != before[term]}
        assert moved == {term for term in after if term.endswith(name)}


@pytest.mark.parametrize("edges, rows", [
    ((), (MID,)), ((1,), (LOW, MID)), ((1, 4), (LOW, MID, HIGH)), ((1, 4, 10), (LOW, MID, HIGH, HIGH)),
    ((1, 2, 4, 6, 10), (LOW, MID, MID, HIGH, HIGH, HIGH)), ((0.5,), (LOW, MID)), ((4,), (LOW, HIGH)), ((1, 3, 5), (LOW, MID, MID, HIGH)),
])
def test_weights_of_other_bands(edges, rows):
    assert band_weights(edges) == rows
    assert band_weights(edges, regularisers=False) == (ONLY_MSE,) * len(rows)
    names = [name.split("_")[1] for name in slotfm_loss(output_of(noise(1, len(rows), 3, 60), noise(1, len(rows), 3, 60, seed=1)),
                                                        [BandWeights(1.0, 0.0, 0.0, None)] * len(rows))]
    assert names == list(band_names(len(rows))) and len(set(names)) == len(rows)


def test_weights_that_cannot_be(plain_calls):
    with pytest.raises(ValueError, match="weights must have one row for each of the 3 bands; got 2: make them with band_weights"):
        slotfm_loss(output_of(noise(1, 3, 3, 60), noise(1, 3, 3, 60)), TABLE_5[:2])
    with pytest.raises(ValueError, match="window must be given where ssim is not 0"):
        BandWeights(1.0, 100.0, 0.1, None)


def test_the_objective_calls_the_model_once_and_passes_its_options():
    model = SlotFM(n_steps=100, hidden=8, n_blocks=1, n_slots=2, slot_dim=4)
    x = noise(3, 3, 100).float() + 9.81
    calls = []
    model.register_forward_hook(lambda module, inputs, options, output: calls.append((options, output)), with_kwargs=True)
    terms = SlotFMObjective(signed=True, stft_demean=True, recompute=True)(model, {"x": x, "subject": None})
    assert len(calls) == 1 and calls[0][0] == {"recompute": True}
    expected = slotfm_loss(calls[0][1], signed=True, stft_demean=True)
    assert terms.keys() == expected.keys() and all(torch.isclose(terms[k], expected[k]) for k in terms)
    sum(terms.values()).backward()
    assert model.encoders[0].stem[0].weight.grad.abs().max() > 0


def test_without_regularisers_only_squared_errors_are_left():
    bands, recon = noise(2, 3, 3, 60), noise(2, 3, 3, 60, seed=1)
    terms = slotfm_loss(output_of(bands, recon), band_weights(regularisers=False))
    assert list(terms) == ["mse_low", "mse_mid", "mse_high"]
    assert torch.isclose(sum(terms.values()), 3 * mse_loss(bands, recon))


def test_silence_at_the_start_is_led_by_ssim():
    "On walking-like windows the weights put SSIM first, as the paper intends."
    t = torch.arange(250, dtype=torch.float64) / 50
    impact = 6 * torch.exp(-(t % 0.56) / 0.03)
    x = torch.tensor([9.81, 0, 0])[:, None] + 2 * torch.sin(2 * math.pi * 1.8 * t) + impact - impact.mean() + 0.05 * noise(4, 3, 250)
    model = SlotFM(hidden=8, n_blocks=1).double()
    bands = model.bands(x)
    terms = slotfm_loss(output_of(bands, 0 * bands))
    assert max(terms, key=terms.get) == "ssim_mid" and terms["ssim_mid"] > 10 * terms["stft_mid"] and terms["mse_low"] > 30
