"Vision encoders: frozen for good, DINOv2's files, stand-ins, the cache of features."
import builtins
import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from slotpapers.blocks import vision_encoders as V
from slotpapers.blocks.vision_encoders import ConvFeatures, Frozen, PatchFourier, Projector, cached_features, dinov2, make_encoder, to_unit
from slotpapers.core.seeds import forked_rng, numpy_stream


def pictures(n=3, height=16, width=16):
    return torch.from_numpy(numpy_stream(0, "pictures", n).integers(0, 256, (n, 3, height, width), np.uint8))


# ---- frozen

@pytest.mark.parametrize("kind", ["fourier", "conv"])
def test_a_frozen_encoder_hides_moves_and_repeats(kind):
    encoder = make_encoder(kind, dim=8)
    holder = nn.ModuleDict(dict(encoder=encoder, other=nn.Linear(2, 2)))
    assert {name for name, _ in holder.named_parameters()} == set(holder.state_dict()) == {"other.weight", "other.bias"}
    holder.train()
    assert not any(module.training for module in encoder._hidden[0].modules())
    features = encoder(pictures())
    assert features.shape == (3, 16, 8) and not features.requires_grad and features.dtype == torch.float32
    assert holder.double().encoder(pictures()).dtype == torch.float64
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder)), make_encoder(kind, dim=8).double()):
        assert twin(pictures()).equal(encoder(pictures())) and twin.fingerprint() == encoder.fingerprint()
    state = torch.get_rng_state()
    make_encoder(kind)
    assert torch.get_rng_state().equal(state), "building one draws nothing from the global generator"


def test_what_changes_a_fingerprint():
    base = make_encoder("conv", dim=8)
    prints = [base.fingerprint()] + [make_encoder(*a, **k).fingerprint() for a, k in (
        (("conv", 1), dict(dim=8)), (("conv",), dict(dim=16)), (("conv",), dict(dim=8, patch=2)), (("fourier",), dict(dim=8)),
        (("fourier",), dict(dim=8, patch=2)), (("fourier",), dict(dim=8, scale=1.0)), (("fourier", 1), dict(dim=8)))]
    assert len(set(prints)) == len(prints)
    with torch.no_grad():
        base._hidden[0].norm.bias[3] += 1e-6
    assert base.fingerprint() != prints[0]


def test_fourier_features_by_hand():
    encoder, image = PatchFourier(2, 6, scale=2.0), torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    patch = image[0, :, 2:4, 2:4].flatten(1)                          # second row, second column of 2 x 3 patches
    means = torch.stack([torch.stack([image[0, :, 2 * h:2 * h + 2, 2 * w:2 * w + 2].mean(dim=(1, 2)) for w in range(3)], -1) for h in range(2)], -2)
    around = (means[:, [0, 1, 1]].sum(dim=1) / 3).mean(dim=-1)        # the row below is missing: the last one again
    z = torch.cat([patch.mean(dim=1), patch.std(dim=1, correction=0), around])
    angles = z @ encoder.waves
    assert torch.allclose(encoder(image)[0, 4], 2**0.5 * torch.cat([angles.cos(), angles.sin()]), atol=1e-5)


def test_texture_and_colour_both_count():
    encoder = PatchFourier(4, 64)
    plain = torch.full((1, 3, 4, 4), 0.5)
    striped = plain + 0.3 * (-1.0) ** torch.arange(4)
    red = plain + torch.tensor([0.3, 0, 0])[:, None, None]
    features = encoder(torch.cat([plain, striped, red]))[:, 0] / 8
    alike = features @ features.T
    assert (alike.diagonal() - 1).abs().max() < 1e-5 and alike[0, 1] < 0.6 and alike[0, 2] < 0.6


# ---- bad input

@pytest.mark.parametrize("call, said", [
    (lambda: to_unit(torch.zeros(2, 4, 4, 3)), "images must be (B, 3, H, W)"),
    (lambda: to_unit(torch.full((1, 3, 4, 4), 255.0)), "images must be uint8, or floats in [0, 1]; got floats from 255 to 255"),
    (lambda: to_unit(torch.full((1, 3, 4, 4), float("nan"))), "images must be uint8, or floats in [0, 1]"),
    (lambda: make_encoder("resnet"), "kind must be one of 'fourier', 'conv', 'dinov2'"),
    (lambda: make_encoder("fourier")(pictures(1, 16, 18)), "multiples of the patch, 4 pixels; got 16 x 18"),
    (lambda: make_encoder("conv")(pictures(1, 18, 16)), "multiples of the patch, 4 pixels; got 18 x 16"),
    (lambda: PatchFourier(4, 7), "dim must be even"),
    (lambda: ConvFeatures(6), "patch must be a power of two"),
    (lambda: ConvFeatures(1), "patch must be a power of two"),
])
def test_refusals(call, said, plain_calls):
    with pytest.raises(ValueError) as caught:
        call()
    assert said in str(caught.value)


# ---- DINOv2

@pytest.mark.parametrize("name, extra", [("registers", 5), ("plain", 1)])
def test_dinov2_is_the_patch_tokens_of_the_last_block(checkpoints, name, extra):
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoModel.from_pretrained(checkpoints / name).eval()
    images = pictures(2, 32, 48)
    pixels = nn.functional.interpolate(images / 255, (28, 42), mode="bicubic", align_corners=False)
    mean, std = torch.tensor([123.675, 116.28, 103.53])[:, None, None], torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    with torch.no_grad():
        seen = reference((255 * pixels - mean) / std, output_hidden_states=True)
    bare, normed = dinov2(checkpoints / name), dinov2(str(checkpoints / name), final_norm=True)
    assert bare.token_dim == 24 and bare(images).shape == (2, 6, 24)
    assert torch.allclose(bare(images), seen.hidden_states[-1][:, extra:], atol=1e-4)
    assert torch.allclose(normed(images), seen.last_hidden_state[:, extra:], atol=1e-4)
    assert not torch.allclose(bare(images), normed(images), atol=1e-2)
    assert not list(bare.parameters()) and not bare(images).requires_grad
    assert make_encoder("dinov2", source=str(checkpoints / name)).fingerprint() == bare.fingerprint() != normed.fingerprint()
    assert dinov2(checkpoints / name, resize=1)(pictures(1, 28, 28)).shape == (1, 4, 24)


def test_dinov2_refuses_what_does_not_fit(checkpoints, plain_calls):
    with pytest.raises(ValueError, match="revision must name a commit .* got none for someone/dinov2"):
        dinov2("someone/dinov2")
    with pytest.raises(ValueError, match="model_type of the weights must be one of 'dinov2', 'dinov2_with_registers'; got 'vit'"):
        dinov2(checkpoints / "other")
    with pytest.raises(ValueError, match="multiples of the patch, 14 pixels; got 26 x 26"):
        dinov2(checkpoints / "plain")(pictures(1, 30, 30))


def test_pickled_weights_are_not_read(checkpoints, tmp_path):
    (tmp_path / "config.json").write_text((checkpoints / "plain" / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError):
        dinov2(tmp_path)


def test_the_hub_is_asked_for_one_revision_without_code(monkeypatch):
    transformers = pytest.importorskip("transformers")
    asked = {}

    def from_pretrained(source, **options):
        asked.update(source=source, **options)
        raise RuntimeError("asked")

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", from_pretrained)
    with pytest.raises(RuntimeError, match="asked"):
        dinov2("someone/dinov2", revision="0123abc")
    assert asked == dict(source="someone/dinov2", revision="0123abc", local_files_only=False, use_safetensors=True, trust_remote_code=False)


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "transformers":
            raise ImportError("No module named 'transformers'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'slotpapers\[vision\]'"):
        dinov2(tmp_path)


# ---- the cache

class Counting(nn.Module):
    "Mean colours; knows how often it ran, and can break."
    calls, fails_at = 0, None

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        return self.scale * images.mean(dim=(2, 3))[:, None]


def test_features_are_computed_once(tmp_path):
    network, images = Counting(), pictures(10).numpy()
    encoder = Frozen(network, 3)
    first = cached_features(encoder, images, tmp_path, batch_size=4, dtype="float32")
    assert network.calls == 3 and isinstance(first, np.memmap) and not first.flags.writeable
    assert np.allclose(first[:, 0], images.mean(axis=(2, 3)) / 255, atol=1e-6)
    again = cached_features(encoder, images.copy(), tmp_path, dtype="float32", batch_size=7)
    assert network.calls == 3 and np.array_equal(first, again)
    cached_features(encoder, images, tmp_path)                       # half precision is another file
    other = images.copy()
    other[9, 2, 15, 15] ^= 1
    cached_features(encoder, other, tmp_path, dtype="float32")       # so is one changed pixel
    network.scale.data += 1
    changed = cached_features(encoder, images, tmp_path, dtype="float32")
    assert np.allclose(changed, 2 * first) and len(list(tmp_path.glob("*.npy"))) == 4 and network.calls == 6


def test_a_key_spares_reading_the_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(V, "images_checksum", lambda images: pytest.fail("read"))
    encoder, images = Frozen(Counting(), 3), pictures(5).numpy()
    one = cached_features(encoder, images, tmp_path, key="sha of the archive")
    assert np.array_equal(one, cached_features(encoder, images, tmp_path, key="sha of the archive"))
    cached_features(encoder, images, tmp_path, key="another archive")
    cached_features(encoder, images[:4], tmp_path, key="sha of the archive")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_cache_cut_off_leaves_nothing(tmp_path):
    network = Counting()
    network.fails_at = 2
    with pytest.raises(KeyboardInterrupt):
        cached_features(Frozen(network, 3), pictures(10).numpy(), tmp_path, batch_size=4)
    assert list(tmp_path.iterdir()) == []
    assert len(cached_features(Frozen(network, 3), pictures(10).numpy(), tmp_path, batch_size=4)) == 10


def test_what_half_precision_cannot_hold_is_refused(tmp_path):
    network = Counting()
    network.scale.data *= 1e6
    with pytest.raises(ValueError, match="dtype must hold the features of images 0 to 3; float16 does not"):
        cached_features(Frozen(network, 3), pictures(4).numpy(), tmp_path)
    assert list(tmp_path.iterdir()) == [] and np.abs(cached_features(Frozen(network, 3), pictures(4).numpy(), tmp_path, dtype="float32")).max() > 1e5
    with pytest.raises(ValueError, match="dtype must be one of"):
        cached_features(Frozen(network, 3), pictures(4).numpy(), tmp_path, dtype="int8")
    with pytest.raises(ValueError, match="images must hold at least one image"):
        cached_features(Frozen(network, 3), pictures(4).numpy()[:0], tmp_path)


def test_memory_mapped_images_are_fine(tmp_path):
    np.save(tmp_path / "images.npy", pictures(6).numpy())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    held = cached_features(make_encoder("fourier", dim=8), mapped, tmp_path / "cache", batch_size=4)
    assert np.array_equal(held, cached_features(make_encoder("fourier", dim=8), pictures(6).numpy(), tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_module_imports_without_transformers():
    code = "import sys, slotpapers.blocks.vision_encoders; assert not any(name.split('.')[0] == 'transformers' for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONWARNINGS": "error"}, timeout=120)


def test_projector_starts_without_biases():
    projector = Projector(6, 12, 4)
    assert projector.out_dim == 4 and projector[1].bias.eq(0).all() and projector[3].bias.eq(0).all() and not projector[1].weight.eq(0).any()
    x = torch.randn(2, 5, 6)
    assert torch.allclose(projector(x), projector[3](nn.functional.gelu(projector[1](nn.functional.layer_norm(x, (6,))))), atol=1e-6)
