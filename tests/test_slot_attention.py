"Slot attention: the fast path against the textbook, for every variant that a model uses; properties; starts; bad input."
import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from slotpapers.blocks.slot_attention import (Competition, FixedSlots, GaussianSlots, InvertedAttention, SlotAttention,
                                              TracedSlotOutput, choose_backend, compete, weigh)
from slotpapers.blocks.slot_attention_fast import FoldedCompetition
from slotpapers.core.records import SlotOutput
from slotpapers.core.seeds import forked_rng, torch_stream

VARIANTS = {   # what each model asks for
    "slotfm": (SlotAttention, dict()),
    "slotfm, tokens normalised before": (SlotAttention, dict(norm_tokens=False)),
    "slotfm, no division": (SlotAttention, dict(normalize=False)),
    "smoothsa": (SlotAttention, dict(activation="gelu", eps=1e-5, eps_in="denominator", straight_through=True, zero_bias=True)),
    "dias": (SlotAttention, dict(activation="gelu", eps=1e-5, eps_in="denominator")),
    "lucidrains": (SlotAttention, dict(qkv_bias=True)),
    "several heads": (SlotAttention, dict(n_heads=2)),
    "slotssm": (InvertedAttention, dict(n_heads=4)),
    "slotssm, one head": (InvertedAttention, dict(n_heads=1)),
    "slotssm, tokens as they are": (InvertedAttention, dict(n_heads=4, project_tokens=False, bias=False)),
}
SLOTS = torch.tensor([[True, False, True, True], [True, True, True, True]])
PADDING = torch.arange(11)[None] < torch.tensor([[7], [11]])


def build(kind, options, *path, slot_dim=8, token_dim=6):
    "A module in float64 with every parameter drawn, gamma and beta of the norms included."
    with forked_rng(0, "test_slot_attention"):
        module = kind(slot_dim, token_dim, **options).double()
    g = torch_stream(0, "parameters", *path)
    for parameter in module.parameters():
        offset = 1.0 if parameter.ndim == 1 else 0.0
        parameter.data = offset + 0.4 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    return module


def drawn(*shape, path="drawn"):
    return torch.randn(shape, generator=torch_stream(0, path, *shape), dtype=torch.float64)


def all_of(out):
    return [out.slots, out.masks, *(out.trace or []), *(getattr(out, "mask_trace", None) or [])]


def everything(module, backend, loss_of=all_of, tokens=None, **call):
    "Outputs, and the gradients of a loss that looks at all of them, of the inputs and all parameters."
    module.backend = backend
    module.zero_grad()
    tokens = (drawn(2, 11, 6) if tokens is None else tokens.clone()).requires_grad_()
    queries = drawn(2, 4, 8).requires_grad_()
    out = module(tokens, queries, **call)
    assert out.backend == backend
    loss = sum((part.square() * drawn(*part.shape, path="loss")).sum() for part in loss_of(out))
    loss.backward()
    named = dict(tokens=tokens.grad, queries=queries.grad, **{name: p.grad for name, p in module.named_parameters()})
    return {str(i): part.detach() for i, part in enumerate(all_of(out))} | named


def assert_equal(one, other, tolerance):
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] is None) == (other[name] is None), name
        if one[name] is not None:
            assert (one[name] - other[name]).abs().max() <= tolerance * (1 + one[name].abs().max()), name


# ---- the fast path is the textbook

@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_fast_is_textbook(name, masked):
    kind, options = VARIANTS[name]
    module = build(kind, options, name)
    masks = dict(slot_mask=SLOTS, token_mask=PADDING) if masked else {}
    calls = [{}] if kind is InvertedAttention else [{}, dict(trace=True), dict(n_iters=1), dict(n_iters=2, trace=True)]
    for call in calls:
        assert_equal(everything(module, "textbook", **call, **masks), everything(module, "fast", **call, **masks), 1e-10)


@pytest.mark.parametrize("heads, eps_in, norm_tokens", list(itertools.product((1, 2), ("numerator", "denominator"), (True, False))))
def test_fast_is_textbook_for_every_keyword(heads, eps_in, norm_tokens):
    for normalize, qkv_bias, straight_through, trace, masked in itertools.product((True, False), repeat=5):
        options = dict(n_heads=heads, eps_in=eps_in, norm_tokens=norm_tokens, normalize=normalize, qkv_bias=qkv_bias, eps=1e-3)
        module = build(SlotAttention, options | dict(straight_through=straight_through))
        call = dict(trace=trace, n_iters=2) | (dict(slot_mask=SLOTS, token_mask=PADDING) if masked else {})
        assert_equal(everything(module, "textbook", **call), everything(module, "fast", **call), 1e-10)


@pytest.mark.parametrize("looked_at", ["slots", "masks", "first masks", "middle slots"])
def test_each_output_alone_has_the_right_gradient(looked_at):
    "Where nothing asks for an output, autograd hands the hand-written gradient a None."
    parts = {"slots": lambda out: [out.slots], "masks": lambda out: [out.masks],
             "first masks": lambda out: out.mask_trace[:1], "middle slots": lambda out: out.trace[1:2]}[looked_at]
    module = build(SlotAttention, VARIANTS["dias"][1])
    one, other = (everything(module, backend, parts, trace=True) for backend in ("textbook", "fast"))
    assert_equal(one, other, 1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_by_finite_differences(name):
    kind, options = VARIANTS[name]
    if kind is SlotAttention:
        options = options | dict(n_iters=2, mlp_dim=5, straight_through=False)   # its gradient is not that of the value
    module = build(kind, options, slot_dim=4, token_dim=3)
    module.backend = "fast"
    tokens, queries = drawn(1, 5, 3).requires_grad_(), drawn(1, 2, 4).requires_grad_()
    call = dict(trace=True) if kind is SlotAttention else {}
    names, parameters = zip(*module.named_parameters())

    def run(tokens, queries, *values):
        return tuple(all_of(torch.func.functional_call(module, dict(zip(names, values)), (tokens, queries), call)))

    assert torch.autograd.gradcheck(run, (tokens, queries, *parameters), fast_mode=True)


def test_the_gradient_can_be_differentiated():
    module = build(SlotAttention, dict(activation="gelu", n_iters=2, mlp_dim=5), slot_dim=4, token_dim=3)
    module.backend = "fast"
    inputs = drawn(1, 4, 3).requires_grad_(), drawn(1, 2, 4).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda *inputs: module(*inputs).slots, inputs)


def test_going_back_twice_gives_the_same_gradient_twice():
    "The gradient of the tokens is gathered in place: a second pass over the kept graph must not find the first one's sums."
    module, tokens = build(SlotAttention, {}), drawn(2, 11, 6).requires_grad_()
    loss = module(tokens, drawn(2, 4, 8)).slots.square().sum()
    first, = torch.autograd.grad(loss, tokens, retain_graph=True)
    kept = first.clone()
    second, = torch.autograd.grad(loss, tokens)
    assert torch.equal(second, kept) and torch.equal(first, kept)


def test_functional_gradient():
    module, queries = build(SlotAttention, {}), drawn(2, 4, 8)
    gradients = []
    for backend in ("textbook", "fast"):
        module.backend = backend
        gradients.append(torch.func.grad(lambda tokens: module(tokens, queries).slots.square().sum())(drawn(2, 11, 6)))
    assert (gradients[0] - gradients[1]).abs().max() < 1e-10


@pytest.mark.parametrize("name", VARIANTS)
def test_frozen_tokens_and_float32(name):
    kind, options = VARIANTS[name]
    with forked_rng(0, name):
        module = kind(8, 6, **options)
    tokens, queries = drawn(2, 11, 6).float(), drawn(2, 4, 8).float()
    outs = []
    for backend in ("textbook", "fast"):
        module.backend = backend
        module.zero_grad()
        out = module(tokens, queries)
        out.slots.square().sum().backward()
        outs.append([out.slots.detach(), out.masks.detach(), *(p.grad for p in module.parameters())])
    assert all((a - b).abs().max() <= 1e-4 * (1 + a.abs().max()) for a, b in zip(*outs))   # float32 through three rounds


def test_the_fast_path_keeps_less():
    "What the gradient keeps, in bytes, every storage once: tokens and attention instead of keys, values and copies."
    with forked_rng(0, "memory"):
        module, tokens, queries = SlotAttention(64, mlp_dim=64), torch.randn(4, 512, 64, requires_grad=True), torch.randn(4, 4, 64)
    kept = {}
    for backend in ("textbook", "fast"):
        module.backend, seen = backend, {}

        def note(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = module(tokens, queries)
        kept[backend] = sum(seen.values()) - tokens.untyped_storage().nbytes()
        del out
    assert kept["fast"] < 0.6 * kept["textbook"]


@pytest.mark.parametrize("straight_through", [False, True])
def test_autocast_is_as_exact_as_the_textbook(straight_through):
    errors = {"textbook": [], "fast": []}
    for seed in range(4):
        with forked_rng(seed, "autocast"):
            module = SlotAttention(32, 24, straight_through=straight_through)
            tokens, queries, weight = torch.randn(4, 50, 24), torch.randn(4, 5, 32), torch.randn(4, 5, 32)
        gradients = {}
        for backend, enabled in [("textbook", False), ("textbook", True), ("fast", True)]:
            module.backend = backend
            module.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                out = module(tokens, queries)
                assert out.masks.dtype == torch.float32 and (out.masks.sum(dim=1) - 1).abs().max() < 1e-5
                ((out.slots.float() * weight).sum() + out.masks.square().sum()).backward()
            gradients[backend, enabled] = torch.cat([p.grad.flatten() for n, p in module.named_parameters() if n != "norm_slots.bias"])
        exact = gradients["textbook", False]
        for backend in errors:
            errors[backend].append(((gradients[backend, True] - exact).norm() / exact.norm()).item())
    mean = {backend: sum(values) / len(values) for backend, values in errors.items()}
    assert mean["textbook"] < 0.05 and mean["fast"] < 1.5 * mean["textbook"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["textbook", "fast"])
def test_half_precision_modules(dtype, backend):
    with forked_rng(0, "half"):
        module, tokens, queries = SlotAttention(16, backend=backend), torch.randn(2, 30, 16), torch.randn(2, 3, 16)
    exact = module(tokens, queries).slots
    low = module.to(dtype)(tokens.to(dtype), queries.to(dtype))
    assert low.slots.dtype == dtype and low.masks.dtype == torch.float32
    assert (low.slots.float() - exact).abs().max() < 0.1
    low.slots.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_the_sums_do_not_overflow_in_float16():
    "The fast path divides after the sum: 70 000 tokens of size one exceed float16, unless it sums in float32."
    with forked_rng(0, "overflow"):
        module = Competition(4, 4, norm_tokens=False)
    with torch.autocast("cpu", torch.float16):
        updates, _ = module.reader(torch.ones(1, 70_000, 4), backend="fast")(torch.randn(1, 1, 4))
    assert torch.isfinite(updates).all()


# ---- which one runs

def test_the_backend_can_be_read_and_chosen():
    module, inputs = SlotAttention(8), (torch.randn(1, 5, 8), torch.randn(1, 2, 8))
    assert module(*inputs).backend == "fast"
    module.backend = "textbook"
    assert module(*inputs).backend == "textbook"
    for broken in (lambda: SlotAttention(8, backend="triton"), lambda: InvertedAttention(8, backend="triton")):
        with pytest.raises(ValueError, match="backend must be one of 'auto', 'fast', 'textbook'"):
            broken()


class Tensors(nn.Module):
    "Slots and masks as plain tensors, as an exporter wants them."

    def __init__(self, module, ran):
        super().__init__()
        self.module, self.note = module, ran.append

    def forward(self, tokens, queries):
        out = self.module(tokens, queries)
        self.note(out.backend)
        return out.slots, out.masks


@pytest.mark.filterwarnings("ignore::FutureWarning")   # the exporter's own
@pytest.mark.slow
def test_exports_to_onnx(plain_calls, tmp_path):   # the hook compares sizes, which pins them
    runtime = pytest.importorskip("onnxruntime", reason="export extra: onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="export extra: onnxscript is not installed")
    ran = []
    with forked_rng(0, "onnx"):
        module, tokens, queries = Tensors(SlotAttention(8, 6), ran).eval(), torch.randn(5, 11, 6), torch.randn(5, 4, 8)
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.onnx.export(module, (tokens[:2], queries[:2]), tmp_path / "slots.onnx", dynamo=True, verbose=False, dynamic_shapes=(batch, batch))
    assert set(ran) == {"textbook"}
    session = runtime.InferenceSession(tmp_path / "slots.onnx")
    exported = session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), (tokens, queries))})
    for ours, theirs in zip(module(tokens, queries), exported):
        assert abs(ours.detach().numpy() - theirs).max() < 1e-5
    assert ran[-1] == "fast" and choose_backend("auto") == "fast"


COMPILED = """
import torch
from slotpapers.blocks.slot_attention import SlotAttention
for module in (SlotAttention(8, 6), SlotAttention(8, 6, straight_through=True)):
    inputs = torch.randn(2, 11, 6, requires_grad=True), torch.randn(2, 4, 8, requires_grad=True)
    found = []
    for run in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
        out = run(*inputs)
        gradients = torch.autograd.grad(out.slots.square().sum() + out.masks.square().sum(), [*inputs, *module.parameters()])
        found.append([out.slots, out.masks, *gradients])
        assert out.backend == "fast"
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*found))
"""


@pytest.mark.slow
def test_compiles_in_one_graph():
    "In a process of its own: the shape hook of these tests cannot be compiled."
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]


# ---- properties, for both formulations

@pytest.fixture(params=["textbook", "fast"])
def backend(request):
    return request.param


@pytest.mark.parametrize("name", VARIANTS)
def test_masks_sum_to_one_over_slots(name, backend):
    kind, options = VARIANTS[name]
    module = build(kind, options, name)
    module.backend = backend
    masks = module(drawn(2, 11, 6), drawn(2, 4, 8)).masks
    assert (masks >= 0).all() and (masks.sum(dim=1) - 1).abs().max() < 1e-12
    masks = module(drawn(2, 11, 6), drawn(2, 4, 8), slot_mask=SLOTS, token_mask=PADDING).masks
    assert (masks[0, 1] == 0).all() and (masks[0, :, 7:] == 0).all()
    assert (masks.sum(dim=1)[PADDING] - 1).abs().max() < 1e-12


def test_weights_sum_to_one_over_tokens():
    masks = compete(10 * drawn(2, 3, 4, 11))
    assert (masks.sum(dim=(1, 2)) - 1).abs().max() < 1e-12
    assert (weigh(masks).sum(dim=-1) - 1).abs().max() < 1e-12
    below = weigh(masks, eps=1e-5, eps_in="denominator").sum(dim=-1)
    assert (below < 1).all() and (below > 0.5).all()
    assert weigh(masks, token_mask=PADDING)[0, :, :, 7:].abs().max() == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_slots_permute_and_token_order_is_irrelevant(name, backend):
    kind, options = VARIANTS[name]
    module = build(kind, options, name)
    module.backend = backend
    tokens, queries = drawn(2, 11, 6), drawn(2, 4, 8)
    out, turn, shuffle = module(tokens, queries), torch.tensor([2, 0, 3, 1]), torch.randperm(11, generator=torch_stream(0, "shuffle"))
    turned = module(tokens, queries[:, turn])
    assert (turned.slots - out.slots[:, turn]).abs().max() < 1e-10 and (turned.masks - out.masks[:, turn]).abs().max() < 1e-10
    shuffled = module(tokens[:, shuffle], queries)
    assert (shuffled.slots - out.slots).abs().max() < 1e-10 and (shuffled.masks - out.masks[..., shuffle]).abs().max() < 1e-10


@pytest.mark.parametrize("name", VARIANTS)
def test_samples_do_not_mix_and_padding_is_not_there(name, backend):
    kind, options = VARIANTS[name]
    module = build(kind, options, name)
    module.backend = backend
    tokens, queries = drawn(2, 11, 6), drawn(2, 4, 8)
    tokens[0, 7:] = float("nan")
    out = module(tokens, queries, token_mask=PADDING)
    for i, n in enumerate((7, 11)):
        alone = module(tokens[i:i + 1, :n], queries[i:i + 1])
        assert (out.slots[i] - alone.slots[0]).abs().max() < 1e-10
    tokens = tokens.nan_to_num().requires_grad_()
    module(tokens, queries, token_mask=PADDING).slots.sum().backward()
    assert tokens.grad[0, 7:].abs().max() == 0 < tokens.grad[0, :7].abs().min()


def test_a_slot_left_out_leaves_the_others_alone(backend):
    module = build(SlotAttention, {})
    module.backend = backend
    tokens, queries = drawn(2, 11, 6), drawn(2, 4, 8)
    out = module(tokens, queries, slot_mask=SLOTS).slots[0, SLOTS[0]]
    assert (out - module(tokens[:1], queries[:1, SLOTS[0]]).slots[0]).abs().max() < 1e-10


def test_equal_rows_stay_equal(backend):
    module = build(SlotAttention, {})
    module.backend = backend
    slots = module(drawn(2, 11, 6), drawn(2, 1, 8).expand(2, 4, 8)).slots
    assert (slots - slots[:, :1]).abs().max() == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_one_slot_takes_everything(name, backend):
    kind, options = VARIANTS[name]
    module = build(kind, options, name)
    module.backend = backend
    assert (module(drawn(2, 11, 6), drawn(2, 1, 8)).masks - 1).abs().max() < 1e-12


def test_an_empty_slot_stays_finite(backend):
    "A slot whose query opposes every token: with the numerator it reads the mean of all values, with the denominator nothing."
    for eps_in, eps in (("numerator", 1e-8), ("denominator", 1e-5)):
        competition = build(Competition, dict(norm_tokens=False, eps=eps, eps_in=eps_in), slot_dim=4, token_dim=4)
        nn.init.eye_(competition.to_q.weight), nn.init.eye_(competition.to_k.weight)
        tokens, slots = 1 + drawn(1, 9, 4).abs(), torch.stack([torch.full((1, 4), 99.0), torch.full((1, 4), -99.0)], dim=1).double()
        updates, masks = competition.reader(tokens, backend=backend)(slots)
        expected = competition.to_v(tokens).mean(dim=1) if eps_in == "numerator" else torch.zeros(1, 4)
        assert masks[0, 1].max() < 1e-60 and (updates[0, 1] - expected[0]).abs().max() < 1e-10


def test_the_sum_blows_up_without_division(backend):
    tokens, slots = drawn(1, 10, 6), drawn(1, 3, 8)
    sizes = {}
    for normalize, repeats in itertools.product((True, False), (1, 75)):
        read = build(Competition, dict(normalize=normalize)).reader(tokens.repeat(1, repeats, 1), backend=backend)
        sizes[normalize, repeats] = read(slots)[0].norm()
    assert abs(sizes[True, 75] / sizes[True, 1] - 1) < 1e-10 and abs(sizes[False, 75] / sizes[False, 1] - 75) < 1e-8


def test_the_shift_of_the_slots_norm_has_no_gradient(backend):
    for heads, cancels in ((1, True), (2, False)):
        module = build(SlotAttention, dict(n_heads=heads))
        module.backend = backend
        module(drawn(2, 11, 6), drawn(2, 4, 8)).slots.square().sum().backward()
        assert (module.norm_slots.bias.grad.norm() < 1e-12 * module.norm_slots.weight.grad.norm()) == cancels


def test_more_rounds_pass_through_the_same_states(backend):
    module = build(SlotAttention, dict(straight_through=True))
    module.backend = backend
    tokens, queries = drawn(2, 11, 6), drawn(2, 4, 8)
    traced = module(tokens, queries, 4, trace=True)
    assert isinstance(traced, TracedSlotOutput) and len(traced.trace) == 5 and len(traced.mask_trace) == 4
    for rounds in (1, 2, 3, 4):
        out = module(tokens, queries, rounds)
        assert type(out) is SlotOutput and out.trace is None
        assert torch.equal(out.slots, traced.trace[rounds]) and torch.equal(out.masks, traced.mask_trace[rounds - 1])


def test_straight_through(backend):
    tokens, queries = drawn(2, 11, 6), drawn(2, 4, 8).requires_grad_()
    plain, jumping = build(SlotAttention, {}), build(SlotAttention, dict(straight_through=True))
    plain.backend = jumping.backend = backend
    assert torch.equal(plain(tokens, queries).slots, jumping(tokens, queries).slots)              # values never change

    def gradients(module, start, rounds):
        slots = module(tokens, start, rounds).slots
        return torch.autograd.grad(slots.square().sum(), [start, *module.parameters()])

    for one, other in zip(gradients(plain, queries, 1), gradients(jumping, queries, 1)):          # one round: the identity
        assert torch.equal(one, other)
    before_last = plain(tokens, queries, 2).slots.detach().requires_grad_()
    for one, other in zip(gradients(plain, before_last, 1), gradients(jumping, queries, 3)):      # else: the last round's alone
        assert (one - other).abs().max() < 1e-10


def test_a_trace_keeps_the_graph_of_the_early_rounds(backend):
    "Straight-through or not, whoever looks at the first round's masks gets their gradient."
    gradients = []
    for straight_through in (False, True):
        module = build(SlotAttention, dict(straight_through=straight_through))
        module.backend = backend
        first = module(drawn(2, 11, 6), drawn(2, 4, 8), trace=True).mask_trace[0]
        gradients.append(torch.autograd.grad(first.square().sum(), module.competition.to_k.weight)[0])
    assert gradients[0].abs().max() > 0 and torch.equal(*gradients)


# ---- starts

def test_a_fixed_start_repeats_and_a_random_one_does_not():
    with forked_rng(0, "starts"):
        module, fixed, random = SlotAttention(8, 6).eval(), FixedSlots(4, 8).eval(), GaussianSlots(4, 8).eval()
    tokens = drawn(3, 11, 6).float()
    assert torch.equal(module(tokens, fixed(3)).slots, module(tokens, fixed(3)).slots)
    assert (module(tokens, random(3)).slots - module(tokens, random(3)).slots).abs().max() > 1e-3
    again = [module(tokens, random(3, torch_stream(7, "noise"))).slots for _ in range(2)]
    assert torch.equal(*again)
    assert (fixed.slots - fixed.slots[:1])[1:].abs().sum(dim=1).min() > 0                         # rows differ


def test_gaussian_starts():
    shared, own = GaussianSlots(4, 16), GaussianSlots(4, 16, shared=False)
    assert shared.mean.shape == shared.log_std.shape == (1, 16) and own.mean.shape == (4, 16)
    assert (own.log_std.exp() - 0.25).abs().max() < 1e-6 and shared.log_std.abs().max() > 0
    cold = GaussianSlots(4, 16, init="zeros")
    drawn_slots = cold(500, torch_stream(0, "cold"))
    assert abs(drawn_slots.mean()) < 0.02 and abs(drawn_slots.std() - 1) < 0.02
    assert shared(2, n_slots=7).shape == (2, 7, 16)
    with pytest.raises(ValueError, match="n_slots must be 4, one mean a slot; got 7: use shared=True"):
        own(2, n_slots=7)
    quiet = GaussianSlots(4, 16, shared=False, noise_in_evaluation=False)
    assert not torch.equal(quiet(2), quiet(2)) and torch.equal(quiet.eval()(2), quiet.mean.expand(2, 4, 16))
    shared(2).square().sum().backward()
    assert shared.mean.grad.abs().min() > 0 and shared.log_std.grad.abs().min() > 0               # reparameterised
    with pytest.raises(ValueError, match="init must be one of 'xavier', 'zeros'"):
        GaussianSlots(4, 16, init="normal")


# ---- against others

def test_equals_lucidrains(backend):
    peer_module = pytest.importorskip("slot_attention", reason="bench extra: slot-attention is not installed")
    with forked_rng(0, "peer"):
        peer = peer_module.SlotAttention(4, 8, iters=3, hidden_dim=16).double()
    ours = build(SlotAttention, dict(qkv_bias=True, mlp_dim=16), token_dim=8)
    pairs = {"competition.to_q": "to_q", "competition.to_k": "to_k", "competition.to_v": "to_v", "competition.norm_tokens": "norm_input",
             "norm_slots": "norm_slots", "update.gru": "gru", "update.norm": "norm_pre_ff", "update.mlp.0": "mlp.0", "update.mlp.3": "mlp.2"}
    for mine, theirs in pairs.items():
        peer.get_submodule(theirs).load_state_dict(ours.get_submodule(mine).state_dict())
    tokens, ours.backend = drawn(2, 11, 8), backend
    with forked_rng(0, "noise"):
        expected = peer(tokens)
    with forked_rng(0, "noise"):
        queries = peer.slots_mu + peer.slots_logsigma.exp() * torch.randn(2, 4, 8, dtype=torch.float64)
    assert (ours(tokens, queries).slots - expected).abs().max() < 1e-10


def test_inverted_attention_by_hand(backend):
    "Slot by slot and head by head, from the equations."
    module, tokens, slots = build(InvertedAttention, dict(n_heads=2)), drawn(1, 5, 6), drawn(1, 3, 8)
    module.backend, its = backend, module.competition
    normed = its.norm_tokens(module.project(tokens[0]))
    queries, keys, values = its.to_q(module.norm_slots(slots[0])), its.to_k(normed), its.to_v(normed)
    heads = [slice(0, 4), slice(4, 8)]
    scores = torch.stack([queries[:, h] @ keys[:, h].T / 2 for h in heads])                       # H K N
    shares = scores.exp() / scores.exp().sum(dim=(0, 1))
    read = [shares[i] / (shares[i].sum(dim=1, keepdim=True) + 1e-5) @ values[:, h] for i, h in enumerate(heads)]
    out = module(tokens, slots)
    assert (out.slots[0] - (slots[0] + module.to_out(torch.cat(read, dim=1)))).abs().max() < 1e-12
    assert (out.masks[0] - shares.sum(dim=0)).abs().max() < 1e-12


def test_parameters_counted():
    count = lambda module: sum(p.numel() for p in module.parameters())
    assert count(SlotAttention(32)) == 192 + 3_072 + 6_336 + 8_352                               # SlotFM, section 2.2 of Table 6's count
    assert count(SlotAttention(256, 384, activation="gelu")) == 768 + 65_536 + 2 * 98_304 + 512 + 394_752 + 512 + 525_568
    zeroed = SlotAttention(8, zero_bias=True, qkv_bias=True)
    assert all((p == 0).all() for name, p in zeroed.named_parameters() if "bias" in name)
    assert isinstance(SlotAttention(8, activation="gelu").update.mlp[1], nn.GELU) and SlotAttention(8, dropout=0.01).update.mlp[2].p == 0.01


# ---- bad input

@pytest.mark.parametrize("build_it, said", [
    (lambda: SlotAttention(8, n_iters=0), "n_iters must be at least 1; got 0"),
    (lambda: SlotAttention(8, activation="tanh"), "activation must be one of 'relu', 'gelu'; got 'tanh'"),
    (lambda: SlotAttention(8, eps_in="both"), "eps_in must be one of 'numerator', 'denominator'"),
    (lambda: SlotAttention(8, n_heads=3), "slot_dim must be a multiple of n_heads; got 8 and 3"),
])
def test_bad_settings(build_it, said):
    with pytest.raises(ValueError, match=said):
        build_it()


@pytest.mark.parametrize("tokens, queries, call, said", [
    ((2, 11, 7), (2, 4, 8), {}, "tokens must be .B, N, 6.; got .2, 11, 7.: was token_dim given"),
    ((11, 6), (2, 4, 8), {}, "tokens must be .B, N, 6."),
    ((2, 11, 6), (2, 4, 9), {}, "queries must be .2, K, 8."),
    ((2, 11, 6), (4, 8), {}, "queries must be .2, K, 8."),
    ((2, 11, 6), (3, 4, 8), {}, "queries must be .2, K, 8."),
    ((2, 11, 6), (2, 4, 8), dict(n_iters=0), "n_iters must be at least 1; got 0"),
    ((2, 11, 6), (2, 4, 8), dict(token_mask=torch.ones(2, 10, dtype=torch.bool)), "token_mask must be .2, 11."),
    ((2, 11, 6), (2, 4, 8), dict(slot_mask=torch.zeros(2, 4, dtype=torch.bool)), "slot_mask must keep at least one entry"),
    ((2, 11, 6), (2, 4, 8), dict(token_mask=torch.zeros(2, 11, dtype=torch.bool)), "token_mask must keep at least one entry"),
])
def test_bad_calls(plain_calls, tokens, queries, call, said):
    with pytest.raises(ValueError, match=said):
        SlotAttention(8, 6)(torch.zeros(tokens), torch.zeros(queries), **call)


def test_bad_calls_of_inverted_attention(plain_calls):
    module = InvertedAttention(8, 6)
    with pytest.raises(ValueError, match="tokens must be .B, N, 6."):
        module(torch.zeros(2, 11, 7), torch.zeros(2, 4, 8))
    with pytest.raises(ValueError, match="slots must be .2, K, 8."):
        module(torch.zeros(2, 11, 6), torch.zeros(2, 4, 9))


def test_the_function_alone():
    "Every entry of its Jacobian; the modules above are checked along random directions."
    rows, shift, tokens = drawn(2, 3, 4).requires_grad_(), drawn(2, 3).requires_grad_(), drawn(2, 5, 4).requires_grad_()
    for padding in (None, PADDING[:, 4:9]):
        assert torch.autograd.gradcheck(FoldedCompetition.apply, (rows, shift, tokens, padding))
        assert torch.autograd.gradgradcheck(FoldedCompetition.apply, (rows, shift, tokens, padding))
