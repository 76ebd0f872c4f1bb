"""Scores of many runs in one long table: every method on every set, per seed, with both intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpt.artefacts.intervals import average_interval, problem_interval
from hpt.artefacts.selection import evaluation_counts, of_method, sets_of
from hpt.export import RunRecords
from hpt.paper import paper_data, paper_row
from hpt.paper import paper_table as paper_table_rows
from hpt.scores import average_of_cells, round_half_up
from hpt.stats import Interval, seed_mean

Shares = NDArray[np.float64]

#: The paper calls its untrained models by their own names and this package makes them by a run of their own.
BASE = "pretrain"
PAPER_METHOD = {BASE: "base"}


def score_table(
    records: Sequence[RunRecords], methods: Sequence[str], policy: str, distributions: Sequence[str], paper_table: str
) -> pd.DataFrame:
    """Return what a table of scores prints, and what it does not.

    Args:
        records: runs, of which those of ``methods`` on ``policy`` are used.
        methods: rows, in order: names of arms; those without runs are left out.
        policy: base.
        distributions: ``in``, ``out`` or both: which sets are columns, in this order, each group with its average.
        paper_table: where the paper's value beside ours stands.

    Returns:
        One row per method and column: policy, method, column, stands_for, samples_per_problem, problems, seeds, score
        (percent, mean over seeds as printed), seeds_low, seeds_high (Student's t over seeds within 0 to 100, NaN for
        one), problems_low, problems_high (fixed weights), problems_interval (its kind), paper (percent or NaN),
        paper_copied (by its authors, from another paper), and ``seed_<n>`` per seed (percent; the average as the paper
        takes it, from printed cells). Rows that only the paper has (`paper_only`) are not among them.

    Raises:
        RecordFault: a run lacks an evaluation, or runs of different worlds.
    """
    rows: list[dict[str, Any]] = []
    for method in methods:
        runs = of_method(records, method, policy)
        printed = paper_row(paper_table, PAPER_METHOD.get(method, method), policy) or {}
        for distribution in distributions if runs else ():
            rows += [{"policy": policy, "method": method} | row | _published(printed, row["stands_for"])
                     for row in _scores(runs, distribution)]  # fmt: skip
    return ordered(rows)


def paper_only(paper_table: str, policy: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of a table of scores that exist only as published numbers, in the columns of `score_table`.

    Args:
        paper_table: of the paper.
        policy: base.
        columns: our column -> the paper's.
    """
    frame = paper_table_rows(paper_table)
    mine = frame[frame["method"].isna() & (frame["policy"] == policy)].to_dict("records")
    return ordered([
        {"policy": policy, "method": row["row"], "column": own, "stands_for": theirs, "seeds": 0}
        | _published({str(name): value for name, value in row.items()}, theirs)
        for row in mine for own, theirs in columns.items()
    ])  # fmt: skip


def average_column(distribution: str) -> str:
    """Return the paper's name of an average.

    Example:
        >>> average_column("out")
        'Avg (OOD)'
    """
    return next(name for name, kind in paper_data()["averages"].items() if kind == distribution)


def benchmark_frame(run: RunRecords, sets: Mapping[str, Any]) -> pd.DataFrame:
    """Return a run's score on each set, for claims: benchmark, distribution, stands_for, score (percent), problems."""
    from hpt.scores import benchmark_scores

    names = [name for name in sets if (run.evaluations["benchmark"] == name).any()]
    parts = [evaluation_counts(run, name) for name in names]
    if not parts:
        return pd.DataFrame(columns=["benchmark", "distribution", "stands_for", "score", "problems"])
    counts = pd.concat(parts, ignore_index=True)
    scores = benchmark_scores(counts, {name: own.distribution for name, own in sets.items()})
    scores.insert(2, "stands_for", [sets[name].stands_for for name in scores["benchmark"]])
    return scores


def _shares(runs: Sequence[RunRecords], name: str) -> Shares:
    """Return [seeds, problems] shares of correct answers; every seed was asked the same problems."""
    counts = [evaluation_counts(run, name) for run in runs]
    return np.array([(own["correct"] / own["samples"]).to_numpy(np.float64) for own in counts])


def _scores(runs: Sequence[RunRecords], distribution: str) -> list[dict[str, Any]]:
    """Return one row per set of a distribution and one of their average."""
    sets = {name: own for name, own in sets_of(runs).items() if own.distribution == distribution}
    average = average_column(distribution)
    shares = {name: _shares(runs, name) for name in sets}
    rows, per_seed = [], {run.seed: [] for run in runs}
    for name, own in sets.items():
        by_seed = {run.seed: 100 * float(values.mean()) for run, values in zip(runs, shares[name], strict=True)}
        for seed, value in by_seed.items():
            per_seed[seed].append(value)
        drawn = int(evaluation_counts(runs[0], name)["samples"].max())  # greedily one, whatever the set's number
        one_answer = drawn == 1 and len(runs) == 1
        interval = problem_interval(shares[name].mean(axis=0), one_answer)
        sizes = {"samples_per_problem": drawn, "problems": len(own.problems)}
        rows.append({"column": name, "stands_for": own.stands_for} | _row(by_seed, interval) | sizes)
    exact = {seed: float(np.mean(cells)) for seed, cells in per_seed.items()}
    row = _row(exact, average_interval([values.mean(axis=0) for values in shares.values()]))
    row["score"] = average_of_cells(own["score"] for own in rows)
    row |= {f"seed_{seed}": average_of_cells(cells) for seed, cells in per_seed.items()}
    problems = sum(len(own.problems) for own in sets.values())
    return [*rows, {"column": average, "stands_for": average} | row | {"problems": problems}]


def _row(by_seed: Mapping[int, float], over_problems: Interval) -> dict[str, Any]:
    over_seeds = seed_mean(list(by_seed.values()))
    return {
        "seeds": len(by_seed),
        "score": round_half_up(over_seeds.mean),
        # Student's t knows nothing of shares: with few seeds it reaches below 0 and above 100 percent
        "seeds_low": np.clip(over_seeds.interval.low, 0.0, 100.0),
        "seeds_high": np.clip(over_seeds.interval.high, 0.0, 100.0),
        "problems_low": 100 * over_problems.low,
        "problems_high": 100 * over_problems.high,
        "problems_interval": over_problems.kind,
        **{f"seed_{seed}": value for seed, value in by_seed.items()},
    }


def _published(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    return {"paper": row.get(column, np.nan), "paper_copied": bool(row.get("starred", False))}


def ordered(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of scores as a table with the columns of `score_table`, seeds last."""
    first = [
        "policy", "method", "column", "stands_for", "samples_per_problem", "problems", "seeds", "score", "seeds_low",
        "seeds_high", "problems_low", "problems_high", "problems_interval", "paper", "paper_copied",
    ]  # fmt: skip
    seeds = sorted({str(name) for row in rows for name in row if str(name).startswith("seed_")},
                   key=lambda name: int(name[5:]))  # fmt: skip
    return pd.DataFrame(list(rows), columns=[*first, *seeds])
