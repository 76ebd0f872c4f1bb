"""Problems travel through files unchanged, and a malformed row is refused by file, line and field."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt.data.problems import Problem, problems_hash, save_problems
from hpt.data.sources import problems_from
from hpt.support.errors import ConfigError

GOOD = {"id": "1", "question": "1+1?", "answer": "2"}


#: Between digits: what stands alone may be blank, and blanks at the ends of a question or an answer go.
SHOWN = st.text().map("1{}1".format)
#: What math-verify reads is not looked at here, but braces have to be closed.
ANSWER = st.text(st.characters(exclude_characters="{}\\", exclude_categories=["Cs"])).map("1{}1".format)


@given(
    st.lists(
        st.builds(
            Problem,
            id=st.uuids().map(str),
            question=SHOWN,
            answer=ANSWER,
            demonstration=st.none() | SHOWN,
            level=st.none() | st.integers(1, 9),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda problem: problem.id,
    )
)
def test_saved_problems_load_unchanged(tmp_path_factory, problems):
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    save_problems(path, problems)
    assert problems_from(path) == problems


@pytest.mark.parametrize(
    ("row", "field", "allowed"),
    [
        ({**GOOD, "question": ""}, "question", "non-empty text"),
        ({**GOOD, "answer_kind": "number"}, "answer_kind", "one of math, digits, choice"),
        ({**GOOD, "level": 1_000_000}, "level", "a whole number below 1,000,000 or null"),
        ({"id": "1", "question": "1+1?"}, "answer", "a value in every row"),
    ],
)
def test_a_malformed_row_is_refused_by_file_row_and_field(tmp_path, row, field, allowed):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({**GOOD, "id": "0"}) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(ConfigError) as caught:
        problems_from(path)
    assert caught.value.field == f"{path}, row 1: {field}"
    assert caught.value.allowed.startswith(allowed)
    assert caught.value.remedy


def test_broken_json_duplicates_and_empty_or_missing_files_are_refused(tmp_path):
    path = tmp_path / "problems.jsonl"
    for text, said in (
        (json.dumps(GOOD) + "\n{not json}\n", "problems.jsonl.*line 2: Expecting property name"),
        ((json.dumps(GOOD) + "\n") * 2, "row 1: id = '1': allowed is an id used once"),
        (json.dumps(GOOD) + '\n["1", "1+1?", "2"]\n', "a list of JSON objects"),
        ("\n", "at least one row"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            problems_from(path)
    with pytest.raises(ConfigError, match="a file or folder of"):
        problems_from(tmp_path / "absent.jsonl")


def test_hash_sees_order_and_every_field():
    problems = [Problem("1", "1+1?", "2", "2", 1, "math"), Problem("2", "2+2?", "4")]
    changed = [
        problems[::-1],
        problems[:1],
        *(
            [replace(problems[0], **{field: value}), problems[1]]
            for field, value in {"id": "x", "question": "x", "answer": "x", "demonstration": "x", "level": 2}.items()
        ),
        [replace(problems[0], answer_kind="choice"), problems[1]],
    ]
    assert len({problems_hash(problems), *map(problems_hash, changed)}) == len(changed) + 1
    assert len(problems_hash(problems)) == 64
