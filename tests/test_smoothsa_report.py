"SmoothSA's printed numbers, its claims and findings, and the report that is drawn from its runs."
import copy
import hashlib

import pytest
import torch

from slotpapers.evaluation import paper_tables_smoothsa as P
from slotpapers.evaluation.claims import load_claims
from slotpapers.evaluation.paper_tables import load_tables
from slotpapers.recipes import findings_smoothsa as S


@pytest.fixture(scope="module")
def tables(root):
    return load_tables(root / "data/papers/smoothsa.yaml")


@pytest.fixture(scope="module")
def claims(root):
    return [c for c in load_claims(root / "data/papers/claims.yaml") if c.paper == "smoothsa"]


# ---------------------------------------------------------------------------------------------------------------- printed numbers
def test_every_table_is_there_and_says_where_it_stands(tables):
    sizes = {name: len(table["rows"]) for name, table in tables["tables"].items()}
    assert sizes == {"table1": 6, "table2": 5, "table2_update": 4, "table3": 3, "table4": 3, "table5": 7, "table6": 2, "appendix_a": 2, "appendix_b": 2}
    assert all(table["place"].startswith(f"Table {name[5]}" if name.startswith("table") else "Table in appendix") for name, table in tables["tables"].items())
    assert all("value" in entry and "place" in entry for entry in tables["text"].values())


def test_rows_fit_their_columns(tables):
    for name in ("table1", "table2", "table2_update", "table4", "appendix_a", "appendix_b"):
        table = tables["tables"][name]
        assert all(len(row) == len(table["columns"]) for row in table["rows"].values()), name
    for name in ("table3", "table6"):
        table = tables["tables"][name]
        assert all(len(row) == len(table["columns"]) for rows in table["rows"].values() for row in rows.values()), name
    five = tables["tables"]["table5"]
    assert five["sets"].keys() == five["defaults"].keys() == five["rows"].keys()
    assert all(five["defaults"][factor] in settings for factor, settings in five["rows"].items())


def test_no_number_has_changed(tables):
    "Read against the paper once, cell by cell; a typing error later changes this sum."
    cells = repr([tables["tables"][name]["rows"] for name in sorted(tables["tables"])])
    assert hashlib.sha256(cells.encode()).hexdigest()[:16] == "b5feaa18fa1ac5c6"


def test_sums_by_column(tables):
    "Sums of the means by metric, formed from the text of the paper: they name the table when the checksum above fails."
    sums = {}
    for name in ("table1", "table2", "table2_update"):
        cells = [scores for row in tables["tables"][name]["rows"].values() for scores in row if scores]
        sums[name] = [round(sum(scores[k][0] for scores in cells), 1) for k in range(4)]
    assert sums == {'table1': [597.0, 897.8, 744.0, 720.5], 'table2': [547.0, 749.9, 368.0, 352.7], 'table2_update': [263.0, 471.3, 205.7, 198.3]}


# ---------------------------------------------------------------------------------------------------------------- claims
def test_published_effects_come_from_the_tables(tables, claims):
    scores, checked = P.discovery_scores(tables), 0
    printed = {"slotcontrast": "slot_contrast"}
    for claim in claims:
        row = scores.get(claim.dataset, {})
        a, b = (printed.get(arm, arm) for arm in (claim.a, claim.b))
        if a in row and b in row and claim.metric in row[a]:
            assert claim.published_effect == pytest.approx(row[a][claim.metric][0] - row[b][claim.metric][0], abs=1e-9), claim.id
            checked += 1
    assert checked >= 40


def test_table_5_claims_carry_its_numbers(tables, claims):
    five, by_arm = tables["tables"]["table5"], {"no_preheater": ("preheater", "none"), "preheater_slot_attention": ("preheater", "slot_attention"),
        "self_attention_first": ("cross_attention_first", "no"), "no_stop_gradient": ("stop_gradient", "no"), "weight_10": ("preheat_weight", "10"),
        "weight_50": ("preheat_weight", "50"), "weight_200": ("preheat_weight", "200"), "separate_weights": ("separate_weights", "separate")}
    seen = 0
    for claim in (c for c in claims if c.metric == "ari_sum" and c.a == "smoothsa"):
        factor, setting = by_arm.get(claim.b, ("rounds_conditional" if claim.dataset == "movi_c" else "rounds", claim.b.removeprefix("rounds_").replace("_", "+")))
        rows = five["rows"][factor]
        assert claim.published_effect == pytest.approx(rows[five["defaults"][factor]][0] - rows[setting][0], abs=1e-9), claim.id
        seen += 1
    assert seen == 12


def test_uncomfortable_claims_and_controls_are_there(claims):
    ids = {c.id for c in claims}
    assert len(claims) >= 90
    assert {"smoothsa-behind-randsfq-movi-c-ari", "smoothsa-behind-randsfq-movi-d-ari-fg", "smoothsa-behind-dias-clevrtex-miou", "smoothsa-recognition-ytvis-hq-box-iou",
            "smoothsa-trains-slower-than-randsfq", "smoothsa-corruption-lowers-miou", "smoothsa-slots-grow-alike", "smoothsa-beats-one-cluster", "smoothsa-beats-kmeans"} <= ids


def test_generated_sets_judge_only_what_is_said_of_them(claims):
    for claim in claims:
        assert claim.generated == (claim.dataset.startswith("scenes") and claim.scale != "exact"), claim.id


# ---------------------------------------------------------------------------------------------------------------- findings
def changed(tables, place, value):
    "The tables with one number changed; place is a path of keys."
    other = copy.deepcopy(tables)
    *way, last = place
    target = other
    for key in way:
        target = target[key]
    target[last] = value
    return other


@pytest.mark.parametrize("check, place, value", [
    (P.repeated_cells, ("tables", "table2", "rows", "steve", 1, 0, 1), 0.7),
    (P.default_scores, ("tables", "table5", "rows", "separate_weights", "shared", 0), 105.6),
    (P.not_the_best, ("tables", "table2", "rows", "smoothsa", 0, 0, 0), 66.0),
    (P.against_dias, ("tables", "table1", "rows", "smoothsa", 1, 1, 1), 0.05),
    (P.against_randsfq, ("tables", "table2_update", "rows", "randsfq", 1, 3, 0), 31.4),
    (P.inside_spread, ("tables", "table5", "rows", "rounds", "3+3", 1), 2.0),
    (P.recognition_changes, ("tables", "table3", "rows", "coco", "spot", 0, 0), 88.0),
    (P.cost_changes, ("tables", "table6", "rows", "ytvis", "randsfq", 0), 7.2),
    (P.corruption, ("tables", "appendix_a", "rows", "corrupted", 5, 1), 0.7),
    (P.preheat_loss_scale, ("tables", "appendix_b", "rows", "smoothsa", 1, 0), 2.0),
    (P.contraction, ("tables", "appendix_b", "rows", "smoothsa", 0, 2), 0.46),
    (S.both_three_plus_one, ("text", "rounds_rest", "value"), 3),
    (S.overflow_beside_gaps, ("tables", "table2", "rows", "smoothsa", 0, 0, 0), 30.0),
], ids=lambda x: getattr(x, "__name__", None))
def test_a_check_notices_other_numbers(check, place, value, tables):
    assert check(changed(tables, place, value)) != check(tables)


@pytest.mark.parametrize("check, name, made", [
    (S.jaccard_without_matching, "jaccard_score", lambda real: lambda *a, **k: 1.0),
    (S.background_counts, "mean_best_overlap", lambda real: lambda *a, include_background: torch.ones(1)),
    (S.decoder_not_causal, "MaskedDecoder", lambda real: lambda *a, **k: Causal(real(*a, **k))),
    (S.both_three_plus_one, "build_arm", lambda real: lambda arm, **k: real("slot_attention" if arm == "randsfq" else arm, **k)),
    (S.preheater_size, "Preheater", lambda real: lambda slot_dim, token_dim: real(slot_dim, token_dim, mlp_dim=8 * slot_dim)),
    (S.overflow_beside_gaps, "random_clip_scores", lambda real: lambda tables: {"24 frames": [0.1, 0.1, 0.0, 0.0]}),
], ids=lambda x: getattr(x, "__name__", None))
def test_a_check_notices_another_block(check, name, made, tables, monkeypatch):
    monkeypatch.setattr(S, name, made(getattr(S, name)))
    assert check(tables).startswith("not so: {")


class Causal(torch.nn.Module):
    "A decoder whose tokens see those before them alone: each is rebuilt from the running sum."

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, target, slots):
        made = self.decoder(target, slots)
        return type(made)((target.cumsum(dim=1) - target), made.masks)


def test_the_filter_keeps_what_the_comparison_says(tables):
    assert S.kept_pairs(tables, slots=4, most=3) == {"released": [1, 2, 2], "overlapping": [1, 2, 3]}
