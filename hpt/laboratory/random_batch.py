"""A tiny float64 policy and a random batch on which masks work on both sides.

`hpt.laboratory.table1` compares every row with its textbook loss here, and so do `tests/equations`;
`hpt.laboratory.checker` checks a user's algorithm on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hpt.laboratory.experiment import OFFLINE
from hpt.laboratory.textbook import Textbook
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.aggregation import StepCounts, trajectory_scales
from hpt.upge.estimator import Row, Term, upge_loss
from hpt.upge.row import TokenStreams
from hpt.upge.stabilization import BATCH_MASKS

VOCABULARY, WIDTH, QUESTIONS, ROLLOUTS, LONGEST = 7, 4, 4, 4, 9
BASELINE = 0.3
Policy = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class World:
    """Trajectories of 4 questions, made as 16 rollouts, then 4 demonstrations, on which rows ``offline`` act."""

    policy: Policy
    old_policy: Policy
    frozen_policy: Policy
    tokens: list[Tensor]
    question: np.ndarray
    rewards: np.ndarray
    values: list[np.ndarray]
    is_demonstration: np.ndarray
    offline: frozenset[str] = frozenset(OFFLINE)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each trajectory."""
        return np.array([len(tokens) for tokens in self.tokens])

    def token_laws(self, policy: Policy, index: int) -> Tensor:
        """Return log pi of every next token, [length, V]: a bigram network that also knows its question."""
        previous = torch.cat([torch.zeros(1, dtype=torch.int64), self.tokens[index][:-1]])
        hidden = torch.tanh(policy["embedding"][previous] + policy["question"][self.question[index]])
        return torch.log_softmax(hidden @ policy["output"].T + policy["bias"], -1)

    def logprobs(self, policy: Policy, index: int) -> Tensor:
        """Return log pi of a trajectory's tokens [length], with gradient."""
        return self.token_laws(policy, index).gather(1, self.tokens[index][:, None]).squeeze(1)

    def entropies(self, policy: Policy, index: int) -> Tensor:
        """Return the exact entropy at a trajectory's tokens [length], nats."""
        log_p = self.token_laws(policy, index)
        return -(log_p.exp() * log_p).sum(-1)

    @cached_property
    def old_logprobs(self) -> list[Tensor]:
        """log pi_old of each trajectory's tokens [length]."""
        return [self.logprobs(self.old_policy, i).detach() for i in range(len(self.tokens))]

    @cached_property
    def kl(self) -> list[Tensor]:
        """log pi_old - log pi_frozen of each trajectory's tokens [length]."""
        return [old - self.logprobs(self.frozen_policy, i).detach() for i, old in enumerate(self.old_logprobs)]

    def reordered(self, order: np.ndarray) -> "World":
        """Return the same trajectories in another order."""
        return replace(
            self, tokens=[self.tokens[i] for i in order], values=[self.values[i] for i in order],
            question=self.question[order], rewards=self.rewards[order], is_demonstration=self.is_demonstration[order],
        )  # fmt: skip


def make_world(seed: int) -> World:
    """Return the batch of a seed: sixteen rollouts, six of them right, and four demonstrations, three of them right."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    shapes = {
        "embedding": (VOCABULARY, WIDTH),
        "question": (QUESTIONS, WIDTH),
        "output": (VOCABULARY, WIDTH),
        "bias": (VOCABULARY,),
    }

    def drawn() -> Policy:
        return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}

    policy = {name: value.requires_grad_() for name, value in drawn().items()}
    old, frozen = ({name: policy[name].detach() + 0.4 * noise for name, noise in drawn().items()} for _ in range(2))
    trajectories = QUESTIONS * (ROLLOUTS + 1)
    lengths = rng.integers(2, LONGEST + 1, trajectories)
    tokens = [torch.from_numpy(rng.integers(0, VOCABULARY, length)) for length in lengths]
    rollout_rewards = rng.permutation([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0]).tolist() + [0, 0, 0, 0]
    values = [rng.normal(0.5, 0.3, length) for length in lengths]
    question = np.append(np.repeat(np.arange(QUESTIONS), ROLLOUTS), np.arange(QUESTIONS))
    rewards = np.array(rollout_rewards + [1, 1, 0, 1], float)
    is_demonstration = np.arange(trajectories) >= QUESTIONS * ROLLOUTS
    return World(policy, old, frozen, tokens, question, rewards, values, is_demonstration)


def textbook_of(world: World, row: Row | None = None, policy: Policy | None = None) -> Textbook:
    """Pad the world into what the papers' formulas are written in; a row says which tokens its batch mask drops."""
    policy = world.policy if policy is None else policy
    count, everyone = QUESTIONS * ROLLOUTS, range(len(world.tokens))

    def padded(streams: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        stacked = torch.stack([torch.nn.functional.pad(stream, (0, LONGEST - len(stream))) for stream in streams])
        return stacked[:count].view(QUESTIONS, ROLLOUTS, LONGEST), stacked[count:]

    logp, demo_logp = padded([world.logprobs(policy, i) for i in everyone])
    mask, demo_mask = padded([torch.ones(length, dtype=torch.float64) for length in world.lengths])
    entropy, demo_entropy = padded([world.entropies(policy, i) for i in everyone])
    keep = kept_tokens(world, row) if row is not None else None
    clipped = [~array for array in keep] if keep else [np.zeros(length, dtype=bool) for length in world.lengths]
    rewards = torch.from_numpy(world.rewards)
    return Textbook(
        logp=logp,
        old=padded(world.old_logprobs)[0],
        mask=mask,
        entropy=entropy,
        demo_logp=demo_logp,
        demo_mask=demo_mask,
        demo_entropy=demo_entropy,
        reward=rewards[:count].view(QUESTIONS, ROLLOUTS),
        demo_reward=rewards[count:],
        kl=padded(world.kl)[0],
        values=padded([torch.from_numpy(values) for values in world.values])[0],
        clipped=padded([torch.from_numpy(array) for array in clipped])[0],
        baseline=BASELINE,
        longest=LONGEST,
    )


def members(world: World, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Return (trajectories the row acts on, trajectories its advantage compares), as bool [B]."""
    acting = world.is_demonstration if row.name in world.offline else ~world.is_demonstration
    compared = np.ones_like(acting) if row.name in world.offline and row.advantage == "group" else acting
    return acting, compared


def row_advantages(world: World, row: Row) -> list[np.ndarray]:
    """Return the advantages of every token of every trajectory; zeros where the row does not compare."""
    index = np.flatnonzero(members(world, row)[1])
    groups = RolloutGroups(
        world.rewards[index], world.question[index], world.is_demonstration[index], world.lengths[index],
        kl=[world.kl[i].numpy() for i in index], values=[world.values[i] for i in index], baseline=BASELINE,
    )  # fmt: skip
    result = [np.zeros(length) for length in world.lengths]
    for i, values in zip(index, advantages(row, groups), strict=True):
        result[i] = values
    return result


def kept_tokens(world: World, row: Row) -> list[np.ndarray] | None:
    """Return what a mask over the batch lets through; None for other rows."""
    if row.mask not in BATCH_MASKS:
        return None
    acting = np.flatnonzero(members(world, row)[0])
    per_token = row_advantages(world, row)
    kept = BATCH_MASKS[row.mask](
        row, [world.old_logprobs[i].numpy() for i in acting], [per_token[i] for i in acting], seed=0, step=3,
        problem_ids=[f"q{world.question[i]}" for i in acting], samples=[int(i) % ROLLOUTS for i in acting],
    )  # fmt: skip
    keep = [np.ones(length, dtype=bool) for length in world.lengths]
    for i, array in zip(acting, kept, strict=True):
        keep[i] = array
    return keep


def streams_of(world: World, chosen: Sequence[int] | None = None, policy: Policy | None = None) -> TokenStreams:
    """Flatten some trajectories of the world, or all, into one micro-batch."""
    policy = world.policy if policy is None else policy
    chosen = list(range(len(world.tokens)) if chosen is None else chosen)
    old = [world.old_logprobs[i] * float(not world.is_demonstration[i]) for i in chosen]  # a demonstration has none
    return TokenStreams(
        logprobs=torch.cat([world.logprobs(policy, i) for i in chosen]),
        entropies=torch.cat([world.entropies(policy, i) for i in chosen]),
        old_logprobs=torch.cat(old),
        trajectory=torch.repeat_interleave(torch.arange(len(chosen)), torch.from_numpy(world.lengths[chosen])),
        trajectories=len(chosen),
    )


def step_counts(world: World, row: Row) -> StepCounts:
    """Return the counts a row's aggregation divides by."""
    lengths = world.lengths[members(world, row)[0]]
    return StepCounts(
        QUESTIONS, ROLLOUTS, LONGEST, len(lengths), int(lengths.sum()), pooled_tokens=int(world.lengths.sum())
    )


def component_of(world: World, row: Row, chosen: Sequence[int] | None = None) -> Term:
    """Return the row on some trajectories of the world, or all, scaled by counts of the whole world."""
    chosen = list(range(len(world.tokens)) if chosen is None else chosen)
    scales = trajectory_scales(row.aggregation, world.lengths, step_counts(world, row)) * members(world, row)[0]
    per_token, keep = row_advantages(world, row), kept_tokens(world, row)
    return Term(
        row=row,
        advantages=torch.from_numpy(np.concatenate([per_token[i] for i in chosen])),
        scales=torch.from_numpy(np.repeat(scales[chosen], world.lengths[chosen])),
        keep=None if keep is None else torch.from_numpy(np.concatenate([keep[i] for i in chosen])).double(),
        rewards=torch.from_numpy(world.rewards[chosen]),
    )


def upge_gradient(world: World, rows: Sequence[Row], splits: Sequence[Sequence[int]] | None = None) -> Tensor:
    """Return the gradient of the package's loss over all parameters, flat; summed over micro-batches given."""
    gradients = []
    for chosen in splits or [range(len(world.tokens))]:
        terms = [component_of(world, row, chosen) for row in rows]
        gradients.append(flat_gradient(upge_loss(streams_of(world, chosen), terms).loss, world.policy))
    return torch.stack(gradients).sum(0)


def flat_gradient(loss: Tensor, policy: Policy) -> Tensor:
    """Return the gradient of a loss over all parameters, flat."""
    gradients = torch.autograd.grad(loss, list(policy.values()), materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return max |a - b| / max |b|."""
    return float((a - b).abs().max() / b.abs().max())
