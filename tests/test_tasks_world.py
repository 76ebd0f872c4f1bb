"""The graded world: right answers, an imperfect teacher, parts that share no problem, and the same in every process."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from hpt.data.problems import problems_hash
from hpt.data.world.chains import DIGITS, OPERATIONS, Chain
from hpt.data.world.corpus import BASES, documents
from hpt.data.world.graded import (
    GPU_WORLD,
    MINI_WORLD,
    TINY_WORLD,
    WORLDS,
    training_problems,
    validation_problems,
)
from hpt.data.world.sets import evaluation_sets
from hpt.data.world.worlds import base_recipe, curve_problems, world_named
from hpt.support.errors import ConfigError

PLAIN = str.maketrans("pmt", "+-*")
CHAIN = re.compile(r"(\d+)((?:[-+*]\d)+)")


def chain_in(text: str) -> Chain:
    """Read the chain off a question in any form."""
    found = CHAIN.match(text.translate(PLAIN))
    assert found, text
    return Chain(found[1], tuple(re.findall(r"[-+*]\d", found[2])))


def held_out_texts(world) -> list[str]:
    problems = [problem for own in evaluation_sets(world).values() for problem in own.problems]
    return [chain_in(problem.question).text for problem in [*problems, *validation_problems(world)]]


def test_operations_act_on_each_digit_modulo_ten_and_lose_nothing():
    assert Chain("2735", ("*9", "-7", "+4")).states == ("2735", "8375", "1608", "5042")
    for operation in OPERATIONS:
        assert sorted(DIGITS.translate(OPERATIONS[operation])) == list(DIGITS), operation


@pytest.mark.parametrize("world", [MINI_WORLD, TINY_WORLD, GPU_WORLD], ids=lambda world: world.name)
def test_no_problem_is_in_two_parts_of_the_data(world):
    texts = held_out_texts(world)
    texts += [chain_in(problem.question).text for problem in training_problems(world)]
    assert max(Counter(texts).values()) == 1


def test_no_worked_chain_contains_a_held_out_problem():
    held_out = set(held_out_texts(MINI_WORLD))
    worked = [problem.question for problem in training_problems(MINI_WORLD)]
    recipe = base_recipe("mini", "weak")
    for update in range(0, recipe.updates, 40):
        for document in documents(MINI_WORLD, recipe, 0, update):
            worked += [piece for piece in document.pieces[::2] if piece]
    parts = [part.text for text in worked for part in chain_in(text).parts()]
    assert len(parts) > 5000
    assert not held_out.intersection(parts)


@pytest.mark.parametrize("world", [MINI_WORLD, TINY_WORLD, GPU_WORLD], ids=lambda world: world.name)
def test_demonstrations_end_right_and_every_step_does(world):
    for problem in training_problems(world):
        chain = chain_in(problem.question)
        *steps, last = problem.demonstration.split(">")
        assert last == rf"\boxed{{{problem.answer}}}"
        assert problem.answer == chain.answer
        assert len(steps) == len(chain.operations) == world.chain_length(problem.level)
        for state, operation, right, step in zip(chain.states, chain.operations, chain.states[1:], steps, strict=False):
            before, values = step.split("=")
            assert before == state + operation
            *wrong, written = values.split("#")
            assert written == right
            for value in wrong:
                (place,) = [place for place in range(len(right)) if value[place] != right[place]]
                assert value[place] == state[place]


def test_teacher_errs_as_often_as_the_world_says():
    text = "".join(problem.demonstration for problem in training_problems(MINI_WORLD))
    written = text.count("=") + text.count("#")
    # about 4,700 values: one standard deviation is 0.006; the cap on one demonstration takes away about as much
    assert text.count("#") / written == pytest.approx(MINI_WORLD.detour, abs=0.025)


def test_any_first_part_of_the_training_questions_holds_all_levels():
    problems = training_problems(MINI_WORLD)
    assert Counter(problem.level for problem in problems) == {1: 143, 2: 143, 3: 143, 4: 286, 5: 286}
    assert {problem.level for problem in problems[:40]} == {1, 2, 3, 4, 5}


def test_evaluation_sets_have_the_sizes_of_the_tables():
    sets = evaluation_sets(MINI_WORLD)
    assert {name: (len(own.problems), own.samples_per_problem, own.distribution) for name, own in sets.items()} == {
        "contest-a": (30, 32, "in"),
        "contest-b": (30, 32, "in"),
        "contest-c": (83, 32, "in"),
        "graded-500": (500, 1, "in"),
        "applied": (272, 1, "in"),
        "olympiad-like": (675, 1, "in"),
        "choice": (1172, 1, "out"),
        "notation": (198, 1, "out"),
    }
    longest = max(problem.level for problem in training_problems(MINI_WORLD))
    assert {problem.level for problem in sets["contest-b"].problems} == {longest + 1}
    assert all(len(own.problems) <= 8 for own in evaluation_sets(TINY_WORLD).values())
    curves = curve_problems(MINI_WORLD)
    assert list(curves) == list(sets)[:6]
    assert max(map(len, curves.values())) == 40


def test_answers_of_the_evaluation_sets_are_right_in_every_form():
    for name, own in evaluation_sets(MINI_WORLD).items():
        for problem in own.problems:
            answer = chain_in(problem.question).answer
            if name == "choice":
                assert problem.question.endswith("?ABCD")
                assert problem.answer == "ABCD"[int(answer) // 2500]
                assert problem.answer_kind == "choice"
            else:
                assert (problem.answer, problem.answer_kind) == (answer, "digits")
            assert bool(set(problem.question) & set("pmt")) == (name == "notation")


def test_data_is_the_same_in_another_process():
    program = (
        "from hpt.data.world.graded import *; from hpt.data.problems import problems_hash;"
        "from hpt.data.world.sets import evaluation_sets; from hpt.data.world.corpus import documents, BASES;"
        "sets = evaluation_sets(TINY_WORLD);"
        "print(problems_hash([*sets['choice'].problems, *training_problems(TINY_WORLD)]),"
        "documents(TINY_WORLD, BASES['tiny']['weak'], 0, 30)[:3])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    first = [*evaluation_sets(TINY_WORLD)["choice"].problems, *training_problems(TINY_WORLD)]
    shown = documents(TINY_WORLD, base_recipe("tiny", "weak"), 0, 30)[:3]
    assert outputs == {f"{problems_hash(first)} {shown}\n"}


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=", ".join(WORLDS)):
        world_named("minni")
    with pytest.raises(ConfigError, match=", ".join(BASES["mini"])):
        base_recipe("mini", "weakest")
