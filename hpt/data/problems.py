"""Questions with answers: the one form in which every data set of the package, synthetic or real, is handled."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, Strict, TypeAdapter, ValidationError, ValidationInfo

from hpt.rewards.verify import last_boxed
from hpt.rewards.workers import Verdict, Verifier, why_unanswerable
from hpt.support.errors import ConfigError, warn
from hpt.support.text import few

AnswerKind = Literal["math", "digits", "choice"]
#: A list or an object that somebody wrote as text: of messages where a question belongs, of whatever as an answer.
_WRITTEN_OUT = {"question": r"\s*\[\s*\{\s*['\"](role|content)['\"]\s*:", "answer": r"\s*[\[{][\[{\s]*['\"]"}


def _shown(text: str, of: ValidationInfo) -> str:
    """Refuse blanks, zero-width characters alone, what pandas writes where a value is missing, and `_WRITTEN_OUT`."""
    missing = text in ("nan", "<NA>") or not any(map(str.isprintable, text.replace(" ", "")))
    written = _WRITTEN_OUT.get(of.field_name or "")
    if missing or (written and re.match(written, text)):
        raise ValueError
    return text


Text = Annotated[str, Strict(), AfterValidator(_shown)]


def seeded(*parts: object) -> random.Random:
    """Return a generator that depends on ``parts`` alone: not on earlier calls, the process or Python's ``hash``."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big"))


@dataclass(frozen=True)
class Problem:
    """One question with the answer it is graded against.

    ``answer_kind`` is what the verifier asks of the boxed text besides equality: nothing ("math"), digits only
    ("digits"), or one of the letters A-J and nothing beside ("choice"). Rows of files are held to the types here by
    `checked_problem`.
    """

    id: Text  # unique within its file or set
    question: Text  # shown to the policy, before any chat template
    answer: Text  # reference answer, without a box
    demonstration: Text | None = None  # a whole response ending in the box; None where no method may learn from it
    level: Annotated[int, Strict(), Field(lt=1_000_000)] | None = None  # difficulty, 1 is the easiest
    answer_kind: AnswerKind = "math"
    system: str | None = None  # message the source puts before the question; only templates that say so show it


@dataclass(frozen=True)
class EvaluationSet:
    """What tables say of an evaluation set, and its problems, which are made or read when they are asked for."""

    name: str
    stands_for: str  # the paper's benchmark in whose place it is; empty = none
    samples_per_problem: int
    distribution: str  # ``in`` or ``out`` of the training distribution
    choices: int  # answers that a question offers, of which one is right; 0 where it offers none
    make: Callable[[], tuple[Problem, ...]] = field(repr=False)

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """The problems, in the set's order."""
        return self.make()


_PROBLEM = TypeAdapter(Problem)
_ALLOWED = {
    "answer_kind": "one of " + ", ".join(get_args(AnswerKind)),
    "demonstration": "non-empty text or null",
    "level": "a whole number below 1,000,000 or null",
    "system": "text or null",
}


def checked_problem(row: dict[str, Any], where: str) -> Problem:
    """Return a row's fields, of whatever type their source had, as a `Problem`; ``where`` is file and row."""
    try:
        return _PROBLEM.validate_python(row)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        allowed = _ALLOWED.get(name, "non-empty text, not a list or an object written as text")
        raise ConfigError(f"{where}: {name}", row.get(name), allowed, "correct the row or remove it") from None


def check_answerable(problems: Iterable[Problem], where: str) -> None:
    """Refuse a reference answer that no response can be graded against."""
    for problem in problems:
        if allowed := why_unanswerable(problem):
            remedy = "correct the row or remove it: no response could be right"
            raise ConfigError(f"{where}: answer of {problem.id}", problem.answer, allowed, remedy)


#: Of demonstrations whose box is not the answer letter for letter, at most so many are graded: seconds, not minutes.
GRADED_DEMONSTRATIONS = 1_000


def check_demonstrations(problems: Sequence[Problem], where: str) -> None:
    """Warn of demonstrations whose boxed answer is graded as wrong; refuse them where not one is right."""
    boxes = {problem: last_boxed(problem.demonstration or "") for problem in problems}
    boxed = [problem for problem, box in boxes.items() if box is not None]
    differing = [problem for problem in boxed if boxes[problem] not in (problem.answer, last_boxed(problem.answer))]
    graded = differing[:: 1 + len(differing) // (GRADED_DEMONSTRATIONS + 1)]
    if not graded:
        return
    with Verifier() as verifier:
        grades = verifier.grade([problem.demonstration or "" for problem in graded], graded)
    wrong = [problem for problem, grade in zip(graded, grades, strict=True) if grade.verdict is Verdict.wrong]
    if not wrong:
        return
    said = f"{len(wrong)} of {len(boxed)} end in another answer than their row"
    if len(graded) < len(differing):
        said += f" (of {len(differing)} that differ as text, {len(graded)} were graded)"
    if len(wrong) == len(graded) and len(differing) == len(boxed):
        allowed = f"the answer of the row in the last box, as {wrong[0].answer!r} of {wrong[0].id}"
        raise ConfigError(f"demonstrations of {where}", said, allowed, "correct the answers or the demonstrations")
    warn(f"demonstrations of {where}: {said}, and are taught all the same: {few([p.id for p in wrong], 5)}")


def save_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Write problems as JSON Lines."""
    Path(path).write_text("".join(_canonical(problem) + "\n" for problem in problems), encoding="utf-8")


def problems_hash(problems: Iterable[Problem]) -> str:
    """Return the SHA-256 (64 hex digits) of all fields of all problems, in their order."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(_canonical(problem).encode() + b"\n")
    return digest.hexdigest()


@lru_cache(maxsize=65_536)  # a report hashes the same questions for hundreds of runs
def _canonical(problem: Problem) -> str:
    row = dict(vars(problem))  # `asdict` copies every text; all fields are flat
    if problem.system is None:  # newer than the first data hashes, which must stay what they are
        del row["system"]
    return json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
