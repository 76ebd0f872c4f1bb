"""A sampler that says what it is told, and a verifier that reads the box: the trainer without vLLM and math-verify."""

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpt.config.run_config import RunConfig
from hpt.data.problems import Problem
from hpt.data.prompts import demonstration_tokens, prompt_tokens
from hpt.data.world.tokenizer import character_tokenizer
from hpt.evaluation.evaluate import validation_rows
from hpt.methods.mixture import Assembled, assemble
from hpt.rewards.verify import last_boxed
from hpt.rewards.workers import Grade, Verdict
from hpt.runs.resolve import build_config
from hpt.training.engine import PolicyEngine
from hpt.training.sampler import Sample, SamplingRequest
from hpt.training.trainer import Trainer

#: question number, sample number -> text of the response.
Script = Callable[[int, int], str]


def right(question: int, sample: int) -> str:
    """Every rollout is right."""
    return f"\\boxed{{{question}}}"


def wrong(question: int, sample: int) -> str:
    """Every rollout is wrong, and no two say the same."""
    return f"{sample}\\boxed{{99}}"


def mixed(question: int, sample: int) -> str:
    """Question 0: all wrong. 1: all right. Others: the first sample alone is right."""
    return right(question, sample) if question == 1 or (question > 1 and sample == 0) else wrong(question, sample)


def problems(count: int) -> list[Problem]:
    """Question i is ``i?``, its answer i, and its demonstration says so."""
    return [Problem(f"q{i}", f"{i}?", str(i), f"{i}={i}\\boxed{{{i}}}", 1, "digits") for i in range(count)]


@cache
def tokenizer() -> Any:
    """A token per character."""
    return character_tokenizer()


def small_model(tied: bool = False) -> nn.Module:
    """A Qwen2 of one layer for that tokenizer; with ``tied`` its head is its embedding."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=len(tokenizer()), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=tied, initializer_range=0.1,
    )  # fmt: skip
    return Qwen2ForCausalLM(shape).float()


class ScriptedSampler:
    """Answers as told, with the log-probs of the weights it was last given; counts what it is asked and given."""

    def __init__(self, model: nn.Module, script: Script) -> None:
        self.model, self.script, self.version = copy.deepcopy(model), script, 0
        self.skips, self.stale, self.requests, self.loads = False, False, 0, 0

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take the trainer's weights; with ``skips`` it does nothing, and with ``stale`` it only says that it did."""
        found = {name: weight.clone() for name, weight in weights}
        self.loads += 1
        if not self.skips:
            self.version = version
            if not self.stale:
                self.model.load_state_dict(found)

    def sleep(self) -> None:
        """Holds no memory to give back."""

    @torch.no_grad()
    def sample(self, requests: Sequence[SamplingRequest]) -> list[list[Sample]]:
        self.requests += len(requests)
        return [[self._one(request, i) for i in range(request.samples)] for request in requests]

    def _one(self, request: SamplingRequest, index: int) -> Sample:
        question = int(tokenizer().decode(request.prompt_tokens, skip_special_tokens=True).rstrip("?"))
        response = demonstration_tokens(tokenizer(), self.script(question, index))[: request.max_tokens]
        tokens = torch.from_numpy(np.concatenate([request.prompt_tokens, response]).astype(np.int64))
        logits: Tensor = self.model(input_ids=tokens[None], use_cache=False).logits[0]
        table = (logits / request.temperature).log_softmax(-1)[len(request.prompt_tokens) - 1 : -1]
        logprobs = table.gather(1, torch.from_numpy(response.astype(np.int64))[:, None])[:, 0]
        ended = response[-1] == tokenizer().eos_token_id
        return Sample(response, logprobs.numpy(), "stop" if ended else "length")


class ScriptedVerifier:
    """Compares the box with the answer, letter by letter."""

    def grade(self, texts: Sequence[str], asked: Sequence[Problem]) -> list[Grade]:
        grades = []
        for text, problem in zip(texts, asked, strict=True):
            answer = last_boxed(text)
            same = Verdict.correct if answer == problem.answer else Verdict.wrong
            grades.append(Grade(Verdict.no_answer if answer is None else same, answer))
        return grades


#: Four questions a step, three rollouts each, two updates, no validation.
SMALL: dict[str, Any] = {
    "rollout.rollouts_per_prompt": 3,
    "schedule.prompts_per_step": 4,
    "schedule.updates_per_step": 2,
    "schedule.steps": 4,
    "validation.every": 0,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 0.01,
}


def config_for(method: str, **settings: Any) -> RunConfig:
    """The settings of `SMALL`, unless said otherwise."""
    own = {name.replace("__", "."): value for name, value in settings.items()}
    return build_config(method, scale="tiny", settings=SMALL | own)


def make_trainer(config: RunConfig, script: Script = mixed, questions: int = 4, **more: Any) -> Trainer:
    """A trainer on the real engine with everything around it scripted."""
    asked, model = problems(questions), small_model()
    sampler, verifier = ScriptedSampler(model, script), ScriptedVerifier()
    engine = more.pop("engine", None) or PolicyEngine(model, config.engine, config.optimizer)
    curves = more.pop("curves", {})
    return Trainer(
        config,
        asked,
        {problem.id: prompt_tokens(tokenizer(), problem) for problem in asked},
        {problem.id: demonstration_tokens(tokenizer(), problem.demonstration or "") for problem in asked},
        tokenizer(),
        engine,
        sampler,
        verifier,
        validate=lambda step: validation_rows(sampler, verifier, tokenizer(), curves, config, step, engine),
        **more,
    )


def assembled_once(trainer: Trainer) -> Assembled:
    """What the trainer's first step weighs, without taking it."""
    questions = trainer.questions(0)
    rollouts = trainer.sample(questions)
    batch = trainer.weigh_questions(questions, rollouts, trainer.verify(questions, rollouts))
    return assemble(batch, trainer.method, trainer.config, 0)


def column(trainer: Trainer, name: str) -> list[float]:
    """A metric of every step."""
    return [row[name] for row in trainer.rows["metrics"]]


def weights_of(engine: PolicyEngine) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in engine.named_weights()}


def same_weights(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two copies agree in every bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
