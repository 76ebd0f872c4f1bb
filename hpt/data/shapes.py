"""The shapes rows come in, as data: which columns a shape has, and how its row becomes a `Problem`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from hpt.boxes import last_boxed
from hpt.data.rows import Row
from hpt.data.table import CHOICE_SEED
from hpt.errors import ConfigError
from hpt.tasks.chains import seeded
from hpt.tasks.problems import AnswerKind, Problem

LETTERS = "ABCDE"


@dataclass(frozen=True)
class Shape:
    """Rows of one kind.

    Attributes:
        name: key of `SHAPES`.
        columns: what a row must have; other columns are passed over.
        read: (row, answer kind) to the fields of a `Problem` besides its id; a missing value comes out as None.
        id_columns: the first that a row has names it; else its place does.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Row], dict[str, Any]]
    id_columns: tuple[str, ...] = ("id", "unique_id", "Record ID")


def problems_of(
    rows: Sequence[Row], shapes: Sequence[str], source: str, answer_kind: AnswerKind = "math", prefix: str = ""
) -> tuple[list[Problem], str]:
    """Turn rows into problems.

    Args:
        rows: as read.
        shapes: names of the shapes they may have; the first whose columns are all there is taken.
        source: file or set, for messages.
        answer_kind: how answers are graded.
        prefix: of the ids of rows without an id of their own.

    Returns:
        (problems, name of the shape found).

    Raises:
        ConfigError: no row, columns of no shape, a row without question or answer, or an id twice.
    """
    if not rows:
        raise ConfigError("data.source", source, "at least one row", "fetch the file again: it holds none")
    shape = shape_of(rows[0], shapes)
    if shape is None:
        allowed = " or ".join(f"{', '.join(SHAPES[name].columns)} ({name})" for name in shapes)
        remedy = "name another file, or rename columns"
        raise ConfigError(f"{source}: columns", ", ".join(map(str, rows[0])), allowed, remedy)
    fields: dict[str, Any] = {"answer_kind": answer_kind}  # unless a row says its own
    problems, seen = [], {}
    for number, row in enumerate(rows):
        where = f"{source}, row {number}"
        named = next((str(row[column]) for column in shape.id_columns if row.get(column) not in (None, "")), "")
        identity = named or f"{prefix or source}-{number}"
        if lacking := [column for column in shape.columns if column not in row]:
            remedy = "complete the row or remove it"
            raise ConfigError(f"{where}: {lacking[0]}", None, f"a value in every row ({shape.name} rows)", remedy)
        try:
            found = shape.read(row)
        except (TypeError, ValueError, KeyError, AttributeError) as error:  # text where a list belongs, and the like
            allowed = f"columns as a {shape.name} row has them"
            raise ConfigError(where, _short(row), allowed, f"correct the row or remove it ({error})") from error
        for field in ("question", "answer"):
            if not found[field]:
                remedy = "complete the row or remove it"
                raise ConfigError(f"{where}: {field}", found[field], f"a non-empty text ({shape.name} row)", remedy)
        if identity in seen:
            raise ConfigError(f"{where}: id", identity, "an id used once", f"rename it: row {seen[identity]} has it")
        seen[identity] = number
        problems.append(Problem(identity, **(fields | found)))
    return problems, shape.name


def shape_of(row: Row, names: Sequence[str] | None = None) -> Shape | None:
    """Return the first shape whose columns a row has all of; None where there is none.

    Example:
        >>> shape_of({"problem": "1+1?", "answer": "2"}).name
        'problem'
    """
    known = (SHAPES[name] for name in names or SHAPES)
    return next((shape for shape in known if all(column in row for column in shape.columns)), None)


def _short(row: Row) -> str:
    text = ", ".join(f"{name}: {value!r}" for name, value in row.items())
    return text if len(text) <= 200 else text[:200] + " ..."


def text_of(value: Any) -> str | None:
    """Return an answer as text: 142.0 of a float column is "142", a list is joined, a box is opened.

    Example:
        >>> text_of(142.0), text_of(["1", "2"]), text_of(r"\\boxed{204}")
        ('142', '1, 2', '204')
    """
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(text for text in map(text_of, value) if text)
    text = str(value).strip()
    boxed = last_boxed(text)
    return text if boxed is None else boxed


def _level(value: Any) -> int | None:
    """5 of 5, "5" or "Level 5"; None of anything else."""
    digits = str(value).removeprefix("Level ").strip()
    return int(digits) if digits.isdecimal() else None


def _plain(question: str, answer: str, solution: str = "") -> Callable[[Row], dict[str, Any]]:
    """Read rows whose values stand in columns of their own."""

    def read(row: Row) -> dict[str, Any]:
        return {
            "question": _text(row[question]),
            "answer": text_of(row[answer]),
            "demonstration": _text(row.get(solution)) if solution else None,
            "level": _level(row.get("level")),
        }

    return read


def _text(value: Any) -> str | None:
    return None if value is None else str(value).strip() or None


def _openr1(row: Row) -> dict[str, Any]:
    """Messages: an optional system message, the question; the target is the demonstration, not stripped."""
    messages = [dict(message) for message in row["prompt"] or ()]
    by_role = {message.get("role"): message.get("content") for message in messages}
    target = [message.get("content") for message in row["target"] or () if message.get("content")]
    reward = row["reward_model"] or {}
    return {
        "question": _text(by_role.get("user")),
        "answer": text_of(reward.get("ground_truth")),
        "demonstration": target[0] if target else None,
        "system": _text(by_role.get("system")),
    }


def with_choices(question: str, texts: Sequence[str]) -> str:
    """Return a question with its choices below it, a letter and a line each.

    Example:
        >>> print(with_choices("Which is even?", ["one", "two"]))
        Which is even?
        <BLANKLINE>
        A. one
        B. two
    """
    lines = [f"{letter}. {text.strip()}" for letter, text in zip(LETTERS, texts, strict=False)]
    return "\n".join([question.strip(), "", *lines])


def _choices(row: Row) -> dict[str, Any]:
    """ARC: texts and labels beside each other; 22 questions have the digits 1 to 4 for letters."""
    choices: Mapping[str, Sequence[str]] = row["choices"] or {"text": (), "label": ()}
    if len(choices["text"]) != len(choices["label"]) or len(choices["text"]) > len(LETTERS):
        raise ValueError(
            f"{len(choices['text'])} choices and {len(choices['label'])} labels, of at most {len(LETTERS)}"
        )
    labels = [str(label) for label in choices["label"]]
    key = str(row["answerKey"])
    answer = LETTERS[labels.index(key)] if key in labels else None
    question = _text(row["question"])
    shown = question and with_choices(question, choices["text"])
    return {"question": shown, "answer": answer, "answer_kind": "choice"}


_GPQA_CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def _gpqa(row: Row) -> dict[str, Any]:
    """GPQA: the right answer stands first in its row; the order shown is drawn from the question and a fixed seed."""
    question = _text(row["Question"])
    texts = [_text(row[column]) or "" for column in _GPQA_CHOICES]
    if not all(texts):
        raise ValueError(f"{_GPQA_CHOICES[texts.index('')]} is empty")
    order = list(range(len(texts)))
    seeded("choices", CHOICE_SEED, question).shuffle(order)
    shown = question and with_choices(question, [texts[place] for place in order])
    return {"question": shown, "answer": LETTERS[order.index(0)], "answer_kind": "choice"}


def _own(row: Row) -> dict[str, Any]:
    demonstration, system = row.get("demonstration"), row.get("system")
    found = _plain("question", "answer")(row)
    kind = {"answer_kind": row["answer_kind"]} if row.get("answer_kind") else {}
    if kind and kind["answer_kind"] not in get_args(AnswerKind):
        raise ValueError(f"answer_kind is {kind['answer_kind']!r}, not one of {', '.join(get_args(AnswerKind))}")
    return {**found, **kind, "demonstration": demonstration, "system": system}


#: The package's own.
OWN = "hpt"
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(OWN, ("id", "question", "answer"), _own),
        Shape("openr1", ("prompt", "target", "reward_model"), _openr1, id_columns=()),
        Shape("math", ("problem", "solution", "answer", "level"), _plain("problem", "answer", "solution")),
        Shape("expected", ("problem", "expected_answer"), _plain("problem", "expected_answer")),
        Shape("final_answer", ("question", "final_answer"), _plain("question", "final_answer"), id_columns=()),
        Shape("choices", ("question", "choices", "answerKey"), _choices),
        Shape("gpqa", ("Question", *_GPQA_CHOICES), _gpqa),
        Shape("released", ("prompt", "answer"), _plain("prompt", "answer")),
        Shape("problem", ("problem", "answer"), _plain("problem", "answer", "solution")),
        Shape("question", ("question", "answer"), _plain("question", "answer", "solution")),
    )
}
#: Shapes of a training file that is none of the public sets, the most telling first.
ANY_SHAPE = tuple(SHAPES)
