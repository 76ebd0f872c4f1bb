"""Table 1, alive: every row against its own paper's loss, and what the table's shorthand leaves out, as numbers.

Both are gradients of one tiny float64 policy on random batches on which masks are at work on both sides
(`hpt.laboratory.random_batch`). The ten points at which the table simplifies are `READINGS`: the rows as a reader of
the table would build them, and the rows as their papers have them.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hpt.laboratory import random_batch, textbook
from hpt.upge.estimator import ROWS, Row
from hpt.upge.reference import trajectory_means
from hpt.upge.row import TokenStreams

#: Batches of these seeds have ratios beyond both bounds with advantages of both signs.
SEEDS = (1, 2, 4)
#: Clip-Cov drops two tokens of ten thousand; of a hundred it has to drop more for its mask to show.
_SHOWN = {"clip_cov": {"clip_cov_share": 0.2, "clip_cov_low": 0.01, "clip_cov_high": 3.0}}


@dataclass(frozen=True)
class Agreement:
    """A row and its paper's loss: the largest difference of the two gradients, relative to the largest entry."""

    row: Row
    loss: str
    largest_difference: float


@dataclass(frozen=True)
class Reading:
    """A point at which Table 1 or the text simplifies."""

    name: str
    printed: str
    used: str
    rows_printed: tuple[Row, ...]
    rows_used: tuple[Row, ...]


@dataclass(frozen=True)
class Gap:
    """What a reading costs: |printed - used| / |used|, the angle between the two gradients (degrees), |printed|/|used|.

    All are means over the batches.
    """

    reading: Reading
    difference: float
    angle_degrees: float
    length_ratio: float


def symmetric_indicator(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """1[|r - 1| <= eps]: the mask a reader may take 1_clip for; it also drops tokens outside on the harmless side."""
    ratio = (streams.logprobs.detach() - streams.old_logprobs).exp()
    inside = (ratio >= 1 - row.number("clip_eps_low")) & (ratio <= 1 + row.number("clip_eps_high"))
    return inside.to(ratio.dtype)


def trajectory_denominator(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """pi / prod_t r_t: Section 2's pi_old(tau) of a whole trajectory, as log [T]."""
    lengths = torch.bincount(streams.trajectory, minlength=streams.trajectories)
    total = trajectory_means(streams.logprobs - streams.old_logprobs, streams) * lengths
    return streams.logprobs.detach() - total[streams.trajectory]


_HERE = "hpt.laboratory.table1"
_GRPO, _CISPO, _LUFFY = ROWS["grpo"], ROWS["cispo"], ROWS["luffy_offline"]
_NO_CLIP = {"clip_eps_low": None, "clip_eps_high": None}
READINGS = (
    Reading("CISPO", "a mask over pi_old", "no mask; the ratio itself is bounded", (
        replace(_CISPO, mask="clip", denominator="old").with_parameters(clip_eps_low=0.2),), (_CISPO,)),
    Reading("GSPO", "pi_ref of the trajectory, no 1/length", "the geometric mean of the ratios, and 1/length", (
        replace(ROWS["gspo"], aggregation="sequence_sum"),), (ROWS["gspo"],)),
    Reading("REINFORCE", "advantage +1 or -1", "reward minus a running baseline",
            (ROWS["reinforce"],), (ROWS["reinforce_baseline"],)),
    Reading("REINFORCE++", "recentring alone, as Dr. GRPO", "minus mean, over the batch's standard deviation", (
        replace(ROWS["reinforce_plus_plus"], advantage="group").with_parameters(std="none"),),
        (ROWS["reinforce_plus_plus"],)),
    Reading("LUFFY, std", "advantage over the standard deviation", "no standard deviation (released scripts)",
            (_LUFFY,), (_LUFFY.with_parameters(std="none"),)),
    Reading("LUFFY, halves", "its offline half", "offline half and GRPO on the rollouts", (_LUFFY,), (_LUFFY, _GRPO)),
    Reading("SRFT", "its offline part", "three parts: offline, SFT, own rollouts", (ROWS["srft_offline"],),
            (ROWS["srft_offline"], ROWS["srft_sft"], ROWS["srft_rollout"])),
    Reading("GRPO", "no 1/length", "a mean over the tokens of each response", (
        replace(_GRPO, aggregation="sequence_sum"),), (_GRPO,)),
    Reading("SFT", "samples under pi_ref = 1, as offline RL", "pi_ref = pi", (ROWS["dft"],), (ROWS["sft"],)),
    Reading("1_clip", "an indicator of the trust region", "drops only where the advantage pushes outwards", (
        replace(_GRPO, mask=f"{_HERE}:symmetric_indicator"),), (_GRPO,)),
    Reading("pi(tau)", "ratio of the whole trajectory (Section 2)", "ratio of each token (Appendix A)", (
        replace(_GRPO, mask="none", denominator=f"{_HERE}:trajectory_denominator"),),
        (_GRPO.with_parameters(**_NO_CLIP),)),
)  # fmt: skip


def agreements(seeds: Sequence[int] = SEEDS) -> list[Agreement]:
    """Return, for every row of the package, how far its gradient is from autograd of its textbook loss.

    Example:
        >>> all(own.largest_difference < 1e-10 for own in agreements([1]))
        True
    """
    found = []
    for name, printed in ROWS.items():
        row, loss = printed.with_parameters(**_SHOWN.get(name, {})), getattr(textbook, name)
        largest = 0.0
        for seed in seeds:
            batch = random_batch.make_world(seed)
            keep = random_batch.kept_tokens(batch, row)
            clipped = None if keep is None else [~token_mask for token_mask in keep]
            expected = random_batch.flat_gradient(loss(random_batch.textbook_of(batch, clipped=clipped)), batch.policy)
            difference = random_batch.relative_difference(random_batch.upge_gradient(batch, [row]), expected)
            largest = float(np.maximum(largest, difference))  # not max(): it would drop a nan
        found.append(Agreement(printed, (inspect.getdoc(loss) or "").splitlines()[0], largest))
    return found


def reading_gaps(seeds: Sequence[int] = SEEDS) -> list[Gap]:
    """Return what each reading of `READINGS` does to the gradient.

    Example:
        >>> round(next(own for own in reading_gaps([1]) if own.reading.name == "GRPO").length_ratio) > 1
        True
    """
    gaps = []
    for reading in READINGS:
        numbers = []
        for seed in seeds:
            batch = random_batch.make_world(seed)
            printed, used = (
                random_batch.upge_gradient(batch, list(rows)) for rows in (reading.rows_printed, reading.rows_used)
            )
            cosine = float(torch.nn.functional.cosine_similarity(printed, used, dim=0).clamp(-1, 1))
            size = float(used.norm())
            numbers.append(
                (float((printed - used).norm()) / size, np.degrees(np.arccos(cosine)), float(printed.norm()) / size)
            )
        gaps.append(Gap(reading, *map(float, np.mean(numbers, axis=0))))
    return gaps
