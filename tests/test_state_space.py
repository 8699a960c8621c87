"The selective scan and the Mamba block: every formulation against the loop, state in and out, closed forms, bad input."
import itertools
import math

import pytest
import torch
from torch.nn import functional

from slotpapers.blocks.state_space import (DISCRETIZATIONS, MambaBlock, MambaState, choose_scan, draw_steps, expm1_over,
                                           inverse_softplus, loop_scan, selective_scan)
from slotpapers.core.seeds import forked_rng, torch_stream

NAMES = ("u", "dt", "A", "B", "C", "D", "state")


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


def run(module, *parts):
    "Outputs of consecutive calls side by side, and the last state."
    outputs, state = [], None
    for part in parts:
        y, state = module(part, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


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
        ("backend", "fastest", "backend must be one of 'auto', 'loop'"),
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
