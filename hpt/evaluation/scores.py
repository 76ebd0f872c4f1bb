"""Scores of one policy from its sampled answers: avg@k, pass@k, exclusive solves, accuracy of questions over training.

Functions that score return one share (0 to 1) per problem; a benchmark's score is their mean, and
`hpt.evaluation.intervals` takes the same values for an interval over problems. Averages of tables are taken as the
paper took its (Tables 2 to 6): from the printed cells, rounded half up.
"""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from math import ceil

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hpt.rewards.workers import Verdict
from hpt.support.errors import ConfigError, RecordFault

Shares = NDArray[np.float64]


def pass_at_k(correct_counts: ArrayLike, samples: ArrayLike, k: int) -> Shares:
    """Return the unbiased estimate of each problem's chance that one of k answers is correct (Chen et al. 2021).

    1 - C(N - c, k) / C(N, k) for c correct among N samples, in log space: C(2048, 1024) is above the largest float.

    Args:
        correct_counts: [problems] integers c.
        samples: N, one for all problems or [problems].
        k: answers drawn, 1 to N.

    Returns:
        [problems] shares from 0 to 1; their mean is the score.

    Raises:
        ConfigError: k outside 1..N, or a count outside 0..N.

    Example:
        >>> import hpt
        >>> hpt.pass_at_k([0, 1, 4], 4, 2)
        array([0. , 0.5, 1. ])
    """
    counts, total = _counts(correct_counts, samples)
    if k != int(k) or k < 1 or (k > total).any():
        allowed = f"a whole number from 1 to the {total.min():.0f} samples of a problem"
        raise ConfigError("k", k, allowed, "draw more answers, or ask for a smaller k")
    from scipy.special import gammaln

    wrong = total - counts
    with np.errstate(invalid="ignore"):  # inf - inf where fewer than k answers are wrong: replaced below
        log_all_wrong = gammaln(wrong + 1) - gammaln(wrong - k + 1) - gammaln(total + 1) + gammaln(total - k + 1)
    return np.where(wrong < k, 1.0, np.where(counts == 0, 0.0, -np.expm1(log_all_wrong)))


def pass_at_k_bootstrap(
    correct_counts: ArrayLike, samples: ArrayLike, k: int, *, draws: int = 1_000, generator: np.random.Generator | int
) -> Shares:
    """Return bootstrap draws [draws] of a benchmark's pass@k, the paper's estimate (Section 4.1, Figure 2).

    Each draw takes k of a problem's N samples with replacement and asks whether any is correct. The number correct
    among them is binomial(k, c / N), so it is drawn as such. The mean over draws lies slightly below `pass_at_k`
    (drawing with replacement sees fewer distinct samples); percentiles of the draws give the band, which holds the
    problems and their samples fixed.
    """
    counts, total = _counts(correct_counts, samples)
    hits = np.random.default_rng(generator).binomial(k, counts / total, size=(draws, len(counts)))
    return (hits > 0).mean(axis=1)


def chance_pass_at_k(answers: ArrayLike, k: int) -> Shares:
    """Return pass@k of guessing: 1 - (1 - 1/answers)^k for that many equally likely answers, scalar or [problems]."""
    possible = np.asarray(answers, dtype=np.float64)
    with np.errstate(divide="ignore"):  # one possible answer: log(0), and the chance is 1
        return -np.expm1(k * np.log1p(-1 / possible))


def exclusive_solves(a: ArrayLike, b: ArrayLike, levels: ArrayLike) -> pd.DataFrame:
    """Count problems that only one of two policies solves, by level, as in Table 4 (a: HPT, b: the baseline).

    With several answers per problem the counts are expectations of one answer each: a problem that a solves with chance
    p and b with chance q is solved by a alone with p (1 - q), the mean over all pairs of an answer of a and one of b.
    One row per level and a last one "Overall"; ``p_value`` is the two-sided exact sign test that a problem is as likely
    to be solved more often by a as by b, ties left out. With one answer each it is McNemar's.

    Example:
        >>> frame = exclusive_solves([1, 1, 0], [0, 1, 0], [1, 1, 2])
        >>> frame[["level", "problems", "a_only", "b_only", "a_only_percent"]].values.tolist()
        [[1, 2, 1.0, 0.0, 50.0], [2, 1, 0.0, 0.0, 0.0], ['Overall', 3, 1.0, 0.0, 33.3]]
    """
    first, second, level = np.asarray(a, np.float64), np.asarray(b, np.float64), np.asarray(levels)
    if not first.shape == second.shape == level.shape or first.ndim != 1:
        raise ValueError(f"a, b and levels must be [problems] alike, got {first.shape, second.shape, level.shape}")
    groups = [(one.item(), level == one) for one in np.unique(level)] + [("Overall", np.ones(len(level), dtype=bool))]
    return pd.DataFrame([_exclusive_row(name, first[rows], second[rows]) for name, rows in groups])


def _exclusive_row(level: object, a: Shares, b: Shares) -> dict[str, object]:
    from scipy.stats import binomtest

    a_only, b_only, problems = float((a * (1 - b)).sum()), float((b * (1 - a)).sum()), len(a)
    a_better, b_better = int((a > b).sum()), int((b > a).sum())
    return {
        "level": level,
        "problems": problems,
        "a_only": a_only,
        "b_only": b_only,
        "a_only_percent": round_half_up(100 * a_only / problems),
        "b_only_percent": round_half_up(100 * b_only / problems),
        "p_value": float(binomtest(a_better, a_better + b_better).pvalue) if a_better + b_better else 1.0,
    }


def round_half_up(value: float, decimals: int = 1) -> float:
    """Round as the paper's tables do: ties away from zero (Python's `round` takes ties to the even digit)."""
    # Nine decimals first: a mean of printed cells that is a tie on paper is 44.449999999999996 in binary.
    exact = Decimal(repr(round(float(value), 9)))
    return float(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def average_of_cells(cells: Iterable[float]) -> float:
    """Return a table's average: the unweighted mean of its *printed* cells, itself rounded half up.

    Averaging unrounded scores instead differs in the last digit: in 12 of the paper's 40 averages the mean of the
    printed cells is an exact tie.
    """
    return round_half_up(float(np.mean([round_half_up(cell) for cell in cells])))


def counts_per_problem(answers: pd.DataFrame) -> pd.DataFrame:
    """Reduce answers (`hpt.evaluation.evaluate.sample_answers`) to a row per problem, in order of appearance."""
    counted = (Verdict.correct, Verdict.no_answer, Verdict.timed_out)
    flags = {verdict.value: (answers["verdict"] == verdict.value).astype(int) for verdict in counted}
    grouped = answers.assign(**flags).groupby(["benchmark", "problem_id"], sort=False)
    return grouped.agg(
        level=("level", "first"),
        correct=("correct", "sum"),
        samples=("verdict", "size"),
        no_answer=("no_answer", "sum"),
        timed_out=("timed_out", "sum"),
        response_tokens_mean=("response_tokens", "mean"),
    ).reset_index()


def _counts(correct_counts: ArrayLike, samples: ArrayLike) -> tuple[Shares, Shares]:
    counts = np.asarray(correct_counts, dtype=np.float64)
    if counts.ndim != 1 or not counts.size:
        raise ConfigError("correct_counts", f"shape {list(counts.shape)}", "[problems], at least one", "pass one each")
    total = np.broadcast_to(np.asarray(samples, dtype=np.float64), counts.shape)
    if not ((total >= 1) & (counts >= 0) & (counts <= total)).all():
        raise ConfigError("correct_counts", counts.tolist(), "from 0 to the problem's samples", "correct the counts")
    return counts, total


#: Parts of training that Figure 4 is counted in.
QUARTERS = 4


def accuracy_grid(rollouts: pd.DataFrame) -> pd.DataFrame:
    """Return the share of correct rollouts [questions, epochs], by level and problem_id (Figure 3).

    An epoch of a question is the n-th time it was asked; epochs that not every question reached are left out. Where the
    prompts of a step divide the questions, as in Figures 3 and 4, these are the epochs of training. NaN where a
    question was asked without being sampled.
    """
    ordered = rollouts.sort_values("step", kind="stable")
    epoch = ordered.groupby("problem_id").cumcount() + 1
    sampled = ordered["rollouts"].astype(float)
    share = ordered["correct"].astype(float) / sampled.where(sampled > 0)
    whole = epoch <= ordered["problem_id"].value_counts().min()
    table = ordered.assign(epoch=epoch, share=share)[whole].set_index(["level", "problem_id", "epoch"])
    return table["share"].unstack("epoch").sort_index()


def always_zero(grid: pd.DataFrame) -> pd.Series:
    """Return which questions of a grid never had a correct rollout: the "continuous white lines" of Figure 3."""
    return grid.fillna(0.0).eq(0.0).all(axis=1)


def part_of_training(epochs: int, start_share: float, end_share: float) -> slice:
    """Return the epochs that begin in a part of training, as places from 0: of 50, the first quarter has 13."""
    return slice(ceil(start_share * epochs), ceil(end_share * epochs))


def quarter_shares(difference: pd.DataFrame) -> pd.DataFrame:
    """Return how much of a difference of two grids is positive, zero and negative in each quarter of training.

    One row per level and quarter (1 to 4); shares as in Figure 4: red (above 0), white (0), blue (below 0).
    """
    epochs = difference.shape[1]
    if epochs < QUARTERS:
        raise RecordFault(f"{epochs} epochs have no quarters; train for {QUARTERS} or more")
    rows = []
    for level, rows_of_level in difference.groupby(level="level"):
        for number in range(1, QUARTERS + 1):
            cells = rows_of_level.to_numpy()[:, part_of_training(epochs, (number - 1) / QUARTERS, number / QUARTERS)]
            signs = np.sign(cells[np.isfinite(cells)])
            shares = {name: float((signs == sign).mean()) if len(signs) else np.nan
                      for name, sign in (("red", 1), ("white", 0), ("blue", -1))}  # fmt: skip
            rows.append({"level": level, "quarter": number, **shares})
    return pd.DataFrame(rows)
