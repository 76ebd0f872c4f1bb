"""Figure 2: pass@k of base, SFT, GRPO, SFT → GRPO, LUFFY and HPT on the strong base, for k up to 256."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from hpt.artefacts.curves import over_seeds
from hpt.artefacts.intervals import problem_interval
from hpt.artefacts.output import FigureArtefact
from hpt.artefacts.scores import BASE
from hpt.artefacts.selection import evaluation_counts, of_method, sets_of
from hpt.catalogue import ARTEFACTS
from hpt.errors import RecordFault
from hpt.export import RunRecords
from hpt.metrics import axis_label
from hpt.paper import base_title
from hpt.plots import legend_below, line_style, new_figure
from hpt.scores import chance_pass_at_k, pass_at_k, pass_at_k_bootstrap
from hpt.tasks.graded import world_named

POLICY = "strong"
_DRAWS, _SEED = 1_000, 0  # of the bootstrap
_CHANCE = "#888888"


def figure2(records: Sequence[RunRecords]) -> FigureArtefact:
    """Return pass@k over k on three sets: the unbiased estimate with its interval over problems, and the bootstrap.

    Raises:
        RecordFault: no runs, or a run lacks an evaluation.
    """
    methods = (BASE, *ARTEFACTS["figure2"].methods)
    used = tuple(run for method in methods for run in of_method(records, method, POLICY))
    sets_of(used)  # refuses to draw nothing, or two worlds
    evaluations = ARTEFACTS["figure2"].evaluations
    parts = [pass_at_k_table(runs, name) for name in evaluations for method in methods
             if (runs := of_method(records, method, POLICY))]  # fmt: skip
    data = pd.concat(parts, ignore_index=True)

    def draw() -> Figure:
        figure, grid = new_figure(1, len(evaluations), width=3.6, height=3.4, sharey=True)
        for axes, name in zip(grid.flat, evaluations, strict=True):
            panel = data[data["panel"] == name]
            for method, own in panel.groupby("method", sort=False):
                look = line_style(str(method))
                label = "base" if method == BASE else look.label
                axes.fill_between(own["k"], own["problems_low"], own["problems_high"], color=look.colour, alpha=0.1,
                                  linewidth=0)  # fmt: skip
                axes.plot(own["k"], own["pass_at_k"], color=look.colour, marker=look.marker, label=label)
                axes.plot(own["k"], own["bootstrap"], color=look.colour, linewidth=0.8, linestyle=":")
            one = panel.drop_duplicates("k")
            axes.plot(one["k"], one["chance"], color=_CHANCE, linestyle="--", linewidth=1.2, label="guessing")
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(0, 100)
            axes.set_title(f"{name.partition('@')[0]}\nstands for {panel['stands_for'].iloc[0]}", fontsize=9)
            axes.set_xlabel("k (answers)")
        grid[0, 0].set_ylabel(axis_label("score/pass_at_k"))
        legend_below(figure, list(grid.flat))
        return figure

    seeds = len({run.seed for run in used if run.method != BASE})
    samples = ", ".join(sorted({f"{count:.0f}" for count in data["samples"]}))
    caption = (
        f"Chance that one of k answers is right, from {samples} answers per problem (the paper: 2,048) at the "
        "temperature of the final evaluation. Solid: the unbiased estimate (Chen et al. 2021), "
        + ("one seed" if seeds == 1 else f"mean of {seeds} seeds")
        + "; its band is the 95 % interval over problems for fixed weights. Dotted: the paper's bootstrap, which draws "
        "with replacement and lies below it near the number of answers. Dashed: guessing answers of the right form. "
        "The paper prints no values of its curves."
    )
    title = f"Figure 2: pass@k, {base_title(POLICY)}"
    return FigureArtefact("figure2", title, data, draw, caption, used)


def pass_at_k_table(runs: Sequence[RunRecords], name: str) -> pd.DataFrame:
    """Return pass@k of one method on one set for k = 1, 2, 4, ... up to the answers sampled.

    Args:
        runs: of one method on one base, one per seed.
        name: of the evaluation, ``set@samples``.

    Returns:
        One row per k, in percent: panel, stands_for, problems, samples, method, k, pass_at_k (unbiased, mean over
        seeds), problems_low, problems_high (95 % over problems of the mean over seeds, fixed weights), seeds_low,
        seeds_high (Student's t over seeds, NaN below three), bootstrap, bootstrap_low, bootstrap_high (the paper's
        estimate and the middle 95 % of its draws, which hold problems and answers fixed), chance, ``seed_<n>``.

    Raises:
        RecordFault: a run was not evaluated on it, or with unequal numbers of answers.
    """
    counts = {run.seed: evaluation_counts(run, name) for run in runs}
    (samples, *others) = sorted({int(value) for own in counts.values() for value in own["samples"]})
    if others:
        raise RecordFault(f"{name} holds {samples} to {others[-1]} answers per problem; evaluate it again")
    own_set = sets_of(runs)[name.partition("@")[0]]
    answers = 1 / world_named(runs[0].config.data.world).chance
    ks = [2**power for power in range(samples.bit_length())]
    shares = {k: np.array([pass_at_k(own["correct"], samples, k) for own in counts.values()]) for k in ks}
    by_seed = over_seeds(
        {seed: pd.Series([100 * shares[k][i].mean() for k in ks], ks) for i, seed in enumerate(counts)}
    )
    rows: list[dict[str, Any]] = []
    for k in ks:
        interval = problem_interval(shares[k].mean(axis=0), one_answer=False)
        # a stream for every run: with one for all, their draws would move together and their mean spread too far
        draws = np.mean(
            [
                pass_at_k_bootstrap(
                    own["correct"], samples, k, draws=_DRAWS, generator=np.random.default_rng([_SEED, seed])
                )
                for seed, own in counts.items()
            ],
            axis=0,
        )
        low, high = np.quantile(draws, (0.025, 0.975))
        rows.append(
            {
                "panel": name,
                "stands_for": own_set.stands_for,
                "problems": shares[k].shape[1],
                "samples": samples,
                "method": runs[0].method,
                "k": k,
                "pass_at_k": 100 * shares[k].mean(),
                "problems_low": 100 * interval.low,
                "problems_high": 100 * interval.high,
                "bootstrap": 100 * draws.mean(),
                "bootstrap_low": 100 * low,
                "bootstrap_high": 100 * high,
                "chance": 100 * float(chance_pass_at_k(answers, k)),
            }
        )
    seeds = by_seed.rename(columns={"low": "seeds_low", "high": "seeds_high"}).drop(columns=["step", "mean"])
    return pd.concat([pd.DataFrame(rows), seeds], axis=1)
