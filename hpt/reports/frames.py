"""Tidy data frames from records: one row per observation, which a notebook's cells lay out and draw.

Every function takes the records of runs (`hpt.reports.Study.runs`, or `hpt.runs.records.load_records`) and returns a
frame whose columns its docstring names; the CSV beside a table or figure is this frame. Methods without a run are left
out.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from hpt.config.run_config import RunConfig
from hpt.data.world.graded import world_named
from hpt.data.world.sets import EvaluationSet
from hpt.evaluation.intervals import (
    MIN_SEEDS,
    Decision,
    Interval,
    SeedDifference,
    average_interval,
    paired_difference,
    problem_interval,
    seed_mean,
)
from hpt.evaluation.scores import (
    accuracy_grid,
    always_zero,
    average_of_cells,
    benchmark_scores,
    chance_pass_at_k,
    exclusive_solves,
    expected_exclusive_solves,
    pass_at_k_bootstrap,
    quarter_shares,
    round_half_up,
)
from hpt.evaluation.scores import pass_at_k as unbiased_pass_at_k
from hpt.methods.methods import Method, resolved_row, stages_of
from hpt.paper.paper import base_title, paper_data, paper_row, paper_value
from hpt.paper.paper import paper_table as paper_table_rows
from hpt.runs.catalogue import (
    BEHIND,
    DEFAULT,
    DISCREPANCIES,
    IN_DISTRIBUTION,
    SEARCH,
    Arm,
    Discrepancy,
    arm_label,
    choice_text,
)
from hpt.runs.records import RunRecords
from hpt.support.errors import RecordFault

Records = Sequence[RunRecords]
Shares = NDArray[np.float64]
NAN = float("nan")

#: The paper calls its untrained models by their own names and this package makes them by a run of their own.
BASE = "pretrain"
PAPER_METHOD = {BASE: "base"}


# Choosing runs and counts


def of_arm(records: Records, key: str) -> list[RunRecords]:
    """Return the runs of an arm (`hpt.runs.catalogue.Arm.key`), in the order of their seeds.

    Records that nobody asked for as arms (loaded one by one) count as the plain arm of their method and base.

    Raises:
        RecordFault: two runs of one seed: a mean over seeds would count it twice.
    """
    chosen = sorted((own for own in records if key in arm_keys(own)), key=lambda own: own.seed)
    for first, second in pairwise(chosen):
        if first.seed == second.seed:
            raise RecordFault(f"{first.name} and {second.name} are two runs of one seed; give only one of them")
    return chosen


def arm_keys(record: RunRecords) -> tuple[str, ...]:
    """Return the arms a record belongs to."""
    return record.arms or (f"{record.method}-{record.policy}",)


def of_method(records: Records, method: str, policy: str) -> list[RunRecords]:
    """Return the runs of the arm ``method`` on a base; ``method`` is an arm's name, the method's for a plain arm."""
    return of_arm(records, f"{method}-{policy}")


def sets_of(records: Records) -> dict[str, EvaluationSet]:
    """Return the evaluation sets of the world the runs lived in, in the order of the tables.

    Raises:
        RecordFault: no runs, or runs of different worlds.
    """
    from hpt.data.sources import evaluation_names, evaluation_set

    worlds = sorted({f"{own.config.data.evaluation} {own.config.data.world}" for own in records})
    if len(worlds) != 1:
        raise RecordFault(f"an artefact needs runs of one world, got {', '.join(worlds) or 'none'}")
    config = records[0].config
    return {name: evaluation_set(config, name) for name in evaluation_names(config)}


def evaluation_counts(run: RunRecords, name: str) -> pd.DataFrame:
    """Return a run's counts on a set, one row per problem in the set's order, under the run's own sampling law.

    Raises:
        RecordFault: the run was not evaluated on it, or only on other problems or with another law.
    """
    from hpt.data.sources import evaluation_at
    from hpt.runs.evaluations import evaluation_key

    name = evaluation_at(run.config, name)
    on_set = run.evaluations[run.evaluations["benchmark"] == name]
    key = evaluation_key(run.config, name)[2]
    counts = on_set[on_set["key"] == key]
    if not len(counts):
        found = f"only as {', '.join(sorted(set(on_set['key'])))}" if len(on_set) else "not at all"
        message = f"{run.name} was not evaluated on {name} under key {key} ({found}); its world or sampling has changed"
        raise RecordFault(f"{message}: compute it again, or render at the commit it was recorded at")
    return counts.reset_index(drop=True)


def problem_shares(run: RunRecords, name: str) -> Shares:
    """Return a run's share of correct answers to every problem of a set, [problems]."""
    counts = evaluation_counts(run, name)
    return (counts["correct"] / counts["samples"]).to_numpy(np.float64)


# Text for cells of tables


def label(method: str) -> str:
    """Return what tables and legends call a method or arm.

    Example:
        >>> label("pretrain"), label("hpt_gate1"), label("srft")
        ('base', 'HPT, gate 1/8', 'SRFT')
    """
    return PAPER_METHOD.get(method) or arm_label(method)


def interval_text(low: float, high: float) -> str:
    """Return an interval with one decimal, rounded as the scores are; empty where there is none.

    Example:
        >>> interval_text(30.05, 39.0), interval_text(float("nan"), 1.0)
        ('[30.1, 39.0]', '')
    """
    return "" if pd.isna(low) or pd.isna(high) else f"[{round_half_up(low):.1f}, {round_half_up(high):.1f}]"


def number_text(values: pd.Series, sign: str = "") -> pd.Series:
    """Return numbers with one decimal, as text; empty where there is none. ``sign="+"`` writes a plus sign too.

    Example:
        >>> number_text(pd.Series([1.25, float("nan")]), sign="+").tolist()
        ['+1.3', '']
    """
    return values.map(lambda value: "" if pd.isna(value) else f"{round_half_up(value):{sign}.1f}").astype(object)


def with_interval(frame: pd.DataFrame, value: str = "score", sign: str = "") -> pd.Series:
    """Return a column as text with its 95 % interval: over seeds where there are several, else over problems.

    Args:
        frame: the column ``value``, seeds, and seeds_low to problems_high.
        value: name of the column.
        sign: ``+`` for differences.

    Example:
        >>> row = {"score": 41.25, "seeds": 1, "seeds_low": NAN, "seeds_high": NAN, "problems_low": 38.0,
        ...        "problems_high": 44.0}
        >>> with_interval(pd.DataFrame([row])).item()
        '41.3 [38.0, 44.0]'
    """
    several = frame["seeds"] > 1
    low, high = (frame[f"seeds_{end}"].where(several, frame[f"problems_{end}"]) for end in ("low", "high"))
    brackets = pd.Series([interval_text(*pair) for pair in zip(low, high, strict=True)], frame.index, dtype=object)
    return (number_text(frame[value], sign) + " " + brackets).str.strip()


def interval_note(frame: pd.DataFrame, of: str = "mean") -> str:
    """Return what the brackets of `with_interval` are, in words, for a caption.

    Args:
        frame: as for `with_interval`; a base, which has one run whatever the seeds, is told apart where it is there.
        of: ``mean``, or ``paired differences``.

    Example:
        >>> interval_note(pd.DataFrame({"method": ["hpt"], "seeds": [3]}))
        "mean over 3 seeds, in brackets the 95 % interval over seeds (Student's t)"
    """
    trained = frame[frame["seeds"] > 0]
    if "method" in trained:
        trained = trained[trained["method"] != BASE]
    counts = sorted({int(own) for own in trained["seeds"]})
    problems = "over the problems for fixed weights"
    if max(counts, default=1) == 1:
        return f"one seed, in brackets the 95 % interval {problems}"
    seeds = f"{counts[0]} to {counts[-1]}" if counts[1:] else str(counts[0])
    one_run = counts[0] == 1 or ("method" in frame and bool((frame["method"] == BASE).any()))
    note = f"{of} over {seeds} seeds, in brackets the 95 % interval over seeds (Student's t)"
    return note + (f"; of the base, which has one run, {problems}" if one_run else "")


def seeds_note(records: Records) -> str:
    """Return what the bands around curves are, for a caption."""
    seeds = len({own.seed for own in records if own.method != BASE})
    if seeds == 1:
        return "One seed: no band."
    band = "with its 95 % band (Student's t); thin lines: single seeds"
    return f"Mean of {seeds} seeds {band if seeds >= MIN_SEEDS else '(thin lines), too few for a band'}."


# Scores: Tables 2, 3, 5, 6


def scores(
    records: Records, lines: Mapping[str, Sequence[str]], paper: str, distributions: Sequence[str] = ("in",)
) -> pd.DataFrame:
    """Return the score of every method on every set, with the paper's value beside it.

    Args:
        records: runs.
        lines: base -> names of arms, in order; `BASE` is the base itself.
        paper: the paper's table whose values stand beside; its rows that exist only as published numbers come last.
        distributions: ``in``, ``out`` or both: which sets, each group followed by its average.

    Returns:
        One row per base, method and column: policy, method, column, stands_for, samples_per_problem, problems, seeds
        (0: published only), score (percent, mean over seeds as printed), seeds_low, seeds_high (Student's t over seeds
        within 0 to 100, NaN for one), problems_low, problems_high (fixed weights), problems_interval (its kind), paper
        (percent or NaN), paper_copied (by its authors, from another paper), and ``seed_<n>`` (percent; the average as
        the paper takes it, from printed cells).

    Raises:
        RecordFault: a run lacks an evaluation, or runs of different worlds.
    """
    parts = []
    for policy, methods in lines.items():
        rows: list[dict[str, Any]] = []
        for method in methods:
            runs = of_method(records, method, policy)
            printed = paper_row(paper, PAPER_METHOD.get(method, method), policy) or {}
            for distribution in distributions if runs else ():
                rows += [{"policy": policy, "method": method} | row | _published(printed, row["stands_for"])
                         for row in _scores(runs, distribution)]  # fmt: skip
        own = _score_frame(rows)
        parts += [own, _published_only(paper, policy, dict(zip(own["column"], own["stands_for"], strict=True)))]
    filled = [own for own in parts if len(own)]
    return pd.concat(filled, ignore_index=True) if filled else _score_frame([])


def average_column(distribution: str) -> str:
    """Return the paper's name of an average.

    Example:
        >>> average_column("out")
        'Avg (OOD)'
    """
    return next(name for name, kind in paper_data()["averages"].items() if kind == distribution)


def benchmark_frame(run: RunRecords, sets: Mapping[str, EvaluationSet]) -> pd.DataFrame:
    """Return a run's score on each set, for claims: benchmark, distribution, stands_for, score (percent), problems."""
    names = [name for name in sets if (run.evaluations["benchmark"] == name).any()]
    parts = [evaluation_counts(run, name) for name in names]
    if not parts:
        return pd.DataFrame(columns=["benchmark", "distribution", "stands_for", "score", "problems"])
    scored = benchmark_scores(pd.concat(parts, ignore_index=True), {n: own.distribution for n, own in sets.items()})
    scored.insert(2, "stands_for", [sets[name].stands_for for name in scored["benchmark"]])
    return scored


def guessing(records: Records) -> dict[str, float]:
    """Return what guessing scores, percent, on the sets that offer choices."""
    sets = sets_of(records) if records else {}
    return {name: 100 / len({problem.answer for problem in own.problems}) for name, own in sets.items()
            if all(problem.answer_kind == "choice" for problem in own.problems)}  # fmt: skip


def _scores(runs: Records, distribution: str) -> list[dict[str, Any]]:
    """Return one row per set of a distribution and one of their average."""
    sets = {name: own for name, own in sets_of(runs).items() if own.distribution == distribution}
    shares = {name: np.array([problem_shares(run, name) for run in runs]) for name in sets}  # [seeds, problems]
    rows, per_seed = [], {run.seed: [] for run in runs}
    for name, own in sets.items():
        by_seed = {run.seed: 100 * float(values.mean()) for run, values in zip(runs, shares[name], strict=True)}
        for seed, value in by_seed.items():
            per_seed[seed].append(value)
        drawn = int(evaluation_counts(runs[0], name)["samples"].max())  # greedily one, whatever the set's number
        one_answer = drawn == 1 and len(runs) == 1
        interval = problem_interval(shares[name].mean(axis=0), one_answer)
        sizes = {"samples_per_problem": drawn, "problems": len(own.problems)}
        rows.append({"column": name, "stands_for": own.stands_for} | _score(by_seed, interval) | sizes)
    exact = {seed: float(np.mean(cells)) for seed, cells in per_seed.items()}
    row = _score(exact, average_interval([values.mean(axis=0) for values in shares.values()]))
    row["score"] = average_of_cells(own["score"] for own in rows)
    row |= {f"seed_{seed}": average_of_cells(cells) for seed, cells in per_seed.items()}
    average, problems = average_column(distribution), sum(len(own.problems) for own in sets.values())
    return [*rows, {"column": average, "stands_for": average} | row | {"problems": problems}]


def _score(by_seed: Mapping[int, float], over_problems: Interval) -> dict[str, Any]:
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


def _published(row: Mapping[Any, Any], column: str) -> dict[str, Any]:
    return {"paper": row.get(column, np.nan), "paper_copied": bool(row.get("starred", False))}


def _published_only(table: str, policy: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of a table that the paper alone has, in the columns of `scores`: our column -> the paper's."""
    if table not in paper_data()["tables"]:
        return _score_frame([])
    frame = paper_table_rows(table)
    mine = frame[frame["method"].isna() & (frame["policy"] == policy)].to_dict("records")
    return _score_frame([
        {"policy": policy, "method": row["row"], "column": own, "stands_for": theirs, "seeds": 0}
        | _published(row, theirs)
        for row in mine for own, theirs in columns.items()
    ])  # fmt: skip


def _score_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    first = (
        "policy method column stands_for samples_per_problem problems seeds score seeds_low seeds_high problems_low "
        "problems_high problems_interval paper paper_copied"
    ).split()
    return pd.DataFrame(list(rows), columns=[*first, *_seed_columns(name for row in rows for name in row)])


def _seed_columns(names: Iterable[Any]) -> list[str]:
    return sorted({str(name) for name in names if str(name).startswith("seed_")}, key=lambda name: int(name[5:]))


# Effects: what a change is worth, over seeds and over problems


def in_distribution_shares(run: RunRecords) -> list[Shares]:
    """Return a run's `problem_shares` of every in-distribution set."""
    return [problem_shares(run, name) for name in IN_DISTRIBUTION]


def average_of_sets(shares: Sequence[Shares]) -> float:
    """Return the unweighted mean over sets, percent.

    Example:
        >>> average_of_sets([np.array([1.0, 0.0]), np.array([1.0])])
        75.0
    """
    return 100 * float(np.mean([own.mean() for own in shares]))


def effect(
    own: Mapping[int, Sequence[Shares]], other: Mapping[int, Sequence[Shares]]
) -> tuple[dict[str, float], SeedDifference | None]:
    """Return how much better ``own`` is than ``other``, on the seeds both have.

    Args:
        own, other: seed -> shares of every set, in the same order.

    Returns:
        effect (points), seeds_low, seeds_high (Student's t over paired seeds, NaN for one), problems_low, problems_high
        (over the problems of each set, fixed weights) and ``seed_<n>``; and the difference over seeds. Without a common
        seed: NaN, and None.

    Example:
        >>> numbers, _ = effect({0: [np.array([1.0, 1.0, 0.0])]}, {0: [np.array([1.0, 0.0, 0.0])]})
        >>> round(numbers["effect"], 1)
        33.3
    """
    seeds = [seed for seed in own if seed in other]
    if not seeds:
        return _no_effect(), None
    ours, theirs = ([average_of_sets(kind[seed]) for seed in seeds] for kind in (own, other))
    difference = paired_difference(ours, theirs)
    over_problems = average_interval([
        np.mean([own[seed][i] - other[seed][i] for seed in seeds], axis=0) for i in range(len(own[seeds[0]]))
    ])  # fmt: skip
    return {
        "effect": difference.mean,
        "seeds_low": difference.interval.low,
        "seeds_high": difference.interval.high,
        "problems_low": 100 * over_problems.low,
        "problems_high": 100 * over_problems.high,
        **{f"seed_{seed}": value for seed, value in zip(seeds, difference.differences, strict=True)},
    }, difference


def _no_effect(value: float = NAN) -> dict[str, float]:
    return {"effect": value, **dict.fromkeys(("seeds_low", "seeds_high", "problems_low", "problems_high"), NAN)}


def gains(records: Records, policies: Sequence[str], method: str = "grpo") -> pd.DataFrame:
    """Return what a method gains on each base, on the mean of the in-distribution sets.

    Returns:
        One row per base that has both: policy, base and the method's name (averages, percent), seeds, and the columns
        of `effect`. A base is trained once, and all seeds share it.

    Raises:
        RecordFault: a run was not evaluated on a set.
    """
    rows = []
    for policy in policies:
        before, after = of_method(records, BASE, policy), of_method(records, method, policy)
        if before and after:
            own = {run.seed: in_distribution_shares(run) for run in after}
            (shares,) = map(in_distribution_shares, before)
            numbers, _ = effect(own, dict.fromkeys(own, shares))
            average = float(np.mean([average_of_sets(one) for one in own.values()]))
            rows.append({"policy": policy, "base": average_of_sets(shares), method: average, "seeds": len(own),
                         **numbers})  # fmt: skip
    return pd.DataFrame(rows)


def printed_gain(policy: str, method: str = "grpo") -> float:
    """Return the paper's gain of a method on a base: the difference of two printed averages, NaN where it has none."""
    average = average_column("in")
    before, after = (paper_value("grpo_gains", own, average, policy) for own in (PAPER_METHOD[BASE], method))
    return NAN if before is None or after is None else after - before


def against(records: Records, methods: Sequence[str], other: str, policy: str) -> pd.DataFrame:
    """Return the difference of every method from another on the mean of the in-distribution sets.

    Returns:
        One row per method: policy, method, column (``minus <other>``), score (points), seeds_low to problems_high and
        ``seed_<n>`` as in `effect`, seeds, verdict (in words, over seeds).
    """
    shares = {name: {run.seed: in_distribution_shares(run) for run in of_method(records, name, policy)}
              for name in (*methods, other)}  # fmt: skip
    words = {Decision.above: f"better than {label(other)}", Decision.below: f"worse than {label(other)}",
             Decision.undecided: "undecided", Decision.one_seed: "undecided (one seed)"}  # fmt: skip
    rows = []
    for name in methods:
        if name != other and shares[name] and shares[other]:
            numbers, difference = effect(shares[name], shares[other])
            row = {"policy": policy, "method": name, "column": f"minus {other}", "score": numbers.pop("effect")}
            verdict = words[difference.decide()] if difference else ""
            rows.append(row | numbers | {"seeds": len(difference.differences) if difference else 0, "verdict": verdict})
    return pd.DataFrame(rows)


# Curves: Figures 5 to 8


def over_seeds(values: Mapping[int, pd.Series]) -> pd.DataFrame:
    """Return mean and band over seeds, step by step.

    The band is Student's t at 95 % over at least three seeds; with two its factor is 12.7 and it would hide the curve,
    so ``low`` and ``high`` are NaN and each seed is drawn as its own line.

    Args:
        values: seed to a series indexed by step.

    Returns:
        step, mean, low, high, and ``seed_<n>``.

    Example:
        >>> over_seeds({0: pd.Series([1.0], index=[5]), 1: pd.Series([3.0], index=[5])}).iloc[0].to_list()
        [5.0, 2.0, nan, nan, 1.0, 3.0]
    """
    if not values:
        return pd.DataFrame(columns=["step", "mean", "low", "high"])
    frame = pd.DataFrame({f"seed_{seed}": values[seed] for seed in sorted(values)}).sort_index()
    seeds = frame.notna().sum(axis=1).to_numpy()
    mean = frame.mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = stats.t.ppf(0.975, np.maximum(seeds - 1, 1))
        half = np.where(seeds >= MIN_SEEDS, factor * frame.std(axis=1, ddof=1).to_numpy() / np.sqrt(seeds), np.nan)
    band = pd.DataFrame({"step": frame.index, "mean": mean, "low": mean - half, "high": mean + half}, index=frame.index)
    return pd.concat([band, frame], axis=1).reset_index(drop=True)


def smoothing_window(records: Records) -> int:
    """Return the steps averaged in curves of per-step metrics: a fortieth of training, odd, at least 1."""
    steps = [own.config.schedule.steps for own in records if own.method != BASE]
    window = max(1, max(steps, default=1) // 40)
    return window if window % 2 else window + 1 if window > 2 else 1


def metric_curve(runs: Records, metric: str, window: int = 1) -> pd.DataFrame:
    """Return the curve of a metric of one method on one base; columns as `over_seeds`.

    Args:
        runs: one per seed.
        metric: column of ``metrics``; a run without it is left out.
        window: steps averaged around each (shorter at both ends), so that batches of a few questions show a trend.
    """
    values = {
        run.seed: run.metrics.set_index("step")[metric].astype(float)
        for run in runs
        if metric in run.metrics and run.metrics[metric].notna().any()
    }
    return over_seeds({seed: own.rolling(window, center=True, min_periods=1).mean() for seed, own in values.items()})


def validation_curve(runs: Records, benchmarks: Sequence[str]) -> pd.DataFrame:
    """Return the validation accuracy in percent, the unweighted mean of the sets; columns as `over_seeds`."""
    values: dict[int, pd.Series] = {}
    for run in runs:
        own = run.validation[run.validation["benchmark"].isin(list(benchmarks))]
        if len(own):
            shares = 100 * own["correct"].astype(float) / own["samples"].astype(float)
            per_set = shares.groupby([own["step"].astype(int), own["benchmark"]]).mean()
            values[run.seed] = per_set.groupby(level=0).mean()
    return over_seeds(values)


def curves(
    records: Records,
    metrics: Sequence[str],
    methods: Sequence[str],
    policies: Sequence[str] = ("weak",),
    window: int = 1,
) -> pd.DataFrame:
    """Return metrics by training step, mean and band over seeds.

    Args:
        records: runs.
        metrics: names of recorded metrics (``docs/metrics.md``), or ``validation`` for the mean accuracy in percent on
            the in-distribution sets.
        methods: names of arms.
        policies: bases.
        window: as for `metric_curve`; not of ``validation``.

    Returns:
        policy, metric, method, and the columns of `over_seeds`; a method that does not record a metric has no rows.
    """
    sets = [name for name, own in sets_of(records).items() if own.distribution == "in"] if records else []
    found = {
        (policy, metric, method): validation_curve(runs, sets)
        if metric == "validation"
        else metric_curve(runs, metric, window)
        for policy in policies
        for metric in metrics
        for method in methods
        if (runs := of_method(records, method, policy))
    }
    return _stacked(found, ["policy", "metric", "method"])


def validation(records: Records, methods: Sequence[str], policy: str = "weak") -> pd.DataFrame:
    """Return the validation accuracy of every in-distribution set by training step, in percent.

    Returns:
        panel (the set), method, and the columns of `over_seeds`.
    """
    sets = [name for name, own in sets_of(records).items() if own.distribution == "in"] if records else []
    found = {(name, method): validation_curve(of_method(records, method, policy), [name])
             for name in sets for method in methods}  # fmt: skip
    return _stacked(found, ["panel", "method"])


def _stacked(found: Mapping[tuple[str, ...], pd.DataFrame], names: list[str]) -> pd.DataFrame:
    filled = {key: own for key, own in found.items() if len(own)}
    if not filled:
        return pd.DataFrame(columns=[*names, "step", "mean", "low", "high"])
    return pd.concat(filled, names=names).reset_index(level=names).reset_index(drop=True)


# Costs and settings


#: Column -> metrics whose sums over all steps it adds, and how many make a unit (thousand tokens, minutes).
COSTS: dict[str, tuple[tuple[str, ...], float]] = {
    "sampled": (("rollout/tokens",), 1e3),
    "trained_rollouts": (("trained/rollout_tokens",), 1e3),
    "trained_demonstrations": (("trained/demonstration_tokens",), 1e3),
    "trained": (("trained/rollout_tokens", "trained/demonstration_tokens"), 1e3),
    "minutes": (("time/step_s",), 60.0),
}


def costs(records: Records, methods: Sequence[str], policy: str) -> pd.DataFrame:
    """Return what every run cost in training.

    Returns:
        policy, method, seed; thousand tokens: sampled (all rollouts, before the gate acts), trained_rollouts and
        trained_demonstrations (once for each update they are in), trained (both); minutes (of the steps, without
        validation and evaluation). What a method does not do costs it nothing.
    """
    rows = [
        {"policy": policy, "method": method, "seed": run.seed}
        | {name: sum(float(run.metrics[own].sum()) for own in metrics if own in run.metrics.columns) / unit
           for name, (metrics, unit) in COSTS.items()}
        for method in methods for run in of_method(records, method, policy)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["policy", "method", "seed", *COSTS])


def mean_with_interval(values: pd.Series) -> str:
    """Return the mean over seeds of a quantity that is never negative, with its 95 % interval where there is one.

    Example:
        >>> mean_with_interval(pd.Series([1.0, 2.0, 3.0])), mean_with_interval(pd.Series([1.0]))
        ('2.0 [0.0, 4.5]', '1.0')
    """
    mean = seed_mean(values.to_numpy())
    low, high = mean.interval.low, mean.interval.high
    return f"{mean.mean:,.1f}" + ("" if pd.isna(low) else f" [{max(0.0, low):,.1f}, {high:,.1f}]")


def settings(records: Records) -> pd.DataFrame:
    """Return the settings in which the lines of a table or figure differ: what one needs to compare them fairly.

    Returns:
        One row per base, method and set of settings: policy, method, learning rate (both, of a method of two stages),
        weights (of SFT and of off-policy RL beside the rollouts), clip, std, gate.
    """
    arms = [(key, run) for run in records if run.method != BASE for key in arm_keys(run)]
    rows = [
        {"policy": run.policy, "method": label(key.removesuffix(f"-{run.policy}")), **_settings_of(run.config)}
        for key, run in arms if not key.startswith(f"{BASE}-")
    ]  # fmt: skip
    return pd.DataFrame(rows).drop_duplicates(ignore_index=True)


def _settings_of(config: RunConfig) -> dict[str, str]:
    stages = stages_of(config)
    rates = [
        f"{stage.config.optimizer.learning_rate:g} ({'next' if stage.start else 'first'} "
        f"{100 * stage.length / config.schedule.steps:.0f} % of the steps)"
        for stage in stages[:-1]
    ]
    rate = ", ".join([*rates, f"{stages[-1].config.optimizer.learning_rate:g}"])
    words: dict[str, list[str]] = {"weights": [], "clip": [], "std": []}
    for stage in stages:
        for name, value in _weights(stage.method, stage.config):
            words[name] += [] if value in words[name] else [value]
    gate = "" if config.gate.kind == "constant" else f"{config.gate.kind} at {config.gate.count}"
    return {"learning rate": rate, **{name: ", ".join(found) for name, found in words.items()}, "gate": gate}


def _weights(method: Method, config: RunConfig) -> list[tuple[str, str]]:
    found = []
    for component in method.components:
        if component.data == "rollouts":
            parameters = resolved_row(component, config).parameters
            if "clip_eps_low" in parameters:
                low = parameters["clip_eps_low"]
                found.append(("clip", "none" if low is None else f"{low:g}"))
            if "std" in parameters:
                found.append(("std", str(parameters["std"])))
        elif len(method.components) > 1:
            weight = getattr(config.estimator, component.coefficient)
            found.append(("weights", f"{component.coefficient} {weight:g}"))
    return found


# Figure 2 and Table 4: what is in reach, what is solved and what is lost


def pass_at_k(records: Records, evaluations: Sequence[str], methods: Sequence[str], policy: str) -> pd.DataFrame:
    """Return pass@k of every method on every set, for k = 1, 2, 4, ... up to the number of answers per problem.

    Args:
        records: runs.
        evaluations: ``set@samples``.
        methods: names of arms.
        policy: base.

    Returns:
        panel (the evaluation), stands_for, problems, samples, method, k; in percent: pass_at_k (unbiased, mean over
        seeds), problems_low, problems_high (95 % over problems of the mean over seeds, fixed weights), bootstrap,
        bootstrap_low, bootstrap_high (the paper's estimate and the middle 95 % of its draws, which hold problems and
        answers fixed), chance, seeds_low, seeds_high (Student's t over seeds, NaN below three), ``seed_<n>``.

    Raises:
        RecordFault: a run was not evaluated on it, or with unequal numbers of answers.
    """
    parts = [_pass_at_k(runs, name) for name in evaluations for method in methods
             if (runs := of_method(records, method, policy))]  # fmt: skip
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _pass_at_k(runs: Records, name: str) -> pd.DataFrame:
    counts = {run.seed: evaluation_counts(run, name) for run in runs}
    (samples, *others) = sorted({int(value) for own in counts.values() for value in own["samples"]})
    if others:
        raise RecordFault(f"{name} holds {samples} to {others[-1]} answers per problem; evaluate it again")
    stands_for = sets_of(runs)[name.partition("@")[0]].stands_for
    answers = 1 / world_named(runs[0].config.data.world).chance
    ks = [2**power for power in range(samples.bit_length())]
    shares = {k: np.array([unbiased_pass_at_k(own["correct"], samples, k) for own in counts.values()]) for k in ks}
    means = {seed: pd.Series([100 * shares[k][i].mean() for k in ks], ks) for i, seed in enumerate(counts)}
    by_seed = over_seeds(means)
    rows: list[dict[str, Any]] = []
    for k in ks:
        interval = problem_interval(shares[k].mean(axis=0), one_answer=False)
        # a stream for every run: with one for all, their draws would move together and their mean spread too far
        draws = np.mean(
            [pass_at_k_bootstrap(own["correct"], samples, k, draws=1_000, generator=np.random.default_rng([0, seed]))
             for seed, own in counts.items()], axis=0,
        )  # fmt: skip
        low, high = np.quantile(draws, (0.025, 0.975))
        rows.append(
            {
                "panel": name, "stands_for": stands_for, "problems": shares[k].shape[1], "samples": samples,
                "method": runs[0].method, "k": k, "pass_at_k": 100 * shares[k].mean(),
                "problems_low": 100 * interval.low, "problems_high": 100 * interval.high,
                "bootstrap": 100 * draws.mean(), "bootstrap_low": 100 * low, "bootstrap_high": 100 * high,
                "chance": 100 * float(chance_pass_at_k(answers, k)),
            }
        )  # fmt: skip
    seeds = by_seed.rename(columns={"low": "seeds_low", "high": "seeds_high"}).drop(columns=["step", "mean"])
    return pd.concat([pd.DataFrame(rows), seeds], axis=1)


#: Kinds of rows of `exclusive`: one answer per problem and seed, the mean of those, and every answer with every other.
ONE_ANSWER, MEAN, ALL_ANSWERS = "one answer", "mean over seeds", "all answers"


def exclusive(
    records: Records, method: str, baselines: Sequence[str], policy: str, evaluation: str, several: str
) -> pd.DataFrame:
    """Return the problems that a method solves and a baseline does not, and the reverse, by level.

    Args:
        records: runs; seeds that only one of the two has are left out.
        method, baselines: names of arms.
        policy: base.
        evaluation: set, with one answer per problem.
        several: the same set with several answers per problem.

    Returns:
        Rows per baseline and level ("Level 1" ... "Overall"): baseline; answers (``one answer`` per seed; ``mean over
        seeds`` of those; ``all answers``: every answer of one with every answer of the other, over samples and seeds);
        seed (NaN except for one answer); answers_per_problem, of each policy; level; problems; method_only and
        baseline_only (problems) and their percentages of the level; p_value and its test (fixed weights); the paper's
        counts and percentages.

    Raises:
        RecordFault: a run lacks an evaluation.
    """
    own = {run.seed: run for run in of_method(records, method, policy)}
    parts = []
    for baseline in baselines:
        others = {run.seed: run for run in of_method(records, baseline, policy)}
        seeds = sorted(own.keys() & others.keys())
        pair = ([own[seed] for seed in seeds], [others[seed] for seed in seeds])
        parts.append(_exclusive(*pair, baseline, policy, evaluation, several))
    return pd.concat(parts, ignore_index=True)


def _exclusive(
    own: Records, others: Records, baseline: str, policy: str, evaluation: str, several: str
) -> pd.DataFrame:
    parts: list[pd.DataFrame] = []
    for run, other in zip(own, others, strict=True):
        a, b = (_shares([one], evaluation) for one in (run, other))
        frame = exclusive_solves(a > 0, b > 0, _levels(run, evaluation)).rename(columns={"mcnemar_p": "p_value"})
        test = {"answers": ONE_ANSWER, "seed": float(run.seed), "test": "exact McNemar", "answers_per_problem": 1}
        parts.append(frame.assign(**test))
    if own:
        parts.append(_mean_exclusive(parts))
        # not the one answer besides: it is the first of the several, for its request has the same seed
        a, b = (_shares(runs, several) for runs in (own, others))
        answers = int(sum(evaluation_counts(run, several)["samples"].iloc[0] for run in own))
        frame = expected_exclusive_solves(a, b, _levels(own[0], evaluation)).rename(columns={"sign_p": "p_value"})
        kind = {"answers": ALL_ANSWERS, "seed": np.nan, "test": "exact sign test over problems"}
        parts.append(frame.assign(**kind, answers_per_problem=answers))
    names = ["method_only", "baseline_only", "method_only_percent", "baseline_only_percent"]
    first = ["baseline", "answers", "seed", "answers_per_problem", "level", "problems", *names, "p_value", "test"]
    if not parts:
        return pd.DataFrame(columns=[*first, *(f"paper_{name}" for name in names)])
    frame = pd.concat([part.astype({"a_only": float, "b_only": float}) for part in parts], ignore_index=True)
    frame = frame.rename(columns={name.replace("method", "a").replace("baseline", "b"): name for name in names})
    frame["level"] = [str(level) if level == "Overall" else f"Level {level}" for level in frame["level"]]
    frame = frame.assign(baseline=baseline)[first]
    for name, printed in zip(names, ("+X", "-Y", "+X %", "-Y %"), strict=True):
        values = [paper_value("table4", f"{arm_label(baseline)} {printed}", level, policy) for level in frame["level"]]
        frame[f"paper_{name}"] = [np.nan if value is None else value for value in values]
    return frame


def _shares(runs: Records, name: str) -> Shares:
    """Return [problems] shares of correct answers of an evaluation over all runs, every answer weighing the same."""
    counts = [evaluation_counts(run, name) for run in runs]
    correct, samples = (np.sum([own[column].to_numpy(np.float64) for own in counts], axis=0)
                        for column in ("correct", "samples"))  # fmt: skip
    return correct / samples


def _levels(run: RunRecords, name: str) -> NDArray[np.int64]:
    return evaluation_counts(run, name)["level"].to_numpy(np.int64)


def _mean_exclusive(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    frame = parts[0].assign(answers=MEAN, seed=np.nan, p_value=np.nan, test="")
    for own in ("a_only", "b_only"):
        frame[own] = np.mean([part[own].to_numpy(np.float64) for part in parts], axis=0)
        frame[f"{own}_percent"] = [round_half_up(100 * count / size)
                                   for count, size in zip(frame[own], frame["problems"], strict=True)]  # fmt: skip
    return frame


# Figures 3 and 4: every training question in every epoch

Grids = Mapping[int, pd.DataFrame]  # by seed


def question_grids(records: Records, method: str, policy: str = "weak") -> dict[int, pd.DataFrame]:
    """Return, by seed, the share of a question's rollouts that were correct in each epoch (`accuracy_grid`)."""
    return {run.seed: accuracy_grid(run.rollouts) for run in of_method(records, method, policy)}


def row_order(grids: Grids) -> pd.MultiIndex:
    """Return the order in which questions are drawn: by level, then by mean accuracy over epochs and seeds, best first.

    Raises:
        RecordFault: no grids.
    """
    if not grids:
        raise RecordFault(
            "no seed has the runs on few questions that Figures 3 and 4 draw; compute them, or import them"
        )
    mean = pd.concat([grid.mean(axis=1) for grid in grids.values()], axis=1).mean(axis=1).rename("mean").reset_index()
    ordered = mean.sort_values(["level", "mean", "problem_id"], ascending=[True, False, True], kind="stable")
    return pd.MultiIndex.from_frame(ordered[["level", "problem_id"]])


def questions(grids: Grids, order: pd.MultiIndex) -> pd.DataFrame:
    """Return a row per question and seed: level, problem_id, row (its place from the top), seed, ``epoch_<n>``."""
    parts = []
    for seed, grid in grids.items():
        own = grid.loc[order].rename(columns=lambda epoch: f"epoch_{epoch}").reset_index()
        own.insert(2, "row", own.groupby("level").cumcount() + 1)
        own.insert(3, "seed", seed)
        parts.append(own)
    return pd.concat(parts, ignore_index=True)


def zero_rows(grids: Grids) -> pd.DataFrame:
    """Return how many questions of each level never had a correct rollout: level, questions, mean, low, high, seeds."""
    counts = {seed: always_zero(grid).groupby(level="level").sum() for seed, grid in grids.items()}
    sizes = next(iter(grids.values())).groupby(level="level").size()
    over = over_seeds({seed: own.astype(float) for seed, own in counts.items()}).rename(columns={"step": "level"})
    over.insert(1, "questions", over["level"].map(sizes))
    return over


def shares_by_quarter(differences: Grids) -> pd.DataFrame:
    """Return the shares of red, white and blue in percent: level, quarter, colour, mean, low, high, seeds."""
    long = {seed: quarter_shares(own).melt(["level", "quarter"], ["red", "white", "blue"], "colour") for seed, own in
            differences.items()}  # fmt: skip
    keys = next(iter(long.values()))[["level", "quarter", "colour"]]
    over = over_seeds({seed: 100 * own["value"] for seed, own in long.items()}).drop(columns="step")
    return pd.concat([keys, over], axis=1).sort_values(["level", "quarter"], kind="stable").reset_index(drop=True)


# The search


def search(records: Records) -> pd.DataFrame:
    """Return one row per try of the search that has run, in the order of the grid.

    Returns:
        policy, method, steps, learning_rate, choice (settings beside the rate, in words), accuracy on the validation
        problems and its interval over them for fixed weights (problems_low, problems_high), all three in percent, arm,
        chosen (whether the method takes it: `chosen`).

    Raises:
        RecordFault: a run was not evaluated on the validation problems.
    """
    columns = "policy method steps learning_rate choice accuracy problems_low problems_high arm".split()
    rows = []
    for arm in SEARCH.arms:
        for run in of_arm(records, arm.key):
            own = evaluation_counts(run, "validation")
            shares = (own["correct"] / own["samples"]).to_numpy(float)
            interval = problem_interval(shares, one_answer=bool((own["samples"] == 1).all()))
            choice = {name: value for name, value in arm.settings.items() if name.startswith("estimator.")}
            values = (100 * float(shares.mean()), 100 * interval.low, 100 * interval.high)
            rows.append((arm.policy, arm.method, run.config.schedule.steps, arm.settings["optimizer.learning_rate"],
                         choice_text(choice), *values, arm.key))  # fmt: skip
    results = pd.DataFrame(rows, columns=columns)
    return results.assign(chosen=results["arm"].isin(set(chosen(results)["arm"])))


def chosen(results: pd.DataFrame) -> pd.DataFrame:
    """Return the row of `search` each method of each base takes.

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


# The price of each discrepancy between paper and code

Scores = dict[int, dict[str, Any]]  # by seed: shares, validation, skipped, base


def discrepancies(records: Records) -> pd.DataFrame:
    """Return a row per arm: HPT's score with one field moved, and the effect of the field against the default.

    Returns:
        title, why, sft_weight (multiple of the default's coefficient), chosen (highest validation accuracy among the
        weights tried, on the seeds that all of them have from one base; None where only one was), validation and
        average (percent, means over seeds), seeds (that both have from one base), the columns of `effect`,
        skipped_updates (sum over seeds). Last comes the skip rule, which needs no run as long as it never acted on the
        default.

    Raises:
        RecordFault: no run of the default, or a run lacks an evaluation.
    """
    default = _seed_scores(of_arm(records, DEFAULT.arms[0].key))
    if not default:
        raise RecordFault(f"no run of {DEFAULT.arms[0].key}, which every effect is measured against; compute it first")
    rows = []
    for own in (DEFAULT, *DISCREPANCIES):
        tried = {arm.key: found for arm in own.arms if (found := _seed_scores(of_arm(records, arm.key)))}
        best = _best(tried)
        for arm, weight in zip(own.arms, (1.0, *own.weights), strict=True):
            if arm.key in tried:
                is_best = arm.key == best if best else None
                rows.append(_discrepancy(own, arm, weight, is_best, tried[arm.key], default))
    frame = pd.DataFrame([*rows, _skip_rule(default)])
    seeds = _seed_columns(frame)
    return frame[[*(name for name in frame if name not in seeds), *seeds]]


def _seed_scores(runs: Records) -> Scores:
    return {
        run.seed: {
            "shares": in_distribution_shares(run),
            "validation": 100 * float(problem_shares(run, "validation").mean()),
            "skipped": int(run.metrics["optim/skipped_updates"].sum()),
            "base": run.config.policy.base_weights,
        }
        for run in runs
    }


def _best(tried: Mapping[str, Scores]) -> str:
    """Return the arm of highest validation accuracy on the seeds that all have from one base; empty without a choice.

    Not the highest mean of whatever each has: a seed more, or from another base, would decide instead of the weight.
    """
    if len(tried) < 2:
        return ""
    first, *others = tried.values()
    seeds = [seed for seed in first if all(_one_base(seed, first, other) for other in others)]
    return max(tried, key=lambda key: np.mean([tried[key][seed]["validation"] for seed in seeds])) if seeds else ""


def _one_base(seed: int, own: Scores, other: Scores) -> bool:
    """Return whether both have a seed, started from the same bits: a base trained again is another base."""
    return seed in own and seed in other and own[seed]["base"] == other[seed]["base"]


def _discrepancy(
    own: Discrepancy, arm: Arm, weight: float, is_best: bool | None, found: Scores, default: Scores
) -> dict[str, Any]:
    both = [seed for seed in found if _one_base(seed, found, default) and arm.key != DEFAULT.arms[0].key]
    shares = ({seed: side[seed]["shares"] for seed in both} for side in (found, default))
    return {
        "title": arm.label,
        "why": own.why,
        "sft_weight": weight,
        "chosen": is_best,
        "validation": float(np.mean([run["validation"] for run in found.values()])),
        "average": float(np.mean([average_of_sets(run["shares"]) for run in found.values()])),
        "seeds": len(both) or len(found),
        **effect(*shares)[0],
        "skipped_updates": sum(run["skipped"] for run in found.values()),
    }


def _skip_rule(default: Scores) -> dict[str, Any]:
    """Return the row of the skip rule: where no update of the default was skipped, a run without it is the same run."""
    skipped = sum(run["skipped"] for run in default.values())
    why = "The scripts skip an update whose gradient norm is above 80; the paper has no such rule. " + (
        f"Not measured: it skipped {skipped} updates of the default." if skipped else
        "It skipped no update of the default, so a run without it is the same run."
    )  # fmt: skip
    return {"title": "no skip rule", "why": why, "sft_weight": 1.0, "chosen": None, "validation": NAN, "average": NAN,
            "seeds": len(default), **_no_effect(NAN if skipped else 0.0), "skipped_updates": skipped}  # fmt: skip


def base_label(policy: str) -> str:
    """Return a base with the model it stands for, as `hpt.paper.paper.base_title` has it, with a capital.

    Example:
        >>> base_label("weak")
        'Weak base (stands for Qwen2.5-Math-1.5B)'
    """
    title = base_title(policy)
    return title[:1].upper() + title[1:]


def trainings(begun: Iterable[tuple[str | None, int]]) -> list[str]:
    """Return the weights that runs on one base began from, with their seeds, in words: one entry while it is one base.

    Args:
        begun: of each run the hash of the base's weights (None or empty: it starts from none) and its seed.

    Example:
        >>> trainings([("b" * 64, 2), ("a" * 64, 0), ("b" * 64, 1), (None, 0)])
        ['aaaaaaaaaaaa (seeds 0)', 'bbbbbbbbbbbb (seeds 1, 2)']
    """
    seeds: dict[str, set[int]] = {}
    for weights, seed in begun:
        if weights:
            seeds.setdefault(weights, set()).add(seed)
    return [f"{weights[:12]} (seeds {', '.join(map(str, sorted(own)))})" for weights, own in sorted(seeds.items())]
