"""Table 1, alive: every row against its paper's loss, what the table's shorthand leaves out, and real tokens.

The first two are gradients of one tiny float64 policy on random batches on which masks are at work on both sides
(`hpt.laboratory.random_batch`). The points at which the table simplifies are `READINGS`: the rows as a reader of the
table would build them, and the rows as their papers have them. The tokens are of one group of answers that
`hpt.laboratory.checkpoints` captured from a run.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hpt.laboratory import random_batch, textbook
from hpt.laboratory.experiment import OFFLINE
from hpt.support.files import read_json
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.estimator import ROWS, Row, unified_weights
from hpt.upge.reference import DENOMINATORS, trajectory_means
from hpt.upge.row import TokenStreams
from hpt.upge.stabilization import MASKS

GROUP = Path(__file__).with_name("group.json")

#: Batches of these seeds have ratios beyond both bounds with advantages of both signs.
SEEDS = (1, 2, 4)
#: Clip-Cov drops two tokens of ten thousand; of a hundred it has to drop more for its mask to show.
_SHOWN = {"clip_cov": {"clip_cov_share": 0.2, "clip_cov_low": 0.01, "clip_cov_high": 3.0}}


class Agreement(NamedTuple):
    """A row and its paper's loss: the largest difference of the two gradients, relative to the largest entry."""

    row: Row
    loss: str
    largest_difference: float


class Reading(NamedTuple):
    """A point at which Table 1 or the text simplifies."""

    name: str
    printed: str
    used: str
    rows_printed: tuple[Row, ...]
    rows_used: tuple[Row, ...]


class Gap(NamedTuple):
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
        >>> all(found.largest_difference < 1e-10 for found in agreements([1]))
        True
    """
    found = []
    for name, printed in ROWS.items():
        row, loss = printed.with_parameters(**_SHOWN.get(name, {})), getattr(textbook, name)
        largest = 0.0
        for seed in seeds:
            batch = random_batch.make_world(seed)
            expected = random_batch.flat_gradient(loss(random_batch.textbook_of(batch, row)), batch.policy)
            difference = random_batch.relative_difference(random_batch.upge_gradient(batch, [row]), expected)
            largest = float(np.maximum(largest, difference))  # not max(): it would drop a nan
        found.append(Agreement(printed, (inspect.getdoc(loss) or "").splitlines()[0], largest))
    return found


def reading_gaps(seeds: Sequence[int] = SEEDS) -> list[Gap]:
    """Return what each reading of `READINGS` does to the gradient.

    Example:
        >>> round(next(gap for gap in reading_gaps([1]) if gap.reading.name == "GRPO").length_ratio) > 1
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


# The tokens of a real group


@dataclass(frozen=True, eq=False)
class Group:
    """The answers to one question, sampled after ``step`` steps of ``run``; the demonstration last.

    Attributes:
        question, answer: as the model saw and as the verifier wants it.
        tokens: text of every response token, per trajectory.
        old_logprobs, logprobs: [len] float64 of the policy that sampled and of the policy one update later;
            ``old_logprobs`` are zeros for the demonstration.
        rewards: [B]; is_demonstration: [B].
    """

    question: str
    answer: str
    run: str
    step: int
    tokens: list[list[str]]
    old_logprobs: list[np.ndarray]
    logprobs: list[np.ndarray]
    rewards: np.ndarray
    is_demonstration: np.ndarray


@dataclass(frozen=True, eq=False)
class TokenParts:
    """Eq. 6 token by token for one row: per trajectory [len] arrays; None where the row does not act on it.

    ``inverse_denominator`` is 1/pi_ref, ``weight`` = mask x advantage x pi / pi_ref, the factor of grad log pi.
    """

    mask: list[np.ndarray | None]
    inverse_denominator: list[np.ndarray | None]
    advantage: list[np.ndarray | None]
    weight: list[np.ndarray | None]


def load_group(path: Path = GROUP) -> Group:
    """Return the group in the package, or another.

    Example:
        >>> group = load_group()
        >>> int(group.is_demonstration.sum()), len(group.tokens) == len(group.rewards)
        (1, True)
    """
    content = read_json(path)
    trajectories = content["trajectories"]
    return Group(
        question=content["question"],
        answer=content["answer"],
        run=content["run"],
        step=content["step"],
        tokens=[one["tokens"] for one in trajectories],
        old_logprobs=[np.array(one["old_logprobs"]) for one in trajectories],
        logprobs=[np.array(one["logprobs"]) for one in trajectories],
        rewards=np.array([one["reward"] for one in trajectories]),
        is_demonstration=np.array([one["is_demonstration"] for one in trajectories]),
    )


def token_parts(group: Group, row: Row) -> TokenParts:
    """Return mask, 1/pi_ref, advantage and weight of every token of a group under a row (Eq. 6).

    A row of Table 1's offline half acts on the demonstration, every other on the rollouts; a row whose mask is drawn
    over a whole batch (Clip-Cov) has no meaning on one group.

    Example:
        >>> parts = token_parts(load_group(), ROWS["sft"])
        >>> parts.weight[0] is None, bool((parts.weight[-1] == 1).all())
        (True, True)
    """
    acts = group.is_demonstration if row.name in OFFLINE else ~group.is_demonstration
    compared = np.ones_like(acts) if row.name in OFFLINE and row.advantage == "group" else acts
    seen, lengths = np.flatnonzero(compared), np.array([len(tokens) for tokens in group.tokens])
    groups = RolloutGroups(
        rewards=group.rewards[seen],
        group=np.zeros(len(seen), dtype=int),
        is_demonstration=group.is_demonstration[seen],
        lengths=lengths[seen],
        kl=[np.zeros(lengths[i]) for i in seen],
    )
    per_token = dict(zip(seen, advantages(row, groups), strict=True))
    index = [int(i) for i in np.flatnonzero(acts)]
    streams = TokenStreams(
        logprobs=torch.from_numpy(np.concatenate([group.logprobs[i] for i in index])),
        entropies=torch.zeros(int(lengths[index].sum()), dtype=torch.float64),
        old_logprobs=torch.from_numpy(np.concatenate([group.old_logprobs[i] for i in index])),
        trajectory=torch.repeat_interleave(torch.arange(len(index)), torch.from_numpy(lengths[index])),
        trajectories=len(index),
    )
    advantage = torch.from_numpy(np.concatenate([per_token[i] for i in index]))
    flat = (
        MASKS[row.mask](row, streams, advantage),
        (-DENOMINATORS[row.denominator](row, streams, advantage)).exp(),
        advantage,
        unified_weights(row, streams, advantage),
    )
    ends = np.cumsum(lengths[index])[:-1]
    pieces = [dict(zip(index, np.split(values.numpy(), ends), strict=True)) for values in flat]
    return TokenParts(*([of_part.get(i) for i in range(len(acts))] for of_part in pieces))
