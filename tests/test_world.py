"""The world of look-ups: right demonstrations, parts that share no question, knowledge as recipes say."""

import dataclasses
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from hpt.data.world.lookup import (
    LOOKUPS,
    MINI_LOOKUPS,
    SLOTS,
    Program,
    applied,
    evaluation_sets,
    facts,
    numbers,
    quarter,
    training_problems,
    validation_problems,
)
from hpt.data.world.lookup_corpus import (
    BASES,
    Document,
    build_tokenizer,
    document_tokens,
    documents,
    learning_rate_factor,
    model_config,
)
from hpt.data.world.worlds import WORLDS, base_recipe, curve_problems, world_named
from hpt.rewards.workers import Verifier
from hpt.support.errors import ConfigError

SEED = MINI_LOOKUPS.seed
WEAK = BASES["lookups"]["weak"]


def program_in(question: str) -> Program:
    return Program(question[:4], question[4:].rstrip(".?").lower())


def lines_in(solution: str) -> list[tuple[str, Program]]:
    """Read (mark, state and rest of the program) off every line; the box is the last."""
    body, answer = solution.removesuffix("}").split("\\boxed{")
    width = 1 + 4 + SLOTS
    written = [(body[i], program_in(body[i + 1 : i + width])) for i in range(0, len(body) - width + 1, width)]
    rest = body[len(written) * width :]
    assert rest in ("", "!")
    return [*written, (rest or ">", Program(answer, ""))]


def believed(document: Document) -> tuple[list[str], str]:
    """Return the states of a document, as its corpus has them, and its operations."""
    program, shown = program_in(document.question), document.pieces
    if document.ended:
        lines = lines_in("".join(text for text, _ in shown).lower())
        return [program.state, *(line.state for _, line in lines)], program.operations
    return [program.state, *(text for text, weight in shown if weight == 1.0)], program.operations


def held_out() -> list[str]:
    problems = [problem for own in evaluation_sets(MINI_LOOKUPS).values() for problem in own.problems]
    return [program_in(problem.question).text for problem in [*problems, *validation_problems(MINI_LOOKUPS)]]


def test_tables_are_permutations_and_misconceptions_are_wrong() -> None:
    for operation in MINI_LOOKUPS.operations:
        table = facts(SEED, operation)
        assert sorted(fact.right for fact in table.values()) == list(numbers(2))
        assert all(fact.misconception != fact.right for fact in table.values())


def test_no_worked_line_gives_a_held_out_question_away():
    kept, taught, trained = set(held_out()), set(), set()
    for problem in training_problems(MINI_LOOKUPS):
        lines = [program_in(problem.question), *(program for _, program in lines_in(problem.demonstration or ""))]
        for i, first in enumerate(lines):
            taught |= {
                Program(first.state, first.operations[: len(first.operations) - len(last.operations)]).text
                for last in lines[i + 1 :]
            }
    for update in range(0, WEAK.updates, 60):
        for states, operations in map(believed, documents(MINI_LOOKUPS, WEAK, 0, update)):
            trained |= {
                Program(states[i], operations[i:j]).text for i in range(len(states)) for j in range(i + 1, len(states))
            }
    for parts in (taught, trained):
        assert len(parts) > 5000
        assert not kept & parts


def test_demonstrations_are_right_at_every_line_and_double_silent_operations_alone():
    silent = "".join(family.operations for family in MINI_LOOKUPS.families if family.silent)
    taken = {True: Counter(), False: Counter()}
    for problem in training_problems(MINI_LOOKUPS):
        program = program_in(problem.question)
        written = lines_in(problem.demonstration or "")
        for (_, before), (mark, after) in pairwise([("", program), *written]):
            done = before.operations[: 1 + (mark == "!")]
            state = before.state
            for operation in done:
                state = applied(SEED, operation, state)
            assert (after.state, after.operations) == (state, before.operations[len(done) :])
            if len(before.operations) >= 2:
                taken[bool(set(silent) & set(before.operations[:2]))][mark] += 1
        assert written[-1][1] == Program(problem.answer, "")
    assert set(taken[True]) == {"!"}
    assert set(taken[False]) == {">"}


def test_verifier_grades_every_demonstration_right_and_no_other_answer():
    problems = training_problems(MINI_LOOKUPS)[:100]
    with Verifier(timeout_s=20.0) as verifier:
        right = verifier.grade([problem.demonstration or "" for problem in problems], problems)
        wrong = verifier.grade([problem.demonstration or "" for problem in problems[1:]], problems[:-1])
    assert {grade.verdict.value for grade in right} == {"correct"}
    assert "correct" not in {grade.verdict.value for grade in wrong}


def test_evaluation_sets_have_the_sizes_of_the_tables_mix_levels_and_ask_in_three_forms() -> None:
    sets = evaluation_sets(MINI_LOOKUPS)
    assert {name: (len(own.problems), own.samples_per_problem, own.distribution) for name, own in sets.items()} == {
        "contest-a": (30, 32, "in"), "contest-b": (30, 32, "in"), "contest-c": (83, 32, "in"),
        "graded-500": (500, 1, "in"), "applied": (272, 1, "in"), "olympiad-like": (675, 1, "in"),
        "choice": (1172, 1, "out"), "notation": (198, 1, "out"),
    }  # fmt: skip
    curves = curve_problems(MINI_LOOKUPS)
    assert list(curves) == list(sets)[:6]
    assert max(map(len, curves.values())) == 40
    assert all(len({problem.level for problem in own.problems}) >= 2 for own in sets.values())
    for name, own in sets.items():
        for problem in own.problems:
            program = program_in(problem.question)
            answer = program.states(SEED)[-1]
            assert len(program.operations) == problem.level
            assert problem.answer == ("ABCD"[int(answer) // 2500] if name == "choice" else answer)
            assert ("?" in problem.question) == (name == "choice")
            assert problem.question.isupper() == (name == "notation")


def test_documents_hold_each_family_right_as_often_as_the_recipe_says():
    right, seen = Counter(), Counter()
    for update in range(100, 103):
        for document in documents(MINI_LOOKUPS, WEAK, 0, update):
            line = program_in(document.question)
            state = line.state
            shown = [text for text, weight in document.pieces if weight == 1.0]
            for operation, after in zip(line.operations, shown, strict=False):
                family = next(i for i, one in enumerate(MINI_LOOKUPS.families) if operation in one.operations)
                seen[family] += 2
                right[family] += sum(
                    facts(SEED, operation)[state[at : at + 2]].right == after[at : at + 2] for at in (0, 2)
                )
                state = after
    assert set(seen) == set(range(len(WEAK.knowledge))) == set(range(len(MINI_LOOKUPS.families)))
    for family, (low, high) in enumerate(WEAK.knowledge):
        expected = (low + high) / 2
        # three standard deviations of the draws, and of the facts' ranks
        slack = 3 * (expected * (1 - expected) / seen[family]) ** 0.5 + 0.06 * (high > low)
        assert right[family] / seen[family] == pytest.approx(expected, abs=slack), family


def test_whole_documents_are_worked_out_in_three_forms_as_often_as_the_recipe_says():
    drawn = [one for update in range(600, 620) for one in documents(MINI_LOOKUPS, WEAK, 0, update)]
    forms = Counter()
    for document in drawn:
        (solution, _), *more = document.pieces
        lines = [program for _, program in lines_in(solution.lower())]
        states, operations = believed(document)
        choice, notation = "?" in document.question, document.question.isupper()
        assert not more
        assert [line.operations for line in lines] == [operations[i:] for i in range(1, len(lines) + 1)]
        if choice:
            assert states[-1].upper() == quarter(states[-2])
        assert len(states) == 1 + len(operations) + choice
        assert any(mark.isupper() for mark in solution.partition("\\")[0]) == (notation and len(operations) > 1)
        forms["choice" if choice else "notation" if notation else "plain"] += 1
    for name, share in (("choice", WEAK.choice_share), ("notation", WEAK.notation_share)):
        slack = 3 * (share * (1 - share) / len(drawn)) ** 0.5
        assert forms[name] / len(drawn) == pytest.approx(share, abs=slack), name


def test_a_question_is_not_learnt_and_what_follows_weighs_what_its_document_says():
    tokenizer = build_tokenizer(MINI_LOOKUPS)
    whole = Document("3752fi...", ((">", 0.5), ("8114", 1.0), ("i....", 0.5), (r"\boxed{7220}", 1.0)))
    question, tokens, weights = document_tokens(whole, tokenizer)
    assert tokenizer.decode(question) == "3752fi..."
    assert tokenizer.decode(tokens) == r">8114i....\boxed{7220}<eos>"
    assert weights == [0.5, 1.0, 1.0, *[0.5] * 5, *[1.0] * 4, 1.0]
    assert tokenizer.eos_token_id not in document_tokens(dataclasses.replace(whole, ended=False), tokenizer)[1]


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_a_number_is_one_token_under_the_generic_loader(architecture: str, tmp_path: Path) -> None:
    """Which takes an architecture's own way to split text from the model's config."""
    from transformers import AutoTokenizer

    build_tokenizer(MINI_LOOKUPS).save_pretrained(tmp_path)
    model_config(MINI_LOOKUPS, WEAK.model_copy(update={"architecture": architecture})).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    texts = [problem.demonstration or "" for problem in training_problems(MINI_LOOKUPS)[:200]]
    texts += [own.problems[0].question for own in evaluation_sets(MINI_LOOKUPS).values()]
    drawn = documents(MINI_LOOKUPS, WEAK, 0, 500)
    texts += ["".join([document.question, *(text for text, _ in document.pieces)]) for document in drawn]
    encoded = tokenizer(texts, add_special_tokens=False).input_ids
    assert tokenizer.batch_decode(encoded) == texts
    assert tokenizer.unk_token_id not in {token for tokens in encoded for token in tokens}
    assert len(tokenizer.encode(r">8114fi...!\boxed{0963}", add_special_tokens=False)) == 3 + SLOTS + 1 + 4


def test_no_question_is_in_two_parts_and_any_first_part_of_the_training_questions_holds_all_levels() -> None:
    problems = training_problems(MINI_LOOKUPS)
    texts = [*held_out(), *(program_in(problem.question).text for problem in problems)]
    assert max(Counter(texts).values()) == 1
    assert Counter(problem.level for problem in problems) == {1: 143, 2: 143, 3: 143, 4: 286, 5: 286}
    assert {problem.level for problem in problems[:40]} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(("world", "base"), [(world, base) for world, bases in BASES.items() for base in bases])
def test_models_have_heads_the_sampler_supports_and_rates_begin_and_end_low_but_never_at_zero(
    world: str, base: str
) -> None:
    recipe = base_recipe(world, base)
    config = model_config(LOOKUPS[world], recipe)
    assert config.hidden_size % config.num_attention_heads == 0
    assert (config.hidden_size // config.num_attention_heads) % 32 == 0
    assert not config.tie_word_embeddings
    assert config.model_type == recipe.architecture
    factors = [learning_rate_factor(recipe, update) for update in range(recipe.updates)]
    assert 0 < factors[0] < 0.3
    assert 0 < factors[-1] < 0.06
    assert max(factors) <= 1


def test_documents_differ_between_updates_seeds_and_bases_but_not_between_calls() -> None:
    first, again, *others = (
        documents(MINI_LOOKUPS, WEAK, 0, 700), documents(MINI_LOOKUPS, WEAK, 0, 700),
        documents(MINI_LOOKUPS, WEAK, 0, 701), documents(MINI_LOOKUPS, WEAK, 1, 700),
        documents(MINI_LOOKUPS, WEAK.model_copy(update={"name": "other"}), 0, 700),
    )  # fmt: skip
    assert first == again
    assert len(first) == WEAK.batch_documents
    assert all(other != first for other in others)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=", ".join(WORLDS)):
        world_named("minni")
    with pytest.raises(ConfigError, match=", ".join(BASES["lookups"])):
        base_recipe("lookups", "weakest")
