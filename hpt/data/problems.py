"""Questions with answers: the one form in which every data set of the package, synthetic or real, is handled."""

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from hpt.rewards.verify import last_boxed
from hpt.rewards.workers import Verdict, Verifier, why_unanswerable
from hpt.support.errors import ConfigError, warn
from hpt.support.text import few

AnswerKind = Literal["math", "digits", "choice"]


def seeded(*parts: object) -> random.Random:
    """Return a generator that depends on ``parts`` alone: not on earlier calls, the process or Python's ``hash``.

    Example:
        >>> seeded("teacher", 1).random() == seeded("teacher", 1).random() != seeded("teacher", 2).random()
        True
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big"))


@dataclass(frozen=True)
class Problem:
    """One question with the answer it is graded against.

    Attributes:
        id: unique within its file or set.
        question: text shown to the policy, before any chat template.
        answer: reference answer, without a box.
        demonstration: a complete response ending in the boxed answer, or None where no method may learn from it.
        level: difficulty, 1 is the easiest; None where the source has no levels.
        answer_kind: what the verifier asks of the boxed text besides equality: nothing ("math"), digits only
            ("digits"), or one of the letters A-J and nothing beside ("choice").
        system: system message the source puts before the question; only templates that say so show it.

    Example:
        >>> Problem("t-1", "3985*9?", "7125", None, 1, "digits").answer
        '7125'
    """

    id: str
    question: str
    answer: str
    demonstration: str | None = None
    level: int | None = None
    answer_kind: AnswerKind = "math"
    system: str | None = None


#: What each field of a row may hold: (allowed types, the same in words).
_FIELDS: dict[str, tuple[tuple[type, ...], str]] = {
    "id": ((str,), "text"),
    "question": ((str,), "non-empty text"),
    "answer": ((str,), "non-empty text"),
    "demonstration": ((str, type(None)), "non-empty text or null"),
    "level": ((int, type(None)), "a whole number below 1,000,000 or null"),
    "answer_kind": ((str,), "one of " + ", ".join(get_args(AnswerKind))),
    "system": ((str, type(None)), "text or null"),
}
#: A list or an object that somebody wrote as text: of messages where a question belongs, of whatever as an answer.
_WRITTEN_OUT = {
    "question": re.compile(r"\s*\[\s*\{\s*['\"](role|content)['\"]\s*:"),
    "answer": re.compile(r"\s*[\[{][\[{\s]*['\"]"),
}
#: What pandas writes as text where a value is missing.
_OF_PANDAS = ("nan", "<NA>")
_REQUIRED = tuple(field.name for field in fields(Problem)[:3])


def load_problems(path: str | Path) -> list[Problem]:
    """Read problems from a JSON Lines file, one object per line with the fields of `Problem`.

    Raises:
        ConfigError: the file cannot be read, holds no problem, or a row is malformed; the message names file and
            line, the field, and what is allowed there.

    Example:
        >>> load_problems("problems.jsonl")[0].question  # doctest: +SKIP
        '3985*9?'
    """
    path = Path(path)
    try:
        # not splitlines(): it also cuts at U+0085, U+2028 and others, which JSON leaves unescaped inside text
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "data.source", str(path), "a readable UTF-8 .jsonl file", f"check the path: {error}"
        ) from None
    problems: list[Problem] = []
    line_of_id: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        problem = _parse(line, f"{path}:{number}")
        if problem.id in line_of_id:
            raise ConfigError(
                f"{path}:{number}: id",
                problem.id,
                "an id used once",
                f"rename it: line {line_of_id[problem.id]} has it",
            )
        line_of_id[problem.id] = number
        problems.append(problem)
    if not problems:
        raise ConfigError("data.source", str(path), "at least one problem", "write one JSON object per line")
    return problems


def _parse(line: str, where: str) -> Problem:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, and brackets without end
        raise ConfigError(where, line, "one JSON object per line", f"correct the syntax: {error}") from None
    if not isinstance(row, dict):
        raise ConfigError(where, line, "a JSON object with fields " + ", ".join(_FIELDS), "write {...}")
    for name in _REQUIRED:
        if name not in row:
            raise ConfigError(f"{where}: {name}", None, _FIELDS[name][1], f"add the field {name}")
    for name, value in row.items():
        if name not in _FIELDS:
            raise ConfigError(f"{where}: {name}", value, "only " + ", ".join(_FIELDS), "remove or rename this field")
    return checked_problem(row, where)


def checked_problem(row: dict[str, Any], where: str, of: str = "") -> Problem:
    """Return a row's fields as a `Problem`.

    Args:
        row: values of the fields, of whatever type their source had.
        where: file and row, for messages.
        of: what kind of row it is, for messages.

    Raises:
        ConfigError: the first value that its field may not have.

    Example:
        >>> checked_problem({"id": "1", "question": "1+1?", "answer": "2"}, "own.jsonl:1").answer
        '2'
    """
    for name, value in row.items():
        types, allowed = _FIELDS[name]
        # bool is a subclass of int, but a level of `true` is a mistake
        wrong_type = not isinstance(value, types) or isinstance(value, bool)
        blank = name != "system" and isinstance(value, str) and (value in _OF_PANDAS or not _shows(value))
        unreadable = not _storable(value)
        if wrong_type or blank or unreadable or (name == "answer_kind" and value not in get_args(AnswerKind)):
            raise ConfigError(f"{where}: {name}", value, allowed + of, "correct the row or remove it")
        if isinstance(value, str) and name in _WRITTEN_OUT and _WRITTEN_OUT[name].match(value):
            allowed += ", not a list or an object written as text"
            raise ConfigError(f"{where}: {name}", value, allowed, "write the list itself, or what it holds")
    return Problem(**row)


def check_answerable(problems: Iterable[Problem], where: str) -> None:
    """Refuse a reference answer that no response can be graded against.

    Args:
        problems: as read from ``where``, a file or set.
        where: for messages.

    Raises:
        ConfigError: names the first such problem, and what its answer would have to be.

    Example:
        >>> check_answerable([Problem("1", "1+1?", "2")], "rows.jsonl")
    """
    for problem in problems:
        if allowed := why_unanswerable(problem):
            remedy = "correct the row or remove it: no response could be right"
            raise ConfigError(f"{where}: answer of {problem.id}", problem.answer, allowed, remedy)


#: Of demonstrations whose box is not the answer letter for letter, at most so many are graded: seconds, not minutes.
GRADED_DEMONSTRATIONS = 1_000


def check_demonstrations(problems: Sequence[Problem], where: str) -> None:
    """Warn of demonstrations whose boxed answer is graded as wrong; refuse them where not one is right.

    One without a box is passed over. Of a large set, a part of those whose text differs is graded, and the warning says
    of how many.

    Args:
        problems: those that are trained on.
        where: the file or set they come from, for messages.

    Raises:
        ConfigError: every boxed answer contradicts its problem's.
    """
    boxes = {problem: last_boxed(problem.demonstration or "") for problem in problems}
    boxed = [problem for problem, box in boxes.items() if box is not None]
    differing = [own for own in boxed if boxes[own] not in (own.answer, last_boxed(own.answer))]
    graded = differing[:: 1 + len(differing) // (GRADED_DEMONSTRATIONS + 1)]
    if not graded:
        return
    with Verifier() as verifier:
        grades = verifier.grade([problem.demonstration or "" for problem in graded], graded)
    wrong = [own for own, grade in zip(graded, grades, strict=True) if grade.verdict is Verdict.wrong]
    if not wrong:
        return
    said = f"{len(wrong)} of {len(boxed)} end in another answer than their row"
    if len(graded) < len(differing):
        said += f" (of {len(differing)} that differ as text, {len(graded)} were graded)"
    if len(wrong) == len(graded) and len(differing) == len(boxed):
        allowed = f"the answer of the row in the last box, as {wrong[0].answer!r} of {wrong[0].id}"
        raise ConfigError(f"demonstrations of {where}", said, allowed, "correct the answers or the demonstrations")
    warn(f"demonstrations of {where}: {said}, and are taught all the same: {few([own.id for own in wrong], 5)}")


def _shows(text: str) -> bool:
    """Whether a text holds a character that can be seen: a space, a control or a zero-width character is none."""
    return any(unicodedata.category(character) not in ("Zs", "Zl", "Zp", "Cc", "Cf") for character in text)


def _storable(value: Any) -> bool:
    """Whether tables can hold a value: half of a surrogate pair, which JSON can write as an escape, is no text."""
    if isinstance(value, int):
        return abs(value) < 1_000_000
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def save_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Write problems as JSON Lines, so that `load_problems` returns them unchanged.

    Example:
        >>> save_problems("problems.jsonl", [Problem("1", "1+1?", "2")])  # doctest: +SKIP
    """
    text = "".join(_canonical(problem) + "\n" for problem in problems)
    Path(path).write_text(text, encoding="utf-8")


def problems_hash(problems: Sequence[Problem]) -> str:
    """Return the SHA-256 (64 hex digits) of all fields of all problems, in their order.

    Example:
        >>> one, two = Problem("1", "1+1?", "2"), Problem("2", "2+2?", "4")
        >>> problems_hash([one, two]) == problems_hash([two, one])
        False
    """
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(_canonical(problem).encode() + b"\n")
    return digest.hexdigest()


def _canonical(problem: Problem) -> str:
    row = dict(vars(problem))  # `asdict` copies every text; all fields are flat
    if problem.system is None:  # newer than the first data hashes, which must stay what they are
        del row["system"]
    return json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
