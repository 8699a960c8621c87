"""The selective scan: forward and backward against mambapy, unmodified, and against a plain loop.

    python benchmarks/selective_scan.py [--allocator no-mmap]

* `mambapy 1.2.0`: its parallel scan, called as its Mamba block calls it: decays and inputs made for all steps, scanned,
  multiplied by C.
* `plain loop`: decays and inputs made for all steps, then a loop that picks step i out of them by its index. Written here, in
  the manner of the reference function of Mamba's repository and of other packages' CPU paths. Picking by index makes its
  gradient quadratic in the length: a tensor of zeros as long as the sequence is added up for every step.
* `loop`, `chunk`: ours. `loop` is the twin that our tests hold everything against.

* `compiled`: `chunk` with each chunk fused by torch.compile; the time of compiling, a minute or so, is not in the table.

Everything gets the same u, dt, A, B and C, all of which want a gradient; the step D * u, equal for all, is left out. Reported as
well: the time of `chunk` for twice the length, and its error against float64 with dt |A| up to 20,000. Peak memory is measured
where all that counts is in large blocks; what a loop over small steps keeps comes from the heap, where `measure` cannot see it.
"""
import os

import torch

import measure
from slotpapers.blocks.state_space import selective_scan

PEER = "mambapy 1.2.0"
MISSING = measure.left_out("mambapy")


def drawn(B, L, E, S, longest=0.1, dtype=torch.float32):
    "u, dt, A, B, C and a state, the rates as Mamba starts them, the steps log-uniform over four orders of magnitude."
    g = torch.Generator().manual_seed(0)
    dt = longest * 1e-4 ** torch.rand(B, L, E, generator=g)
    dt.view(-1)[0] = longest
    A = -torch.arange(1.0, S + 1).repeat(E, 1)
    u, B_, C, state = (torch.randn(size, generator=g) for size in [(B, L, E), (B, L, S), (B, L, S), (B, E, S)])
    return [x.to(dtype) for x in (u, dt, A, B_, C, state)]


def by_mambapy(u, dt, A, B, C):
    from mambapy.pscan import pscan
    decay = torch.exp(dt.unsqueeze(-1) * A)
    states = pscan(decay, (dt.unsqueeze(-1) * B.unsqueeze(2)) * u.unsqueeze(-1))
    return (states @ C.unsqueeze(-1)).squeeze(3)


def by_plain_loop(u, dt, A, B, C):
    decay = torch.exp(torch.einsum("ble,es->bels", dt, A))
    inputs = torch.einsum("ble,bls,ble->bels", dt, B, u)
    state, outputs = torch.zeros_like(decay[:, :, 0]), []
    for i in range(u.shape[1]):
        state = decay[:, :, i] * state + inputs[:, :, i]
        outputs.append(torch.einsum("bes,bs->be", state, C[:, i]))
    return torch.stack(outputs, dim=1)


def ours(backend, discretization="mamba"):
    return lambda *inputs: selective_scan(*inputs, backend=backend, discretization=discretization)[0]


CANDIDATES = {PEER: by_mambapy, "plain loop": by_plain_loop, "loop": ours("loop"), "chunk": ours("chunk"), "chunk, exact gain": ours("chunk", "zoh"),
              "compiled": ours("compiled")}


def candidates(names, shape, backward=True):
    *inputs, _ = drawn(*shape)
    inputs = [x.requires_grad_(backward) for x in inputs]
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))

    def step(scan):
        if not backward:
            with torch.no_grad():
                scan(*inputs)
            return
        scan(*inputs).backward(weight)
        for x in inputs:
            x.grad = None

    return {name: (lambda scan=CANDIDATES[name]: step(scan)) for name in names if name != PEER or not MISSING}


def growth(shape, rounds=7):
    "Time of `chunk` for twice the length over the time for the length: median of ratios, the two taking turns."
    B, L, E, S = shape
    calls = {"once": candidates(["chunk"], shape)["chunk"], "twice": candidates(["chunk"], (B, 2 * L, E, S))["chunk"]}
    ratio = round(1 / measure.summary(measure.take_turns(calls, rounds), "once")["twice"]["ratio"], 3)
    return {"time for twice the length": ratio, "goal for the growth": {"at most": 2.3, "met": ratio <= 2.3}}


def error(largest, discretization, shape=(3, 80, 16, 16)):
    "Largest relative norm of `chunk` in float32 against our loop in float64, over outputs, last state and all gradients, the state's too."
    found = []
    for dtype, backend in ((torch.float64, "loop"), (torch.float32, "chunk")):
        *inputs, state = [x.to(dtype).requires_grad_() for x in drawn(*shape, longest=largest / 16)]
        y, last = selective_scan(*inputs, state=state, backend=backend, discretization=discretization)
        g = torch.Generator().manual_seed(1)
        by = [torch.randn(x.shape, generator=g).to(dtype) for x in (y, last)]
        found.append([y, last, *torch.autograd.grad((y, last), [*inputs, state], by)])
    exact, ours = found
    if not all(x.isfinite().all() for x in ours):
        return float("inf")
    return max(((a - b).norm() / a.norm()).item() for a, b in zip(exact, ours))


def errors():
    table = {f"relative error, dt |A| up to {largest}, {how}": float(f"{error(largest, how):.2e}")
             for how in ("mamba", "zoh") for largest in (20, 200, 2000, 20000)}
    return table | {"goal for the error": {"at most": 2e-6, "met": max(table.values()) <= 2e-6}}


def case(shape, names, baseline=PEER, backward=True, goals=None, memory=None, facts=None, peak=True):
    words = f"(B, L, E, S) = {shape}, {'forward and backward' if backward else 'forward alone'}"
    return measure.Case(lambda: candidates(names, shape, backward), baseline, words, goals=goals or {}, memory_goals=memory or {}, facts=facts, peak=peak)


TIMES = 2.5 if os.environ.get("MALLOC_MMAP_MAX_") == "0" else 5.0     # the goal depends on the allocator: `measure` says why
CASES = {
    "long": case((12, 640, 80, 16), [PEER, "chunk", "chunk, exact gain"], goals={"chunk": TIMES}, memory={"chunk": 0.2},
                 facts=lambda: growth((12, 640, 80, 16)) | errors()),
    "short": case((48, 80, 80, 16), [PEER, "loop", "chunk"], memory={"chunk": 0.2}, facts=lambda: growth((48, 80, 80, 16))),
    "short, plain loop": case((48, 80, 80, 16), ["plain loop", "chunk"], baseline="plain loop", goals={"chunk": 10.0}, peak=False),
    "long, plain loop": case((3, 640, 80, 16), ["plain loop", "chunk"], baseline="plain loop", goals={"chunk": 50.0}, peak=False),
    "many sequences": case((264, 6, 240, 16), [PEER, "loop", "chunk"], peak=False),
    "one short sequence": case((1, 16, 80, 16), [PEER, "plain loop", "loop", "chunk"], peak=False),
    "one step of streaming": case((6, 1, 80, 16), ["loop", "chunk"], baseline="loop", backward=False, peak=False),
    "long, forward": case((12, 640, 80, 16), [PEER, "loop", "chunk"], backward=False, peak=False),
    "long, ours": case((12, 640, 80, 16), ["loop", "chunk", "compiled"], baseline="loop", peak=False),
}

if __name__ == "__main__":
    measure.run(__file__, CASES, peers=("mambapy",), missing=MISSING)
