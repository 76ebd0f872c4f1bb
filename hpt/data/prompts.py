r"""What the model sees: a question as prompt tokens, a demonstration as response tokens.

Every choice the paper leaves open has a name in `TEMPLATES`. The released scripts train Qwen2.5-Math on its tokenizer's
chat template without the data's system message (the template then puts its own, "Please reason step by step, ..."), and
LLaMA on raw text without a begin-of-text token. LUFFY, whose data both use, keeps the data's system message and opens
the think tag in the prompt.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np

from hpt.config.run_config import RunConfig
from hpt.data.models import end_texts, vocabulary_size
from hpt.data.problems import Problem, check_demonstrations
from hpt.data.public import DATASETS
from hpt.support.errors import ConfigError, warn
from hpt.support.text import few


@dataclass(frozen=True)
class Template:
    """One way to write a prompt: a text with ``{question}`` in it, or the tokenizer's chat template (None).

    Whose system message a chat template shows: its ``own``, which it puts when none is given, that of the ``data``, or
    an empty one (``none``).
    """

    text: str | None = None
    system: Literal["own", "data", "none"] = "own"
    begin: bool = False  # with the begin-of-text token first; chat templates write their own where they want one
    opens: str = ""  # stands after everything else; the response is taken to begin with it


#: The prompt of the release for LLaMA; its second line is what Qwen2.5-Math's own template says.
_LLAMA = "\n".join([
    "Question:", "{question}", r"Please reason step by step, and put your final answer within \boxed{}.",
    "Answer:", "Let's think step by step.",
])  # fmt: skip
#: What ``data.template`` takes.
TEMPLATES: dict[str, Template] = {
    "plain": Template("{question}", begin=True),
    "qwen": Template(),  # the release on Qwen2.5-Math
    "qwen-data-system": Template(system="data"),
    "qwen-no-system": Template(system="none"),
    "luffy": Template(system="data", opens="<think>\n"),
    "llama": Template(_LLAMA),  # the release on LLaMA
    "llama-begin": Template(_LLAMA, begin=True),  # as text given to vLLM has it
}


def template_named(name: str) -> Template:
    """Return a template."""
    if name not in TEMPLATES:
        raise ConfigError("data.template", name, "one of " + ", ".join(TEMPLATES), "choose one of these")
    return TEMPLATES[name]


def prompt_text(name: str, tokenizer: Any, problem: Problem) -> str:
    """Return the prompt in a template as text, without the begin-of-text token."""
    template = template_named(name)
    if template.text is not None:
        # not str.format: questions are full of LaTeX braces, and so is the instruction
        return template.text.replace("{question}", problem.question) + template.opens
    if not getattr(tokenizer, "chat_template", None):
        remedy = "set data.template to llama (raw text), or save a tokenizer with a chat template beside the model"
        raise ConfigError("data.template", name, "a tokenizer with a chat template", remedy)
    messages = [{"role": "user", "content": problem.question}]
    if template.system == "data" and problem.system is None:
        remedy = "use data rows with a system message, or set data.template to qwen"
        raise ConfigError(f"system message of {problem.id}", None, f"a text, for {name}", remedy)
    if template.system != "own":
        messages.insert(0, {"role": "system", "content": (problem.system or "") * (template.system == "data")})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text if text.endswith(template.opens) else text + template.opens


def response_text(name: str, demonstration: str, ends: Sequence[str]) -> str:
    """Return a demonstration as a response: without what the prompt has opened already, and without end tokens.

    Left in, the policy would be taught to open the tag twice; taken out where the prompt does not open it, it would
    never learn to (the release's SFT script does that). ``ends`` are those tokens' texts: every response gets one.

    Example:
        >>> [response_text(name, "<think>\\nSo<eos>", ["<eos>"]) for name in ("luffy", "qwen")]
        ['So', '<think>\\nSo']
    """
    text = demonstration.removeprefix(template_named(name).opens)
    while (shown := text.rstrip()).endswith(tuple(ends)):
        text = shown.removesuffix(next(end for end in ends if shown.endswith(end)))
    return text


def prompt_tokens(tokenizer: Any, problem: Problem, template: str = "plain") -> np.ndarray:
    """Return the prompt of a question: int32 [P]."""
    text = prompt_text(template, tokenizer, problem)
    return _prompt(tokenizer, template, tokenizer.encode(text, add_special_tokens=False))


def _prompt(tokenizer: Any, template: str, tokens: list[int]) -> np.ndarray:
    begin = [tokenizer.bos_token_id] if TEMPLATES[template].begin and tokenizer.bos_token_id is not None else []
    return np.array([*begin, *tokens], dtype=np.int32)


def demonstration_tokens(tokenizer: Any, text: str, template: str = "plain") -> np.ndarray:
    """Return a demonstration as a response, end token included: int32 [len]."""
    response = response_text(template, text, end_texts(tokenizer))
    tokens = tokenizer.encode(response, add_special_tokens=False)
    return np.array([*tokens, tokenizer.eos_token_id], dtype=np.int32)


#: Of a large set, so many demonstrations are decoded again to see that the tokenizer lost nothing.
ROUND_TRIPS = 2_000


@dataclass(frozen=True)
class EncodedTraining:
    """The training set as tokens: int32 by problem id; no demonstrations where the method needs none.

    ``problems`` are those that are trained on, in their order; a cut demonstration is cut in them too.
    """

    problems: list[Problem]
    prompts: dict[str, np.ndarray]
    demonstrations: dict[str, np.ndarray]
    counts: dict[str, int]


def encode_training(
    tokenizer: Any, problems: Sequence[Problem], config: RunConfig, needs_demonstrations: bool
) -> EncodedTraining:
    """Encode every training question and demonstration once, and check them before any compute.

    A demonstration that is cut loses its end token with its end, as in the release; it is graded as it is trained.
    """
    data, name = config.data, config.data.template
    kept, encoded_prompts, demonstrations = list[Problem](), dict[str, np.ndarray](), dict[str, np.ndarray]()
    counts: dict[str, int] = dict.fromkeys(("prompts_dropped", "demonstrations_dropped", "demonstrations_cut"), 0)
    vocabulary = vocabulary_size(config.policy.path) if config.policy.path else None
    unseen = 0 if template_named(name).system == "data" else sum(problem.system is not None for problem in problems)
    if unseen and data.source not in DATASETS:  # of those the paper's templates are chosen knowingly
        warn(f"{unseen} of {len(problems)} questions of {data.source} have a system message, which "
             f"data.template = {name} does not show; qwen-data-system does")  # fmt: skip
    all_prompts = _encode_all(tokenizer, [prompt_text(name, tokenizer, problem) for problem in problems])
    shown = problems if needs_demonstrations else ()  # else nothing is to be wrong with what is never used
    ends = end_texts(tokenizer)
    responses = [response_text(name, problem.demonstration or "", ends) for problem in shown]
    all_responses = _encode_all(tokenizer, responses)
    for number, problem in enumerate(problems):
        prompt, what = _prompt(tokenizer, name, all_prompts[number]), f"question {problem.id}"
        _check_known(tokenizer, what, prompt, vocabulary)
        if _too_long(config, what, len(prompt), "data.max_prompt_tokens", "data.overlong_prompts"):
            counts["prompts_dropped"] += 1
            continue
        if needs_demonstrations:
            text, what = responses[number], f"demonstration of {problem.id}"
            if problem.demonstration is None or not text.strip():
                allowed = f"a text before its end token: {config.method} learns from it"
                remedy = "correct the row or remove it, or choose a method that needs none (grpo)"
                raise ConfigError(what, problem.demonstration, allowed, remedy)
            if number % max(1, len(problems) // ROUND_TRIPS) == 0:
                _check_round_trip(tokenizer, what, text, all_responses[number])
            response = np.array([*all_responses[number], tokenizer.eos_token_id], dtype=np.int32)
            _check_known(tokenizer, what, response, vocabulary)
            if _too_long(config, what, len(response), "rollout.max_response_tokens", "data.overlong_demonstrations"):
                if data.overlong_demonstrations == "drop":
                    counts["demonstrations_dropped"] += 1
                    continue
                counts["demonstrations_cut"] += 1
                response = response[: config.rollout.max_response_tokens]
                problem = replace(problem, demonstration=tokenizer.decode(response))
            demonstrations[problem.id] = response
        encoded_prompts[problem.id] = prompt
        kept.append(problem)
    warn_of_unknown(tokenizer, encoded_prompts, data.source)
    if len(kept) < config.schedule.prompts_per_step:
        allowed = f"at least schedule.prompts_per_step = {config.schedule.prompts_per_step} questions"
        remedy = "lower it, add questions, or hold out fewer (validation.held_out)"
        raise ConfigError("data", f"{len(kept)} usable questions", allowed, remedy)
    if needs_demonstrations and data.source != "graded":  # the world's own are tested
        check_demonstrations(kept, data.source)
    return EncodedTraining(kept, encoded_prompts, demonstrations, counts)


def _encode_all(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []  # all at once: on all cores


def _too_long(config: RunConfig, what: str, tokens: int, limit_name: str, choice_name: str) -> bool:
    """Whether something is over the limit of that name; an error where the choice of that name is to refuse it."""
    limit, choice = attrgetter(limit_name, choice_name)(config)
    if tokens > limit and choice == "refuse":
        remedy = f"raise {limit_name}, or set {choice_name} to drop"
        raise ConfigError(what, f"{tokens} tokens", f"at most {limit_name} = {limit} tokens", remedy)
    return tokens > limit


def _check_round_trip(tokenizer: Any, what: str, text: str, tokens: list[int]) -> None:
    # a tokenizer that drops what it does not know would teach the policy another text, and nothing would look wrong
    decoded = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    # many tokenizers compose characters first: the same text, in another spelling of Unicode
    taught, given = (unicodedata.normalize("NFC", spelling) for spelling in (decoded, text))
    if taught != given:
        alike = next((place for place, pair in enumerate(zip(taught, given, strict=False)) if len({*pair}) > 1), 0)
        # in ASCII: different characters may look the same
        taught, given = (ascii(whole[max(0, alike - 20) : alike + 40]) for whole in (taught, given))
        remedy = "use the tokenizer the model was trained with, and check that it knows every character"
        raise ConfigError(what, taught, f"what the text says there: {given}", remedy)


def warn_of_unknown(tokenizer: Any, prompts: Mapping[str, np.ndarray], where: str) -> None:
    """Warn of prompts, by id, with text that the tokenizer has no token for: the policy sees its unknown token."""
    unknown = tokenizer.unk_token_id
    if unknown in (None, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):  # stands for itself
        return
    if lost := [name for name, tokens in prompts.items() if (tokens == unknown).any()]:
        warn(f"{len(lost)} of {len(prompts)} questions of {where} hold text that the policy's tokenizer does not know, "
             f"and are asked with {tokenizer.unk_token} in its place: {few(lost, 5)}")  # fmt: skip


def _check_known(tokenizer: Any, what: str, tokens: np.ndarray, vocabulary: int | None) -> None:
    if vocabulary is not None and (token := int(tokens.max(initial=0))) >= vocabulary:
        said, allowed = f"token {token} ({tokenizer.decode([token])!r})", f"below {vocabulary}, the model's vocab_size"
        raise ConfigError(what, said, allowed, "save model and tokenizer that belong together")


class ShownToken(NamedTuple):
    """A token's place in its sequence, its id, and its text."""

    place: int
    id: int
    text: str


def _shown(tokenizer: Any, tokens: np.ndarray) -> list[ShownToken]:
    shown = []
    for place, token in enumerate(map(int, tokens)):
        text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # a part of a character has no text of its own
        shown.append(ShownToken(place, token, tokenizer.convert_ids_to_tokens(token) if "\ufffd" in text else text))
    return shown


def shown_problem(
    tokenizer: Any, problem: Problem, template: str, limit: int
) -> tuple[list[ShownToken], list[ShownToken] | None, bool]:
    """Return (prompt tokens, demonstration tokens or None, whether the demonstration is over ``limit`` tokens)."""
    prompt = _shown(tokenizer, prompt_tokens(tokenizer, problem, template))
    if problem.demonstration is None:
        return prompt, None, False
    response = demonstration_tokens(tokenizer, problem.demonstration, template)
    return prompt, _shown(tokenizer, response[:limit]), len(response) > limit
