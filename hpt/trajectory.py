"""What was drawn, and what is trained on: a response to a prompt, and the same with everything that weighs it."""

from dataclasses import dataclass

import numpy as np

#: `Trajectory.sample` of a demonstration.
DEMONSTRATION = -1


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One response to one prompt: a rollout of the policy, or the demonstration.

    Attributes:
        problem_id: id of the question.
        prompt_index: position of the question in the rollout batch, 0..N-1.
        sample: 0..n-1 for rollouts, `DEMONSTRATION` for the demonstration.
        prompt_tokens: [P] int32 token ids.
        response_tokens: [len] int32 token ids, the end token included when it was produced.
        old_logprobs: [len] float32 log pi_old as reported by whoever sampled; zeros for a demonstration.
        reward: R of Eq. 7, 0.0 or 1.0.
        policy_version: number of updates the sampling weights had seen; -1 for a demonstration.
        reference_logprobs: [len] float32 log-probs of the frozen initial policy, where a KL term in the advantage
            needs them.
        truncated: whether the sampler stopped it at the length limit; a model may have several end tokens, so the last
            token does not tell.
    """

    problem_id: str
    prompt_index: int
    sample: int
    prompt_tokens: np.ndarray
    response_tokens: np.ndarray
    old_logprobs: np.ndarray
    reward: float
    policy_version: int
    reference_logprobs: np.ndarray | None = None
    truncated: bool = False

    @property
    def is_demonstration(self) -> bool:
        """Whether this is the demonstration of its question."""
        return self.sample == DEMONSTRATION

    @property
    def length(self) -> int:
        """Number of response tokens."""
        return len(self.response_tokens)

    @property
    def total_tokens(self) -> int:
        """Prompt and response tokens together: what a forward pass costs."""
        return len(self.prompt_tokens) + len(self.response_tokens)


@dataclass(frozen=True, eq=False)
class Part:
    """What one component (row) of the method does to one trajectory.

    Attributes:
        component: index of the component in the method.
        advantages: [len] float64, per token.
        scale: aggregation scale x coefficient x (alpha or beta), a number.
        keep: [len] bool, tokens the mask lets through whatever the ratio (Clip-Cov); None = all.
    """

    component: int
    advantages: np.ndarray
    scale: float
    keep: np.ndarray | None = None

    @property
    def is_zero(self) -> bool:
        """Whether the part can have no gradient: Eq. 6's weight is a product, so one zero factor is enough."""
        return self.scale == 0.0 or not np.any(self.advantages)


@dataclass(frozen=True, eq=False)
class WeightedTrajectory:
    """A trajectory with everything that weighs it in the loss of one optimiser step.

    ``entropy_scale`` is the per-token factor of the entropy bonus, ``kl_scale`` that of the KL term; 0 = outside.
    """

    trajectory: Trajectory
    parts: tuple[Part, ...]
    entropy_scale: float = 0.0
    kl_scale: float = 0.0

    @property
    def is_zero(self) -> bool:
        """Whether a forward and backward pass would add exactly nothing to the gradient."""
        return self.entropy_scale == 0.0 and self.kl_scale == 0.0 and all(part.is_zero for part in self.parts)
