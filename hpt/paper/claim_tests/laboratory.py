"""Tests on the numbers of the laboratory, where the truth is known and no run is needed (Sections 2.2, 2.3).

Their unit of chance is the question: every interval resamples questions, the same ones for all rows or gates compared,
and none says anything about training seeds.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from hpt.evaluation.intervals import Decision, Interval
from hpt.paper.claim_tests.records import ClaimRecords, NotTestable, Outcome, both

LEVEL, RESAMPLES = 0.95, 2000
MIN_QUESTIONS = 6  # of fewer, resampling gives hardly more than the questions themselves
OVER_QUESTIONS = "bootstrap over questions"


def rows_effective(records: ClaimRecords, *, frame: str, situation: str) -> Outcome:
    """Test that every row is an effective direction: E[g] . t > 0, t the true gradient of the objective.

    It holds when the 95 % interval of every row's cosine lies above 0. It fails as soon as one row's lies below 0, at a
    level divided by the number of rows: of many rows one would be below by chance. The effect is the smallest cosine.
    """
    sums = _sums(records, frame, situation)
    rows = list(dict.fromkeys(sums["row"]))
    cosines = {row: _resampled(sums, row, "cosine") for row in rows}
    strict = {row: _interval(values[1:], 1 - (1 - LEVEL) / len(rows)) for row, values in cosines.items()}
    intervals = {row: _interval(values[1:]) for row, values in cosines.items()}
    against = [row for row in rows if strict[row].high < 0]
    unclear = [row for row in rows if row not in against and intervals[row].low <= 0]
    decision = Decision.below if against else Decision.undecided if unclear else Decision.above
    worst = min(rows, key=lambda row: cosines[row][0])
    text = f"smallest of {len(rows)} rows: {worst}, {cosines[worst][0]:+.2f}"
    text += f"; against the true gradient: {', '.join(against)}" if against else ""
    text += f"; not told apart from 0: {', '.join(unclear)}" if unclear else ""
    return Outcome({}, "cosine", decision, f"{text}.", float(cosines[worst][0]), intervals[worst])


def row_against_row(
    records: ClaimRecords, *, frame: str, situation: str, quantity: str, row: str, other: str, times_at_least: float
) -> Outcome:
    """Test that one row has more of something than another, by at least a factor."""
    sums = _sums(records, frame, situation)
    this, against = (_resampled(sums, name, quantity) for name in (row, other))
    if not (np.isfinite(this[0]) and np.isfinite(against[0]) and against[0] > 0):
        raise NotTestable(f"{quantity} of {row} is {this[0]:.3g}, of {other} {against[0]:.3g}: they have no ratio")
    # rather than left out, a resample in which `other` has none of it counts for the claim
    ratio = this / np.where(against > 0, against, np.nan)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    interval = _interval(ratio[1:])
    text = f"{quantity}: {row} {this[0]:.3g}, {other} {against[0]:.3g}, {ratio[0]:.2f} times as much."
    return Outcome({}, "times", _decide(interval, times_at_least), text, float(ratio[0]), interval)


def rows_trade_off(records: ClaimRecords, *, frame: str, situation: str, bias: str, variance: str) -> Outcome:
    """Test that no row has both the least bias and the least variance.

    It holds when the row of least variance has more bias than the row of least bias, and that one more variance, each
    with the 95 % interval of the difference above 0. The effect is the difference in bias.
    """
    sums = _sums(records, frame, situation)
    rows = list(dict.fromkeys(sums["row"]))
    found = {name: {row: _resampled(sums, row, name) for row in rows} for name in (bias, variance)}
    least = {name: min(rows, key=lambda row, values=values: values[row][0]) for name, values in found.items()}
    more_bias = found[bias][least[variance]] - found[bias][least[bias]]
    more_variance = found[variance][least[bias]] - found[variance][least[variance]]
    intervals = [_interval(difference[1:]) for difference in (more_bias, more_variance)]
    decision = both(*(_decide(interval, 0.0) for interval in intervals))
    if least[bias] == least[variance]:
        decision = Decision.below
    text = (
        f"least {bias}: {least[bias]} ({found[bias][least[bias]][0]:.3g}), least {variance}: {least[variance]} "
        f"({found[variance][least[variance]][0]:.3g}); the first has {more_variance[0]:.3g} [{intervals[1].low:.3g}, "
        f"{intervals[1].high:.3g}] more {variance}."
    )
    return Outcome({}, "degrees" if bias == "angle" else "of |t|", decision, text, float(more_bias[0]), intervals[0])


def gate_better(
    records: ClaimRecords, *, frame: str, objective: str, gate: str, others: Sequence[str], threshold: float
) -> Outcome:
    """Test that a gate has less error than each of some others; the effect is the smallest difference, in |t|^2.

    A gate with one constant more is never worse than one without, so for those a threshold of 0 would be no test.
    """
    found = _frame(records, frame)
    chosen = found[(found["objective"] == objective) & (found["gate"] == gate) & found["against"].isin(others)]
    if len(chosen) < len(others):
        raise NotTestable(f"{frame} does not compare {gate} with {', '.join(others)} for {objective}")
    decisions, texts = [], []
    for line in chosen.itertuples():
        interval = Interval(float(line.low), float(line.high), LEVEL, OVER_QUESTIONS)  # type: ignore[arg-type]
        decisions.append(_decide(interval, threshold))
        texts.append(f"{line.against} {line.difference:+.3f} [{line.low:+.3f}, {line.high:+.3f}]")
    nearest = chosen.sort_values("difference").iloc[0]
    interval = Interval(float(nearest["low"]), float(nearest["high"]), LEVEL, OVER_QUESTIONS)
    text = f"error of others minus that of {gate}: {'; '.join(texts)}."
    return Outcome({}, "of |t|²", both(*decisions), text, float(nearest["difference"]), interval)


def terms_agree(
    records: ClaimRecords,
    *,
    frame: str,
    success_at_most: float,
    success_at_least: float,
    slips: float,
    threshold: float,
) -> Outcome:
    """Test that the reward's gradient and the demonstrations' (the two terms of Eq. 2) do not point apart.

    It holds when the mean cosine over questions is above the threshold at every success rate and distance of the
    demonstrator, each with its 95 % interval, and fails as soon as one is below. The effect is the smallest of these
    means.
    """
    found = _frame(records, frame)
    chosen = found[found["success"].between(success_at_least, success_at_most) & (found["slips"] == slips)]
    cells = {key: cell.to_numpy() for key, cell in chosen.groupby(["success", "distance"])["cosine"]}
    if not cells or min(map(len, cells.values())) < MIN_QUESTIONS:
        raise NotTestable(f"{frame} has fewer than {MIN_QUESTIONS} questions of a kind")
    intervals = {key: _interval(values[_resamples(len(values))].mean(1)) for key, values in cells.items()}
    decision = both(*(_decide(interval, threshold) for interval in intervals.values()))
    success, distance = worst = min(cells, key=lambda key: float(cells[key].mean()))
    negative = 100 * float((chosen["cosine"] < 0).mean())
    text = (
        f"smallest mean of {len(cells)} at P = {success:g}, distance {distance:g}; negative on {negative:.0f} % of "
        f"{len(chosen)} questions."
    )
    return Outcome({}, "cosine", decision, text, float(cells[worst].mean()), intervals[worst])


def rows_agree(records: ClaimRecords, *, frame: str, column: str) -> Outcome:
    """Test that an identity was found on every line of a table; what is exact has no interval."""
    found = _frame(records, frame)
    found = found[found[column].notna()]
    share, wrong = float(found[column].astype(bool).mean()), found[~found[column].astype(bool)]
    decision = Decision.above if share == 1 else Decision.below
    text = f"{int(share * len(found))} of {len(found)} lines agree"
    text += f"; not: {', '.join(map(str, wrong.iloc[:, 0]))}." if len(wrong) else "."
    return Outcome({}, "% of lines", decision, text, 100 * share)


def _frame(records: ClaimRecords, name: str) -> pd.DataFrame:
    if name not in records.frames:
        raise NotTestable(f"{name} was not made")
    return records.frames[name]


def _sums(records: ClaimRecords, frame: str, situation: str) -> pd.DataFrame:
    found = _frame(records, frame)
    found = found[found["situation"] == situation]
    questions = found["question"].nunique()
    if questions < MIN_QUESTIONS:
        raise NotTestable(f"{frame} has {questions} questions in {situation!r}; at least {MIN_QUESTIONS} are needed")
    return found


def _resampled(sums: pd.DataFrame, row: str, quantity: str) -> np.ndarray:
    """Return a quantity pooled over all questions, and then over every resample of them: [1 + RESAMPLES]."""
    from hpt.laboratory.errors import SUMS, derived

    lines = sums[sums["row"] == row].sort_values("question")
    if lines.empty:
        raise NotTestable(f"no row {row}")
    chosen = np.concatenate([np.arange(len(lines))[None], _resamples(len(lines))])

    def added(name: str) -> np.ndarray:
        return lines[name].to_numpy(np.float64)[chosen].sum(1)

    if quantity == "masked":
        return added("masked_tokens") / added("tokens")
    return np.asarray(derived(*map(added, SUMS))[quantity], np.float64)


def _resamples(questions: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, questions, (RESAMPLES, questions))


def _interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    # no interpolation: between a number and infinity there is none
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Interval(float(low), float(high), level, OVER_QUESTIONS)


def _decide(interval: Interval, threshold: float) -> Decision:
    if math.isnan(interval.low) or interval.low <= threshold <= interval.high:
        return Decision.undecided
    return Decision.above if interval.low > threshold else Decision.below
