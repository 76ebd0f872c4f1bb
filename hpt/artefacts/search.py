"""The search of learning rates and coefficients: every try with its accuracy, and what it chose."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from hpt.artefacts.intervals import problem_interval
from hpt.artefacts.output import Cell, Column, TableArtefact
from hpt.artefacts.selection import evaluation_counts, of_arm
from hpt.catalogue import arm_label
from hpt.export import RunRecords
from hpt.plots import line_style
from hpt.scores import round_half_up
from hpt.search import BEHIND, SEARCH, SEED, choice_text

_COLUMNS = ("policy", "method", "steps", "learning_rate", "choice", "accuracy", "problems_low", "problems_high", "arm")


def search_results(records: Sequence[RunRecords]) -> pd.DataFrame:
    """Return one row per arm of the search that has run, in the order of the grid.

    Args:
        records: runs, of which those of the search are used.

    Returns:
        policy, method, steps, learning_rate, choice (settings beside the rate, in words), accuracy on the validation
        problems and its interval over them for fixed weights (problems_low, problems_high), all three in percent, arm.

    Raises:
        RecordFault: a run was not evaluated on the validation problems.
    """
    rows = []
    for arm in SEARCH.arms:
        for run in of_arm(records, arm.key):
            own = evaluation_counts(run, "validation")
            shares = (own["correct"] / own["samples"]).to_numpy(float)
            interval = problem_interval(shares, one_answer=bool((own["samples"] == 1).all()))
            choice = {name: value for name, value in arm.settings.items() if name.startswith("estimator.")}
            rate = arm.settings["optimizer.learning_rate"]
            scores = (100 * float(shares.mean()), 100 * interval.low, 100 * interval.high)
            steps = run.config.schedule.steps
            rows.append((arm.policy, arm.method, steps, rate, choice_text(choice), *scores, arm.key))
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def chosen(results: pd.DataFrame) -> pd.DataFrame:
    """Return the row of `search_results` each method of each base takes.

    Of its longest round the one of highest accuracy, then of the lowest rate.

    Example:
        >>> rows = [("weak", "sft", 60, 1e-3, "", 40.0, "a"), ("weak", "sft", 60, 5e-4, "", 40.0, "b")]
        >>> columns = ["policy", "method", "steps", "learning_rate", "choice", "accuracy", "arm"]
        >>> chosen(pd.DataFrame(rows, columns=columns))["arm"].tolist()
        ['b']
    """
    order = ["steps", "accuracy", "learning_rate"]
    ordered = results.sort_values(order, ascending=[False, False, True], kind="stable")
    return ordered.drop_duplicates(["policy", "method"]).sort_values(["policy", "method"]).reset_index(drop=True)


def second_round(results: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return, by base, the methods that a second round is due for: more than `BEHIND` points below the best method.

    Example:
        >>> rows = [("weak", "sft", 60, 1e-3, "", 20.0, "a"), ("weak", "grpo", 60, 5e-4, "", 40.0, "b")]
        >>> columns = ["policy", "method", "steps", "learning_rate", "choice", "accuracy", "arm"]
        >>> second_round(pd.DataFrame(rows, columns=columns))
        {'weak': ('sft',)}
    """
    due = {}
    for policy, own in results.groupby("policy", sort=False):
        best = own[own["steps"] == own["steps"].min()].groupby("method", sort=False)["accuracy"].max()
        due[str(policy)] = tuple(str(name) for name in best.index[best < best.max() - BEHIND])
    return due


def search(records: Sequence[RunRecords]) -> TableArtefact:
    """Return the table of every try of the search, the one each method takes marked.

    Args:
        records: the runs of the search; tries without one are left out.

    Raises:
        RecordFault: a run was not evaluated on the validation problems.
    """
    results = search_results(records)
    data = results.assign(chosen=results["arm"].isin(set(chosen(results)["arm"])))
    rates = sorted(data["learning_rate"].unique())
    rows = []
    for (policy, method, steps, choice), own in data.groupby(["policy", "method", "steps", "choice"], sort=False):
        words = (f"{line_style(str(method)).label} on the {policy} base", str(choice), f"{steps} steps")
        label = ", ".join(filter(None, words))
        tried = {row["learning_rate"]: row for row in own.to_dict("records")}
        rows.append((label, tuple(_cell(tried.get(rate)) for rate in rates)))
    used = tuple(run for arm in SEARCH.arms for run in of_arm(records, arm.key))
    columns = tuple(Column(f"{rate:g}", "learning rate") for rate in rates)
    return TableArtefact("search", SEARCH.title, data, columns, tuple(rows), _caption(data, used), used)


def _cell(row: Mapping[Hashable, Any] | None) -> Cell:
    if row is None:
        return Cell("")
    return Cell(f"{round_half_up(row['accuracy']):.1f}", "chosen" if row["chosen"] else "")


def _tries(data: pd.DataFrame) -> str:
    """Return how often each method was tried on a base."""
    counts = data.groupby(["policy", "method"], sort=False).size()
    texts = []
    for policy in data["policy"].unique():
        own = counts[policy].sort_values(ascending=False, kind="stable")
        texts.append(
            f"on the {policy} base {', '.join(f'{arm_label(str(name))} {count}' for name, count in own.items())}"
        )
    return f" Tries in all: {'; '.join(texts)}." if texts else ""


def _at_an_edge(data: pd.DataFrame) -> str:
    """Return which choices took the lowest or the highest learning rate: beyond it may be a better one."""
    best, ends = data[data["chosen"]], {data["learning_rate"].min(), data["learning_rate"].max()}
    names = [
        f"{arm_label(str(row['method']))} on the {row['policy']} base ({row['learning_rate']:g})"
        for row in best.to_dict("records")
        if row["learning_rate"] in ends
    ]
    if not names:
        return ""
    return f" At an end of the learning rates tried, beyond which none was looked at: {', '.join(names)}."


def _caption(data: pd.DataFrame, used: Sequence[RunRecords]) -> str:
    steps = " or ".join(str(own) for own in sorted({run.config.schedule.steps for run in used})) or "no"
    half = float(((data["problems_high"] - data["problems_low"]) / 2).median()) if len(data) else float("nan")
    spread = "" if pd.isna(half) else f" Half of a 95 % interval over the problems is typically {half:.1f} points."
    return (
        f"Accuracy in percent on the validation problems, which no table reports, after {steps} steps of seed {SEED}, "
        "which no table uses. Every method got the same three learning rates, and two values of one more choice where "
        f"it has one; methods more than {BEHIND:g} points behind the best one were searched again for twice as many "
        f"steps.{_tries(data)} Mix/ON has the paper's own coefficients. Chosen is the highest accuracy of the longest "
        "round, between equals the lowest rate. One seed: neighbours may well be "
        f"equally good.{spread}{_at_an_edge(data)} SFT → GRPO takes SFT's and GRPO's choices for its two stages, the "
        "Llama base the weak base's."
    )
