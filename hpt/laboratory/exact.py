"""Policies small enough to list every trajectory: expectations are sums, and nothing has to be sampled.

Letters: V vocabulary, L longest trajectory, K trajectories, M prefixes (states), D parameters. A policy is a table of
logits [M, V] computed from one flat parameter vector, so a gradient is a vector [D] and a per-token quantity is a
number per (prefix, token). Everything is float64.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from hpt.support.errors import ConfigError

#: More trajectories than this are refused: Jacobians [M V, D] would no longer fit in a laptop's memory.
MAX_TRAJECTORIES = 4096
END_TOKEN = 0
#: Rows of a Jacobian computed at once; more no longer fit in the cache and are slower.
SCORE_CHUNK = 64


@dataclass(frozen=True, eq=False)
class TrajectorySpace:
    """All trajectories of at most ``length`` tokens; with ``ends``, token 0 ends one early.

    Attributes:
        vocabulary: V.
        length: L.
        ends: whether token 0 is an end token; without it every trajectory has L tokens.
        tokens: [K, L] int64, zeros behind the end.
        mask: [K, L] float64, 1 on tokens.
        state: [K, L] int64, index of the prefix that precedes each token.
        prefixes: the M prefixes, shortest first.

    Example:
        >>> space = TrajectorySpace.of(vocabulary=3, length=2)
        >>> len(space.tokens), len(space.prefixes)
        (7, 3)
    """

    vocabulary: int
    length: int
    ends: bool
    tokens: Tensor
    mask: Tensor
    state: Tensor
    prefixes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, vocabulary: int = 4, length: int = 3, ends: bool = True) -> TrajectorySpace:
        """Enumerate; see the class."""
        if vocabulary**length > MAX_TRAJECTORIES:
            raise ConfigError(
                "vocabulary ** length", vocabulary**length, f"at most {MAX_TRAJECTORIES}", "choose a smaller space"
            )
        inner = range(1, vocabulary) if ends else range(vocabulary)
        prefixes = tuple(prefix for size in range(length) for prefix in itertools.product(inner, repeat=size))
        index = {prefix: position for position, prefix in enumerate(prefixes)}
        trajectories = [prefix + (END_TOKEN,) for prefix in prefixes] if ends else []
        trajectories += list(itertools.product(inner, repeat=length))
        tokens = torch.zeros(len(trajectories), length, dtype=torch.int64)
        mask = torch.zeros(len(trajectories), length, dtype=torch.float64)
        state = torch.zeros_like(tokens)
        for row, trajectory in enumerate(trajectories):
            tokens[row, : len(trajectory)] = torch.tensor(trajectory)
            mask[row, : len(trajectory)] = 1.0
            state[row, : len(trajectory)] = torch.tensor([index[trajectory[:t]] for t in range(len(trajectory))])
        return cls(vocabulary, length, ends, tokens, mask, state, prefixes)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each trajectory, [K] int64."""
        return self.mask.sum(1).long()

    @cached_property
    def pair(self) -> Tensor:
        """Index of each token's (prefix, token) pair, [K, L] int64 in 0..MV-1; 0 behind the end, where mask is 0."""
        return (self.state * self.vocabulary + self.tokens) * self.mask.long()

    @cached_property
    def incidence(self) -> Tensor:
        """How often each trajectory goes through each (prefix, token) pair, [K, MV] of 0 and 1."""
        counts = torch.zeros(len(self), len(self.prefixes) * self.vocabulary, dtype=torch.float64)
        return counts.scatter_add_(1, self.pair, self.mask)

    def index(self, trajectory: tuple[int, ...]) -> int:
        """Return the position of a trajectory, given with its end token."""
        rows = [tuple(row[:size].tolist()) for row, size in zip(self.tokens, self.lengths, strict=True)]
        return rows.index(tuple(trajectory))


class ExactPolicy(Protocol):
    """A policy on a `TrajectorySpace`: a differentiable map from a flat parameter vector to logits."""

    @property
    def space(self) -> TrajectorySpace:
        """The trajectories."""
        ...

    @property
    def size(self) -> int:
        """D, number of parameters."""
        ...

    def logits(self, parameters: Tensor) -> Tensor:
        """Return the logits [M, V] at every prefix."""
        ...


@dataclass(frozen=True, eq=False)
class TabularPolicy:
    """Softmax with a logit of its own for every prefix and token: any law on trajectories can be represented."""

    space: TrajectorySpace

    @property
    def size(self) -> int:
        """D = M V."""
        return len(self.space.prefixes) * self.space.vocabulary

    def logits(self, parameters: Tensor) -> Tensor:
        """Return the parameters as a table [M, V]."""
        return parameters.view(len(self.space.prefixes), self.space.vocabulary)

    def parameters_of(self, probabilities: Tensor) -> Tensor:
        """Return parameters whose policy has exactly these trajectory probabilities.

        Args:
            probabilities: [K], positive, summing to 1.

        Returns:
            [D]: log of the conditional probability of every token given its prefix.

        Example:
            >>> space = TrajectorySpace.of(3, 2)
            >>> wanted = torch.full((7,), 1 / 7, dtype=torch.float64)
            >>> policy = TabularPolicy(space)
            >>> torch.allclose(trajectory_logprobs(policy, policy.parameters_of(wanted)).exp(), wanted)
            True
        """
        through = probabilities @ self.space.incidence
        table = through.view(len(self.space.prefixes), self.space.vocabulary)
        return (table / table.sum(1, keepdim=True)).log().flatten()


class TransformerPolicy:
    """A small causal transformer over the same prefixes; its parameters are shared between them, as a language model's.

    Args:
        space: the trajectories.
        width: hidden size.
        layers, heads: of the encoder.
    """

    def __init__(self, space: TrajectorySpace, width: int = 8, layers: int = 1, heads: int = 2) -> None:
        self.space = space
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.module = nn.ModuleDict(
            {
                "tokens": nn.Embedding(space.vocabulary + 1, width),  # the last one begins every prefix
                "positions": nn.Embedding(space.length, width),
                "body": nn.TransformerEncoder(layer, layers, enable_nested_tensor=False),
                "head": nn.Linear(width, space.vocabulary),
            }
        ).double()
        begin = space.vocabulary
        self._inputs = torch.full((len(space.prefixes), space.length), begin, dtype=torch.int64)
        for row, prefix in enumerate(space.prefixes):
            self._inputs[row, 1 : 1 + len(prefix)] = torch.tensor(prefix, dtype=torch.int64)
        self._last = torch.tensor([len(prefix) for prefix in space.prefixes])

    @property
    def size(self) -> int:
        """D."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def logits(self, parameters: Tensor) -> Tensor:
        """Return [M, V]; causal attention, so what stands behind a prefix does not matter."""
        named, start = {}, 0
        for name, parameter in self.module.named_parameters():
            named[name] = parameters[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()

        def run(part: str, *inputs: Tensor, **options: Tensor | bool) -> Tensor:
            own = {name.removeprefix(f"{part}."): value for name, value in named.items() if name.startswith(f"{part}.")}
            return torch.func.functional_call(self.module[part], own, inputs, options)

        hidden = run("tokens", self._inputs) + run("positions", torch.arange(self.space.length))
        causal = nn.Transformer.generate_square_subsequent_mask(self.space.length, dtype=torch.float64)
        hidden = run("body", hidden, mask=causal, is_causal=True)
        return run("head", hidden[torch.arange(len(hidden)), self._last])


def token_logprobs(policy: ExactPolicy, parameters: Tensor) -> Tensor:
    """Return log pi(token | prefix) of every (prefix, token) pair, [MV]; carries the gradient."""
    return torch.log_softmax(policy.logits(parameters), -1).flatten()


def token_entropies(policy: ExactPolicy, parameters: Tensor) -> Tensor:
    """Return the exact entropy of the next token at every prefix, [M], nats."""
    logprobs = torch.log_softmax(policy.logits(parameters), -1)
    return -(logprobs.exp() * logprobs).sum(-1)


def trajectory_logprobs(policy: ExactPolicy, parameters: Tensor) -> Tensor:
    """Return log pi(trajectory) of all trajectories, [K]; their probabilities sum to 1.

    Example:
        >>> policy = TabularPolicy(TrajectorySpace.of(3, 2))
        >>> float(trajectory_logprobs(policy, random_parameters(policy, seed=0)).exp().sum())
        1.0
    """
    return policy.space.incidence @ token_logprobs(policy, parameters)


def token_scores(policy: ExactPolicy, parameters: Tensor) -> Tensor:
    """Return grad log pi of every (prefix, token) pair, [MV, D]; every estimator's gradient is weights times this."""
    leaf = parameters.detach().clone().requires_grad_()
    logprobs = token_logprobs(policy, leaf)
    chunks = torch.eye(len(logprobs), dtype=torch.float64).split(SCORE_CHUNK)
    scores = [
        torch.autograd.grad(logprobs, leaf, chunk, retain_graph=True, is_grads_batched=True)[0] for chunk in chunks
    ]
    return torch.cat(scores)


def random_parameters(policy: ExactPolicy, seed: int, spread: float = 1.0) -> Tensor:
    """Return parameters [D] drawn from a normal law with standard deviation ``spread``."""
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(policy.size, generator=generator, dtype=torch.float64)
