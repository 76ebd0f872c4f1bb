"""Table 1, alive: every row against its paper's loss, what the table's shorthand leaves out, and real tokens.

The first two are gradients of one tiny float64 policy on random batches on which masks are at work on both sides
(`hpt.laboratory.random_batch`). The points at which the table simplifies are `READINGS`: the rows as a reader of the
table would build them, and the rows as their papers have them. The tokens are of one group of answers that
`benchmarks/checkpoint_error.py` captured from a run.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hpt.laboratory import random_batch, textbook
from hpt.laboratory.experiment import OFFLINE
from hpt.support.files import read_json
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.estimator import ROWS, Row, weights_mask_ratio
from hpt.upge.reference import DENOMINATORS, sequence_log_ratio
from hpt.upge.row import TokenStreams
from hpt.upge.stabilization import MASKS

GROUP = Path(__file__).with_name("group.json")

PARTS = ("mask", "denominator", "advantage", "aggregation", "trajectory_coefficient", "source")
#: Batches of these seeds have ratios beyond both bounds with advantages of both signs.
SEEDS = (1, 2, 4)
#: Clip-Cov drops two tokens of ten thousand; of a hundred it has to drop more for its mask to show.
_SHOWN = {"clip_cov": {"clip_cov_share": 0.2, "clip_cov_low": 0.01, "clip_cov_high": 3.0}}


class Reading(NamedTuple):
    """A point at which Table 1 or the text simplifies."""

    point: str
    printed: str
    used: str
    rows_printed: tuple[Row, ...]
    rows_used: tuple[Row, ...]


def symmetric_indicator(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """1[|r - 1| <= eps]: the mask a reader may take 1_clip for; it also drops tokens outside on the harmless side."""
    ratio = (streams.logprobs.detach() - streams.old_logprobs).exp()
    inside = (ratio >= 1 - row.number("clip_eps_low")) & (ratio <= 1 + row.number("clip_eps_high"))
    return inside.to(ratio.dtype)


def trajectory_denominator(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """pi / prod_t r_t: Section 2's pi_old(tau) of a whole trajectory, as log [T]."""
    lengths = torch.bincount(streams.trajectory, minlength=streams.trajectories)
    return streams.logprobs.detach() - sequence_log_ratio(streams) * lengths[streams.trajectory]


_HERE = "hpt.laboratory.table1"
_GRPO, _CISPO, _LUFFY = ROWS["grpo"], ROWS["cispo"], ROWS["luffy_offline"]
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
        (_GRPO.with_parameters(clip_eps_low=None, clip_eps_high=None),)),
)  # fmt: skip


def agreements(seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """Return, for every row of the package, how far its gradient is from autograd of its textbook loss.

    A line per row with its name (``row``), parts and source, the loss, and the largest difference of the two gradients,
    relative to the largest entry.

    Example:
        >>> bool((agreements([1])["largest_difference"] < 1e-10).all())
        True
    """
    lines = []
    for name, printed in ROWS.items():
        row, loss = printed.with_parameters(**_SHOWN.get(name, {})), getattr(textbook, name)
        largest = 0.0
        for seed in seeds:
            batch = random_batch.make_world(seed)
            expected = random_batch.flat_gradient(loss(random_batch.textbook_of(batch, row)), batch.policy)
            difference = random_batch.relative_difference(random_batch.upge_gradient(batch, [row]), expected)
            largest = float(np.maximum(largest, difference))  # not max(): it would drop a nan
        parts = {part: getattr(printed, part) for part in PARTS}
        title = (inspect.getdoc(loss) or "").splitlines()[0]
        lines.append({"row": name, **parts, "loss": title, "largest_difference": largest})
    return pd.DataFrame(lines)


def reading_gaps(seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """Return what each of `READINGS` does to the gradient, means over the batches.

    A line per point: as printed, as used, ``relative_difference`` |printed - used| / |used|, the angle between the two
    gradients and ``length_ratio`` |printed| / |used|.

    Example:
        >>> float(reading_gaps([1]).set_index("point").loc["GRPO", "length_ratio"]) > 1
        True
    """
    lines = []
    for reading in READINGS:
        numbers = []
        for seed in seeds:
            batch = random_batch.make_world(seed)
            printed, used = (random_batch.upge_gradient(batch, rows) for rows in
                             (reading.rows_printed, reading.rows_used))  # fmt: skip
            cosine = float(torch.nn.functional.cosine_similarity(printed, used, dim=0).clamp(-1, 1))
            size = float(used.norm())
            numbers.append(
                (float((printed - used).norm()) / size, np.degrees(np.arccos(cosine)), float(printed.norm()) / size)
            )
        lines.append((reading.point, reading.printed, reading.used, *np.mean(numbers, axis=0)))
    columns = ["point", "printed", "used", "relative_difference", "angle_degrees", "length_ratio"]
    return pd.DataFrame(lines, columns=columns)


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


def load_group() -> Group:
    """Return the group in the package.

    Example:
        >>> group = load_group()
        >>> int(group.is_demonstration.sum()), len(group.tokens) == len(group.rewards)
        (1, True)
    """
    content = read_json(GROUP)
    table = pd.DataFrame(content["trajectories"])
    old, now = ([np.array(values) for values in table[name]] for name in ("old_logprobs", "logprobs"))
    return Group(
        content["question"], content["answer"], content["run"], content["step"], table["tokens"].to_list(), old, now,
        table["reward"].to_numpy(), table["is_demonstration"].to_numpy(),
    )  # fmt: skip


def token_parts(group: Group, row: Row) -> pd.DataFrame:
    """Return mask, 1/pi_ref, advantage and weight of every token of a group on which a row acts (Eq. 6).

    A row of Table 1's offline half acts on the demonstration, every other on the rollouts; a row whose mask is drawn
    over a whole batch (Clip-Cov) has no meaning on one group. ``weight`` = mask x advantage x pi / pi_ref is the factor
    of grad log pi.

    Example:
        >>> found = token_parts(load_group(), ROWS["sft"])
        >>> found["trajectory"].unique().tolist(), found["weight"].unique().tolist()
        ([8], [1.0])
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
    index = np.flatnonzero(acts)
    size = lengths[index]
    streams = TokenStreams(
        logprobs=torch.from_numpy(np.concatenate([group.logprobs[i] for i in index])),
        entropies=torch.zeros(int(size.sum()), dtype=torch.float64),
        old_logprobs=torch.from_numpy(np.concatenate([group.old_logprobs[i] for i in index])),
        trajectory=torch.repeat_interleave(torch.arange(len(index)), torch.from_numpy(size)),
        trajectories=len(index),
    )
    advantage = torch.from_numpy(np.concatenate([per_token[i] for i in index]))
    return pd.DataFrame(
        {
            "row": row.name,
            "trajectory": np.repeat(index, size),
            "reward": np.repeat(group.rewards[index], size),
            "position": np.concatenate([np.arange(length) for length in size]),
            "token": [token for i in index for token in group.tokens[i]],
            "mask": MASKS[row.mask](row, streams, advantage),
            "inverse_denominator": (-DENOMINATORS[row.denominator](row, streams, advantage)).exp(),
            "advantage": advantage,
            "weight": weights_mask_ratio(row, streams, advantage)[0],
        }
    )
