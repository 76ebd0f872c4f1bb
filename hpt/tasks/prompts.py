"""What the model sees: a question as prompt tokens, a demonstration as response tokens."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hpt.config import RunConfig
from hpt.data.table import DATASETS
from hpt.errors import ConfigError, warn
from hpt.model_folder import vocabulary_size
from hpt.tasks.problems import Problem
from hpt.tasks.templates import Template, prompt_text, response_text, template_named

#: Of a large set, so many demonstrations are decoded again to see that the tokenizer lost nothing.
ROUND_TRIPS = 2_000


@dataclass
class EncodedTraining:
    """The training set as tokens.

    Attributes:
        problems: those that are trained on, in their order; a cut demonstration is cut in them too.
        prompts, demonstrations: int32 token ids by problem id; no demonstrations where the method needs none.
        counts: how many prompts and demonstrations were over their limits and what became of them.
    """

    problems: list[Problem] = field(default_factory=list)
    prompts: dict[str, np.ndarray] = field(default_factory=dict)
    demonstrations: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("prompts_dropped", "demonstrations_dropped", "demonstrations_cut"), 0)
    )


def prompt_tokens(tokenizer: Any, problem: Problem, template: str = "plain") -> np.ndarray:
    """Return the prompt of a question in a template of `hpt.tasks.templates`: int32 [P].

    Raises:
        ConfigError: no such template, or the tokenizer or the row lacks what it needs.
    """
    own = template_named(template)
    return _prompt(tokenizer, own, tokenizer.encode(prompt_text(own, tokenizer, problem), add_special_tokens=False))


def _prompt(tokenizer: Any, template: Template, tokens: list[int]) -> np.ndarray:
    begin = [tokenizer.bos_token_id] if template.begin and tokenizer.bos_token_id is not None else []
    return np.array([*begin, *tokens], dtype=np.int32)


def demonstration_tokens(tokenizer: Any, text: str, template: str = "plain") -> np.ndarray:
    """Return a demonstration as a response, end token included: int32 [len]."""
    response = response_text(template_named(template), text, tokenizer.eos_token)
    tokens = tokenizer.encode(response, add_special_tokens=False)
    return np.array([*tokens, tokenizer.eos_token_id], dtype=np.int32)


def encode_training(
    tokenizer: Any, problems: Sequence[Problem], config: RunConfig, needs_demonstrations: bool
) -> EncodedTraining:
    """Encode every training question and demonstration once, and check them before any compute.

    A demonstration that is cut loses its end token with its end, as in the release; it is graded as it is trained.

    Raises:
        ConfigError: a prompt over ``data.max_prompt_tokens``, a missing demonstration the method needs, or one over
            ``rollout.max_response_tokens``, each where the settings say ``refuse``; a tokenizer that is not the
            model's, or that loses a part of a demonstration.
    """
    template = template_named(config.data.template)
    vocabulary = vocabulary_size(config.policy.path) if config.policy.path else None
    unseen = sum(problem.system is not None for problem in problems) if template.system != "data" else 0
    if unseen and config.data.source not in DATASETS:  # of those the paper's templates are chosen knowingly
        warn(f"{unseen} of {len(problems)} questions of {config.data.source} have a system message, which "
             f"data.template = {template.name} does not show; qwen-data-system does")  # fmt: skip
    encoded = EncodedTraining()
    texts = [prompt_text(template, tokenizer, problem) for problem in problems]
    shown = problems if needs_demonstrations else ()  # else nothing is to be wrong with what is never used
    responses = [response_text(template, problem.demonstration or "", tokenizer.eos_token) for problem in shown]
    all_prompts, all_responses = _encode_all(tokenizer, texts), _encode_all(tokenizer, responses)
    spread = max(1, len(problems) // ROUND_TRIPS)
    for number, problem in enumerate(problems):
        prompt = _prompt(tokenizer, template, all_prompts[number])
        _check_known(tokenizer, f"question {problem.id}", prompt, vocabulary)
        if _too_long(f"question {problem.id}", len(prompt), "data.max_prompt_tokens", config.data.max_prompt_tokens,
                     config.data.overlong_prompts, "data.overlong_prompts"):  # fmt: skip
            encoded.counts["prompts_dropped"] += 1
            continue
        if needs_demonstrations:
            if problem.demonstration is None:
                remedy = "add one, or choose a method that needs none (grpo)"
                allowed = f"a text: {config.method} learns from it"
                raise ConfigError(f"demonstration of {problem.id}", None, allowed, remedy)
            if number % spread == 0:
                _check_round_trip(tokenizer, problem.id, responses[number], all_responses[number])
            problem, response = _fitted(tokenizer, problem, all_responses[number], config, encoded.counts)
            if response is None:
                continue
            _check_known(tokenizer, f"demonstration of {problem.id}", response, vocabulary)
            encoded.demonstrations[problem.id] = response
        encoded.prompts[problem.id] = prompt
        encoded.problems.append(problem)
    if len(encoded.problems) < config.schedule.prompts_per_step:
        allowed = f"at least schedule.prompts_per_step = {config.schedule.prompts_per_step} questions"
        raise ConfigError("data", f"{len(encoded.problems)} usable questions", allowed, "lower it or add questions")
    return encoded


def _fitted(
    tokenizer: Any, problem: Problem, tokens: list[int], config: RunConfig, counts: dict[str, int]
) -> tuple[Problem, np.ndarray | None]:
    """Return a problem with its response tokens, cut to the limit or None where the settings say so."""
    response = np.array([*tokens, tokenizer.eos_token_id], dtype=np.int32)
    choice, limit = config.data.overlong_demonstrations, config.rollout.max_response_tokens
    if not _too_long(f"demonstration of {problem.id}", len(response), "rollout.max_response_tokens", limit, choice,
                     "data.overlong_demonstrations"):  # fmt: skip
        return problem, response
    if choice == "drop":
        counts["demonstrations_dropped"] += 1
        return problem, None
    counts["demonstrations_cut"] += 1
    return replace(problem, demonstration=tokenizer.decode(response[:limit])), response[:limit]


def _encode_all(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []  # all at once: on all cores


def _too_long(what: str, tokens: int, limit_name: str, limit: int, choice: str, choice_name: str) -> bool:
    """Whether something is over its limit; an error where that is what the settings ask for."""
    if tokens > limit and choice == "refuse":
        remedy = f"raise {limit_name}, or set {choice_name} to drop"
        raise ConfigError(what, f"{tokens} tokens", f"at most {limit_name} = {limit} tokens", remedy)
    return tokens > limit


def _check_round_trip(tokenizer: Any, problem_id: str, text: str, tokens: list[int]) -> None:
    # a tokenizer that drops what it does not know would teach the policy another text, and nothing would look wrong
    decoded = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    # many tokenizers compose characters first: the same text, in another spelling of Unicode
    taught, given = (unicodedata.normalize("NFC", own) for own in (decoded, text))
    if taught != given:
        alike = next((place for place, pair in enumerate(zip(taught, given, strict=False)) if len({*pair}) > 1), 0)
        part = slice(max(0, alike - 20), alike + 40)
        # in ASCII: different characters may look the same
        taught, given = (own[part].encode("ascii", "backslashreplace").decode() for own in (taught, given))
        remedy = "use the tokenizer the model was trained with, and check that it knows every character"
        raise ConfigError(f"demonstration of {problem_id}", taught, f"what the text says there: {given!r}", remedy)


def _check_known(tokenizer: Any, what: str, tokens: np.ndarray, vocabulary: int | None) -> None:
    if vocabulary is not None and (token := int(tokens.max(initial=0))) >= vocabulary:
        said, allowed = f"token {token} ({tokenizer.decode([token])!r})", f"below {vocabulary}, the model's vocab_size"
        raise ConfigError(what, said, allowed, "save model and tokenizer that belong together")
