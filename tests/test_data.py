"""Public sets: rows of the real schemas in, the same records out, and everything wrong refused with what was found."""

import json
import math
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt import verify
from hpt.config.run_config import merge, validate
from hpt.data import public as table
from hpt.data.files import SHAPES, local_rows, problems_of
from hpt.data.leakage import leaks
from hpt.data.problems import Problem, problems_hash, save_problems
from hpt.data.public import BENCHMARKS, CURVES, DATASETS
from hpt.data.sources import (
    curve_sets,
    evaluation_names,
    evaluation_set,
    fetch_sets,
    lacking_sets,
    problems_from,
    training_problems_of,
)
from hpt.data.store import download, load_set, statuses
from hpt.paper.paper import paper_data
from hpt.rewards.verify import last_boxed
from hpt.runs.make import run_with_base
from hpt.runs.resolve import build_config, given_base_config, resolve_run
from hpt.support.errors import ConfigError
from tests.command_line import Said, hpt
from tests.digits import write_digits
from tests.public_rows import HUB, SYSTEM, rows_of, write

LEFT_OUT = object()


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Make the large training sets small; evaluation sets keep their real sizes."""
    for name in ("openr1-math-46k", "openr1-math-48k-complement"):
        patch.setitem(table.DATASETS, name, replace(DATASETS[name], rows=(12, 12)))


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        for name in HUB:
            download(name, place / "data", write(place / "raw" / f"{name}.parquet", rows_of(name)))
    return place / "data"


@pytest.fixture
def everything(downloaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with every set that can be downloaded, made-up content in the real schema."""
    shrink(monkeypatch)
    return shutil.copytree(downloaded, tmp_path / "data")


def refused(name: str, folder: Path, source: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        download(name, folder, source)
    assert not (folder / name / "rows.parquet").exists(), "a wrong set must not be kept"
    return str(caught.value)


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_holds_the_sets_of_the_issue_with_their_sizes() -> None:
    sizes = {name: dataset.rows for name, dataset in DATASETS.items() if dataset.rows[0] == dataset.rows[1]}
    assert sizes == {
        "math": (12_000, 12_000), "math-255": (255, 255), "aime24": (30, 30), "aime25": (30, 30), "amc": (83, 83),
        "amc23": (40, 40), "math-500": (500, 500), "minerva": (272, 272), "olympiad": (675, 675),
        "olympiad-674": (674, 674), "arc-c": (1172, 1172), "gpqa-diamond": (198, 198),
    }  # fmt: skip
    assert {name for name, dataset in DATASETS.items() if dataset.use == "training"} == {
        "openr1-math-46k", "openr1-math-48k-complement", "math", "math-255",
    }  # fmt: skip
    assert [DATASETS[name].samples_per_problem for name in BENCHMARKS] == [32, 32, 32, 1, 1, 1, 1, 1]
    assert set(HUB) == {name for name, dataset in DATASETS.items() if dataset.hub}
    for dataset in DATASETS.values():
        assert set(dataset.shapes) <= set(SHAPES)
        assert not dataset.known or "released" in dataset.shapes


# --- the same records whatever the file -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HUB)
def test_parquet_jsonl_json_and_folder_give_the_same_records(name: str, tmp_path: Path) -> None:
    """As a public set and as a user's file or folder, whose shape nobody says."""
    rows, dataset = rows_of(name, 6), DATASETS[name]
    files = [write(tmp_path / f"own.{ending}", rows) for ending in ("parquet", "jsonl", "json")]
    parts = tmp_path / "own"
    for part in (0, 1, 2):
        write(parts / "data" / f"train-{part:05d}-of-00003.parquet", rows[2 * part : 2 * part + 2])
    (parts / "README.md").write_text("a card")
    (parts / ".cache").mkdir()
    (parts / ".cache" / "stray.json").write_text("not json")
    expected, shape = problems_of(rows, dataset.shapes, "x", dataset.answer_kind, "own")
    assert (len(expected), shape) == (6, dataset.shapes[0])
    assert [problems_from(path) == expected for path in (*files, parts)] == [True] * 4


def test_openr1_rows_become_questions_with_demonstrations() -> None:
    first, row = rows_of("openr1-math-46k", 2)
    plain = {**row, "prompt": row["prompt"][1:]}
    _, problem, without_system = problems_of([first, row, plain], ["openr1"], "x", prefix="openr1")[0]
    assert problem == Problem(
        "openr1-1", "A box holds 1 marbles and one more is put in. How many are there?", "2",
        "<think>\nI add 1 and 1.\n</think>\n\nThe sum is \\boxed{2}.", None, "math", SYSTEM,
    )  # fmt: skip
    assert without_system.system is None


def test_digit_labels_of_arc_become_letters() -> None:
    first, last = (problems_of([row], ["choices"], "x", "choice")[0][0] for row in (HUB["arc-c"](0), HUB["arc-c"](30)))
    assert (first.answer, last.answer) == ("A", "A")
    assert first.question.splitlines()[2:] == [f"{letter}. the number {i}" for i, letter in enumerate("ABCD")]


def test_choices_of_gpqa_are_shuffled_by_question_and_always_alike() -> None:
    problems = problems_of(rows_of("gpqa-diamond"), ["gpqa"], "x", "choice")[0]
    letters = Counter(problem.answer for problem in problems)
    assert letters.keys() == set("ABCD")
    assert min(letters.values()) > 25
    for number, problem in enumerate(problems):
        assert f"{problem.answer}. {number} GeV" in problem.question.splitlines()
    backwards = problems_of(rows_of("gpqa-diamond")[::-1], ["gpqa"], "x", "choice")[0]
    assert backwards[::-1] == problems, "the order must not depend on which other questions there are"


# --- download and load ------------------------------------------------------------------------------------------------


def test_all_sets_load_and_are_reported_ready(everything: Path) -> None:
    states = {status.dataset.name: status for status in statuses(everything)}
    assert {name for name, status in states.items() if status.state == "ready"} == {*HUB, "math-255"}
    assert "12 problems" in states["openr1-math-46k"].detail
    assert states["olympiad-674"].state == "missing"
    manifest = json.loads((everything / "aime24" / "manifest.json").read_text())
    assert manifest.items() >= {"source": "file:aime24.parquet", "rows": 30, "shape": "expected"}.items()
    assert len(manifest["sha256"]) == 64


def test_a_run_finds_its_public_sets(everything: Path) -> None:
    data = {"source": "openr1-math-46k", "evaluation": "public", "folder": str(everything)}
    config = validate({"data": data, "validation": {"problems_per_set": 500}})
    assert len(training_problems_of(config)) == 12
    assert evaluation_names(config) == BENCHMARKS
    sets = [evaluation_set(config, name) for name in evaluation_names(config)]
    assert [own.stands_for for own in sets] == list(paper_data()["benchmarks"])
    assert [own.distribution for own in sets].count("out") == 2
    assert {name: len(problems) for name, problems in curve_sets(config).items()} == dict(
        zip(CURVES, (30, 40, 500), strict=True)
    )
    with pytest.raises(ConfigError, match="evaluation = 'aime26': allowed is one of aime24"):
        evaluation_set(config, "aime26")


def test_other_questions_of_a_curve_make_another_run(everything: Path, tmp_path: Path) -> None:
    """What is drawn while training comes from sets that can be downloaded again."""
    model = write_digits(tmp_path) / "model"
    data = {"source": "math-255", "evaluation": "public", "folder": str(everything)}
    rollout = {"max_response_tokens": 32, "max_model_tokens": 128}
    settings = {"policy": {"path": str(model)}, "data": data, "rollout": rollout, "validation": {"every": 1}}

    def name(**changes: Any) -> str:
        return resolve_run(validate(merge(settings, changes)), tmp_path).fingerprint()

    before, without = name(), name(validation={"every": 0})
    rows = [{**row, "problem": f"{row['problem']} Again."} for row in rows_of("aime24")]
    download("aime24", everything, write(tmp_path / "again.json", rows))
    assert name() != before
    assert name(validation={"every": 0}) == without


def test_the_255_problems_are_drawn_by_level_and_always_alike(everything: Path) -> None:
    drawn = load_set("math-255", everything)
    assert Counter(problem.level for problem in drawn) == {3: 85, 4: 85, 5: 85}
    assert drawn == load_set("math-255", everything)
    assert all(problem.demonstration and last_boxed(problem.demonstration) == problem.answer for problem in drawn)


def changed(name: str, row: int, **columns: Any) -> list[dict[str, Any]]:
    """The rows of a set with one of them changed."""
    rows = rows_of(name)
    rows[row] |= columns
    return rows


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("amc", rows_of("amc", 82), "^data set amc: rows = 82: allowed is 83 rows"),
        ("openr1-math-46k", rows_of("openr1-math-46k", 3), "= 3: allowed is 44,000 to 47,000 rows"),
        ("aime24", rows_of("olympiad", 30),
         r"columns = 'question, final_answer': allowed is problem, expected_answer \(expected\)"),
        ("aime24", [{"prompt": f"Question {number}", "answer": str(number)} for number in range(30)],
         f"^data set aime24: content = .*{DATASETS['aime24'].known[:12]}"),
        ("arc-c", changed("arc-c", 3, answerKey="Z"), "row 3: answer = None"),
        ("math-500", changed("math-500", 9, unique_id="test/algebra/4.json"), "row 9: id = 'test/algebra/4.json'"),
        *(("minerva", changed("minerva", 17, **{column: value}), f"row 17: {field} = .*non-empty text")
          for column, field in (("problem", "question"), ("answer", "answer")) for value in (None, "", "  ")),
    ],
)  # fmt: skip
def test_a_wrong_set_is_refused_with_what_was_found(
    name: str, rows: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    assert re.search(said, refused(name, tmp_path, write(tmp_path / "x.jsonl", rows)))


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json"])
@pytest.mark.parametrize(
    ("name", "column", "value", "said"),
    [
        ("openr1-math-46k", "reward_model", LEFT_OUT, "row 3: reward_model = None: allowed is a value in every row"),
        ("aime24", "expected_answer", LEFT_OUT, "row 3: expected_answer = None: allowed is a value in every row"),
        ("gpqa-diamond", "Incorrect Answer 2", " ", "columns as a gpqa row has them"),
        ("gpqa-diamond", "Question", " ", "columns as a gpqa row has them"),
        ("arc-c", "question", " ", "columns as a choices row has them"),
        ("arc-c", "choices", {"text": ["a"], "label": ["A", "B"]}, "columns as a choices row has them"),
    ],
)
def test_a_row_of_a_users_file_that_lacks_something_is_named(
    name: str, column: str, value: Any, said: str, ending: str, tmp_path: Path
) -> None:
    rows = rows_of(name, 5)
    if value is LEFT_OUT:
        del rows[3][column]
    else:
        rows[3][column] = value
    path = write(tmp_path / f"own.{ending}", rows)
    with pytest.raises(ConfigError, match=f"{path.name}, row 3") as caught:
        problems_from(path)
    # a parquet file has every column in every row: what was left out is null there
    assert said in str(caught.value) or (ending == "parquet" and "row 3: answer = None" in str(caught.value))


TURNS = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Ask me."},
    {"role": "user", "content": " What is 1+1? "},
]
TAUGHT = "It is \\boxed{2}."
TOLD = {"role": "assistant", "content": TAUGHT}
#: Shape of the row that others publish, and what it must be read as: (question, answer, demonstration, system).
FOREIGN: dict[str, tuple[dict[str, Any], str, tuple[str, str, str | None, str | None]]] = {
    "prompt of messages": (
        {"prompt": TURNS, "answer": 2}, "released", ("What is 1+1?", "2", None, SYSTEM)),
    "problem of messages": (
        {"problem": TURNS[1:2], "answer": "2", "solution": TAUGHT}, "problem", ("Hello.", "2", TAUGHT, None)),
    "chat": (
        {"messages": [*TURNS, TOLD], "source": "x"}, "messages", ("What is 1+1?", "2", TAUGHT, SYSTEM)),
    "chat with an answer": (
        {"messages": [*TURNS[1:], TOLD], "answer": 3.0}, "messages", ("What is 1+1?", "3", TAUGHT, None)),
    "verl": (
        {"data_source": "x", "prompt": TURNS, "ability": "math",
         "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": {"index": 0}},
        "verl", ("What is 1+1?", "2", None, SYSTEM)),
    "alpaca": (
        {"instruction": "Add.", "input": "1+1", "output": TAUGHT}, "alpaca", ("Add.\n\n1+1", "2", TAUGHT, None)),
    "alpaca without input": (
        {"instruction": "Add 1 and 1.", "input": "", "output": TAUGHT}, "alpaca",
        ("Add 1 and 1.", "2", TAUGHT, None)),
    "gsm8k's last line": (
        {"question": "1+1?", "answer": "#### 2"}, "question", ("1+1?", "2", None, None)),
    "gsm8k": (
        {"question": "1+1?", "answer": "One and one.\n#### 2"}, "question", ("1+1?", "2", None, None)),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("name", FOREIGN)
def test_rows_as_others_publish_them(name: str, ending: str, tmp_path: Path) -> None:
    row, shape, expected = FOREIGN[name]
    path = write(tmp_path / f"own.{ending}", [row, {**row, "id": "second"}] if ending != "parquet" else [row])
    problems = problems_from(path)
    assert problems_of(local_rows(path), list(SHAPES), "x")[1] == shape
    first = problems[0]
    assert (first.question, first.answer, first.demonstration, first.system) == expected
    assert first.id == "own-0"


@pytest.mark.parametrize("ending", ["jsonl", "json"])
@pytest.mark.parametrize("row", [FOREIGN["alpaca"][0], {"id": "1", "question": "1+1?", "answer": "2"}])
def test_a_byte_order_mark_and_lines_in_json_are_read(row: dict[str, Any], ending: str, tmp_path: Path) -> None:
    lines = write(tmp_path / "plain.jsonl", [row, {**row, "id": "2"}])
    path = tmp_path / f"own.{ending}"
    path.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes())
    assert [own.question for own in problems_from(path)] == [own.question for own in problems_from(lines)]


@pytest.mark.parametrize("ending", ["jsonl", "json"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((column, value) for column in ("question", "answer")
          for value in (True, {"text": "2"}, " \n", "\u200b\ufeff \u2060", math.nan, math.inf, None)),
        ("answer", [{"text": "2"}]), ("question", 3), ("question", ["1+1?"]), ("question", "\ud800"),
        ("question", str(TURNS)), ("question", json.dumps(TURNS)), ("answer", '["2"]'), ("answer", "{'text': '2'}"),
        ("question", "nan"), ("answer", "nan"), ("answer", "<NA>"),
        ("demonstration", {"text": "2"}), ("demonstration", True), ("demonstration", " "), ("system", 3),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused_by_its_row(column: str, value: Any, own: bool, ending: str, tmp_path: Path) -> None:
    good = {"question": "1+1?", "answer": "2", "demonstration": "\\boxed{2}", "system": "x"}
    rows = [{**good, "id": str(number)} if own else good for number in range(3)]
    rows[2] = {**rows[2], column: value}
    path = write(tmp_path / f"own.{ending}", rows)
    with pytest.raises(ConfigError) as caught:
        problems_from(path)
    assert str(path) in caught.value.field
    assert column in str(caught.value)
    assert "row 2" in caught.value.field


@pytest.mark.parametrize(
    ("shape", "changes", "said"),
    [
        ("chat", {"messages": [*TURNS, {**TOLD, "content": "It is two."}]}, "answer = None.*text"),
        ("alpaca", {"output": "It is two."}, "answer = None.*text"),
        ("verl", {"reward_model": {"style": "rule", "x": 2}}, "answer = None.*text"),
        ("verl", {"prompt": "What is 1+1?"}, "columns as a verl row has them"),
        *(("chat with an answer", {"messages": messages}, "")
          for messages in ([], [TOLD], [{"role": "user"}], ["What is 1+1?"], "What is 1+1?", [{"a": 1}])),
    ],
)  # fmt: skip
def test_a_row_whose_question_or_answer_cannot_be_found_is_named(
    shape: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    good = FOREIGN[shape][0]
    with pytest.raises(ConfigError, match=f"own.jsonl, row 1.*{said}"):
        problems_from(write(tmp_path / "own.jsonl", [good, {**good, **changes}]))


@pytest.mark.parametrize(("truth", "answer"), [(["5"], "5"), ([5], "5"), (["5", "6"], None), ([], None)])
def test_of_a_list_of_answers_one_is_taken_and_more_are_refused(truth: Any, answer: str | None, tmp_path: Path) -> None:
    row = FOREIGN["verl"][0] | {"reward_model": {"style": "rule", "ground_truth": truth}}
    path = write(tmp_path / "own.jsonl", [row])
    if answer is not None:
        assert problems_from(path)[0].answer == answer
        return
    with pytest.raises(ConfigError, match=r"own.jsonl, row 0") as caught:
        problems_from(path)
    assert len(truth) < 2 or "ground_truth holds 2 answers" in str(caught.value)


#: An answer, the kind of its problem, and what an answer that can be graded would be.
UNANSWERABLE = [
    ("blue", "choice", "a lone letter A-J"), ("1", "choice", "a lone letter A-J"),
    ("AB", "choice", "a lone letter A-J"), ("5.0", "digits", "digits alone"),
    ("\\frac{1}{2", "math", "all braces closed"), ("1\\", "math", "all braces closed"),
    ("\\text{}", "math", "can be seen"), ("$ $", "math", "can be seen"), ("}{", "math", "can be seen"),
    ("9" * 2_001, "math", "at most 2,000 characters"), ("\u200b2", "math", "no zero-width space"),
    ("\ufeff2\u2060", "math", "no zero-width space"),
]  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "json"])
@pytest.mark.parametrize(("answer", "kind", "said"), UNANSWERABLE)
def test_an_answer_nothing_can_equal_is_refused_by_its_row(
    answer: str, kind: Any, said: str, ending: str, tmp_path: Path
) -> None:
    assert not verify(answer.strip("\u200b\u2060\ufeff"), answer, kind=kind, boxed=False)
    good = {"id": "q1", "question": "1+1?", "answer": "2"}
    path = write(tmp_path / f"own.{ending}", [good, {**good, "id": "q2", "answer": answer, "answer_kind": kind}])
    with pytest.raises(ConfigError, match=rf"own.{ending}: answer of q2 = .*{said}"):
        problems_from(path)


@pytest.mark.parametrize("column", ["choices", "options"])
def test_a_question_whose_choices_would_not_be_shown_is_refused(column: str, tmp_path: Path) -> None:
    row = {"question": "Which is even?", column: ["1", "2"], "answer": "B"}
    with pytest.raises(ConfigError, match=rf"own.jsonl, row 1.*{column} .*below the question"):
        problems_from(write(tmp_path / "own.jsonl", [{"question": "1+1?", "answer": "2"}, row]))


def test_numbers_and_unusual_answers_that_can_be_right_are_read(tmp_path: Path) -> None:
    def read(rows: list[dict[str, Any]]) -> list[Problem]:
        return problems_from(write(tmp_path / "own.jsonl", rows))

    levels = [{"problem": "1+1?", "answer": "2", "level": level} for level in (5.0, "Level 3", 4, math.nan)]
    assert [own.level for own in read(levels)] == [5, 3, 4, None]
    answers = {"142": 142.0, "0.5": 0.5, "7": 7, "1": ["1"], "1, 2": ["1", "2"], "204": "\\boxed{204}",
               "1" + "0" * 400: 10**400}  # fmt: skip
    assert [own.answer for own in read([{"problem": "1+1?", "answer": own} for own in answers.values()])] == [*answers]
    unusual = (
        ("\\text{(B)}", "choice"), ("J", "choice"), ("024", "digits"), ("\\emptyset", "math"), ("\\{1,2\\}", "math"),
        ("{{1}}", "math"), ("1}", "math"), ("[0,1)", "math"), ("x = 5", "math"), ("\\text{no solution}", "math"),
        ("\u221e", "math"),
    )  # fmt: skip
    problems = read([{"id": own, "question": "1+1?", "answer": own, "answer_kind": kind} for own, kind in unusual])
    assert [(problem.answer, problem.answer_kind) for problem in problems] == list(unusual)
    assert all(verify(own.answer, own.answer, kind=own.answer_kind, boxed=False) for own in problems)


def test_a_multiple_choice_set_with_another_answer_than_a_letter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": str(number), "prompt": "Which?", "answer": "AB"[number % 2]} for number in range(198)]
    rows[7]["answer"] = "mercury"
    monkeypatch.setitem(table.DATASETS, "gpqa-diamond", replace(DATASETS["gpqa-diamond"], known=""))
    said = refused("gpqa-diamond", tmp_path / "data", write(tmp_path / "gpqa.json", rows))
    assert "answer of 7 = 'mercury': allowed is a lone letter" in said


def test_unknown_columns_are_told_all_known_shapes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        problems_from(write(tmp_path / "own.jsonl", [{"conversations": [], "id": "1"}]))
    for name, shape in SHAPES.items():
        assert f"{', '.join(shape.columns)} ({name})" in str(caught.value)


def test_a_training_row_without_demonstration_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    path = write(tmp_path / "x.jsonl", changed("openr1-math-46k", 5, target=[]))
    assert "demonstration of openr1-math-46k-5 = None" in refused("openr1-math-46k", tmp_path, path)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json"])
def test_a_file_cut_off_is_refused(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"amc.{ending}", rows_of("amc"))
    path.write_bytes(path.read_bytes()[:-20])
    message = refused("amc", tmp_path, path)
    assert str(path) in message
    assert f"a complete .{ending} file" in message


def test_a_download_cut_off_or_changed_later_is_refused_and_a_bad_one_harms_no_good_one(
    everything: Path, tmp_path: Path
) -> None:
    before, rows = load_set("amc", everything), everything / "amc" / "rows.parquet"
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match="it was cut off or changed; type: hpt data download amc"):
        load_set("amc", everything)
    assert [status.state for status in statuses(everything, ["amc"])] == ["wrong"]
    rows.write_bytes(whole)
    with pytest.raises(ConfigError):
        download("amc", everything, write(tmp_path / "bad.json", rows_of("amc", 3)))
    assert load_set("amc", everything) == before
    (everything / "amc" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="a complete download"):
        load_set("amc", everything)
    with pytest.raises(ConfigError, match="type: hpt data download amc"):
        load_set("amc", everything / "elsewhere")


# --- the hub ----------------------------------------------------------------------------------------------------------


class Hub:
    """Stands for the hub: hands out rows, or fails the way the hub does."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, []

    def dataset_info(self, repository: str) -> Any:
        if self.error:
            raise self.error
        return type("Info", (), {"sha": "c0ffee" * 6})()

    def load_dataset(self, repository: str, config: str | None, *, split: str, revision: str) -> list[dict[str, Any]]:
        self.asked.append((repository, config, split, revision))
        name = next(own.name for own in DATASETS.values() if own.hub == repository)
        return rows_of(name)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    import datasets
    import huggingface_hub
    import transformers.utils.hub  # noqa: F401 (it names the class in a type when it is imported)

    fake = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(datasets, "load_dataset", fake.load_dataset)
    return fake


def test_a_set_comes_from_the_hub_at_a_recorded_revision(hub: Hub, tmp_path: Path) -> None:
    download("gpqa-diamond", tmp_path)
    download("amc", tmp_path)
    assert hub.asked == [
        ("Idavidrein/gpqa", "gpqa_diamond", "train", "c0ffee" * 6),
        ("AI-MO/aimo-validation-amc", None, "train", DATASETS["amc"].revision),
    ]
    assert json.loads((tmp_path / "gpqa-diamond" / "manifest.json").read_text())["revision"] == "c0ffee" * 6


def test_missing_sets_are_fetched_once(hub: Hub, tmp_path: Path) -> None:
    config = validate({"data": {"source": "math-255", "folder": str(tmp_path)}})
    assert lacking_sets(config) == ["math-255"]
    for _ in range(2):
        fetch_sets(config)
    assert [repository for repository, *_ in hub.asked] == [DATASETS["math"].hub]
    assert lacking_sets(config) == []


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_jobs(*_: Any) -> None:
        raise AssertionError("computed before it was checked")

    monkeypatch.setattr("hpt.runs.make.run_jobs", run_jobs)


@pytest.mark.usefixtures("nothing_runs")
def test_a_models_evaluation_fetches_its_sets_and_checks_them_first(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_digits(tmp_path) / "model"
    written = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**written, "max_position_embeddings": 16_384}))
    given = {"data.template": "plain", "data.evaluation": "public", "data.folder": str(tmp_path / "data")}
    config = given_base_config("full", model, given)
    with pytest.raises(AssertionError, match="computed before"):  # all is well, so it would start
        run_with_base(config, tmp_path / "runs", ["amc", "minerva@2"])
    assert [repository for repository, *_ in hub.asked] == [DATASETS["amc"].hub, DATASETS["minerva"].hub]
    with pytest.raises(ConfigError, match="a tokenizer with a chat template"):
        run_with_base(given_base_config("full", model, {**given, "data.template": "qwen"}), tmp_path / "runs", ["amc"])
    with monkeypatch.context() as patch:
        patch.setattr("hpt.runs.make.prompt_tokens", lambda *_: [1] * 8200)
        with pytest.raises(ConfigError, match=r"prompt of amc-0 \(amc\) = '8200 tokens': allowed is at most 8192"):
            run_with_base(config, tmp_path / "runs", ["amc"])
    rows = tmp_path / "data" / "minerva" / "rows.parquet"
    rows.write_bytes(rows.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="it was cut off or changed"):
        run_with_base(config, tmp_path / "runs", ["amc", "minerva"])


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("name", ["contst-a", "contest-a@0", "aime26"])
def test_an_evaluation_that_does_not_exist_is_named_before_anything_is_trained(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="evaluation = "):
        run_with_base(build_config("sft", scale="tiny"), tmp_path, ["contest-a", name])


def test_what_the_hub_does_not_give_is_a_sentence_with_what_to_do(hub: Hub, tmp_path: Path) -> None:
    from datasets.exceptions import DatasetNotFoundError

    hub.error = DatasetNotFoundError("gated")
    with pytest.raises(ConfigError) as caught:
        download("gpqa-diamond", tmp_path)
    for part in ("access to Idavidrein/gpqa", "huggingface.co/datasets/Idavidrein/gpqa", "HF_TOKEN", "--from FILE"):
        assert part in str(caught.value)
    hub.error = ConnectionError("name or service not known")
    with pytest.raises(ConfigError, match=r"math-ai/aime25 on the hub, reachable.*--from FILE.*not known"):
        download("aime25", tmp_path)
    with pytest.raises(ConfigError, match="hpt data download olympiad-674 --from FILE"):  # which has no repository
        download("olympiad-674", tmp_path)


# --- users' files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["parquet", "json"])
def test_the_packages_form_is_the_same_in_every_format(ending: str, tmp_path: Path) -> None:
    problems = [Problem(str(level), "1+1?", "2", "it is \\boxed{2}", level, "digits", "Be brief.") for level in (3, 4)]
    rows = [vars(problem) for problem in problems]
    assert problems_from(write(tmp_path / f"own.{ending}", rows)) == problems
    rows[1] = {**rows[1], "answer_kind": "words"}
    with pytest.raises(ConfigError, match=r"own.*row 1: answer_kind = 'words': allowed is one of math"):
        problems_from(write(tmp_path / f"own.{ending}", rows))


ROW = '{"id": "1", "question": "1+1?", "answer": "2"}\n'
MISSPELT = '{"id": "2", "question": "1+1?", "answr": "2"}\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ROW + MISSPELT, "row 1: answer = None"),
        (MISSPELT, r"columns = 'id, question, answr': .*answer \(question\)"),
        (ROW + "{not json}\n", "line 2: Expecting property name"),
        (ROW * 2, "row 1: id = '1': allowed is an id used once"),
        (ROW + '\n["1", "1+1?", "2"]\n', "a list of JSON objects"),
        ("\n", "at least one row"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=f"own.jsonl.*{said}"):
        problems_from(tmp_path / "own.jsonl")


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("nothing.jsonl", "nothing.parquet", "empty"):
        with pytest.raises(ConfigError, match=name.partition(".")[0]):
            problems_from(tmp_path / name)


#: Between digits: what stands alone may be blank, and blanks at the ends of a question or an answer go.
SHOWN = st.text().map("1{}1".format)
#: What math-verify reads is not looked at here, but braces have to be closed.
ANSWER = st.text(st.characters(exclude_characters="{}\\", exclude_categories=["Cs"])).map("1{}1".format)
PROBLEMS = st.builds(
    Problem, id=st.uuids().map(str), question=SHOWN, answer=ANSWER, demonstration=st.none() | SHOWN,
    level=st.none() | st.integers(1, 9),
)  # fmt: skip


@given(st.lists(PROBLEMS, min_size=1, max_size=3, unique_by=lambda problem: problem.id))
def test_saved_problems_load_unchanged(tmp_path_factory: pytest.TempPathFactory, problems: list[Problem]) -> None:
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    save_problems(path, problems)
    assert problems_from(path) == problems


def test_hash_sees_order_and_every_field() -> None:
    first, second = Problem("1", "1+1?", "2", "2", 1, "math"), Problem("2", "2+2?", "4")
    changes = {"id": "x", "question": "x", "answer": "x", "demonstration": "x", "level": 2, "answer_kind": "choice"}
    sets = [[first, second], [second, first], [first]]
    sets += [[replace(first, **{field: value}), second] for field, value in changes.items()]
    assert len(set(map(problems_hash, sets))) == len(sets)
    assert len(problems_hash(sets[0])) == 64


# --- leakage ----------------------------------------------------------------------------------------------------------


QUESTION = "A train leaves the station at noon and travels 60 miles in the first hour and 45 miles in each hour after."
OTHER = "What is the sum of all primes below one hundred?"
OF_THE_SAME_KIND = "A train leaves the station at noon. How long is the tunnel it enters after one hour at full speed?"


@pytest.mark.parametrize(
    ("training", "found"),
    [
        ([OTHER, QUESTION], ("1", "exact")),
        ([OTHER, QUESTION.replace(" ", "  ").upper()], ("1", "exact")),
        ([OTHER, f"Find it. {QUESTION} How far is it after five hours?"], ("1", "near")),
        ([OTHER, " ".join(QUESTION.split()[:-5])], ("1", "near")),
        ([OTHER, OF_THE_SAME_KIND], None),
        (["Well: " + QUESTION[:-7], QUESTION], ("1", "exact")),  # the closest of them
    ],
)
def test_exact_and_near_duplicates_are_found(training: list[str], found: tuple[str, str] | None) -> None:
    asked = [Problem(str(number), question, "1") for number, question in enumerate(training)]
    leaked = leaks(asked, {"aime24": [Problem("b", QUESTION, "1")]})
    assert [(leak.training_id, leak.kind) for leak in leaked] == ([found] if found else [])


# --- real files -------------------------------------------------------------------------------------------------------

FOLDER = os.environ.get("HPT_BENCHMARKS", "")
FILES = {
    "aime24": "AIME24", "aime25": "AIME25", "amc23": "AMC23", "math-500": "MATH-500", "minerva": "Minerva",
    "olympiad-674": "Olympiad-Bench", "gpqa-diamond": "GPQA",
}  # fmt: skip


@pytest.mark.skipif(not FOLDER, reason="HPT_BENCHMARKS names no folder of the released evaluation files")
@pytest.mark.parametrize("name", FILES)
def test_the_released_files_load_and_are_known(name: str, tmp_path: Path) -> None:
    problems = download(name, tmp_path, Path(FOLDER) / f"{FILES[name]}.json")
    assert len(problems) == DATASETS[name].rows[0]
    (status,) = statuses(tmp_path, [name])
    assert "content as published" in status.detail


# --- the command line -------------------------------------------------------------------------------------------------


def test_check_lists_every_set_names_leaks_and_fails_on_a_wrong_one(everything: Path, tmp_path: Path) -> None:
    done = hpt("data", "check", "--data-dir", everything)
    assert done.returncode == 0
    assert "olympiad" in done.stdout
    asked = load_set("arc-c", everything)[7].question
    save_problems(tmp_path / "own.jsonl", [Problem("mine", asked, "A", "\\boxed{A}")])
    done = hpt("data", "check", "arc-c", "--leakage", tmp_path / "own.jsonl", "--data-dir", everything)
    assert done.returncode == 0
    assert "arc-c ARC_7: exact (100%), mine" in done.stdout
    (everything / "amc" / "manifest.json").unlink()
    done = hpt("data", "check", "amc", "--data-dir", everything)
    assert done.returncode == 1
    assert "complete" in done.stdout


def test_one_file_is_one_set(tmp_path: Path) -> None:
    path = write(tmp_path / "amc.json", rows_of("amc"))
    assert hpt("data", "download", "--from", path, "--data-dir", tmp_path).returncode == 2
    assert hpt("data", "download", "amc", "--from", path, "--data-dir", tmp_path) == Said(0, "amc: 83 problems\n", "")
    assert hpt("data", "download", "amc12", "--data-dir", tmp_path).returncode == 2
