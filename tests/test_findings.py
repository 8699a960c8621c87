"Findings: every check exists, gives what is recorded, and would notice if it were otherwise."
import copy
import importlib
import json
import shutil
from functools import partial

import numpy as np
import pytest
import yaml
from fixtures_tables import changed
from scipy import signal

from slotpapers.core.records import Windows
from slotpapers.data.sampling import WeightedParticipants
from slotpapers.evaluation.findings import load_findings
from slotpapers.evaluation.paper_tables import load_tables
from slotpapers.evaluation.segmentation import adjusted_rand_index
from slotpapers.recipes import findings as F
from slotpapers.recipes import findings_slotssm as M
from slotpapers.recipes import findings_smoothsa as S
from slotpapers.recipes.scorecard import all_findings, finding_from_scores, write_scorecard


@pytest.fixture(scope="module")
def papers(root):
    return root / "data/papers"


@pytest.fixture(scope="module")
def tables(papers):
    return load_tables(papers / "slotfm.yaml")


@pytest.fixture(scope="module")
def outcomes(papers):
    return F.run_all_findings(papers)


@pytest.fixture
def other_papers(tmp_path, papers):
    "A copy of the tables, and a way to write its findings."
    shutil.copy(papers / "slotfm.yaml", tmp_path)
    shutil.copy(papers / "claims.yaml", tmp_path)

    def write(**changes):
        entry = dict(id="one", paper="slotfm", statement="s", where="w", check="slotpapers.recipes.findings.decoder_size", result="r")
        (tmp_path / "findings.yaml").write_text(yaml.safe_dump({"findings": [entry | changes]}))
        return tmp_path
    return write


# ---------------------------------------------------------------------------------------------------------------- as recorded
def test_every_finding_agrees_or_waits_for_a_run(outcomes, papers):
    found = load_findings(papers / "findings.yaml")
    assert list(outcomes) == [f.id for f in found]
    assert {f.id for f in found if f.check.startswith("results:")} == {name for name, o in outcomes.items() if o["agrees"] is None}
    assert not [name for name, o in outcomes.items() if o["agrees"] is False]


def test_the_file_and_the_module_name_the_same_checks(papers):
    named = {f.check for f in load_findings(papers / "findings.yaml") if f.check.startswith("slotpapers.recipes.")}
    assert named == set(F.ALL_CHECKS)


@pytest.mark.parametrize("name", F.ALL_CHECKS)
def test_a_check_is_reached_by_its_full_name_and_returns_what_is_recorded(name, papers):
    finding, = (f for f in load_findings(papers / "findings.yaml") if f.check == name)
    tables = load_tables(papers / f"{finding.paper}.yaml")
    module, _, function = finding.check.rpartition(".")
    before = copy.deepcopy(tables)
    assert getattr(importlib.import_module(module), function)(tables) == finding.result
    assert tables == before, "a check must not change the tables"


def test_outcomes_can_be_written(outcomes):
    assert json.loads(json.dumps(outcomes))["slotfm-ssim-sign-trap"]["measured"]["MS-STFT(x, -x)"] == 0


# ---------------------------------------------------------------------------------------------------------------- otherwise
@pytest.mark.parametrize("check, place, value", [
    (F.no_filter_at_nyquist, ("text", "sampling_rate_hz", "value"), 52),
    (F.band_pass_sum_gain, ("tables", "table7", "rows", 3), [[0, 1], [1, 10], [10, 20]]),
    (F.high_band_without_regularisers, ("tables", "table5", "rows", "high"), [1, 50, 0.1, 10]),
    (F.decoder_size, ("text", "hidden_channels", "value"), 128),
    (F.steps_per_epoch, ("text", "participants_per_batch", "value"), 8),
    (F.steps_per_epoch, ("text", "epochs", "value"), 100),
], ids=lambda x: getattr(x, "__name__", None))
def test_a_check_notices_other_numbers(check, place, value, tables):
    assert check(changed(tables, place, value)) != check(tables)


@pytest.mark.parametrize("check, name, made", [
    (F.update_without_division, "Competition", lambda real: lambda *a, normalize, **k: real(*a, normalize=True, **k)),
    (F.ssim_loss_above_one, "ssim_loss", lambda real: lambda *a, **k: real(*a, **k).clamp(max=1)),
    (F.ssim_rewards_wrong_sign, "ssim_loss", lambda real: partial(real, signed=True)),
    (F.ssim_rewards_wrong_sign, "ms_stft_loss", lambda real: lambda x, y: real(x, y) + (x - y).square().mean()),
    (F.no_filter_at_nyquist, "Bands", lambda real: lambda edges, fs: None),
], ids=lambda x: getattr(x, "__name__", None))
def test_a_check_notices_another_block(check, name, made, tables, monkeypatch):
    real = getattr(F, name)
    if check is F.ssim_rewards_wrong_sign and name == "ssim_loss":
        monkeypatch.setattr(F, name, lambda x, y, window, signed=True: made(real)(x, y, window))
    else:
        monkeypatch.setattr(F, name, made(real))
    assert check(tables).startswith("not so: {")


def test_a_wrong_record_disagrees_and_an_unknown_check_is_refused(other_papers):
    assert F.run_all_findings(other_papers())["one"]["agrees"] is False
    for check in ("slotpapers.recipes.findings.no_such", "slotpapers.recipes.elsewhere.decoder_size", "slotpapers.recipes.findings.run_all_findings"):
        with pytest.raises(ValueError, match="one: check must be a function that exists; got slotpapers.recipes"):
            F.run_all_findings(other_papers(check=check))


def test_the_overflow_is_noticed_only_where_it_is(papers, monkeypatch):
    tables = load_tables(papers / "smoothsa.yaml")
    assert S.random_clip_scores(tables, frames=2)["2 frames"][0] > 0.2
    monkeypatch.setattr(S, "adjusted_rand_index", lambda *a, legacy_overflow, **k: adjusted_rand_index(*a, **k))
    assert S.ari_overflow(tables).startswith("not so: {")


@pytest.mark.parametrize("check, place, value", [
    (M.two_lists_of_lengths, ("tables", "table2", "rows", "sequence_length"), [[80, 160, 320, 640, 1280, 2560], [6]]),
    (M.images_in_the_longest, ("text", "lengths_alone", "value"), [1280, 2048]),
    (M.images_in_the_longest, ("text", "length_unit", "value"), "patches"),
    (M.first_order_gain, ("tables", "table2", "rows", "state_size"), [4, 4]),
    (M.single_state_is_smaller, ("tables", "table2", "rows", "slots"), [1, 1]),
    (M.settings_not_given, ("text", "decoder_layers"), None),
    (M.pretraining_gains, ("tables", "table1", "rows", "single_state"), [30.0, 40.0, 41.15, 65.7]),
    (M.transformer_leads_directly, ("tables", "table1", "rows", "slotssm"), [45.0, 65.0, 54.73, 74.42]),
    (M.depth_baseline_has_two_names, ("text", "depth_baseline", "value"), "SAVi"),
], ids=lambda x: getattr(x, "__name__", None))
def test_a_check_of_slotssm_notices_other_numbers(check, place, value, papers):
    tables = load_tables(papers / "slotssm.yaml")
    other = changed(tables, place, value)
    if value is None:
        del other["text"]["decoder_layers"]
    assert check(other) != check(tables)


# ---------------------------------------------------------------------------------------------------------------- twins
def test_summed_gain_is_that_of_the_frequency_responses(tables):
    "By the filters' transfer functions, squared because the signal passes twice; no filtering at all."
    hertz = np.linspace(0.005, 25, 20_001)[:-1]
    gain = sum(np.abs(signal.sosfreqz(signal.butter(4, edge, kind, fs=50, output="sos"), hertz, fs=50)[1]) ** 2
               for kind, edge in (("low", 1), ("band", (1, 4)), ("high", 4)))
    assert np.allclose(F.summed_gains(tables)["butter"], [gain.min(), gain.max()], atol=2e-5)   # both read off a grid of frequencies


def test_our_sampler_has_the_epoch_of_the_finding(tables):
    found = F.epoch_steps(tables)
    n = found["participants"]
    names = np.array([f"p{i}" for i in range(n)])
    wave = np.tile(np.array([-1, 1], np.float32), (n, 3, 1))
    batches = WeightedParticipants(Windows(x=wave, y=None, classes=[], subject=names, start=np.zeros(n), source=names, valid=np.ones(n, bool)),
                                   found["a batch"], windows_per_participant=1)
    epoch = [name for step in range(found["steps an epoch"]) for name in batches.participants(step)]
    assert sorted(epoch) == sorted(names)


# ---------------------------------------------------------------------------------------------------------------- with a run's numbers
ROWS = [{"arm": arm, "dataset": "simulated", "seed": 0, "fold": 0, "metric": metric, "value": value} for arm, metric, value in (
    ("slotfm", "macro_f1", 0.5), ("slotfm", "test_best_macro_f1", 0.6), ("untrained", "macro_f1", 0.4))]


def test_a_finding_shown_by_scores(papers):
    finding, = (f for f in load_findings(papers / "findings.yaml") if f.check.startswith("results:"))
    rows = [row | {"stage": "slotfm-probe"} for row in ROWS]
    assert finding_from_scores(finding, rows) == {"check": finding.check, "computed": {"slotfm": 0.6}, "agrees": False}
    assert finding_from_scores(finding, rows[:2])["agrees"] is True
    assert finding_from_scores(finding, [row | {"stage": "another"} for row in rows])["agrees"] is None
    assert finding_from_scores(finding, [rows[0], rows[1] | {"value": None, "reason": "no GPU"}])["agrees"] is False
    outcomes = all_findings(papers, rows)
    assert list(outcomes) == [f.id for f in load_findings(papers / "findings.yaml")] and outcomes[finding.id]["computed"] == {"slotfm": 0.6}


def test_the_scorecard_writes_every_finding(tmp_path, papers):
    stage = tmp_path / "results/check/slotfm-probe"
    stage.mkdir(parents=True)
    (stage / "metrics.json").write_text(json.dumps({"data": [{"name": "simulated", "simulated": True}], "scores": ROWS[:2]}))
    write_scorecard(tmp_path / "results", "check", papers, tmp_path / "out")
    written = json.loads((tmp_path / "out/findings.json").read_text())
    assert len(written) == len(load_findings(papers / "findings.yaml")) and all(outcome["agrees"] for outcome in written.values())
