"Figures and tables: the same bytes twice, words required, colours that stay, numbers equal to pandas, nothing global left behind."
import io
import json
import math
import os
import subprocess
import sys
import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from slotpapers.figures.curves import fig_sweep, fig_training_curves
from slotpapers.figures.scorecard import VERDICTS, effect_range, fig_scorecard, format_effect, interval, scorecard_table
from slotpapers.figures.slotfm import (
    energy_kept, envelope, fig_slotfm_bands, fig_slotfm_embedding, fig_slotfm_masks, fig_slotfm_reconstruction, fig_slotfm_scores,
    fig_slotfm_slot_use, spectral_density)
from slotpapers.figures.tables import (
    Table, column_decimals, markdown_table, printed_decimals, save_table, score_table, seed_scores, seed_summary, split_reasons)
from slotpapers.figures.theme import (
    AXIS_COLORS, PageFigure, check_array, legend_columns, panel_figure, save_figure, slot_colors, themed, use_theme)

WORDS = {"alt": "Lines of three colours rise and fall.", "caption": "Simulated signals, drawn to test the drawing."}
FS, T = 50.0, 100


def signals(n_slots: int = 3, n_bands: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    "A window, its bands, masks and parts that fit together."
    rng = np.random.default_rng(seed)
    bands = rng.normal(size=(n_bands, 3, T)).astype(np.float32)
    masks = rng.uniform(0.1, 1, size=(n_slots, n_bands, T)).astype(np.float32)
    masks /= masks.sum(axis=0)
    return {"x": bands.sum(axis=0), "bands": bands, "masks": masks, "parts": masks[:, :, None] * bands}


def scores(arms=("slotfm", "no_bands"), datasets=("walks",), seeds=3, folds=2, metrics=("macro_f1",)) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame([dict(arm=a, dataset=d, seed=s, fold=f, metric=m, value=rng.uniform(0.2, 0.9))
                         for a in arms for d in datasets for s in range(seeds) for f in range(folds) for m in metrics])


def verdict(i: int, word: str = "supported", **changes) -> dict:
    effect = (None,) * 3 if word == "not run" else (0.05, 0.02, 0.08)
    return {"id": f"claim-{i}", "paper": "SlotFM", "statement": "Bands help.", "place": "Table 4", "verdict": word, "effect": effect[0],
            "low": effect[1], "high": effect[2], "n": 3, "profile": "cpu", "scale": "gpu", "metric": "macro_f1", "stale": False,
            "reason": "needs a GPU" if word == "not run" else "", "margin": 0.01, "direction": "higher", **changes}


def history() -> pd.DataFrame:
    return pd.DataFrame([dict(arm=a, seed=s, step=t, term=k, value=math.exp(-t / 50) + 0.01 * s)
                         for a in ("slotfm", "no_bands") for s in range(2) for t in range(0, 200, 20) for k in ("mse", "ssim", "stft")])


def sweep() -> pd.DataFrame:
    return pd.DataFrame([dict(setting=n, dataset=d, seed=s, fold=0, metric="rmse", value=n + s + (10 if d == "jump" else 0))
                         for n in (1, 2, 12) for d in ("jump", "steps") for s in range(2)])


def all_figures() -> dict:
    "Every figure function of the room, ready to be called."
    s = signals()
    recon = np.stack([0.5 * s["bands"], 0.9 * s["bands"]])
    labels = np.arange(60) % 5
    points = np.random.default_rng(0).normal(size=(3, 60, 2))
    share = np.full((2, 4), 0.25)
    return {
        "bands": lambda: fig_slotfm_bands(s["x"], s["bands"], FS, ["a", "b", "c"], title="Simulated"),
        "masks": lambda: fig_slotfm_masks(s["masks"], s["parts"], s["bands"], FS),
        "reconstruction": lambda: fig_slotfm_reconstruction(s["x"], recon.sum(axis=1), s["bands"], recon, FS, models=["mse", "full"]),
        "scores": lambda: fig_slotfm_scores(scores(datasets=("a", "b", "c")), chance={"a": 0.2, "b": 0.1}, not_run={"relcon": "needs a GPU"}),
        "slot use": lambda: fig_slotfm_slot_use(share, 10 * share, ["walks", "tremors"]),
        "embedding": lambda: fig_slotfm_embedding(points, labels, list("abcde"), ["one", "two", "three"]),
        "curves": lambda: fig_training_curves(history(), title="Simulated"),
        "sweep": lambda: fig_sweep(sweep(), setting="number of bands", divide={"jump": 10}),
        "scorecard": lambda: fig_scorecard([verdict(i, word) for i, word in enumerate(VERDICTS)]),
    }


# ---------------------------------------------------------------- bytes and files

@pytest.mark.parametrize("name", all_figures())
def test_every_figure_fits_its_page_is_the_same_bytes_twice_and_leaves_no_setting(name, tmp_path):
    draw, before = all_figures()[name], dict(mpl.rcParams)
    fig = draw()
    box = fig.get_tightbbox(fig._get_renderer())
    assert -0.01 <= box.x0 and box.x1 <= fig.get_figwidth() + 0.01 and -0.01 <= box.y0 and box.y1 <= fig.get_figheight() + 0.01
    first = [p.read_bytes() for p in save_figure(fig, tmp_path / "a", **WORDS)]
    again = [p.read_bytes() for p in save_figure(draw(), tmp_path / "b", **WORDS)]
    assert first == again
    assert dict(mpl.rcParams) == before and plt.get_fignums() == []
    assert len(first[0]) < 700_000 and len(first[1]) < 400_000     # fits a repository: nothing is drawn one path a sample


def test_the_same_figure_saved_twice_gives_the_same_bytes(tmp_path):
    fig = all_figures()["bands"]()
    first = [p.read_bytes() for p in save_figure(fig, tmp_path / "a", **WORDS)]
    assert first == [p.read_bytes() for p in save_figure(fig, tmp_path / "a", **WORDS)]


def test_a_readers_settings_change_nothing(tmp_path):
    here = [p.read_bytes() for p in save_figure(all_figures()["sweep"](), tmp_path / "a", **WORDS)]
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "black", "lines.linewidth": 9, "svg.fonttype": "none", "savefig.dpi": 30}):
        assert here == [p.read_bytes() for p in save_figure(all_figures()["sweep"](), tmp_path / "b", **WORDS)]


def test_files_hold_the_words_and_no_date(tmp_path):
    svg, png, words = save_figure(all_figures()["bands"](), tmp_path / "new" / "fig", **WORDS)
    assert json.loads(words.read_text()) == {"caption": WORDS["caption"], "alt": WORDS["alt"]}
    text = svg.read_text()
    assert WORDS["alt"] in text and f"<title>{WORDS['caption']}</title>" in text and "dc:date" not in text and "Matplotlib" not in text
    picture = Image.open(png)
    assert picture.size == (825, round(150 * (1.1 + 4.4))) and abs(picture.info["dpi"][0] - 150) < 0.1
    assert "Software" not in picture.info and picture.info["Description"] == WORDS["alt"]
    assert picture.getpixel((1, 1)) == (255, 255, 255, 255)         # opaque white: readable on a dark page


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    old = [p.read_bytes() for p in save_figure(all_figures()["bands"](), tmp_path / "a", **WORDS)]
    fig = all_figures()["sweep"]()

    def cut_off(path, **options):
        with open(path, "w") as part:
            part.write("half a fig")
        raise OSError("disk full")

    monkeypatch.setattr(fig, "savefig", cut_off)
    with pytest.raises(OSError, match="disk full"):
        save_figure(fig, tmp_path / "a", **WORDS)
    assert old == [(tmp_path / f"a.{kind}").read_bytes() for kind in ("svg", "png", "json")] and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("change, message", [
    ({"alt": ""}, "alt must be whole sentences"), ({"alt": "   \n"}, "alt must be whole sentences"), ({"alt": "figure 3."}, "alt must be"),
    ({"caption": ""}, "caption must be whole sentences"), ({"caption": "Bars are means over seeds"}, "end in a full stop"),
    ({"alt": WORDS["caption"]}, "alt must differ from caption"), ({"path_stem": "a.png"}, "path_stem must have no ending")])
def test_words_are_required(change, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        save_figure(all_figures()["bands"](), **{"path_stem": "a", **WORDS, **change})
    assert not list(tmp_path.iterdir())


def test_a_pyplot_figure_is_closed(tmp_path):
    fig, _ = plt.subplots()
    save_figure(fig, tmp_path / "a", **WORDS)
    assert plt.get_fignums() == []


# ---------------------------------------------------------------- theme

def test_the_theme_ends_with_its_block_also_after_an_error():
    before = dict(mpl.rcParams)
    with pytest.raises(RuntimeError), use_theme():
        assert mpl.rcParams["figure.facecolor"] == "white" and mpl.rcParams["font.family"] == ["DejaVu Sans"] and mpl.rcParams != before
        raise RuntimeError
    assert dict(mpl.rcParams) == before


def test_a_drawing_that_fails_leaves_no_setting_and_no_figure():
    before = dict(mpl.rcParams)

    @themed
    def fig_broken():
        PageFigure()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fig_broken()
    assert dict(mpl.rcParams) == before and plt.get_fignums() == []


def test_another_process_gives_the_same_bytes_and_needs_seaborn_only_to_draw(tmp_path):
    here = [p.read_bytes() for p in save_figure(all_figures()["sweep"](), tmp_path / "a", **WORDS)]
    code = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_figures import *
assert "seaborn" not in sys.modules and "IPython" not in sys.modules
save_figure(all_figures()["sweep"](), {str(tmp_path / 'b')!r}, **WORDS)
sys.modules["seaborn"] = None
try:
    all_figures()["sweep"]()
except ModuleNotFoundError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}).stdout
    assert said == "figures are drawn with seaborn, which is not installed: pip install seaborn\n"
    assert here == [(tmp_path / f"b.{kind}").read_bytes() for kind in ("svg", "png", "json")]


def test_a_figure_shows_itself_small_and_in_its_colours():
    fig = all_figures()["masks"]()
    png = fig._repr_png_()
    assert png == fig._repr_png_() and len(png) < 100_000
    seen = {to_hex(np.array(c[1]) / 255) for c in Image.open(io.BytesIO(png)).convert("RGB").getcolors(10**6)}
    nearest = [min(np.abs(np.subtract(to_rgb(c), to_rgb(s))).max() for s in seen) for c in slot_colors(3)]
    assert max(nearest) < 0.1


def test_slot_colors_never_change():
    golden = ["#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#56b4e9", "#949494", "#771144"]
    assert slot_colors(8) == golden and all(slot_colors(n) == slot_colors(32)[:n] for n in range(1, 33))
    assert len(set(slot_colors(32))) == 32 and not set(slot_colors(32)) & set(AXIS_COLORS.values())
    slot_colors(3).append("red")
    assert slot_colors(8) == golden
    for wrong in (0, 33, -1):
        with pytest.raises(ValueError, match=f"n must be from 1 to 32; got {wrong}"):
            slot_colors(wrong)


def test_arrays_are_checked_by_name():
    with pytest.raises(ValueError, match=r"bands must be \(W, 3, 100\); got \(3, 99\): transposed\?"):
        check_array("bands", np.zeros((3, 99)), "W C T", "transposed?", C=3, T=100)
    broken = np.zeros((2, 3))
    broken[1, 2] = np.inf
    with pytest.raises(ValueError, match=r"x must be finite; the first value that is not stands at \(1, 2\)"):
        check_array("x", broken, "C T")
    read_only = np.zeros((2, 3))
    read_only.flags.writeable = False
    check_array("x", read_only, "C T")


def test_panels_and_legends_fill_the_page():
    for n in (1, 2, 5):
        with use_theme():
            fig, axes = panel_figure(n, 1.0, around=0.5, title="t")
        assert len(axes) == len(fig.axes) == n and fig.get_figheight() == 0.5 + -(-n // 2)
    assert [legend_columns([name]) for name in ("ab", "a" * 20, "a" * 40, "a" * 200)] == [4, 2, 1, 1]


# ---------------------------------------------------------------- tables

def test_seed_summary_equals_pandas_by_hand():
    frame = scores(arms=("a", "b", "c"), datasets=("d", "e"), seeds=4, folds=5, metrics=("f1", "rmse"))
    shuffled = frame.sample(frac=1, random_state=0)
    for got in (seed_summary(frame), seed_summary(shuffled)):
        assert len(got) == 12
        for row in got.itertuples():
            mine = frame[(frame.arm == row.arm) & (frame.dataset == row.dataset) & (frame.metric == row.metric)]
            by_seed = [mine[mine.seed == s]["value"].sum() / 5 for s in range(4)]
            assert abs(row.mean - sum(by_seed) / 4) < 1e-12
            assert abs(row.sd - math.sqrt(sum((v - sum(by_seed) / 4) ** 2 for v in by_seed) / 3)) < 1e-12
            assert (row.n, row.folds) == (4, 5)


def test_folds_are_averaged_before_seeds():
    "Two seeds with equal fold means: no spread over seeds, however much folds differ."
    frame = pd.DataFrame([dict(arm="a", dataset="d", seed=s, fold=f, metric="m", value=v) for s, f, v in ((0, 0, 0.0), (0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0))])
    assert seed_summary(frame)[["mean", "sd"]].values.tolist() == [[0.5, 0.0]]
    assert seed_scores(frame)["value"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("break_it, message", [
    (lambda f: f.drop(index=1), "same folds"), (lambda f: pd.concat([f, f[:1]]), "repeated"), (lambda f: f.assign(value=np.inf), "finite"),
    (lambda f: f.drop(columns="seed"), "seed missing")])
def test_scores_that_cannot_be_averaged_are_refused(break_it, message):
    with pytest.raises(ValueError, match=message):
        seed_summary(break_it(scores()))


def test_digits():
    assert column_decimals([12.0], [0.0123]) == 3 and column_decimals([12.0], [0.123, 1.9]) == 1 and column_decimals([1e4], [250.0]) == 0
    assert column_decimals([0.5], [0.0]) == 3 and column_decimals([0.0], [math.nan]) == 2 and column_decimals([], []) == 2
    assert column_decimals([1.0], [1e-9]) == 5 and column_decimals([53.2], []) == 1
    assert printed_decimals([64.7, 12.0]) == 1 and printed_decimals([3.61, 0.6]) == 2 and printed_decimals([4.0]) == 0 and printed_decimals([math.nan]) == 0


DATA = [{"name": "walks", "simulated": True, "participants": 12, "participants_published": 24}]


def test_score_table_against_pandas_by_hand():
    frame, paper = scores(seeds=3), pd.DataFrame([("slotfm", "walks", "macro_f1", 74.0, 9.2), ("cpc", "walks", "macro_f1", 51.4, math.nan)],
                                                 columns=["arm", "dataset", "metric", "mean", "sd"])
    table = score_table(frame, data=DATA, paper=paper, percent=["macro_f1"])
    by_seed = 100 * frame[frame.arm == "no_bands"].groupby("seed")["value"].mean()
    assert np.isclose(table.numbers["mean"][1], by_seed.mean()) and np.isclose(table.numbers["sd"][1], by_seed.std(ddof=1))
    decimals = column_decimals(list(table.numbers["mean"][:2]), list(table.numbers["sd"][:2]))
    cells = table.shown.iloc[:, 1].tolist()
    assert cells[1] == "**simulated**, 12 of 24 participants" and cells[3] == f"{by_seed.mean():.{decimals}f} ± {by_seed.std(ddof=1):.{decimals}f}"
    assert cells[5:] == ["74.0 ± 9.2", "51.4"]                      # as printed, not multiplied
    assert table.shown.columns[1] == "walks, macro_f1 (%)" and table.shown.iloc[0, 0] == "**Measured here** (mean ± sd over 3 seeds, each the mean of 2 folds)"
    assert table.numbers["panel"].tolist() == ["measured here"] * 2 + ["printed in the paper"] * 2
    assert table.numbers["simulated"].tolist() == [True, True, False, False]


def test_unequal_numbers_of_seeds_are_said_in_the_cell():
    frame = scores()
    table = score_table(frame[(frame.arm != "no_bands") | (frame.seed == 0)], data=DATA)
    assert table.shown.iloc[0, 0].startswith("**Measured here** (mean ± sd over n seeds")
    assert table.shown.iloc[2, 1].endswith("(n = 3)") and table.shown.iloc[3, 1].endswith("(n = 1)") and "±" not in table.shown.iloc[3, 1]
    alone = score_table(frame[frame.seed == 0], data=DATA)
    assert "(one seed" in alone.shown.iloc[0, 0] and "±" not in alone.shown.iloc[2, 1]


def test_what_was_not_run_needs_a_reason():
    frame = scores(datasets=("walks", "pamap2"))
    data = [*DATA, {"name": "pamap2", "simulated": False}]
    missing = frame[(frame.arm != "no_bands") | (frame.dataset != "pamap2")]
    with pytest.raises(ValueError, match="arm 'no_bands' has no 'macro_f1' on 'pamap2'"):
        score_table(missing, data=data)
    because = pd.DataFrame([("no_bands", "pamap2", "*", "needs 8 GPUs")], columns=["arm", "dataset", "metric", "reason"])
    assert score_table(missing, data=data, not_run=because).shown.iloc[3, 2] == "not run: needs 8 GPUs"
    empty = {"arm": "no_bands", "dataset": "pamap2", "seed": 0, "fold": 0, "metric": "macro_f1", "value": None, "reason": "too little memory"}
    rows = pd.DataFrame([*missing.to_dict("records"), empty])
    assert score_table(rows, data=data).shown.iloc[3, 2] == "not run: too little memory"
    with pytest.raises(ValueError, match="a value or a reason in every row"):
        split_reasons(rows.assign(reason=None))
    with pytest.raises(ValueError, match="pamap2 missing"):
        score_table(frame, data=DATA)
    with pytest.raises(ValueError, match="not_run must have the columns"):
        score_table(missing, data=data, not_run=because.drop(columns="reason"))


def test_a_table_of_reasons_alone_can_be_printed():
    empty = pd.DataFrame([{"arm": "slotfm", "dataset": "walks", "seed": 0, "fold": 0, "metric": "macro_f1", "value": None, "reason": "needs a GPU"}])
    paper = pd.DataFrame([("slotfm", "walks", "macro_f1", 74, 9)], columns=["arm", "dataset", "metric", "mean", "sd"])
    table = score_table(empty, data=DATA, paper=paper)
    assert table.shown.iloc[:, 1].tolist() == ["", "**simulated**, 12 of 24 participants", "not run: needs a GPU", "", "74 ± 9"]
    assert table.shown.iloc[0, 0] == "**Measured here**"


def test_a_column_of_the_paper_alone_is_shown_with_a_reason():
    paper = pd.DataFrame([("slotfm", "cooking", "macro_f1", 50.9, 12.2)], columns=["arm", "dataset", "metric", "mean", "sd"])
    everywhere = pd.DataFrame([("*", "cooking", "*", "not public")], columns=["arm", "dataset", "metric", "reason"])
    table = score_table(scores(), data=DATA, paper=paper, not_run=everywhere)
    assert table.shown["cooking, macro_f1"].tolist() == ["", "", "not run: not public", "not run: not public", "", "50.9 ± 12.2"]
    assert table.shown.iloc[-1, 1] == ""                            # the paper has no such column


def test_markdown_keeps_its_columns():
    frame = pd.DataFrame({"a|b": ["x\ny", None], "n": [1.5, float("nan")]})
    assert markdown_table(frame) == "| a\\|b | n |\n| --- | ---: |\n| x y | 1.5 |\n|  |  |\n"
    assert Table(frame, frame)._repr_markdown_() == markdown_table(frame)


def test_tables_are_saved_the_same_twice(tmp_path):
    table = score_table(scores(), data=DATA, percent=["macro_f1"])
    first = [p.read_bytes() for p in save_table(table, tmp_path / "new/a", caption="Simulated scores of two arms.")]
    assert first == [p.read_bytes() for p in save_table(table, tmp_path / "b", caption="Simulated scores of two arms.")]
    assert first[0].decode().startswith("Simulated scores of two arms.\n\n| ") and b"\r" not in first[1]
    assert np.allclose(pd.read_csv(tmp_path / "b.csv")["mean"], table.numbers["mean"], rtol=1e-7)
    for wrong, message in (({"caption": "Scores"}, "caption must be"), ({"path_stem": tmp_path / "a.csv"}, "no ending")):
        with pytest.raises(ValueError, match=message):
            save_table(table, **{"path_stem": tmp_path / "c", "caption": "Simulated scores of two arms.", **wrong})


# ---------------------------------------------------------------- scorecard

@pytest.mark.parametrize("n", [1, 5, 60])
def test_every_claim_has_its_word_and_nothing_leaves_the_page(n):
    words = list(VERDICTS)
    fig = fig_scorecard([verdict(i, words[i % 6], metric=("macro_f1", "rmse")[i % 2], paper="AB"[i % 3 % 2], statement="Bands help. " * (i % 9 + 1))
                         for i in range(n)])
    page = fig.axes[0]
    said = [t.get_text() for t in page.texts]
    assert sum(any(s.startswith(f"{look.sign} {look.word}") for look in VERDICTS.values()) for s in said) == n
    renderer = fig._get_renderer()
    assert all(fig.bbox.x0 <= t.get_window_extent(renderer).x0 and t.get_window_extent(renderer).x1 <= fig.bbox.x1 for t in page.texts)
    left = sorted((t.get_window_extent(renderer) for t in page.texts if t.get_position()[0] < 1), key=lambda box: -box.y1)
    right = sorted((t.get_window_extent(renderer) for t in page.texts if t.get_position()[0] > 1), key=lambda box: -box.y1)
    for column in (left, right):
        assert all(above.y0 >= below.y1 - 2 for above, below in zip(column, column[1:]))    # no line of words on another


def test_markers_stand_at_effects_and_wide_intervals_are_cut():
    fig = fig_scorecard([verdict(0), verdict(1, effect=-0.03, low=-math.inf, high=math.inf, n=1, verdict="inconclusive"), verdict(2, "not run")])
    ax = fig.axes[1]
    effects = [line.get_xdata()[0] for line in ax.lines if line.get_marker() in "oD"]
    assert effects == [0.05, -0.03] and ax.get_xlim()[1] < 0.3
    assert sorted(line.get_marker() for line in ax.lines if line.get_marker() in "<>") == ["<", ">"]
    assert effect_range([verdict(0, effect=0.0, low=0.0, high=0.0, margin=0.0)])[0] < 0


def test_the_scorecard_tells_claims_without_numbers():
    fig = fig_scorecard([verdict(0, "not run", metric="ari", profile=None)])
    assert len(fig.axes) == 1                                       # no axis without an effect
    assert interval(verdict(0, low=None, high=math.nan)) == (0.05, -math.inf, math.inf) and interval(verdict(0, effect=math.nan)) is None


@pytest.mark.parametrize("wrong, message", [
    ({"verdict": "true"}, "the verdict of 'claim-0' must be one of 'supported'"), ({"direction": "up"}, "the direction of 'claim-0'"),
    ({"verdict": "not run", "reason": ""}, "must give a reason"), ({"id": "claim-1"}, "an id of its own; twice: claim-1")])
def test_verdicts_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        scorecard_table([{**verdict(0), **wrong}, verdict(1)])
    with pytest.raises(ValueError, match="place missing"):
        fig_scorecard([{k: v for k, v in verdict(0).items() if k != "place"}])


def test_scorecard_table_keeps_numbers_and_words():
    rows = [verdict(0, stale=True), verdict(1, "not run")]
    table = scorecard_table(rows)
    assert table.shown["verdict"].tolist() == ["● supported (stale)", "– not run"] and table.shown["remark"][1] == "needs a GPU"
    assert table.numbers["effect"][0] == 0.05 and math.isnan(table.numbers["effect"][1])
    assert format_effect(rows[0]) == "+0.050 [+0.020, +0.080] macro_f1"


# ---------------------------------------------------------------- SlotFM

def test_spectrum_energy_and_envelope_by_closed_form():
    time = np.arange(500) / FS
    x = np.stack([2 * np.sin(2 * np.pi * 6.25 * time), np.zeros(500), np.full(500, 9.8)])
    frequency, density = spectral_density(x, FS)
    assert frequency[density.argmax()] == 6.25 and abs(np.trapezoid(density, frequency) - 2) < 0.02      # power a²/2, no gravity
    assert energy_kept(np.zeros((3, 50)), x[:, :50]) == 0 and np.isclose(energy_kept(-3 * x + 1, x), 9)
    assert np.allclose(envelope(x[2], FS), 9.8) and np.allclose(spectral_density(x.astype(np.float16), FS)[0], frequency)


@pytest.mark.parametrize("n_slots, n_bands", [(1, 1), (8, 2)])
def test_slot_grid_has_a_cell_per_slot_and_band_in_the_slots_colour(n_slots, n_bands):
    s = signals(n_slots, n_bands)
    fig = fig_slotfm_masks(s["masks"], s["parts"], s["bands"], FS)
    assert len(fig.axes) == (1 + n_slots) * n_bands
    for k in range(n_slots):
        for w in range(n_bands):
            lines = fig.axes[(1 + k) * n_bands + w].collections[0]
            between = (s["masks"][k, w, :-1] + s["masks"][k, w, 1:]) / 2
            assert np.allclose(lines.get_colors()[:, 3], np.tile(between, 3), atol=1e-6)
            assert to_hex(lines.get_colors()[0, :3]) == slot_colors(n_slots)[k]


def test_figures_refuse_arrays_that_do_not_fit(plain_calls):
    s = signals()
    for call, message in [
        (lambda: fig_slotfm_masks(s["masks"], s["parts"][:2], s["bands"], FS), r"parts must be \(3, 3, 3, 100\); got \(2, 3, 3, 100\)"),
        (lambda: fig_slotfm_masks(2 * s["masks"], s["parts"], s["bands"], FS), "masks must sum to one over slots; got sums from 2"),
        (lambda: fig_slotfm_bands(s["x"], s["bands"][..., :50], FS), r"bands must be \(W, 3, 100\)"),
        (lambda: fig_slotfm_bands(s["x"] * np.nan, s["bands"], FS), "x must be finite"),
        (lambda: fig_slotfm_reconstruction(s["x"], s["x"][None], s["bands"], s["bands"][None], FS, models=["a", "b"]), "as many models"),
        (lambda: fig_slotfm_slot_use(np.ones((1, 4)), np.ones((1, 4)), ["a"]), "weights must sum to one"),
        (lambda: fig_slotfm_embedding(np.zeros((1, 3, 2)), np.array([0, 1, 2]), ["a", "b"], ["p"]), "labels must index classes, 0 to 1; got 0 to 2"),
        (lambda: fig_slotfm_scores(scores(), metric="rmse"), "metric must be one of macro_f1; got 'rmse'"),
        (lambda: fig_training_curves(history().drop(columns="step")), "history must have the columns"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_single_reconstruction_needs_no_model_axis():
    s = signals()
    one = fig_slotfm_reconstruction(s["x"], 0.5 * s["x"], s["bands"], 0.5 * s["bands"], FS)
    assert [t.get_text() for t in one.axes[1].texts] == ["25%", "kept"]
    waves = [len(ax.lines) for ax in one.axes]
    assert waves == [2] * 8 and "envelope" in one.axes[6].get_title("left") and "envelope" not in one.axes[4].get_title("left")
    flat = signals(n_bands=1)
    assert "envelope" not in fig_slotfm_reconstruction(flat["x"], flat["x"], flat["bands"], flat["bands"], FS).axes[2].get_title("left")


def test_bars_dots_and_error_bars_are_means_seeds_and_sd():
    frame = scores(arms=("a", "b"), seeds=3, folds=2)
    fig = fig_slotfm_scores(frame, chance=0.25, not_run={"c": "needs a GPU"})
    ax, by_seed = fig.axes[0], frame.groupby(["arm", "seed"])["value"].mean()
    assert np.allclose([bar.get_width() for bar in ax.patches], [by_seed["a"].mean(), by_seed["b"].mean()])
    dots = [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]
    assert np.allclose(dots[0], by_seed["a"]) and np.allclose(dots[1], by_seed["b"])
    (start, _), (end, _) = ax.collections[0].get_segments()[0]
    assert np.isclose((end - start) / 2, by_seed["a"].std(ddof=1))
    assert "mean ± sd over 3 seeds (dots), 2 folds averaged; dashed: chance" in fig._supxlabel.get_text()
    assert [t.get_text() for t in ax.texts] == ["not run"] and [line.get_xdata()[0] for line in ax.lines if line.get_label() == "chance"] == [0.25]
    one = fig_slotfm_scores(frame[frame.seed == 0])
    assert one._supxlabel.get_text() == "macro_f1: one seed, 2 folds averaged" and not one.axes[0].collections


def test_rows_without_a_value_say_so_and_leave_the_reason_to_the_table():
    row = {"arm": "relcon", "dataset": "walks", "seed": 0, "fold": 0, "metric": "macro_f1", "value": None, "reason": "needs a GPU"}
    frame = pd.DataFrame([*scores(datasets=("walks", "trips")).to_dict("records"), *scores(arms=("extra",), datasets=("walks",)).to_dict("records"), row])
    fig = fig_slotfm_scores(frame)
    assert [[t.get_text() for t in ax.texts] for ax in fig.axes] == [["not run"], ["no score", "not run"]]
    table = score_table(frame[frame.dataset == "walks"], data=[{"name": "walks", "simulated": True}])
    assert "needs a GPU" in markdown_table(table.shown)


def test_a_long_reason_leaves_two_panels_their_room_and_every_name_its_letters(recwarn):
    "The comparison of profile cpu: one arm trained on one of two sets, one on none, and long names."
    reason = "takes much longer than the other rows; this profile leaves it out here"
    names = {"slotfm": "SlotFM", "gru": "GRU, from scratch", "deep_conv_lstm": "DeepConvLSTM, from scratch"}
    rows = [*scores(arms=("slotfm",), datasets=("motionsense", "daphnet")).to_dict("records"), *scores(arms=("gru",), datasets=("daphnet",)).to_dict("records")]
    for arm, sets in (("gru", ("motionsense",)), ("deep_conv_lstm", ("motionsense", "daphnet"))):
        rows += [{"arm": arm, "dataset": d, "seed": 0, "fold": 0, "metric": "macro_f1", "value": None, "reason": reason} for d in sets]
    fig = fig_slotfm_scores(pd.DataFrame(rows), names=names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig.canvas.draw()
    page = fig.bbox
    for ax in fig.axes:
        assert ax.get_window_extent().width > 0.25 * page.width
        boxes = [text.get_window_extent() for text in [*ax.texts, *(label for label in ax.get_yticklabels() if label.get_visible() and label.get_text())]]
        assert all(box.x0 >= page.x0 and box.x1 <= page.x1 for box in boxes)
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == list(names.values()) and not recwarn.list


def test_curves_and_sweeps_draw_the_means_of_pandas():
    frame = history()
    fig = fig_training_curves(frame)
    assert len(fig.axes) == 3 and fig.axes[0].get_yscale() == "log" and "(log scale)" in fig.axes[0].get_title("left")
    want = frame[(frame.arm == "slotfm") & (frame.term == "mse")].groupby("step")["value"].mean()
    assert np.allclose(fig.axes[0].lines[2].get_ydata(), want) and len(fig.axes[0].lines) == 6
    fig = fig_sweep(sweep(), setting="number of bands", divide={"jump": 10})
    by_setting = sweep().assign(value=lambda f: f["value"] / np.where(f["dataset"] == "jump", 10, 1)).groupby(["setting", "dataset"])["value"].mean()
    assert np.allclose(fig.axes[0].lines[-1].get_ydata(), by_setting.groupby("setting").mean())
    assert "jump / 10" in [t.get_text() for t in fig.legends[0].texts]
