"""Rows of exactly the columns and types the public sets have, with questions of our own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from hpt.data.public import DATASETS

Row = dict[str, Any]
SYSTEM = "Think first, then solve."


def openr1(number: int) -> Row:
    solution = f"<think>\nI add {number} and 1.\n</think>\n\nThe sum is \\boxed{{{number + 1}}}."
    return {
        "data_source": "",
        "prompt": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"A box holds {number} marbles and one more is put in. How many are there?"},
        ],
        "target": [{"role": "assistant", "content": solution}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(number + 1)},
        "extra_info": {"split": "default", "index": number},
    }


def math(number: int) -> Row:
    return {
        "problem": f"What is ${number}+{number}$?",
        "solution": f"Doubling gives $\\boxed{{{2 * number}}}$.",
        "answer": str(2 * number),
        "subject": "Algebra",
        "level": (1 + number % 5) if number >= 255 else 3 + number % 3,
        "unique_id": f"train/algebra/{number}.json",
    }


def math_500(number: int) -> Row:
    return {**math(number), "unique_id": f"test/algebra/{number}.json"}


def arc(number: int) -> Row:
    labels = ["1", "2", "3", "4"] if number < 22 else ["A", "B", "C", "D"]
    choices = {"text": [f"the number {number + shift}" for shift in range(4)], "label": labels}
    return {"id": f"ARC_{number}", "question": f"Which is {number}?", "choices": choices, "answerKey": labels[0]}


def gpqa(number: int) -> Row:
    wrong = {f"Incorrect Answer {place}": f"{number + place} GeV" for place in (1, 2, 3)}
    question = {"Question": f"What is the energy of particle {number}?", "Correct Answer": f"{number} GeV"}
    return {**question, **wrong, "Record ID": f"rec{number}", "Subdomain": "Physics"}


def plain(question: str, answer: str, value: Callable[[int], Any] = str) -> Callable[[int], Row]:
    return lambda number: {question: f"Contest question {number}: find {number}.", answer: value(number)}


#: Set to the row its hub repository has.
HUB: dict[str, Callable[[int], Row]] = {
    "openr1-math-46k": openr1,
    "openr1-math-48k-complement": openr1,
    "math": math,
    "aime24": plain("problem", "expected_answer"),
    "aime25": plain("problem", "answer"),
    "amc": plain("problem", "answer", float),
    "amc23": plain("question", "answer", float),
    "math-500": math_500,
    "minerva": plain("problem", "answer"),
    "olympiad": plain("question", "final_answer", lambda number: [str(number)]),
    "arc-c": arc,
    "gpqa-diamond": gpqa,
}


def rows_of(name: str, count: int | None = None) -> list[Row]:
    return [HUB[name](number) for number in range(DATASETS[name].rows[0] if count is None else count)]


def write(path: Path, rows: list[Row]) -> Path:
    """Write rows in the format the file name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path
