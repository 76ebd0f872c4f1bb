"""What the model sees: a question as prompt tokens, a demonstration as response tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpt.config import RunConfig
from hpt.errors import ConfigError
from hpt.tasks.problems import Problem


def prompt_tokens(tokenizer: Any, problem: Problem) -> np.ndarray:
    """Return the prompt of a question, begin-of-text token first where the tokenizer has one: int32 [P]."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return np.array(begin + tokenizer.encode(problem.question, add_special_tokens=False), dtype=np.int32)


def demonstration_tokens(tokenizer: Any, text: str) -> np.ndarray:
    """Return a demonstration as a response, end token included: int32 [len]."""
    return np.array([*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id], dtype=np.int32)


def encode_training(
    tokenizer: Any, problems: Sequence[Problem], config: RunConfig, needs_demonstrations: bool
) -> tuple[list[Problem], dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """Encode every training question and demonstration once, and check them before any compute.

    Returns:
        (problems kept, prompts by id, demonstrations by id, demonstrations dropped for their length).

    Raises:
        ConfigError: a prompt over ``data.max_prompt_tokens``, a missing demonstration the method needs, or one over
            ``rollout.max_response_tokens`` with ``data.overlong_demonstrations = refuse``.
    """
    prompts, demonstrations, dropped = {}, {}, 0
    for problem in problems:
        prompt = prompt_tokens(tokenizer, problem)
        if len(prompt) > config.data.max_prompt_tokens:
            remedy = "raise data.max_prompt_tokens (and rollout.max_model_tokens), or remove the question"
            allowed = f"at most data.max_prompt_tokens = {config.data.max_prompt_tokens} tokens"
            raise ConfigError(f"question {problem.id}", f"{len(prompt)} tokens", allowed, remedy)
        if problem.demonstration is not None:
            response = demonstration_tokens(tokenizer, problem.demonstration)
            _check_round_trip(tokenizer, f"demonstration of {problem.id}", problem.demonstration, response[:-1])
            limit = config.rollout.max_response_tokens
            if len(response) <= limit:
                demonstrations[problem.id] = response
            elif config.data.overlong_demonstrations == "refuse":
                remedy = "raise rollout.max_response_tokens or set data.overlong_demonstrations to drop"
                allowed = f"at most rollout.max_response_tokens = {limit} tokens"
                raise ConfigError(f"demonstration of {problem.id}", f"{len(response)} tokens", allowed, remedy)
            else:
                dropped += 1
                if needs_demonstrations:
                    continue
        elif needs_demonstrations:
            remedy = "add one, or choose a method that needs none (grpo)"
            raise ConfigError(f"demonstration of {problem.id}", None, f"a text: {config.method} learns from it", remedy)
        prompts[problem.id] = prompt
    kept = [problem for problem in problems if problem.id in prompts]
    if len(kept) < config.schedule.prompts_per_step:
        allowed = f"at least schedule.prompts_per_step = {config.schedule.prompts_per_step} questions"
        raise ConfigError("data", f"{len(kept)} usable questions", allowed, "lower it or add questions")
    return kept, prompts, demonstrations, dropped


def _check_round_trip(tokenizer: Any, field: str, text: str, tokens: np.ndarray) -> None:
    # a tokenizer that drops what it does not know would teach the policy another text, and nothing would look wrong
    decoded = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    if decoded != text:
        remedy = "use the tokenizer the model was trained with, and check that it knows every character"
        raise ConfigError(field, decoded, f"what the text says: {text[:120]!r}", remedy)
