"The printed numbers of SlotFM, and the claims' published effects against them."
import hashlib
import inspect

import numpy as np
import pytest
import torch

from slotpapers.blocks.patches import ConvTokens
from slotpapers.evaluation.claims import load_claims
from slotpapers.evaluation.paper_tables import (ahead_of, average_gain, best_rival_gains, load_tables, parameters, published_scores,
                                                relative_gain, task_metric)
from slotpapers.models import OCSlotSSM, SlotSSM
from slotpapers.recipes.findings_slotssm import TABLE_2


@pytest.fixture(scope="module")
def tables(request):
    return load_tables(request.config.rootpath / "data/papers/slotfm.yaml")


def test_every_table_is_there(tables):
    sizes = {name: len(table["rows"]) for name, table in tables["tables"].items()}
    assert sizes == {"table1": 11, "table2": 11, "table3": 12, "table4": 6, "table5": 3, "table6": 6, "table7": 6}
    assert all(table["place"].startswith(f"Table {name[-1]},") for name, table in tables["tables"].items())
    assert all("value" in entry and "place" in entry for entry in tables["text"].values())


def test_rows_fit_their_columns(tables):
    for name in ("table1", "table2", "table3", "table4", "table5", "table6"):
        table = tables["tables"][name]
        assert all(len(row) == len(table["columns"]) for row in table["rows"].values()), name


def test_no_number_has_changed(tables):
    "Read against the paper once, cell by cell; a typing error later changes this sum."
    cells = repr([tables["tables"][name]["rows"] for name in sorted(tables["tables"])])
    assert hashlib.sha256(cells.encode()).hexdigest()[:16] == "89fe9d8286fa3fd9"


def test_sums_by_column(tables):
    "Column sums of the means, formed from the text of the paper: they name the column when the checksum above fails."
    two, three = tables["tables"]["table2"], tables["tables"]["table3"]
    sums = {c: round(sum(row[i][0] for row in two["rows"].values()), 2) for i, c in enumerate(two["columns"])}
    assert sums == {"supervised": 449.13, "autoencoder": 432.3, "masked_autoencoder": 414.65, "augmentation_prediction": 369.15,
                    "simclr": 394.83, "relcon": 400.57, "slotfm": 463.18}
    assert [round(sum(row[i][0] for row in three["rows"].values()), 1) for i in range(5)] == [666.2, 645.1, 1006.5, 679.1, 633.3]


def test_bands_are_contiguous(tables):
    for n, edges in tables["tables"]["table7"]["rows"].items():
        assert len(edges) == n and edges[0][0] == 0 and all(a[1] == b[0] for a, b in zip(edges, edges[1:]))


def test_parameter_totals_add_up(tables):
    for method, (encoder, pretext, total) in tables["tables"]["table6"]["rows"].items():
        added = parameters(encoder) + sum(map(parameters, pretext))
        assert abs(added - parameters(total)) <= 0.1e6, method      # each printed to one digit


def test_text_agrees_with_tables_where_it_does(tables):
    scores, gains = published_scores(tables), best_rival_gains(tables)
    assert sum(gain > 0 for _, gain in gains.values()) == tables["text"]["tasks_won"]["value"]
    assert len(scores) == tables["text"]["tasks_in_all"]["value"]
    everybody = tables["tables"]["table3"]["self_supervised"] + tables["tables"]["table3"]["fully_supervised"]
    won = sum(not ahead_of(tables, task, everybody) for task in tables["tables"]["table3"]["columns"])
    assert won == tables["text"]["benchmark_tasks_won"]["value"]
    beaten = sum(not ahead_of(tables, task, ["supervised"]) for task in tables["tables"]["table2"]["rows"])
    assert beaten == tables["text"]["supervised_surpassed_tasks"]["value"]


def test_average_gain_needs_the_best_rival_of_each_task(tables):
    scores = published_scores(tables)
    one_rival = np.mean([relative_gain(scores[t]["slotfm"][0], scores[t]["simclr"][0], task_metric(tables, t)) for t in scores])
    assert one_rival > 2 * average_gain(tables)["sixteen"]      # against any single method the gain would be much larger


def test_best_rival_is_never_slotfm_or_supervised(tables):
    assert not {rival for rival, _ in best_rival_gains(tables).values()} & {"slotfm", "supervised", "conv", "gru", "mlp", "deep_conv_lstm"}


def test_published_effects_come_from_the_tables(tables, root):
    scores, checked = published_scores(tables), 0
    for claim in load_claims(root / "data/papers/claims.yaml"):
        row = scores.get(claim.dataset, {})
        if claim.paper == "slotfm" and claim.a in row and claim.b in row and claim.stage == "slotfm-baselines":
            effect = row[claim.a][0] - row[claim.b][0]
            expected = effect / 100 if claim.metric == "macro_f1" else effect
            assert claim.metric == task_metric(tables, claim.dataset)
            assert claim.published_effect == pytest.approx(expected, abs=1e-9), claim.id
            checked += 1
    assert checked >= 35


def test_table_4_claims_carry_its_numbers(tables, root):
    four, seen = tables["tables"]["table4"]["rows"], set()
    for claim in load_claims(root / "data/papers/claims.yaml"):
        if claim.place.endswith("Table 4") and claim.published_effect is not None:
            place = 0 if claim.metric == "macro_f1" else 1
            assert abs(claim.published_effect) == -four[claim.b][place], claim.id
            assert (claim.published_effect > 0) == (claim.direction == "higher"), claim.id
            seen.add((claim.b, place))
    assert len(seen) == 12


def test_a_table_without_its_place_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("tables: {table1: {columns: [a], rows: {}}}")
    with pytest.raises(ValueError, match="table1 must have place, columns and rows; \\['place'\\] missing"):
        load_tables(path)


def test_sizes_are_in_thousands_or_millions():
    with pytest.raises(ValueError, match="must be one of 'K', 'M'; got 'G'"):
        parameters("1G")


def test_smoothsa_numbers(request):
    "Table 2, read against the paper cell by cell; its sums by metric name the column when the checksum fails."
    table = load_tables(request.config.rootpath / "data/papers/smoothsa.yaml")["tables"]["table2"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"].values())
    cells = [scores for row in table["rows"].values() for scores in row if scores]
    assert len(cells) == 13 and all(len(scores) == len(table["metrics"]) for scores in cells)
    sums = [round(sum(scores[k][0] for scores in cells), 1) for k in range(4)]
    assert sums == [547.0, 749.9, 368.0, 352.7]
    assert hashlib.sha256(repr(table["rows"]).encode()).hexdigest()[:16] == "d9ad7c8e5cf446ac"


@pytest.fixture(scope="module")
def slotssm(request):
    return load_tables(request.config.rootpath / "data/papers/slotssm.yaml")


def test_slotssm_numbers(slotssm):
    "Read against the paper cell by cell; sums by column name the column when the checksum fails."
    tables = slotssm["tables"]
    assert {name: len(table["rows"]) for name, table in tables.items()} == {"table1": 4, "table2": 18, "table3": 4, "table4": 4, "table5": 2}
    assert all(table["place"].startswith(f"Table {name[-1]},") for name, table in tables.items())
    assert all(len(row) == len(table["columns"]) for table in tables.values() for row in table["rows"].values())
    assert all("value" in entry and "place" in entry for entry in slotssm["text"].values())
    sums = {name: [round(sum(row[i] for row in tables[name]["rows"].values()), 3) for i in range(len(tables[name]["columns"]))] for name in ("table1", "table5")}
    assert sums == {"table1": [138.58, 218.48, 214.36, 300.84], "table5": [1.053, 1.457, 2.592]}
    cells = repr([tables[name]["rows"] for name in sorted(tables)])
    assert hashlib.sha256(cells.encode()).hexdigest()[:16] == "27bb4589502440be"


def test_slotssm_claims_carry_the_numbers_of_tables_1_and_5(slotssm, root):
    one, five, checked = slotssm["tables"]["table1"], slotssm["tables"]["table5"], 0
    for claim in load_claims(root / "data/papers/claims.yaml"):
        if claim.paper != "slotssm" or claim.published_effect is None:
            continue
        if claim.dataset == "cater_gain":
            gain = {arm: row[2] - row[0] for arm, row in one["rows"].items()}
            expected = (gain[claim.a] - gain[claim.b]) / 100
        elif claim.stage == "slotssm-cater":
            place = one["columns"].index(claim.metric if claim.dataset == "cater_direct" else f"pretrained_{claim.metric}")
            expected = (one["rows"][claim.a][place] - one["rows"][claim.b][place]) / 100
        else:
            place = five["columns"].index(claim.dataset)
            expected = five["rows"][claim.a][place] - five["rows"][claim.b][place]
        assert claim.published_effect == pytest.approx(expected, abs=1e-9), claim.id
        checked += 1
    assert checked == 18


def test_slotssm_defaults_are_those_of_table_2(slotssm):
    "What our models are unless told otherwise, against the printed settings."
    for column, model in enumerate((SlotSSM, OCSlotSSM)):
        told = {name: p.default for name, p in inspect.signature(model).parameters.items()}
        for theirs, ours in TABLE_2.items():
            if ours in told:
                assert told[ours] == slotssm["tables"]["table2"]["rows"][theirs][column], (model, ours)
    for place, layer in enumerate(slotssm["tables"]["table3"]["rows"].values()):
        conv = [m for m in ConvTokens(3, 192, 128).modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (5, 5)][place]
        assert (conv.stride[0], conv.padding[0], conv.out_channels) == tuple(layer[1:4])
