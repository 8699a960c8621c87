"Feature decoders: visible sets, invariances, masks, options, bad input."
import pytest
import torch
from torch import nn

from slotpapers.blocks.feature_decoders import MixtureDecoder, MaskedDecoder, visible_tokens
from slotpapers.core.seeds import forked_rng, torch_stream

KINDS = {"masked": lambda: MaskedDecoder(8, 12, 20, n_layers=2), "masked, narrow": lambda: MaskedDecoder(8, 12, 20, dim=16, n_layers=3, n_heads=2),
         "broadcast": lambda: MixtureDecoder(8, 12, 20, hidden=16, n_layers=2)}
ALIVE = torch.tensor([[True, True, False, True], [False, True, True, True]])


def drawn(*shape, path="drawn"):
    return torch.randn(shape, generator=torch_stream(0, path, *shape), dtype=torch.float64)


def made(kind):
    with forked_rng(0, "test_feature_decoders"):
        module = KINDS[kind]().double()
        for parameter in module.parameters():
            parameter.data = (parameter.ndim == 1) + 0.4 * torch.randn(parameter.shape, dtype=torch.float64)
    return module


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_slots_have_no_order_and_masks_sum_to_one(kind, training):
    decoder, target, slots, turn = made(kind).train(training), drawn(2, 20, 12), drawn(2, 4, 8), torch.tensor([2, 0, 3, 1])
    out = decoder(target, slots, torch_stream(0, "v"))
    again = decoder(target, slots[:, turn], torch_stream(0, "v"))
    assert (out.recon - again.recon).abs().max() < 1e-10 and (out.masks[:, turn] - again.masks).abs().max() < 1e-10
    assert (out.masks.sum(dim=1) - 1).abs().max() < 1e-10 and out.recon.shape == target.shape and out.masks.shape == (2, 4, 20)
    one = decoder(target, slots[:, :1], torch_stream(0, "v"))
    assert (one.masks - 1).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_slots_left_out(kind):
    decoder, target, slots = made(kind).eval(), drawn(2, 20, 12), drawn(2, 4, 8)
    out = decoder(target, slots, slot_mask=ALIVE)
    assert (out.masks[~ALIVE] == 0).all() and (out.masks.sum(dim=1) - 1).abs().max() < 1e-10
    for sample in range(2):
        alone = decoder(target[sample:sample + 1], slots[sample:sample + 1, ALIVE[sample]])
        assert (alone.recon[0] - out.recon[sample]).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    decoder = made(kind)
    decoder(drawn(2, 20, 12), drawn(2, 4, 8), torch_stream(0, "v")).recon.square().sum().backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


# ---- visible sets

def test_sizes_of_visible_sets():
    for n_tokens, fixed in ((256, 24), (36, 2), (20, 1), (9, 0), (2, 0), (1, 0)):
        counts = visible_tokens(3000, n_tokens, torch_stream(0, "v", n_tokens)).sum(dim=1)
        assert 0 <= counts.min() and counts.max() <= max(n_tokens - 2, 0)
        uniform = 1 / max(n_tokens - 1, 1)
        assert abs((counts == fixed).float().mean() - (0.5 + 0.5 * uniform)) < 0.04, n_tokens


def test_every_token_is_as_likely():
    seen = visible_tokens(20_000, 12, torch_stream(0, "v")).float().mean(dim=0)
    assert seen.std() < 0.01


def test_a_generator_decides_the_set():
    one, two, other = (visible_tokens(8, 30, torch_stream(seed, "v")) for seed in (0, 0, 1))
    assert one.equal(two) and not one.equal(other)
    decoder = made("masked")
    target, slots = drawn(2, 20, 12), drawn(2, 4, 8)
    assert decoder(target, slots, torch_stream(0, "v")).recon.equal(decoder(target, slots, torch_stream(0, "v")).recon)
    assert not decoder(target, slots, torch_stream(0, "v")).recon.equal(decoder(target, slots, torch_stream(1, "v")).recon)


def permuted(decoder, target, slots, order, count):
    "The long way round: permute, keep the first ones, decode, undo."
    sample = torch.arange(len(target))[:, None]
    tokens = torch.where(torch.arange(target.shape[1])[None, :, None] < count[:, None, None], decoder.from_tokens(target)[sample, order], decoder.mask_token)
    hidden, memory = decoder.norm(tokens + decoder.positions[0][order]), decoder.from_slots(slots)
    for block in decoder.blocks:
        hidden, weights = block(hidden, memory, with_weights=True)
    undo = order.argsort(dim=-1)
    return decoder.readout(hidden)[sample, undo], weights[sample, undo].transpose(1, 2)


@pytest.mark.parametrize("count", [0, 5, 18])
@pytest.mark.parametrize("kind", ["masked", "masked, narrow"])
def test_no_permutation_is_any_permutation(kind, count):
    decoder, target, slots = made(kind), drawn(2, 20, 12), drawn(2, 4, 8)
    order = torch.rand(2, 20, generator=torch_stream(count, "order")).argsort(dim=-1)
    out = decoder(target, slots, visible=order.argsort(dim=-1) < count)
    for short, long in zip(out, permuted(decoder, target, slots, order, torch.full((2,), count))):
        assert (short - long).abs().max() < 1e-10


def test_an_identity_stack_keeps_the_order_of_tokens():
    decoder = MaskedDecoder(8, 12, 20, n_layers=2).double()
    for block in decoder.blocks:
        for weight in (block.self_attention.out_proj.weight, block.cross_attention.out_proj.weight, block.ffn[2].weight):
            nn.init.zeros_(weight)
    target, visible = drawn(2, 20, 12), torch.rand(2, 20, generator=torch_stream(0, "seen")) < 0.5
    entered = torch.where(visible[..., None], decoder.from_tokens(target), decoder.mask_token) + decoder.positions
    assert (decoder(target, drawn(2, 4, 8), visible=visible).recon - decoder.norm(entered)).abs().max() < 1e-10


def test_with_nothing_visible_only_slots_and_positions_count():
    decoder, slots, hidden = made("masked"), drawn(2, 4, 8), torch.zeros(2, 20, dtype=torch.bool)
    out = decoder(drawn(2, 20, 12), slots, visible=hidden)
    other = decoder(drawn(2, 20, 12, path="other"), slots, torch_stream(5, "v"), visible=hidden)
    assert out.recon.equal(other.recon) and out.masks.equal(other.masks)
    assert not decoder(drawn(2, 20, 12), slots + drawn(2, 4, 8, path="more"), visible=hidden).recon.equal(out.recon)


def test_evaluation_sees_everything_and_draws_nothing():
    decoder, target, slots = made("masked").eval(), drawn(2, 20, 12), drawn(2, 4, 8)
    state = torch.get_rng_state()
    out = decoder(target, slots)
    assert torch.get_rng_state().equal(state)
    assert out.recon.equal(decoder(target, slots, visible=torch.ones(2, 20, dtype=torch.bool)).recon)


def test_the_first_block_reads_the_stream_as_it_is_and_heads_are_averaged():
    decoder, target, slots = made("masked"), drawn(2, 20, 12), drawn(2, 4, 8)
    assert "before_self" not in decoder.blocks[0].norms and "before_self" in decoder.blocks[1].norms
    caught = []
    block = decoder.blocks[-1]
    block.cross_attention.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[:2]))
    out = decoder(target, slots, torch_stream(0, "v"))
    q_w, k_w, _ = block.cross_attention.in_proj_weight.chunk(3)
    q, k = ((x @ w.T).unflatten(-1, (4, 3)).transpose(1, 2) for x, w in zip(caught[0], (q_w, k_w)))
    by_hand = (q @ k.transpose(-1, -2) / 3**0.5).softmax(dim=-1).mean(dim=1)
    assert (by_hand.transpose(1, 2) - out.masks).abs().max() < 1e-10


def test_scales_at_the_start():
    with forked_rng(0, "scales"):
        decoder = MaskedDecoder(256, 384, 256, n_layers=1)
    assert 0.85 < decoder.positions.std() < 1.0 and decoder.positions.abs().max() <= 2.01      # normal of width 1, cut at 2
    assert abs(decoder.mask_token.std() * 384**0.5 - 1) < 0.15


@pytest.mark.parametrize("call, said", [
    (lambda: MaskedDecoder(8, 12, 20)(torch.zeros(2, 19, 12), torch.zeros(2, 3, 8)), "target must be (B, 20, 12); got (2, 19, 12)"),
    (lambda: MaskedDecoder(8, 12, 20)(torch.zeros(2, 20, 12), torch.zeros(3, 3, 8)), "slots must be (2, K, 8)"),
    (lambda: MixtureDecoder(8, 12, 20)(torch.zeros(2, 20, 11), torch.zeros(2, 3, 8)), "target must be (B, 20, 12)"),
    (lambda: MixtureDecoder(8, 12, 20)(torch.zeros(2, 20, 12), torch.zeros(2, 3, 9)), "slots must be (2, K, 8)"),
])
def test_refusals(call, said, plain_calls):
    with pytest.raises(ValueError) as caught:
        call()
    assert said in str(caught.value)


def test_size_of_the_broadcast_decoder():
    # three hidden layers of 2048 from slots of 256 to 384 features and one mask, and a position of 256 for every token
    expected = 256 * 256 + (257 * 2048) + 2 * (2049 * 2048) + 2049 * 385
    assert sum(p.numel() for p in MixtureDecoder(256, 384, 256).parameters()) == expected
