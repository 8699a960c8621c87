"""Slot attention: forward and backward against the package `slot-attention` (lucidrains), unmodified.

    python benchmarks/slot_attention.py [--allocator no-mmap]

Compared are whole modules at three rounds: noise for the start, norms, competition, recurrent unit and MLP. The peer is
called with its default arguments; it has biases in queries, keys and values (ours by default has none, as in the
original) and a hidden width of max(D, 128), which ours is given here too. `textbook` and `fast` are our two formulations of the
same numbers. Two rows have no peer: SmoothSA's and SlotSSM's variants, which the package does not offer.
"""
import torch

import measure
from slotpapers.blocks.slot_attention import GaussianSlots, InvertedAttention, SlotAttention

PEER = "lucidrains 1.5.2"
MISSING = measure.left_out("slot_attention")


def forward_and_backward(call, tokens, modules):
    def step():
        call().sum().backward()
        tokens.grad = None               # here and not before, so that no gradient of the last step is freed during this one
        for module in modules:
            module.zero_grad()
    return step


def forward_alone(call):
    def step():
        with torch.no_grad():
            call()
    return step


def against_the_peer(B, N, D, K, backward=True):
    "Candidates at one shape: the peer, our textbook, our fast path."
    torch.manual_seed(0)
    tokens, calls = torch.randn(B, N, D, requires_grad=backward), {}
    if not MISSING:
        from slot_attention import SlotAttention as Peer
        peer = Peer(num_slots=K, dim=D)
        calls[PEER] = (lambda: peer(tokens)), [peer]
    for backend in ("textbook", "fast"):
        start, ours = GaussianSlots(K, D), SlotAttention(D, mlp_dim=max(D, 128), backend=backend)
        calls[backend] = (lambda start=start, ours=ours: ours(tokens, start(B)).slots), [start, ours]
    return {name: forward_and_backward(call, tokens, modules) if backward else forward_alone(call) for name, (call, modules) in calls.items()}


def variant(kind, B, N, D, K, C=None, **options):
    "Our two formulations of a variant, forward and backward."
    torch.manual_seed(0)
    tokens, slots = torch.randn(B, N, C or D, requires_grad=True), torch.randn(B, K, D)
    modules = {backend: kind(D, C, backend=backend, **options) for backend in ("textbook", "fast")}
    return {backend: forward_and_backward(lambda module=module: module(tokens, slots).slots, tokens, [module]) for backend, module in modules.items()}


def peer_case(B, N, D, K, backward=True, goal=None, memory=None):
    words = f"(B, N, D, K) = {(B, N, D, K)}, three rounds, {'forward and backward' if backward else 'forward alone'}"
    return measure.Case(lambda: against_the_peer(B, N, D, K, backward), PEER, words,
                        goals={"fast": goal} if goal else {}, memory_goals={"fast": memory} if memory else {}, peak=backward)


SMOOTHSA = dict(activation="gelu", eps=1e-5, eps_in="denominator", straight_through=True)
CASES = {
    "slotfm": peer_case(64, 750, 32, 8, goal=1.6, memory=0.6),
    "slotfm, wider": peer_case(64, 750, 64, 8),
    "images": peer_case(8, 1024, 256, 7, goal=2.5, memory=0.6),
    "images, small grid": peer_case(8, 256, 256, 7),
    "video": peer_case(2, 4096, 192, 11),
    "a few tokens": peer_case(4, 64, 32, 4),
    "slotfm, forward": peer_case(64, 750, 32, 8, backward=False),
    "images, forward": peer_case(8, 1024, 256, 7, backward=False),
    "smoothsa": measure.Case(lambda: variant(SlotAttention, 8, 256, 256, 7, C=384, **SMOOTHSA), "textbook",
                             "SmoothSA: (B, N, C, D, K) = (8, 256, 384, 256, 7), straight-through"),
    "slotssm": measure.Case(lambda: variant(InvertedAttention, 2, 4096, 192, 11, n_heads=4), "textbook",
                            "SlotSSM's inverted attention: (B, N, D, K) = (2, 4096, 192, 11), four heads"),
    "many heads and slots": measure.Case(lambda: variant(SlotAttention, 8, 256, 64, 32, n_heads=8), "textbook",
                                         "where folding loses: (B, N, D, K) = (8, 256, 64, 32), eight heads"),
}

if __name__ == "__main__":
    measure.run(__file__, CASES, peers=("slot-attention",), missing=MISSING)
