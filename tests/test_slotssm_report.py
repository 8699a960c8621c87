"What readers see of SlotSSM: pictures and lines hold the numbers given, nothing missing is left out silently, and every message names its cure."
import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from slotpapers.figures.slotssm import (
    arm_colors, as_rgb, fig_slotssm_cost, fig_slotssm_paths, fig_slotssm_pictures, fig_slotssm_points, fig_slotssm_series, fig_slotssm_video,
    slot_picture, winner_picture)
from slotpapers.figures.theme import FAINT, save_figure, slot_colors

WORDS = {"alt": "Lines of two colours rise.", "caption": "Made-up numbers, drawn to test the drawing."}


def scores(arms=("slotssm", "rim"), seeds=3) -> pd.DataFrame:
    return pd.DataFrame([dict(arm=arm, dataset="balls", seed=seed, fold=0, metric="mse", value=0.02 * (i + 1) + 0.001 * seed, reason=None)
                         for i, arm in enumerate(arms) for seed in range(seeds)])


def points(seeds=3, panels=("a", "b"), arms=("slotssm", "slot_transformer")) -> pd.DataFrame:
    return pd.DataFrame([dict(arm=arm, panel=panel, setting=n, seed=seed, value=np.nan if arm != "slotssm" and n > 100 else 0.001 * n + 0.01 * seed)
                         for arm in arms for panel in panels for n in (50, 100, 200) for seed in range(seeds)])


def crosses(ax) -> list[list[float]]:
    return [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "x"]


# ---------------------------------------------------------------- pictures

@pytest.mark.parametrize("picture,message", [
    (np.zeros((1, 4, 4)), "batch or channel axis"), (np.zeros(4), r"must be \(H, W\)"), (np.zeros((2, 3, 4, 4)), "must be"), (np.full((2, 2), np.nan), "must be finite")])
def test_a_picture_that_is_none_is_refused(picture, message):
    with pytest.raises(ValueError, match=message):
        as_rgb(picture)


def test_pictures_in_grey_colours_and_bytes_become_the_same_colours():
    grey = np.array([[0.0, 0.2], [1.0, -3.0]])
    assert np.array_equal(as_rgb(grey)[..., 1], [[0, 0.2], [1, 0]])
    assert np.allclose(as_rgb((np.stack([grey.clip(0, 1)] * 3, -1) * 255).astype(np.uint8)), as_rgb(grey))
    assert np.array_equal(as_rgb(np.array([[0, 1]], np.uint8)), np.repeat([[[0.0], [1.0]]], 3, axis=-1)), "whole numbers without colours are 0 and 1"


def test_slot_pictures_fade_where_slots_share_and_refuse_other_weights():
    shares = np.array([0.25, 0.5, 0.75, 1.0])
    picture = slot_picture(np.stack([shares, *[(1 - shares) / 3] * 3])[:, None])
    strength = (shares - 0.25) / 0.75
    assert np.allclose(picture[0], 1 - strength[:, None] * (1 - np.array(to_rgb(slot_colors(1)[0]))))
    assert np.allclose(slot_picture(np.ones((1, 2, 2))), to_rgb(slot_colors(1)[0])), "a single slot takes all"
    with pytest.raises(ValueError, match="sum to one over slots"):
        slot_picture(np.ones((2, 3, 3)))
    assert np.allclose(winner_picture(np.array([[1, 3]])), [[to_rgb(slot_colors(4)[1]), to_rgb(slot_colors(4)[3])]])


def test_a_grid_holds_each_picture_in_its_place_and_leaves_gaps():
    shots = [np.full((4, 4), v) for v in (0.1, 0.5, 0.9)]
    fig = fig_slotssm_pictures({"truth": shots, "a\nmodel": [None, shots[1], None]}, ["1", "2", "3"], title="Made-up")
    images = fig.axes[0].images
    assert [image.get_array()[0, 0, 0] for image in images] == [0.1, 0.5, 0.9, 0.5]
    left, right, bottom, top = images[3].get_extent()
    assert 1 < left < right < 2 and 1 < top < bottom < 2
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["truth", "a\nmodel"]
    bare = fig_slotssm_pictures({"": shots}, ["", "", ""])
    assert bare.get_figheight() < fig.get_figheight()
    with pytest.raises(ValueError, match="row 'truth' has 3"):
        fig_slotssm_pictures({"truth": shots}, ["1"])


def test_pictures_are_drawn_without_smoothing():
    half = np.zeros((2, 2))
    half[:, 1] = 1
    shown = io.BytesIO()
    fig_slotssm_pictures({"": [half]}, [""]).savefig(shown, format="png", dpi=100)
    values = np.unique(np.array(Image.open(shown).convert("L")))
    assert {0, 255} <= set(values) and len(values) <= 4, "only the picture's edge is blended with the page"


# ---------------------------------------------------------------- numbers

def test_colours_are_given_in_order_and_trivial_arms_are_grey():
    assert arm_colors(["b", "copy", "a", "b"], ["copy"]) == {"b": slot_colors(2)[0], "a": slot_colors(2)[1], "copy": FAINT}
    assert arm_colors(["copy"], ["copy"]) == {"copy": FAINT}


@pytest.mark.parametrize("seeds", [1, 3])
def test_video_bars_are_means_over_seeds_and_lines_their_horizon(seeds):
    frame, horizon = scores(seeds=seeds), {"slotssm": np.linspace(1, 2, 5) + np.arange(seeds)[:, None], "copy_last": np.full((1, 5), 3.0)}
    fig = fig_slotssm_video(frame, horizon, metric="mse", trivial=["copy_last"], title="Made-up")
    left, right = fig.axes
    assert np.allclose([bar.get_width() for bar in left.patches], frame.groupby("arm", sort=False)["value"].mean())
    assert np.allclose(right.lines[0].get_ydata(), horizon["slotssm"].mean(axis=0)) and list(right.lines[0].get_xdata()) == [1, 2, 3, 4, 5]
    assert right.lines[1].get_linestyle() == "--" and "horizon" not in fig.get_supxlabel()
    assert ("one seed" in fig.get_supxlabel()) == (seeds == 1)


def test_video_says_what_was_not_run():
    frame = pd.concat([scores(("slotssm",)), pd.DataFrame([dict(arm="rim", dataset="balls", seed=0, fold=0, metric="mse", value=np.nan, reason="needs 9 GB")])])
    fig = fig_slotssm_video(frame, {"slotssm": np.ones((3, 4))}, metric="mse")
    assert [t.get_text() for t in fig.axes[0].texts] == ["not run: needs 9 GB"]
    with pytest.raises(ValueError, match="metric"):
        fig_slotssm_video(frame, {}, metric="accuracy")
    with pytest.raises(ValueError, match="value or a reason"):
        fig_slotssm_video(frame.assign(reason=None), {}, metric="mse")


def test_series_are_logarithmic_only_over_a_wide_range():
    narrow, wide = {"slotssm": np.linspace(1, 2, 6)[None]}, {"slotssm": np.geomspace(1, 100, 6)[None], "copy_last": np.ones((1, 6))}
    fig = fig_slotssm_series({"near": narrow, "far": wide}, steps="step", mark=3, trivial=["copy_last"])
    assert [ax.get_yscale() for ax in fig.axes] == ["linear", "log"] and "(log)" in fig.axes[1].get_ylabel()
    assert fig.legends[0].get_title().get_text() == "one seed; dotted line: 3, as trained"
    assert "dotted" not in fig_slotssm_series({"near": {"slotssm": np.ones((2, 4))}}, steps="step").legends[0].get_title().get_text()


def test_paths_start_at_the_last_place_seen():
    true = np.random.default_rng(0).uniform(-1, 1, (8, 3, 2))
    fig = fig_slotssm_paths(true, {"slotssm": true + 0.1, "copy_last": true}, 5, names={"slotssm": "SlotSSM"})
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["SlotSSM", "copy_last"]
    assert np.allclose(fig.axes[0].lines[1].get_xydata(), true[4:, 0] + 0.1) and np.allclose(fig.axes[0].lines[0].get_xydata(), true[:, 0])
    with pytest.raises(ValueError, match="slotssm"):
        fig_slotssm_paths(true, {"slotssm": true[:4]}, 5)


@pytest.mark.parametrize("mark,trivial", [(None, ()), (100, ("slot_transformer",))])
def test_points_join_means_and_cross_out_what_could_not_run(mark, trivial):
    frame = points()
    fig = fig_slotssm_points(frame, setting="length (steps)", mark=mark, trivial=trivial, names={"a": "Task A"}, title="Made-up")
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["Task A", "b"]
    for ax in fig.axes:
        assert np.allclose(ax.lines[0].get_ydata(), frame.query("arm == 'slotssm' and panel == 'a'").groupby("setting")["value"].mean())
        assert crosses(ax) == [[200]]
    said = fig.legends[0].get_title().get_text()
    assert "could not be run" in said and ("as trained" in said) == (mark is not None)


def test_points_of_one_seed_say_so_and_none_at_all_are_refused():
    said = fig_slotssm_points(points(1, arms=("slotssm",)), setting="length").legends[0].get_title().get_text()
    assert said == "one seed"
    with pytest.raises(ValueError, match="at least one value"):
        fig_slotssm_points(points().assign(value=np.nan), setting="length")
    with pytest.raises(ValueError, match="panel missing"):
        fig_slotssm_points(points().drop(columns="panel"), setting="length")


def test_costs_show_both_units_and_cross_out_skipped_lengths():
    frame = pd.DataFrame([dict(arm=arm, length=n, milliseconds=np.nan if gone else n**power, megabytes=np.nan if gone else 2.0 * n)
                          for arm, power in (("slotssm", 1), ("slot_transformer", 2)) for n in (80, 320, 1280) for gone in [arm != "slotssm" and n > 1000]])
    fig = fig_slotssm_cost(frame, title="Made-up")
    time, memory = fig.axes
    assert np.allclose(time.lines[0].get_ydata(), [80, 320, 1280]) and np.allclose(memory.lines[0].get_ydata(), [160, 640, 2560])
    assert crosses(time) == crosses(memory) == [[1280]] and "skipped" in fig.legends[0].get_title().get_text()
    unmeasured = fig_slotssm_cost(frame.assign(megabytes=np.nan))
    assert unmeasured.axes[0].get_yscale() == "log" and not [line for line in unmeasured.axes[1].lines if line.get_linestyle() == "-" and len(line.get_xdata())]


def test_figures_are_the_same_bytes_twice(tmp_path):
    draw = lambda: [fig_slotssm_points(points(), setting="length"), fig_slotssm_series({"a": {"slotssm": np.ones((2, 4))}}, steps="step"),
                    fig_slotssm_pictures({"truth": [np.eye(4)]}, ["1"]), fig_slotssm_video(scores(), {"slotssm": np.ones((2, 3))}, metric="mse")]
    written = [[path.read_bytes() for i, fig in enumerate(draw()) for path in save_figure(fig, tmp_path / f"{turn}{i}", **WORDS)] for turn in "ab"]
    assert written[0] == written[1]
