"Attention and its cache, slot encoder and mixer, image tokens, pixel decoders: parity, sweeps, refusals."
import copy

import pytest
import torch
from einops import rearrange
from torch import nn

from slotpapers.blocks.attention import Attention, CrossAttention, FeedForward, KeyValueCache, SelfAttention, SelfCrossLayer, time_mask
from slotpapers.blocks.patches import ConvTokens, PatchTokens, VectorTokens, add_times, sincos, sincos_grid, size_pair
from slotpapers.blocks.pixel_decoders import BroadcastDecoder, SlotTransformerDecoder, compose
from slotpapers.blocks.slot_encoders import ClsTokens, SlotEncoder, SlotMixer
from slotpapers.core.seeds import forked_rng, torch_stream


def made(kind, *args, seed=0, **settings):
    with forked_rng(seed, "blocks"):
        return kind(*args, **settings).double()


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch_stream(seed, "drawn"), dtype=torch.float64)


# ---- attention ----

@pytest.mark.parametrize("n_heads, context_dim", [(1, None), (2, None), (4, 6)])
def test_attention_is_torchs_multi_head_attention(n_heads, context_dim):
    ours = made(Attention, 8, n_heads, context_dim)
    theirs = nn.MultiheadAttention(8, n_heads, kdim=ours.context_dim, vdim=ours.context_dim, batch_first=True).double()
    with torch.no_grad():
        weights = [ours.to_q.weight, ours.to_k.weight, ours.to_v.weight]
        if theirs.in_proj_weight is not None:
            theirs.in_proj_weight.copy_(torch.cat(weights))
        else:
            for name, weight in zip(("q", "k", "v"), weights):
                getattr(theirs, f"{name}_proj_weight").copy_(weight)
        theirs.in_proj_bias.copy_(torch.cat([ours.to_q.bias, ours.to_k.bias, ours.to_v.bias]))
        theirs.out_proj.weight.copy_(ours.to_out.weight), theirs.out_proj.bias.copy_(ours.to_out.bias)
    x, context = drawn(2, 5, 8), drawn(2, 7, ours.context_dim, seed=1)
    expected, shares = theirs(x, context, context, average_attn_weights=False)
    assert torch.allclose(ours(x, context), expected, atol=1e-10)
    assert torch.allclose(ours.weights(x, ours.split(context)[0]), shares, atol=1e-10)
    mask = torch.rand(2, n_heads, 5, 7, generator=torch_stream(0, "mask")) < 0.7
    mask[..., 0] = True
    expected, shares = theirs(x, context, context, attn_mask=rearrange(~mask, "B H Q N -> (B H) Q N"), average_attn_weights=False)
    assert torch.allclose(ours(x, context, mask), expected, atol=1e-10)
    assert torch.allclose(ours.weights(x, ours.split(context)[0], mask), shares, atol=1e-10)


@pytest.mark.parametrize("dim", [16, 64, 192])
def test_sizes_follow_the_formulas(dim):
    def count(module):
        return sum(p.numel() for p in module.parameters())
    with torch.device("meta"):
        assert count(Attention(dim)) == 4 * (dim**2 + dim)
        assert count(FeedForward(dim)) == 8 * dim**2 + 5 * dim + 2 * dim
        assert count(SelfAttention(dim)) == count(CrossAttention(dim)) == 4 * (dim**2 + dim) + 2 * dim
        assert count(SlotMixer(dim)) == count(SelfAttention(dim)) + count(FeedForward(dim))
        assert count(SelfCrossLayer(dim)) == 2 * count(SelfAttention(dim)) + count(FeedForward(dim))


@pytest.mark.parametrize("module, extra", [(lambda: SelfAttention(8), ()), (lambda: CrossAttention(8), (drawn(2, 7, 8),)), (lambda: FeedForward(8), ())])
def test_residual_pieces_start_from_their_input(module, extra):
    piece = made(module)
    last = piece.mlp[-1] if isinstance(piece, FeedForward) else piece.attention.to_out
    x = drawn(2, 5, 8)
    assert not torch.allclose(piece(x, *extra), x)
    with torch.no_grad():
        last.weight.zero_(), last.bias.zero_()
    assert piece(x, *extra).equal(x)
    assert not piece(1e3 * x, *extra).isnan().any()


def test_time_mask_by_hand():
    assert time_mask(2, 2)[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert time_mask(1, 3, past=4).all() and time_mask(1, 3, past=4).shape == (1, 1, 3, 15)
    assert time_mask(5, 1)[0, 0].equal(torch.ones(5, 5, dtype=torch.bool).tril())


@pytest.mark.parametrize("grad", [True, False])
def test_cache_means_concatenation_whatever_branches(grad):
    parts = [drawn(2, 2, n, 3, seed=n) for n in (1, 4, 2, 1, 1, 5, 1)]
    with torch.set_grad_enabled(grad):
        caches, seen = [KeyValueCache()], [None]
        for i, part in enumerate(parts):
            for base in {0, len(caches) // 2, len(caches) - 1}:          # branches from the start, the middle and the end
                caches.append(caches[base].append(part, -part))
                seen.append(part if seen[base] is None else torch.cat([seen[base], part], dim=2))
    assert caches[0].tensors == () and caches[0].detach() is caches[0]
    for cache, expected in zip(caches[1:], seen[1:]):
        assert cache.keys.equal(expected) and cache.values.equal(-expected) and cache.length == expected.shape[2]
        for twin in (copy.deepcopy(cache), cache.detach()):
            assert twin.append(parts[0], parts[0]).length == cache.length + 1 and twin.keys.equal(expected)
            assert cache.keys.equal(expected)
    assert [len(t.shape) for t in caches[-1].tensors] == [4, 4]


def test_cache_keeps_gradients_and_rarely_copies():
    part = drawn(1, 1, 1, 2).requires_grad_()
    cache = KeyValueCache().append(part, part).append(2 * part, part)
    assert torch.autograd.grad(cache.keys.sum(), part)[0].unique().item() == 3
    with torch.no_grad():
        cache, rooms = KeyValueCache(), set()
        for _ in range(200):
            cache = cache.append(part.detach(), part.detach())
            rooms.add(cache.room.data_ptr())
    assert len(rooms) <= 9


# ---- encoder, mixer ----

def test_encoder_is_equation_7_to_8_and_18_to_20():
    encoder, tokens = made(SlotEncoder, 4, 8, 6, n_layers=2, n_heads=2), drawn(3, 10, 6)
    context, x = encoder.norm(encoder.project(tokens)), encoder.cls(3)
    for layer in encoder.layers:
        for piece, about in ((layer.self_attention, None), (layer.cross_attention, context)):
            x = x + piece.attention(piece.norm(x), about)
        x = x + layer.mlp.mlp(layer.mlp.norm(x))
    assert torch.allclose(encoder(tokens), encoder.to_slots(x), atol=1e-10)


def test_encoder_permutations_and_single_slot():
    encoder, tokens = made(SlotEncoder, 5, 8, 6), drawn(2, 12, 6)
    turn, shuffle = torch.tensor([4, 0, 3, 1, 2]), torch.randperm(12, generator=torch_stream(0, "tokens"))
    slots = encoder(tokens)
    assert torch.allclose(encoder(tokens[:, shuffle]), slots, atol=1e-10)
    with torch.no_grad():
        encoder.cls.rows.copy_(encoder.cls.rows[turn])
    assert torch.allclose(encoder(tokens), slots[:, turn], atol=1e-10)
    assert made(SlotEncoder, 1, 8, 6)(tokens).shape == (2, 1, 8)


def test_what_weight_decay_spares():
    for table in (ClsTokens(3, 8).rows, SlotTransformerDecoder(8, 1, 8).places):
        assert table._no_weight_decay


# ---- tokens ----

def test_sincos_by_hand():
    assert sincos(torch.tensor([0.0, 3.0]), 2).allclose(torch.tensor([[0.0, 1.0], [torch.sin(torch.tensor(3.0)), torch.cos(torch.tensor(3.0))]]))
    assert sincos(torch.tensor([7.0]), 4)[0, 1].allclose(torch.tensor(0.07).sin())                # 10000 ** (-2/4) = 1/100
    grid = sincos_grid(2, 3, 8)
    assert grid.shape == (2, 3, 8) and grid[:, 1, :4].equal(grid[:, 2, :4]) and grid[0, :, 4:].equal(grid[1, :, 4:])


@pytest.mark.parametrize("tile", [(16, 24), (8, 8), (4, 4), (16, 4), (4, 24)])
def test_patches_know_their_place_in_any_tiling(tile):
    tokens = made(PatchTokens, 2, 8, 4, (16, 24), times=False)
    frame, (h, w) = drawn(3, 2, 16, 24), tile
    tiles = rearrange(frame, "B C (Y h) (X w) -> B (Y X) C h w", h=h, w=w)
    whole = rearrange(tokens(frame[:, None])[:, 0], "B (r c) D -> B r c D", r=4)
    placed = rearrange(tokens(tiles), "B (Y X) (r c) D -> B (Y r) (X c) D", Y=16 // h, r=h // 4)
    assert torch.allclose(placed, whole, atol=1e-10)
    per_frame = tiles.shape[1]
    late = tokens(tiles, first_step=5 * per_frame)
    assert torch.allclose(late, tokens(tiles), atol=1e-10)


@pytest.mark.parametrize("front, x", [(lambda: PatchTokens(2, 8, 4, 8), drawn(2, 6, 2, 8, 8)), (lambda: PatchTokens(2, 8, 4, 8), drawn(2, 6, 2, 4, 4)),
                                      (lambda: ConvTokens(2, 8, 8, times=True), drawn(2, 6, 2, 8, 8)), (lambda: VectorTokens(3, 8), drawn(2, 6, 5, 3))])
def test_tokens_of_a_step_depend_on_that_step_and_its_number(front, x):
    tokens = made(front)
    whole = tokens(x)
    assert torch.allclose(torch.cat([tokens(x[:, i : i + 1], first_step=i) for i in range(6)], dim=1), whole, atol=1e-10)
    same = tokens(x[:, :1].expand_as(x))
    assert (same[:, 1:] - same[:, :1]).abs().amax(dim=(2, 3)).min() > 1e-3                        # the time is in it
    tokens.times = False
    assert torch.allclose(tokens(x[:, 4:5], first_step=1 if x.ndim == 4 or x.shape[-1] == 8 else 4), tokens(x)[:, 4:5], atol=1e-10)


def test_convolutions_are_table_3():
    with torch.device("meta"):
        network = ConvTokens()
    convs = [layer for layer in network.convolve if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding) for c in convs] == [
        (3, 192, (5, 5), (2, 2), (2, 2))] + 3 * [(192, 192, (5, 5), (1, 1), (2, 2))]
    assert not isinstance(network.convolve[-1], nn.ReLU) and sum(isinstance(layer, nn.ReLU) for layer in network.convolve) == 3


# ---- decoders ----

def test_decoder_is_equation_35_to_37():
    decoder, slots = made(SlotTransformerDecoder, 8, 2, (8, 12), n_layers=2), drawn(3, 4, 8)
    x, context = decoder.places.expand(3, -1, -1), decoder.norm_slots(slots)
    for layer in decoder.layers:
        x = layer.self_attention(x)
        shares = layer.cross_attention.weights(x, context)
        x = layer.mlp(layer.cross_attention(x, context))
    patches = decoder.head[1](decoder.head[0](x))
    expected = rearrange(patches, "B (r c) (C p q) -> B C (r p) (c q)", r=2, p=4, q=4)
    drawing = decoder(slots)
    assert torch.allclose(drawing.pixels, expected, atol=1e-10) and drawing.parts is None
    assert torch.allclose(drawing.masks, rearrange(shares.mean(dim=1), "B (r c) K -> B K r c", r=2), atol=1e-10)


def test_broadcast_decoder_is_table_4():
    with torch.device("meta"):
        decoder = BroadcastDecoder()
    steps = [layer for layer in decoder.enlarge if isinstance(layer, nn.ConvTranspose2d)]
    assert [(s.in_channels, s.out_channels) for s in steps] == [(192, 64), (64, 64), (64, 64), (64, 4)] and decoder.start == (8, 8)
    assert all((s.kernel_size, s.stride, s.padding, s.output_padding) == ((5, 5), (2, 2), (2, 2), (1, 1)) for s in steps)
    assert isinstance(decoder.enlarge[-1], nn.ConvTranspose2d)


@pytest.mark.parametrize("decoder", [lambda: SlotTransformerDecoder(8, 3, (8, 16)), lambda: BroadcastDecoder(8, 3, (8, 16), dim=4, n_doublings=2),
                                     lambda: BroadcastDecoder(8, 3, (8, 16), dim=4, n_doublings=1)])
def test_slots_are_interchangeable_to_decoders_and_samples_stay_apart(decoder):
    decoder, slots, turn = made(decoder), drawn(3, 4, 8), torch.tensor([2, 3, 1, 0])
    drawing, turned, alone = decoder(slots), decoder(slots[:, turn]), decoder(slots[1:2])
    assert drawing.pixels.shape == (3, 3, 8, 16)
    assert torch.allclose(turned.pixels, drawing.pixels, atol=1e-10) and torch.allclose(turned.masks, drawing.masks[:, turn], atol=1e-10)
    assert torch.allclose(alone.pixels, drawing.pixels[1:2], atol=1e-10)
    assert torch.allclose(drawing.masks.sum(dim=1), torch.ones_like(drawing.masks[:, 0]), atol=1e-12)


def test_composition_by_hand():
    parts = torch.tensor([[[[[1.0, 2.0]]], [[[3.0, 6.0]]]]])                      # two slots, one channel, one row of two pixels
    logits = torch.tensor([[[[0.0, 50.0]], [[0.0, -50.0]]]])
    drawing = compose(parts, logits)
    assert drawing.pixels.flatten().tolist() == [2.0, 2.0] and drawing.masks[0, :, 0, 0].tolist() == [0.5, 0.5]


# ---- refusals ----

REFUSALS = {
    "heads": (lambda: Attention(10, 4), "multiple of n_heads; got 10 and 4"),
    "no heads": (lambda: Attention(8, 0), "multiple of n_heads"),
    "width of x": (lambda: Attention(8)(torch.zeros(1, 2, 6)), "x must be (B, Q, 8); got (1, 2, 6)"),
    "width of context": (lambda: Attention(8)(torch.zeros(1, 2, 8), torch.zeros(1, 2, 6)), "context must be (B, N, 8)"),
    "no slots": (lambda: SlotEncoder(0, 8), "n_slots must be at least 1"),
    "tokens": (lambda: SlotEncoder(2, 8)(torch.zeros(1, 2, 6)), "was token_dim given"),
    "odd waves": (lambda: sincos(torch.zeros(1), 5), "dim must be even"),
    "grid": (lambda: sincos_grid(2, 2, 6), "multiple of 4"),
    "patch": (lambda: PatchTokens(1, 8, 5, 64), "image_size must be a multiple of patch_size = 5; got (64, 64)"),
    "tile": (lambda: PatchTokens(1, 8, 4, 16)(torch.zeros(1, 1, 1, 12, 12)), "tiles that divide them"),
    "small tile": (lambda: PatchTokens(1, 8, 4, 16)(torch.zeros(1, 1, 1, 2, 2)), "multiples of patch_size = 4"),
    "channels": (lambda: PatchTokens(1, 8, 4, 16)(torch.zeros(1, 1, 3, 16, 16)), "was channels given"),
    "image": (lambda: ConvTokens(1, 8, 16)(torch.zeros(1, 1, 1, 8, 8)), "another image_size"),
    "readings": (lambda: VectorTokens(3, 8)(torch.zeros(1, 1, 1, 2)), "readings must be (B, T, N, 3)"),
    "decoder patch": (lambda: SlotTransformerDecoder(8, 1, 10), "multiple of patch_size = 4"),
    "decoder layers": (lambda: SlotTransformerDecoder(8, 1, 8, n_layers=0), "n_layers must be at least 1"),
    "decoder slots": (lambda: SlotTransformerDecoder(8, 1, 8)(torch.zeros(1, 2, 6)), "slots of another model"),
    "doublings": (lambda: BroadcastDecoder(8, 3, 40), "multiple of 2**n_doublings"),
    "broadcast slots": (lambda: BroadcastDecoder(8, 3, 16)(torch.zeros(1, 2, 6)), "slots of another model"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_say_what_was_expected(case, plain_calls):
    call, message = REFUSALS[case]
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


@pytest.mark.parametrize("module, shape", [(lambda: SlotEncoder(3, 8), (2, 5, 8)), (lambda: SlotMixer(8), (2, 5, 8)), (lambda: PatchTokens(1, 8, 4, 8), (1, 2, 1, 8, 8)),
                                           (lambda: SlotTransformerDecoder(8, 1, 8), (2, 3, 8)), (lambda: BroadcastDecoder(8, 3, 8, dim=4, n_doublings=1), (2, 3, 8))])
def test_sixteen_bits_are_finite(module, shape):
    module, x = module(), 30 * drawn(*shape).float()
    with torch.autocast("cpu", torch.bfloat16):
        result = module(x)
    result = result if isinstance(result, torch.Tensor) else result.pixels
    result.float().sum().backward()
    assert result.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    assert size_pair((4, 6)) == (4, 6) and add_times(torch.zeros(1, 1, 1, 2)).shape == (1, 1, 1, 2)
