"""The user's questions as evaluation sets and curves: what is held out, what is checked, what records call them."""

from pathlib import Path

import pytest

from hpt.config.run_config import RunConfig
from hpt.data.problems import Problem, save_problems
from hpt.data.sources import curve_sets, evaluation_set, held_out_problems, training_problems_of
from hpt.reports.frames import scores, validation
from hpt.runs.evaluations import evaluation_key
from hpt.runs.make import check_own_questions, planned_runs
from hpt.runs.records import load_runs
from hpt.runs.resolve import build_config
from hpt.support.errors import ConfigError
from tests.fabricated import fabricate


def sums(first: int, count: int, answer_off_by: int = 0) -> list[Problem]:
    return [
        Problem(f"{i}", f"How much is {i} plus {i}?", f"{2 * i}", rf"\boxed{{{2 * i + answer_off_by}}}")
        for i in range(first, first + count)
    ]


def own_config(folder: Path, rows: list[Problem], **validation: object) -> RunConfig:
    save_problems(folder / "mine.jsonl", rows)
    settings = {f"validation.{name}": value for name, value in validation.items()}
    return build_config("hpt", scale="tiny", settings={"data.source": str(folder / "mine.jsonl"), **settings})


def ids(problems: list[Problem]) -> set[str]:
    return {problem.id for problem in problems}


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A file of three questions."""
    save_problems(tmp_path / "test.jsonl", sums(100, 3))
    return str(tmp_path / "test.jsonl")


def test_what_is_held_out_is_chosen_by_question_and_never_trained_on(tmp_path: Path) -> None:
    rows = sums(0, 40)
    config = own_config(tmp_path, rows, held_out=0.1)
    held, trained = ids(held_out_problems(config)), ids(training_problems_of(config))
    assert len(held) == 4
    assert held | trained == ids(rows)
    assert not held & trained
    again = own_config(tmp_path, rows[::-1], held_out=0.1)
    assert ids(held_out_problems(again)) == held, "the order of the file does not matter"
    (name,) = curve_sets(config)
    assert name.startswith("held-out-")
    assert ids(curve_sets(config)[name]) == held
    assert ids(training_problems_of(own_config(tmp_path, rows))) == ids(rows), "nothing is held out unasked"


def test_a_question_that_is_there_twice_is_on_one_side(tmp_path: Path) -> None:
    rows = sums(0, 10)
    twice = [*rows, *(Problem(f"again-{row.id}", row.question, row.answer) for row in rows)]
    held = held_out_problems(own_config(tmp_path, twice, held_out=0.01))
    assert len(held) == 2
    assert len({problem.question for problem in held}) == 1


def test_one_question_alone_is_trained_on_and_holds_nothing_out(tmp_path: Path) -> None:
    config = own_config(tmp_path, sums(0, 1), held_out=0.5)
    assert len(training_problems_of(config)) == 1
    with pytest.raises(ConfigError, match=r"validation\.held_out = 0\.5: .*one question alone"):
        curve_sets(config)


def test_a_set_is_known_by_its_name_and_the_hash_of_its_questions(tmp_path: Path) -> None:
    config = build_config("sft", scale="tiny")
    names = []
    for folder, count in (("a", 3), ("b", 4), ("c", 3)):
        (tmp_path / folder).mkdir()
        save_problems(tmp_path / folder / "my test!.jsonl", sums(0, count))
        one = evaluation_set(config, str(tmp_path / folder / "my test!.jsonl"))
        assert len(one.problems) == count
        names.append(one.name)
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("my_test_-")
    assert evaluation_key(config, f"{tmp_path}/a/my test!.jsonl@8")[0].samples_per_problem == 8
    assert len(evaluation_set(config, f"{tmp_path}/a/").problems) == 3, "a folder is a set too"


@pytest.mark.parametrize("name", ["nothere.jsonl", "./nowhere", "held-out"])
def test_questions_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"evaluation = .*an existing file or folder of questions"):
        evaluation_set(build_config("sft", scale="tiny"), name)


def test_reference_answers_that_contradict_their_demonstrations_are_refused(tmp_path: Path) -> None:
    save_problems(tmp_path / "test.jsonl", sums(0, 3, answer_off_by=1))
    with pytest.raises(ConfigError, match="3 of 3 end in another answer than their row"):
        check_own_questions(build_config("sft", scale="tiny"), [str(tmp_path / "test.jsonl")])


def test_what_is_held_out_and_what_leaks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_problems(tmp_path / "test.jsonl", [*sums(0, 2), *sums(100, 3)])
    trained = ids(training_problems_of(config := own_config(tmp_path, sums(0, 40), held_out=0.1)))
    known = [own for own in ("0", "1") if own in trained]
    assert known
    check_own_questions(config, [str(tmp_path / "test.jsonl")])
    said = capsys.readouterr().err
    assert "4 of 40 questions of" in said
    assert "are held out for validation and never trained on (validation.held_out = 0.1)" in said
    assert f"{len(known)} of 5 questions of {tmp_path}/test.jsonl are trained on ({len(known)} word for word" in said
    check_own_questions(config, ["contest-a"])
    assert "contest-a" not in capsys.readouterr().err


def test_named_sets_take_the_place_of_the_scales_curves(own: str, tmp_path: Path) -> None:
    users, world = curve_sets(own_config(tmp_path, sums(0, 10), sets=[own, "contest-b"]))
    assert (users[:5], world) == ("test-", "contest-b")
    runs = load_runs(fabricate(tmp_path / "runs", ("figure5",), **{"validation.sets": [own]}))
    (panel,) = set(validation(runs, ["hpt"])["panel"])
    assert panel == users


def test_a_table_shows_the_users_questions_as_a_column_in_no_average(own: str, tmp_path: Path) -> None:
    fabricate(tmp_path / "runs", ("table5",))
    assert "test.jsonl" in planned_runs("tiny", ("table5",), [0], tmp_path / "runs", evaluations=[own])[-1].reason
    records = load_runs(fabricate(tmp_path / "runs", ("table5",), evaluations=[own]))
    frame = scores(records, {"weak": ["hpt"]}, "table5", own=[own])
    plain = scores(records, {"weak": ["hpt"]}, "table5")
    (column,) = set(frame["column"]) - set(plain["column"])
    assert column.startswith("test-")
    assert frame[frame["column"] == column][["problems", "stands_for"]].values.tolist() == [[3, "your questions"]]
    assert frame[frame["column"] != column].reset_index(drop=True).equals(plain)


def test_limits_and_clip_of_the_small_world_are_not_those_of_other_questions() -> None:
    world = build_config("hpt", scale="mini")
    own = build_config("hpt", scale="mini", settings={"data.source": "mine.jsonl"})
    plain = RunConfig()
    assert own.rollout.max_response_tokens == plain.rollout.max_response_tokens > world.rollout.max_response_tokens
    assert own.optimizer.gradient_clip == plain.optimizer.gradient_clip > world.optimizer.gradient_clip
    assert own.schedule.steps == world.schedule.steps
