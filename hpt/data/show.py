"""What the model sees of a problem, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpt.tasks.problems import Problem
from hpt.tasks.prompts import demonstration_tokens, prompt_tokens


@dataclass(frozen=True)
class ShownToken:
    """A token's place in its sequence, its id, and its text (the vocabulary's own spelling where it is no whole text).

    Example:
        >>> ShownToken(0, 17, "2").text
        '2'
    """

    place: int
    id: int
    text: str


def shown_tokens(tokenizer: Any, tokens: Sequence[int]) -> list[ShownToken]:
    """Return every token with the text it stands for; special tokens are shown as they are called."""
    shown = []
    for place, token in enumerate(int(token) for token in tokens):
        text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # a part of a character has no text of its own
        shown.append(ShownToken(place, token, tokenizer.convert_ids_to_tokens(token) if "\ufffd" in text else text))
    return shown


def shown_problem(
    tokenizer: Any, problem: Problem, template: str, limit: int
) -> tuple[list[ShownToken], list[ShownToken] | None, bool]:
    """Return (prompt tokens, demonstration tokens or None, whether the demonstration is over ``limit`` tokens)."""
    prompt = shown_tokens(tokenizer, prompt_tokens(tokenizer, problem, template).tolist())
    if problem.demonstration is None:
        return prompt, None, False
    response = demonstration_tokens(tokenizer, problem.demonstration, template)
    return prompt, shown_tokens(tokenizer, response[:limit].tolist()), len(response) > limit
