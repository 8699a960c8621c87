"Transitions: what they look at, what they may not, gradients, windows."
import pytest
import torch
from torch import nn

from slotpapers.blocks.transitions import EncoderTransition, IdentityTransition, RandSFQ, draw_pairs
from slotpapers.core.seeds import forked_rng, torch_stream

KINDS = {"identity": IdentityTransition, "encoder": lambda: EncoderTransition(8, 2), "randsfq": lambda: RandSFQ(8, 6, 4, 2)}


def drawn(*shape, path="drawn"):
    return torch.randn(shape, generator=torch_stream(0, path, *shape), dtype=torch.float64)


def made(kind):
    with forked_rng(0, "test_transitions"):
        return KINDS[kind]().double() if isinstance(kind, str) else kind().double()


@pytest.mark.parametrize("kind", KINDS)
def test_slots_permute_with_their_queries(kind):
    transition, turn = made(kind).eval(), torch.tensor([2, 0, 1])
    slots, tokens = drawn(2, 3, 3, 8), drawn(2, 4, 5, 6)
    assert (transition(slots[:, :, turn], tokens) - transition(slots, tokens)[:, turn]).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_looks_at_the_last_slots_and_the_current_features(kind):
    transition = made(kind).eval()
    slots, tokens = drawn(2, 3, 3, 8), drawn(2, 4, 5, 6)
    queries = transition(slots, tokens)
    changed_slots, changed_tokens = slots.clone(), tokens.clone()
    changed_slots[:, :-1] += 1
    changed_tokens[:, :-1] += 1
    assert transition(changed_slots, changed_tokens).equal(queries)
    changed_slots[:, -1] += drawn(2, 3, 8)
    assert not transition(changed_slots, tokens).equal(queries)
    changed_tokens[:, -1] += drawn(2, 5, 6)
    assert transition(slots, changed_tokens).equal(queries) == (kind != "randsfq")


def test_training_looks_at_every_pair():
    transition = RandSFQ(8, 6, 4, 2, dropout=0.0).double().train()
    slots, tokens = drawn(1, 3, 3, 8), drawn(1, 4, 5, 6)
    by_hand = torch.stack([transition.layer(slots[:, s] + transition.ages[3 - s], transition.project(tokens[:, e]) + transition.ages[3 - e])[0]
                           for s in range(3) for e in range(1, 4)])
    seen = torch.stack([transition(slots, tokens, torch_stream(seed, "pairs"))[0] for seed in range(80)])
    distance = (seen[:, None] - by_hand[None]).abs().amax(dim=(2, 3))
    assert distance.min(dim=1).values.max() < 1e-10, "every draw is one of the nine pairs"
    assert (distance.min(dim=0).values < 1e-10).all(), "and each of the nine is drawn"
    assert seen.unique(dim=0).shape[0] == 9


def test_pairs_are_drawn_a_sample_and_can_be_switched_off():
    transition = RandSFQ(8, 6, 4, 2, dropout=0.0).double()
    slots, tokens = drawn(1, 3, 3, 8).expand(40, -1, -1, -1), drawn(1, 4, 5, 6).expand(40, -1, -1, -1)
    assert len({round(v, 9) for v in transition(slots, tokens, torch_stream(0, "p"))[:, 0, 0].tolist()}) > 4
    transition.random_pairs = False
    assert (transition(slots, tokens) - transition.eval()(slots, tokens)).abs().max() < 1e-10
    second = RandSFQ(8, 6, 4, 2, dropout=0.0).double()
    assert (second(slots[:, :1], tokens[:, :2]) - second.eval()(slots[:, :1], tokens[:, :2])).abs().max() < 1e-10, "one past frame: nothing to draw"


def test_dropout_is_for_training():
    transition, slots, tokens = made("randsfq"), drawn(2, 1, 3, 8), drawn(2, 2, 5, 6)
    assert not transition(slots, tokens).equal(transition(slots, tokens))
    assert transition.eval()(slots, tokens).equal(transition(slots, tokens))


@pytest.mark.parametrize("training", [True, False])
def test_a_hundred_frames_stay_inside_the_window(training):
    transition = made("randsfq").train(training)
    slots, tokens = drawn(3, 99, 2, 8).requires_grad_(), drawn(3, 100, 5, 6).requires_grad_()
    for past in (1, 2, 3, 4, 50, 99):
        with forked_rng(0, "dropout"):
            queries = transition(slots[:, :past], tokens[:, :past + 1], torch_stream(0, "pairs"))
        assert queries.shape == (3, 2, 8) and queries.isfinite().all()
        near = slice(max(past - 3, 0), past), slice(max(past - 3, 0), past + 1)
        with forked_rng(0, "dropout"):
            assert queries.equal(transition(slots[:, near[0]], tokens[:, near[1]], torch_stream(0, "pairs")))
    assert transition.ages.shape[0] == transition.window == 4


def test_gradients():
    slots, tokens = drawn(2, 3, 3, 8).requires_grad_(), drawn(2, 4, 5, 6).requires_grad_()
    made("randsfq")(slots, tokens).square().sum().backward()
    assert slots.grad is None and tokens.grad is None
    made("encoder")(slots, tokens).square().sum().backward()
    assert slots.grad[:, -1].abs().sum() > 0 and (slots.grad[:, :-1] == 0).all() and tokens.grad is None


def test_the_encoder_is_pytorchs_layer():
    transition, slots = made("encoder").eval(), drawn(2, 3, 3, 8)
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.1, "gelu", batch_first=True).double().eval()
    theirs.load_state_dict(transition.layer.state_dict())
    assert theirs(slots[:, -1]).equal(transition(slots, drawn(2, 4, 5, 6)))


def test_draws_are_uniform_and_repeatable():
    one, two = draw_pairs(6, 5, torch_stream(0, "p")), draw_pairs(6, 5, torch_stream(0, "p"))
    assert one[0].equal(two[0]) and one[1].equal(two[1])
    t_s, t_e = draw_pairs(30_000, 5, torch_stream(0, "q"))
    counts = torch.bincount(5 * t_s + t_e - 1, minlength=25) / 30_000
    assert len(counts) == 25 and (counts - 1 / 25).abs().max() < 0.005
    assert draw_pairs(4, 1)[0].eq(0).all() and draw_pairs(4, 1)[1].eq(1).all()


@pytest.mark.parametrize("call, said", [
    (lambda: RandSFQ(8, 6, 1), "window must be at least 2 frames"),
    (lambda: RandSFQ(8, 6)(torch.zeros(2, 3, 4, 7), torch.zeros(2, 4, 5, 6)), "slots must be (B, P, K, 8)"),
    (lambda: RandSFQ(8, 6)(torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 5, 6)), "tokens must be (2, 4, N, 6)"),
    (lambda: EncoderTransition(8)(torch.zeros(2, 3, 4, 7), torch.zeros(2, 4, 5, 6)), "slots must be (B, P, K, 8)"),
])
def test_refusals(call, said, plain_calls):
    with pytest.raises(ValueError) as caught:
        call()
    assert said in str(caught.value)
