"""Rows of files, folders and hub repositories, and how a row of each known shape becomes a `Problem`."""

import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hpt.data.problems import AnswerKind, Problem, checked_problem, seeded
from hpt.data.public import CHOICE_SEED, Dataset
from hpt.rewards.verify import last_boxed
from hpt.support.errors import ConfigError

Row = dict[str, Any]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def hub_access(kind: Literal["dataset", "model"], name: str, repository: str, local: str) -> Generator[None]:
    """Turn whatever the hub raises inside the block into a `ConfigError`; ``local`` is what to type without a hub."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError

    field = "data set" if kind == "dataset" else "policy.name"
    try:
        yield
    except (RepositoryNotFoundError, DatasetNotFoundError) as error:  # a gated one is not found either
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
        remedy = f"accept its licence at {page}, then type `hf auth login` or set HF_TOKEN; or use a copy: {local}"
        raise ConfigError(field, name, f"access to {repository} on the hub", remedy) from error
    except Exception as error:  # the hub, its HTTP client and datasets each raise a family of their own
        remedy = f"try again later, the parts that came are kept; or use a copy: {local} ({_first_line(error)})"
        raise ConfigError(field, name, f"{repository} on the hub, reachable and complete", remedy) from error


def hub_rows(dataset: Dataset) -> tuple[list[Row], str]:
    """Return a set's rows from the hub, and the revision they have."""
    local = f"hpt data download {dataset.name} --from FILE"
    if not dataset.hub:
        raise ConfigError("data set", dataset.name, "a set with a repository on the hub", f"name the file: {local}")
    import datasets
    from huggingface_hub import HfApi

    with hub_access("dataset", dataset.name, dataset.hub, local):
        revision = dataset.revision or HfApi().dataset_info(dataset.hub).sha or ""
        table = datasets.load_dataset(dataset.hub, dataset.config, split=dataset.split, revision=revision)
    return [dict(row) for row in table], revision


def _parquet(file: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(file).to_pylist()


def _json(file: Path) -> Any:
    """Read a list, or JSON Lines: either ending is used for either."""
    text, rows = file.read_text(encoding="utf-8-sig"), []  # a byte-order mark is no part of the text
    with suppress(ValueError):
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    # not splitlines(): it also cuts at U+2028 and others, which JSON leaves unescaped inside text
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from error
    return rows


#: File name endings that are read, and how.
READERS: dict[str, Callable[[Path], Any]] = {".parquet": _parquet, ".jsonl": _json, ".json": _json}


def local_rows(path: str | Path) -> list[Row]:
    """Return the rows of a file of one of `READERS`, or of all of a folder, in the order of their names."""
    path = Path(path)
    files = [path]
    if path.is_dir():  # the cards, scripts and manifests beside its data are none
        files = sorted(file for file in path.rglob("*") if file.suffix in READERS and file.name != "manifest.json"
                       and not any(part.startswith(".") for part in file.relative_to(path).parts))  # fmt: skip
    if not files or not all(file.is_file() and file.suffix in READERS for file in files):
        allowed = "a file or folder of " + ", ".join(READERS)
        raise ConfigError("data.source", str(path), allowed, "correct the path, or see `hpt data check`")
    return [row for file in files for row in _read(file)]


def _read(file: Path) -> list[Row]:
    import pyarrow

    try:
        rows = READERS[file.suffix](file)
    except (OSError, ValueError, RecursionError, pyarrow.ArrowException) as error:  # ArrowInvalid: no footer, cut off
        remedy = f"correct it, or copy or download it again: {_first_line(error)}"
        raise ConfigError("data.source", str(file), f"a complete {file.suffix} file", remedy) from error
    if not all(isinstance(row, dict) for row in rows):
        raise ConfigError("data.source", str(file), "rows: a list of JSON objects", "name another file")
    return rows


@dataclass(frozen=True)
class Shape:
    """Rows of one kind: what they must have, other columns being passed over, and how they are read.

    ``read`` makes the fields of a `Problem` besides its id; a missing value comes out as None. The first of
    ``id_columns`` that a row has names it; else its place does.
    """

    columns: tuple[str, ...]
    read: Callable[[Row], dict[str, Any]]
    id_columns: tuple[str, ...] = ("id", "unique_id", "Record ID")


def problems_of(
    rows: Sequence[Row], shapes: Sequence[str], source: str, answer_kind: AnswerKind = "math", prefix: str = ""
) -> tuple[list[Problem], str]:
    """Turn rows of ``source`` into problems; return them and the first of ``shapes`` whose columns the first row has.

    ``prefix``, or else the source, begins the ids of rows without an id of their own.
    """
    if not rows:
        raise ConfigError("data.source", source, "at least one row", "fetch the file again: it holds none")
    name = next((name for name in shapes if set(SHAPES[name].columns) <= set(rows[0])), None)
    if name is None:
        allowed = " or ".join(f"{', '.join(SHAPES[name].columns)} ({name})" for name in shapes)
        remedy = "name another file, or rename columns"
        raise ConfigError(f"{source}: columns", ", ".join(map(str, rows[0])), allowed, remedy)
    shape, remedy = SHAPES[name], "correct the row or remove it"
    problems: dict[str, Problem] = {}
    for number, row in enumerate(rows):
        where = f"{source}, row {number}"
        named = next((str(row[column]) for column in shape.id_columns if row.get(column) not in (None, "")), "")
        identity = named or f"{prefix or source}-{number}"
        if identity in problems:
            raise ConfigError(f"{where}: id", identity, "an id used once", "rename it: a row before has it")
        if lacking := [column for column in shape.columns if column not in row]:
            raise ConfigError(f"{where}: {lacking[0]}", None, f"a value in every row ({name} rows)", remedy)
        try:
            found = shape.read(row)
        except (TypeError, ValueError, LookupError, AttributeError) as error:  # text where a list belongs, and the like
            raise ConfigError(where, row, f"columns as a {name} row has them", f"{remedy} ({error})") from error
        problems[identity] = checked_problem({"id": identity, "answer_kind": answer_kind, **found}, where)
    return list(problems.values()), name


def text_of(value: Any) -> Any:
    """Return an answer as text: 142.0 of a float column is "142", a list is joined, a box is opened, "#### 7" is 7.

    What is neither text nor a number comes back as it is, to be refused.

    Example:
        >>> text_of(142.0), text_of(["1", "2"]), text_of(r"\\boxed{204}"), text_of(True)
        ('142', '1, 2', '204', True)
    """
    if isinstance(value, list):
        return ", ".join(map(text_of, value)) or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int or (isinstance(value, float) and math.isfinite(value)):
        value = str(value)
    if not isinstance(value, str):
        return value
    text = f"\n{value}".rpartition("\n#### ")[2].strip()  # GSM8K's answers stand below their solutions
    boxed = last_boxed(text)
    return text if boxed is None else boxed


def _text(value: Any) -> Any:
    return value.strip() or None if isinstance(value, str) else value


def _level(value: Any) -> int | None:
    """5 of 5, 5.0, "5" or "Level 5"; None of anything else."""
    digits = str(value).removeprefix("Level ").removesuffix(".0").strip()
    return int(digits) if digits.isdecimal() else None


def _plain(question: str, answer: str, solution: str, row: Row) -> dict[str, Any]:
    """Read values that stand in these columns; the question may be a conversation."""
    for column in ("choices", "options"):
        if row.get(column):
            raise ValueError(f"{column} are not shown: write them below the question and leave the column out")
    asked = row[question]
    found = conversation(asked) if isinstance(asked, list) else {"question": _text(asked)}
    shown = {"demonstration": row.get("demonstration") or _text(row.get(solution))}
    shown |= {name: row.get(name) for name in ("system", "answer_kind")}
    found |= {name: value for name, value in shown.items() if value is not None}
    return {**found, "answer": text_of(row[answer]), "level": _level(row.get("level"))}


def conversation(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the last user turn as the question, an answer after it as the demonstration, and the system message."""
    found: dict[str, Any] = {"question": None}
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "user":
            found |= {"question": _text(content), "demonstration": None}
        elif role == "assistant":
            found["demonstration"] = content  # not stripped: it is taught as it stands
        elif role == "system":
            found["system"] = _text(content)
        else:
            raise ValueError(f"role {role!r} is none of system, user, assistant")
    return found


def _rewarded(row: Row) -> dict[str, Any]:
    """Messages with a reward model that holds the answer, of verl; OpenR1's have a target, the demonstration."""
    target = [message.get("content") for message in row.get("target") or () if message.get("content")]
    truth = (row["reward_model"] or {}).get("ground_truth")
    if isinstance(truth, list) and len(truth) > 1:  # any of them, or all: the row does not say
        raise ValueError(f"ground_truth holds {len(truth)} answers, and one is graded against")
    shown = {"answer": text_of(truth), "demonstration": target[0] if target else None}
    return {**conversation(row["prompt"] or ()), **shown}


def _shown(row: Row) -> dict[str, Any]:
    """A chat, or alpaca's instruction with its output: the answer may stand in the demonstration's last box alone."""
    if "messages" in row:
        found = conversation(row["messages"])
    else:
        asked = [row["instruction"], *filter(None, [row.get("input")])]
        found = {"question": _text("\n\n".join(asked)), "demonstration": _text(row["output"])}
    boxed = last_boxed(found.get("demonstration") or "")
    return {**found, "answer": boxed if row.get("answer") is None else text_of(row["answer"])}


LETTERS = "ABCDEFGHIJ"


def with_choices(question: str, texts: Sequence[str]) -> str:
    """Return a question with its choices below it, a letter and a line each."""
    lines = [f"{letter}. {text.strip()}" for letter, text in zip(LETTERS, texts, strict=False)]
    return "\n".join([question.strip(), "", *lines])


def _choices(row: Row) -> dict[str, Any]:
    """ARC: texts and labels beside each other; 22 questions have the digits 1 to 4 for letters."""
    texts, labels = row["choices"]["text"], map(str, row["choices"]["label"])
    letters = dict(zip(labels, LETTERS[: len(texts)], strict=True))
    answer = letters.get(str(row["answerKey"]))
    return {"question": with_choices(_text(row["question"]), texts), "answer": answer, "answer_kind": "choice"}


_GPQA_CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def _gpqa(row: Row) -> dict[str, Any]:
    """GPQA: the right answer stands first in its row; the order shown is drawn from the question and a fixed seed."""
    question, order = _text(row["Question"]), list(range(len(_GPQA_CHOICES)))
    seeded("choices", CHOICE_SEED, question).shuffle(order)
    shown = with_choices(question, [_text(row[_GPQA_CHOICES[place]]) for place in order])
    return {"question": shown, "answer": LETTERS[order.index(0)], "answer_kind": "choice"}


#: Shapes by name: a user's file has the first whose columns are all there, the package's own before any other.
SHAPES: dict[str, Shape] = {
    "question": Shape(("question", "answer"), partial(_plain, "question", "answer", "solution")),
    "openr1": Shape(("prompt", "target", "reward_model"), _rewarded, id_columns=()),
    "verl": Shape(("prompt", "reward_model"), _rewarded, id_columns=()),
    "math": Shape(("problem", "solution", "answer", "level"), partial(_plain, "problem", "answer", "solution")),
    "expected": Shape(("problem", "expected_answer"), partial(_plain, "problem", "expected_answer", "")),
    "final_answer": Shape(("question", "final_answer"), partial(_plain, "question", "final_answer", ""), id_columns=()),
    "choices": Shape(("question", "choices", "answerKey"), _choices),
    "gpqa": Shape(("Question", *_GPQA_CHOICES), _gpqa),
    "released": Shape(("prompt", "answer"), partial(_plain, "prompt", "answer", "")),
    "problem": Shape(("problem", "answer"), partial(_plain, "problem", "answer", "solution")),
    "messages": Shape(("messages",), _shown),
    "alpaca": Shape(("instruction", "output"), _shown),
}
