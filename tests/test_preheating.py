"Preheating, its starts and schedules: properties, gradients, options, bad input."
import copy
import math
import pickle

import pytest
import torch
from torch import nn

from slotpapers.blocks.preheating import (BoxSlots, DecoderBlock, DetachSchedule, PreheatedStart, Preheater, cold_queries,
                                          fit_boxes, is_box)
from slotpapers.blocks.slot_attention import FixedSlots, GaussianSlots, SlotAttention
from slotpapers.core.seeds import forked_rng, torch_stream


def drawn(*shape, path="drawn"):
    return torch.randn(shape, generator=torch_stream(0, path, *shape), dtype=torch.float64)


def made(kind, *arguments, **options):
    "In float64, with every parameter drawn, so that no scale is one and no start zero by chance."
    with forked_rng(0, "test_preheating"):
        module = kind(*arguments, **options).double()
        for parameter in module.parameters():
            parameter.data = (parameter.ndim == 1) + 0.4 * torch.randn(parameter.shape, dtype=torch.float64)
    return module


def with_grad(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


# ---- the block

def test_the_usual_order_is_pytorchs_pre_norm_layer():
    block = made(DecoderBlock, 8, 2, 12)
    theirs = nn.TransformerDecoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True, bias=False).double()
    theirs.self_attn, theirs.multihead_attn, theirs.linear1, theirs.linear2 = block.self_attention, block.cross_attention, block.ffn[0], block.ffn[2]
    theirs.norm1, theirs.norm2, theirs.norm3 = (block.norms[f"before_{step}"] for step in ("self", "cross", "ffn"))
    rows, memory = drawn(2, 3, 8), drawn(2, 5, 8)
    assert (block(rows, memory)[0] - theirs(rows, memory)).abs().max() < 1e-10
    assert (block(rows, memory, with_weights=True)[0] - block(rows, memory)[0]).abs().max() < 1e-10
    assert block(rows, memory)[1] is None


@pytest.mark.parametrize("training", [True, False])
def test_the_preheater_as_written(training):
    "Every step by hand from the weights; without gradients too, where fused kernels could restore another order."
    preheater = made(Preheater, 8, 6, 2).train(training)
    queries, tokens, block = drawn(2, 3, 8), drawn(2, 7, 6), preheater.block

    def attend(attention, asking, asked):
        q_w, k_w, v_w = attention.in_proj_weight.chunk(3)
        q, k, v = ((x @ w.T).unflatten(-1, (2, 4)).transpose(1, 2) for x, w in ((asking, q_w), (asked, k_w), (asked, v_w)))
        heads = (q @ k.transpose(-1, -2) / 2).softmax(dim=-1) @ v
        return heads.transpose(1, 2).flatten(2) @ attention.out_proj.weight.T

    def norm(name, x):
        return block.norms[name].weight * (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()

    memory = tokens @ preheater.to_memory.weight.T + preheater.to_memory.bias
    x = queries + attend(block.cross_attention, queries, memory)
    seen = norm("before_self", x)
    x = x + attend(block.self_attention, seen, seen)
    hidden = norm("before_ffn", x) @ block.ffn[0].weight.T
    x = x + 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)) @ block.ffn[2].weight.T
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            assert (preheater(queries, tokens) - x).abs().max() < 1e-10


def test_both_orders_have_one_size_and_no_unused_parameter():
    sizes = set()
    for order in ("cross-self-ffn", "self-cross-ffn"):
        preheater = made(Preheater, 8, 6, 2, order=order)
        preheater(drawn(2, 3, 8), drawn(2, 7, 6)).square().sum().backward()
        assert with_grad(preheater) == {name for name, _ in preheater.named_parameters()}
        assert not any("bias" in name for name, _ in preheater.block.named_parameters())
        sizes.add(sum(p.numel() for p in preheater.parameters()))
    assert sizes == {6 * 8 + 8 + 2 * 4 * 64 + 2 * 4 * 64 + 2 * 8}
    assert sum(p.numel() for p in Preheater(8, 6, mlp_dim=5).parameters()) == 6 * 8 + 8 + 2 * 4 * 64 + 2 * 5 * 8 + 2 * 8


def test_orders_differ_and_both_are_equivariant():
    queries, tokens, turn = drawn(2, 4, 8), drawn(2, 7, 6), torch.tensor([2, 0, 3, 1])
    results = []
    for order in ("cross-self-ffn", "self-cross-ffn"):
        preheater = made(Preheater, 8, 6, 2, order=order)
        results.append(preheater(queries, tokens))
        assert (preheater(queries[:, turn], tokens) - results[-1][:, turn]).abs().max() < 1e-10
        assert (preheater(queries, tokens[:, torch.randperm(7)]) - results[-1]).abs().max() < 1e-10
    assert (results[0] - results[1]).abs().max() > 0.1


@pytest.mark.parametrize("call, said", [
    (lambda: DecoderBlock(8, order=("self", "cross")), "order must hold each of self, cross, ffn once"),
    (lambda: Preheater(8, 6, order="ffn-cross-self"), "order must be one of"),
    (lambda: Preheater(8, 6)(torch.zeros(2, 3, 7), torch.zeros(2, 5, 6)), "queries must be (B, K, 8)"),
    (lambda: Preheater(8, 6)(torch.zeros(2, 3, 8), torch.zeros(1, 5, 6)), "tokens must be (2, N, 6)"),
    (lambda: DetachSchedule("sometimes"), "detach_features must be one of"),
    (lambda: BoxSlots(3, 8, pad="most"), "pad must be one of"),
    (lambda: BoxSlots(3, 8)(torch.zeros(2, 2, 3)), "boxes must be (B, M, 4)"),
    (lambda: BoxSlots(3, 8)(torch.full((2, 2, 4), math.nan)), "boxes must be finite"),
    (lambda: BoxSlots(1, 8)(torch.zeros(2, 2, 4)), "boxes must fit into n_slots=1 rows; got an object in row 2"),
    (lambda: cold_queries(BoxSlots(3, 8), 2, None, None, None), "boxes must be given"),
    (lambda: cold_queries(BoxSlots(3, 8), 3, torch.zeros(2, 2, 4), None, None), "boxes must be (3, M, 4)"),
    (lambda: cold_queries(GaussianSlots(3, 8), 2, torch.zeros(2, 2, 4), None, None), "GaussianSlots takes none"),
    (lambda: cold_queries(FixedSlots(3, 8), 2, None, 4, None), "n_slots must be 3, one learned row a slot; got 4"),
])
def test_refusals(call, said, plain_calls):
    with pytest.raises(ValueError) as caught:
        call()
    assert said in str(caught.value)


# ---- starts from boxes

BOXES = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0], [-1.0] * 4], [[0.5, 0.5, 0.9, 1.0], [-1.0] * 4, [-1.0] * 4]])


def test_boxes_padding_and_batch_mates():
    with forked_rng(0, "boxes"):
        start = BoxSlots(5, 8)
    start.log_std.data.fill_(-40)
    fixed = start(BOXES)
    assert fixed.shape == (2, 5, 8)
    nothing = start.mean(torch.full((4,), -1.0))
    for sample, objects in ((0, 2), (1, 1)):
        assert torch.allclose(fixed[sample, objects:], nothing.expand(5 - objects, 8), atol=1e-6), "rows beyond the objects start from padding"
        assert (fixed[sample, :objects] - nothing).abs().amax(dim=-1).min() > 1e-3
    assert torch.allclose(start(BOXES[1:]), fixed[1:], atol=1e-6), "a sample alone is as in its batch"
    assert start(BOXES, n_slots=2).shape == (2, 2, 8)
    start.pad = "batch"
    assert start(BOXES).shape == (2, 2, 8) and start(BOXES[1:]).shape == (1, 1, 8)
    assert start(torch.full((2, 3, 4), -1.0)).shape == (2, 1, 8), "a batch without objects still has a slot"


def test_padding_may_be_missing_or_in_excess():
    assert is_box(BOXES).tolist() == [[True, True, False], [True, False, False]]
    assert fit_boxes(BOXES, 2).equal(BOXES[:, :2]) and fit_boxes(BOXES, 3).equal(BOXES)
    assert fit_boxes(BOXES, 5)[:, :3].equal(BOXES) and fit_boxes(BOXES, 5)[:, 3:].eq(-1).all()
    assert fit_boxes(BOXES[:, :0], 2).eq(-1).all()


def test_box_noise_has_the_learned_width_also_at_padding():
    start = BoxSlots(2, 3).eval()
    start.log_std.data[:] = torch.tensor([0.0, -1.0, 1.0])
    many = start(BOXES[:1, :1].expand(20_000, 1, 4), torch_stream(0, "noise"))
    assert (many.std(dim=0) / start.log_std.exp() - 1).abs().max() < 0.03
    assert start(BOXES[:, :1], torch_stream(0, "n")).equal(start(BOXES[:, :1], torch_stream(0, "n")))


# ---- the schedule

@pytest.mark.parametrize("total", [1, 9, 10, 100, 999, 1001])
def test_the_flag_flips_at_a_tenth(total):
    schedule = DetachSchedule()
    assert schedule.detaches, "before the first step"
    for step in range(0, total, max(total // 40, 1)):
        schedule.at_step(step, total)
        assert schedule.detaches == bool(schedule.flag) == (step < math.floor(0.1 * total))
    for step, expected in ((math.floor(0.1 * total) - 1, True), (math.floor(0.1 * total), False)):
        if step >= 0:
            schedule.at_step(step, total)
            assert schedule.detaches == expected


@pytest.mark.parametrize("mode", ["always", "never"])
def test_the_other_modes_stay(mode):
    schedule = DetachSchedule(mode)
    for step in (0, 9, 10, 99):
        schedule.at_step(step, 100)
        assert schedule.detaches == (mode == "always")


def test_the_flag_survives_files_copies_and_pickles():
    late, fresh = DetachSchedule(), DetachSchedule()
    late.at_step(50, 100)
    for twin in (copy.deepcopy(late), pickle.loads(pickle.dumps(late)), fresh):
        twin.load_state_dict(late.state_dict())
        assert not twin.detaches and not twin.flag
    late.load_state_dict(DetachSchedule().state_dict())
    assert late.detaches


# ---- gradients of the start

def start_of(**options):
    return made(PreheatedStart, GaussianSlots(3, 8, init="zeros"), Preheater(8, 6, 2), **options)


def test_the_queries_carry_gradient_to_their_noise_alone():
    start = start_of()
    start(drawn(2, 7, 6)).queries.square().sum().backward()
    assert with_grad(start) == {"log_std"}
    start = start_of(query_noise=False)
    assert not start(drawn(2, 7, 6)).queries.requires_grad and start.log_std is None
    start = start_of(stop_gradient=False)
    start(drawn(2, 7, 6)).queries.square().sum().backward()
    assert with_grad(start) == {name for name, _ in start.named_parameters()}


@pytest.mark.parametrize("mode, reaches", [("always", False), ("never", True), ("first10", False)])
def test_the_preheated_queries_train_preheater_and_cold_start(mode, reaches):
    start, tokens = start_of(detach_features=mode), drawn(2, 7, 6).requires_grad_()
    start(tokens).preheated.square().sum().backward()
    assert with_grad(start) == {name for name, _ in start.named_parameters()} - {"log_std"}
    assert (tokens.grad is not None) == reaches
    if mode == "first10":
        start.features.at_step(10, 100)
        start(tokens).preheated.square().sum().backward()
        assert tokens.grad.abs().sum() > 0


def test_noise_in_training_only_with_learned_width():
    start = start_of()
    start.log_std.data.fill_(math.log(0.5))
    out = start(drawn(2000, 7, 6), generator=torch_stream(0, "noise"))
    noise = out.queries - out.preheated
    assert abs(noise.std() - 0.5) < 0.01 and abs(noise.mean()) < 0.01
    out = start.eval()(drawn(2, 7, 6))
    assert out.queries.equal(out.preheated) and not out.queries.requires_grad


def test_cold_starts_of_every_kind_are_preheated():
    tokens = drawn(2, 7, 6)
    for cold, extra in ((FixedSlots(3, 8), {}), (GaussianSlots(3, 8, shared=False), {}), (BoxSlots(3, 8), dict(boxes=BOXES.double()))):
        start = made(PreheatedStart, cold, Preheater(8, 6, 2))
        out = start.eval()(tokens, generator=torch_stream(0, "n"), **extra)
        assert out.queries.shape == (2, 3, 8) and (out.preheated - start.preheater(out.cold, tokens)).abs().max() < 1e-10
    assert made(PreheatedStart, GaussianSlots(3, 8), None)(tokens, n_slots=5).queries.shape == (2, 5, 8)
    without = made(PreheatedStart, GaussianSlots(3, 8), None)
    out = without(tokens)
    assert out.preheated is None and out.queries is out.cold and out.queries.requires_grad and without.log_std is None


def test_slot_attention_as_preheater():
    start, tokens = made(PreheatedStart, GaussianSlots(3, 8), SlotAttention(8, 6, n_iters=1)), drawn(2, 7, 6)
    out = start.eval()(tokens, generator=torch_stream(0, "n"))
    assert (out.preheated - start.preheater(tokens, out.cold).slots).abs().max() < 1e-10


def test_a_generator_decides_everything():
    start, tokens = start_of(), drawn(2, 7, 6)
    one, two, other = (start(tokens, generator=torch_stream(seed, "n")).queries for seed in (0, 0, 1))
    assert one.equal(two) and not one.equal(other)
