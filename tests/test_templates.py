"""Prompts and demonstrations as tokens: every named template, and what becomes of what is too long."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpt.config.run_config import RunConfig, validate
from hpt.config.settings import PolicySettings
from hpt.data.files import problems_of
from hpt.data.models import load_tokenizer
from hpt.data.problems import Problem, check_demonstrations
from hpt.data.prompts import (
    TEMPLATES,
    demonstration_tokens,
    encode_training,
    prompt_text,
    prompt_tokens,
    warn_of_unknown,
)
from hpt.data.world.tokenizer import character_tokenizer
from hpt.evaluation.evaluate import EvaluationSettings
from hpt.runs.resolve import build_config
from hpt.support.errors import ConfigError
from tests.command_line import hpt
from tests.digits import write_digits
from tests.public_rows import SYSTEM, openr1, write
from tests.tokenizers_like import like_llama, like_qwen, saved

PROBLEM = problems_of([openr1(4)], ["openr1"], "x")[0][0]
OWN = r"Please reason step by step, and put your final answer within \boxed{}."


@pytest.fixture(scope="module")
def qwen() -> Any:
    return like_qwen()


@pytest.fixture(scope="module")
def llama() -> Any:
    return like_llama()


def chat(system: str, opens: str = "") -> str:
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{PROBLEM.question}<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n{opens}"


RAW = f"Question:\n{PROBLEM.question}\n{OWN}\nAnswer:\nLet's think step by step."
BEGIN = "<|begin_of_text|>"


PROMPTS = [
    ("plain", "qwen", PROBLEM.question),  # no begin token to put
    ("plain", "llama", BEGIN + PROBLEM.question),
    ("qwen", "qwen", chat(OWN)),
    ("qwen-data-system", "qwen", chat(SYSTEM)),
    ("qwen-no-system", "qwen", chat("")),
    ("luffy", "qwen", chat(SYSTEM, "<think>\n")),
    ("llama", "llama", RAW),
    ("llama-begin", "llama", BEGIN + RAW),
]


@pytest.mark.parametrize(("template", "kind", "expected"), PROMPTS)
def test_a_prompt_reads_as_its_template_says(template: str, kind: str, expected: str, qwen: Any, llama: Any) -> None:
    tokenizer = {"qwen": qwen, "llama": llama}[kind]
    tokens = prompt_tokens(tokenizer, PROBLEM, template)
    assert tokens.dtype == np.int32
    assert tokenizer.decode(tokens, skip_special_tokens=False) == expected


def test_every_template_is_tested() -> None:
    assert {template for template, *_ in PROMPTS} == set(TEMPLATES)


def test_turn_marks_are_single_special_tokens(qwen: Any) -> None:
    tokens = prompt_tokens(qwen, PROBLEM, "qwen").tolist()
    start, end = qwen.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert (tokens.count(start), tokens.count(end)) == (3, 2)


def test_braces_of_a_question_stay_as_they_are(llama: Any) -> None:
    problem = Problem("1", r"What is \frac{1}{2} of {question}?", "1")
    text = prompt_text("llama", llama, problem)
    assert text.startswith("Question:\nWhat is \\frac{1}{2} of {question}?\nPlease")


@pytest.mark.parametrize(("template", "kept"), [("qwen", True), ("llama", True), ("luffy", False)])
def test_the_think_tag_stays_where_the_prompt_does_not_open_it(template: str, kept: bool, qwen: Any) -> None:
    tokens = demonstration_tokens(qwen, PROBLEM.demonstration or "", template)
    text = qwen.decode(tokens[:-1])
    assert tokens[-1] == qwen.eos_token_id
    assert text.startswith("<think>\n") is kept
    assert PROBLEM.demonstration == (text if kept else "<think>\n" + text)


@pytest.mark.parametrize(
    ("kind", "template", "problem", "said"),
    [
        ("llama", "qwen", PROBLEM, "a tokenizer with a chat template; set data.template to llama"),
        ("qwen", "luffy", replace(PROBLEM, system=None), "system message of .* = None"),
        ("qwen", "chatml", PROBLEM, "data.template = 'chatml': allowed is one of plain, qwen"),
    ],
)
def test_what_a_template_cannot_show_is_refused(
    kind: str, template: str, problem: Problem, said: str, qwen: Any, llama: Any
) -> None:
    with pytest.raises(ConfigError, match=said):
        prompt_tokens({"qwen": qwen, "llama": llama}[kind], problem, template)


# --- limits -----------------------------------------------------------------------------------------------------------


PROBLEMS = problems_of([openr1(number) for number in range(6)], ["openr1"], "x", prefix="x")[0]


def settings(max_response_tokens: int = 60, **data: Any) -> RunConfig:
    limits = {"max_response_tokens": max_response_tokens, "max_model_tokens": 400}
    return validate({
        "data": {"template": "qwen", "max_prompt_tokens": 300, **data}, "rollout": limits,
        "schedule": {"prompts_per_step": 2},
    })  # fmt: skip


def with_long_demonstration(tokenizer: Any, *numbers: int) -> list[Problem]:
    long = "<think>\n" + "step by step " * 60 + "\n</think>\n\n\\boxed{1}"
    assert len(tokenizer.encode(long)) > 60
    return [
        replace(problem, demonstration=long) if number in numbers else problem
        for number, problem in enumerate(PROBLEMS)
    ]


def test_everything_within_its_limits_is_kept(qwen: Any) -> None:
    longest = max(len(demonstration_tokens(qwen, problem.demonstration or "", "qwen")) for problem in PROBLEMS)
    for config in (settings(), settings(max_response_tokens=longest)):
        found = encode_training(qwen, PROBLEMS, config, True)
        assert found.problems == PROBLEMS
        assert set(found.counts.values()) == {0}
        for problem in PROBLEMS:
            assert found.prompts[problem.id].tolist() == prompt_tokens(qwen, problem, "qwen").tolist()
            expected = demonstration_tokens(qwen, problem.demonstration or "", "qwen")
            assert found.demonstrations[problem.id].tolist() == expected.tolist()


def test_a_demonstration_over_the_limit_is_refused(qwen: Any) -> None:
    with pytest.raises(ConfigError, match=r"demonstration of x-3 = '\d+ tokens': allowed is at most rollout.max_resp"):
        encode_training(qwen, with_long_demonstration(qwen, 3), settings(), True)


def test_a_demonstration_over_the_limit_is_dropped_and_counted(qwen: Any) -> None:
    problems = with_long_demonstration(qwen, 3, 5)
    found = encode_training(qwen, problems, settings(overlong_demonstrations="drop"), True)
    assert found.counts["demonstrations_dropped"] == 2
    assert set(found.demonstrations) == set(found.prompts) == {"x-0", "x-1", "x-2", "x-4"}
    assert [problem.id for problem in found.problems] == ["x-0", "x-1", "x-2", "x-4"]


@pytest.mark.parametrize("choice", ["refuse", "drop", "cut"])
def test_a_method_that_learns_from_rollouts_alone_never_looks_at_demonstrations(qwen: Any, choice: str) -> None:
    """Neither at their length nor at what the tokenizer makes of them."""
    problems = with_long_demonstration(qwen, 3)
    problems[4] = replace(problems[4], demonstration="n\u0303")  # the tokenizer composes it
    found = encode_training(qwen, problems, settings(overlong_demonstrations=choice), False)
    assert found.problems == problems
    assert found.demonstrations == {}
    assert set(found.counts.values()) == {0}


def test_a_demonstration_over_the_limit_is_cut_with_its_end_and_graded_so(qwen: Any) -> None:
    found = encode_training(qwen, with_long_demonstration(qwen, 3), settings(overlong_demonstrations="cut"), True)
    assert found.counts == {"prompts_dropped": 0, "demonstrations_dropped": 0, "demonstrations_cut": 1}
    cut = found.demonstrations["x-3"]
    assert len(cut) == 60
    assert cut[-1] != qwen.eos_token_id, "the end token goes with the end"
    assert "\\boxed" not in (found.problems[3].demonstration or ""), "its reward is that of what is left"
    assert found.problems[3].demonstration == qwen.decode(cut)
    assert [problem.id for problem in found.problems] == [problem.id for problem in PROBLEMS]


def test_a_long_prompt_is_refused_or_dropped_and_counted(qwen: Any) -> None:
    problems = [replace(PROBLEMS[0], question="How many marbles? " * 300), *PROBLEMS[1:]]
    with pytest.raises(ConfigError, match=r"question x-0 = .*set data.overlong_prompts to drop"):
        encode_training(qwen, problems, settings(overlong_prompts="refuse"), True)
    found = encode_training(qwen, problems, settings(overlong_prompts="drop"), True)
    assert found.counts["prompts_dropped"] == 1
    assert [problem.id for problem in found.problems] == ["x-1", "x-2", "x-3", "x-4", "x-5"]


@pytest.mark.parametrize(("template", "said"), [("qwen", True), ("plain", True), ("qwen-data-system", False)])
def test_a_system_message_that_no_prompt_shows_is_spoken_of(
    qwen: Any, template: str, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    encode_training(qwen, PROBLEMS, settings(template=template, source=f"{template}.jsonl"), True)
    warned = f"warning: 6 of 6 questions of {template}.jsonl have a system message" in capsys.readouterr().err
    assert warned is said


def contradicting(*places: int) -> list[Problem]:
    boxes = dict.fromkeys(places, "-7")
    return [
        replace(own, demonstration=rf"So it is \boxed{{{boxes.get(place, own.answer + '.0')}}}.")
        for place, own in enumerate(PROBLEMS)
    ]


def test_demonstrations_that_contradict_their_answers_are_counted_and_named(
    qwen: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    encode_training(qwen, contradicting(1, 4), settings(source="two.jsonl"), True)
    said = "warning: demonstrations of two.jsonl: 2 of 6 end in another answer than their row, and are taught all the "
    assert said + "same: x-1; x-4\n" in capsys.readouterr().err
    encode_training(qwen, contradicting(1, 4), settings(source="unused.jsonl"), False)
    encode_training(qwen, contradicting(), settings(source="right.jsonl"), True)  # 17.0 is 17
    assert "another answer" not in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"demonstrations of all.jsonl = '6 of 6 end in another answer"):
        encode_training(qwen, contradicting(*range(6)), settings(source="all.jsonl"), True)


def test_a_large_set_of_contradictions_is_graded_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    many = [Problem(f"q{i}", f"{i}?", f"{i}", f"\\boxed{{{i + i % 2}}}") for i in range(3000)]
    check_demonstrations(many, "many.jsonl")
    said = "750 of 3000 end in another answer than their row (of 1500 that differ as text, 750 "
    assert said in capsys.readouterr().err


# --- what a demonstration's text holds --------------------------------------------------------------------------------


def normalising(form: str) -> Any:
    """Qwen's tokenizer puts every text into NFC before it looks at it."""
    from tokenizers import normalizers

    tokenizer = like_qwen()
    tokenizer.backend_tokenizer.normalizer = getattr(normalizers, form)()
    return tokenizer


def with_demonstration(text: str) -> list[Problem]:
    return [replace(PROBLEMS[0], demonstration=text), *PROBLEMS[1:]]


def test_a_demonstration_in_another_spelling_of_the_same_characters_is_taught(qwen: Any) -> None:
    text = "Poincare\u0301 takes 2\u212b: \\boxed{1}"
    found = encode_training(normalising("NFC"), with_demonstration(text), settings(), True)
    assert qwen.decode(found.demonstrations["x-0"]) == "Poincar\u00e9 takes 2\u00c5: \\boxed{1}<|endoftext|>"


def test_a_tokenizer_that_changes_the_text_is_refused_with_the_place_it_does() -> None:
    text = "So there it is, as long as you like, and then x\u00b2 = 4: \\boxed{2}"  # NFKC makes it x2
    with pytest.raises(ConfigError, match=r"demonstration of x-0 = .*x2 = 4: .*x\\xb2 = 4: "):
        encode_training(normalising("NFKC"), with_demonstration(text), settings(), True)


@pytest.mark.parametrize("text", ["<|endoftext|>", "<think>\n<|endoftext|>\n"])
def test_a_demonstration_of_an_end_alone_is_refused_by_its_row(qwen: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=r"demonstration of x-0 = .*endoftext.*a text before its end token"):
        encode_training(qwen, with_demonstration(text), settings(template="luffy"), True)


def test_every_end_token_of_the_folder_is_taken_off_a_demonstration_and_ordinary_text_is_not(
    qwen: Any, tmp_path: Path
) -> None:
    from transformers import Qwen2Config

    folder, three = saved(qwen, tmp_path), qwen.encode("3")[0]
    Qwen2Config(vocab_size=600, eos_token_id=2).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2, three]}))
    tokenizer = load_tokenizer(folder)
    for end in ("<|im_end|>", "<|im_end|>\n", "<|im_end|><|endoftext|>"):
        found = encode_training(tokenizer, with_demonstration("It is \\boxed{3}, 3" + end), settings(), True)
        assert qwen.decode(found.demonstrations["x-0"]) == "It is \\boxed{3}, 3<|endoftext|>"


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|endoftext|>\n", "<|endoftext|><|endoftext|>"])
@pytest.mark.parametrize("template", ["qwen", "luffy"])
def test_a_demonstration_that_holds_its_end_token_teaches_one(qwen: Any, template: str, end: str) -> None:
    (plain, *_), ended = PROBLEMS, (PROBLEMS[0].demonstration or "") + end
    expected = demonstration_tokens(qwen, plain.demonstration or "", template).tolist()
    assert demonstration_tokens(qwen, ended, template).tolist() == expected
    config = settings(template=template)
    assert encode_training(qwen, with_demonstration(ended), config, True).demonstrations["x-0"].tolist() == expected


def test_a_token_the_model_does_not_know_is_refused(qwen: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": len(qwen)}))
    config = settings().model_copy(update={"policy": PolicySettings(path=str(tmp_path))})
    encode_training(qwen, PROBLEMS, config, True)
    qwen_and_more = like_qwen()
    qwen_and_more.add_tokens(["marbles"])
    with pytest.raises(ConfigError, match=rf"question x-0 = .*\('marbles'\).*below {len(qwen)}, the model's"):
        encode_training(qwen_and_more, PROBLEMS, config, True)


# --- tokenizer folders and evaluation keys ----------------------------------------------------------------------------


def test_a_tokenizer_without_pad_token_pads_with_its_end(llama: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a tokenizer that transformers reads; save the tokenizer"):
        load_tokenizer(tmp_path)
    assert load_tokenizer(saved(llama, tmp_path)).pad_token == "<|end_of_text|>"


def test_a_template_of_its_own_gives_an_evaluation_a_key_of_its_own() -> None:
    plain, chatted = EvaluationSettings(), EvaluationSettings(template="qwen")
    assert plain.key(PROBLEMS) != chatted.key(PROBLEMS)


# --- hpt data show ----------------------------------------------------------------------------------------------------


def shown(tmp_path: Path, *arguments: str) -> str:
    source = write(tmp_path / "own.parquet", [openr1(number) for number in range(3)])
    done = hpt("data", "show", source, *arguments)
    return done.stdout + done.stderr


def test_show_prints_every_token_the_model_sees(qwen: Any, tmp_path: Path) -> None:
    folder = saved(qwen, tmp_path / "model")
    output = shown(tmp_path, "--problem", "1", "--policy", str(folder), "--template", "qwen", "--all")
    rows = [line.split(maxsplit=2) for line in output.splitlines() if line[:6].strip().isdecimal()]
    problem = problems_of([openr1(1)], ["openr1"], "x")[0][0]
    prompt = prompt_tokens(qwen, problem, "qwen").tolist()
    response = demonstration_tokens(qwen, problem.demonstration or "", "qwen").tolist()
    assert [int(token) for _, token, _ in rows] == prompt + response
    assert rows[0][2] == "'<|im_start|>'"
    assert rows[-1][2] == "'<|endoftext|>'"
    assert "demonstration: 10 tokens, cut to 10" in shown(tmp_path, "--policy", str(folder), "--limit", "10")


def test_show_needs_neither_a_chat_template_nor_a_policy(tmp_path: Path) -> None:
    policy = str(write_digits(tmp_path) / "model")
    assert "prompt in template plain: " in shown(tmp_path, "--policy", policy)
    record = shown(tmp_path, "--problem", "own-2")
    assert "answer: 3" in record
    assert f"system: {SYSTEM}" in record
    assert "--problem = '7': allowed is an id of" in shown(tmp_path, "--problem", "7")


def test_questions_with_text_the_tokenizer_does_not_know_are_counted_and_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The mini world's has no letters of ours: a policy would be asked something else, and nothing would look wrong."""
    problems = [Problem("known", "1+2?", "3"), Problem("words", "How much is 1 plus 2?", "3")]
    config = build_config("grpo", scale="tiny", settings={"schedule.prompts_per_step": 2})
    encode_training(character_tokenizer(), problems, config, False)
    assert "1 of 2 questions of graded hold text that the policy's tokenizer does not know" in capsys.readouterr().err
    warn_of_unknown(character_tokenizer(), {"known": np.array([5, 6])}, "mine")
    assert "mine" not in capsys.readouterr().err
