"""The search: every method alike, the choice as the rule says, and `TUNED` what the committed records chose."""

from pathlib import Path

import pandas as pd
import pytest

from hpt.artefacts.search import chosen, search, search_results
from hpt.catalogue import ARTEFACTS
from hpt.config import RunConfig
from hpt.export import RunRecords, record_folders
from hpt.notebook import plan
from hpt.scales import TUNED, build_config
from hpt.search import GRID, LEARNING_RATES, SEARCH, SEED, choice_text
from tests.fabricated import fabricated_records

RECORDS = Path(__file__).resolve().parent.parent / "reports" / "mini" / "records"
COLUMNS = ["policy", "method", "steps", "learning_rate", "choice", "accuracy", "arm"]


def test_every_method_is_searched_over_the_same_rates() -> None:
    for policy, methods in GRID.items():
        for method, choices in methods.items():
            arms = [arm for arm in SEARCH.arms if (arm.policy, arm.method) == (policy, method)]
            lengths: dict[int, list[tuple[float, str]]] = {}
            for arm in arms:
                config = arm.config("mini", 0)
                assert config.seed == SEED
                own = {name: value for name, value in arm.settings.items() if name.startswith("estimator.")}
                lengths.setdefault(config.schedule.steps, []).append((config.optimizer.learning_rate, choice_text(own)))
            for tried in lengths.values():
                assert sorted(tried) == sorted((rate, choice_text(own)) for rate in LEARNING_RATES for own in choices)
    assert SEED not in range(100)  # the tables' seeds
    assert {arm.key for arm in SEARCH.arms}.isdisjoint(
        {arm.key for artefact in ARTEFACTS.values() if artefact.name != "search" for arm in artefact.arms}
    )


def test_chosen_is_the_best_of_the_longest_round_then_the_lowest_rate() -> None:
    rows = [
        ("weak", "sft", 60, 1e-3, "", 50.0, "short"), ("weak", "sft", 120, 5e-4, "", 40.0, "long"),
        ("weak", "sft", 120, 1e-3, "", 30.0, "worse"), ("strong", "sft", 60, 1e-3, "", 30.0, "high"),
        ("strong", "sft", 60, 5e-4, "", 30.0, "low"), ("strong", "grpo", 60, 5e-4, "b", 20.0, "other"),
    ]  # fmt: skip
    assert chosen(pd.DataFrame(rows, columns=COLUMNS))["arm"].tolist() == ["other", "low", "long"]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    return fabricated_records(tmp_path_factory.mktemp("runs"), "search")


def test_the_table_shows_every_try_and_marks_one_per_method(records: list[RunRecords]) -> None:
    made = search(records)
    assert len(made.data) == len(SEARCH.arms)
    assert sum(cell.value != "" for _, cells in made.rows for cell in cells) == len(SEARCH.arms)
    assert made.data.groupby(["policy", "method"])["chosen"].sum().eq(1).all()
    assert sum(cell.interval == "chosen" for _, cells in made.rows for cell in cells) == sum(map(len, GRID.values()))
    run = next(own for own in records if own.method == "luffy")
    own = run.evaluations[run.evaluations["benchmark"] == "validation"]
    row = made.data[made.data["arm"] == run.arms[0]].iloc[0]
    assert row["accuracy"] == pytest.approx(100 * (own["correct"] / own["samples"]).mean())


def setting(config: RunConfig, name: str) -> object:
    section, _, field = name.partition(".")
    return getattr(getattr(config, section), field)


@pytest.mark.skipif(
    not any(f"-s{SEED}-" in folder.name for folder in record_folders(RECORDS)),
    reason="reports/mini/records holds no run of the search",
)
def test_tuned_is_what_the_committed_records_chose() -> None:
    given = {"scale": "mini", "seeds": [0], "settings": {}, "runs_dir": "runs", "from_records": str(RECORDS)}
    study = plan("search", ["search"], given | {"output_dir": ""})
    choice = chosen(search_results(study.records()))
    arms = {arm.key: arm for arm in SEARCH.arms}
    assert {(row.policy, row.method) for row in choice.itertuples()} == {(p, m) for p in GRID for m in GRID[p]}
    rates = {}
    for row in choice.to_dict("records"):
        policy, method = str(row["policy"]), str(row["method"])
        rates[policy, method] = row["learning_rate"]
        for where in (policy, "llama") if policy == "weak" and method in ("sft", "grpo", "luffy", "hpt") else (policy,):
            config = build_config(method, scale="mini", policy=where)
            for name, value in arms[row["arm"]].settings.items():
                assert name == "seed" or setting(config, name) == value, (where, method, name)
    stages = build_config("sft_then_grpo", scale="mini", policy="strong").optimizer
    assert stages.first_stage_learning_rate == rates["strong", "sft"]
    assert stages.learning_rate == rates["strong", "grpo"]
    for policy, methods in TUNED["mini"].items():
        assert set(methods) <= {*GRID.get(policy, GRID["weak"]), "sft_then_grpo"}, "tuned without a search"
