"""The published numbers against each other: averages, percentages, rows that appear in several tables."""

import inspect
import re

import pytest

from hpt.data.world.lookup import MINI_LOOKUPS, evaluation_sets
from hpt.paper.claim_tests import TESTS
from hpt.paper.paper import claim_named, claims, paper_data, paper_table, paper_value
from hpt.runs.catalogue import ARTEFACTS, artefacts_at
from hpt.training.metrics import METRICS

TABLES = ["table2", "table3", "table4", "table5", "table6"]


def test_the_tables_their_rows_and_which_are_copied() -> None:
    assert list(paper_data()["tables"]) == TABLES
    assert [len(paper_table(table)) for table in TABLES] == [12, 10, 8, 3, 3]
    starred = {table: paper_table(table).query("starred") for table in TABLES}
    assert {table: rows["row"].to_list() for table, rows in starred.items() if len(rows)} == {
        "table2": ["PRIME-Zero", "SimpleRL-Zero", "OpenReasoner-Zero", "Oat-Zero"],
        "table3": ["SFT", "GRPO", "LUFFY"],
    }
    assert set(starred["table3"]["policy"]) == {"llama"}
    for table in TABLES:
        named = set(paper_table(table)["method"].dropna())
        assert named <= {"pretrain", *(arm.name or arm.method for arm in ARTEFACTS[table].arms)}, table


def test_values_are_found_by_label_and_by_method() -> None:
    assert paper_value("table2", "SFT → GRPO", "MATH-500") == paper_value("table2", "sft_then_grpo", "MATH-500") == 84.6
    assert paper_value("table3", "pretrain", "AMC", policy="weak") == 24.5
    assert paper_value("table5", "mix_on", "Avg") == 40.3
    for table, row, column in (("table7", "hpt", "Avg"), ("table2", "ppo", "Avg"), ("table5", "hpt", "GPQA")):
        assert paper_value(table, row, column) is None  # not printed
    with pytest.raises(ValueError, match=r"table3 has 2 rows 'hpt': name one of the policies \['llama', 'weak'\]"):
        paper_value("table3", "hpt", "Avg")


def test_every_evaluation_set_stands_for_a_printed_benchmark() -> None:
    sets = evaluation_sets(MINI_LOOKUPS).values()
    printed = {(name, own["distribution"]) for name, own in paper_data()["benchmarks"].items()}
    assert {(own.stands_for, own.distribution) for own in sets} == printed


def test_claims_are_found_by_their_names_and_use_every_test() -> None:
    ids = [claim.id for claim in claims()]
    assert len(set(ids)) == len(ids) == 114
    assert [claim_named(own).id for own in ids] == ids
    assert {claim.test for claim in claims()} == set(TESTS)
    claim = claim_named("table3-llama-hpt-above-luffy")  # one entry of the file fills in its words
    assert (claim.policy, claim.methods) == ("llama", ("hpt", "luffy"))
    assert "On the Llama base" in claim.reading
    assert "above LUFFY's" in claim.reading


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim.id)
def test_a_claim_needs_only_what_exists(claim) -> None:
    assert claim.test in TESTS
    assert claim.artefact in ARTEFACTS
    artefact, parameters = artefacts_at(claim.scale or "mini")[claim.artefact], claim.parameters
    inspect.signature(TESTS[claim.test]).bind(None, *claim.methods, **parameters)
    assert not re.search(r"[{}]", "".join([claim.id, claim.reading, *claim.methods, *map(str, parameters.values())]))
    if not claim.methods:  # decided on tables made without a run
        assert claim.policy == ""
        assert parameters["frame"].startswith(claim.artefact)
        assert artefact.arms == ()
        return
    first_stages = {
        f"{arm.settings['policy.after']}-{arm.policy}" for arm in artefact.arms if arm.settings.get("policy.after")
    }
    there = {arm.key for arm in artefact.arms} | {f"pretrain-{base}" for base in artefact.policies} | first_stages
    arms = {name: f"{name.partition('@')[0]}-{name.partition('@')[2] or claim.policy}" for name in claim.methods}
    assert set(arms.values()) <= there
    assert {parameters.get("column", "step"), *parameters.get("columns", [])} <= set(METRICS)
    assert {*parameters.get("evaluations", []), parameters.get("evaluation", "")} <= {*artefact.evaluations, ""}


#: What stands beside the claims of Tables 2, 3 and 5 and has none of its own.
BESIDE = ("contrasts", "power", "equal_costs", "equal_costs_weaker", "algorithm1")


def test_every_artefact_of_the_paper_that_is_made_of_runs_has_a_claim() -> None:
    made = {name for name, own in ARTEFACTS.items() if own.group == "paper" and own.arms and name not in BESIDE}
    assert made <= {claim.artefact for claim in claims()}
