"""Table 4: problems that HPT solves and a baseline does not, and the reverse, by level."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpt.artefacts.output import Cell, Column, Row, TableArtefact
from hpt.artefacts.selection import evaluation_counts, of_method, sets_of
from hpt.catalogue import ARTEFACTS, arm_label
from hpt.export import RunRecords
from hpt.paper import base_title, paper_value
from hpt.scores import exclusive_solves, expected_exclusive_solves, round_half_up

#: The paper's Table 4: HPT against these on the strong base.
METHOD, BASELINES, POLICY = "hpt", ("grpo", "luffy"), "strong"
#: Kinds of rows in the data: one answer per problem and seed, the mean of those, and every answer with every other.
ONE_ANSWER, MEAN, ALL_ANSWERS = "one answer", "mean over seeds", "all answers"


def table4(records: Sequence[RunRecords]) -> TableArtefact:
    """Return Table 4: exclusive solves of HPT against GRPO and LUFFY by level, with exact tests; the paper's beside.

    Raises:
        RecordFault: a run lacks an evaluation.
    """
    data = pd.concat([exclusive_table(records, METHOD, own, POLICY) for own in BASELINES], ignore_index=True)
    sizes = {str(level): int(own["problems"].iloc[0]) for level, own in data.groupby("level", sort=False)}
    columns = tuple(Column(level, f"{count} problem{'' if count == 1 else 's'}") for level, count in sizes.items())
    rows: list[Row] = []
    for baseline, own in data.groupby("baseline", sort=False):
        rows += _rows(str(baseline), own, list(sizes))
    used = tuple(run for method in (METHOD, *BASELINES) for run in of_method(records, method, POLICY))
    title = f"Table 4: exclusive solves on {_set_name()}, {base_title(POLICY)}"
    stands_for = sets_of(used)[_set_name()].stands_for if used else ""
    return TableArtefact("table4", title, data, columns, tuple(rows), _caption(data, stands_for), used)


def exclusive_table(records: Sequence[RunRecords], method: str, baseline: str, policy: str) -> pd.DataFrame:
    """Return the exclusive solves of a method against a baseline, by level.

    Args:
        records: runs; seeds that only one of the two has are left out.
        method, baseline: names of arms.
        policy: base.

    Returns:
        Rows per level ("Level 1" ... "Overall"): baseline; answers (``one answer`` per seed; ``mean over seeds`` of
        those; ``all answers``: every answer of one with every answer of the other, over samples and seeds); seed (NaN
        except for one answer); answers_per_problem, of each policy; level; problems; method_only and baseline_only
        (problems) and their percentages of the level; p_value and its test (fixed weights); the paper's counts and
        percentages.

    Raises:
        RecordFault: a run lacks an evaluation.
    """
    runs, others = ({run.seed: run for run in of_method(records, own, policy)} for own in (method, baseline))
    seeds = sorted(runs.keys() & others.keys())
    parts: list[pd.DataFrame] = []
    for seed in seeds:
        a, b, levels = (*(_shares([own[seed]], _set_name()) for own in (runs, others)), _levels(runs[seed]))
        frame = exclusive_solves(a > 0, b > 0, levels).rename(columns={"mcnemar_p": "p_value"})
        parts.append(frame.assign(answers=ONE_ANSWER, seed=float(seed), test="exact McNemar", answers_per_problem=1))
    if seeds:
        parts.append(_mean(parts))
        # not the one answer besides: it is the first of the several, for its request has the same seed
        a, b = (_shares([own[seed] for seed in seeds], _several()) for own in (runs, others))
        answers = _answers([runs[seed] for seed in seeds], _several())
        frame = expected_exclusive_solves(a, b, _levels(runs[seeds[0]])).rename(columns={"sign_p": "p_value"})
        kind = {"answers": ALL_ANSWERS, "seed": np.nan, "test": "exact sign test over problems"}
        parts.append(frame.assign(**kind, answers_per_problem=answers))
    return _finished(parts, baseline, policy)


def _set_name() -> str:
    return ARTEFACTS["table4"].evaluations[0]


def _several() -> str:
    """The evaluation with several answers per problem."""
    return ARTEFACTS["table4"].evaluations[1]


def _shares(runs: Sequence[RunRecords], name: str) -> NDArray[np.float64]:
    """Return [problems] shares of correct answers of an evaluation over all runs, every answer weighing the same."""
    counts = [evaluation_counts(run, name) for run in runs]
    correct, samples = (np.sum([own[column].to_numpy(np.float64) for own in counts], axis=0)
                        for column in ("correct", "samples"))  # fmt: skip
    return correct / samples


def _answers(runs: Sequence[RunRecords], name: str) -> int:
    return int(sum(evaluation_counts(run, name)["samples"].iloc[0] for run in runs))


def _levels(run: RunRecords) -> NDArray[np.int64]:
    return evaluation_counts(run, _set_name())["level"].to_numpy(np.int64)


def _mean(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    frame = parts[0].assign(answers=MEAN, seed=np.nan, p_value=np.nan, test="")
    for own in ("a_only", "b_only"):
        frame[own] = np.mean([part[own].to_numpy(np.float64) for part in parts], axis=0)
        frame[f"{own}_percent"] = [round_half_up(100 * count / size)
                                   for count, size in zip(frame[own], frame["problems"], strict=True)]  # fmt: skip
    return frame


def _finished(parts: Sequence[pd.DataFrame], baseline: str, policy: str) -> pd.DataFrame:
    names = ["method_only", "baseline_only", "method_only_percent", "baseline_only_percent"]
    first = ["baseline", "answers", "seed", "answers_per_problem", "level", "problems", *names, "p_value", "test"]
    if not parts:
        return pd.DataFrame(columns=[*first, *(f"paper_{name}" for name in names)])
    frame = pd.concat([own.astype({"a_only": float, "b_only": float}) for own in parts], ignore_index=True)
    frame = frame.rename(columns={name.replace("method", "a").replace("baseline", "b"): name for name in names})
    frame["level"] = [str(own) if own == "Overall" else f"Level {own}" for own in frame["level"]]
    frame = frame.assign(baseline=baseline)[first]
    for name, printed in zip(names, ("+X", "-Y", "+X %", "-Y %"), strict=True):
        label = f"{arm_label(baseline)} {printed}"
        frame[f"paper_{name}"] = [_or_nan(paper_value("table4", label, own, policy)) for own in frame["level"]]
    return frame


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _rows(baseline: str, data: pd.DataFrame, levels: Sequence[str]) -> list[Row]:
    """Return the rows of one baseline: counts, percentages and test for one answer, then for all answers."""
    by_kind = {str(kind): own.set_index("level").loc[list(levels)] for kind, own in data.groupby("answers")
               if kind != ONE_ANSWER}  # fmt: skip
    one = {f"{seed:.0f}": own.set_index("level").loc[list(levels)]
           for seed, own in data[data["answers"] == ONE_ANSWER].groupby("seed")}  # fmt: skip
    mean, every = by_kind[MEAN].to_dict("records"), by_kind[ALL_ANSWERS].to_dict("records")
    return [
        (f"HPT against {arm_label(baseline)}", ()),
        ("problems", _cells(mean, "", True)),
        ("percent of the level", _cells(mean, "_percent", True)),
        *((f"p, exact McNemar{'' if len(one) == 1 else f', seed {seed}'}", tuple(map(Cell, map(_p, own["p_value"]))))
          for seed, own in one.items()),
        ("problems, all answers", _cells(every, "", False)),
        ("percent, all answers", _cells(every, "_percent", False)),
        ("p, sign test, all answers", tuple(Cell(_p(row["p_value"])) for row in every)),
    ]  # fmt: skip


def _cells(rows: Sequence[dict[Any, Any]], unit: str, with_paper: bool) -> tuple[Cell, ...]:
    """Return +X / -Y of every level as the paper prints it; counts that are means keep a decimal."""
    names = (f"method_only{unit}", f"baseline_only{unit}")
    whole = not unit and all(row[name] == round(row[name]) for row in rows for name in names)
    cells = []
    for row in rows:
        paper = [row[f"paper_{name}"] for name in names]
        shown = with_paper and not any(map(pd.isna, paper))
        cells.append(Cell(_pair([row[name] for name in names], unit, whole),
                          paper=_pair(paper, unit, not unit) if shown else ""))  # fmt: skip
    return tuple(cells)


def _pair(counts: Sequence[float], unit: str, whole: bool) -> str:
    gained, lost = (f"{count:.0f}" if whole else f"{round_half_up(count):.1f}" for count in counts)
    sign = "%" if unit else ""
    return f"+{gained}{sign} / -{lost}{sign}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _caption(data: pd.DataFrame, stands_for: str) -> str:
    seeds = int(data["seed"].nunique())
    over = "" if seeds == 1 else f", mean over {seeds} seeds, and a p-value per seed"
    answers = max(data["answers_per_problem"], default=0)
    return (
        "+X: problems that HPT solves and the baseline does not; -Y: the reverse. The set is made by this package and "
        f"stands for {stands_for}. Above: one answer per problem and policy as in the paper{over}. All answers: every "
        f"answer of HPT is set against every answer of the baseline to the same problem ({answers} of each per "
        "problem, over samples and seeds), which gives the counts to be expected of one answer, without its luck; the "
        "sign test asks whether HPT answers more problems right more often than it answers right less often. Both "
        "tests are exact and two-sided, over problems for the weights at hand: they say nothing about the next "
        "training run."
    )
