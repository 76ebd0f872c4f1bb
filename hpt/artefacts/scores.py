"""Scores of many runs in one long table: every method on every set, per seed, with both intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpt.artefacts.intervals import average_interval, problem_interval
from hpt.artefacts.selection import evaluation_counts, of_method, sets_of
from hpt.export import RunRecords
from hpt.paper import paper_data, paper_value
from hpt.scores import average_of_cells, round_half_up
from hpt.stats import Interval, seed_mean

Shares = NDArray[np.float64]

#: The paper calls its untrained models by their own names and this package makes them by a run of their own.
BASE = "pretrain"
PAPER_METHOD = {BASE: "base"}


def score_table(
    records: Sequence[RunRecords], methods: Sequence[str], policy: str, distribution: str, paper_table: str
) -> pd.DataFrame:
    """Return what a table of scores prints, and what it does not.

    Args:
        records: runs, of which those of ``methods`` on ``policy`` are used.
        methods: rows, in order; those without runs are left out.
        policy: base.
        distribution: ``in`` or ``out``: which sets are columns.
        paper_table: where the paper's value beside ours stands.

    Returns:
        One row per method and column (sets, then the average): method, column, stands_for, samples_per_problem,
        problems, seeds, score (percent, mean over seeds as printed), seeds_low, seeds_high (Student's t over seeds
        within 0 to 100, NaN for one), problems_low, problems_high (fixed weights), problems_interval (its kind), paper
        (percent or NaN), and ``seed_<n>`` per seed (percent; the average as the paper takes it, from printed cells).

    Raises:
        RecordFault: a run lacks an evaluation, or runs of different worlds.
    """
    sets = {name: own for name, own in sets_of(records).items() if own.distribution == distribution}
    average = next(name for name, kind in paper_data()["averages"].items() if kind == distribution)
    rows: list[dict[str, Any]] = []
    for method in methods:
        runs = of_method(records, method, policy)
        if not runs:
            continue
        shares = {name: _shares(runs, name) for name in sets}
        printed, per_seed = [], {run.seed: [] for run in runs}
        for name, own in sets.items():
            by_seed = {run.seed: 100 * float(values.mean()) for run, values in zip(runs, shares[name], strict=True)}
            for seed, value in by_seed.items():
                per_seed[seed].append(value)
            one_answer = own.samples_per_problem == 1 and len(runs) == 1
            interval = problem_interval(shares[name].mean(axis=0), one_answer)
            row = _row(method, name, by_seed, interval, paper_value(
                paper_table, PAPER_METHOD.get(method, method), own.stands_for, policy))  # fmt: skip
            printed.append(row["score"])
            rows.append(row | {"stands_for": own.stands_for, "samples_per_problem": own.samples_per_problem,
                               "problems": len(own.problems)})  # fmt: skip
        exact = {seed: float(np.mean(cells)) for seed, cells in per_seed.items()}
        interval = average_interval([values.mean(axis=0) for values in shares.values()])
        paper = paper_value(paper_table, PAPER_METHOD.get(method, method), average, policy)
        row = _row(method, average, exact, interval, paper)
        row["score"] = average_of_cells(printed)
        row.update({f"seed_{seed}": average_of_cells(cells) for seed, cells in per_seed.items()})
        rows.append(row | {"stands_for": average, "samples_per_problem": None,
                           "problems": sum(len(own.problems) for own in sets.values())})  # fmt: skip
    return _ordered(pd.DataFrame(rows))


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


def _row(
    method: str, column: str, by_seed: Mapping[int, float], over_problems: Interval, paper: float | None
) -> dict[str, Any]:
    over_seeds = seed_mean(list(by_seed.values()))
    return {
        "method": method,
        "column": column,
        "seeds": len(by_seed),
        "score": round_half_up(over_seeds.mean),
        # Student's t knows nothing of shares: with few seeds it reaches below 0 and above 100 percent
        "seeds_low": np.clip(over_seeds.interval.low, 0.0, 100.0),
        "seeds_high": np.clip(over_seeds.interval.high, 0.0, 100.0),
        "problems_low": 100 * over_problems.low,
        "problems_high": 100 * over_problems.high,
        "problems_interval": over_problems.kind,
        "paper": np.nan if paper is None else paper,
        **{f"seed_{seed}": value for seed, value in by_seed.items()},
    }


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    first = [
        "method", "column", "stands_for", "samples_per_problem", "problems", "seeds", "score", "seeds_low",
        "seeds_high", "problems_low", "problems_high", "problems_interval", "paper",
    ]  # fmt: skip
    seeds = sorted((str(name) for name in frame if str(name).startswith("seed_")), key=lambda name: int(name[5:]))
    return frame[[*first, *seeds]] if len(frame) else pd.DataFrame(columns=first)
