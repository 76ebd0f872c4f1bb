"""Are benchmark problems among the training questions? Exact and near-duplicates, by shared word n-grams."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hpt.data.problems import Problem

#: Words of a shingle. Contamination checks of language models use 8 to 13 (Brown et al. 2020, Appendix C: 13); contest
#: questions are short, and 8 finds one that was reworded at either end.
WORDS = 8
#: Share of a benchmark question's shingles found in one training question from which it counts as near.
NEAR = 0.5

_WORD = re.compile(r"[a-z]+|\d+")


@dataclass(frozen=True)
class Leak:
    """A benchmark problem met in training: which question, and the share of its shingles found there (1 = exact)."""

    benchmark: str
    problem_id: str
    training_id: str
    kind: Literal["exact", "near"]
    share: float


def words(text: str) -> tuple[str, ...]:
    r"""Return a question as lower-case words and numbers, without punctuation and LaTeX commands' backslashes.

    Example:
        >>> words(r"Find $\frac{1}{2}$ of X.")
        ('find', 'frac', '1', '2', 'of', 'x')
    """
    return tuple(_WORD.findall(text.lower()))


def _shingles(tokens: Sequence[str]) -> set[tuple[str, ...]]:
    if len(tokens) <= WORDS:
        return {tuple(tokens)}
    return {tuple(tokens[start : start + WORDS]) for start in range(len(tokens) - WORDS + 1)}


def leaks(training: Sequence[Problem], benchmarks: Mapping[str, Sequence[Problem]]) -> list[Leak]:
    """Return every benchmark problem with its closest training question, where that is exact or near.

    Linear in the size of the training set: an index from shingle to benchmark problems is built once.

    Example:
        >>> question = "What is the sum of the first ten odd positive integers, written in base nine?"
        >>> seen, asked = Problem("t", question, "1"), Problem("b", question.upper() + " ", "1")
        >>> [(leak.kind, leak.share) for leak in leaks([seen], {"aime24": [asked]})]
        [('exact', 1.0)]
    """
    index: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    texts = {(name, one.id): words(one.question) for name, problems in benchmarks.items() for one in problems}
    sizes: dict[tuple[str, str], int] = {}
    for place, text in texts.items():
        shingles = _shingles(text)
        sizes[place] = len(shingles)
        for shingle in shingles:
            index[shingle].append(place)
    best: dict[tuple[str, str], Leak] = {}
    for question in training:
        tokens = words(question.question)
        shared = Counter(place for shingle in _shingles(tokens) for place in index.get(shingle, ()))
        for place, count in shared.items():
            exact, share = tokens == texts[place], count / sizes[place]
            if exact or share >= NEAR:
                leak = Leak(*place, question.id, "exact" if exact else "near", 1.0 if exact else share)
                best[place] = max(best.get(place, leak), leak, key=lambda one: (one.kind == "exact", one.share))
    return [best[place] for place in texts if place in best]
