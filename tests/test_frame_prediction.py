"Scores of predicted frames: equal to loops, and what the predictors without a model score on the ball benchmarks."
import math

import numpy as np
import pytest
import torch

from slotpapers.core.seeds import torch_stream
from slotpapers.data.ball_pictures import PALETTE
from slotpapers.data.balls import RULES, blinking_balls, bouncing_balls
from slotpapers.evaluation.frame_prediction import (all_white, class_error, colour_error, copy_last, foreground_error, frame_mse, horizon_mse,
                                                    mean_image, trivial_blinking_scores, trivial_rollout_scores)

COLOURS = torch.tensor(PALETTE / 255.0, dtype=torch.float32)


def blinking(split, n, rule, **options):
    clips = blinking_balls(n, split=split, **options)
    return torch.from_numpy(clips.frames), torch.from_numpy(clips.target(rule)), torch.from_numpy(clips.labels[:, -1]), clips


def damaged(true, share, k):
    "Some pixels given another class."
    stream = torch_stream(0, "damage", k)
    return torch.where(torch.rand(true.shape, generator=stream) < share, torch.randint(0, 7, true.shape, generator=stream), true.long())


def colour_error_by_loop(pred, true, labels, coloured_only):
    wrong = []
    for p, t, l in zip(pred.numpy(), true.numpy(), labels.numpy()):
        for ball in np.unique(l[l > 0]):
            truth = t[l == ball][0]
            drawn = [c for c in p[l == ball] if c > 0]
            guess = max(range(1, 7), key=drawn.count) if drawn else None
            if not (coloured_only and truth == 1):
                wrong.append(guess != truth)
    return np.mean(wrong) if wrong else math.nan


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.95])
@pytest.mark.parametrize("coloured_only", [False, True])
def test_errors_equal_loops(share, coloured_only):
    _, true, labels, _ = blinking("test", 30, "earliest", size=24, n_balls=(1, 4))
    pred = damaged(true, share, 1)
    assert class_error(pred, true) == pytest.approx(np.mean(pred.numpy() != true.numpy()))
    assert foreground_error(pred, true) == pytest.approx(np.mean((pred != true).numpy()[true.numpy() > 0]))
    found = colour_error(pred, true, labels, coloured_only=coloured_only)
    assert found == pytest.approx(colour_error_by_loop(pred, true, labels, coloured_only))
    assert share > 0 or found == 0
    for dtype in (torch.uint8, torch.int16, torch.int64):
        assert colour_error(pred.to(dtype), true.to(dtype), labels.to(dtype), coloured_only=coloured_only) == found
        assert class_error(pred.to(dtype), true) == class_error(pred, true)


def test_mse_by_step_is_numpys():
    pred, true = (torch.rand(3, 5, 2, 4, 4, generator=torch_stream(k, "mse")) for k in range(2))
    expected = ((pred.double().numpy() - true.double().numpy()) ** 2)
    assert np.allclose(horizon_mse(pred, true), expected.mean(axis=(0, 2, 3, 4)), atol=1e-14)
    assert frame_mse(pred, true) == pytest.approx(expected.mean(), abs=1e-14)
    assert horizon_mse(pred, pred).tolist() == [0] * 5


def test_the_mean_is_the_best_constant():
    frames = torch.from_numpy(bouncing_balls(40, n_frames=3, size=16).frames).float()[:, :, None]
    best = frame_mse(mean_image(frames.flatten(0, 1), 40 * 3), frames.flatten(0, 1))
    for shift in (-0.05, 0.05):
        assert frame_mse(mean_image(frames.flatten(0, 1), 120) + shift, frames.flatten(0, 1)) > best


def test_rollout_rows_of_bouncing_balls():
    "Copying is good for one step and worse than the mean image in the end."
    train, test = (torch.from_numpy(bouncing_balls(100, split=split, n_frames=30, size=32, speed=0.5).frames).float()[:, :, None]
                   for split in ("train", "test"))
    rows = trivial_rollout_scores(train, test[:, :10], test[:, 10:])
    p = train.mean()
    assert list(rows) == ["mean image", "copy last"] and all(len(row["by_step"]) == 20 for row in rows.values())
    assert rows["mean image"]["mse"] == pytest.approx(float(p * (1 - p)), abs=0.02)
    steps = rows["copy last"]["by_step"]
    assert steps[0] < 0.8 * rows["mean image"]["mse"] < steps[0] * 10 and steps[-1] > 1.3 * rows["mean image"]["mse"]
    assert rows["copy last"]["mse"] == pytest.approx(np.mean(steps))
    assert steps[4] == pytest.approx(frame_mse(test[:, 9], test[:, 14]))


@pytest.mark.parametrize("rule", RULES)
def test_rows_of_blinking_balls(rule):
    training = blinking("train", 200, rule)[1]
    context, true, labels, clips = blinking("test", 100, rule)
    rows = trivial_blinking_scores(training, context, true, labels, COLOURS)
    assert list(rows) == ["mean image", "copy last", "all white"]
    truly_coloured = (clips.ball_classes(rule) > 1).mean()
    white = rows["all white"]
    assert white["colour_error"] == pytest.approx(truly_coloured, abs=1e-9) and white["coloured_error"] == 1
    assert white["foreground_error"] == pytest.approx(truly_coloured, abs=0.02)
    assert rows["mean image"]["class_error"] == pytest.approx(float((true > 0).double().mean()), abs=1e-9)     # black everywhere
    assert rows["mean image"]["foreground_error"] == 1 == rows["mean image"]["colour_error"]
    assert white["class_error"] < rows["copy last"]["class_error"]
    assert white["mse"] == pytest.approx(frame_mse(COLOURS[all_white(true).long()], COLOURS[true.long()]))
    assert rows["mean image"]["mse"] == pytest.approx(frame_mse(mean_image(COLOURS[training.long()], 100), COLOURS[true.long()]))


def test_copies_keep_their_type():
    context = torch.randint(0, 7, (2, 3, 4, 4), generator=torch_stream(0, "copy")).to(torch.uint8)
    copied = copy_last(context, 5)
    assert copied.dtype == torch.uint8 and copied.shape == (2, 5, 4, 4) and all(copied[:, t].equal(context[:, -1]) for t in range(5))
    assert all_white(context).dtype == torch.uint8 and set(all_white(context).unique().tolist()) <= {0, 1}


def test_nothing_to_score_is_nan():
    empty = torch.zeros(2, 4, 4, dtype=torch.long)
    assert math.isnan(foreground_error(empty, empty)) and math.isnan(colour_error(empty, empty, empty))
    white = torch.ones(1, 2, 2, dtype=torch.long)
    assert math.isnan(colour_error(white, white, white, coloured_only=True))


@pytest.mark.parametrize("call", [class_error, foreground_error, lambda p, t: colour_error(p, t, t)], ids=["class", "foreground", "colour"])
def test_scores_of_logits_are_refused(call, plain_calls):
    with pytest.raises(ValueError, match=r"class maps of one shape; got \(2, 7, 4, 4\) and \(2, 4, 4\): take argmax"):
        call(torch.zeros(2, 7, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long))


def test_frames_that_are_off_by_one_are_refused(plain_calls):
    with pytest.raises(ValueError, match="does the prediction start one frame later"):
        horizon_mse(torch.zeros(2, 3, 1), torch.zeros(2, 4, 1))
