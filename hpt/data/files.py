"""The shapes rows come in, as data: which columns a shape has, and how its row becomes a `Problem`.

The Hugging Face hub: its errors in one sentence with what to do.

Rows of a file, a folder or a hub repository, as plain dictionaries; `hpt.data.files` says what they mean.
"""

import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from hpt.data.problems import AnswerKind, Problem, checked_problem, seeded
from hpt.data.public import CHOICE_SEED, Dataset
from hpt.rewards.verify import last_boxed
from hpt.support.errors import ConfigError


@contextmanager
def hub_access(kind: Literal["dataset", "model"], name: str, repository: str, local: str) -> Generator[None]:
    """Turn whatever the hub raises inside the block into a `ConfigError`.

    Raises:
        ConfigError: no access (not logged in, licence not accepted, no such repository), or no connection.
    """
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    field = "data set" if kind == "dataset" else "policy.name"
    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError, DatasetNotFoundError) as error:
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
        remedy = f"accept its licence at {page}, then type `hf auth login` or set HF_TOKEN; or use a copy: {local}"
        raise ConfigError(field, name, f"access to {repository} on the hub", remedy) from error
    except Exception as error:  # the hub, its HTTP client and datasets each raise a family of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        remedy = f"try again later, the parts that came are kept; or use a copy: {local} ({reason})"
        raise ConfigError(field, name, f"{repository} on the hub, reachable and complete", remedy) from error


Row = dict[str, Any]


@dataclass(frozen=True)
class Fetched:
    """Rows with where they came from: a hub revision, or "" for a local file."""

    rows: list[Row]
    source: str
    revision: str = ""


def local_rows(path: str | Path) -> list[Row]:
    """Return the rows of a .parquet, .jsonl or .json file, or of a folder's, in the order of the files' names.

    Raises:
        ConfigError: no such file, nothing readable in it, or a damaged file (a download that was cut off).

    Example:
        >>> local_rows("rows.jsonl")  # doctest: +SKIP
        [{'problem': '1+1?', 'answer': '2'}]
    """
    path = Path(path)
    files = sorted(_data_files(path)) if path.is_dir() else [path]
    if not files or not all(file.is_file() and file.suffix in READERS for file in files):
        allowed = "a file or folder of " + ", ".join(READERS)
        raise ConfigError("data.source", str(path), allowed, "correct the path, or see `hpt data check`")
    return [row for file in files for row in _read(file)]


def _data_files(folder: Path) -> Iterator[Path]:
    """Yield the data files of a folder: the cards, scripts and manifests beside them are none."""
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if path.suffix in READERS and not any(part.startswith(".") for part in inside) and path.name != "manifest.json":
            yield path


def _read(file: Path) -> list[Row]:
    import pyarrow

    if file.stat().st_size < 200 and file.read_bytes().startswith(b"version https://git-lfs"):
        remedy = "fetch the file itself: `git lfs pull`, or `hpt data download`"
        raise ConfigError("data.source", str(file), "the data, not a Git LFS pointer to it", remedy)
    try:
        rows = READERS[file.suffix](file)
    except (OSError, ValueError, RecursionError, pyarrow.ArrowException) as error:  # ArrowInvalid: no footer, cut off
        remedy = f"copy or download it again: {_first(error)}"
        raise ConfigError("data.source", str(file), f"a complete {file.suffix} file", remedy) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError("data.source", str(file), "rows: a list of JSON objects", "name another file")
    return rows


def _parquet(file: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(file).to_pylist()


def _json(file: Path) -> Any:
    """Read a list, or JSON Lines: either ending is used for either."""
    text = file.read_text(encoding="utf-8-sig")  # a byte-order mark is no part of the text
    try:
        rows = json.loads(text)
    except ValueError:
        # not splitlines(): it also cuts at U+2028 and others, which JSON leaves unescaped inside text
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return rows if isinstance(rows, list) else [rows]


#: File name endings that are read, and how.
READERS: dict[str, Callable[[Path], Any]] = {".parquet": _parquet, ".jsonl": _json, ".json": _json}


def hub_rows(dataset: Dataset) -> Fetched:
    """Return a set's rows from the hub, with the revision they have.

    Raises:
        ConfigError: it has no hub repository, is gated and there is no token for it, or the hub cannot be reached.
    """
    if not dataset.hub:
        remedy = f"name the file: hpt data download {dataset.name} --from FILE"
        raise ConfigError("data set", dataset.name, "a set with a repository on the hub", remedy)
    import datasets
    from huggingface_hub import HfApi

    with hub_access("dataset", dataset.name, dataset.hub, f"hpt data download {dataset.name} --from FILE"):
        revision = dataset.revision or HfApi().dataset_info(dataset.hub).sha or ""
        table = datasets.load_dataset(dataset.hub, dataset.config, split=dataset.split, revision=revision)
    return Fetched([dict(row) for row in table], f"hub:{dataset.hub}", revision)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


LETTERS = "ABCDE"


@dataclass(frozen=True)
class Shape:
    """Rows of one kind.

    Attributes:
        name: key of `SHAPES`.
        columns: what a row must have; other columns are passed over.
        read: (row, answer kind) to the fields of a `Problem` besides its id; a missing value comes out as None.
        id_columns: the first that a row has names it; else its place does.
        note: what the reader of a refused row should know besides.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Row], dict[str, Any]]
    id_columns: tuple[str, ...] = ("id", "unique_id", "Record ID")
    note: str = ""


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
    of = f", of a {shape.name} row ({', '.join(shape.columns)}{shape.note})"
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
        problem = checked_problem({"id": identity, "answer_kind": answer_kind, **found}, where, of)
        if identity in seen:
            raise ConfigError(f"{where}: id", identity, "an id used once", f"rename it: row {seen[identity]} has it")
        seen[identity] = number
        problems.append(problem)
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


def text_of(value: Any) -> Any:
    """Return an answer as text: 142.0 of a float column is "142", a list is joined, a box is opened, "#### 7" is 7.

    What is neither text nor a number comes back as it is, to be refused.

    Example:
        >>> text_of(142.0), text_of(["1", "2"]), text_of(r"\\boxed{204}"), text_of(True)
        ('142', '1, 2', '204', True)
    """
    if isinstance(value, list):
        parts = [part for part in map(text_of, value) if part]
        return ", ".join(parts) if all(isinstance(part, str) for part in parts) else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if (isinstance(value, (float, Decimal)) and math.isfinite(value)) or type(value) is int:
        value = str(value)
    if not isinstance(value, str):
        return value
    text = f"\n{value}".rpartition("\n#### ")[2].strip()  # GSM8K's answers stand below their solutions
    boxed = last_boxed(text)
    return text if boxed is None else boxed


def _level(value: Any) -> int | None:
    """5 of 5, 5.0, "5" or "Level 5"; None of anything else."""
    digits = str(value).removeprefix("Level ").removesuffix(".0").strip()
    return int(digits) if digits.isdecimal() else None


def _plain(question: str, answer: str, solution: str = "") -> Callable[[Row], dict[str, Any]]:
    """Read rows whose values stand in columns of their own; the question may be a conversation."""

    def read(row: Row) -> dict[str, Any]:
        for column in ("choices", "options"):
            if row.get(column):
                raise ValueError(f"{column} are not shown: write them below the question and leave the column out")
        asked = row[question]
        found = conversation(asked) if isinstance(asked, list) else {"question": _text(asked)}
        shown = {"demonstration": row.get("demonstration") or _text(row.get(solution)), "system": row.get("system")}
        found |= {name: value for name, value in shown.items() if value is not None}
        return {**found, "answer": text_of(row[answer]), "level": _level(row.get("level"))}

    return read


def _text(value: Any) -> Any:
    return value.strip() or None if isinstance(value, str) else value


def conversation(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the last user turn as the question, an answer after it as the demonstration, and the system message.

    Earlier turns are passed over.

    Example:
        >>> conversation([{"role": "user", "content": "1+1?"}])
        {'question': '1+1?', 'demonstration': None}
    """
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
    shown = found.get("demonstration")
    boxed = last_boxed(shown) if isinstance(shown, str) else None
    return {**found, "answer": boxed if row.get("answer") is None else text_of(row["answer"])}


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
    kind = {"answer_kind": row["answer_kind"]} if row.get("answer_kind") else {}
    return {**_plain("question", "answer")(row), **kind}


#: The package's own.
OWN = "hpt"
_BOXED = "; the answer in a column of that name, or boxed in the demonstration"
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(OWN, ("id", "question", "answer"), _own),
        Shape("openr1", ("prompt", "target", "reward_model"), _rewarded, id_columns=()),
        Shape("verl", ("prompt", "reward_model"), _rewarded, id_columns=(), note=" with ground_truth"),
        Shape("math", ("problem", "solution", "answer", "level"), _plain("problem", "answer", "solution")),
        Shape("expected", ("problem", "expected_answer"), _plain("problem", "expected_answer")),
        Shape("final_answer", ("question", "final_answer"), _plain("question", "final_answer"), id_columns=()),
        Shape("choices", ("question", "choices", "answerKey"), _choices),
        Shape("gpqa", ("Question", *_GPQA_CHOICES), _gpqa),
        Shape("released", ("prompt", "answer"), _plain("prompt", "answer")),
        Shape("problem", ("problem", "answer"), _plain("problem", "answer", "solution")),
        Shape("question", ("question", "answer"), _plain("question", "answer", "solution")),
        Shape("messages", ("messages",), _shown, note=_BOXED),
        Shape("alpaca", ("instruction", "output"), _shown, note=_BOXED),
    )
}
#: Shapes of a training file that is none of the public sets, the most telling first.
ANY_SHAPE = tuple(SHAPES)
