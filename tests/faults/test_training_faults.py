"""What goes wrong while training is skipped or stops the run, as documented; counted, and the user is told why."""

import math
import multiprocessing
import os
import signal
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hpt.rewards.workers import Grade, Verdict, Verifier
from hpt.runs.folder import run_folders
from hpt.runs.job import Job, run_job
from hpt.support.errors import TrainingFault
from hpt.training.guards import FEWEST_TIMEOUTS, MOST_IN_A_ROW, check_verdicts
from hpt.training.policy import load_model
from hpt.training.sampler import Sampler, SamplingRequest
from hpt.training.trainer import Trainer
from tests.digits import digits_config, write_digits
from tests.scripted import (
    ScriptedSampler,
    ScriptedVerifier,
    column,
    config_for,
    make_trainer,
    right,
    same_weights,
    weights_of,
    wrong,
)


def spoil(trainer: Trainer, factor: float, steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply the loss of some steps."""
    genuine = trainer.engine.backward

    def backward(loss: torch.Tensor) -> None:
        genuine(loss * factor if trainer.state.step in steps else loss)

    monkeypatch.setattr(trainer.engine, "backward", backward)


# --- losses and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "factor"), [("hpt", math.nan), ("sft", -math.inf), ("hpt", 1e30)])
def test_a_bad_step_is_skipped_counted_and_explained(
    method: str, factor: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(config_for(method))
    trainer.train(1)
    before = weights_of(trainer.engine)
    spoil(trainer, factor, {1}, monkeypatch)
    trainer.train(2)
    assert same_weights(weights_of(trainer.engine), before)
    assert column(trainer, "optim/skipped_updates") == [0.0, 2.0]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    finite = math.isfinite(column(trainer, "optim/gradient_norm")[1])
    reason = "above optimizer.skip_above_norm = 80" if finite else "not finite"
    assert all(line.startswith("step 1: update skipped") and reason in line for line in said)
    trainer.train(4)  # and it goes on
    assert not same_weights(weights_of(trainer.engine), before)
    assert column(trainer, "optim/skipped_updates") == [0.0, 2.0, 0.0, 0.0]
    assert all(bool(torch.isfinite(weight).all()) for weight in weights_of(trainer.engine).values())


def test_a_run_that_learns_nothing_any_more_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(config_for("sft", schedule__steps=30))
    spoil(trainer, math.nan, set(range(30)), monkeypatch)
    with pytest.raises(TrainingFault, match=rf"step 9: {MOST_IN_A_ROW} updates in a row had no finite gradient.*lower"):
        trainer.train(30)
    assert len(trainer.rows["metrics"]) == 9


def test_only_updates_in_a_row_stop_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(config_for("sft", schedule__steps=30))
    spoil(trainer, math.nan, set(range(30)) - {5, 14, 23}, monkeypatch)
    trainer.train(30)
    assert sum(column(trainer, "optim/skipped_updates")) == 54
    assert len(capsys.readouterr().err.splitlines()) == 20  # a log of thousands of lines helps nobody


def test_a_large_norm_is_no_reason_to_stop() -> None:
    trainer = make_trainer(config_for("sft", schedule__steps=15, optimizer__skip_above_norm=1e-9))
    trainer.train(15)
    assert sum(column(trainer, "optim/skipped_updates")) == 30


# --- rollouts ---------------------------------------------------------------------------------------------------------


def sampler_returning(*lengths: int) -> Sampler:
    """The real sampler on an engine that returns responses of these lengths, whatever it is asked for."""
    sampler = Sampler.__new__(Sampler)

    def completion(length: int) -> Any:
        tokens = list(range(length))
        flat = SimpleNamespace(token_ids=tokens, logprobs=[-1.0] * length)
        return SimpleNamespace(token_ids=tokens, logprobs=flat, finish_reason="stop")

    output = SimpleNamespace(outputs=[completion(length) for length in lengths])
    sampler._engine = SimpleNamespace(
        generate=lambda prompts, *_, **__: [output for _ in prompts], reset_prefix_cache=lambda: True
    )
    sampler._vllm = SimpleNamespace(SamplingParams=lambda **given: given)
    sampler._context, sampler._stop_tokens, sampler._final_only, sampler.version = 128, [0], None, 0
    return sampler


@pytest.mark.parametrize("lengths", [(), (3,), (3, 3), (3, 3, 3, 3), (3, 0, 3)])
def test_a_sampler_that_returns_fewer_or_empty_responses_stops_the_run(lengths: tuple[int, ...]) -> None:
    trainer = make_trainer(config_for("hpt"))
    before = weights_of(trainer.engine)
    trainer.sampler = sampler_returning(*lengths)
    with pytest.raises(TrainingFault, match=r"was asked for 3 responses and returned lengths \["):
        trainer.train(1)
    assert same_weights(weights_of(trainer.engine), before)
    assert trainer.rows["metrics"] == []


def test_a_sampler_that_forgets_a_question_stops_the_run() -> None:
    trainer = make_trainer(config_for("hpt"))
    sampler = sampler_returning(3, 2, 1)
    (batch,) = sampler.sample([SamplingRequest(np.arange(3), 0, 3, 1.0, 1.0, 8)])
    assert [len(sample.tokens) for sample in batch] == [3, 2, 1], "what these tests sample with works"
    genuine = sampler._engine.generate
    sampler._engine.generate = lambda prompts, *rest, **more: genuine(prompts[1:], *rest, **more)
    trainer.sampler = sampler
    with pytest.raises(TrainingFault, match="was asked for 4 questions and answered 3"):
        trainer.train(1)


# --- verdicts ---------------------------------------------------------------------------------------------------------


class Late(ScriptedVerifier):
    """Settles no answer but the first so many of every batch."""

    def __init__(self, spared: int = 0) -> None:
        self.spared = spared

    def grade(self, texts: Any, asked: Any) -> list[Grade]:
        grades = super().grade(texts, asked)
        late = [
            grade if grade.verdict is Verdict.no_answer else Grade(Verdict.timed_out, grade.answer) for grade in grades
        ]
        return grades[: self.spared] + late[self.spared :]


@pytest.mark.parametrize("method", ["hpt", "grpo", "luffy"])
def test_a_batch_whose_answers_all_timed_out_stops_the_run(method: str) -> None:
    """HPT would take every question for unsolved and learn all from demonstrations; GRPO would learn nothing."""
    trainer = make_trainer(config_for(method))
    trainer.train(1)
    before = weights_of(trainer.engine)
    trainer.verifier = Late()
    with pytest.raises(TrainingFault, match=r"step 1: the verifier settled none of \d+ answers.*verifier_timeout_s"):
        trainer.train(2)
    assert same_weights(weights_of(trainer.engine), before)
    assert len(trainer.rows["metrics"]) == 1


def test_answers_that_timed_out_are_wrong_and_counted_where_others_were_settled() -> None:
    trainer = make_trainer(config_for("hpt"))
    trainer.verifier = Late(spared=3)
    trainer.train(1)
    assert column(trainer, "rollout/timed_out_count") == [9.0]
    assert sum(row["timed_out"] for row in trainer.rows["rollouts"]) == 9


@pytest.mark.parametrize("late", [0, 1, FEWEST_TIMEOUTS - 1])
def test_a_few_late_answers_stop_nothing(late: int) -> None:
    graded = SimpleNamespace(count=lambda verdict: late if verdict is Verdict.timed_out else 0)
    check_verdicts(0, [graded])


def test_a_dead_verifier_worker_changes_no_result() -> None:
    """Answers that are new in every step: those of the first would not need a worker again."""

    def trained(kill: bool) -> Trainer:
        wrong_ones = count(100)

        def script(question: int, sample: int) -> str:
            return right(question, sample) if sample == 1 else f"\\boxed{{{next(wrong_ones)}}}"

        trainer = make_trainer(config_for("hpt"), script)
        with Verifier(timeout_s=60) as verifier:
            trainer.verifier = verifier
            trainer.train(1)
            if kill:
                workers = multiprocessing.active_children()
                assert workers
                for worker in workers:
                    os.kill(worker.pid, signal.SIGKILL)
                time.sleep(0.3)  # pebble notices within 0.1 s
            trainer.train(3)
        return trainer

    undisturbed, killed = trained(False), trained(True)
    assert same_weights(weights_of(undisturbed.engine), weights_of(killed.engine))
    assert undisturbed.rows["rollouts"] == killed.rows["rollouts"]


# --- weights left behind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sft", "hpt"])
def test_no_run_is_evaluated_with_other_weights_than_it_ends_with(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler only says that it took the weights of the last step, after which nothing but evaluations samples."""

    def stale(folder: str, *_: Any) -> ScriptedSampler:
        sampler = ScriptedSampler(load_model(folder), wrong)
        sampler.stale = True
        return sampler

    monkeypatch.setattr("hpt.training.sampler.Sampler", stale)
    config = digits_config(
        method, write_digits(tmp_path), schedule__steps=1, validation__every=0, optimizer__learning_rate=0.3
    )
    with pytest.raises(TrainingFault, match=r"step 1: .*allowed is diagnostics.max_mean_logprob_gap = 0.001"):
        run_job(Job(config, tmp_path / "runs"))
    (folder,) = run_folders(tmp_path / "runs")
    assert folder.status["state"] == "stopped"
    assert not folder.model.exists()
