"""Figures 3 and 4: accuracy of every training question in every epoch, and HPT's minus SFT → GRPO's."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from hpt.artefacts.arm_settings import settings_text
from hpt.artefacts.curves import over_seeds
from hpt.artefacts.output import FigureArtefact
from hpt.artefacts.selection import of_arm
from hpt.catalogue import PER_QUESTION
from hpt.errors import RecordFault
from hpt.export import RunRecords
from hpt.per_question import accuracy_grid, always_zero, quarter_shares
from hpt.plots import legend_below, new_figure

_SFT_GRPO, _HPT = PER_QUESTION
#: The levels the paper draws; the tables hold all.
LEVELS = (3, 5)
#: Parts of a bar from below, in the colours of the map: its two ends and its middle.
COLOURS = {
    "red": ("#b2182b", "red: HPT ahead"),
    "white": ("#f7f7f7", "white: equal"),
    "blue": ("#2166ac", "blue: SFT → GRPO ahead"),
}
Grids = Mapping[int, pd.DataFrame]  # by seed


def figure3(records: Sequence[RunRecords]) -> FigureArtefact:
    """Return SFT → GRPO's accuracy per question and epoch as heat maps, with the number of rows that stay at zero.

    Raises:
        RecordFault: no run.
    """
    runs = of_arm(records, _SFT_GRPO.key)
    grids = {run.seed: accuracy_grid(run.rollouts) for run in runs}
    order = row_order(grids)
    zero = zero_rows(grids)

    def draw() -> Figure:
        figure, panels = new_figure(len(grids), len(LEVELS), width=4.2, height=3.0)
        titles = {(seed, level): f"{zero_count} of {questions} rows always zero"
                  for level, questions, counts in _by_level(zero) for seed, zero_count in counts.items()}  # fmt: skip
        image = _draw_maps(panels, {seed: own.loc[order] for seed, own in grids.items()}, "Blues", (0, 1), titles)
        figure.colorbar(image, ax=panels.ravel().tolist(), label="Accuracy (share of the rollouts)", fraction=0.05)
        return figure

    caption = (
        "GRPO from the weights SFT leaves, on the weak base: the share of a question's rollouts that were correct, "
        "epoch by epoch; white is zero. Questions stand by their mean accuracy, best on top, in the same order in "
        "every panel of a level. Rows that are always zero, per seed: "
        + "; ".join(f"{', '.join(map(str, counts.values()))} of {questions} on level {level}"
                    for level, questions, counts in _by_level(zero))
        + ". The paper draws levels 3 and 5, and prints no count of its white lines."
    )  # fmt: skip
    title = "Figure 3: accuracy per training question, SFT → GRPO"
    return FigureArtefact("figure3", title, _wide(grids, order), draw, caption, tuple(runs), {"zero_rows": zero})


def figure4(records: Sequence[RunRecords]) -> FigureArtefact:
    """Return HPT's accuracy minus SFT → GRPO's on the grid of Figure 3, and who is ahead in each quarter of training.

    Seeds that lack a run of one of the two are left out.

    Raises:
        RecordFault: no seed has both, or runs of fewer than four epochs.
    """
    first, second = ({run.seed: run for run in of_arm(records, arm.key)} for arm in (_SFT_GRPO, _HPT))
    seeds = [seed for seed in first if seed in second]
    grids = {seed: accuracy_grid(first[seed].rollouts) for seed in seeds}
    order = row_order(grids)
    differences = {seed: accuracy_grid(second[seed].rollouts) - grids[seed] for seed in seeds}
    shares = shares_by_quarter(differences)
    used = tuple(run for seed in seeds for run in (first[seed], second[seed]))

    def draw() -> Figure:
        figure, panels = new_figure(len(seeds) + 1, len(LEVELS), width=4.2, height=3.0)
        image = _draw_maps(panels, {seed: own.loc[order] for seed, own in differences.items()}, "RdBu_r", (-1, 1), {})
        for axes, level in zip(panels[-1], LEVELS, strict=True):
            _draw_shares(axes, shares[shares["level"] == level])
            axes.set_title(f"Level {level}: share of the map" + (f", mean of {len(seeds)} seeds" if seeds[1:] else ""))
        label = "HPT minus SFT → GRPO\n(share of the rollouts)"
        figure.colorbar(image, ax=panels[:-1].ravel().tolist(), label=label, fraction=0.05)
        legend_below(figure, list(panels[-1]))
        return figure

    caption = (
        "Accuracy of HPT, which starts from the weak base, minus that of GRPO from the weights SFT leaves, for the "
        "same question in the same epoch; the rows stand as in Figure 3. Below: how much of the map is red, white and "
        "blue in each quarter of training. SFT's run is that of the tables: on all training questions, before the "
        "first epoch drawn here; HPT sees these questions alone. "
        f"{settings_text(used, 'weak', (_SFT_GRPO.name, _HPT.name))}The paper prints no shares."
    )
    title = "Figure 4: HPT minus SFT → GRPO per training question"
    return FigureArtefact("figure4", title, _wide(differences, order), draw, caption, used, {"quarters": shares})


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


def zero_rows(grids: Grids) -> pd.DataFrame:
    """Return how many questions of each level never had a correct rollout: level, questions, mean, low, high, seeds."""
    counts = {seed: always_zero(grid).groupby(level="level").sum() for seed, grid in grids.items()}
    questions = next(iter(grids.values())).groupby(level="level").size().rename("questions")
    over = over_seeds({seed: own.astype(float) for seed, own in counts.items()}).rename(columns={"step": "level"})
    over.insert(1, "questions", over["level"].map(questions))
    return over


def shares_by_quarter(differences: Grids) -> pd.DataFrame:
    """Return the shares of red, white and blue in percent: level, quarter, colour, mean, low, high, seeds."""
    long = {seed: quarter_shares(own).melt(["level", "quarter"], list(COLOURS), "colour") for seed, own in
            differences.items()}  # fmt: skip
    keys = next(iter(long.values()))[["level", "quarter", "colour"]]
    over = over_seeds({seed: 100 * own["value"] for seed, own in long.items()}).drop(columns="step")
    return pd.concat([keys, over], axis=1).sort_values(["level", "quarter"], kind="stable").reset_index(drop=True)


def _by_level(zero: pd.DataFrame) -> list[tuple[int, int, dict[int, int]]]:
    seeds = {name: int(str(name)[5:]) for name in zero.columns if str(name).startswith("seed_")}
    return [(int(row["level"]), int(row["questions"]), {seed: int(row[name]) for name, seed in seeds.items()})
            for row in zero.to_dict("records")]  # fmt: skip


def _draw_maps(
    panels: Sequence[Sequence[Axes]],
    grids: Grids,
    colours: str,
    limits: tuple[float, float],
    notes: Mapping[tuple[int, int], str],
) -> AxesImage:
    """Draw a row of panels per seed and a column per level; return the last image, for the colour bar of all."""
    image = None
    for row, (seed, grid) in zip(panels, grids.items(), strict=False):
        for axes, level in zip(row, LEVELS, strict=True):
            own = grid.loc[[level]]
            extent = (0.5, own.shape[1] + 0.5, len(own) + 0.5, 0.5)
            image = axes.imshow(own.to_numpy(), cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto",
                                interpolation="nearest", extent=extent)  # fmt: skip
            axes.grid(visible=False)
            axes.set_title(", ".join(filter(None, (f"Level {level}, seed {seed}", notes.get((seed, level), "")))))
            axes.set_xlabel("Epoch")
        row[0].set_ylabel("Question")
    assert image is not None  # `row_order` refuses to order nothing
    return image


def _draw_shares(axes: Axes, shares: pd.DataFrame) -> None:
    bottom = 0.0
    for name, (colour, label) in COLOURS.items():
        own = shares[shares["colour"] == name]
        axes.bar(own["quarter"], own["mean"], bottom=bottom, color=colour, label=label, edgecolor="#555555",
                 linewidth=0.5)  # fmt: skip
        bottom = bottom + own["mean"].to_numpy()
    axes.set_ylim(0, 100)
    axes.set_xticks([1, 2, 3, 4])
    axes.set_xlabel("Quarter of training")
    axes.set_ylabel("Cells (%)")


def _wide(grids: Grids, order: pd.MultiIndex) -> pd.DataFrame:
    """Return a row per question and seed, ``row`` giving its place from the top, and a column per epoch."""
    parts = []
    for seed, grid in grids.items():
        own = grid.loc[order].rename(columns=lambda epoch: f"epoch_{epoch}").reset_index()
        own.insert(2, "row", own.groupby("level").cumcount() + 1)
        own.insert(3, "seed", seed)
        parts.append(own)
    return pd.concat(parts, ignore_index=True)
