"""Measure the rows of Table 1 on a finished run of a real small model, without changing the run.

    python -m benchmarks.checkpoint_error runs/mini/hpt-strong-s1000-0123456789ab --base runs/mini/pretrain-.../model

measures bias, variance and error (Section 2.3) from gradients at the base, at the checkpoints the run kept and at its
final weights, into `hpt/laboratory/checkpoints.json`. `notebooks/checkpoint_error.ipynb` shows it.

    python -m benchmarks.checkpoint_error runs/mini/hpt-strong-s1000-0123456789ab

captures one group of answers from the run's next step (`capture`) as `hpt/laboratory/group.json`, so that
`hpt.laboratory.table1` can show Table 1's rows on real tokens. Both files name their run.

The true gradient t = E[r grad log pi] of a question is not known here; it is estimated from many rollouts, in two
halves. With s_i = grad log pi of rollout i, every row on fresh rollouts is g = sum_i c_i s_i with c from rewards and
lengths alone (ratios are 1, so that masks and denominators do nothing), so all its moments follow from the products
s_i . s_j. Products that noise would enlarge are taken *between* the halves: they are unbiased, and those of the truth
with itself, halves against each other, say how well it is known.
"""

import argparse
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpt.data.models import load_tokenizer
from hpt.laboratory.errors import CHECKPOINTS
from hpt.laboratory.experiment import group_terms
from hpt.laboratory.table1 import GROUP
from hpt.methods.mixture import Trajectory, WeightedTrajectory, assemble
from hpt.rewards.workers import Verifier
from hpt.runs.folder import RunFolder, check, source_commit
from hpt.runs.job import encoded_training
from hpt.support.errors import HptError
from hpt.training.checkpoint import checkpoints
from hpt.training.engine import PolicyEngine
from hpt.training.policy import collate, forward_micro_batch, load_model
from hpt.training.sampler import Sampler
from hpt.training.trainer import Trainer, grade_demonstrations
from hpt.upge.estimator import ROWS, weights_mask_ratio
from hpt.upge.row import TokenStreams

#: Rows that act on rollouts and, on fresh ones, differ: DAPO's is CISPO's too, GRPO's also GSPO's and without clipping.
ON_ROLLOUTS = ("grpo", "dr_grpo", "dapo", "reinforce", "rloo", "reinforce_plus_plus")
#: Rows on the demonstration; each weighs tokens in its way.
ON_DEMONSTRATION = ("sft", "dft", "luffy_offline", "offline_unshaped")
#: Questions, and rollouts of each half.
QUESTIONS, HALF = 8, 64
#: Draws of n rollouts from a half.
DRAWS = 400


@dataclass(frozen=True, eq=False)
class Half:
    """One half of a question's N rollouts: rewards [N], lengths [N] and scores [N + 4, D] float32.

    The scores are s_i of the rollouts, then of the demonstration under each of `ON_DEMONSTRATION`.
    """

    scores: Tensor
    rewards: np.ndarray
    lengths: np.ndarray


def coefficients(
    row_name: str, half: Half, demonstration_length: int, n: int, longest: int, seed: int, draws: int = DRAWS
) -> Tensor:
    """Return c of a row on draws of n rollouts from a half and the demonstration, [draws, N + 4]: g = c @ scores.

    The demonstration counts as right, whatever its answer; compared with rollouts it takes the place of one. Draws are
    the same for every row; ``longest`` is the largest response length.
    """
    row, count = ROWS[row_name], len(half.rewards)
    generator = np.random.default_rng(seed)
    result = torch.zeros(draws, count + len(ON_DEMONSTRATION), dtype=torch.float64)
    offline = row_name in ON_DEMONSTRATION
    for draw in range(draws):
        chosen = generator.choice(count, n, replace=False)
        compared = [] if offline and row.advantage == "one" else list(chosen[offline:])
        rewards = np.append(half.rewards[compared], 1.0) if offline else half.rewards[compared]
        lengths = np.append(half.lengths[compared], demonstration_length) if offline else half.lengths[compared]
        is_demonstration = (np.arange(len(rewards)) == len(rewards) - 1) & offline
        acting = is_demonstration if offline else ~is_demonstration
        per_token, scales = group_terms(row, rewards, lengths, is_demonstration, acting, n, longest)
        # without values and KL an advantage is the same for all tokens of a trajectory
        values = np.array([advantage[0] for advantage in per_token]) * scales
        places = [count + ON_DEMONSTRATION.index(row_name)] if offline else list(compared)
        result[draw, places] = torch.from_numpy(values[acting])
    return result


def truth_coefficients(half: Half) -> Tensor:
    """Return c of the estimated true gradient, [N + 4]: rewards minus the mean of the others, unbiased."""
    rewards = torch.from_numpy(half.rewards.astype(np.float64))
    count = len(rewards)
    others = (rewards.sum() - rewards) / (count - 1)
    return torch.cat([(rewards - others) / count, torch.zeros(len(ON_DEMONSTRATION), dtype=torch.float64)])


def question_lines(
    halves: Sequence[Half], demonstration_length: int, n: int, longest: int, draws: int = DRAWS
) -> list[dict[str, Any]]:
    """Return the four sums of `hpt.laboratory.errors.derived` of every row on one question."""
    first, second = halves
    within = [(half.scores @ half.scores.T).double() for half in halves]
    between = (first.scores @ second.scores.T).double()
    truths = [truth_coefficients(half) for half in halves]
    size = float(truths[0] @ between @ truths[1])
    noise = [float(t @ gram @ t) for t, gram in zip(truths, within, strict=True)]
    lines = []
    for name in (*ON_ROLLOUTS, *ON_DEMONSTRATION):
        drawn = [coefficients(name, half, demonstration_length, n, longest, seed, draws)
                 for seed, half in enumerate(halves)]  # fmt: skip
        means = [c.mean(0) for c in drawn]
        squares = [float(((c @ gram) * c).sum(1).mean()) for c, gram in zip(drawn, within, strict=True)]
        along = (float(means[0] @ between @ truths[1]) + float(truths[0] @ between @ means[1])) / 2
        lines.append({
            "row": name, "along": along, "mean_square": float(means[0] @ between @ means[1]),
            "square": float(np.mean(squares)), "size": size, "truth_square": float(np.mean(noise)),
            "tokens": 1.0, "masked_tokens": 0.0,
        })  # fmt: skip
    return lines


def trajectory_gradient(module: Any, trajectory: Trajectory, weights: Tensor | None = None) -> Tensor:
    """Return sum_t w_t grad log pi_t of a trajectory, float32 [D]; weights are 1 where none are given."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    batch = collate([WeightedTrajectory(trajectory, ())], 0)
    logprobs, _ = forward_micro_batch(module, batch, "padded", 1.0)
    value = logprobs.sum() if weights is None else (weights.to(logprobs.dtype) * logprobs).sum()
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def demonstration_gradients(module: Any, demonstration: Trajectory) -> Tensor:
    """Return the demonstration's gradient under the weights of each of `ON_DEMONSTRATION` with advantage 1, [4, D]."""
    batch = collate([WeightedTrajectory(demonstration, ())], 0)
    with torch.no_grad():
        logprobs, entropies = forward_micro_batch(module, batch, "padded", 1.0)
    owner = torch.zeros(len(logprobs), dtype=torch.int64)
    streams = TokenStreams(logprobs.double(), entropies.double(), torch.zeros(len(logprobs)).double(), owner, 1)
    ones = torch.ones(len(logprobs), dtype=torch.float64)
    weights = [weights_mask_ratio(ROWS[name], streams, ones)[0] for name in ON_DEMONSTRATION]
    return torch.stack([trajectory_gradient(module, demonstration, weight) for weight in weights])


def measure(trainer: Trainer, half: int) -> list[dict[str, Any]]:
    """Return `question_lines` of `QUESTIONS` over the range of P, at the weights the trainer holds."""
    n, longest = trainer.config.rollout.rollouts_per_prompt, trainer.config.rollout.max_response_tokens
    # whatever version they are of: they were put into the engine by `_load`, not by updates
    trainer.sampler.load_weights(trainer.engine.named_weights(), trainer.state.version)
    candidates = trainer.questions(0)
    drawn = _draw(trainer, candidates, 100_000, 1)
    order = sorted(range(len(candidates)), key=lambda i: (np.mean([rollout.reward for rollout in drawn[i]]), i))
    # evenly over the order of P, so that hard and easy ones are among them
    chosen = [candidates[order[i]] for i in np.linspace(0, len(order) - 1, QUESTIONS).round().astype(int)]
    pools = _draw(trainer, chosen, 200_000, -(-2 * half // n))
    lines = []
    for problem, pool in zip(chosen, pools, strict=True):
        demonstration = grade_demonstrations(
            trainer.engine, trainer.verifier, [problem], trainer.prompts, trainer.demonstrations
        )[0]
        offline = demonstration_gradients(trainer.engine.module, demonstration)
        halves = []
        for part in (pool[:half], pool[half : 2 * half]):
            scores = torch.stack([trajectory_gradient(trainer.engine.module, rollout) for rollout in part])
            rewards, lengths = (np.array([getattr(rollout, name) for rollout in part]) for name in ("reward", "length"))
            halves.append(Half(torch.cat([scores, offline]), rewards, lengths))
        success = float(np.mean([rollout.reward for rollout in pool[: 2 * half]]))
        found = question_lines(halves, demonstration.length, n, longest)
        lines += [{"question": problem.id, "success": success, **line} for line in found]
        print(f"  {problem.id}: P = {success:.2f}", flush=True)
    return lines


def _draw(trainer: Trainer, questions: Sequence[Any], first_step: int, rounds: int) -> list[list[Trajectory]]:
    """Return graded rollouts of questions, n per round, with seeds that no step of a run has."""
    found: list[list[Trajectory]] = [[] for _ in questions]
    for number in range(rounds):
        trainer.state.step = first_step + number
        for rollouts, group in zip(found, _graded(trainer, questions), strict=True):
            rollouts += [replace(one, old_logprobs=np.zeros_like(one.old_logprobs)) for one in group.rollouts]
    return found


def _graded(trainer: Trainer, questions: Sequence[Any]) -> Any:
    rollouts = trainer.sample(list(questions))
    return trainer.weigh_questions(list(questions), rollouts, trainer.verify(list(questions), rollouts))


@contextmanager
def trainer_after(folder: RunFolder) -> Generator[Trainer]:
    """Yield a trainer of a finished run's method that starts from the run's final weights."""
    if not folder.finished:
        raise HptError(f"{folder.path.name} must be finished; name another run")
    config, model = folder.config, str(folder.model)
    tokenizer = load_tokenizer(model)
    data = encoded_training(config, tokenizer)
    engine = PolicyEngine(load_model(model), config.engine, config.optimizer)
    with Verifier(timeout_s=config.rollout.verifier_timeout_s) as verifier:
        yield Trainer(
            config, data.problems, data.prompts, data.demonstrations, tokenizer, engine,
            Sampler(model, config.rollout), verifier,
        )  # fmt: skip


def measure_run(folder: RunFolder, base: Path, half: int) -> dict[str, Any]:
    """Return the measurement at the base, at every checkpoint a finished run kept, and at its final weights."""
    lines = []
    with trainer_after(folder) as trainer:
        places: dict[int, Path] = {0: base, folder.config.schedule.steps: folder.model} | {
            int(path.name.removeprefix("step-")): path for path in checkpoints(folder.path / "checkpoints")
        }
        for step in sorted(places):
            print(f"step {step}: {places[step].name}", flush=True)
            _load(trainer, places[step])
            for line in measure(trainer, half):
                shown = {name: float(f"{value:.6g}") for name, value in line.items() if isinstance(value, float)}
                lines.append({"step": step, **line, **shown})
    return {"run": folder.path.name, **_commit(), "rollouts": 2 * half, "draws": DRAWS, "lines": lines}


def _commit() -> dict[str, Any]:
    return dict(zip(("commit", "dirty"), source_commit(), strict=True))


def _load(trainer: Trainer, place: Path) -> None:
    if not (place / "config.json").exists():
        trainer.engine.load_state(place)
        return
    weights = dict(load_model(place).named_parameters())
    with torch.no_grad():
        for name, parameter in trainer.engine.module.model.named_parameters():
            parameter.copy_(weights[name])


def capture(folder: RunFolder) -> dict[str, Any]:
    """Return a group of answers of the run's next step, as `hpt.laboratory.table1.load_group` reads it.

    vLLM samples, math-verify grades, the first of the step's two updates is made, and the log-probs of a group of the
    *second* update are taken again: their ratios are those that masks and denominators meet in training.
    """
    config, step = folder.config, folder.config.schedule.steps
    check(folder)
    if config.schedule.updates_per_step < 2:
        raise HptError(f"{folder.path.name} must have two updates per step; name another run")
    with trainer_after(folder) as trainer:
        trainer.state.step = step
        questions = trainer.questions(step)
        batch = _graded(trainer, questions)
        assembled = assemble(batch, trainer.method, config, step, 0.0)
        success = {group.problem_id: np.mean([rollout.reward for rollout in group.rollouts]) for group in batch}
        mixed = [group for group in assembled.questions[1] if 0 < success[group.problem_id] < 1]
        if not mixed:
            raise HptError(f"step {step} of {folder.path.name} has no question with right and wrong answers")
        # the one nearest to half right: with one right of eight, a single answer would carry all colours
        chosen = min(mixed, key=lambda group: abs(success[group.problem_id] - 0.5))
        assert chosen.demonstration is not None
        trainer.updater.update(assembled.updates[0], config.optimizer.learning_rate)
        trajectories = [*chosen.rollouts, chosen.demonstration]
        now = trainer.updater.logprobs([WeightedTrajectory(trajectory, ()) for trajectory in trajectories])
        shown = [
            {
                "tokens": trainer.tokenizer.convert_ids_to_tokens(trajectory.response_tokens.tolist()),
                "old_logprobs": [float(f"{value:.6g}") for value in trajectory.old_logprobs],
                "logprobs": [float(f"{value:.6g}") for value in now[id(trajectory)]],
                "reward": trajectory.reward,
                "is_demonstration": trajectory.is_demonstration,
            }
            for trajectory in trajectories
        ]
    problem = next(problem for problem in questions if problem.id == chosen.problem_id)
    return {
        "run": folder.path.name, "step": step, "learning_rate": config.optimizer.learning_rate, **_commit(),
        "question": problem.question, "answer": problem.answer, "level": problem.level, "trajectories": shown,
    }  # fmt: skip


def main() -> None:
    """Read the arguments; measure, or capture a group, and write the result into the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run that learns from demonstrations")
    parser.add_argument("--base", type=Path, help="model folder it began from; without it a group is captured")
    parser.add_argument("--half", type=int, default=HALF, help="rollouts of each half of a question")
    options = parser.parse_args()
    folder = RunFolder(options.run)
    if options.base is None:
        content, path = capture(folder), GROUP
    else:
        content, path = measure_run(folder, options.base, options.half), CHECKPOINTS
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {path}, of {content['run']}")


if __name__ == "__main__":
    main()
