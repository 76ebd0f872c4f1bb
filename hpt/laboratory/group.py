"""One captured group of answers (`hpt.laboratory.capture`) and what each row of Table 1 does to its tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpt.laboratory.experiment import OFFLINE
from hpt.support.files import read_json
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.estimator import Row, unified_weights
from hpt.upge.reference import DENOMINATORS
from hpt.upge.row import TokenStreams
from hpt.upge.stabilization import MASKS

PATH = Path(__file__).with_name("group.json")


@dataclass(frozen=True, eq=False)
class Group:
    """The answers to one question, the demonstration last.

    Attributes:
        question, answer: as the model saw and as the verifier wants it.
        run, step: whose they are: sampled after ``step`` steps of ``run``.
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


def load_group(path: Path = PATH) -> Group:
    """Return the group in the package, or another.

    Example:
        >>> group = load_group()
        >>> int(group.is_demonstration.sum()), len(group.tokens) == len(group.rewards)
        (1, True)
    """
    content: dict[str, Any] = read_json(path)
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
        >>> from hpt.upge.estimator import ROWS
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
    found: list[list[np.ndarray | None]] = []
    for values in flat:
        pieces = dict(zip(index, np.split(values.numpy(), ends), strict=True))
        found.append([pieces.get(i) for i in range(len(acts))])
    return TokenParts(*found)
