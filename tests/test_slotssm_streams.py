"Coordinate streams: what each arm may know, sizes, roll-outs, the choice of a learning rate, resuming, and the rows that claims read."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from slotpapers.core.seeds import forked_rng
from slotpapers.data.balls import coordinate_streams
from slotpapers.evaluation.claims import load_claims
from slotpapers.recipes import slotssm_streams as R
from slotpapers.recipes.configuration import words
from slotpapers.recipes.slotssm_stream_models import (STREAM_ARMS, TRIVIAL, NamedBalls, StreamPredictor, build_stream_model, fold, next_trivially,
                                                      predict_trivially, size, state_numbers)
from slotpapers.runs import PROFILES, execute, make_config, parameters_of

SMALL = R.Config(balls="2, 3", slots="1, 5", steps=4, slots_steps=3, trial_steps=2, n_clips=24, n_test=6, slot_dim=8, n_layers=1, state_dim=4,
                 batch_size=4, train_length=8)
ARMS = (*STREAM_ARMS, "slots_1", "slots_5")


def awake(arm, n_balls=3, **sizes):
    "A model whose last map is not zero, in double precision."
    with forked_rng(0, "init"):
        model = build_stream_model(arm, n_balls, **{"slot_dim": 8, "n_layers": 2, "state_dim": 4} | sizes)
        torch.nn.init.normal_(model.leave.weight)
    return model.double().eval()


def streams(n=4, frames=9, balls=3):
    return torch.from_numpy(coordinate_streams(n, n_frames=frames, n_balls=balls)).double()


# ---------------------------------------------------------------------------------------------------------------- models
@pytest.mark.parametrize("arm", ARMS)
def test_the_future_does_not_change_the_past_and_the_stream_continues(arm):
    model, x = awake(arm), streams()
    whole = model(x)[0]
    other = x.clone()
    other[:, 5:] += 1
    assert torch.equal(model(other)[0][:, :5], whole[:, :5]) and not torch.allclose(model(other)[0][:, 5:] - 1, whole[:, 5:])
    memory, parts = None, []
    for length in (1, 2, 5, 1):
        part, memory = model(x[:, sum(p.shape[1] for p in parts):][:, :length], memory)
        parts.append(part)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-6)


@pytest.mark.parametrize("arm", ARMS)
def test_before_training_nothing_moves(arm):
    x = streams().float()
    assert torch.equal(build_stream_model(arm, 3, 8, 1, 4)(x)[0], x)


@pytest.mark.parametrize("arm, leaks", [("slotssm", True), ("slotssm_zoh", True), ("single_state", True), ("single_state_wide", True),
                                        ("single_state_split", True), ("slotssm_no_mixer", False), ("slots_5", True)])
def test_who_hears_of_the_other_balls(arm, leaks):
    model, x = awake(arm), streams()
    other = x.clone()
    other[:, :, 1:] += 0.3
    changed = not torch.equal(model(x)[0][:, :, 0], model(other)[0][:, :, 0])
    assert changed is leaks


@pytest.mark.parametrize("arm", ["slotssm", "slotssm_no_mixer", "slotssm_zoh"])
def test_slots_have_no_names(arm):
    model, x, order = awake(arm), streams(), [2, 0, 1]
    assert torch.allclose(model(x[:, :, order])[0], model(x)[0][:, :, order], atol=1e-10)


@pytest.mark.parametrize("n_balls", [2, 4, 8])
@pytest.mark.parametrize("width", [32, 64])
def test_arms_are_matched(n_balls, width):
    built = {arm: build_stream_model(arm, n_balls, width, 2, 8) for arm in STREAM_ARMS}
    ours, states = size(built["slotssm"]), {arm: state_numbers(model, n_balls) for arm, model in built.items()}
    assert abs(size(built["single_state"]) / ours - 1) < 0.03 and abs(size(built["single_state_split"]) / ours - 1) < 0.06
    assert states["single_state_wide"] == states["slotssm"] and size(built["single_state_wide"]) > ours
    assert states["slotssm"] >= 0.9 * n_balls * states["single_state"]
    assert size(built["slotssm_zoh"]) == ours > size(built["slotssm_no_mixer"])


def test_no_arm_knows_its_step():
    "A stream of any arm goes on from its memory alone: what it predicts does not depend on how long it has run."
    for arm in ARMS:
        model, x = awake(arm), streams()
        memory = model(x[:, :4])[1]
        late = memory._replace(step=10_000) if hasattr(memory, "_replace") and hasattr(memory, "step") else memory
        assert torch.equal(model(x[:, 4:], late)[0], model(x[:, 4:], memory)[0]), arm


def test_slots_behind_an_encoder_share_their_weights():
    sizes = {n: size(NamedBalls(n, 4, 16, n_layers=1)) for n in (1, 6, 16)}
    assert sizes[6] - sizes[1] == 5 * 16 and sizes[16] - sizes[6] == 10 * 16      # CLS tokens alone


def test_refusals():
    with pytest.raises(ValueError, match="core must have one slot, or one a ball; got n_slots=3 for 4 balls"):
        StreamPredictor(build_stream_model("slotssm", 3, 8, 1, 4).core, 4)
    for arm in ("slotsm", "slots_many", "slots"):
        with pytest.raises(ValueError, match="arm must be one of 'slotssm'"):
            build_stream_model(arm, 3)
    with pytest.raises(ValueError, match="arm must be one of 'copy_last'"):
        predict_trivially("mean", streams(), 1, 0.8)


# ---------------------------------------------------------------------------------------------------------------- trivial predictors
def test_fold_against_a_ball_that_bounces():
    "Small steps, turned one by one at the walls."
    place, velocity, walked = 0.3, 0.037, []
    for _ in range(400):
        place += velocity
        if abs(place) > 0.8:
            place, velocity = np.sign(place) * 1.6 - place, -velocity
        walked.append(place)
    straight = 0.3 + 0.037 * torch.arange(1, 401, dtype=torch.float64)
    assert np.allclose(fold(straight, 0.8).numpy(), walked, atol=1e-9)


def test_a_lone_ball_is_known_but_for_frames_in_which_it_turned():
    alone = torch.from_numpy(coordinate_streams(64, n_balls=1, n_frames=3)).double()
    inner = (alone[:, 1:] - alone[:, :1]).abs().amax(dim=(1, 2, 3)) < 10
    straight = ((alone[:, 2] - 2 * alone[:, 1] + alone[:, 0]).abs() < 1e-6).all(dim=-1)[:, 0] & inner
    found = predict_trivially("reflection", alone[:, :2], 1, 0.8)[:, 0]
    assert straight.sum() > 20 and torch.allclose(found[straight], alone[straight, 2], atol=1e-6)


@pytest.mark.parametrize("arm", TRIVIAL)
def test_next_and_rolled_out_agree_on_the_first_step(arm):
    x = streams(frames=6)
    assert torch.equal(next_trivially(arm, x, 0.8)[:, -1:], predict_trivially(arm, x, 3, 0.8)[:, :1])
    assert torch.allclose(next_trivially(arm, x, 0.8)[:, 0], x[:, 0]), "after one frame nothing moves"


# ---------------------------------------------------------------------------------------------------------------- the run
@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    config = replace(SMALL, n_seeds=2)
    data = R.data(config)
    models = R.build(config, data)
    fitted = R.fit(config, data, models, folder / "scratch")
    return config, data, fitted, R.score(config, data, fitted), folder


def test_rows_are_whole(ran):
    config, _, fitted, scores, _ = ran
    places = [(r["arm"], r["dataset"], r["seed"], r["metric"]) for r in scores]
    assert len(set(places)) == len(places) and all(np.isfinite(r["value"]) for r in scores)
    assert {r["seed"] for r in scores} == {0, 1} and {r["dataset"] for r in scores} == {"streams_2", "streams_3", "relations"}
    trained = {(r["arm"], r["dataset"]) for r in scores if r["metric"] == "competent"}
    assert trained == {(arm, f"streams_{k}") for arm, k in R.arm_names(config)} and len(fitted) == 2 * len(trained)
    assert {r["metric"] for r in scores if r["arm"] == "reflection"} == {"mse", "mse_long", "rollout_mse", "rollout_mse_first"}


def test_claims_find_their_rows(ran, root):
    names = {(r["arm"], r["metric"]) for r in ran[3]} | {("slots_6", "rollout_mse_first")}
    for claim in load_claims(root / "data/papers/claims.yaml"):
        if claim.stage == "slotssm-streams":
            assert {(claim.a, claim.metric), (claim.b, claim.metric)} <= names, claim.id
            assert claim.stand_ins in ([], ["streams_2"], ["streams_4"], ["streams_8"]) and claim.metric != "rollout_mse"


def test_margins_are_small_beside_what_is_at_stake(root):
    "A claim's margin lies between 3 and 10 percent of what copying costs by its metric, and the metric tells physics from copying where it can."
    found = {}
    for k in (2, 4, 8):
        clips = torch.from_numpy(coordinate_streams(256, split="test", n_frames=65, n_balls=k, radius=R.RADIUS, box=R.BOX))
        found[f"streams_{k}"] = {arm: R.summary(R.stream_errors(clips, arm, None, 64), 16) for arm in ("copy_last", "reflection")}
    claims = [c for c in load_claims(root / "data/papers/claims.yaml") if c.metric == "rollout_mse_first"]
    assert len(claims) == 7
    for claim in claims:
        copied = found[claim.stand_ins[0]]["copy_last"]["rollout_mse_first"]
        assert 0.03 < claim.margin / copied < 0.1 and "rollout_mse_first: over the first five" in claim.note, claim.id
    assert all(found[name]["reflection"]["rollout_mse_first"] < 0.5 * found[name]["copy_last"]["rollout_mse_first"] for name in ("streams_2", "streams_4"))
    assert found["streams_8"]["reflection"]["rollout_mse"] > 2 * found["streams_8"]["copy_last"]["rollout_mse"], "why twenty steps do not decide"


def test_scores_by_hand(ran):
    "One arm's numbers, step by step."
    config, data, fitted, scores, _ = ran
    value = {(r["arm"], r["dataset"], r["seed"], r["metric"]): r["value"] for r in scores}
    model, clips = fitted["single_state|streams_2|1"].model, data.test[2]
    with torch.no_grad():
        memory, place, rolled = None, None, []
        for t in range(30):
            seen = clips[:, t:t + 1] if t < 10 else place
            place, memory = model(seen, memory)
            rolled.append(place)
        ahead = model(clips[:, :32])[0]
    error = (torch.cat(rolled[9:29], dim=1) - clips[:, 10:30]).square().double()
    assert value["single_state", "streams_2", 1, "rollout_mse"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert value["single_state", "streams_2", 1, "rollout_mse_first"] == pytest.approx(float(error[:, :5].mean()), rel=1e-5)
    steps = (ahead - clips[:, 1:33]).square().double().mean(dim=(0, 2, 3))
    assert value["single_state", "streams_2", 1, "mse"] == pytest.approx(float(steps[4:8].mean()), rel=1e-5)
    assert value["single_state", "streams_2", 1, "mse_long"] == pytest.approx(float(steps[24:].mean()), rel=1e-5)


def test_a_rerun_from_checkpoints_and_one_without_give_the_same(ran):
    config, data, _, scores, folder = ran
    for scratch in (folder / "scratch", None):
        again = R.score(config, data, R.fit(config, data, R.build(config, data), scratch))
        assert again == scores


def test_data_are_told_apart_and_a_checkpoint_of_others_is_not_taken(ran, tmp_path):
    "The same settings on other clips: nothing is resumed, and what is written says which clips they were."
    config, data = ran[:2]
    name = "slotssm|streams_2|0"
    few = replace(config, rates="0.003,")
    other = replace(data, train={**data.train, 2: data.train[2].flip(0)})
    fresh = lambda: {name: R.build(few, data)[name]}
    first, again = (R.fit(few, data, fresh(), tmp_path)[name].trained for _ in range(2))
    moved = R.fit(few, other, fresh(), tmp_path)[name].trained
    assert again.resumed_from == few.steps and moved.resumed_from == 0 and not moved.history.equals(first.history)
    about = {each["name"]: each for each in data.description}
    assert all(each["licence"] is None and len(each["checksum"]) == 64 for each in about.values()) and about["streams_2"]["checksum"] != about["streams_3"]["checksum"]
    assert R.data(config).description == data.description != R.data(replace(config, n_test=5)).description


def test_seeds_differ_and_arms_see_the_same_clips(ran):
    fitted = ran[2]
    curves = {name: each.trained.history["mse"].iloc[0] for name, each in fitted.items()}
    assert curves["slotssm|streams_3|0"] == curves["single_state|streams_3|0"] == curves["slots_5|streams_3|0"]   # untrained: one predictor
    assert curves["slotssm|streams_3|0"] != curves["slotssm|streams_3|1"]


def test_the_rate_is_the_best_on_validation(ran, monkeypatch):
    config, data = ran[:2]
    errors = iter([0.3, 0.1, 0.2])
    monkeypatch.setattr(R, "validation_mse", lambda *_: next(errors))
    assert R.choose_rate("slotssm", 2, replace(config, rates="0.01, 0.002, 0.001", trial_steps=1), data) == 0.002
    monkeypatch.setattr(R, "train_one", None)       # a single rate is not tried
    assert R.choose_rate("slotssm", 2, replace(config, rates="0.004,"), data) == 0.004


@pytest.mark.parametrize("mse, first, competent", [(0.1, 0.3, 1), (0.2, 0.3, 0), (0.1, 0.4, 0), (0.3, 0.5, 0)])
def test_competence_is_beating_copying_ahead_and_rolled_out(ran, mse, first, competent):
    each, copied = ran[2]["slotssm|streams_2|0"], {"mse": 0.2, "rollout_mse_first": 0.4}
    assert R.extra_metrics("slotssm|streams_2|0", each, {"mse": mse, "rollout_mse_first": first}, copied)["competent"] == competent


def test_copying_itself_is_not_competent(ran):
    "Untrained, every model is a copy."
    config = replace(SMALL, balls="2,", slots="1,")
    data = R.data(config)
    untrained = {name: R.Fitted(model, ran[2]["slotssm|streams_2|0"].trained, 0.0) for name, model in R.build(config, data).items()}
    found = {(r["arm"], r["seed"]): r["value"] for r in R.score(config, data, untrained) if r["metric"] == "competent"}
    assert found and not any(found.values())


def test_a_curve_keeps_its_mean_and_few_points(ran):
    trained = ran[2]["slotssm|streams_2|0"].trained
    assert R.curve(trained, 2).mean() == pytest.approx(trained.history["mse"].mean()) and len(R.curve(trained, 50)) == 50
    assert np.isnan(R.curve(None)).all()


def test_slots_learn(tmp_path):
    "A short training leaves copying behind and uses what it saw of the velocity."
    config = replace(SMALL, balls="2,", slots="1,", steps=120, slots_steps=1, rates="0.01,", n_clips=256, n_test=64, slot_dim=16, batch_size=32)
    data = R.data(config)
    models = {name: model for name, model in R.build(config, data).items() if name == "slotssm|streams_2|0"}
    fitted = R.fit(config, data, models)
    found = R.all_errors(config, data, fitted)
    mse = {name.split("|")[0]: R.summary(errors, config.train_length)["mse"] for name, errors in found.items()}
    assert mse["slotssm"] < 0.5 * mse["copy_last"]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_builds_and_takes_a_step(profile, root, tmp_path):
    "Every arm at full width, with the most balls and the most slots."
    config = parameters_of("slotssm-streams", profile, root)
    make_config(R.Config, config)
    most = {name: f"1, {words(config[name])[-1]}" if name == "slots" else f"{words(config[name])[-1]}," for name in ("balls", "slots")}
    tiny = dict(**most, rates="0.001,", steps=1, slots_steps=1, trial_steps=1, batch_size=2, n_clips=4, n_test=2, n_seeds=1, train_length=4)
    execute("slotssm-streams", config | tiny, tmp_path / "out", "check")
    scores = json.loads((tmp_path / "out/metrics.json").read_text())["scores"]
    assert {r["arm"] for r in scores if r["metric"] == "lr"} >= {"slotssm", "single_state_wide", "slots_1"}
