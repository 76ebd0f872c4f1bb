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
    """Trajectories of 4 questions, padded to [B, L]: 16 rollouts, then 4 demonstrations for the rows ``offline``."""

    policy: Policy
    old_policy: Policy
    frozen_policy: Policy
    tokens: Tensor
    mask: Tensor
    question: np.ndarray
    rewards: np.ndarray
    values: Tensor
    is_demonstration: np.ndarray
    offline: frozenset[str] = frozenset(OFFLINE)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each trajectory, [B]."""
        return self.mask.sum(1).numpy()

    def laws(self, policy: Policy) -> Tensor:
        """Return log pi of every next token, [B, L, V]: a bigram network that also knows its question."""
        previous = torch.nn.functional.pad(self.tokens[:, :-1], (1, 0))
        hidden = torch.tanh(policy["embedding"][previous] + policy["question"][self.question][:, None])
        return torch.log_softmax(hidden @ policy["output"].T + policy["bias"], -1)

    def logprobs(self, policy: Policy) -> Tensor:
        """Return log pi of every token, [B, L], with gradient."""
        return self.laws(policy).gather(2, self.tokens[..., None]).squeeze(2)

    def entropies(self, policy: Policy) -> Tensor:
        """Return the exact entropy at every token, [B, L], nats."""
        log_p = self.laws(policy)
        return -(log_p.exp() * log_p).sum(-1)

    @cached_property
    def old_logprobs(self) -> Tensor:
        """log pi_old of every token, [B, L]."""
        return self.logprobs(self.old_policy)

    @cached_property
    def kl(self) -> Tensor:
        """log pi_old - log pi_frozen of every token, [B, L]."""
        return self.old_logprobs - self.logprobs(self.frozen_policy)

    def each(self, padded: Tensor, chosen: np.ndarray) -> list[np.ndarray]:
        """Return the numbers of some trajectories, [length] each."""
        return [padded[i][self.mask[i]].numpy() for i in chosen]

    def reordered(self, order: np.ndarray) -> "World":
        """Return the same trajectories in another order."""
        names = ("tokens", "mask", "question", "rewards", "values", "is_demonstration")
        return replace(self, **{name: getattr(self, name)[order] for name in names})


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
    lengths = rng.integers(2, LONGEST + 1, QUESTIONS * (ROLLOUTS + 1))
    mask = torch.arange(LONGEST) < torch.from_numpy(lengths)[:, None]
    tokens, values = torch.zeros(mask.shape, dtype=torch.int64), torch.zeros(mask.shape, dtype=torch.float64)
    tokens[mask] = torch.from_numpy(rng.integers(0, VOCABULARY, lengths.sum()))
    rollout_rewards = rng.permutation([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0]).tolist() + [0, 0, 0, 0]
    values[mask] = torch.from_numpy(rng.normal(0.5, 0.3, lengths.sum()))
    question = np.append(np.repeat(np.arange(QUESTIONS), ROLLOUTS), np.arange(QUESTIONS))
    rewards = np.array(rollout_rewards + [1, 1, 0, 1], float)
    is_demonstration = np.arange(len(lengths)) >= QUESTIONS * ROLLOUTS
    return World(policy, old, frozen, tokens, mask, question, rewards, values, is_demonstration)


def textbook_of(world: World, row: Row | None = None, policy: Policy | None = None) -> Textbook:
    """Return the world in the papers' symbols; a row says which tokens its batch mask drops."""
    policy, count = world.policy if policy is None else policy, QUESTIONS * ROLLOUTS

    def of_rollouts(values: Tensor) -> Tensor:
        return values[:count].view(QUESTIONS, ROLLOUTS, -1)

    logp, mask, entropy = world.logprobs(policy), world.mask.double(), world.entropies(policy)
    keep, rewards = None if row is None else kept_tokens(world, row), torch.from_numpy(world.rewards)
    return Textbook(
        logp=of_rollouts(logp), old=of_rollouts(world.old_logprobs), mask=of_rollouts(mask),
        entropy=of_rollouts(entropy), demo_logp=logp[count:], demo_mask=mask[count:], demo_entropy=entropy[count:],
        reward=rewards[:count].view(QUESTIONS, ROLLOUTS), demo_reward=rewards[count:], kl=of_rollouts(world.kl),
        values=of_rollouts(world.values), clipped=of_rollouts(~(torch.ones_like(world.mask) if keep is None else keep)),
        baseline=BASELINE, longest=LONGEST,
    )  # fmt: skip


def members(world: World, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Return (trajectories the row acts on, trajectories its advantage compares), as bool [B]."""
    acting = world.is_demonstration if row.name in world.offline else ~world.is_demonstration
    compared = np.ones_like(acting) if row.name in world.offline and row.advantage == "group" else acting
    return acting, compared


def row_advantages(world: World, row: Row) -> Tensor:
    """Return the advantage of every token, [B, L]; 0 where the row does not compare."""
    index = np.flatnonzero(members(world, row)[1])
    groups = RolloutGroups(
        world.rewards[index], world.question[index], world.is_demonstration[index], world.lengths[index],
        kl=world.each(world.kl, index), values=world.each(world.values, index), baseline=BASELINE,
    )  # fmt: skip
    result = torch.zeros_like(world.values)
    for i, values in zip(index, advantages(row, groups), strict=True):
        result[i, : len(values)] = torch.from_numpy(values)
    return result


def kept_tokens(world: World, row: Row) -> Tensor | None:
    """Return what a mask over the batch lets through, bool [B, L]; None for other rows."""
    if row.mask not in BATCH_MASKS:
        return None
    acting = np.flatnonzero(members(world, row)[0])
    kept = BATCH_MASKS[row.mask](
        row, world.each(world.old_logprobs, acting), world.each(row_advantages(world, row), acting), seed=0, step=3,
        problem_ids=[f"q{world.question[i]}" for i in acting], samples=[int(i) % ROLLOUTS for i in acting],
    )  # fmt: skip
    keep = torch.ones_like(world.mask)
    for i, array in zip(acting, kept, strict=True):
        keep[i, : len(array)] = torch.from_numpy(array)
    return keep


def streams_of(world: World, chosen: Sequence[int] | None = None, policy: Policy | None = None) -> TokenStreams:
    """Flatten some trajectories of the world, or all, into one micro-batch."""
    policy = world.policy if policy is None else policy
    chosen = list(range(len(world.tokens)) if chosen is None else chosen)
    mask = world.mask[chosen]
    sampled = torch.from_numpy(~world.is_demonstration)[:, None]  # a demonstration has no old log-probs
    logprobs, entropies, old = (values[chosen][mask] for values in (
        world.logprobs(policy), world.entropies(policy), world.old_logprobs * sampled))  # fmt: skip
    return TokenStreams(logprobs, entropies, old, torch.nonzero(mask)[:, 0], len(chosen))


def step_counts(world: World, row: Row) -> StepCounts:
    """Return the counts a row's aggregation divides by."""
    lengths = world.lengths[members(world, row)[0]]
    return StepCounts(
        QUESTIONS, ROLLOUTS, LONGEST, len(lengths), int(lengths.sum()), pooled_tokens=int(world.lengths.sum())
    )


def component_of(world: World, row: Row, chosen: Sequence[int] | None = None) -> Term:
    """Return the row on some trajectories of the world, or all, scaled by counts of the whole world."""
    chosen = list(range(len(world.tokens)) if chosen is None else chosen)
    mask, keep = world.mask[chosen], kept_tokens(world, row)
    scales = trajectory_scales(row.aggregation, world.lengths, step_counts(world, row)) * members(world, row)[0]
    return Term(
        row,
        row_advantages(world, row)[chosen][mask],
        torch.from_numpy(np.repeat(scales[chosen], world.lengths[chosen])),
        None if keep is None else keep[chosen][mask].double(),
        torch.from_numpy(world.rewards[chosen]),
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
