"""Table 1 and Figure 1 from code: the rows, what the table's shorthand costs, and Eq. 6 on the tokens of one group.

None of it needs a run of the scale; the answers of the last figure were captured from one (`hpt.laboratory.capture`).
PyTorch is imported when one of them is made: the other artefacts do without.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from hpt.artefacts.output import Cell, Column, FigureArtefact, Row, TableArtefact
from hpt.catalogue import ARTEFACTS
from hpt.export import RunRecords
from hpt.upge.rows import ROWS

#: A gradient this near its textbook's is the same one: rounding of float64 sums is a thousand times smaller.
SAME = 1e-10
#: The algorithms whose weights are drawn token by token.
ON_TOKENS = ("grpo", "cispo", "gspo", "luffy_offline", "sft")


def table1(records: Sequence[RunRecords] = ()) -> TableArtefact:
    """Return Table 1 with every row of the package: its four parts, its textbook loss, and whether the two agree."""
    from hpt.laboratory.table1 import agreements

    del records
    found = agreements()
    data = pd.DataFrame(
        {
            "row": own.row.name, "mask": own.row.mask, "denominator": own.row.denominator,
            "advantage": own.row.advantage, "aggregation": own.row.aggregation,
            "trajectory_coefficient": own.row.trajectory_coefficient, "source": own.row.source, "loss": own.loss,
            # the difference itself is rounding, which another processor rounds otherwise
            "same_to": SAME, "same": own.largest_difference < SAME,
        }
        for own in found
    )  # fmt: skip
    rows: list[Row] = [
        (own.row.name, (Cell(own.row.mask), Cell(own.row.denominator), Cell(own.row.advantage),
                        Cell(own.row.aggregation), Cell(own.loss),
                        Cell("yes" if own.largest_difference < SAME else "NO")))
        for own in found
    ]  # fmt: skip
    columns = (
        Column("mask", "1_stable"), Column("denominator", "pi_ref"), Column("advantage", "A"), Column("aggregation"),
        Column("textbook loss", "as its own paper writes it"), Column("same gradient", f"to {SAME:g}"),
    )  # fmt: skip
    largest = max(own.largest_difference for own in found)
    caption = (
        f"Each row is four names (hpt/upge/estimator.py); its gradient is compared in float64 with autograd of its "
        f"textbook loss, on random batches on which masks act on both sides. "
        f"{sum(own.largest_difference < SAME for own in found)} of {len(found)} rows agree"
        + (", all to rounding." if largest < 1e-13 else ".")
    )
    return TableArtefact("table1", ARTEFACTS["table1"].title, data, columns, tuple(rows), caption)


def table1_readings(records: Sequence[RunRecords] = ()) -> TableArtefact:
    """Return where Table 1 and the text simplify, and how far that moves the gradient."""
    from hpt.laboratory.table1 import SEEDS, reading_gaps

    del records
    gaps = reading_gaps()
    data = pd.DataFrame(
        {
            "point": own.reading.name, "printed": own.reading.printed, "used": own.reading.used,
            "relative_difference": own.difference, "angle_degrees": own.angle_degrees,
            "length_ratio": own.length_ratio,
        }
        for own in gaps
    )  # fmt: skip
    rows: list[Row] = [
        (own.reading.name, (Cell(own.reading.printed), Cell(own.reading.used), Cell(f"{own.difference:.2f}"),
                            Cell(f"{own.angle_degrees:.0f}"), Cell(f"{own.length_ratio:.2f}")))
        for own in gaps
    ]  # fmt: skip
    columns = (
        Column("as the paper prints it"), Column("as the method is"), Column("difference", "|printed - used| / |used|"),
        Column("angle", "degrees"), Column("length", "|printed| / |used|"),
    )  # fmt: skip
    caption = (
        f"Gradients of the two readings on the same random batches (mean of {len(SEEDS)}; small policy, ratios far "
        "from 1, so that masks act): the numbers show that a reading matters, not how much it would in a run. An angle "
        "near 0 with a length other than 1 is another learning rate; a large angle is another method."
    )
    return TableArtefact("table1_readings", ARTEFACTS["table1_readings"].title, data, columns, tuple(rows), caption)


def figure1(records: Sequence[RunRecords] = ()) -> FigureArtefact:
    """Return Figure 1 drawn from the table: the four steps with every choice there is and the rows that make it."""
    del records
    data = choices()
    caption = (
        "The paper's four steps, each with the choices of this package and the rows that make them: data source, "
        "reference policy denominator, advantage, stabilization mask; the likelihood gradient is the same for all."
    )
    return FigureArtefact("figure1", ARTEFACTS["figure1"].title, data, lambda: _draw_steps(data), caption)


def choices() -> pd.DataFrame:
    """Return one row per choice: part, choice, rows of Table 1 that make it.

    Example:
        >>> frame = choices()
        >>> frame[frame["choice"] == "clipped_ratio"]["rows"].item()
        'cispo'
    """
    from hpt.laboratory.experiment import OFFLINE

    parts: Mapping[str, Mapping[str, str]] = {
        "data source": {name: "demonstrations" if name in OFFLINE else "rollouts" for name in ROWS},
        "denominator": {name: row.denominator for name, row in ROWS.items()},
        "advantage": {name: row.advantage for name, row in ROWS.items()},
        "mask": {name: row.mask for name, row in ROWS.items()},
    }
    return pd.DataFrame(
        {"part": part, "choice": choice, "rows": ", ".join(name for name, own in of_row.items() if own == choice)}
        for part, of_row in parts.items()
        for choice in dict.fromkeys(of_row.values())
    )


def _draw_steps(data: pd.DataFrame) -> Figure:
    titles = {
        "data source": "1  data source: pi_theta",
        "denominator": "2  denominator: 1 / pi_ref",
        "advantage": "3  advantage: A",
        "mask": "4  mask: 1_stable",
    }
    figure = Figure(figsize=(13, 5.6))
    axes = figure.subplots()
    axes.set(xlim=(0, 4), ylim=(0, 1))
    axes.axis("off")
    for column, (part, title) in enumerate(titles.items()):
        box = FancyBboxPatch((column + 0.03, 0.16), 0.94, 0.8, boxstyle="round,pad=0,rounding_size=0.03",
                             facecolor="#f5f7fa", edgecolor="#55606e")  # fmt: skip
        axes.add_patch(box)
        axes.text(column + 0.5, 0.915, title, ha="center", weight="bold", fontsize=10)
        own = data[data["part"] == part]
        for line, (_, row) in enumerate(own.iterrows()):
            at = 0.85 - line * 0.69 / max(len(own), 1)
            axes.text(column + 0.07, at, row["choice"], fontsize=8.5, color="#0072b2", weight="bold")
            axes.text(column + 0.07, at - 0.012, _wrapped(row["rows"]), fontsize=6.8, va="top", color="#333333")
        if column:
            axes.add_patch(FancyArrowPatch((column - 0.04, 0.56), (column + 0.04, 0.56), arrowstyle="-|>",
                                           mutation_scale=12, color="#d55e00"))  # fmt: skip
    axes.text(2, 0.06, r"$\mathrm{grad}_{uni} = 1_{stable}\;\cdot\;\frac{1}{\pi_{ref}}\;\cdot\;\hat{A}\;\cdot\;"
              r"\nabla\pi_\theta$   (Eq. 6)", ha="center", fontsize=14)  # fmt: skip
    return figure


def _wrapped(text: str, width: int = 50) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def figure1_tokens(records: Sequence[RunRecords] = ()) -> FigureArtefact:
    """Return Eq. 6 token by token on one captured group: a panel per algorithm, a column per part of the estimator."""
    from hpt.laboratory.group import load_group, token_parts

    del records
    group = load_group()
    quantities = ("mask", "inverse_denominator", "advantage", "weight")
    frames = []
    for name in ON_TOKENS:
        parts = token_parts(group, ROWS[name])
        for index, tokens in enumerate(group.tokens):
            if parts.weight[index] is None:
                continue
            values = {quantity: getattr(parts, quantity)[index] for quantity in quantities}
            frame = {"row": name, "trajectory": index, "reward": group.rewards[index], "position": range(len(tokens))}
            frames.append(pd.DataFrame(frame | {"token": tokens} | values))
    data = pd.concat(frames, ignore_index=True)
    right = int(group.rewards[~group.is_demonstration].sum())
    caption = (
        f"Question {group.question} (answer {group.answer}): {len(group.tokens) - 1} rollouts, {right} of them right, "
        f"and the demonstration (last line), sampled after step {group.step} of {group.run}; ratios are those after "
        "the step's first update. ▢ is the opening of the box; grey: the row does not act there. GRPO drops a token "
        "that has left the trust region, CISPO keeps it with a bounded ratio, GSPO drops whole answers, LUFFY's "
        "offline half and SFT act on the demonstration alone."
    )
    return FigureArtefact(
        "figure1_tokens", ARTEFACTS["figure1_tokens"].title, data, lambda: _draw_tokens(data, group.tokens), caption
    )


def _draw_tokens(data: pd.DataFrame, tokens: Sequence[Sequence[str]]) -> Figure:
    bound = 1.5 * float(data[["advantage", "weight"]].abs().to_numpy().max())  # the ends are too dark to write on
    scales: dict[str, tuple[str, str, Normalize]] = {
        "mask": ("mask", "gray", Normalize(-0.6, 1)),
        "inverse_denominator": ("1 / pi_ref", "viridis", LogNorm(*_span(data["inverse_denominator"]))),
        "advantage": ("advantage", "RdBu", TwoSlopeNorm(0, -bound, bound)),
        "weight": ("weight = mask x advantage x pi / pi_ref", "PuOr", TwoSlopeNorm(0, -bound, bound)),
    }
    figure = Figure(figsize=(17, 11))
    grid = figure.subplots(len(ON_TOKENS), len(scales), squeeze=False)
    longest, seen = max(map(len, tokens)), set[int]()
    for line, name in enumerate(ON_TOKENS):
        own = data[data["row"] == name]
        for axes, (quantity, (title, colours, norm)) in zip(grid[line], scales.items(), strict=True):
            values = np.full((len(tokens), longest), np.nan)
            values[own["trajectory"], own["position"]] = own[quantity]
            image = axes.imshow(values, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
            # once per trajectory: thousands of letters, drawn as outlines, would make a file of megabytes
            written = set(own["trajectory"]) - seen if quantity == "weight" else set()
            _label_tokens(axes, [one if index in written else [] for index, one in enumerate(tokens)])
            seen |= written
            axes.set_title(f"{name}: {title}", fontsize=8.5)
            if line == 0:
                figure.colorbar(image, ax=list(grid[:, list(scales).index(quantity)]), location="bottom",
                                shrink=0.7, aspect=40, label=title)  # fmt: skip
    return figure


def _span(values: pd.Series) -> tuple[float, float]:
    return float(values.min()), max(float(values.max()), float(values.min()) * 1.01)


def _label_tokens(axes: Axes, tokens: Sequence[Sequence[str]]) -> None:
    axes.set_facecolor("#e8e8e8")
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[0, len(tokens) - 1])
    axes.set_yticklabels(["first", "demo"], fontsize=6)
    for line, own in enumerate(tokens):
        for position, token in enumerate(own):
            shown = {"<eos>": "⏎", "\\boxed{": "▢"}.get(token, token)
            axes.text(position, line, shown, ha="center", va="center", fontsize=6.5, color="#111111")
