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


@dataclass(frozen=True)
class Leak:
    """A benchmark problem met in training: which question, and the share of its shingles found there (1 = exact)."""

    benchmark: str
    problem_id: str
    training_id: str
    kind: Literal["exact", "near"]
    share: float


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z]+|\d+", text.lower()))


def _shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + WORDS]) for start in range(max(1, len(words) - WORDS + 1))}


def leaks(training: Sequence[Problem], benchmarks: Mapping[str, Sequence[Problem]]) -> list[Leak]:
    """Return every benchmark problem with its closest training question, where that is exact or near.

    Linear in the size of the training set: an index from shingle to benchmark problems is built once.
    """
    index: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    texts = {(name, p.id): _words(p.question) for name, problems in benchmarks.items() for p in problems}
    for place, text in texts.items():
        for shingle in _shingles(text):
            index[shingle].append(place)
    best: dict[tuple[str, str], Leak] = {}
    for question in training:
        words = _words(question.question)
        shared = Counter(place for shingle in _shingles(words) for place in index.get(shingle, ()))
        for place, count in shared.items():
            exact = words == texts[place]
            share = 1.0 if exact else count / len(_shingles(texts[place]))
            if exact or share >= NEAR:
                leak = Leak(*place, question.id, "exact" if exact else "near", share)
                best[place] = max(best.get(place, leak), leak, key=lambda leak: (leak.kind == "exact", leak.share))
    return [best[place] for place in texts if place in best]
