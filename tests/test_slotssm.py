"SlotSSM, OC-SlotSSM and every baseline: folding, leakage, permutations, causality, streams, sizes, saving, training."
import copy
import inspect

import pytest
import torch
from einops import rearrange, repeat
from torch import nn

from slotpapers.blocks.attention import KeyValueCache
from slotpapers.core.seeds import forked_rng, torch_stream
from slotpapers.models.slotssm import OCSlotSSM, OCSlotSSMCore, SlotSSM, SlotSSMCore, SlotSSMLayer, slots_of_layers
from slotpapers.models.slotssm_baselines import MODELS, SplitStateCore, SlotTransformerCore, build_model, matched_inner, matched_layers
from slotpapers.models.slotssm_recurrent import RIMCore, SAViCore, SlotRNNCore, most_attentive
from slotpapers.models.slotssm_wiring import (FEEDS, StreamState, VideoModel, detach_state, make_decoder, make_tokenizer, rollout, state_bytes,
                                              state_tensors, within_steps)
from slotpapers.objectives.slotssm import LastColours, NextFrame, Reconstruction, bce_loss, class_loss, dequantise, quantise

NAMES = list(MODELS)
OBJECT_CENTRIC = ("oc_slotssm", "savi")
SMALL = dict(slot_dim=16, image_size=8, n_slots=3, n_layers=2, channels=1, out_channels=1, n_heads=2)
IN_FRONT = dict(encoder_layers=1, decoder_layers=1)
SELF_DRAWN = dict(n_doublings=1, decoder_dim=8)


def small(name, seed=0, **changes):
    settings = {**SMALL, **(SELF_DRAWN if name in OBJECT_CENTRIC else IN_FRONT), **changes}
    if name == "rim":
        settings = {**settings, "n_active": 2, "init_std": 0.3}
        settings.pop("n_layers")
    with forked_rng(seed, "model"):
        return build_model(name, **settings).eval()


def clips(n=2, steps=6, size=8, channels=1, seed=0):
    return torch.rand(n, steps, channels, size, size, generator=torch_stream(seed, "clips"))


def begin():
    return torch_stream(0, "start")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch_stream(seed, "drawn"), dtype=torch.float64)


def core_of(kind, *args, seed=0, **settings):
    with forked_rng(seed, "core"):
        return kind(*args, **settings).double()


def count(module):
    return sum(p.numel() for p in module.parameters())


# ---- folding, leakage, permutations ----

@pytest.mark.parametrize("name", NAMES)
def test_samples_stay_apart(name):
    model, x = small(name).double(), clips(3).double()
    state = StreamState(0, model.core.begin(3, begin()))
    second = StreamState(0, state.memory[1:2] if name == "savi" else model.core.begin(1))
    with torch.no_grad():
        assert torch.allclose(model(x[1:2], second).pixels, model(x, state).pixels[1:2], atol=1e-10)


@pytest.mark.parametrize("backend", ["auto", "loop"])
def test_no_slot_hears_another_in_the_memory_to_the_last_bit(backend):
    with forked_rng(0, "leak"):
        layer = SlotSSMLayer(16, 4, backend=backend)
    x = drawn(2, 9, 4, 16).float()
    changed = x.clone()
    changed[:, :, 2] = drawn(2, 9, 16, seed=1)
    with torch.no_grad():
        before, after = layer.over_time(x)[0], layer.over_time(changed)[0]
        assert after[:, :, [0, 1, 3]].equal(before[:, :, [0, 1, 3]]) and not after[:, :, 2].allclose(before[:, :, 2])
        mixed = (layer(changed)[0] - layer(x)[0])[:, :, [0, 1, 3]].abs().amax(dim=-1)
    assert mixed.min() > 1e-6


@pytest.mark.parametrize("core", [lambda: core_of(SlotSSMCore, 16, 4, 2, mixer=False), lambda: core_of(OCSlotSSMCore, 16, 4, 1, mixer=False)])
def test_without_mixer_slots_never_meet(core):
    core = core()
    if core.reads == "slots":
        x, changed = drawn(1, 5, 4, 16), drawn(1, 5, 4, 16)
        changed[:, :, 2] += drawn(1, 5, 16, seed=1)
        assert core(changed)[0][:, :, [0, 1, 3]].allclose(core(x)[0][:, :, [0, 1, 3]], atol=1e-12)
    assert all(layer.mixer.attention is None for layer in core.layers)


@pytest.mark.parametrize("core", [lambda: core_of(SlotSSMCore, 16, 4, 2), lambda: core_of(SlotSSMCore, 16, 4, 2, discretization="zoh"),
                                  lambda: core_of(SlotRNNCore, 16, 4, 2), lambda: core_of(SlotTransformerCore, 16, 4, 2)])
def test_cores_permute_with_their_slots(core):
    core, x, turn = core(), drawn(2, 5, 4, 16), torch.tensor([3, 1, 0, 2])
    assert torch.allclose(core(x[:, :, turn])[0], core(x)[0][:, :, turn], atol=1e-10)


@pytest.mark.parametrize("kind, table", [(OCSlotSSMCore, "cls.rows"), (SAViCore, None)])
def test_competing_cores_permute_with_their_start_and_ignore_the_order_of_tokens(kind, table):
    core, x, turn = core_of(kind, 16, 4), drawn(2, 3, 10, 16), torch.tensor([3, 1, 0, 2])
    start = core.begin(2, begin())
    slots = core(x, start)[0]
    assert torch.allclose(core(x.flip(2), start)[0], slots, atol=1e-10)
    if table:
        with torch.no_grad():
            core.cls.rows.copy_(core.cls.rows[turn])
    assert torch.allclose(core(x, start if table else start[:, turn])[0], slots[:, :, turn], atol=1e-10)


def test_whole_model_permutes_with_its_cls_rows():
    for name in ("slotssm", "slot_transformer", "slot_rnn", "oc_slotssm"):
        model, x, turn = small(name).double(), clips().double(), torch.tensor([2, 0, 1])
        before = model(x)
        rows = model.core.cls.rows if name == "oc_slotssm" else model.encoder.cls.rows
        with torch.no_grad():
            rows.copy_(rows[turn])
        after = model(x)
        assert torch.allclose(after.slots, before.slots[:, :, turn], atol=1e-10) and torch.allclose(after.masks, before.masks[:, :, turn], atol=1e-10)
        assert torch.allclose(after.pixels, before.pixels, atol=1e-10)


def test_masks_of_every_layer_of_inverted_attention_sum_to_one():
    core, x, trace = core_of(OCSlotSSMCore, 16, 4, 3, attention_heads=1), drawn(2, 3, 10, 16), []
    core(x, trace=trace)
    assert len(trace) == 3 and all(torch.allclose(m.sum(dim=2), torch.ones(2, 3, 10).double(), atol=1e-6) for m in trace)
    assert core.encoders[0].competition.n_heads == 1 and core_of(OCSlotSSMCore, 16, 4, 1).encoders[0].competition.n_heads == 4


# ---- time ----

@pytest.mark.parametrize("name", NAMES)
def test_the_future_never_changes_the_past(name):
    model, x = small(name).double(), clips().double()
    changed = x.clone()
    changed[:, 3:] = clips(seed=1).double()[:, 3:]
    with torch.no_grad():
        before, after = model(x, generator=begin()), model(changed, generator=begin())
    assert torch.allclose(after.pixels[:, :3], before.pixels[:, :3], atol=1e-10) and after.slots[:, :3].allclose(before.slots[:, :3], atol=1e-10)
    assert (after.slots[:, 3:] - before.slots[:, 3:]).abs().amax(dim=(2, 3)).min() > 1e-9        # and the present does, and is kept


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefill", [0, 1, 2, 5])
def test_prefill_and_steps_are_one_pass(name, prefill):
    model, x = small(name).double(), clips().double()
    with torch.no_grad():
        whole = model(x, generator=begin())
        state = model(x[:, :prefill], decode="none", generator=begin()).state if prefill else None
        for t in range(prefill, 6):
            kept = [tensor.clone() for tensor in state_tensors(state)]
            branch = copy.deepcopy(state)
            other, aside = model.step(1 - x[:, t], state, generator=begin())                      # a branch: neither may change the other
            kept_aside = [tensor.clone() for tensor in state_tensors(aside)]
            now, later = model.step(x[:, t], state, generator=begin())
            assert all(a.equal(b) for a, b in zip([*kept, *kept_aside], [*state_tensors(state), *state_tensors(aside)]))
            twin, _ = model.step(x[:, t], branch, generator=begin())
            for got, part in ((now.pixels, whole.pixels), (now.slots, whole.slots), (now.masks, whole.masks), (twin.pixels, whole.pixels)):
                assert torch.allclose(got, part[:, t], atol=1e-9)
            assert not torch.allclose(other.slots, now.slots, atol=1e-9)
            state = later
    assert state.step == 6


@pytest.mark.parametrize("name", NAMES)
def test_what_a_stream_keeps(name):
    model, x = small(name), clips(1, 12)
    with torch.no_grad():
        early, late = (model(x[:, :n], decode="none", generator=begin()).state for n in (4, 12))
    grows = 3 if "transformer" in name else 1
    assert state_bytes(late) == grows * state_bytes(early) > 0


def test_slots_and_state_sizes_are_the_papers():
    core = SlotSSMCore()
    with torch.no_grad():
        _, states = core(torch.zeros(2, 3, 6, 64))
    assert [tuple(s.ssm.shape) for s in states] == 4 * [(12, 80, 16)] and [tuple(s.conv.shape) for s in states] == 4 * [(12, 80, 3)]


@pytest.mark.parametrize("name", ["slotssm", "slot_transformer", "slot_rnn", "rim", "savi"])
def test_detached_states_cut_the_history(name):
    model, x = small(name), clips()
    state = model(x[:, :3], generator=begin()).state
    assert any(t.requires_grad for t in state_tensors(state))
    cut = detach_state(state)
    assert type(cut) is StreamState and not any(t.requires_grad for t in state_tensors(cut)) and cut.step == 3
    assert all(a.equal(b) for a, b in zip(state_tensors(cut), state_tensors(state)))
    model(x[:, 3:], cut).pixels.sum().backward()
    assert torch.allclose(model(x[:, 3:], cut).pixels, model(x[:, 3:], state).pixels, atol=1e-6)


def test_tiles_are_read_in_their_places():
    model = small("slotssm")
    frame = clips(2, 2)
    tiles = rearrange(frame, "B T C (Y h) (X w) -> B (T Y X) C h w", h=4, w=4)
    with torch.no_grad():
        whole, state = model(tiles, decode="last"), None
        assert whole.pixels.shape == (2, 1, 1, 8, 8) and whole.slots.shape == (2, 8, 3, 16)
        for t in range(8):
            now, state = model.step(tiles[:, t], state, draw=t == 7)
    assert torch.allclose(now.pixels, whole.pixels[:, 0], atol=1e-5)


# ---- sizes ----

def test_parameters_are_matched():
    with torch.device("meta"):
        assert count(SlotSSMLayer(64)) == 70_512
        cores = {name: count(build_model(name).core) for name in NAMES if name not in OBJECT_CENTRIC}
        assert count(OCSlotSSM().core.layers[0].memory) == 157_200
    assert cores["slotssm"] == cores["single_state"] == 282_048
    for name in ("single_state_split", "transformer", "slot_transformer", "slot_rnn"):
        assert abs(cores[name] / cores["slotssm"] - 1) < 0.07, name
    assert cores["rim"] > 1.5 * cores["slotssm"]                                                   # larger by design
    assert matched_layers(4) == 6 and matched_layers(2) == 3 and matched_layers(1, 16) >= 1


def test_the_number_of_slots_costs_its_cls_rows_only():
    with torch.device("meta"):
        assert count(SlotSSM(n_slots=9)) - count(SlotSSM(n_slots=2)) == 7 * 64


@pytest.mark.parametrize("slot_dim, n_slots", [(16, 3), (32, 4), (64, 6), (64, 2)])
def test_split_is_matched_at_other_sizes(slot_dim, n_slots):
    with torch.device("meta"):
        core = SplitStateCore(slot_dim, n_slots, 1)
        assert abs(count(core) / count(SlotSSMLayer(slot_dim)) - 1) < 0.05
        assert core.layers[0].memory.dim == matched_inner(slot_dim, n_slots)


def test_wide_single_state_holds_as_much_as_all_slots():
    wide, slots = small("single_state_wide"), small("slotssm")
    with torch.no_grad():
        assert state_bytes(wide(clips()).state) == state_bytes(slots(clips()).state)


# ---- layers, cores ----

def test_a_layer_is_equations_12_and_13():
    layer, x = core_of(SlotSSMLayer, 16, 2), drawn(2, 5, 3, 16)
    expected = x + torch.stack([layer.memory(layer.norm(x[:, :, k]))[0] for k in range(3)], dim=2)   # K runs of one model
    expected = torch.stack([layer.mixer(expected[:, t]) for t in range(5)], dim=1)
    assert torch.allclose(layer(x)[0], expected, atol=1e-10)


def test_slots_may_change_between_layers():
    core, x = core_of(SlotSSMCore, 16, [4, 4, 2, 5], 4, encoder_layers=1), drawn(2, 3, 4, 16)
    slots, states = core(x)
    assert slots.shape == (2, 3, 5, 16) and [len(s.ssm) for s in states] == [8, 8, 4, 10] and (core.n_inputs, core.n_slots) == (4, 5)
    assert torch.allclose(core(x[:, 1:], core(x[:, :1])[1])[0], slots[:, 1:], atol=1e-10)
    model = SlotSSM(n_slots=[3, 2], n_layers=2, slot_dim=16, image_size=8, encoder_layers=1, decoder_layers=1)
    assert model(clips()).masks.shape == (2, 6, 2, 2, 2) and slots_of_layers(3, 2) == [3, 3]


def test_the_shared_weights_of_slot_rnn_are_torchs_unit():
    core, x = core_of(SlotRNNCore, 16, 3, 1), drawn(2, 4, 3, 16)
    layer, hidden = core.layers[0], torch.zeros(2, 3, 16).double()
    for t in range(4):
        hidden = layer.mixer(torch.stack([layer.gru(x[:, t, k], hidden[:, k]) for k in range(3)], dim=1))
        assert torch.allclose(core(x)[0][:, t], hidden, atol=1e-10)


def test_rim_moves_active_modules_only_and_blocks_gradients_of_the_others():
    core, x = core_of(RIMCore, 16, 5, 2, init_std=0.5), drawn(2, 1, 1, 16)
    hidden = drawn(2, 5, 16, seed=1).requires_grad_()
    slots, _ = core(x, hidden)
    moved = (slots[:, 0] != hidden).any(dim=-1)
    assert moved.sum(dim=-1).tolist() == [2, 2]
    shares = torch.cat([torch.einsum("bkd,bnd->bkn", core.to_q(hidden), core.to_k(x[:, 0])) / 8, torch.zeros(2, 5, 1).double()], dim=-1).softmax(dim=-1)
    assert most_attentive(shares[..., -1], 2).equal(moved)
    gradient = torch.autograd.grad(slots[:, 0][moved].sum(), hidden)[0]
    assert (gradient[~moved] == 0).all() and (gradient[moved] != 0).any()
    changed = hidden.detach().clone()
    changed[~moved] = 0.0                                                                         # what sleeps is heard all the same
    if most_attentive(shares[..., -1], 2).equal(moved):
        assert not torch.allclose(core.communication(slots[:, 0], changed), core.communication(slots[:, 0], hidden), atol=1e-9)
    assert core_of(RIMCore, 16, 3, 3, n_inputs=2)(drawn(2, 4, 2, 16))[0].shape == (2, 4, 3, 16)


def test_savi_starts_where_its_generator_says():
    model, x = small("savi"), clips()
    assert model(x, generator=begin()).pixels.equal(model(x, generator=begin()).pixels) and not model(x).pixels.equal(model(x).pixels)
    still = small("savi", noise_in_evaluation=False)
    assert still(x).pixels.equal(still(x).pixels)
    once, more = core_of(SAViCore, 16, 3, 1), core_of(SAViCore, 16, 3, 2, last_mlp=True)
    tokens, start = drawn(2, 7, 16), drawn(2, 3, 16, seed=1)
    updates, _ = once.corrector.competition.reader(tokens)(once.corrector.norm_slots(start))
    gated = once.corrector.update.gru(updates.flatten(0, 1), start.flatten(0, 1)).unflatten(0, (2, 3))
    assert torch.allclose(once.correct(tokens, start), gated, atol=1e-10)                          # one round: no MLP
    assert torch.allclose(more.correct(tokens, start), more.corrector(tokens, start).slots, atol=1e-10)


def test_transformer_is_causal_attention_of_torch():
    core, x = core_of(SlotTransformerCore, 16, 1, 1, 2), drawn(2, 5, 1, 16)
    block, mlp = core.attentions[0], core.mlps[0]
    theirs = nn.MultiheadAttention(16, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([block.attention.to_q.weight, block.attention.to_k.weight, block.attention.to_v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([block.attention.to_q.bias, block.attention.to_k.bias, block.attention.to_v.bias]))
        theirs.out_proj.load_state_dict(block.attention.to_out.state_dict())
    rows = x[:, :, 0]
    normed = block.norm(rows)
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    rows = mlp(rows + theirs(normed, normed, normed, attn_mask=later)[0])
    assert torch.allclose(core(x)[0][:, :, 0], rows, atol=1e-10)


# ---- wiring ----

@pytest.mark.parametrize("tokenizer, x", [("vectors", drawn(2, 6, 4, 5).float()), ("cnn", clips(2, 6, 8, 5)), ("patches", clips(2, 6, 8, 5))])
def test_any_tokenizer_fits_any_core(tokenizer, x):
    for name in ("slotssm", "rim", "oc_slotssm", "savi"):
        drawn_by = "none" if tokenizer == "vectors" else "transformer" if name in OBJECT_CENTRIC else "broadcast"
        model = small(name, tokenizer=tokenizer, decoder=drawn_by, channels=5, out_channels=5, n_doublings=1, decoder_dim=4, decoder_layers=1)
        with torch.no_grad():
            out, state = model(x, generator=begin()), None
            for t in range(3):
                now, state = model.step(x[:, t], state, generator=begin())
        assert torch.allclose(now.slots, out.slots[:, 2], atol=1e-5)
        assert out.pixels is None if tokenizer == "vectors" else out.pixels.shape == x.shape
        assert (out.parts is None) == (drawn_by != "broadcast")


def test_time_reaches_a_model_that_cannot_count():
    x = repeat(clips(1, 1), "B 1 C h w -> B T C h w", T=4)
    told, untold = small("transformer"), small("transformer", times=False)
    with torch.no_grad():
        assert not told(x).slots[:, 0].allclose(told(x).slots[:, 3], atol=1e-4)
        assert untold(x).slots[:, 0].allclose(untold(x).slots[:, 3], atol=1e-5)                    # equal frames, equal attention


def test_roll_outs_feed_back_what_they_are_told():
    model, x = small("slotssm"), clips(2, 3)
    with torch.no_grad():
        for feed in FEEDS:
            made = rollout(model, x, 3, feed=feed)
            frames = x
            for t in range(3):
                now = FEEDS[feed](model(frames).pixels[:, -1:])
                assert torch.allclose(made[:, t], now[:, 0], atol=1e-4)
                frames = torch.cat([frames, made[:, t : t + 1]], dim=1)
    assert set(rollout(model, x, 2, feed="threshold").unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_models_are_the_same(name, tmp_path):
    model, x = small(name), clips()
    model.save_pretrained(tmp_path)
    back = type(model).from_pretrained(tmp_path)
    assert back(x, generator=begin()).pixels.equal(model(x, generator=begin()).pixels)
    with pytest.raises(TypeError):
        type(model)(no_such_setting=1)


@pytest.mark.parametrize("kind", sorted(set(MODELS.values()), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_signatures_name_every_setting(kind):
    parameters = inspect.signature(kind).parameters
    shared = set(inspect.signature(VideoModel.__init__).parameters) - {"self", "core"}
    assert shared <= set(parameters) and all(p.kind is p.KEYWORD_ONLY for p in parameters.values())
    assert parameters["n_heads"].default == 4


def test_papers_values_are_the_defaults():
    def defaults(kind):
        return {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    slotssm, oc = defaults(SlotSSM), defaults(OCSlotSSM)
    assert {k: slotssm[k] for k in ("n_slots", "slot_dim", "state_dim", "expand", "n_heads", "encoder_layers", "decoder_layers")} == {
        "n_slots": 6, "slot_dim": 64, "state_dim": 16, "expand": 1.25, "n_heads": 4, "encoder_layers": 3, "decoder_layers": 3}
    assert {k: oc[k] for k in ("n_slots", "slot_dim", "image_size", "tokenizer", "decoder", "stride", "decoder_dim")} == {
        "n_slots": 11, "slot_dim": 192, "image_size": 128, "tokenizer": "cnn", "decoder": "broadcast", "stride": 2, "decoder_dim": 64}


def test_weight_decay_spares_tables_and_time_constants():
    spared = {name for name, p in small("slotssm").named_parameters() if p.ndim > 1 and getattr(p, "_no_weight_decay", False)}
    assert spared == {"encoder.cls.rows", "decoder.places", "core.layers.0.memory.A_log", "core.layers.1.memory.A_log"}


# ---- objectives ----

def test_objectives_by_hand():
    logits, target = drawn(2, 3).float(), (drawn(2, 3, seed=1) > 0).float()
    p = logits.sigmoid()
    for weight in (1, 4.0):
        expected = -(weight * target * p.log() + (1 - target) * (1 - p).log()).mean()
        assert torch.allclose(bce_loss(logits, target, weight), expected, atol=1e-5)
    scores, classes = drawn(2, 7, 4, 4).float(), torch.randint(7, (2, 4, 4), generator=begin())
    expected = -scores.log_softmax(dim=1).gather(1, classes[:, None]).mean()
    assert torch.allclose(class_loss(scores, classes), expected, atol=1e-6) and class_loss(scores, dequantise(classes)).equal(class_loss(scores, classes))
    assert quantise(dequantise(classes)[0]).equal(classes[0])


def test_objectives_fit_their_batches():
    x = clips().round()
    terms = NextFrame(3)(small("slotssm"), {"x": x[:, :-1], "target": x[:, 1:]})
    assert list(terms) == ["bce"] and terms["bce"].isfinite()
    assert Reconstruction()(small("oc_slotssm"), {"x": x})["mse"].isfinite()
    model = small("slotssm", channels=3, out_channels=7)
    with torch.no_grad():
        term = LastColours()(model, {"x": clips(channels=3), "target": torch.zeros(2, 8, 8, dtype=torch.int64)})["cross_entropy"]
        assert torch.allclose(term, class_loss(model(clips(channels=3)).pixels[:, -1], torch.zeros(2, 8, 8, dtype=torch.int64)), atol=1e-5)


# ---- refusals ----

REFUSALS = {
    "name": (lambda: build_model("mamba"), "name must be one of 'slotssm'"),
    "layers": (lambda: SlotSSMCore(16, [3, 3], 3), "one such number for each of the 3 layers; got [3, 3]"),
    "no layer": (lambda: SlotSSMCore(16, 3, 0), "n_layers (at least 1)"),
    "no slot": (lambda: SlotSSMCore(16, 0, 2), "n_slots must be at least 1"),
    "tokenizer": (lambda: make_tokenizer("pixels", 1, 8), "tokenizer must be one of"),
    "decoder": (lambda: make_decoder("pixels", 8, 1), "decoder must be one of"),
    "vectors drawn": (lambda: small("slotssm", tokenizer="vectors"), "decoder must be 'none'"),
    "token width": (lambda: small("oc_slotssm", token_dim=8), "token_dim must be slot_dim = 16"),
    "decode": (lambda: small("slotssm")(clips(), decode="first"), "decode must be one of"),
    "no time": (lambda: small("slotssm")(clips()[:, :0]), "none of them empty"),
    "no axis": (lambda: small("slotssm")(torch.zeros(2, 3)), "for a single step use step"),
    "channels": (lambda: small("slotssm")(clips(channels=3)), "was channels given"),
    "core width": (lambda: SlotSSMCore(16, 3, 1)(torch.zeros(1, 2, 3, 8)), "this core reads slots of width slot_dim"),
    "core slots": (lambda: SlotSSMCore(16, 3, 1)(torch.zeros(1, 2, 4, 16)), "x must be (B, T, 3, 16)"),
    "another batch": (lambda: small("slotssm")(clips(3), small("slotssm")(clips(2)).state), "another batch"),
    "active": (lambda: RIMCore(16, 3, 4), "n_active must lie between 1 and n_slots = 3; got 4"),
    "rounds": (lambda: SAViCore(16, 3, 0), "n_iters must be at least 1"),
    "feed": (lambda: rollout(small("slotssm"), clips(), 1, feed="mean"), "feed must be one of"),
    "no roll": (lambda: rollout(small("slotssm"), clips(), 0), "n_steps must be at least 1"),
    "colours": (lambda: rollout(small("slotssm", out_channels=7), clips(), 1), "must draw frames like those of context"),
    "blind": (lambda: rollout(small("slotssm", decoder="none"), clips(), 1), "got None"),
    "palette": (lambda: quantise(torch.full((3, 2, 2), 0.4)), "7 colours of the palette"),
    "target": (lambda: NextFrame()(small("slotssm"), {"x": clips(), "target": clips()[:, 1:]}), "one target a step"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_say_what_was_expected(case, plain_calls):
    call, message = REFUSALS[case]
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


# ---- numbers, training, cost ----

@pytest.mark.parametrize("name", NAMES)
def test_sixteen_bits_are_finite_and_near(name):
    model, x = small(name), clips()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, generator=begin())
        loss = out.pixels.float().square().mean()
    loss.backward()
    assert out.pixels.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(t.isfinite().all() for t in state_tensors(out.state))
    assert torch.allclose(out.pixels.float(), model(x, generator=begin()).pixels, atol=0.1)


def test_every_parameter_learns():
    for name in NAMES:
        model, x = small(name).train(), clips()
        (model(x, generator=begin()).pixels - x).square().mean().backward()
        idle = [n for n, p in model.named_parameters() if p.grad is None]
        allowed = ("corrector.update.mlp", "corrector.update.norm") if name == "savi" else ()
        assert not [n for n in idle if not any(part in n for part in allowed)], (name, idle)


def test_cost_grows_with_length_as_it_should():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    def flops(core, length):
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:   # the fused kernel is not counted
            core(torch.zeros(1, length, 3, 16))
        return counter.get_total_flops()

    linear, square = SlotSSMCore(16, 3, 1), SlotTransformerCore(16, 3, 1)
    assert abs(flops(linear, 64) / flops(linear, 32) - 2) < 0.1
    assert flops(square, 512) / flops(square, 256) > 2.5


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_any_optimizer_may_write_into_every_parameter(optimizer):
    model = small("slotssm")
    before = [p.detach().clone() for p in model.parameters()]
    model(clips()).pixels.square().mean().backward()
    optimizer(model.parameters(), lr=0.1, weight_decay=0.1, foreach=False).step()
    assert all(p.is_contiguous() and not p.equal(old) for p, old in zip(model.parameters(), before) if p.ndim > 1)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if "transformer" in name or name == "single_state_wide" else name for name in NAMES])
def test_eight_clips_can_be_overfitted(name):
    bits = (torch.rand(8, 4, 1, 2, 2, generator=torch_stream(0, "bits")) > 0.5).float()
    x = repeat(bits, "B T C y x -> B T C (y h) (x w)", h=4, w=4)                  # nothing to extrapolate: what follows must be remembered
    model = small(name, slot_dim=32, n_layers=1, n_heads=4, **(dict(decoder_dim=16, n_doublings=2) if name in OBJECT_CENTRIC else {})).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3 if "transformer" in name else 2e-3)   # attention over time wants small steps
    rebuilds, goal = name in OBJECT_CENTRIC, 0.1 if name in OBJECT_CENTRIC else 0.25            # a mean image has 0.25, a coin 0.69
    objective, batch = (Reconstruction(), {"x": x}) if rebuilds else (NextFrame(), {"x": x[:, :-1], "target": x[:, 1:]})
    for _ in range(600):
        with forked_rng(0, "start"):                                               # SAVi draws from the global generator here
            loss, = objective(model, batch).values()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss < goal:
            break
    assert loss < goal, f"{loss:.3f} after 600 updates"
