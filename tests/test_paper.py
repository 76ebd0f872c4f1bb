"""The published numbers against each other: averages, percentages, rows that appear in several tables."""

import inspect
import re
from dataclasses import fields

import pytest

from hpt.data.world.lookup import MINI_LOOKUPS, evaluation_sets
from hpt.paper.claim_tests import TESTS, RunFrames
from hpt.paper.paper import claim_named, claims, paper_data, paper_table, paper_value
from hpt.runs.catalogue import ARTEFACTS
from hpt.training.metrics import METRICS

TABLES = ["table2", "table3", "table4", "table5", "table6"]
BENCHMARKS = paper_data()["benchmarks"]


def test_the_tables_are_all_there() -> None:
    assert list(paper_data()["tables"]) == TABLES
    assert [len(paper_table(table)) for table in TABLES] == [12, 10, 8, 3, 3]


def test_starred_rows() -> None:
    starred = {table: paper_table(table).query("starred")["row"].to_list() for table in TABLES}
    assert starred == {
        "table2": ["PRIME-Zero", "SimpleRL-Zero", "OpenReasoner-Zero", "Oat-Zero"],
        "table3": ["SFT", "GRPO", "LUFFY"],
        "table4": [],
        "table5": [],
        "table6": [],
    }
    assert set(paper_table("table3").query("starred")["policy"]) == {"llama"}


def test_values_are_found_by_label_and_by_method() -> None:
    assert paper_value("table2", "SFT → GRPO", "MATH-500") == paper_value("table2", "sft_then_grpo", "MATH-500") == 84.6
    assert paper_value("table3", "base", "AMC", policy="weak") == 24.5
    assert paper_value("table5", "mix_on", "Avg") == 40.3


@pytest.mark.parametrize(
    "place", [("table7", "hpt", "Avg"), ("table2", "ppo", "Avg"), ("table3", "srft", "Avg"), ("table5", "hpt", "GPQA")]
)
def test_what_the_paper_does_not_print_is_none(place: tuple[str, str, str]) -> None:
    assert paper_value(*place) is None


def test_an_ambiguous_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"table3 has 2 rows 'hpt': name one of the policies \['llama', 'weak'\]"):
        paper_value("table3", "hpt", "Avg")


@pytest.mark.parametrize("table", TABLES)
def test_methods_named_in_the_tables_exist(table: str) -> None:
    named = set(paper_table(table)["method"].dropna())
    assert named <= {"base", *(arm.name or arm.method for arm in ARTEFACTS[table].arms)}


def test_every_evaluation_set_stands_for_a_printed_benchmark() -> None:
    sets = evaluation_sets(MINI_LOOKUPS).values()
    assert {(own.stands_for, own.distribution) for own in sets} == {
        (name, own["distribution"]) for name, own in BENCHMARKS.items()
    }


def test_claim_ids_are_unique_and_findable() -> None:
    ids = [claim.id for claim in claims()]
    assert len(set(ids)) == len(ids) == 108
    assert [claim_named(own).id for own in ids] == ids


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim.id)
def test_a_claim_needs_only_what_exists(claim) -> None:
    assert claim.test in TESTS
    assert claim.artefact in ARTEFACTS
    artefact, parameters = ARTEFACTS[claim.artefact], claim.parameters
    assert inspect.signature(TESTS[claim.test]).parameters.keys() >= parameters.keys()
    assert not re.search(r"[{}]", "".join([claim.id, claim.reading, *claim.methods, *map(str, parameters.values())]))
    if not claim.methods:  # decided on tables made without a run
        assert claim.policy == ""
        assert claim.records == (parameters["frame"],)
        assert claim.records[0].startswith(claim.artefact)
        assert artefact.arms == ()
        return
    first_stages = {
        f"{arm.settings['policy.after']}-{arm.policy}" for arm in artefact.arms if arm.settings.get("policy.after")
    }
    there = {arm.key for arm in artefact.arms} | {f"pretrain-{base}" for base in artefact.policies} | first_stages
    arms = {name: f"{name.partition('@')[0]}-{name.partition('@')[2] or claim.policy}" for name in claim.methods}
    assert set(arms.values()) <= there
    assert {parameters.get("column", "step"), *parameters.get("columns", [])} <= set(METRICS)
    named = [
        parameters.get(role)
        for role in ("method", "baseline", "leader", "other", "other_baseline", "longer", "shorter", "baseline_after")
    ]
    assert {name for name in named if name} | set(parameters.get("others", [])) == set(claim.methods)
    assert {*parameters.get("evaluations", []), parameters.get("evaluation", "")} <= {*artefact.evaluations, ""}
    assert set(claim.records) <= {field.name for field in fields(RunFrames)}


def test_every_test_decides_some_claim() -> None:
    assert {claim.test for claim in claims()} == set(TESTS)


#: What stands beside the claims of Tables 2, 3 and 5 and has none of its own.
BESIDE = ("contrasts", "power", "equal_costs", "equal_costs_weaker", "algorithm1")


@pytest.mark.parametrize(
    "artefact", [name for name, own in ARTEFACTS.items() if own.group == "paper" and own.arms and name not in BESIDE]
)
def test_every_artefact_of_the_paper_that_is_made_of_runs_has_a_claim(artefact: str) -> None:
    assert any(claim.artefact == artefact for claim in claims())


def test_one_entry_of_the_file_fills_in_its_words() -> None:
    claim = claim_named("table3-llama-hpt-above-luffy")
    assert (claim.policy, claim.methods, claim.parameters["baseline"]) == ("llama", ("hpt", "luffy"), "luffy")
    assert "On the Llama base" in claim.reading
    assert "above LUFFY's" in claim.reading
