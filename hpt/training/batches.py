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
from typing import Any

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
            looks ahead, so no attention mask is needed). ``packed``: one row, trajectories end to end. ``shared``: one
            row, each distinct prompt once, followed by the responses to it.
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
        sequences: ``shared`` alone: [B, longest] int64, the positions of input_ids that a trajectory is made of, any
            after its end.
        places: ``shared`` alone: [width] int64, flat index into ``sequences`` of one place of each position.
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
    sequences: Tensor | None = None
    places: Tensor | None = None

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


def split_over_ranks(
    items: Sequence[WeightedTrajectory], ranks: int, layout: str = "padded"
) -> list[list[WeightedTrajectory]]:
    """Deal trajectories to ranks so that token counts are even: longest first, to the rank with the least so far.

    ``shared`` deals all trajectories of a prompt together. Deterministic and computed alike on every rank from the same
    list.
    """
    shares: list[list[WeightedTrajectory]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    groups = _by_prompt(items) if layout == "shared" else [[item] for item in _longest_first(items)]
    for group in sorted(groups, key=lambda group: -_forwarded(group)):
        rank = load.index(min(load))
        shares[rank] += group
        load[rank] += _forwarded(group)
    return shares


def split_into_micro_batches(
    items: Sequence[WeightedTrajectory], token_budget: int, layout: str = "padded"
) -> list[list[WeightedTrajectory]]:
    """Group trajectories under a token budget; a trajectory longer than the budget makes a group of its own.

    The budget is of the tokens that the layers see: ``padded`` counts rows x longest, sorted by length, so little is
    padding; ``packed`` all tokens; ``shared`` every prompt once. There attention still sees rows x longest, at most
    twice the budget.
    """
    groups: list[list[WeightedTrajectory]] = []
    ordered = [own for group in _by_prompt(items) for own in group] if layout == "shared" else _longest_first(items)
    for item in ordered:
        group = [*groups[-1], item] if groups else [item]
        rows = len(group) * max(own.trajectory.total_tokens for own in group)
        if layout == "padded":
            fits = rows <= token_budget
        elif layout == "packed":
            fits = sum(own.trajectory.total_tokens for own in group) <= token_budget
        else:
            fits = _forwarded(group) <= token_budget and rows <= 2 * token_budget
        if groups and fits:
            groups[-1] = group
        else:
            groups.append([item])
    return groups


def _forwarded(items: Sequence[WeightedTrajectory]) -> int:
    """Number of tokens with each distinct prompt once."""
    prompts = {item.trajectory.prompt_tokens.tobytes(): len(item.trajectory.prompt_tokens) for item in items}
    return sum(prompts.values()) + sum(item.trajectory.length for item in items)


def _by_prompt(items: Iterable[WeightedTrajectory]) -> list[list[WeightedTrajectory]]:
    """Return the trajectories of each distinct prompt, longest first, in groups, that of the longest first."""
    groups: dict[bytes, list[WeightedTrajectory]] = {}
    for item in _longest_first(items):
        groups.setdefault(item.trajectory.prompt_tokens.tobytes(), []).append(item)
    return list(groups.values())


def _longest_first(items: Iterable[WeightedTrajectory]) -> list[WeightedTrajectory]:
    # sorted() is stable, so equal lengths keep the order of the batch: the split depends on nothing else
    return sorted(items, key=lambda item: -item.trajectory.total_tokens)


def _laid_out(trajectories: Sequence[Trajectory], layout: str) -> dict[str, Any]:
    """Return input_ids, position_ids and predictor of ``padded`` and ``packed`` rows."""
    sizes = [own.total_tokens for own in trajectories]
    rows, width = (len(sizes), max(sizes)) if layout == "padded" else (1, sum(sizes))
    starts = np.arange(rows) * width if layout == "padded" else np.cumsum([0, *sizes[:-1]])
    input_ids = np.zeros(rows * width, dtype=np.int64)
    positions = np.tile(np.arange(width), rows) if layout == "padded" else np.concatenate([np.arange(s) for s in sizes])
    predictor = []
    for start, size, own in zip(starts, sizes, trajectories, strict=True):
        input_ids[start : start + size] = np.concatenate([own.prompt_tokens, own.response_tokens])
        predictor.append(start + len(own.prompt_tokens) - 1 + np.arange(own.length))
    shape = {"input_ids": input_ids.reshape(rows, width), "position_ids": positions.reshape(rows, width)}
    return shape | {"predictor": np.concatenate(predictor)}


def _laid_out_shared(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Return one row of each distinct prompt and the responses to it, less their last tokens, which predict nothing."""
    longest = max(own.total_tokens - 1 for own in trajectories)
    sequences = np.zeros((len(trajectories), longest), dtype=np.int64)
    ids, positions, places, predictor = [], [], [], []
    starts: dict[bytes, int] = {}
    used = 0
    for row, own in enumerate(trajectories):
        length, read = len(own.prompt_tokens), own.response_tokens[:-1]
        key = own.prompt_tokens.tobytes()
        if key not in starts:
            starts[key] = used
            ids.append(own.prompt_tokens)
            positions.append(np.arange(length))
            places.append(row * longest + np.arange(length))
            used += length
        ids.append(read)
        positions.append(length + np.arange(len(read)))
        places.append(row * longest + length + np.arange(len(read)))
        made_of = np.concatenate([starts[key] + np.arange(length), used + np.arange(len(read))])
        sequences[row, : len(made_of)] = made_of
        predictor.append(made_of[length - 1 :])
        used += len(read)
    rows = {"input_ids": np.concatenate(ids)[None], "position_ids": np.concatenate(positions)[None]}
    return rows | {"predictor": np.concatenate(predictor), "sequences": sequences, "places": np.concatenate(places)}


def collate(
    items: Sequence[WeightedTrajectory], components: int, layout: str = "padded", dtype: torch.dtype = torch.float32
) -> MicroBatch:
    """Lay trajectories into the tensors of one forward pass.

    Args:
        items: B weighted trajectories.
        components: number of components of the method.
        layout: ``padded``, ``packed`` or ``shared``; the gradient is the same.
        dtype: of the weights (float64 in the invariance tests).

    Returns:
        The micro-batch, on CPU.
    """
    trajectories = [item.trajectory for item in items]
    laid_out = _laid_out_shared(trajectories) if layout == "shared" else _laid_out(trajectories, layout)
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
        **{name: torch.from_numpy(values.astype(np.int64)) for name, values in laid_out.items()},
        targets=concatenate((own.response_tokens for own in trajectories), torch.int64),
        trajectory=torch.from_numpy(np.repeat(np.arange(len(items)), lengths)),
        old_logprobs=concatenate((item.trajectory.old_logprobs for item in items), dtype),
        rewards=torch.tensor([item.trajectory.reward for item in items], dtype=dtype),
        parts=parts,
        entropy_scales=spread(item.entropy_scale for item in items),
        kl_scales=spread(item.kl_scale for item in items),
        has_bonus=any(item.entropy_scale for item in items),
        members=tuple(items),
    )
