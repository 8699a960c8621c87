"Bands against SciPy, over all numbers of bands, lengths and modes; precision, export and bad input."
import numpy as np
import pytest
import torch

from slotpapers.blocks.bands import BAND_SWEEP, Bands, bands_by_scipy, filter_recording
from slotpapers.core.seeds import numpy_stream

MODES = [dict(), dict(mode="butter"), dict(top=20.0), dict(mode="butter", top=20.0)]


def windows(n: int, n_steps: int = 250, *path) -> np.ndarray:
    "Gravity in a random direction, a swing and noise, m/s²."
    rng = numpy_stream(0, "test_bands", n_steps, *path)
    gravity = rng.normal(size=(n, 3, 1))
    gravity *= 9.81 / np.linalg.norm(gravity, axis=1, keepdims=True)
    t = np.arange(n_steps) / 50
    return gravity + 3 * np.sin(2 * np.pi * 1.8 * t + rng.uniform(0, 6, (n, 3, 1))) + rng.normal(size=(n, 3, n_steps))


@pytest.mark.parametrize("n_bands", BAND_SWEEP)
def test_bands_add_up_to_the_window(n_bands):
    x = torch.from_numpy(windows(4)).float()
    bands = Bands(BAND_SWEEP[n_bands])
    assert bands(x).shape == (4, n_bands, 3, 250) == (4, len(bands.names), 3, 250)
    assert abs(bands(x).sum(dim=1) - x).max() < 1e-5
    exact = Bands(BAND_SWEEP[n_bands]).double()
    assert abs(exact(x.double()).sum(dim=1) - x.double()).max() < 1e-12


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("n_bands", BAND_SWEEP)
def test_the_matrices_are_scipy(n_bands, options):
    x, edges = windows(4), BAND_SWEEP[n_bands]
    expected = bands_by_scipy(x, edges, **options)
    assert abs(Bands(edges, **options).double()(torch.from_numpy(x)).numpy() - expected).max() < 1e-10
    assert abs(Bands(edges, **options)(torch.from_numpy(x).float()).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("n_steps", [51, 100, 101, 128, 250, 500])
def test_every_length(n_steps):
    x = windows(2, n_steps)
    expected = bands_by_scipy(x)
    assert abs(Bands(n_steps=n_steps).double()(torch.from_numpy(x)).numpy() - expected).max() < 1e-10


def test_the_padding_of_the_short_window_is_50():
    x = windows(2, 100)
    assert np.array_equal(bands_by_scipy(x), bands_by_scipy(x, padlen=50))
    assert not np.allclose(bands_by_scipy(x), bands_by_scipy(x, padlen=99), atol=1e-3)


@pytest.mark.parametrize("hertz, band", [(0.5, 0), (2.0, 1), (10.0, 2)])
def test_sines_land_in_their_band(hertz, band):
    wave = torch.sin(2 * np.pi * hertz * torch.arange(250) / 50).expand(1, 3, 250)
    energy = Bands()(wave)[..., 75:175].square().sum(dim=(0, 2, 3))
    assert energy[band] / energy.sum() > 0.95


def test_linear():
    x, y = torch.from_numpy(windows(2)), torch.from_numpy(windows(2, 250, "other"))
    bands = Bands().double()
    assert abs(bands(2 * x - 3 * y) - (2 * bands(x) - 3 * bands(y))).max() < 1e-10


def test_constants_go_to_the_lowest_band_alone():
    bands = Bands(BAND_SWEEP[6])(torch.full((1, 3, 250), 9.81))
    assert abs(bands[:, 0] - 9.81).max() < 1e-5 and abs(bands[:, 1:]).max() < 1e-6


def test_the_band_pass_misses_the_sum():
    t = torch.arange(250) / 50
    wave = torch.sin(2 * np.pi * 3.45 * t).expand(1, 3, 250)
    miss = {mode: (Bands(mode=mode)(wave).sum(dim=1) - wave)[..., 75:175].abs().max().item() for mode in ("differences", "butter")}
    assert miss["differences"] < 1e-5 and 0.1 < miss["butter"] < 0.14


def test_a_closed_top_loses_what_lies_above():
    wave = torch.sin(2 * np.pi * 22 * torch.arange(250) / 50).expand(1, 3, 250)
    assert Bands(top=20.0)(wave)[..., 75:175].abs().max() < 0.02 < 0.9 < Bands()(wave)[..., 75:175].abs().max()


def test_time_reversal_nearly_commutes():
    x = torch.from_numpy(windows(8)).float()
    difference = (Bands()(x.flip(-1)) - Bands()(x).flip(-1)).abs().amax(dim=(0, 2, 3))
    assert difference.max() < 0.1 and difference[2] < 1e-4      # the start of the recursion differs at the two ends


def test_whole_recordings_agree_in_the_middle():
    recording = windows(1, 1500)[0]
    whole = filter_recording(recording)[:, :, 600:850]
    alone = bands_by_scipy(recording[None, :, 600:850])[0]
    rms = np.sqrt(((whole - alone)[..., 75:175] ** 2).mean(axis=(1, 2)))
    assert (rms < [0.05, 0.08, 0.01]).all() and (rms > 0).all()


def test_a_gap_in_a_recording_is_refused():
    recording = windows(1, 1500)[0]
    recording[0, 700] = np.nan
    with pytest.raises(ValueError, match="cut the recording at its gaps"):
        filter_recording(recording)


def test_gradients_pass_and_nothing_is_learned():
    bands = Bands()
    x = torch.from_numpy(windows(2)).float().requires_grad_()
    bands(x)[:, 0].sum().backward()
    assert x.grad.abs().max() > 0 and not list(bands.parameters()) and not bands.state_dict()


def test_precision_survives_global_switches_and_casts():
    x, bands = torch.from_numpy(windows(4)).float(), Bands()
    expected = bands(x)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(bands(x), expected)
        assert torch.get_float32_matmul_precision() == "medium" and torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(Bands().half()(x), expected) and Bands().bfloat16().matrices.dtype == torch.float32
    assert torch.equal(Bands().half().double().matrices, Bands().double().matrices)      # no detour through half
    assert Bands().double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("arguments, said", [
    (dict(edges=(1.0, 25.0)), "between 0 and fs/2 = 25 Hz"),
    (dict(edges=(0.0, 4.0)), "between 0 and fs/2"),
    (dict(edges=(1.0,), fs=2.0), "between 0 and fs/2 = 1 Hz"),
    (dict(edges=(4.0, 1.0)), "must increase"),
    (dict(edges=(1.0, 1.0)), "must increase"),
    (dict(top=3.0), "must increase, with top above"),
    (dict(top=25.0), "between 0 and fs/2"),
    (dict(n_steps=50), "greater than padlen = 50"),
    (dict(padlen=250), "greater than padlen = 250"),
    (dict(mode="fft"), "mode must be one of 'differences', 'butter'"),
])
def test_bad_settings(arguments, said):
    with pytest.raises(ValueError, match=said):
        Bands(**arguments)


def test_bad_windows(plain_calls):
    for shape in [(2, 3, 249), (3, 250), (2, 3, 250, 1)]:
        with pytest.raises(ValueError, match="x must be .B, C, 250.; got .* windows of 250 samples"):
            Bands()(torch.zeros(shape))


@pytest.mark.filterwarnings("ignore::FutureWarning")   # the exporter's own
def test_exports_to_onnx(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="export extra: onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="export extra: onnxscript is not installed")
    x, bands = torch.from_numpy(windows(5)).float(), Bands().eval()
    torch.onnx.export(bands, (x[:2],), tmp_path / "bands.onnx", dynamo=True, verbose=False,
                      dynamic_shapes=({0: torch.export.Dim("batch")},))
    session = runtime.InferenceSession(tmp_path / "bands.onnx")
    exported = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert abs(exported - bands(x).numpy()).max() < 1e-5
