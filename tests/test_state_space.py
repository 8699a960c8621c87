"The selective scan and the Mamba block: every formulation against the loop, state in and out, closed forms, bad input."
import copy
import importlib.util
import itertools
import math
import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from torch.nn import functional

from slotpapers.blocks import state_space_fast
from slotpapers.blocks.state_space import (BACKENDS, DISCRETIZATIONS, MambaBlock, MambaState, choose_scan, discretize, draw_steps,
                                           expm1_over, loop_scan, selective_scan)
from slotpapers.core.seeds import forked_rng, torch_stream

def drawn(*path, B=2, L=21, E=5, S=3, dtype=torch.float64):
    "Arguments of a scan by name; rates from mild to fast."
    g = torch_stream(0, "test_state_space", *path)
    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
    return dict(u=normal(B, L, E), dt=functional.softplus(normal(B, L, E) - 1), A=-torch.exp(normal(E, S)), B=normal(B, L, S),
                C=normal(B, L, S), D=normal(E), state=normal(B, E, S))


def block(*path, dim=8, **options):
    with forked_rng(0, "test_state_space", *path):
        return MambaBlock(dim, **options)


def everything(arguments, *path, without=(), **options):
    "Outputs, last state, and the gradients of a loss that looks at both, by name."
    given = {name: x.clone().requires_grad_() for name, x in arguments.items() if name not in without}
    y, last = selective_scan(**given, **options)
    loss = 0.0
    for name, part in (("y", y), ("last", last)):
        loss = loss + (part * torch.randn(part.shape, generator=torch_stream(0, "loss", name), dtype=torch.float64).to(part.dtype)).sum()
    gradients = torch.autograd.grad(loss, list(given.values()), materialize_grads=True)
    return {"y": y.detach(), "last": last.detach()} | {"by " + name: g for name, g in zip(given, gradients)}


def assert_equal(one, other, tolerance):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].shape == other[name].shape and one[name].dtype == other[name].dtype, name
        if one[name].numel():
            assert (one[name] - other[name]).abs().max() <= tolerance * (1 + one[name].abs().max()), name


def relative(one, exact):
    return ((one.double() - exact).norm() / exact.norm()).item()


def run(module, *parts):
    "Outputs of consecutive calls side by side, and the last state."
    outputs, state = [], None
    for part in parts:
        y, state = module(part, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


# ---- every formulation is the loop

@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("without", [(), ("D",), ("state",), ("D", "state")], ids=lambda w: "without " + " ".join(w) if w else "all")
@pytest.mark.parametrize("L, buffer", [(0, 2 ** 18), (1, 2 ** 18), (3, 2 ** 18), (16, 1), (17, 1), (37, 1), (64, 2 ** 18), (150, 2 ** 18), (50, 30 * 20)])
def test_chunks_are_the_loop(discretization, without, L, buffer, monkeypatch):
    "Chunks of 16 steps with the smallest buffer, of 64 with the usual one, and of 20."
    monkeypatch.setattr(state_space_fast, "BUFFER", buffer)
    arguments, options = drawn(L=L), dict(discretization=discretization, without=without)
    assert_equal(everything(arguments, backend="loop", **options), everything(arguments, backend="chunk", **options), 1e-10)


@pytest.mark.parametrize("B, E, S, buffer", [(5, 4, 3, 16 * 24), (5, 4, 3, 1), (1, 1, 1, 2 ** 18), (0, 4, 3, 2 ** 18), (3, 1, 5, 2 ** 18), (3, 7, 1, 16 * 14)])
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_blocks_of_rows_of_any_size(B, E, S, buffer, discretization, monkeypatch):
    monkeypatch.setattr(state_space_fast, "BUFFER", buffer)
    arguments, options = drawn(B=B, E=E, S=S, L=18), dict(discretization=discretization)
    assert_equal(everything(arguments, backend="loop", **options), everything(arguments, backend="chunk", **options), 1e-10)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_inputs_that_are_not_contiguous(discretization):
    arguments = drawn(B=3, L=20)
    strange = {"u": arguments["u"].mT.contiguous().mT, "dt": arguments["dt"][:1, :, :1].expand(3, 20, 5), "A": arguments["A"].T.contiguous().T,
               "B": torch.cat([arguments["B"]] * 2, dim=-1)[..., ::2], "C": arguments["C"].flip(0).transpose(0, 1).contiguous().transpose(0, 1),
               "D": arguments["D"][:1].expand(5), "state": arguments["state"].mT.contiguous().mT}
    assert not any(x.is_contiguous() for x in strange.values())
    plain = {name: x.contiguous() for name, x in strange.items()}
    for backend in ("loop", "chunk"):
        y, last = selective_scan(**strange, backend=backend, discretization=discretization)
        other = selective_scan(**plain, backend="loop", discretization=discretization)
        assert (y - other[0]).abs().max() < 1e-12 and (last - other[1]).abs().max() < 1e-12
    leaf = {name: x.detach().requires_grad_() for name, x in strange.items()}
    found = [torch.autograd.grad(sum(part.square().sum() for part in selective_scan(**leaf, backend=backend, discretization=discretization)), list(leaf.values()))
             for backend in ("loop", "chunk")]
    assert all((a - b).abs().max() < 1e-9 * (1 + a.abs().max()) for a, b in zip(*found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_lower_precision(dtype, discretization):
    "The scan is float32: what comes in is rounded, and what goes out, and nothing between."
    arguments = {name: x.to(dtype) for name, x in drawn(L=40, dtype=dtype).items()}
    found = [everything(arguments, backend=backend, discretization=discretization) for backend in ("loop", "chunk")]
    exact = everything({name: x.double() for name, x in arguments.items()}, backend="loop", discretization=discretization)
    assert found[1]["y"].dtype == dtype and found[1]["last"].dtype == torch.float32 and found[1]["by A"].dtype == dtype
    rounding = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}[dtype]
    for one in found:
        assert max(relative(one[name], exact[name]) for name in exact) < rounding
    assert relative(found[1]["last"], exact["last"]) < 1e-6                                 # not rounded


@pytest.mark.parametrize("backend", ["loop", "chunk"])
def test_under_autocast_the_scan_is_float32(backend):
    arguments = drawn(L=40, dtype=torch.float32)
    plain = everything(arguments, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        if backend == "loop":                              # its gradient is autograd's, which inside would be in bfloat16
            assert all(a.equal(b) for a, b in zip(selective_scan(**arguments, backend=backend), plain.values()))
        else:
            assert_equal(plain, everything(arguments, backend=backend), 0.0)
    module, x = block(backend=backend), torch.randn(2, 40, 8, generator=torch_stream(0, "x"))
    whole = module(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y, state = module(x)
        assert y.dtype == torch.bfloat16 and state.ssm.dtype == torch.float32 and relative(y, whole.double()) < 0.03
        later, _ = run(module, x[:, :2], x[:, 2:])
        assert relative(later, whole.double()) < 0.03
        y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in module.parameters())


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_gradients_by_finite_differences(discretization):
    names, inputs = zip(*drawn(B=1, L=3, E=2, S=2).items())
    inputs = [x.requires_grad_() for x in inputs]
    def scan(*inputs):
        return selective_scan(**dict(zip(names, inputs)), backend="chunk", discretization=discretization)
    assert torch.autograd.gradcheck(scan, inputs)
    assert torch.autograd.gradgradcheck(scan, inputs)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_a_gradient_to_be_differentiated_is_the_same_gradient(discretization):
    "It is formed by another way, through the loop."
    arguments, found = drawn(L=20), []
    given = {name: x.clone().requires_grad_() for name, x in arguments.items()}
    for create_graph in (False, True):
        y, last = selective_scan(**given, backend="chunk", discretization=discretization)
        found.append(torch.autograd.grad(y.square().sum() + last.sin().sum(), list(given.values()), create_graph=create_graph))
    assert all((a - b).abs().max() < 1e-10 * (1 + a.abs().max()) for a, b in zip(*found))
    assert found[1][0].requires_grad and not found[0][0].requires_grad


@pytest.mark.parametrize("looked_at", [0, 1])
def test_each_output_alone_has_the_right_gradient(looked_at):
    arguments, found = drawn(), []
    for backend in ("loop", "chunk"):
        given = {name: x.clone().requires_grad_() for name, x in arguments.items()}
        out = selective_scan(**given, backend=backend)[looked_at]
        found.append(torch.autograd.grad(out.square().sum(), list(given.values()), allow_unused=True))
    for slow, fast in zip(*found):
        assert fast is None and slow is None or (fast - (0 if slow is None else slow)).abs().max() < 1e-10


def test_functional_and_repeated_gradients():
    arguments, found = drawn(), []
    rest = {name: x for name, x in arguments.items() if name != "dt"}
    for backend in ("loop", "chunk"):
        loss = lambda dt: selective_scan(dt=dt, **rest, backend=backend)[0].square().sum()
        found.append(torch.func.grad(loss)(arguments["dt"]))
        dt = arguments["dt"].clone().requires_grad_()
        kept = loss(dt)
        first, second = (torch.autograd.grad(kept, dt, retain_graph=True)[0] for _ in range(2))
        assert first.equal(second) and (first - found[-1]).abs().max() < 1e-10
    assert (found[0] - found[1]).abs().max() < 1e-10


@pytest.mark.parametrize("backend", ["loop", "chunk"])
def test_gradients_pass_through_the_carried_state(backend, monkeypatch):
    "Two halves with the state handed on have the gradients of the whole."
    monkeypatch.setattr(state_space_fast, "BUFFER", 1)
    arguments, found = drawn(L=30), []
    for cuts in ([30], [13, 17], [1, 29]):
        given = {name: x.clone().requires_grad_() for name, x in arguments.items()}
        state, loss, at = given["state"], 0.0, 0
        for n in cuts:
            parts = {name: given[name][:, at:at + n] for name in ("u", "dt", "B", "C")}
            y, state = selective_scan(**parts, A=given["A"], D=given["D"], state=state, backend=backend)
            loss, at = loss + y.square().sum(), at + n
        found.append(torch.autograd.grad(loss + state.sin().sum(), list(given.values())))
    for other in found[1:]:
        assert all((a - b).abs().max() < 1e-10 * (1 + a.abs().max()) for a, b in zip(found[0], other))


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("largest", [20.0, 200.0, 2000.0, 20000.0])
@pytest.mark.parametrize("backend", ["loop", "chunk"])
def test_the_stiff_range(backend, largest, discretization):
    "dt |A| up to 20,000, in float32: finite and right, gradients too, also through the carried state."
    arguments = drawn("stiff", B=3, L=80, E=16, S=16, dtype=torch.float32)
    arguments["A"] = -torch.arange(1.0, 17).repeat(16, 1)
    spread = torch.rand(3, 80, 16, generator=torch_stream(0, "spread"))
    arguments["dt"] = largest / 16 * (1e-4 ** spread)                    # from 1e-4 of the largest up
    arguments["dt"][0, 40, 0] = largest / 16
    assert (arguments["dt"][..., None] * arguments["A"]).abs().max() == pytest.approx(largest)
    exact = everything({name: x.double() for name, x in arguments.items()}, backend="loop", discretization=discretization)
    found = everything(arguments, backend=backend, discretization=discretization)
    for name in exact:
        assert found[name].isfinite().all(), name
        assert relative(found[name], exact[name]) < 2e-6, name


# ---- the equations

@pytest.mark.parametrize("backend", ["loop", "chunk"])
@pytest.mark.parametrize("step, rate", [(0.1, -1.0), (0.5, -7.0), (3.0, -0.01), (1e-3, -16.0), (50.0, -30.0)])
def test_constant_input_has_a_closed_form(backend, step, rate):
    one, t = torch.ones(1, 50, 1, dtype=torch.float64), torch.arange(1, 51, dtype=torch.float64)
    given = dict(u=2 * one, dt=step * one, A=rate * one[0, :1], B=one, C=one)
    exact = 2 * torch.expm1(step * rate * t) / rate
    euler = 2 * step * torch.expm1(step * rate * t) / math.expm1(step * rate)
    for discretization, expected in (("zoh", exact), ("mamba", euler)):
        y, last = selective_scan(**given, backend=backend, discretization=discretization)
        assert torch.allclose(y.flatten(), expected, rtol=1e-12) and torch.allclose(last.flatten(), expected[-1:], rtol=1e-12)


@pytest.mark.parametrize("backend", ["loop", "chunk"])
def test_the_exact_gain_tends_to_the_first_order(backend):
    "A rate of zero, and next to zero: no memory is lost, and the gain is the step, with its slope half the square of the step."
    arguments = drawn(L=9)
    for rate in (0.0, -1e-30, -1e-12):
        arguments["A"] = torch.full((5, 3), rate, dtype=torch.float64)
        exact, euler = (everything(arguments, backend=backend, discretization=how) for how in ("zoh", "mamba"))
        assert_equal({name: exact[name] for name in exact if name != "by A"}, {name: euler[name] for name in euler if name != "by A"}, 1e-9)
    steps, rates = torch.full((1,), 0.2, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(discretize(steps, rates, "zoh")[1].sum(), rates)
    assert slope.item() == pytest.approx(0.02, rel=1e-14)


def test_quotient_keeps_its_digits_on_both_sides_of_the_series():
    z = torch.cat([-torch.logspace(-12, 4, 200, dtype=torch.float64), torch.tensor([-0.3, -0.2999999, 0.0], dtype=torch.float64)])
    exact = torch.tensor([math.expm1(x) / x if x else 1.0 for x in z.tolist()], dtype=torch.float64)
    assert torch.allclose(expm1_over(z), exact, rtol=1e-14) and torch.allclose(expm1_over(z.float()).double(), exact, rtol=3e-7)


@pytest.mark.parametrize("backend", ["loop", "chunk"])
def test_a_step_of_length_zero_is_no_step(backend):
    arguments = drawn(L=20)
    arguments["dt"] = arguments["dt"].clone()
    arguments["dt"][:, 12:] = 0
    short = {name: x[:, :12] if x.ndim == 3 and x.shape[1] == 20 else x for name, x in arguments.items()}
    for discretization in DISCRETIZATIONS:
        last, expected = (selective_scan(**one, backend=backend, discretization=discretization)[1] for one in (arguments, short))
        assert (last - expected).abs().max() < 1e-13


@pytest.mark.parametrize("backend", ["loop", "chunk"])
def test_scan_is_causal_and_rows_do_not_mix(backend):
    arguments = drawn(B=3, L=30)
    y, _ = selective_scan(**arguments, backend=backend)
    for name in ("u", "dt", "B", "C"):
        changed = arguments | {name: arguments[name].clone()}
        changed[name][1, 20] += 0.5
        z, _ = selective_scan(**changed, backend=backend)
        assert z[1, :20].equal(y[1, :20]) and z[[0, 2]].equal(y[[0, 2]]) and (z[1, 20] != y[1, 20]).all()


# ---- which formulation runs

def test_auto_is_chunks_and_the_loop_while_exporting(monkeypatch):
    assert choose_scan("auto") == "chunk" and all(choose_scan(name) == name for name in BACKENDS[1:])
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert choose_scan("auto") == "loop" and choose_scan("chunk") == "chunk"


def test_auto_is_the_fast_path_to_the_bit():
    arguments = drawn()
    assert selective_scan(**arguments)[0].equal(selective_scan(**arguments, backend="chunk")[0])


def test_plan():
    from slotpapers.blocks.state_space_fast import BUFFER, CHUNK, plan
    for n_rows, n_steps, size, split, chunk in itertools.product((0, 1, 3, 13, 48), (0, 1, 16, 100), (1, 1280, 2 ** 20), (True, False), (None, 8)):
        blocks, chunks = plan(n_rows, n_steps, size, split, chunk)
        assert [i for part in blocks for i in range(part.start, part.stop)] == list(range(n_rows))
        assert [i for part in chunks for i in range(part.start, part.stop)] == list(range(n_steps))
        assert len(blocks) <= 1 or split
        if blocks and chunks and split:
            rows, steps = (max(part.stop - part.start for part in parts) for parts in (blocks, chunks))
            assert rows == 1 or rows * steps * size <= BUFFER
            assert steps <= (chunk or 4 * CHUNK) and (chunk or steps >= min(CHUNK, n_steps))


def test_without_gradients_nothing_is_kept(monkeypatch):
    kept, original = [], state_space_fast.scan_forward
    def watched(*arguments):
        out = original(*arguments)
        kept.append(len(out[2]))
        return out
    monkeypatch.setattr(state_space_fast, "scan_forward", watched)
    monkeypatch.setattr(state_space_fast, "BUFFER", 1)
    arguments = drawn(L=40)
    selective_scan(**arguments)
    arguments["A"].requires_grad_()
    selective_scan(**arguments)
    with torch.no_grad():
        selective_scan(**arguments)
    assert kept == [0, 3, 0]


def kernels(calls):
    "A stand-in for the package mamba_ssm: its signature and its layout (B, E, L), computed by the loop."
    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
        calls.append(u.shape)
        assert D is None and z is None and delta_bias is None and not delta_softplus and return_last_state
        u, delta, B, C = (x.mT for x in (u, delta, B, C))
        y, last = loop_scan(u, delta, A, B, C, torch.zeros(len(u), *A.shape, dtype=u.dtype))
        return y.mT, last
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    return {"mamba_ssm": ModuleType("mamba_ssm"), "mamba_ssm.ops": ModuleType("mamba_ssm.ops"), interface.__name__: interface}


def test_mamba_ssm_where_it_is_installed(monkeypatch):
    calls = []
    for name, module in kernels(calls).items():
        monkeypatch.setitem(sys.modules, name, module)
    arguments = drawn(L=20)
    state = arguments.pop("state")
    ours, theirs = (selective_scan(**arguments, backend=backend) for backend in ("chunk", "mamba_ssm"))
    assert calls == [(2, 5, 20)] and all((a - b).abs().max() < 1e-12 for a, b in zip(ours, theirs))
    with pytest.raises(ValueError, match="starts from zeros .* got a state to start from: use backend='auto'"):
        selective_scan(**arguments, state=state, backend="mamba_ssm")
    with pytest.raises(ValueError, match="got discretization='zoh'"):
        selective_scan(**arguments, backend="mamba_ssm", discretization="zoh")
    module, x = block(backend="mamba_ssm"), torch.randn(2, 7, 8, generator=torch_stream(0, "x"))
    y, last = module(x)
    module.backend = "chunk"
    assert torch.allclose(y, module(x)[0], atol=1e-6) and not last.ssm.requires_grad


@pytest.mark.skipif(importlib.util.find_spec("mamba_ssm") is not None, reason="mamba_ssm is installed")
def test_mamba_ssm_where_it_is_not_installed():
    arguments = drawn()
    arguments.pop("state")
    with pytest.raises(ImportError, match="pip install mamba-ssm, or use backend='auto'"):
        selective_scan(**arguments, backend="mamba_ssm")


COMPILED = """
import torch
from slotpapers.blocks import state_space_fast
from slotpapers.blocks.state_space import MambaBlock, selective_scan

state_space_fast.CHUNK = 4                      # two steps to a compiled chunk: a small text, compiled quickly
g = torch.Generator().manual_seed(0)
normal = lambda *size: torch.randn(size, generator=g)
inputs, found = (normal(2, 5, 8), normal(2, 5, 8).exp(), -normal(8, 4).exp(), normal(2, 5, 4), normal(2, 5, 4), normal(8), normal(2, 8, 4)), []
for backend in ("loop", "compiled"):
    *given, state = [x.clone().requires_grad_() for x in inputs]
    out = selective_scan(*given, state=state, backend=backend)
    found.append([*out, *torch.autograd.grad(out[0].square().sum() + out[1].sin().sum(), [*given, state])])
assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*found))

module, x = MambaBlock(8), torch.randn(2, 9, 8)  # a model under torch.compile steps around the scan
around = torch.compile(module, backend="eager")
assert torch.allclose(around(x)[0], module(x)[0], atol=1e-6)
around(x)[0].sum().backward()
"""


@pytest.mark.slow
def test_compiled_chunks_are_the_loop():
    "In a process of its own: the shape hook of these tests cannot be compiled. (The notebook checks the text of both gains uncompiled.)"
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]


# ---- the block

@pytest.mark.parametrize("dim, count", [(64, 20_400), (192, 157_200)])
def test_parameter_counts(dim, count):
    assert sum(p.numel() for p in MambaBlock(dim).parameters()) == count


def test_initial_ranges():
    module = block(dim=192)
    steps = functional.softplus(module.selection.dt_proj.bias)
    assert module.inner == 240 and module.selection.dt_proj.in_features == 12
    assert steps.min() >= 0.001 * (1 - 1e-3) and steps.max() <= 0.1 * (1 + 1e-3)
    assert 0.005 < steps.median() < 0.02                                             # log-uniform: the median is near 0.01
    assert torch.allclose(-module.A_log.exp(), -torch.arange(1.0, 17).expand(240, 16))
    assert (module.D == 1).all() and module.selection.dt_proj.weight.abs().max() <= 12 ** -0.5
    with forked_rng(0, "floor"):
        assert draw_steps(100, 1e-6, 1e-5).min() == pytest.approx(1e-4)


def test_time_constants_are_spared_from_weight_decay():
    from slotpapers.training.schedules import parameter_groups
    module = block()
    decayed, spared = ([id(p) for p in group["params"]] for group in parameter_groups(module, 0.1))
    assert {id(p) for p in (module.A_log, module.D, module.selection.dt_proj.bias)} <= set(spared)
    assert {id(p) for p in (module.in_proj.weight, module.selection.x_proj.weight, module.selection.dt_proj.weight, module.out_proj.weight)} <= set(decayed)


def test_a_copy_of_a_block_keeps_its_marks_and_numbers():
    module, x = block(), torch.randn(2, 5, 8, generator=torch_stream(0, "x"))
    again = copy.deepcopy(module)
    again.load_state_dict(module.state_dict())
    assert again(x)[0].equal(module(x)[0])
    assert [getattr(p, "_no_weight_decay", False) for p in again.parameters()] == [getattr(p, "_no_weight_decay", False) for p in module.parameters()]


@pytest.mark.parametrize("discretization, conv_width", list(itertools.product(DISCRETIZATIONS, (1, 2, 4, 6))))
def test_prefill_and_steps_are_one_pass_at_every_split(discretization, conv_width):
    module = block(discretization=discretization, conv_width=conv_width).double()
    x = torch.randn(2, 9, 8, generator=torch_stream(0, "x"), dtype=torch.float64)
    whole, last = module(x)
    for split in range(1, 9):
        stepped, state = run(module, x[:, :split], *x[:, split:].split(1, dim=1))
        halves, other = run(module, x[:, :split], x[:, split:])
        for y, end in ((stepped, state), (halves, other)):
            assert (y - whole).abs().max() < 1e-12
            assert all((a - b).abs().max() < 1e-12 for a, b in zip(end, last) if a.numel())
            assert [a.shape for a in end] == [a.shape for a in last]


def test_an_empty_call_changes_nothing():
    module = block()
    _, state = module(torch.ones(2, 3, 8))
    y, same = module(torch.ones(2, 0, 8), state)
    assert y.shape == (2, 0, 8) and all(a.equal(b) for a, b in zip(state, same))


def test_future_and_neighbours_do_not_matter():
    module, x = block().double(), torch.randn(3, 9, 8, generator=torch_stream(0, "x"), dtype=torch.float64)
    y, _ = module(x)
    changed = x.clone()
    changed[1, 5] += 1
    z, _ = module(changed)
    assert z[1, :5].equal(y[1, :5]) and not z[1, 5:].isclose(y[1, 5:]).any(dim=-1).all()
    assert z[[0, 2]].equal(y[[0, 2]])
    assert all((module(x[i:i + 1])[0] - y[i:i + 1]).abs().max() < 1e-12 for i in range(3))


def test_a_call_leaves_the_state_it_was_given_alone():
    module, x = block(), torch.randn(2, 5, 8, generator=torch_stream(0, "x"))
    _, state = module(x)
    kept = [part.clone() for part in state]
    with torch.no_grad():
        one, other = (module(x, state)[0] for _ in range(2))
    assert one.equal(other) and all(a.equal(b) for a, b in zip(state, kept))
    assert state.ssm.requires_grad and not state.detach().ssm.requires_grad and not state.detach().conv.requires_grad


def test_finite_and_bounded_over_4096_steps():
    module = block(dim=16)
    with torch.no_grad():
        y, state = module(torch.randn(1, 4096, 16, generator=torch_stream(0, "long")))
    assert y.isfinite().all() and state.ssm.abs().max() < 100


# ---- errors

def test_bad_arguments_are_named(plain_calls):
    good = drawn()
    for name, value, message in [
        ("u", torch.zeros(2, 21), r"u must be \(B, L, E\); got \(2, 21\)"),
        ("A", torch.zeros(4, 3), r"A must be \(5, S\); got \(4, 3\)"),
        ("dt", torch.zeros(2, 20, 5), r"dt must be \(2, 21, 5\); got \(2, 20, 5\)"),
        ("B", torch.zeros(2, 21, 4), r"B must be \(2, 21, 3\)"),
        ("C", torch.zeros(2, 21, 4), r"C must be \(2, 21, 3\)"),
        ("D", torch.zeros(4), r"D must be \(5\); got \(4,\)"),
        ("state", torch.zeros(1, 5, 3), r"state must be \(2, 5, 3\); got \(1, 5, 3\): does it come from another batch"),
        ("backend", "fastest", "backend must be one of 'auto', 'loop', 'chunk', 'compiled', 'mamba_ssm'; got 'fastest'"),
        ("discretization", "euler", "discretization must be one of 'mamba', 'zoh'; got 'euler'"),
    ]:
        with pytest.raises(ValueError, match=message):
            selective_scan(**(good | {name: value}))


def test_bad_blocks_and_inputs_are_named(plain_calls):
    for options, message in [(dict(expand=0.01), "at least 1"), (dict(conv_width=0), "at least 1"), (dict(backend="x"), "backend must be one of"),
                             (dict(discretization="x"), "discretization must be one of")]:
        with pytest.raises(ValueError, match=message):
            MambaBlock(8, **options)
    module = MambaBlock(8)
    with pytest.raises(ValueError, match=r"x must be \(B, L, 8\); got \(2, 3, 7\): was dim given"):
        module(torch.zeros(2, 3, 7))
    with pytest.raises(ValueError, match=r"state.ssm must be \(2, 10, 16\); got \(3, 10, 16\)"):
        module(torch.zeros(2, 3, 8), MambaState(torch.zeros(2, 10, 3), torch.zeros(3, 10, 16)))
    with pytest.raises(ValueError, match=r"state.conv must be \(2, 10, 3\); got \(2, 10, 4\)"):
        module(torch.zeros(2, 3, 8), MambaState(torch.zeros(2, 10, 4), torch.zeros(2, 10, 16)))
