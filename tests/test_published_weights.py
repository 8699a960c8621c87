"The weights that are committed: small, loadable, and described by a card that is made of what the run recorded."
import importlib.util
import json

import numpy as np
import pytest
import torch

from slotpapers.data.balls import bouncing_balls
from slotpapers.data.simulated import simulated_windows
from slotpapers.evaluation.frame_prediction import copy_last, horizon_mse
from slotpapers.models import SlotFM, SlotSSM
from slotpapers.models.slotssm_wiring import rollout


@pytest.fixture(scope="module")
def publish(root):
    spec = importlib.util.spec_from_file_location("publish_weights", root / "docs/publish_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_published_model_is_small_and_has_the_card_of_its_training(root, publish):
    folders = sorted(path.parent for path in (root / "data/models").glob("*/model.safetensors"))
    assert folders
    for folder in folders:
        assert sum(p.stat().st_size for p in folder.iterdir()) < 1_000_000
        training, config = (json.loads((folder / name).read_text()) for name in ("training.json", "config.json"))
        assert (folder / "README.md").read_text(encoding="utf-8") == publish.card(folder.name, training, config)
        data = training["data"]
        assert data["simulated"] or data["licence"].startswith("CC BY 4.0"), "non-commercial data never enters weights that are published"


def test_published_weights_embed_windows_and_refuse_others(root):
    model = SlotFM.from_pretrained(str(root / "data/models/slotfm-wisdm2019"))
    windows = simulated_windows(4, seconds=2.0)
    slots = [model.encode(torch.from_numpy(windows.x), fs=50, unit="m/s^2") for _ in range(2)]
    assert slots[0].shape == (4, model.n_slots, model.slot_dim) and torch.equal(*slots) and torch.isfinite(slots[0]).all()
    with pytest.raises(ValueError, match="unit must be"):
        model.encode(torch.from_numpy(windows.x), unit="g")


def test_publishing_copies_a_model_and_names_an_absent_one(publish, tmp_path):
    stage = tmp_path / "stage"
    model = SlotFM(hidden=8, n_blocks=1, n_slots=2, slot_dim=8, n_steps=100)
    model.save_pretrained(stage / "weights/slotfm-1")
    row = {"arm": "slotfm", "dataset": "d", "seed": 1, "fold": 0}
    metrics = {"profile": "check", "scores": [row | {"metric": m, "value": 0.25} for m in publish.REBUILT],
               "data": [{"name": "d", "simulated": True, "licence": "none", "windows": 3600, "participants": 4, "participants_published": None, "fs": 50.0, "seconds": 2.0}],
               "parameters": {"steps": 2, "participants_per_batch": 2, "windows_per_participant": 2, "lr": 0.003}}
    run = {"commit": "abc", "fingerprint": "f", "processor": "p", "threads": 1, "versions": {"torch": "t"}}
    for name, content in (("metrics", metrics), ("run", run)):
        (stage / f"{name}.json").write_text(json.dumps(content))
    assert publish.main([str(stage), "slotfm", "1", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert "2 hours in all" in text and "0.250" in text and "(simulated)" in text
    same = SlotFM.from_pretrained(str(tmp_path / "out"))
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(model.state_dict().values(), same.state_dict().values()))
    with pytest.raises(ValueError, match="no scores of 'slotfm', seed 7"):
        publish.main([str(stage), "slotfm", "7", str(tmp_path / "other")])


def test_published_balls_are_predicted_frame_by_frame_better_than_they_are_copied(root):
    folder = root / "data/models/slotssm-balls"
    model, training = SlotSSM.from_pretrained(str(folder)), json.loads((folder / "training.json").read_text())
    how = training["parameters"]
    frames = bouncing_balls(16, split="published", n_frames=how["context"] + 4, size=how["size"], n_balls=how["n_balls"], speed=how["speed"]).frames
    video = torch.from_numpy(frames[:, :, None]).float()
    with torch.no_grad():
        ahead, state = rollout(model, video[:, :how["context"]], 4), None
        for t in range(how["context"]):
            out, state = model.step(video[:, t], state)
    assert torch.allclose(out.pixels.sigmoid(), ahead[:, 0], atol=1e-5), "a stream is a pass"
    errors = [horizon_mse(each, video[:, how["context"]:]) for each in (ahead, copy_last(video[:, :how["context"]], 4))]
    assert errors[0][0] < errors[1][0] / 2 and errors[0].mean() < errors[1].mean() / 1.5
    assert torch.allclose(out.masks.sum(dim=1), torch.ones_like(out.masks[:, 0]), atol=1e-5)


def test_published_balls_say_how_far_they_are_good(root, publish):
    "The card is made of what the model recorded, and its limit is where the one-step error rises."
    folder = root / "data/models/slotssm-balls"
    training, config = (json.loads((folder / f"{name}.json").read_text()) for name in ("training", "config"))
    text, trained = (folder / "README.md").read_text(), training["parameters"]["n_frames"] - 1
    assert text == publish.card("slotssm-balls", training, config) and f"**Good for {trained} steps.**" in text
    frames = torch.from_numpy(bouncing_balls(32, split="published", n_frames=49, size=16, n_balls=2, speed=0.5).frames[:, :, None]).float()
    with torch.no_grad():
        drawn = SlotSSM.from_pretrained(str(folder)).eval()(frames[:, :-1]).pixels.sigmoid()
    error = horizon_mse(drawn, frames[:, 1:])
    assert error[4:trained].mean() < 0.02 and error[-8:].mean() > 3 * error[4:trained].mean()


def test_a_model_that_does_not_know_its_step_has_no_such_limit(publish):
    assert publish.reach({"n_frames": 14}, {"times": True}).startswith("**Good for 13 steps.**")
    assert publish.reach({"n_frames": 14}, {"times": False}) == "Trained on 13 steps; tokens do not know their step, so a stream may run on."


def test_publishing_a_model_of_balls_makes_its_card(publish, tmp_path):
    stage = tmp_path / "slotssm-balls"
    SlotSSM(n_slots=2, slot_dim=16, n_layers=1, image_size=8, encoder_layers=1, decoder_layers=1).save_pretrained(stage / "weights/slotssm-0")
    row = {"dataset": "bouncing_balls", "seed": 0, "fold": 0}
    scores = [row | {"arm": arm, "metric": metric, "value": 0.125} for arm in ("slotssm", "copy_last") for metric in ("mse", "mse_at_1")]
    scores += [row | {"arm": "slotssm", "metric": metric, "value": value} for metric, value in (("lr", 0.003), ("parameters", 1234.0), ("bce", 0.5))]
    metrics = {"profile": "check", "scores": scores, "parameters": dict.fromkeys(publish.BALLS, 3) | {"arms": "slotssm"},
               "data": [{"name": "bouncing_balls", "simulated": True, "licence": None, "checksum": "f" * 64}]}
    run = {"commit": "abc", "fingerprint": "f", "processor": "p", "threads": 1, "versions": {"torch": "t"}}
    for name, content in (("metrics", metrics), ("run", run)):
        (stage / f"{name}.json").write_text(json.dumps(content))
    assert publish.main([str(stage), "slotssm", "0", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert "| first frame after those seen | 0.125 | 0.125 | - |" in text and "1,234 parameters" in text and "**generated**" in text and "fingerprint f" in text
    with pytest.raises(ValueError, match="no scores of 'slotssm', seed 7"):
        publish.main([str(stage), "slotssm", "7", str(tmp_path / "other")])
