"""Tidy data frames from records: one row per observation, which a notebook's cells lay out and draw.

Every function takes ``records`` of runs (`hpt.reports.notebooks.Study.runs`, or `hpt.runs.records.load_records`) and
returns a frame whose columns its docstring names; the CSV beside a table or figure is this frame. ``method`` and
``methods`` are names of arms, ``policy`` is their base; methods without a run are left out. Scores are in percent,
intervals have 95 %: over seeds Student's t, over problems for fixed weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd

from hpt.config.run_config import MOVES_NO_NUMBER
from hpt.data.models import MODELS
from hpt.data.problems import EvaluationSet
from hpt.data.public import DATASETS
from hpt.data.sources import OWN_SET, OWN_TITLE, evaluation_at, evaluation_set, recorded_name, training_problems_of
from hpt.data.world.worlds import world_named
from hpt.evaluation.intervals import (
    MIN_SEEDS,
    Decision,
    Interval,
    average_interval,
    paired_difference,
    problem_interval,
    seed_mean,
)
from hpt.evaluation.scores import (
    Shares,
    accuracy_grid,
    always_zero,
    average_of_cells,
    chance_pass_at_k,
    exclusive_solves,
    pass_at_k_bootstrap,
    quarter_shares,
    round_half_up,
)
from hpt.evaluation.scores import pass_at_k as unbiased_pass_at_k
from hpt.methods.methods import method_named, resolved_row
from hpt.paper.paper import BASE, base_title, paper_data, paper_row, paper_table, paper_value
from hpt.runs.catalogue import DEFAULT, DISCREPANCIES, RATE_OF, arm_label, artefacts_at, choice_text
from hpt.runs.folder import bases_by_seed
from hpt.runs.records import RunRecords
from hpt.support.errors import RecordFault
from hpt.upge.advantage import RolloutGroups, advantages

Records = Sequence[RunRecords]
NAN = float("nan")


# Choosing runs


def arm_keys(record: RunRecords) -> tuple[str, ...]:
    """Return the arms a record belongs to; one that was loaded alone is the plain arm of its method and base."""
    return record.arms or (f"{record.method}-{record.policy}",)


def of_arm(records: Records, key: str) -> list[RunRecords]:
    """Return the runs of an arm (`hpt.runs.catalogue.Arm.key`), in the order of their seeds."""
    chosen = sorted((run for run in records if key in arm_keys(run)), key=lambda run: run.seed)
    for first, second in pairwise(chosen):
        if first.seed == second.seed:
            raise RecordFault(f"{first.name} and {second.name} are two runs of one seed; give only one of them")
    return chosen


def of_method(records: Records, method: str, policy: str) -> list[RunRecords]:
    """Return the runs of the arm ``method`` on a base, in the order of their seeds."""
    return of_arm(records, f"{method}-{policy}")


def is_shared(bases: Records) -> bool:
    """Return whether these are the one run of a base that all seeds start from, rather than that of a single seed."""
    return len(bases) == 1 and not bases_by_seed(bases[0].config)


def sets_of(records: Records) -> dict[str, EvaluationSet]:
    """Return the evaluation sets of the world of the runs, in the order of the tables, and the user's of curves."""
    worlds = sorted({f"{run.config.data.evaluation} {run.config.data.world}" for run in records})
    if len(worlds) != 1:
        raise RecordFault(f"a table or figure needs runs of one world, got {', '.join(worlds) or 'none'}")
    sets = records[0].sets
    drawn = {name for run in records for name in run.validation.get("benchmark", ())} - sets.keys() - DATASETS.keys()
    return sets | {name: EvaluationSet(name, OWN_TITLE, 1, OWN_SET, 0, tuple) for name in sorted(drawn)}


def drawn_sets(records: Records) -> list[str]:
    """Return the names of the sets of validation curves: in-distribution, or the user's; none without records."""
    sets = sets_of(records) if records else {}
    return [name for name, one in sets.items() if one.distribution in ("in", OWN_SET)]


# Text for cells of tables and captions


def label(method: str) -> str:
    """Return what tables and legends call a method or arm.

    Example:
        >>> label("pretrain"), label("hpt_gate1"), label("srft")
        ('base', 'HPT, gate 1/8', 'SRFT')
    """
    return "base" if method == BASE else arm_label(method)


def base_label(policy: str, scale: str = "") -> str:
    """Return what a base is called: with the model it stands for, or the published model that it is at a scale.

    Example:
        >>> base_label("weak"), base_label("weak", "smollm")
        ('Weak base (stands for Qwen2.5-Math-1.5B)', 'SmolLM2-135M')
    """
    published = [model.title for model in MODELS.values() if (model.scale, model.role) == (scale, policy)]
    title = published[0] if published else base_title(policy)
    return title[:1].upper() + title[1:]


def base_name(policy: str, scale: str = "") -> str:
    """Return a base as sentences name it.

    Example:
        >>> base_name("llama"), base_name("weak", "smollm")
        ('the Llama base', 'SmolLM2-135M')
    """
    if (title := base_label(policy, scale)) != base_label(policy):
        return title
    return f"the {base_title(policy).partition(' (')[0]}"


def set_title(name: str, stands_for: str) -> str:
    """Return what a panel calls an evaluation set: with the paper's benchmark that it stands for, where it does.

    Example:
        >>> set_title("contest-a@256", "AIME 24"), set_title("sums", "")
        ('contest-a (stands for AIME 24)', 'sums')
    """
    return name.partition("@")[0] + (f" (stands for {stands_for})" if stands_for else "")


def number_text(values: pd.Series, sign: str = "") -> pd.Series:
    """Return numbers with one decimal, as text; empty where there is none. ``sign="+"`` writes a plus sign too."""
    return values.map(lambda value: "" if pd.isna(value) else f"{round_half_up(value):{sign}.1f}").astype(object)


class Cell(str):
    """The text of a score, with what a page draws beside it: its seeds, and whether it is marked as the best."""

    seeds: tuple[float, ...] = ()
    best: bool = False


def best_of(frame: pd.DataFrame) -> pd.Series:
    """Return which scores are the best of their base and column: above every other one by the paired seeds' interval.

    Example:
        >>> rows = pd.DataFrame({"policy": "weak", "column": "choice", "method": ["a", "b"], "seeds": 3,
        ...                      "seed_0": [9.0, 1.0], "seed_1": [8.0, 1.0], "seed_2": [9.0, 2.0]})
        >>> best_of(rows).tolist(), best_of(rows.assign(seed_2=[9.0, 8.0])).tolist()
        ([True, False], [False, False])
    """
    best = pd.Series(False, frame.index)
    for _, rows in frame[frame["seeds"] > 0].groupby(["policy", "column"], sort=False):
        values = rows.filter(like="seed_").T.ffill().T.to_numpy(float)  # a base has one run, which all seeds share
        top = int(np.nanargmax(np.nanmean(values, axis=1)))
        others = [paired_difference(values[top], one).interval.low > 0 for one in np.delete(values, top, axis=0)]
        best[rows.index[top]] = rows["seeds"].iloc[top] >= MIN_SEEDS and bool(others) and all(others)
    return best


def with_interval(frame: pd.DataFrame, value: str = "score", sign: str = "") -> pd.Series:
    """Return a column as text with its interval: over seeds where there are several, else over problems.

    Where an interval of scores would leave 0 to 100, the least and the most of the seeds (``seed_<n>``) say more.
    ``sign="+"`` is for differences. Texts of `scores` over several seeds are `Cell`.

    Example:
        >>> row = {"score": 41.25, "seeds": 1, "seeds_low": NAN, "seeds_high": NAN, "problems_low": 38.0,
        ...        "problems_high": 44.0}
        >>> with_interval(pd.DataFrame([row])).item()
        '41.3 [38.0, 44.0]'
    """
    several = frame["seeds"] > 1
    low, high = (frame[f"seeds_{end}"].where(several, frame[f"problems_{end}"]) for end in ("low", "high"))
    number, brackets = number_text(frame[value], sign), " [" + number_text(low) + ", " + number_text(high) + "]"
    text = number + brackets.where(low.notna() & high.notna(), "")
    if not sign and len(frame):
        values = frame.filter(like="seed_")
        seeds = " (" + number_text(values.min(axis=1)) + " to " + number_text(values.max(axis=1)) + ")"
        text = text.mask(_cut_off(frame), number + seeds)
    text = text.mask(several & (low == high), "all seeds " + number)
    if not _has_dots(frame):
        return text
    cells = [Cell(own) for own in text]
    for cell, values, best in zip(cells, frame.filter(like="seed_").to_numpy(float), best_of(frame), strict=True):
        cell.seeds, cell.best = tuple(values[np.isfinite(values)]), bool(best)
    return pd.Series(cells, frame.index, dtype=object)


def _has_dots(frame: pd.DataFrame) -> bool:
    return {"policy", "column"} <= set(frame) and bool((frame["seeds"] > 1).any())


def _cut_off(frame: pd.DataFrame) -> pd.Series:
    """Return which intervals over seeds were cut at 0 or 100, where no accuracy can be."""
    return (frame["seeds"] > 1) & ((frame["seeds_low"] <= 0) | (frame["seeds_high"] >= 100))


def interval_note(frame: pd.DataFrame, of: str = "mean") -> str:
    """Return what the brackets of `with_interval` are, in words, for a caption.

    Example:
        >>> interval_note(pd.DataFrame({"method": ["hpt"], "seeds": [3]}))
        "mean over 3 seeds, in brackets the 95 % interval over seeds (Student's t)"
    """
    several = sorted({int(seeds) for seeds in frame["seeds"] if seeds > 1})
    if not several:
        return "one seed, in brackets the 95 % interval over the problems for fixed weights"
    counts = " to ".join(map(str, dict.fromkeys((several[0], several[-1]))))
    note = f"{of} over {counts} seeds, in brackets the 95 % interval over seeds (Student's t)"
    if (frame["seeds"] == 1).any():
        note += "; of one run, such as a base that all seeds share, over the problems for fixed weights"
    if "column" in frame and _cut_off(frame).any():
        note += "; in parentheses the range of the seeds, where it would reach beyond 0 or 100"
    if _has_dots(frame):
        note += "; on the page a dot per seed, from 0 to 100"
        note += ", bold: above every other" if best_of(frame).any() else ""
        note += '; "all seeds" where they are equal' if (frame["seeds_low"] == frame["seeds_high"]).any() else ""
    return note


def _stand_for_none(frame: pd.DataFrame) -> bool:
    """Return whether no set of a frame of `scores` stands for one of the paper's: its averages always do."""
    return set(frame["stands_for"]) <= {"", *paper_data()["averages"]}


def sets_note(frame: pd.DataFrame) -> str:
    """Return what the sets of a frame of `scores` are beside the paper's, for a caption."""
    if _stand_for_none(frame):
        return "The sets stand for none of the paper's, whose averages on another model stand beside."
    note = (
        "Each set is made by this package and stands for the benchmark below its name: compare signs and order with "
        "the paper's values, not levels."
    )
    return note + " * copied by the paper's authors from another paper." * bool(frame["paper_copied"].any())


def smoothing_note(window: int) -> str:
    """Return over how many steps curves are averaged, for a caption; empty where they are not."""
    return f"Moving average over {window} steps. " if window > 1 else ""


def seeds_note(records: Records) -> str:
    """Return what the bands around curves are, for a caption."""
    seeds = len({run.seed for run in records if run.method != BASE})
    if seeds == 1:
        return "One seed: no band."
    band = "with its 95 % band (Student's t); thin lines: single seeds"
    return f"Mean of {seeds} seeds {band if seeds >= MIN_SEEDS else '(thin lines), too few for a band'}."


def mean_with_interval(values: pd.Series, most: float = np.inf) -> str:
    """Return the mean over seeds of a quantity from 0 to ``most``, with its interval where there is one.

    Example:
        >>> mean_with_interval(pd.Series([1.0, 2.0, 3.0])), mean_with_interval(pd.Series([1.0]))
        ('2.0 [0.0, 4.5]', '1.0')
        >>> mean_with_interval(pd.Series([0.0, 0.0]))
        'all seeds 0.0'
    """
    mean = seed_mean(values.to_numpy())
    low, high = mean.interval.low, mean.interval.high
    if low == high:
        return f"all seeds {mean.mean:,.1f}"
    return f"{mean.mean:,.1f}" + ("" if pd.isna(low) else f" [{max(0.0, low):,.1f}, {min(most, high):,.1f}]")


def beside_the_papers(scores: pd.DataFrame, names: Mapping[str, str] | None = None, scale: str = "") -> pd.DataFrame:
    """Lay out a frame of `scores`: a row per base and method; of every set, ours and the paper's in adjacent columns.

    ``names`` are what methods are called instead of `label`; a star marks what the paper's authors copied from another
    paper.
    """
    sets = ["column", "stands_for"]
    texts = scores[sets].assign(
        base=scores["policy"].map(partial(base_label, scale=scale)),
        method=[(names or {}).get(method) or label(method) for method in scores["method"]],
        ours=with_interval(scores),
        paper=number_text(scores["paper"]) + scores["paper_copied"].map({True: "*", False: ""}),
    )
    # not melted first, which would make plain texts of the cells
    table = texts.pivot_table(["ours", "paper"], ["base", "method"], sets, "first", sort=False)
    table = table.reorder_levels([1, 2, 0], axis=1).rename_axis(["set", "stands for", ""], axis=1)
    order = texts[sets].drop_duplicates().itertuples(index=False, name=None)
    table = table[[(*name, whose) for name in order for whose in ("ours", "paper")]]
    if _stand_for_none(scores):
        table = table.droplevel("stands for", axis=1)
    return table.loc[:, (table != "").any()]


def means_by_method(frame: pd.DataFrame, columns: Mapping[str, str], most: float = np.inf) -> pd.DataFrame:
    """Lay out quantities of runs (column -> head), `mean_with_interval` of each: a row per base and method."""
    means = frame.groupby(["policy", "method"], sort=False)[list(columns)].agg(mean_with_interval, most=most)
    rows = [(base_label(policy), label(method)) for policy, method in means.index]
    means.index = pd.MultiIndex.from_tuples(rows, names=["base", "method"])
    return means.rename(columns=columns)


#: What does not set two lines apart, or is named beside them already.
_NOT_A_SETTING: dict[str, Any] = {
    **dict.fromkeys((*MOVES_NO_NUMBER, "scale", "method", "seed", "own_modules", "over_stages"), True),
    "data": {"sha256", "folder"}, "validation": {"sha256"},
    "policy": {"name", "path", "weights_sha256", "config_sha256", "tokenizer_sha256"},
}  # fmt: skip


def settings(records: Records) -> pd.DataFrame:
    """Return the settings in which the lines of a table or figure differ: a row per base and method (the index)."""
    lines = {key: run for run in records if run.method != BASE for key in arm_keys(run) if not key.startswith(BASE)}
    names = [(run.policy, label(key.removesuffix(f"-{run.policy}"))) for key, run in lines.items()]
    flat = pd.json_normalize([run.config.model_dump(mode="json", exclude=_NOT_A_SETTING) for run in lines.values()])
    flat.index = pd.MultiIndex.from_tuples(names, names=["base", "method"])
    different = flat.loc[:, flat.astype(str).nunique(dropna=False) > 1].astype(object).fillna("")
    return different.map(lambda value: str(value) if isinstance(value, list) else value)


# Scores: Tables 2, 3, 5, 6

_OF_SCORES = (
    "policy method column stands_for samples_per_problem problems seeds score seeds_low seeds_high problems_low "
    "problems_high problems_interval paper paper_copied"
).split()


def scores(
    records: Records,
    lines: Mapping[str, Sequence[str]],
    paper: str,
    distributions: Sequence[str] = ("in",),
    own: Sequence[str] = (),
) -> pd.DataFrame:
    """Return the score of every method on every set, with the paper's value beside it.

    ``lines`` are names of arms by base (`BASE` is the base itself), ``paper`` the table whose values stand beside; its
    rows that exist only as published numbers come last. Sets ``in`` or ``out`` of distribution are followed by their
    average; ``own`` are further evaluations, such as files of the user's questions, in no average.

    Returns:
        One row per base, method and column: policy, method, column, stands_for, samples_per_problem, problems, seeds
        (0: published only), score (mean over seeds as printed), seeds_low, seeds_high (within 0 to 100, NaN for one),
        problems_low, problems_high, problems_interval (its kind), paper (NaN where there is none), paper_copied (by its
        authors, from another paper), and ``seed_<n>`` (the average as the paper takes it, from printed cells).
    """
    rows: list[dict[str, Any]] = []
    for policy, methods in lines.items():
        stands_for: dict[str, str] = {}
        for method in methods:
            printed = paper_row(paper, method, policy) or {}
            runs = of_method(records, method, policy)
            found = [row for distribution in distributions if runs for row in _scores(runs, distribution)]
            found += [_of_set(runs, name)[0] for name in own if runs]
            for row in found:
                stands_for[row["column"]] = row["stands_for"]
                rows.append({"policy": policy, "method": method, **row, "paper": printed.get(row["stands_for"], NAN),
                             "paper_copied": bool(printed.get("starred"))})  # fmt: skip
        for row in _rows_of_others(paper, policy):
            rows += [{"policy": policy, "method": row["row"], "column": column, "stands_for": theirs, "seeds": 0,
                      "paper": row.get(theirs, NAN), "paper_copied": bool(row["starred"])}
                     for column, theirs in stands_for.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=[*_OF_SCORES, *seed_columns(name for row in rows for name in row)])


def average_column(distribution: str) -> str:
    """Return the paper's name of an average, ``in`` or ``out`` of distribution: "Avg", "Avg (OOD)"."""
    return next(name for name, kind in paper_data()["averages"].items() if kind == distribution)


def _scores(runs: Records, distribution: str) -> list[dict[str, Any]]:
    """Return one row per set of a distribution and one of their average."""
    sets = [(name, one.stands_for) for name, one in sets_of(runs).items() if one.distribution == distribution]
    rows, means = map(list, zip(*(_of_set(runs, name, theirs) for name, theirs in sets), strict=True))
    cells = {f"seed_{run.seed}": [row[f"seed_{run.seed}"] for row in rows] for run in runs}
    average = average_column(distribution)
    row = _score({run.seed: float(np.mean(cells[f"seed_{run.seed}"])) for run in runs}, average_interval(means))
    row |= {"column": average, "stands_for": average, "problems": sum(row["problems"] for row in rows)}
    row |= {"score": average_of_cells(row["score"] for row in rows)}
    return [*rows, row | {name: average_of_cells(values) for name, values in cells.items()}]


def _of_set(runs: Records, name: str, stands_for: str = OWN_TITLE) -> tuple[dict[str, Any], Shares]:
    """Return the row of an evaluation, and its share of correct answers to every problem, a mean over seeds."""
    shares = np.array([run.shares(name) for run in runs])  # [seeds, problems]
    drawn = int(runs[0].counts(name)["samples"].max())  # greedily one, whatever the set's number
    mean = shares.mean(axis=0)
    interval = problem_interval(mean, one_answer=drawn == 1 and len(runs) == 1)
    by_seed = dict(zip([run.seed for run in runs], 100 * shares.mean(axis=1), strict=True))
    about = {"column": recorded_name(runs[0].config, name), "stands_for": stands_for, "samples_per_problem": drawn}
    return about | {"problems": shares.shape[1]} | _score(by_seed, interval), mean


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


def _rows_of_others(table: str, policy: str) -> list[dict[Any, Any]]:
    """Return the rows that a table of the paper has of models that nothing here trains."""
    frame = paper_table(table)
    return frame[frame["method"].isna() & (frame["policy"] == policy)].to_dict("records")


def seed_columns(names: Iterable[Any]) -> list[str]:
    """Return the columns of single seeds among some names, each once, in the order of the seeds."""
    return sorted({str(name) for name in names if str(name).startswith("seed_")}, key=lambda name: int(name[5:]))


def seeds_last(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with its columns of single seeds at the end."""
    seeds = seed_columns(frame)
    return frame[[*(name for name in frame if name not in seeds), *seeds]]


# Effects: what a change is worth, over seeds and over problems


def in_distribution_shares(run: RunRecords) -> list[Shares]:
    """Return a run's shares of correct answers on every in-distribution set, each [problems]."""
    return [run.shares(name) for name, one in run.sets.items() if one.distribution == "in"]


def averages_by_seed(runs: Records) -> dict[int, float]:
    """Return the in-distribution average of every run, percent, by seed."""
    return {run.seed: average_of_sets(in_distribution_shares(run)) for run in runs}


def average_of_sets(shares: Sequence[Shares]) -> float:
    """Return the unweighted mean over sets, percent."""
    return 100 * float(np.mean([one.mean() for one in shares]))


def effect(changed: Mapping[int, Sequence[Shares]], default: Mapping[int, Sequence[Shares]]) -> dict[str, Any]:
    """Return how much better ``changed`` is than ``default`` (seed -> shares of every set), on the seeds both have.

    effect (points), seeds_low, seeds_high (NaN for one seed), problems_low, problems_high, verdict (`Decision`) and
    ``seed_<n>``; without a common seed NaN, and no verdict.

    Example:
        >>> numbers = effect({0: [np.array([1.0, 1.0, 0.0])]}, {0: [np.array([1.0, 0.0, 0.0])]})
        >>> round(numbers["effect"], 1), numbers["verdict"].value
        (33.3, 'undecided (one seed)')
    """
    seeds = [seed for seed in changed if seed in default]
    if not seeds:
        return dict.fromkeys(("effect", "seeds_low", "seeds_high", "problems_low", "problems_high"), NAN)
    ours, theirs = ([average_of_sets(side[seed]) for seed in seeds] for side in (changed, default))
    difference = paired_difference(ours, theirs)
    of_sets = zip(*([a - b for a, b in zip(changed[seed], default[seed], strict=True)] for seed in seeds), strict=True)
    over_problems = average_interval([np.mean(differences, axis=0) for differences in of_sets])
    return {
        "effect": difference.mean,
        "seeds_low": difference.interval.low,
        "seeds_high": difference.interval.high,
        "problems_low": 100 * over_problems.low,
        "problems_high": 100 * over_problems.high,
        **{f"seed_{seed}": value for seed, value in zip(seeds, difference.differences, strict=True)},
        "verdict": difference.decide(),
    }


def effects(records: Records, methods: Sequence[str], other: str, policy: str) -> pd.DataFrame:
    """Return how much better every method is than another one, on the mean of the in-distribution sets.

    One row per method that has runs, as has the other (`BASE` may have one, which all seeds share): policy, method,
    other_average and average (percent, means over seeds), seeds (that both have), the columns of `effect`, the verdict
    in words.
    """
    words = {Decision.above: f"better than {label(other)}", Decision.below: f"worse than {label(other)}"}
    others = of_method(records, other, policy)
    rows = []
    for name in methods:
        mine = {run.seed: in_distribution_shares(run) for run in of_method(records, name, policy)}
        theirs = {run.seed: in_distribution_shares(run) for run in others}
        if name == other or not mine or not theirs:
            continue
        if other == BASE and is_shared(others):
            theirs = dict.fromkeys(mine, next(iter(theirs.values())))
        averages = [float(np.mean([average_of_sets(one) for one in side.values()])) for side in (mine, theirs)]
        numbers = effect(mine, theirs)
        verdict = numbers.pop("verdict", None)
        rows.append({"policy": policy, "method": name, "other_average": averages[1], "average": averages[0],
                     "seeds": len(mine.keys() & theirs.keys()), **numbers,
                     "verdict": words.get(verdict, verdict.value) if verdict else ""})  # fmt: skip
    return pd.DataFrame(rows)


def printed_gain(policy: str) -> float:
    """Return the paper's gain of GRPO on a base: the difference of two printed averages, NaN where it has none."""
    before, after = (paper_value("grpo_gains", name, average_column("in"), policy) for name in (BASE, "grpo"))
    return NAN if before is None or after is None else after - before


# Curves: Figures 5 to 8


def over_seeds(values: Mapping[int, pd.Series]) -> pd.DataFrame:
    """Return mean and band over seeds, step by step: step, mean, low, high, ``seed_<n>``.

    The band is Student's t over at least three seeds; with two its factor is 12.7 and it would hide the curve, so
    ``low`` and ``high`` are NaN and each seed is drawn as a line.

    Example:
        >>> over_seeds({0: pd.Series([1.0], index=[5]), 1: pd.Series([3.0], index=[5])}).iloc[0].to_list()
        [5.0, 2.0, nan, nan, 1.0, 3.0]
    """
    if not values:
        return pd.DataFrame(columns=["step", "mean", "low", "high"])
    from scipy import stats

    frame = pd.DataFrame({f"seed_{seed}": values[seed] for seed in sorted(values)}).sort_index()
    seeds, mean = frame.notna().sum(axis=1), frame.mean(axis=1)
    half = (frame.sem(axis=1) * stats.t.ppf(0.975, np.maximum(seeds - 1, 1))).where(seeds >= MIN_SEEDS)
    band = pd.DataFrame({"step": frame.index, "mean": mean, "low": mean - half, "high": mean + half}, index=frame.index)
    return pd.concat([band, frame], axis=1).reset_index(drop=True)


def smoothing_window(records: Records) -> int:
    """Return the steps averaged in curves of per-step metrics: a fortieth of training, odd, at least 1."""
    steps = [run.config.schedule.steps for run in records if run.method != BASE]
    window = max(1, max(steps, default=1) // 40)
    return window if window % 2 else window + 1 if window > 2 else 1


def metric_curve(runs: Records, metric: str, window: int = 1) -> pd.DataFrame:
    """Return the curve of a metric of one method on one base, averaged over ``window`` steps around each.

    Columns as `over_seeds`; a run that does not record the metric is left out.
    """
    values = {run.seed: run.metrics.set_index("step")[metric].astype(float) for run in runs
              if metric in run.metrics and run.metrics[metric].notna().any()}  # fmt: skip
    return over_seeds({seed: one.rolling(window, center=True, min_periods=1).mean() for seed, one in values.items()})


def validation_curve(runs: Records, benchmarks: Sequence[str]) -> pd.DataFrame:
    """Return the validation accuracy in percent, the unweighted mean of the sets; columns as `over_seeds`."""
    values: dict[int, pd.Series] = {}
    for run in runs:
        rows = run.validation[run.validation["benchmark"].isin(list(benchmarks))]
        if len(rows):
            shares = 100 * rows["correct"].astype(float) / rows["samples"].astype(float)
            per_set = shares.groupby([rows["step"].astype(int), rows["benchmark"]]).mean()
            values[run.seed] = per_set.groupby(level=0).mean()
    return over_seeds(values)


def curves(
    records: Records,
    metrics: Iterable[str],
    methods: Sequence[str],
    policies: Sequence[str] = ("weak",),
    window: int = 1,
) -> pd.DataFrame:
    """Return metrics by training step, mean and band over seeds; ``window`` as for `metric_curve`.

    A metric is a recorded one (``docs/metrics.md``), or ``validation`` for the mean accuracy in percent on the
    in-distribution sets. Columns: policy, metric, method, and those of `over_seeds`.
    """
    sets, found = drawn_sets(records), {}
    for policy, metric, method in product(policies, metrics, methods):
        runs = of_method(records, method, policy)
        curve = validation_curve(runs, sets) if metric == "validation" else metric_curve(runs, metric, window)
        found[policy, metric, method] = curve
    return _stacked(found, ["policy", "metric", "method"])


def validation(records: Records, methods: Sequence[str], policy: str = "weak") -> pd.DataFrame:
    """Return the validation accuracy in percent by step: panel (the set), method, and the columns of `over_seeds`."""
    found = {(name, method): validation_curve(of_method(records, method, policy), [name])
             for name in drawn_sets(records) for method in methods}  # fmt: skip
    return _stacked(found, ["panel", "method"])


def _stacked(found: Mapping[tuple[str, ...], pd.DataFrame], names: list[str]) -> pd.DataFrame:
    filled = {key: curve for key, curve in found.items() if len(curve)}
    if not filled:
        return pd.DataFrame(columns=[*names, "step", "mean", "low", "high"])
    return pd.concat(filled, names=names).reset_index(level=names).reset_index(drop=True)


#: Column -> metrics whose sums over all steps it adds, and how many make a unit (thousand tokens, minutes).
COSTS: dict[str, tuple[tuple[str, ...], float]] = {
    "sampled": (("rollout/tokens",), 1e3),
    "trained_rollouts": (("trained/rollout_tokens",), 1e3),
    "trained_demonstrations": (("trained/demonstration_tokens",), 1e3),
    "trained": (("trained/rollout_tokens", "trained/demonstration_tokens"), 1e3),
    "minutes": (("time/step_s",), 60.0),
}


def _cost(run: RunRecords, column: str) -> np.ndarray:
    """Return what every step cost, [steps]; what a method does not do costs it nothing."""
    metrics, unit = COSTS[column]
    return run.metrics.reindex(columns=list(metrics)).to_numpy(float, na_value=0.0).sum(axis=1) / unit


def costs(records: Records, methods: Sequence[str], policy: str) -> pd.DataFrame:
    """Return what every run cost in training: policy, method, seed, and a column for each of `COSTS`.

    Thousand tokens: sampled (all rollouts, before the gate acts), trained_rollouts and trained_demonstrations (once for
    each update they are in), trained (both); minutes (of the steps, without validation and evaluation).
    """
    rows = [{"policy": policy, "method": method, "seed": run.seed, **{name: _cost(run, name).sum() for name in COSTS}}
            for method in methods for run in of_method(records, method, policy)]  # fmt: skip
    return pd.DataFrame(rows, columns=["policy", "method", "seed", *COSTS])


def equal_costs(records: Records, methods: Sequence[str], policy: str) -> pd.DataFrame:
    """Return the validation accuracy of every run at equal steps, tokens and seconds, and its mean over training.

    The curve (the unweighted mean of the in-distribution sets) is interpolated between its points, at the least that a
    run of the same seed spent.

    Returns:
        policy, method, seed; in percent: end (after the last step), area (under the curve, over the steps: its mean
        height), at_tokens, at_seconds; and the budgets, tokens (thousand sampled) and seconds (of the steps). A method
        that samples nothing has its end ``at_tokens``.
    """
    made = []
    for method in methods:
        for run in of_method(records, method, policy):
            curve = validation_curve([run], drawn_sets(records))
            if curve.empty:
                continue
            steps, height = curve["step"].to_numpy(int), curve["mean"].to_numpy(float)
            by_step = {"tokens": _cost(run, "sampled"), "seconds": 60 * _cost(run, "minutes")}
            spent = {name: np.append(0.0, cost.cumsum())[steps] for name, cost in by_step.items()}
            area = float(np.trapezoid(height, steps)) / (steps[-1] - steps[0])
            row = {"policy": policy, "method": method, "seed": run.seed, "end": height[-1], "area": area}
            made.append((row, height, spent))
    for row, height, spent in made:
        for name in spent:
            totals = [theirs[name][-1] for other, _, theirs in made if other["seed"] == row["seed"]]
            row[name] = min(filter(None, totals), default=NAN)
            row[f"at_{name}"] = np.interp(row[name], spent[name], height)
    columns = ["policy", "method", "seed", "end", "area", "at_tokens", "at_seconds", "tokens", "seconds"]
    return pd.DataFrame([row for row, _, _ in made], columns=columns)


# Figure 2 and Table 4: what is in reach, what is solved and what is lost


def pass_at_k(records: Records, evaluations: Sequence[str], methods: Sequence[str], policy: str) -> pd.DataFrame:
    """Return pass@k of every method on every ``set@samples``, for k = 1, 2, 4, ... up to the answers per problem.

    Returns:
        panel (the evaluation), stands_for, problems, samples, method, k; in percent: pass_at_k (unbiased, mean over
        seeds), problems_low, problems_high (of the mean over seeds), bootstrap, bootstrap_low, bootstrap_high (the
        paper's estimate and the middle 95 % of its draws, which hold problems and answers fixed), chance, seeds_low,
        seeds_high (NaN below three seeds), ``seed_<n>``.
    """
    parts = [_pass_at_k(runs, name) for name in evaluations for method in methods
             if (runs := of_method(records, method, policy))]  # fmt: skip
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _pass_at_k(runs: Records, name: str) -> pd.DataFrame:
    correct = {run.seed: run.counts(name)["correct"].to_numpy() for run in runs}
    samples = int(runs[0].counts(name)["samples"].iloc[0])
    data = runs[0].config.data
    chance = world_named(data.world).chance if data.evaluation == "graded" else 0.0
    about = {"panel": evaluation_at(runs[0].config, name),
             "stands_for": sets_of(runs)[name.partition("@")[0]].stands_for,
             "problems": len(correct[runs[0].seed]), "samples": samples, "method": runs[0].method}  # fmt: skip
    rows: list[dict[str, Any]] = []
    by_seed: dict[int, dict[int, float]] = {seed: {} for seed in correct}
    for k in (2**power for power in range(samples.bit_length())):
        shares = np.array([unbiased_pass_at_k(counts, samples, k) for counts in correct.values()])  # [seeds, problems]
        for seed, share in zip(correct, shares, strict=True):
            by_seed[seed][k] = 100 * share.mean()
        interval = problem_interval(shares.mean(axis=0), one_answer=False)
        # a stream for every run: with one for all, their draws would move together and their mean spread too far
        draws = np.mean(
            [pass_at_k_bootstrap(counts, samples, k, draws=1_000, generator=np.random.default_rng([0, seed]))
             for seed, counts in correct.items()], axis=0,
        )  # fmt: skip
        low, high = np.quantile(draws, (0.025, 0.975))
        rows.append({
            **about, "k": k, "pass_at_k": 100 * shares.mean(),
            "problems_low": 100 * interval.low, "problems_high": 100 * interval.high,
            "bootstrap": 100 * draws.mean(), "bootstrap_low": 100 * low, "bootstrap_high": 100 * high,
            "chance": 100 * float(chance_pass_at_k(1 / chance if chance else np.inf, k)),
        })  # fmt: skip
    seeds = over_seeds({seed: pd.Series(values) for seed, values in by_seed.items()}).drop(columns=["step", "mean"])
    return pd.concat([pd.DataFrame(rows), seeds.rename(columns={"low": "seeds_low", "high": "seeds_high"})], axis=1)


def exclusive(
    records: Records, method: str, baselines: Sequence[str], policy: str, evaluation: str, several: str
) -> pd.DataFrame:
    """Return the problems that a method solves and a baseline does not, and the reverse, by level.

    Of ``evaluation`` with one answer per problem, and the same set with ``several``; on the seeds that both have.

    Returns:
        Rows per baseline and level ("Level 1" ... "Overall"): baseline; answers (``one answer`` per seed; ``mean over
        seeds`` of those; ``all answers``: every answer of one with every answer of the other, over samples and seeds);
        seed (NaN except for one answer); answers_per_problem, of each policy; level; problems; method_only and
        baseline_only (problems) and their percentages of the level; p_value and its test (fixed weights); the paper's
        counts and percentages.
    """
    first = {run.seed: run for run in of_method(records, method, policy)}
    parts = []
    for baseline in baselines:
        second = {run.seed: run for run in of_method(records, baseline, policy)}
        pairs = [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]
        if pairs:
            parts.append(_exclusive(pairs, evaluation, several).assign(baseline=baseline))
    printed = {
        "method_only": "+X",
        "baseline_only": "-Y",
        "method_only_percent": "+X %",
        "baseline_only_percent": "-Y %",
    }
    columns = ["baseline", "answers", "seed", "answers_per_problem", "level", "problems", *printed, "p_value", "test"]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    frame = frame.rename(columns=lambda name: name.replace("a_only", "method_only").replace("b_only", "baseline_only"))
    frame["level"] = [level if level == "Overall" else f"Level {level}" for level in frame["level"]]
    for name, row in printed.items():
        cells = zip(frame["baseline"], frame["level"], strict=True)
        values = [paper_value("table4", f"{arm_label(arm)} {row}", level, policy) for arm, level in cells]
        frame[f"paper_{name}"] = pd.Series(values, frame.index, float)
    return frame[[*columns, *(f"paper_{name}" for name in printed)]]


def _exclusive(pairs: Sequence[tuple[RunRecords, RunRecords]], evaluation: str, several: str) -> pd.DataFrame:
    levels = pairs[0][0].counts(evaluation)["level"].to_numpy()
    parts = [
        exclusive_solves(mine.shares(evaluation) > 0, theirs.shares(evaluation) > 0, levels)
        .assign(answers="one answer", seed=float(mine.seed), answers_per_problem=1, test="exact McNemar")
        for mine, theirs in pairs
    ]  # fmt: skip
    counts = ["a_only", "b_only"]
    mean = parts[0].assign(answers="mean over seeds", seed=NAN, p_value=NAN, test="")
    mean[counts] = np.mean([part[counts] for part in parts], axis=0)
    for name in counts:
        mean[f"{name}_percent"] = (100 * mean[name] / mean["problems"]).map(round_half_up)
    # not the one answer besides: it is the first of the several, for its request has the same seed
    counted = [[run.counts(several)[["correct", "samples"]].to_numpy(float) for run in pair] for pair in pairs]
    totals = np.sum(counted, axis=0)  # of both sides, over seeds: [2, problems, 2]
    a, b = (total[:, 0] / total[:, 1] for total in totals)
    everything = exclusive_solves(a, b, pairs[0][0].counts(several)["level"].to_numpy()).assign(
        answers="all answers", seed=NAN, answers_per_problem=int(totals[0, 0, 1]), test="exact sign test over problems"
    )
    return pd.concat([*parts, mean, everything], ignore_index=True)


# Figures 3 and 4: every training question in every epoch

Grids = Mapping[int, pd.DataFrame]  # by seed


def question_grids(records: Records, method: str, policy: str = "weak") -> dict[int, pd.DataFrame]:
    """Return, by seed, the share of a question's rollouts that were correct in each epoch (`accuracy_grid`)."""
    return {run.seed: accuracy_grid(run.rollouts) for run in of_method(records, method, policy)}


def row_order(grids: Grids) -> pd.MultiIndex:
    """Return the order in which questions are drawn: by level, then mean accuracy over epochs and seeds, best first."""
    mean = pd.concat([grid.mean(axis=1) for grid in grids.values()], axis=1).mean(axis=1).rename("mean").reset_index()
    ordered = mean.sort_values(["level", "mean", "problem_id"], ascending=[True, False, True], kind="stable")
    return pd.MultiIndex.from_frame(ordered[["level", "problem_id"]])


def questions(grids: Grids, order: pd.MultiIndex) -> pd.DataFrame:
    """Return a row per question and seed: level, problem_id, row (its place from the top), seed, ``epoch_<n>``."""
    parts = []
    for seed, grid in grids.items():
        part = grid.loc[order].rename(columns=lambda epoch: f"epoch_{epoch}").reset_index()
        part.insert(2, "row", part.groupby("level").cumcount() + 1)
        part.insert(3, "seed", seed)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def zero_rows(grids: Grids) -> pd.DataFrame:
    """Return how many questions of each level never had a correct rollout: level, questions, mean, low, high, seeds."""
    counts = {seed: always_zero(grid).groupby(level="level").sum().astype(float) for seed, grid in grids.items()}
    over = over_seeds(counts).rename(columns={"step": "level"})
    over.insert(1, "questions", over["level"].map(next(iter(grids.values())).groupby(level="level").size()))
    return over


def shares_by_quarter(differences: Grids) -> pd.DataFrame:
    """Return the shares of red, white and blue in percent: level, quarter, colour, mean, low, high, seeds."""
    keys = ["level", "quarter", "colour"]
    long = {seed: quarter_shares(grid).melt(keys[:2], ["red", "white", "blue"], "colour").set_index(keys)["value"] * 100
            for seed, grid in differences.items()}  # fmt: skip
    over = over_seeds({seed: share.reset_index(drop=True) for seed, share in long.items()}).drop(columns="step")
    over = pd.concat([next(iter(long.values())).index.to_frame(index=False), over], axis=1)
    return over.sort_values(keys[:2], kind="stable").reset_index(drop=True)


# Single answers, and a single step


def transcripts(records: Records, evaluations: Sequence[str], count: int = 1) -> pd.DataFrame:
    """Return answers kept word for word: every run's to the same ``count`` questions, those of lowest hash.

    One row per evaluation, question and run: set, question, right (its answer), method, base, seed, answer (as it was
    sampled), verdict.
    """
    rows = []
    for name in evaluations:
        for run in records:
            asked = {problem.id: problem for problem in evaluation_set(run.config, name).problems}
            kept = run.answers[run.answers["benchmark"] == recorded_name(run.config, name)].sort_values("hash")
            for row in kept.drop_duplicates("problem_id").head(count).itertuples():
                problem = asked[str(row.problem_id)]
                base = base_name(run.policy, run.config.scale).removeprefix("the ")
                rows.append((name, problem.question, problem.answer, label(run.method), base, run.seed, row.text,
                             row.verdict))  # fmt: skip
    columns = ["set", "question", "right", "method", "base", "seed", "answer", "verdict"]
    return pd.DataFrame(rows, columns=columns).sort_values(["set", "question"], kind="stable", ignore_index=True)


def algorithm_step(run: RunRecords, step: int) -> pd.DataFrame:
    """Return what Algorithm 1 did with every question of a step of HPT, before the normalisation of a batch.

    One row per question, in its order: problem_id, level, question, rollouts, correct, no_answer, P (Eq. 8), alpha and
    beta (Eq. 9, 10), branch, and the factors of grad log pi: weight_right, weight_wrong (of a rollout's tokens,
    coefficient x alpha x advantage) and weight_demonstration (coefficient x beta).
    """
    rows = run.rollouts[run.rollouts["step"] == step].reset_index(drop=True)
    parts, estimator = {part.data: part for part in method_named(run.method).components}, run.config.estimator
    row = resolved_row(parts["rollouts"], run.config)
    online, offline = (getattr(estimator, parts[name].coefficient) for name in ("rollouts", "demonstration"))
    found = rows[["problem_id", "level", "rollouts", "correct", "no_answer", "alpha", "beta", "branch"]].copy()
    asked = {problem.id: problem.question for problem in training_problems_of(run.config)}
    found.insert(2, "question", found["problem_id"].map(asked))
    found.insert(6, "P", found["correct"] / found["rollouts"])
    for at, question in found.iterrows():
        correct, n = int(question["correct"]), int(question["rollouts"])
        rewards = np.repeat([1.0, 0.0], [correct, n - correct])
        group = RolloutGroups(rewards, np.zeros(n, int), np.zeros(n, bool), np.ones(n, int))
        weights = online * question["alpha"] * np.hstack(advantages(row, group))
        found.loc[at, "weight_right"] = weights[0] if correct else NAN
        found.loc[at, "weight_wrong"] = weights[-1] if correct < n else NAN
    return found.assign(weight_demonstration=offline * found["beta"])


# Appendix: the search, and the price of each discrepancy between paper and code

#: What tells one try of the search from another; its seeds are one try's.
TRIED = ["policy", "method", "learning_rate", "choice"]


def search(records: Records) -> pd.DataFrame:
    """Return one row per run of the search, in the order of the grid.

    policy, method, round, steps, seed, learning_rate, choice (the method's own, in words), accuracy on the validation
    problems and its interval over them (problems_low, problems_high), arm, mean (accuracy over the seeds of the round),
    chosen (`chosen`).
    """
    columns = "policy method round steps seed learning_rate choice accuracy problems_low problems_high arm".split()
    rows = []
    for arm in artefacts_at(records[0].config.scale)["search"].arms if records else ():
        for run in of_arm(records, arm.key):
            shares = run.shares("validation")
            interval = problem_interval(shares, one_answer=bool((run.counts("validation")["samples"] == 1).all()))
            values = (100 * float(shares.mean()), 100 * interval.low, 100 * interval.high)
            rate = arm.settings[RATE_OF.get(arm.method, "optimizer.learning_rate")]
            rows.append((arm.policy, arm.method, 1 if arm.name.startswith("try1_") else 2, run.config.schedule.steps,
                         run.seed, rate, choice_text(arm.method, arm.settings), *values, arm.key))  # fmt: skip
    results = pd.DataFrame(rows, columns=columns)
    results["mean"] = results.groupby([*TRIED, "round"])["accuracy"].transform("mean")
    return results.assign(chosen=results["arm"].isin(chosen(results)["arm"]))


def chosen(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `search` of the try that each method of each base takes: one per seed of its last round.

    Of the tries within one point of the best mean of that round, the best of the lowest rate (docs/world.md).

    Example:
        >>> rows = [("weak", "sft", 1, 1e-3, "", 40.5, "a"), ("weak", "sft", 1, 5e-4, "", 40.0, "b")]
        >>> chosen(pd.DataFrame(rows, columns=[*TRIED[:2], "round", *TRIED[2:], "mean", "arm"]))["arm"].tolist()
        ['b']
    """
    last = results[results["round"] == results.groupby(TRIED[:2])["round"].transform("max")]
    best = last.groupby(TRIED[:2])["mean"].transform("max")
    near = last[last["mean"] >= best - 1 - 1e-9]  # but for rounding: 3.5 and 2.5 are one point apart
    near = near.sort_values(["learning_rate", "mean"], ascending=[True, False], kind="stable")
    return last.merge(near.drop_duplicates(TRIED[:2])[TRIED])


def discrepancies(records: Records) -> pd.DataFrame:
    """Return a row per arm: HPT's score with one field moved, and the effect of the field against the default.

    title, why, sft_weight (multiple of the default's coefficient), chosen (highest validation accuracy among the
    weights tried, on the seeds that all of them have; None where only one was), validation and average (percent, means
    over seeds), seeds (that it has with the default), the columns of `effect`, skipped_updates (sum over seeds). Last
    comes the skip rule, which needs no run as long as it never acted on the default. Two runs have a seed together
    where they began from the same bits: a base trained again is another base.
    """
    default = _by_base(records, DEFAULT.arms[0].key)
    if not default:
        raise RecordFault(f"no run of {DEFAULT.arms[0].key}, which every effect is measured against; compute it first")
    usual = {key: in_distribution_shares(run) for key, run in default.items()}
    rows: list[dict[str, Any]] = []
    for one in (DEFAULT, *DISCREPANCIES):
        tried = {arm.key: runs for arm in one.arms if (runs := _by_base(records, arm.key))}
        common = set.intersection(*map(set, tried.values())) if len(tried) > 1 else set()
        on_common = {
            key: np.mean([_validation(runs[seed]) for seed in common]) for key, runs in tried.items() if common
        }
        best = max(on_common, key=lambda key: on_common[key], default="")
        for arm, weight in zip(one.arms, (1.0, *one.weights), strict=True):
            runs = tried.get(arm.key, {})
            if not runs:
                continue
            both = runs.keys() & default.keys()
            shares = {seed: in_distribution_shares(run) for (seed, _), run in runs.items()}
            numbers = effect(shares, {key[0]: usual[key] for key in both} if arm.key != DEFAULT.arms[0].key else {})
            numbers.pop("verdict", None)
            rows.append({
                "title": arm.label, "why": one.why, "sft_weight": weight,
                "chosen": arm.key == best if best else None,
                "validation": float(np.mean([_validation(run) for run in runs.values()])),
                "average": float(np.mean([average_of_sets(own) for own in shares.values()])),
                "seeds": len(both) or len(runs), **numbers, "skipped_updates": _skipped(runs),
            })  # fmt: skip
    skipped = _skipped(default)
    why = "The scripts skip an update whose gradient norm is above 80; the paper has no such rule. " + (
        f"Not measured: it skipped {skipped} updates of the default." if skipped else
        "It skipped no update of the default, so a run without it is the same run."
    )  # fmt: skip
    rows.append({"title": "no skip rule", "why": why, "sft_weight": 1.0, "chosen": None, "seeds": len(default),
                 "effect": NAN if skipped else 0.0, "skipped_updates": skipped})  # fmt: skip
    return seeds_last(pd.DataFrame(rows))


def _by_base(records: Records, key: str) -> dict[Any, RunRecords]:
    """Return the runs of an arm by their seed and the bits they began from."""
    return {(run.seed, run.config.policy.base_weights): run for run in of_arm(records, key)}


def _validation(run: RunRecords) -> float:
    return 100 * float(run.shares("validation").mean())


def _skipped(runs: Mapping[Any, RunRecords]) -> int:
    return sum(int(run.metrics["optim/skipped_updates"].sum()) for run in runs.values())
