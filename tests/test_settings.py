"""Every setting moves what it says: one row per setting, with what is seen of it before and after.

What is looked at is the nearest thing a setting reaches: arguments of vLLM and DeepSpeed, the optimiser's groups, the
weights of a made-up step, what a job hands to its parts, the records of a step of training on the real engine.
"""

import os
import sys
from collections.abc import Callable
from functools import reduce
from operator import attrgetter, getitem
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from hpt.config.run_config import RunConfig
from hpt.data.problems import save_problems
from hpt.data.prompts import encode_training, prompt_tokens
from hpt.data.public import BENCHMARKS
from hpt.data.sources import curve_sets, evaluation_names, lacking_sets, training_problems_of
from hpt.methods.gate import feedback_coefficients
from hpt.methods.methods import method_named, resolved_row, stages_of
from hpt.methods.mixture import baseline_after
from hpt.runs import job
from hpt.runs.folder import RunFolder
from hpt.runs.resolve import build_config, initial_run
from hpt.support.errors import ConfigError, TrainingFault
from hpt.training.engine import PolicyEngine, _deepspeed_config
from hpt.training.policy import attention_and_layout
from hpt.training.sampler import Sampler
from hpt.training.trainer import Trainer
from tests import test_methods
from tests.digits import write_digits
from tests.scripted import SMALL, ScriptedSampler, assembled_once, make_trainer, problems, small_model, tokenizer
from tests.test_config import LEAVES

#: Looks at a setting in an empty folder, the current one; what it patches is undone.
Seen = Callable[[RunConfig, pytest.MonkeyPatch], Any]


class Moves(NamedTuple):
    """A value for a setting, what shows that it acts, and what that is without the value and with it."""

    value: Any
    seen: Seen
    before: Any
    after: Any
    #: Settings under which it acts, on top of `SMALL`.
    beside: dict[str, Any] = {}
    #: A method for which it acts.
    method: str = "hpt"


# --- what is looked at -----------------------------------------------------------------------------------------------


def start(config: RunConfig, patch: pytest.MonkeyPatch) -> tuple[str, ...] | None:
    """The run whose weights it starts from."""
    before = initial_run(config)
    return None if before is None else (before.method, before.policy.name)


def training_set(config: RunConfig, patch: pytest.MonkeyPatch) -> int | str:
    save_problems(Path("rows.jsonl"), problems(7))
    return len(training_problems_of(config))


def levels(config: RunConfig, patch: pytest.MonkeyPatch) -> list[int | None]:
    return [problem.level for problem in training_problems_of(config)][:3]


def encoded(config: RunConfig, patch: pytest.MonkeyPatch) -> Any:
    """(prompts, lengths of demonstrations) of four questions of 3 and 7 tokens, or what is refused."""
    try:
        found = encode_training(tokenizer(), problems(4), config, True)
    except ConfigError as error:
        return error.field
    return len(found.prompts), [len(own) for own in found.demonstrations.values()]


def prompt(config: RunConfig, patch: pytest.MonkeyPatch) -> tuple[bool, bool]:
    """Whether a question is encoded as it is, and as its template says."""
    problem, found = problems(1)[0], encode_training(tokenizer(), problems(4), config, True).prompts["q0"].tolist()
    return tuple(found == prompt_tokens(tokenizer(), problem, own).tolist() for own in ("plain", config.data.template))


def lacking(config: RunConfig, patch: pytest.MonkeyPatch) -> list[str]:
    Path("elsewhere/openr1-math-46k").mkdir(parents=True)
    return lacking_sets(config)


def asked(trainer: Trainer) -> list[Any]:
    """Keep the requests that a trainer's sampler gets from here on."""
    genuine, requests = trainer.sampler.sample, []
    trainer.sampler.sample = lambda own: (requests.extend(own), genuine(own))[1]
    return requests


def request(name: str, validating: bool = False) -> Seen:
    """A field of the requests of a step, which are all alike in it, or of a validation."""

    def seen(config: RunConfig, patch: pytest.MonkeyPatch) -> Any:
        trainer = make_trainer(config, curves={"curve": problems(1)} if validating else {})
        requests = asked(trainer)
        if validating:
            trainer.validate_if_due()
            return getattr(requests[-1], name)  # those before it only compare the two models
        trainer.sample(trainer.questions(0))
        (value,) = {getattr(own, name) for own in requests}
        return value

    return seen


def seeds_and_questions(config: RunConfig, patch: pytest.MonkeyPatch) -> bool:
    """Whether a step of seed 0 asks the same questions with the same seeds."""

    def of(own: RunConfig) -> list[Any]:
        trainer = make_trainer(own, questions=8)
        requests = asked(trainer)
        trainer.sample(trainer.questions(0))
        return [[problem.id for problem in trainer.questions(0)], [request.seed for request in requests]]

    return of(config) == of(config.model_copy(update={"seed": 0}))


def vllm_argument(name: str, ranks: int = 1, gpu: bool = False) -> Seen:
    """An argument of vLLM's engine, which is not made."""

    def seen(config: RunConfig, patch: pytest.MonkeyPatch) -> Any:
        vllm, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
        vllm.LLM, parameters.RequestOutputKind = MagicMock(), MagicMock()
        vllm.LLM.return_value.apply_model.return_value = ["vllm.models"]
        patch.setitem(sys.modules, "vllm", vllm)
        patch.setitem(sys.modules, "vllm.sampling_params", parameters)
        patch.setattr(torch.cuda, "is_available", lambda: gpu)
        Sampler(str(write_digits(Path.cwd()) / "model"), config.rollout, config.policy.dtype, ranks)
        return vllm.LLM.call_args.kwargs.get(name)

    return seen


class _Off(ScriptedSampler):
    """Its log-probs are 0.02 nats off on every token."""

    def _one(self, request: Any, index: int) -> Any:
        sample = super()._one(request, index)
        sample.logprobs[:] += 0.02
        return sample


def metric(name: str, steps: int = 1, max_mean_gap: float | None = 1.0) -> Seen:
    """A column of the records of some steps with a sampler that is 0.02 nats off, or that they were stopped."""

    def seen(config: RunConfig, patch: pytest.MonkeyPatch) -> Any:
        if max_mean_gap is not None:
            diagnostics = config.diagnostics.model_copy(update={"max_mean_logprob_gap": max_mean_gap})
            config = config.model_copy(update={"diagnostics": diagnostics})
        trainer = make_trainer(config)
        trainer.sampler.__class__ = _Off
        try:
            trainer.train(steps)
        except TrainingFault:
            return "stopped"
        return [row.get(name) for row in trainer.rows["metrics"]]

    return seen


def starts_at_one(config: RunConfig, patch: pytest.MonkeyPatch) -> bool:
    """Whether the first ratios are 1, although the sampler's log-probs are off."""
    return metric("estimator/approx_kl")(config, patch)[0] < 1e-6


def validated(config: RunConfig, patch: pytest.MonkeyPatch) -> list[int]:
    trainer = make_trainer(config, curves={"curve": problems(1)})
    trainer.train(2)
    return [row["step"] for row in trainer.rows["validation"]]


def rate(config: RunConfig, patch: pytest.MonkeyPatch) -> float:
    return make_trainer(config).learning_rate()


def group(name: str) -> Seen:
    """What the optimiser inside DeepSpeed has."""

    def seen(config: RunConfig, patch: pytest.MonkeyPatch) -> Any:
        return PolicyEngine(small_model(), config.engine, config.optimizer)._inner.param_groups[0][name]

    return seen


def deepspeed(*path: str) -> Seen:
    def seen(config: RunConfig, patch: pytest.MonkeyPatch) -> Any:
        return reduce(getitem, path, _deepspeed_config(config.engine, config.optimizer, config.policy.dtype))

    return seen


def split_of(config: RunConfig) -> tuple[Trainer, list[Any], list[Any]]:
    """A trainer, the first update of its first step (six trajectories), and the micro-batches of that."""
    trainer = make_trainer(config)
    items = list(assembled_once(trainer).updates[0])
    return trainer, items, trainer.updater.micro_batches(items)


def micro_batches(config: RunConfig, patch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(number, rows of the first)."""
    *_, found = split_of(config)
    return len(found), len(found[0].input_ids)


def forwarded_tokens(config: RunConfig, patch: pytest.MonkeyPatch) -> int:
    """Tokens that the layers see."""
    *_, found = split_of(config)
    return sum(batch.input_ids.numel() for batch in found)


def layer_forwards(config: RunConfig, patch: pytest.MonkeyPatch) -> int:
    trainer, items, _ = split_of(config)
    calls: list[Any] = []
    (layer,) = trainer.engine.module.model.model.layers
    layer.register_forward_pre_hook(lambda *_: calls.append(None))
    trainer.updater.update(items, 0.01)
    return len(calls)


def attention(config: RunConfig, patch: pytest.MonkeyPatch) -> tuple[str, str]:
    """What a job loads the model with where FlashAttention can run."""
    patch.setattr("hpt.training.policy.flash_attention_works", lambda dtype: True)
    return attention_and_layout(config.engine.attention, config.engine.layout, config.policy.dtype)


def wired(name: str) -> Seen:
    """What a job hands to its parts, none of which is made."""

    def seen(config: RunConfig, patch: pytest.MonkeyPatch) -> Any:
        save_problems(Path("rows.jsonl"), problems(8))
        parts: dict[str, MagicMock] = {}
        for own in (
            "training.policy.load_model", "training.policy.PolicyModule", "training.engine.PolicyEngine",
            "training.sampler.Sampler", "training.trainer.Trainer", "training.checkpoint.save_checkpoint",
            "training.guards.check_own_forward", "rewards.workers.Verifier", "runs.job.save_model_folder",
            "runs.job.provenance", "runs.job.write_checksums", "runs.job.write_json",
        ):  # fmt: skip
            part = parts[own.rpartition(".")[2]] = MagicMock(name=own)
            patch.setattr(f"hpt.{own}", part)
        patch.setattr(job, "load_tokenizer", lambda folder: tokenizer())
        patch.setattr("hpt.data.prompts.vocabulary_size", lambda folder: 1_000_000)
        threads: list[int] = []
        patch.setattr(torch, "set_num_threads", threads.append)
        engine, trainer = parts["PolicyEngine"].return_value, parts["Trainer"].return_value
        engine.rank, engine.gather = 0, lambda own: own
        trainer.stage = stages_of(config)[-1]

        def train(until: int, after_step: Callable[[], None]) -> None:
            for step in range(1, until + 1):
                trainer.state, trainer.rows = SimpleNamespace(step=step), {"metrics": [{"step": 0, "time/step_s": 0.0}]}
                after_step()

        trainer.train.side_effect = train
        job._train(config, MagicMock(path=Path.cwd()))
        saves = parts["save_checkpoint"].call_args_list
        return {
            "model": parts["load_model"].call_args_list[0].args,
            "dtypes": (parts["PolicyEngine"].call_args.args[3], parts["Sampler"].call_args.args[2]),
            "timeout_s": parts["Verifier"].call_args.kwargs["timeout_s"],
            "until": trainer.train.call_args.args[0],
            "saves": len(saves),
            "keep": saves[0].args[4],
            "threads": threads,
        }[name]

    return seen


def instructions(config: RunConfig, patch: pytest.MonkeyPatch) -> str | None:
    """What PyTorch is told in a run's process (`tests/invariance/test_instruction_set.py`)."""
    patch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    job._read_job(job.write_job(job.Job(config, Path.cwd()), RunFolder(Path.cwd()), {}))
    return os.environ.get("ATEN_CPU_CAPABILITY")


def rows(config: RunConfig, patch: pytest.MonkeyPatch) -> list[Any]:
    """(name, denominator) of the rows at work."""
    return [(row.name, row.denominator) for row in _rows(config)]


def _rows(config: RunConfig) -> list[Any]:
    return [resolved_row(component, config) for component in method_named(config.method).components]


def clip(config: RunConfig, patch: pytest.MonkeyPatch) -> list[Any]:
    parameters = _rows(config)[0].parameters
    return [parameters["clip_eps_low"], parameters["clip_eps_high"]]


def weight(question: str, sample: int) -> Seen:
    """(advantage, scale) of a trajectory of the step worked out by hand in `test_methods`, by component."""

    def seen(config: RunConfig, patch: pytest.MonkeyPatch) -> list[Any]:
        return test_methods.weights(test_methods.assembled(config))[question, sample]

    return seen


def regularised(config: RunConfig, patch: pytest.MonkeyPatch) -> tuple[float, float]:
    """(entropy, KL) scale of a rollout of that step."""
    items = test_methods.assembled(config).updates[0]
    (own,) = [item for item in items if (item.trajectory.problem_id, item.trajectory.sample) == ("q1", 0)]
    return own.entropy_scale, own.kl_scale


def kl_in(config: RunConfig, patch: pytest.MonkeyPatch) -> tuple[bool, bool]:
    """Whether the KL is in the loss, in the advantage."""
    in_loss = make_trainer(config, reference=MagicMock()).updater.reference is not None
    return in_loss, _rows(config)[0].parameters["kl_coefficient"] > 0


def baseline(config: RunConfig, patch: pytest.MonkeyPatch) -> float:
    return baseline_after(test_methods.questions_for(config), method_named(config.method), config, 1.0)


def feedback(config: RunConfig, patch: pytest.MonkeyPatch) -> list[list[float]]:
    """alpha and beta of a question with 0, 1, 2 right answers of two."""
    return [own.tolist() for own in feedback_coefficients(config.gate, np.array([0, 1, 2]), 2)]


# --- the table -------------------------------------------------------------------------------------------------------

HAND = test_methods.SETTINGS
ROLLOUT, DEMONSTRATION = weight("q1", 0), weight("q0", test_methods.D)
SWITCHED = [[0, 1, 1], [1, 0, 0]]
ROWS = {"data.source": "rows.jsonl", "policy.path": "somewhere"}
ENTROPY, KL = {"estimator.entropy_coefficient": 0.5}, {"estimator.kl_coefficient": 0.5}
RELEASED = {"estimator.normalization": "released"}
WIDE = {"data.max_prompt_tokens": 300, "rollout.max_model_tokens": 400}
LONG = {"rollout.max_response_tokens": 6}
ONE_UPDATE = {"schedule.updates_per_step": 1}
EVERY_PROMPT = ONE_UPDATE | {"engine.share_prompts": False}
VALIDATED = {"validation.every": 1}

MOVES: dict[str, Moves] = {
    "scale": Moves("mini", lambda config, patch: RunFolder.of(config, Path.cwd()).path.parent.name, "tiny", "mini"),
    "recipe": Moves("paper", lambda config, patch: initial_run(config).recipe, "released", "paper",
                    {"policy.after": "sft"}),
    "method": Moves("sft", lambda config, patch: stages_of(config)[0].method.name, "hpt", "sft"),
    "seed": Moves(1, seeds_and_questions, True, False),
    "over_stages": Moves(["gate.alpha"], lambda config, patch: stages_of(config)[0].config.gate.alpha, 0.0, 1.0,
                         method="sft_then_grpo"),
    "policy.name": Moves("strong", start, ("pretrain", "weak"), ("pretrain", "strong")),
    "policy.path": Moves("elsewhere", wired("model"), ("somewhere", torch.float32, "sdpa"),
                         ("elsewhere", torch.float32, "sdpa"), ROWS),
    "policy.after": Moves("sft", start, ("pretrain", "weak"), ("sft", "weak")),
    "policy.dtype": Moves("bfloat16", wired("dtypes"), ("float32", "float32"), ("bfloat16", "bfloat16"),
                          ROWS | {"engine.zero_stage": 1}),
    "data.source": Moves("rows.jsonl", training_set, 48, 7),
    "data.evaluation": Moves("public", lambda config, patch: evaluation_names(config)[0], "contest-a", BENCHMARKS[0]),
    "data.folder": Moves("elsewhere", lacking, ["openr1-math-46k"], [], {"data.source": "openr1-math-46k"}),
    "data.world": Moves("lookups", training_set, 48, 1001),
    "data.questions": Moves(3, training_set, 48, 3),
    "data.questions_per_level": Moves([0, 2], levels, [1, 1, 1], [2, 2]),
    "data.template": Moves("llama", prompt, (True, True), (False, True), WIDE),
    "data.max_prompt_tokens": Moves(2, encoded, (4, [7] * 4), "question q0"),
    "data.overlong_prompts": Moves("drop", encoded, "question q0", "data", {"data.max_prompt_tokens": 2}),
    "data.overlong_demonstrations": Moves("cut", encoded, "demonstration of q0", (4, [6] * 4), LONG),
    "rollout.rollouts_per_prompt": Moves(5, request("samples"), 3, 5),
    "rollout.temperature": Moves(0.5, request("temperature"), 1.0, 0.5),
    "rollout.max_response_tokens": Moves(6, request("max_tokens"), 64, 6),
    "rollout.max_model_tokens": Moves(120, vllm_argument("max_model_len"), 96, 120),
    "rollout.max_parallel_sequences": Moves(4, vllm_argument("max_num_seqs"), 256, 4),
    "rollout.cache_gib": Moves(3, vllm_argument("kv_cache_memory_bytes"), 1 << 30, 3 << 30,
                               {"rollout.max_parallel_sequences": 10**7}),
    "rollout.gpu_memory_share": Moves(0.25, vllm_argument("gpu_memory_utilization"), 0.5, 0.25),
    "rollout.tensor_parallel": Moves(2, vllm_argument("tensor_parallel_size", ranks=2), 1, 2),
    "rollout.sleep_while_training": Moves(True, vllm_argument("enable_sleep_mode", gpu=True), None, True),
    "rollout.max_logprob_gap": Moves(0.01, metric("optim/updates"), [2.0], "stopped"),
    "rollout.gap_check_rollouts": Moves(2, metric("check/logprob_gap_rollouts"), [12.0], [8.0],
                                        ONE_UPDATE, "grpo"),
    "rollout.old_logprobs": Moves("trainer", starts_at_one, False, True, ONE_UPDATE),
    "rollout.verifier_timeout_s": Moves(7.0, wired("timeout_s"), 5.0, 7.0, ROWS),
    "estimator.normalization": Moves("paper", ROLLOUT, [(0.5, 1 / 80)], [(0.5, 1 / 8)], HAND),
    "estimator.length_divisor": Moves(20, ROLLOUT, [(0.5, 1 / 80)], [(0.5, 1 / 160)], HAND),
    "estimator.released_ranks": Moves(4, ROLLOUT, [(0.5, 1 / 80)], [(0.5, 1 / 40)], HAND | RELEASED),
    "estimator.released_micro_batches": Moves(3, DEMONSTRATION, [(1, 1 / 8)], [(1, 3 / 8)], HAND | RELEASED),
    "estimator.online_row": Moves("dapo", rows, [("dr_grpo", "old"), ("sft", "current")],
                                  [("dapo", "old"), ("sft", "current")]),
    "estimator.offline_row": Moves("dft", rows, [("dr_grpo", "old"), ("sft", "current")],
                                   [("dr_grpo", "old"), ("dft", "unit")]),
    "estimator.advantage_std": Moves("sample", ROLLOUT, [(0.5, 1 / 80)], [(0.5 / (0.5**0.5 + 1e-6), 1 / 80)], HAND),
    "estimator.clip_eps_low": Moves(0.1, clip, [None, None], [0.1, None]),
    "estimator.clip_eps_high": Moves("row", clip, [None, None], [None, 0.2]),
    "estimator.rl_coefficient": Moves(2.0, ROLLOUT, [(0.5, 1 / 80)], [(0.5, 2 / 80)], HAND),
    "estimator.sft_coefficient": Moves(2.0, DEMONSTRATION, [(1, 1 / 40)], [(1, 2 / 40)], HAND),
    "estimator.offline_coefficient": Moves(2.0, DEMONSTRATION, [(1, 1 / 80)], [(1, 2 / 80)], HAND, "off_on"),
    "estimator.offline_advantage": Moves("group", DEMONSTRATION, [(1, 1 / 80)], [(2 / 3, 1 / 80)], HAND, "off_on"),
    "estimator.offline_shaping": Moves(False, rows, [("dr_grpo", "old"), ("luffy_offline", "unit_shaped")],
                                       [("dr_grpo", "old"), ("luffy_offline", "unit")], method="off_on"),
    "estimator.shape_every_offline_term": Moves(
        True, lambda config, patch: rows(config, patch)[1], ("srft_offline", "unit"), ("srft_offline", "unit_shaped"),
        method="srft",
    ),
    # 2 + 6 + 5 + 3 tokens weigh something, 2 more belong to what the method keeps
    "estimator.entropy_coefficient": Moves(0.5, regularised, (0.0, 0.0), (0.5 / 16, 0.0), HAND),
    "estimator.entropy_scope": Moves("all", regularised, (0.5 / 16, 0.0), (0.5 / 18, 0.0), HAND | ENTROPY),
    "estimator.kl_coefficient": Moves(0.5, regularised, (0.0, 0.0), (0.0, 0.5 / 80), HAND),
    "estimator.kl_term": Moves("advantage", kl_in, (True, False), (False, True),
                               KL | {"estimator.online_row": "rloo"}, "grpo"),
    "estimator.baseline_decay": Moves(0.5, baseline, 0.95 + 0.05 * 3 / 8, 0.5 + 0.5 * 3 / 8,
                                      HAND | {"estimator.online_row": "reinforce_baseline"}, "grpo"),
    "gate.kind": Moves("linear", feedback, SWITCHED, [[0, 0.5, 1], [1, 0.5, 0]]),
    "gate.count": Moves(1, feedback, SWITCHED, [[0, 0, 1], [1, 1, 0]]),
    "gate.inclusive": Moves(False, feedback, [[0, 0, 1], [1, 1, 0]], SWITCHED, {"gate.count": 1}),
    "gate.slope": Moves(2.0, lambda config, patch: feedback(config, patch)[0][1], 1 / (1 + np.exp(-20 / 4)),
                        1 / (1 + np.exp(-2 / 4)), {"gate.kind": "sigmoid"}),
    "gate.alpha": Moves(0.5, feedback, [[1] * 3, [1] * 3], [[0.5] * 3, [1] * 3], {"gate.kind": "constant"}),
    "gate.beta": Moves(0.5, feedback, [[1] * 3, [1] * 3], [[1] * 3, [0.5] * 3], {"gate.kind": "constant"}),
    "optimizer.learning_rate": Moves(0.02, rate, 0.01, 0.02),
    "optimizer.first_stage_learning_rate": Moves(0.02, rate, 0.01, 0.02, method="sft_then_grpo"),
    "optimizer.adam_beta1": Moves(0.5, group("betas"), (0.9, 0.95), (0.5, 0.95)),
    "optimizer.adam_beta2": Moves(0.5, group("betas"), (0.9, 0.95), (0.9, 0.5)),
    "optimizer.adam_epsilon": Moves(0.1, group("eps"), 1e-8, 0.1),
    "optimizer.weight_decay": Moves(0.1, group("weight_decay"), 0.01, 0.1),
    "optimizer.warmup_steps": Moves(2, rate, 0.01, 0.005),
    "optimizer.gradient_clip": Moves(0.5, deepspeed("gradient_clipping"), 1.0, 0.5, {"engine.zero_stage": 1}),
    "optimizer.skip_above_norm": Moves(1e-9, metric("optim/skipped_updates"), [0.0], [2.0]),
    "schedule.steps": Moves(5, wired("until"), 4, 5, ROWS),
    "schedule.prompts_per_step": Moves(2, lambda config, patch: len(make_trainer(config).questions(0)), 4, 2),
    "schedule.updates_per_step": Moves(1, metric("optim/updates"), [2.0], [1.0]),
    "schedule.first_stage_updates_per_step": Moves(1, metric("optim/updates"), [2.0], [1.0], method="sft_then_grpo"),
    "schedule.first_stage_share": Moves(0.75, lambda config, patch: [own.end for own in stages_of(config)], [2, 4],
                                        [3, 4], method="sft_then_grpo"),
    "validation.every": Moves(2, validated, [], [0, 2]),
    "validation.problems_per_set": Moves(2, lambda config, patch: sum(map(len, curve_sets(config).values())), 19, 12),
    "validation.samples_per_problem": Moves(5, request("samples", validating=True), 2, 5, VALIDATED),
    "validation.temperature": Moves(0.3, request("temperature", validating=True), 0.6, 0.3, VALIDATED),
    "validation.top_p": Moves(0.5, request("top_p", validating=True), 0.95, 0.5, VALIDATED),
    "validation.sets": Moves(["contest-b"], lambda config, patch: next(iter(curve_sets(config))), "contest-a",
                             "contest-b"),
    "validation.held_out": Moves(0.25, training_set, 7, 5, {"data.source": "rows.jsonl"}),
    "engine.zero_stage": Moves(2, deepspeed("zero_optimization", "stage"), 0, 2),
    "engine.micro_batch_tokens": Moves(1, micro_batches, (1, 6), (6, 1), EVERY_PROMPT, "grpo"),
    "engine.layout": Moves("packed", micro_batches, (1, 6), (1, 1), EVERY_PROMPT, "grpo"),
    "engine.share_prompts": Moves(False, forwarded_tokens, 32, 54, ONE_UPDATE, "grpo"),
    "engine.attention": Moves("flash_attention_2", attention, ("sdpa", "padded"), ("flash_attention_2", "padded")),
    "engine.gradient_checkpointing": Moves(True, layer_forwards, 1, 2),
    "engine.threads": Moves(3, wired("threads"), [1], [3], ROWS),
    "engine.instruction_set": Moves("native", instructions, "avx2", None),
    "checkpoint.every": Moves(1, wired("saves"), 2, 4, ROWS),
    "checkpoint.keep": Moves(5, wired("keep"), 2, 5, ROWS),
    "diagnostics.max_mean_logprob_gap": Moves(1.0, metric("optim/updates", max_mean_gap=None), "stopped", [2.0]),
    "diagnostics.rollouts_over_gap": Moves(100, metric("optim/updates"), "stopped", [2.0],
                                           {"rollout.max_logprob_gap": 0.01}),
    "diagnostics.gradient_cosine_every": Moves(
        1, lambda config, patch: [own is not None for own in metric("gradient/sft_rl_cosine", 2)(config, patch)],
        [True, False], [True, True],
    ),
}  # fmt: skip

#: In `test_config`: a setting with one value, where any other is refused, and what a run fills in to name itself.
ELSEWHERE = {"rollout.top_p", "own_modules", "data.sha256", "validation.sha256",
             *(f"policy.{own}_sha256" for own in ("weights", "config", "tokenizer"))}  # fmt: skip


def test_no_setting_is_left_out() -> None:
    assert MOVES.keys() | ELSEWHERE == LEAVES.keys()


@pytest.mark.parametrize("name", MOVES)
def test_a_setting_moves_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = MOVES[name]
    monkeypatch.chdir(tmp_path)
    plain = build_config(own.method, scale="tiny", settings=SMALL | own.beside)
    moved = build_config(own.method, scale="tiny", settings=SMALL | own.beside | {name: own.value})
    assert attrgetter(name)(plain) != attrgetter(name)(moved) == own.value
    for config, expected in ((plain, own.before), (moved, own.after)):
        (folder := tmp_path / str(config is moved)).mkdir()
        monkeypatch.chdir(folder)
        with monkeypatch.context() as patch:
            assert own.seen(config, patch) == _near(expected)


def _near(expected: Any) -> Any:
    """Numbers may differ by rounding, wherever they stand."""
    if isinstance(expected, list | tuple) and not any(isinstance(own, str | torch.dtype) for own in expected):
        return type(expected)(map(_near, expected))
    return pytest.approx(expected, rel=1e-5) if isinstance(expected, float) else expected
