"""Problems travel through files unchanged, and a malformed row is refused by file, line and field."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt.data.problems import Problem, load_problems, problems_hash, save_problems
from hpt.support.errors import ConfigError

GOOD = {"id": "1", "question": "1+1?", "answer": "2"}


#: A digit more: a text alone may show nothing, or be a list that was written as text, and be refused.
SHOWN = st.text().map("1{}".format)


@given(
    st.lists(
        st.builds(
            Problem,
            id=st.uuids().map(str),
            question=SHOWN,
            answer=SHOWN,
            demonstration=st.none() | SHOWN,
            level=st.none() | st.integers(1, 9),
            answer_kind=st.sampled_from(["math", "digits", "choice"]),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda problem: problem.id,
    )
)
def test_saved_problems_load_unchanged(tmp_path_factory, problems):
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    save_problems(path, problems)
    assert load_problems(path) == problems


@pytest.mark.parametrize(
    ("row", "field", "allowed"),
    [
        ({**GOOD, "level": "hard"}, "level", "a whole number below 1,000,000 or null"),
        ({**GOOD, "level": True}, "level", "a whole number below 1,000,000 or null"),
        ({**GOOD, "question": ""}, "question", "non-empty text"),
        ({**GOOD, "answer": 2}, "answer", "non-empty text"),
        ({**GOOD, "answer_kind": "number"}, "answer_kind", "one of math, digits, choice"),
        ({**GOOD, "anwser": "2"}, "anwser", "only id, question, answer"),
        ({"id": "1", "question": "1+1?"}, "answer", "non-empty text"),
        (["1", "1+1?", "2"], "", "a JSON object"),
    ],
)
def test_malformed_row_is_refused_by_file_line_and_field(tmp_path, row, field, allowed):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({**GOOD, "id": "0"}) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(ConfigError) as caught:
        load_problems(path)
    assert caught.value.field == f"{path}:3" + (f": {field}" if field else "")
    assert caught.value.allowed.startswith(allowed)
    assert caught.value.remedy


def test_broken_json_duplicates_and_empty_or_missing_files_are_refused(tmp_path):
    path = tmp_path / "problems.jsonl"
    for text, field in (
        ("{not json}\n", f"{path}:1"),
        ((json.dumps(GOOD) + "\n") * 2, f"{path}:2: id"),
        ("\n", "data.source"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_problems(path)
        assert caught.value.field == field
    with pytest.raises(ConfigError, match="readable"):
        load_problems(tmp_path / "absent.jsonl")


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
