"""A mixed SFT+RL step, and its loss written out by hand in plain PyTorch: nothing here touches `hpt.upge`.

The batch holds what breaks implementations: a group of near-identical rollouts (whose gradients cancel), clips active
on both sides, an all-zero group, unequal lengths, and a question with rollouts and demonstration at once.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hpt.config.run_config import RunConfig
from hpt.methods.methods import method_named, resolved_row
from hpt.methods.mixture import DEMONSTRATION, Part, QuestionBatch, Trajectory, WeightedTrajectory, assemble
from hpt.runs.resolve import build_config
from hpt.training.policy import split_into_micro_batches, split_over_ranks
from hpt.upge.estimator import Row

VOCABULARY = 23
ROLLOUTS = 4
LIMIT = 64
EPS = 0.2
#: The bound of design and issue: float32 against float64, as a share of the sum of the trajectories' gradient norms.
FLOAT32_BOUND = 1e-6
FLOAT64_BOUND = 1e-12
NORMALIZATIONS = ("per_prompt", "paper", "released")


def tiny_model() -> nn.Module:
    """A small Qwen2 with weights large enough that its log-probs depend on what it reads."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    return Qwen2ForCausalLM(shape).float()


def in_float64(model: nn.Module) -> nn.Module:
    """The same weights in float64 throughout: the norms of transformers round to float32 whatever their input."""
    model = copy.deepcopy(model).double()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm") and hasattr(child, "variance_epsilon"):
                norm = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=torch.float64)
                norm.weight = cast(nn.Parameter, child.weight)
                setattr(module, name, norm)
    return model


def config_for(normalization: str, **settings: Any) -> RunConfig:
    """HPT with a clip, a std, and no constant at 1, so that a forgotten factor shows."""
    chosen = {
        "estimator.normalization": normalization,
        "estimator.sft_coefficient": 0.3,
        "estimator.rl_coefficient": 1.7,
        "estimator.entropy_coefficient": 0.01,
        "estimator.released_ranks": 3,
        "estimator.released_micro_batches": 2,
        "rollout.rollouts_per_prompt": ROLLOUTS,
        "schedule.updates_per_step": 1,
        "optimizer.gradient_clip": 0.0,
        "optimizer.skip_above_norm": 0.0,
    }
    return build_config("hpt", scale="tiny", recipe="paper", settings=chosen | settings)


def response_logprobs(model: nn.Module, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
    """(log pi [len], entropy [len]) of one trajectory alone, from the model as transformers ships it."""
    tokens = torch.from_numpy(np.concatenate([trajectory.prompt_tokens, trajectory.response_tokens]).astype(np.int64))
    logits = model(input_ids=tokens[None], use_cache=False).logits[0]
    table = logits[len(trajectory.prompt_tokens) - 1 : -1].log_softmax(-1)
    response = tokens[len(trajectory.prompt_tokens) :]
    return table.gather(1, response[:, None])[:, 0], -(table.exp() * table).sum(-1)


def make_questions(kind: str = "mixed") -> list[QuestionBatch]:
    """The graded questions of one step. ``lonely``: one demonstration longer than everything else together."""
    random = np.random.default_rng(5)
    model = in_float64(tiny_model())

    def tokens(count: int) -> np.ndarray:
        return random.integers(3, VOCABULARY, count).astype(np.int32)

    def trajectory(index: int, sample: int, prompt: np.ndarray, response: np.ndarray, reward: float) -> Trajectory:
        zeros = np.zeros(len(response), dtype=np.float32)
        made = Trajectory(f"q{index}", index, sample, prompt, response, zeros, reward, 0)
        if sample == DEMONSTRATION:
            return made
        with torch.no_grad():  # away from the current policy, on both sides of the clip and never at its edge
            current = response_logprobs(model, made)[0].numpy()
        shift = random.choice([-0.4, -0.3, -0.1, 0.0, 0.1, 0.3, 0.4], len(response))
        old = (current - shift).astype(np.float32)
        return Trajectory(f"q{index}", index, sample, prompt, response, old, reward, 0)

    def question(
        index: int, lengths: Sequence[int], rewards: Sequence[float], alpha: float, beta: float,
        demonstration: int = 0, same: bool = False,
    ) -> QuestionBatch:  # fmt: skip
        prompt = tokens(int(random.integers(2, 7)))
        responses = [tokens(length) for length in lengths]
        if same:  # near-identical: only the last token differs
            responses = [np.append(responses[0][:-1], tokens(1)).astype(np.int32) for _ in responses]
        rollouts = tuple(
            trajectory(index, sample, prompt, response, reward)
            for sample, (response, reward) in enumerate(zip(responses, rewards, strict=True))
        )
        shown = trajectory(index, DEMONSTRATION, prompt, tokens(demonstration), 1.0) if demonstration else None
        return QuestionBatch(f"q{index}", rollouts, shown, alpha, beta)

    if kind == "lonely":
        return [
            question(0, (2, 3, 4, 2), (0, 0, 0, 0), 0.0, 1.0, demonstration=60),
            question(1, (2, 1, 3, 2), (1, 0, 1, 0), 1.0, 0.0, demonstration=3),
            question(2, (3, 2, 2, 1), (1, 1, 0, 1), 1.0, 0.0),
        ]
    return [
        question(0, (9, 4, 7, 12), (0, 0, 0, 0), 0.0, 1.0, demonstration=14),
        question(1, (12, 12, 12, 12), (1, 0, 1, 0), 1.0, 0.0, demonstration=5, same=True),
        question(2, (6, 3, 8, 5), (1, 1, 1, 1), 1.0, 0.0, demonstration=6),  # weighs nothing
        question(3, (1, 5, 9, 20), (1, 0, 0, 0), 1.0, 0.0),
        question(4, (4, 4, 2, 3), (0, 0, 0, 0), 0.0, 1.0, demonstration=3),
        question(5, (10, 2, 7, 16), (1, 1, 1, 0), 0.25, 0.75, demonstration=11),  # a soft gate: both at once
    ]


def literal_losses(
    model: nn.Module, questions: Sequence[QuestionBatch], config: RunConfig, frozen: nn.Module | None = None
) -> list[Tensor]:
    """Each trajectory's own part of the step's loss, in the words of the paper; their sum is the loss."""
    settings, count = config.estimator, len(questions)
    demonstration_tokens = sum(
        question.demonstration.length for question in questions if question.beta > 0 and question.demonstration
    )
    per_rollout = {
        "paper": 1 / (count * ROLLOUTS),
        "per_prompt": 1 / (count * ROLLOUTS * LIMIT),
        "released": 1 / (3 * LIMIT),
    }[settings.normalization]
    losses: list[Tensor] = []
    trained: list[int] = []
    entropies: list[Tensor] = []

    def add(loss: Tensor, entropy: Tensor, weighs: bool) -> None:
        if weighs:
            trained.append(len(losses))
        losses.append(loss)
        entropies.append(entropy)

    for question in questions:
        rewards = np.array([rollout.reward for rollout in question.rollouts])
        mean, std = rewards.mean(), rewards.std(ddof=1)
        for rollout in question.rollouts if question.alpha > 0 else ():
            advantage = float((rollout.reward - mean) / (std + 1e-6)) if std > 0 else 0.0
            logprobs, entropy = response_logprobs(model, rollout)
            ratio = (logprobs - torch.from_numpy(rollout.old_logprobs).to(logprobs.dtype)).exp()
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - EPS, 1 + EPS) * advantage)
            loss = -settings.rl_coefficient * question.alpha * per_rollout * surrogate.sum()
            if frozen is not None:
                with torch.no_grad():
                    difference = response_logprobs(frozen, rollout)[0]
                difference = difference - logprobs
                loss = loss + settings.kl_coefficient * per_rollout * (difference.exp() - difference - 1).sum()
            add(loss, entropy.sum(), advantage != 0)
        if question.beta > 0 and question.demonstration is not None:
            logprobs, entropy = response_logprobs(model, question.demonstration)
            per_token = {
                "paper": 1 / (count * question.demonstration.length),
                "per_prompt": 1 / (count * LIMIT),
                "released": 2 / demonstration_tokens,
            }[settings.normalization]
            loss = -settings.sft_coefficient * question.beta * per_token * logprobs.sum()
            add(loss, entropy.sum(), True)
    scope = trained if settings.entropy_scope == "trained" else range(len(losses))
    tokens = sum(lengths_of(questions)[index] for index in scope)
    for index in scope:
        losses[index] = losses[index] - settings.entropy_coefficient / tokens * entropies[index]
    return losses


def lengths_of(questions: Iterable[QuestionBatch]) -> list[int]:
    """Lengths of the trajectories the method keeps, in the order of `literal_losses`."""
    lengths = []
    for question in questions:
        lengths += [rollout.length for rollout in question.rollouts] if question.alpha > 0 else []
        lengths += [question.demonstration.length] if question.beta > 0 and question.demonstration else []
    return lengths


def literal_gradient(
    questions: Sequence[QuestionBatch], config: RunConfig, frozen: nn.Module | None = None
) -> tuple[Tensor, float]:
    """(g64 [P], sum over trajectories of ||g_i||): float64 autograd, each trajectory by itself."""
    model = in_float64(tiny_model())
    parts = []
    for loss in literal_losses(model, questions, config, frozen):
        gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, materialize_grads=True)
        parts.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(parts).sum(0), float(sum(part.norm() for part in parts))


def measure(gradient: Tensor, reference: tuple[Tensor, float]) -> float:
    """||g - g64|| as a share of sum_i ||g_i||: near-identical rollouts cancel, so a bound relative to g is wrong."""
    return float((gradient.double() - reference[0]).norm()) / reference[1]


def weighted(questions: Sequence[QuestionBatch], config: RunConfig) -> tuple[list[WeightedTrajectory], list[Row]]:
    """What the package makes of the questions: (weighted trajectories of the one update, rows)."""
    method = method_named("hpt")
    (items,) = assemble(questions, method, config, step=0).updates
    return list(items), [resolved_row(component, config) for component in method.components]


def with_weightless(items: list[WeightedTrajectory], questions: Sequence[QuestionBatch]) -> list[WeightedTrajectory]:
    """The items and, among them, the trajectories that were left out because they weigh nothing."""
    kept = {id(item.trajectory) for item in items}
    left_out = [
        WeightedTrajectory(rollout, (Part(0, np.zeros(rollout.length), 0.125),))
        for question in questions
        for rollout in question.rollouts
        if question.alpha > 0 and id(rollout) not in kept
    ]
    assert left_out, "the batch has no all-zero group"
    return items[:3] + left_out + items[3:]


def token_budget(items: Sequence[WeightedTrajectory], micro_batches: int | None, ranks: int, layout: str) -> int:
    """A budget under which the busiest rank has so many micro-batches; None: a trajectory each."""
    if micro_batches is None:
        return 1
    shares = split_over_ranks(items, ranks, layout)
    for budget in range(5000, 0, -1):
        if max(len(split_into_micro_batches(share, budget, layout)) for share in shares) == micro_batches:
            return budget
    raise AssertionError(f"no token budget gives {micro_batches} micro-batches")


def flat(named: Iterable[tuple[str, Tensor]]) -> Tensor:
    """Values of all parameters, one after the other."""
    return torch.cat([value.detach().flatten().clone() for _, value in named])
