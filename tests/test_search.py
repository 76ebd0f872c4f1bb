"""The search: every method alike, the choice as the rule says, and `TUNED` what the committed records chose."""

from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hpt.config.scales import TUNED
from hpt.methods.methods import stages_of
from hpt.reports.frames import TRIED, chosen, search
from hpt.runs.catalogue import (
    ARTEFACTS,
    FINALISTS,
    OWN_CHOICE,
    RATE_OF,
    RATES,
    ROUND_SEEDS,
    SEARCH,
    SEARCHED,
    SEED,
    choice_text,
    tries_of,
)
from hpt.runs.make import planned_runs
from hpt.runs.records import RecordStore, RunRecords
from tests.fabricated import fabricated_records

RECORDS = Path(__file__).resolve().parent.parent / "reports" / "mini" / "records"
COLUMNS = [*TRIED[:2], "round", *TRIED[2:], "mean", "arm"]


def test_every_method_is_searched_over_the_same_rates() -> None:
    for policy, methods in SEARCHED.items():
        for method in methods:
            first = [arm for arm in tries_of(policy, method) if arm.name.startswith("try1_")]
            tried = [(arm.settings[RATE_OF.get(method, "optimizer.learning_rate")], choice_text(method, arm.settings))
                     for arm in first]  # fmt: skip
            choices = [choice_text(method, own) for own in OWN_CHOICE[method]]
            assert not first or sorted(tried) == sorted((rate, own) for rate in RATES for own in choices)
            assert {arm.config("mini", 0).seed for arm in first} <= {SEED}
    assert min(ROUND_SEEDS) not in range(100)  # the tables' seeds
    assert {arm.key for arm in SEARCH.arms}.isdisjoint(
        {arm.key for artefact in ARTEFACTS.values() if artefact.name != "search" for arm in artefact.arms}
    )


def test_of_tries_within_one_point_the_lower_rate_is_taken() -> None:
    """Of the last round; as the percentages of the records are: 3.5 and 2.5 are one point apart, but for rounding."""
    best, lower = 100 * (28 / 800), 100 * (20 / 800)
    assert lower < best - 1
    rows = [
        ("weak", "sft", 1, 1e-3, "", 50.0, "short"), ("weak", "sft", 2, 5e-4, "", 40.0, "long"),
        ("weak", "sft", 2, 1e-3, "", 30.0, "worse"), ("strong", "sft", 2, 1e-3, "a", best, "high"),
        ("strong", "sft", 2, 5e-4, "b", lower, "low"), ("strong", "sft", 2, 2.5e-4, "b", lower - 0.125, "lowest"),
        ("llama", "grpo", 1, 1e-3, "a", 50.0, "best"), ("llama", "grpo", 1, 5e-4, "b", 49.5, "second"),
        ("llama", "grpo", 1, 5e-4, "c", 49.75, "near"),
        ("llama", "sft", 1, 1e-3, "a", 50.0, "first"), ("llama", "sft", 1, 1e-3, "b", 50.0, "equal"),
    ]  # fmt: skip
    assert chosen(pd.DataFrame(rows, columns=COLUMNS))["arm"].tolist() == ["long", "low", "near", "first"]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    return fabricated_records(tmp_path_factory.mktemp("runs"), "search")


def test_the_table_shows_every_try_and_marks_one_per_method(records: list[RunRecords]) -> None:
    tries = search(records)
    assert len(tries) == len(SEARCH.arms)
    taken = tries[tries["chosen"]].groupby(["policy", "method"])
    assert taken[["round", "learning_rate", "choice"]].nunique().eq(1).all(axis=None)
    assert len(taken) == len({(arm.policy, arm.method) for arm in SEARCH.arms})
    run = next(own for own in records if own.method == "grpo")
    own = run.evaluations[run.evaluations["benchmark"] == "validation"]
    row = tries[tries["arm"] == run.arms[0]].iloc[0]
    assert row["accuracy"] == pytest.approx(100 * (own["correct"] / own["samples"]).mean())


@pytest.fixture(scope="module")
def committed() -> pd.DataFrame:
    """The search as the committed records have it."""
    store = RecordStore(RECORDS)
    runs = [run for run in planned_runs("mini", ["search"], [0], RECORDS) if run.arms[0].startswith("try")]
    return search([store.load(run) for run in runs if not store.lacking(run)])


def test_finalists_are_the_three_best_tries_of_the_first_round(committed: pd.DataFrame) -> None:
    """A round of which a record is missing has none yet."""
    found = {}
    for (policy, method), tries in committed[committed["round"] == 1].groupby(["policy", "method"]):
        if len(tries) == len(RATES) * len(OWN_CHOICE[str(method)]):
            best = tries.sort_values("accuracy", ascending=False, kind="stable")["arm"][:3]
            names = (arm.removesuffix(f"-{policy}").rsplit("_", 2)[1:] for arm in best)
            found[policy, method] = tuple((float(rate), int(own)) for rate, own in names)
    assert found == FINALISTS


def test_what_the_second_round_chose_is_tuned(committed: pd.DataFrame) -> None:
    """And the tables' runs of a method have all settings of the try but its seed and length."""
    second = committed[committed["round"] == 2].groupby(["policy", "method"])
    ended = {key: tries for key, tries in second if len(tries) == 3 * len(ROUND_SEEDS[1:])}
    assert {(base, method) for base, tuned in TUNED["mini"].items() for method in tuned} == set(ended)
    arms = {arm.key: arm for artefact in ARTEFACTS.values() for arm in artefact.arms}
    for (base, method), tries in ended.items():
        _, rate, own = tries.loc[tries["chosen"], "arm"].iloc[0].removesuffix(f"-{base}").rsplit("_", 2)
        name = f"try1_{method}_{float(rate):g}_{own}"
        tried = next(arm for arm in tries_of(base, method) if arm.name == name).fixed("mini")
        config = arms[f"{method}-{base}"].config("mini", 0)
        for field, value in tried.items():
            if field not in ("seed", "schedule.steps", "validation.every"):
                assert attrgetter(field)(config) == value, (base, method, field)


GRPO: dict[str, dict[str, Any]] = {"optimizer": {"learning_rate": 5e-4},
        "estimator": {"clip_eps_low": "row", "clip_eps_high": "row", "advantage_std": "none"}}  # fmt: skip


SFT: dict[str, dict[str, Any]] = {"optimizer": {"learning_rate": 1e-3}, "schedule": {"updates_per_step": 8}}


def test_the_stages_of_sft_then_grpo_take_their_methods_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """But the grid's rate is its first stage's; before both have chosen there is nothing to try."""
    monkeypatch.setitem(TUNED["mini"], "strong", {})
    assert not tries_of("strong", "sft_then_grpo")
    monkeypatch.setitem(TUNED["mini"], "strong", {"grpo": GRPO, "sft": SFT})
    shown = set()
    for arm in tries_of("strong", "sft_then_grpo"):
        sft, grpo = stages_of(arm.config("mini", 0))
        shown.add((sft.config.optimizer.learning_rate, sft.end))
        assert (sft.method.name, grpo.method.name, grpo.config.optimizer.learning_rate) == ("sft", "grpo", 5e-4)
        assert [stage.config.schedule.updates_per_step for stage in (sft, grpo)] == [8, 2]
        assert {name: getattr(grpo.config.estimator, name) for name in GRPO["estimator"]} == GRPO["estimator"]
    assert shown >= {(rate, end) for rate in RATES for end in (6, 12, 18, 24)}


@pytest.mark.parametrize("policy", SEARCHED)
def test_no_two_tries_of_a_method_are_one_run(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TUNED["mini"], policy, {"grpo": GRPO, "sft": SFT})
    for method in SEARCHED[policy]:
        configs = [arm.config("mini", 0) for arm in tries_of(policy, method)]
        assert len({config.fingerprint() for config in configs}) == len(configs)
        assert len(configs) >= len(RATES) * len(OWN_CHOICE[method])
        assert {config.gate.count for config in configs} == {2 if (policy, method) == ("llama", "hpt") else 0}
