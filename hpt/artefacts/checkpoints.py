"""Section 2.3 on a real small model: the rows' error at checkpoints of a run, from gradients that were measured once.

Nothing is computed from weights here: `hpt.laboratory.checkpoints` measured them, and its numbers are in the package.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hpt.artefacts.output import FigureArtefact
from hpt.artefacts.provenance import short_commit
from hpt.catalogue import ARTEFACTS
from hpt.export import RunRecords

#: What stands for all checkpoints together in the table of questions.
ALL = "real model, all checkpoints"


def checkpoint_error(records: Sequence[RunRecords] = ()) -> FigureArtefact:
    """Return cosine and error of every row at checkpoints of a run; with it, the sums of every question."""
    from hpt.laboratory.checkpoints import load_checkpoints
    from hpt.laboratory.errors import pooled

    del records
    about, lines = load_checkpoints()
    steps = sorted(lines["step"].unique())
    data = pooled(lines, by=("step", "row"))
    known = {step: reliability(lines[lines["step"] == step]) for step in steps}
    data["truth_cosine"] = data["step"].map(known)
    rates = lines.groupby("step")["success"].agg(["min", "max"])
    questions = lines.groupby("step")["question"].nunique().iloc[0]
    caption = (
        f"Rows on fresh rollouts of {about['run']} at steps {', '.join(map(str, steps))} (0: its base), all "
        f"parameters, against the gradient of expected reward, estimated from {about['rollouts'] // 2} other rollouts "
        f"of each of {questions} questions of a checkpoint, whose success rates run from {rates['min'].min():.2f} to "
        f"{rates['max'].max():.2f}. Products are taken between independent halves, so that noise enlarges none. Cosine "
        "between the two estimates of the truth: "
        + ", ".join(f"{known[step]:.2f} at step {step}" for step in steps)
        + ". 95 % intervals resample the questions. Ratios are 1 on fresh rollouts: GSPO is GRPO here, CISPO is DAPO, "
        f"and no mask acts. Measured once, at commit {short_commit(about['commit'])}"
        f"{' with changed files' * about['dirty']}."
    )
    keys = list(zip(lines["step"], lines["question"], strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    own = lines.assign(problem=lines["question"], question=[numbers[key] for key in keys], situation=ALL)
    return FigureArtefact(
        "checkpoint_error", ARTEFACTS["checkpoint_error"].title, data, lambda: _draw(data), caption,
        more={"questions": own},
    )  # fmt: skip


def reliability(lines: pd.DataFrame) -> float:
    """Return the cosine between the two halves' estimates of the true gradient, over all questions together.

    Args:
        lines: of `hpt.laboratory.checkpoints.load_checkpoints`, of one step.

    Example:
        >>> reliability(pd.DataFrame({"row": ["a", "a"], "size": [1.0, 3.0], "truth_square": [4.0, 4.0]}))
        0.5
    """
    one = lines[lines["row"] == lines["row"].iloc[0]]
    return float(one["size"].sum() / one["truth_square"].sum())


def _draw(data: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(12, 4.2))
    rows, steps = list(dict.fromkeys(data["row"])), sorted(data["step"].unique())
    colours = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
    for axes, quantity in zip(figure.subplots(1, 2), ("cosine", "error"), strict=True):
        for number, step in enumerate(steps):
            own = data[data["step"] == step].set_index("row").loc[rows]
            values, low, high = (
                own[name].to_numpy(float) for name in (quantity, f"{quantity}_low", f"{quantity}_high")
            )
            place = np.arange(len(rows)) + 0.18 * (number - (len(steps) - 1) / 2)
            spread = np.maximum(0, [values - low, high - values])
            axes.errorbar(place, values, yerr=spread, fmt="o", markersize=4, color=colours[number % len(colours)],
                          label=f"step {step}")  # fmt: skip
        axes.set_xticks(range(len(rows)), rows, rotation=35, ha="right", fontsize=7.5)
        axes.set_ylabel(f"{quantity} (to the true gradient)" if quantity == "cosine" else "error (0 to 1)")
    figure.axes[0].axhline(0, color="#555555", linewidth=0.8)
    figure.axes[0].legend()
    return figure
