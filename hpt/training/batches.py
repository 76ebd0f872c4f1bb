"""How trajectories are laid into micro-batches; shapes are defined here.

Letters used throughout the package:

    N   prompts of an optimiser step           B   trajectories of a micro-batch
    n   rollouts per prompt                    T   response tokens of a micro-batch, flattened, no padding
    L   maximum response length, tokens        H   hidden size                 V   vocabulary

Index t of a log-prob, an advantage or a mask always names the *response token* t, never the position that predicts it;
`MicroBatch.predictor` holds those positions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hpt.methods.mixture import DEMONSTRATION, Trajectory, WeightedTrajectory


@dataclass(eq=False)
class PartStreams:
    """Flattened tensors of one component over a micro-batch: advantages, scales [T] float; keep [T] or None."""

    advantages: Tensor
    scales: Tensor
    keep: Tensor | None


@dataclass(eq=False)
class MicroBatch:
    """What one forward pass reads.

    Attributes:
        input_ids: [rows, width] int64. ``padded``: a trajectory a row, zeros after its end (causal attention never
            looks ahead, so no attention mask is needed). ``packed``: one row, trajectories end to end.
        position_ids: [rows, width] int64, restarting with every trajectory.
        predictor: [T] int64, flat index into rows x width of the position that predicts each response token.
        targets: [T] int64 response tokens.
        trajectory: [T] int64, which trajectory a token belongs to, 0..B-1.
        old_logprobs: [T] float32.
        rewards: [B] float32.
        parts: streams per component index.
        entropy_scales, kl_scales: [T] float32.
        has_bonus: whether a trajectory of the optimiser step has an entropy bonus, on whatever rank: at ZeRO-3 a rank
            that left out a part of the backward pass would wait for the others for ever.
        members: the weighted trajectories, in order.
    """

    input_ids: Tensor
    position_ids: Tensor
    predictor: Tensor
    targets: Tensor
    trajectory: Tensor
    old_logprobs: Tensor
    rewards: Tensor
    parts: dict[int, PartStreams]
    entropy_scales: Tensor
    kl_scales: Tensor
    has_bonus: bool = True
    members: Sequence[WeightedTrajectory] = field(default_factory=tuple)

    @property
    def trajectories(self) -> int:
        """B."""
        return len(self.rewards)


def zero_weight_filler() -> WeightedTrajectory:
    """Return a one-token trajectory that weighs nothing: a rank with less work runs it so that all ranks run equally.

    At ZeRO 2 and 3 every forward and backward is a collective; a rank that left one out would hang the others.
    """
    one = np.zeros(1, dtype=np.int32)
    trajectory = Trajectory("", 0, DEMONSTRATION, one, one, np.zeros(1, dtype=np.float32), 0.0, -1)
    return WeightedTrajectory(trajectory, ())


def split_over_ranks(items: Sequence[WeightedTrajectory], ranks: int) -> list[list[WeightedTrajectory]]:
    """Deal trajectories to ranks so that token counts are even: longest first, to the rank with the least so far.

    Deterministic and computed alike on every rank from the same list.
    """
    shares: list[list[WeightedTrajectory]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for item in _longest_first(items):
        rank = load.index(min(load))
        shares[rank].append(item)
        load[rank] += item.trajectory.total_tokens
    return shares


def split_into_micro_batches(
    items: Sequence[WeightedTrajectory], token_budget: int, layout: str = "padded"
) -> list[list[WeightedTrajectory]]:
    """Group trajectories under a token budget; a trajectory longer than the budget makes a group of its own.

    ``padded`` counts rows x longest, what the forward pass really costs; sorted by length, so little is padding.
    """
    groups: list[list[WeightedTrajectory]] = []
    used = 0
    for item in _longest_first(items):
        tokens = item.trajectory.total_tokens
        if groups and layout == "padded":
            longest = groups[-1][0].trajectory.total_tokens
            fits = (len(groups[-1]) + 1) * longest <= token_budget
        else:
            fits = bool(groups) and used + tokens <= token_budget
        if fits:
            groups[-1].append(item)
            used += tokens
        else:
            groups.append([item])
            used = tokens
    return groups


def _longest_first(items: Iterable[WeightedTrajectory]) -> list[WeightedTrajectory]:
    # sorted() is stable, so equal lengths keep the order of the batch: the split depends on nothing else
    return sorted(items, key=lambda item: -item.trajectory.total_tokens)


def collate(
    items: Sequence[WeightedTrajectory], components: int, layout: str = "padded", dtype: torch.dtype = torch.float32
) -> MicroBatch:
    """Lay trajectories into the tensors of one forward pass.

    Args:
        items: B weighted trajectories.
        components: number of components of the method.
        layout: ``padded`` or ``packed``; the gradient is the same.
        dtype: of the weights (float64 in the invariance tests).

    Returns:
        The micro-batch, on CPU.
    """
    sizes = [item.trajectory.total_tokens for item in items]
    rows, width = (len(items), max(sizes)) if layout == "padded" else (1, sum(sizes))
    starts = [i * width for i in range(len(items))] if layout == "padded" else np.cumsum([0, *sizes[:-1]]).tolist()
    input_ids = np.zeros(rows * width, dtype=np.int64)
    position_ids = (
        np.tile(np.arange(width), rows) if layout == "padded" else np.concatenate([np.arange(s) for s in sizes])
    )
    predictor, targets = [], []
    for start, item in zip(starts, items, strict=True):
        prompt, response = item.trajectory.prompt_tokens, item.trajectory.response_tokens
        input_ids[start : start + len(prompt)] = prompt
        input_ids[start + len(prompt) : start + len(prompt) + len(response)] = response
        predictor.append(start + len(prompt) - 1 + np.arange(len(response)))
        targets.append(response)
    lengths = [item.trajectory.length for item in items]

    def spread(per_trajectory: Iterable[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.fromiter(per_trajectory, np.float64), lengths)).to(dtype)

    def concatenate(arrays: Iterable[np.ndarray], kind: torch.dtype) -> Tensor:
        return torch.from_numpy(np.concatenate(list(arrays))).to(kind)

    parts: dict[int, PartStreams] = {}
    for index in range(components):
        own = [next((part for part in item.parts if part.component == index), None) for item in items]
        if all(part is None for part in own):
            continue
        zeros = [np.zeros(length) for length in lengths]
        advantages = [zero if part is None else part.advantages for part, zero in zip(own, zeros, strict=True)]
        keep = None
        if any(part is not None and part.keep is not None for part in own):
            keep = concatenate(
                (
                    zero + 1 if part is None or part.keep is None else part.keep.astype(np.float64)
                    for part, zero in zip(own, zeros, strict=True)
                ),
                dtype,
            )
        scales = spread(0.0 if part is None else part.scale for part in own)
        parts[index] = PartStreams(concatenate(advantages, dtype), scales, keep)
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids).view(rows, width),
        position_ids=torch.from_numpy(position_ids.astype(np.int64)).view(rows, width),
        predictor=torch.from_numpy(np.concatenate(predictor).astype(np.int64)),
        targets=concatenate(targets, torch.int64),
        trajectory=torch.from_numpy(np.repeat(np.arange(len(items)), lengths)),
        old_logprobs=concatenate((item.trajectory.old_logprobs for item in items), dtype),
        rewards=torch.tensor([item.trajectory.reward for item in items], dtype=dtype),
        parts=parts,
        entropy_scales=spread(item.entropy_scale for item in items),
        kl_scales=spread(item.kl_scale for item in items),
        has_bonus=any(item.entropy_scale for item in items),
        members=tuple(items),
    )
