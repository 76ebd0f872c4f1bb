"""Algorithm 1 with a scripted sampler: what is sampled, trained, skipped, counted and recorded."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from hpt.config.settings import EngineSettings, OptimizerSettings
from hpt.methods.methods import METHODS, Method
from hpt.methods.mixture import WeightedTrajectory
from hpt.runs.evaluations import evaluation_key
from hpt.support.errors import TrainingFault
from hpt.training.checkpoint import TrainingState
from hpt.training.engine import PolicyEngine, Updater
from hpt.training.metrics import METRICS, GradedRollouts, timing_columns
from hpt.training.policy import PolicyModule
from hpt.training.sampler import NO_WEIGHTS, Sample, SamplingRequest
from hpt.training.trainer import Trainer
from hpt.upge import likelihood
from hpt.upge.estimator import ROWS
from tests.scripted import (
    ScriptedSampler,
    assembled_once,
    column,
    config_for,
    make_trainer,
    mixed,
    problems,
    right,
    same_weights,
    small_model,
    tokenizer,
    weights_of,
    wrong,
)

STEPS = 4


def metrics(trainer: Trainer) -> list[dict[str, Any]]:
    return trainer.rows["metrics"]


def noted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, what: Callable[..., Any]) -> list[Any]:
    """Of each call of ``owner.name``, ``what`` its arguments are; the call goes on as it would."""
    seen: list[Any] = []
    genuine = getattr(owner, name)

    def call(*given: Any) -> Any:
        seen.append(what(*given))
        return genuine(*given)

    monkeypatch.setattr(owner, name, call)
    return seen


def updates_seen(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[WeightedTrajectory, ...]]:
    """What each optimiser step is given, as it is taken."""
    return noted(monkeypatch, trainer.updater, "update", lambda items, *_: items)


def passes_seen(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The losses that are passed backwards."""
    return noted(monkeypatch, trainer.engine, "backward", lambda loss: loss)


def answers_changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[SamplingRequest, int, Sample], Sample]) -> None:
    """``change`` what a scripted sampler answers: request, number of the sample, answer."""
    genuine = ScriptedSampler._one
    monkeypatch.setattr(
        ScriptedSampler, "_one", lambda own, request, index: change(request, index, genuine(own, request, index))
    )


# --- what is sampled and trained -------------------------------------------------------------------------------------


def test_sft_needs_no_rollouts() -> None:
    trainer = make_trainer(config_for("sft"))
    before = weights_of(trainer.engine)
    trainer.train(STEPS)
    assert trainer.sampler.requests == 0
    assert not same_weights(weights_of(trainer.engine), before)
    assert column(trainer, "trained/demonstrations") == [4.0] * STEPS
    assert column(trainer, "trained/rollouts") == [0.0] * STEPS
    assert "rollout/reward" not in metrics(trainer)[0]
    losses = column(trainer, "trained/demonstration_nll")
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("method", "rollouts"), [("grpo", 3), ("hpt", 3), ("luffy", 2), ("srft", 2)])
def test_the_demonstration_takes_a_place_in_the_group(method: str, rollouts: int) -> None:
    trainer = make_trainer(config_for(method))
    drawn = trainer.sample(trainer.questions(0))
    assert [len(group) for group in drawn] == [rollouts] * 4


def test_hpt_learns_unsolved_questions_from_demonstrations_and_the_rest_from_rollouts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = make_trainer(config_for("hpt", schedule__updates_per_step=1))
    updates = updates_seen(trainer, monkeypatch)
    trainer.train(1)
    trained = {(item.trajectory.problem_id, item.trajectory.is_demonstration) for item in updates[0]}
    assert trained == {("q0", True), ("q2", False), ("q3", False)}
    by_question = {row["problem_id"]: row for row in trainer.rows["rollouts"]}
    assert {name: row["branch"] for name, row in by_question.items()} == {
        "q0": "demonstration", "q1": "rollouts", "q2": "rollouts", "q3": "rollouts"
    }  # fmt: skip
    assert {name: row["correct"] for name, row in by_question.items()} == {"q0": 0, "q1": 3, "q2": 1, "q3": 1}


@pytest.mark.parametrize("updates", [1, 2])
def test_a_group_without_a_signal_costs_no_pass(updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"estimator__entropy_scope": "trained", "schedule__updates_per_step": updates}
    trainer = make_trainer(config_for("grpo", engine__micro_batch_tokens=1, **settings))  # a trajectory, a pass
    taken, passes = updates_seen(trainer, monkeypatch), passes_seen(trainer, monkeypatch)
    trainer.train(1)
    assert sum(map(len, taken)) == len(passes) == 2 * 3  # q2 and q3; q0 and q1 are all the same
    assert column(trainer, "trained/left_out") == [6.0]
    assert column(trainer, "trained/rollouts") == [6.0]


@pytest.mark.parametrize("script", [right, wrong])
def test_a_step_without_any_signal_takes_no_update(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam would otherwise move the weights by its momentum, and by weight decay."""
    trainer = make_trainer(config_for("grpo"), script)
    before = weights_of(trainer.engine)
    passes = passes_seen(trainer, monkeypatch)
    trainer.train(2)
    assert not passes
    assert same_weights(weights_of(trainer.engine), before)
    assert column(trainer, "optim/updates") == column(trainer, "optim/skipped_updates") == [0.0, 0.0]
    assert all(math.isnan(norm) for norm in column(trainer, "optim/gradient_norm"))
    assert trainer.state.version == 0


def test_a_step_of_demonstrations_alone_is_sfts() -> None:
    """Where every rollout is wrong, HPT's gate chooses every demonstration: the update is SFT's to the last bit."""
    ends = []
    for method in ("hpt", "sft"):
        trainer = make_trainer(config_for(method, estimator__entropy_coefficient=0.0), wrong)
        before = weights_of(trainer.engine)
        trainer.train(1)
        ends.append(weights_of(trainer.engine))
        assert not same_weights(before, ends[-1])
    assert same_weights(*ends)


def test_micro_batches_of_one_kind_are_nothing_special() -> None:
    """With a trajectory each, none holds both kinds; the released code takes the mean of an empty set there."""
    found = []
    for tokens in (1, 100_000):
        trainer = make_trainer(config_for("hpt", engine__micro_batch_tokens=tokens))
        trainer.train(2)
        found.append((weights_of(trainer.engine), metrics(trainer)))
    for name, weight in found[0][0].items():
        assert torch.allclose(weight, found[1][0][name], atol=1e-5), name
    for alone, together in zip(found[0][1], found[1][1], strict=True):
        for name in METRICS.keys() - {"trained/forwarded_tokens"}:  # the only one to count micro-batches' padding
            if name in alone and name not in timing_columns():
                assert math.isfinite(alone[name]), name
                assert alone[name] == pytest.approx(together[name], rel=1e-3, abs=1e-5), name


# --- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("questions", "size"), [(12, 4), (13, 4), (4, 4)])
def test_every_epoch_visits_every_question_once(questions: int, size: int) -> None:
    trainer = make_trainer(config_for("sft"), questions=questions)
    steps = questions // size
    orders = []
    for epoch in range(3):
        asked = [problem.id for step in range(steps) for problem in trainer.questions(epoch * steps + step)]
        assert len(set(asked)) == len(asked) == steps * size
        orders.append(asked)
    if questions > size:
        assert orders[0] != orders[1] != orders[2]
    assert [problem.id for problem in trainer.questions(1)] == [problem.id for problem in trainer.questions(1)]
    everyone = {problem.id for problem in problems(questions)}
    assert set(orders[0]) == everyone if questions % size == 0 else set(orders[0]) < everyone


# --- learning rate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("warmup", "shares"), [(0, [1, 1, 1, 1]), (1, [1, 1, 1, 1]), (3, [1 / 3, 2 / 3, 1, 1])])
def test_rate_is_constant_after_a_warmup_that_never_is_zero(
    warmup: int, shares: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(config_for("sft", optimizer__warmup_steps=warmup))
    used, step = [], trainer.engine.step

    def seen(rate: float) -> Any:
        before = weights_of(trainer.engine)
        outcome = step(rate)
        used.append(trainer.engine._engine.optimizer.param_groups[0]["lr"])
        assert not same_weights(weights_of(trainer.engine), before), "a step at rate zero"
        return outcome

    monkeypatch.setattr(trainer.engine, "step", seen)
    trainer.train(STEPS)
    assert column(trainer, "optim/learning_rate") == pytest.approx([0.01 * share for share in shares])
    assert used == pytest.approx([0.01 * share for share in shares for _ in range(2)])


OWN = Method("own", "Own", METHODS["hpt"].components, {"gate": {"kind": "switch", "count": 0}})
THREE = Method("three", "Three", stages=("sft", "tests.test_trainer:OWN", "grpo"))


def test_every_stage_is_trained_with_its_own_rows_gate_rate_and_a_fresh_optimiser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"optimizer__first_stage_learning_rate": 0.02, "optimizer__warmup_steps": 2}
    trainer = make_trainer(config_for("tests.test_trainer:THREE", schedule__first_stage_share=0.5, **settings))
    fresh = noted(monkeypatch, trainer.engine, "reset_optimizer", lambda: trainer.state.step)
    trainer.train(4)
    assert fresh == [2, 3]
    assert column(trainer, "optim/learning_rate") == pytest.approx([0.01, 0.02, 0.005, 0.005])
    assert column(trainer, "gate/alpha_mean") == [0.0, 0.0, 0.75, 1.0]
    assert column(trainer, "gate/beta_mean") == [1.0, 1.0, 0.25, 0.0]
    assert column(trainer, "trained/rollouts") == [0.0, 0.0, 6.0, 6.0]
    assert column(trainer, "trained/demonstrations") == [4.0, 4.0, 1.0, 0.0]


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (1, "float32"), (2, "bfloat16"), (3, "bfloat16")])
def test_a_fresh_optimiser_keeps_the_32_bit_weights(stage: int, dtype: str) -> None:
    """And then goes as a new one: bfloat16 weights alone would have lost most of a small update."""
    model = small_model().to(getattr(torch, dtype))
    engine, updater = engine_at(stage, OptimizerSettings(weight_decay=0.0), model, dtype=dtype)
    for _ in range(2):
        updater.update(demonstrations(), 1e-4)
    before = masters(engine)
    engine.reset_optimizer()
    assert same_weights(masters(engine), before)
    assert all(not state.any() for state in moments(engine))
    updater.update(demonstrations(), 1e-4)
    after = masters(engine)
    # Adam's first update after a fresh start is the rate times the sign of the gradient, but for its epsilon
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    assert moved.max() == pytest.approx(1e-4, rel=1e-2)
    assert (moved[moved > 0.2e-4] > 0.9e-4).float().mean() > 0.9
    if dtype == "bfloat16":
        assert any(not torch.equal(value, value.bfloat16().float()) for value in before.values())


def masters(engine: PolicyEngine) -> dict[str, torch.Tensor]:
    """The 32-bit weights by name."""
    from deepspeed.utils import safe_get_full_fp32_param

    if engine.settings.zero_stage == 0:
        return weights_of(engine)
    found = {name: safe_get_full_fp32_param(parameter) for name, parameter in engine.module.named_parameters()}
    return {name: value.clone() for name, value in found.items() if value is not None}


# --- the skip rule ---------------------------------------------------------------------------------------------------


def moments(engine: PolicyEngine) -> list[torch.Tensor]:
    """Adam's state, in whatever pieces the ZeRO stage keeps it."""
    states = engine._inner.state.values()
    return [value.clone() for state in states for value in state.values() if isinstance(value, torch.Tensor)]


def engine_at(stage: int, optimizer: OptimizerSettings, model: Any = None, **more: Any) -> tuple[PolicyEngine, Updater]:
    """A small model at a ZeRO stage, in evaluation mode as a model folder is loaded, and SFT's updater."""
    settings = EngineSettings(zero_stage=stage, **more.pop("settings", {}))
    engine = PolicyEngine(small_model().eval() if model is None else model, settings, optimizer, **more)
    return engine, Updater(engine, [ROWS["sft"]])


@cache
def demonstrations() -> list[WeightedTrajectory]:
    """Those of SFT's first step."""
    return [item for update in assembled_once(make_trainer(config_for("sft"))).updates for item in update]


#: With a clip and a bound on the gradient's norm that ordinary updates do not reach.
GUARDED = OptimizerSettings(learning_rate=0.01, gradient_clip=1.0, skip_above_norm=50.0)


def scaled(engine: PolicyEngine, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = PolicyEngine.backward.__get__(engine)
    monkeypatch.setattr(engine, "backward", lambda loss: genuine(loss * factor))


@pytest.mark.parametrize("factor", [1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_bad_gradient_changes_nothing_at_all(stage: int, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, updater = engine_at(stage, GUARDED)
    assert updater.update(demonstrations(), 0.01)[0].applied
    weights, state = weights_of(engine), moments(engine)
    assert len(state) >= 2, "there are no moments to protect"
    scaled(engine, factor, monkeypatch)
    outcome, _ = updater.update(demonstrations(), 0.01)
    assert not outcome.applied
    assert outcome.gradient_norm > 50 or not math.isfinite(outcome.gradient_norm)
    assert same_weights(weights_of(engine), weights)
    assert all(torch.equal(left, right) for left, right in zip(moments(engine), state, strict=True))
    # and the step after it is the step that would have been taken
    monkeypatch.undo()
    assert updater.update(demonstrations(), 0.01)[0].applied
    other, other_updater = engine_at(stage, GUARDED)
    for _ in range(2):
        other_updater.update(demonstrations(), 0.01)
    assert same_weights(weights_of(engine), weights_of(other))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_norm_is_the_one_before_clipping_and_the_clip_works(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under SGD of rate 1 the update itself is the gradient, of norm at most the clip."""

    class GuardedSGD(torch.optim.SGD):
        may_step: Any = None

        def step(self, closure: Any = None) -> Any:
            return super().step(closure) if self.may_step() else None

    settings = OptimizerSettings(gradient_clip=0.25, skip_above_norm=0.0)
    engine, updater = engine_at(stage, settings, make_optimizer=lambda module: GuardedSGD(module.parameters(), lr=1.0))
    before = weights_of(engine)
    scaled(engine, 3.0, monkeypatch)
    outcome, _ = updater.update(demonstrations(), 1.0)
    assert outcome.applied
    assert outcome.gradient_norm > 0.26
    moved = sum(float((weight - before[name]).double().square().sum()) for name, weight in weights_of(engine).items())
    assert math.sqrt(moved) == pytest.approx(0.25, rel=1e-3)


def test_a_head_that_is_the_embedding_is_updated_alike_at_every_stage() -> None:
    """One tensor under two names, whose gradient is the sum of both uses."""
    found = {}
    for stage in (0, 1, 2, 3):
        engine, updater = engine_at(stage, OptimizerSettings(learning_rate=0.01), small_model(tied=True))
        outcome, _ = updater.update(demonstrations(), 0.01)
        found[stage] = outcome.gradient_norm, weights_of(engine)
        assert found[stage][0] == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(found[stage][1], found[0][1], rtol=1e-4, atol=1e-5)


# --- what a step computes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize(
    ("method", "coefficient", "asked"), [("hpt", 0.0, False), ("srft", 0.0, False), ("hpt", 0.001, True)]
)
def test_the_entropys_gradient_is_computed_only_for_a_bonus(
    method: str, coefficient: float, asked: bool, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SRFT's factors look at the entropy too, as at a number."""
    seen = noted(monkeypatch, likelihood, "_logit_gradient", lambda *given: given[3] is not None)
    settings = {"engine__zero_stage": stage, "diagnostics__gradient_cosine_every": 0}
    make_trainer(config_for(method, estimator__entropy_coefficient=coefficient, **settings)).train(1)
    assert set(seen) == {asked}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradient_checkpointing_moves_no_bit(stage: int) -> None:
    found = []
    for on in (False, True):
        engine, updater = engine_at(stage, GUARDED, settings={"gradient_checkpointing": on})
        for _ in range(2):
            updater.update(demonstrations(), 0.01)
        found.append(weights_of(engine))
    assert same_weights(*found)


def with_dropout() -> torch.nn.Module:
    """A Phi, which has all three kinds: of the attention, of what a layer adds, and of the embeddings."""
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    shape = PhiConfig(
        vocab_size=len(tokenizer()), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, attention_dropout=0.5, resid_pdrop=0.5, embd_pdrop=0.5,
    )  # fmt: skip
    return PhiForCausalLM(shape).float()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_of_a_models_configuration_is_never_applied(
    checkpointing: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    items, plain = demonstrations(), with_dropout().eval()
    settings = {"gradient_checkpointing": checkpointing}
    _, updater = engine_at(0, OptimizerSettings(), with_dropout().eval(), settings=settings)
    said = "attention_dropout = 0.5, resid_dropout = 0.5, embed_dropout = 0.5"
    assert f"dropout of the model is not applied ({said})" in capsys.readouterr().err
    found = updater.logprobs(items)
    for item in items:
        trajectory = item.trajectory
        whole = torch.from_numpy(np.concatenate([trajectory.prompt_tokens, trajectory.response_tokens])).long()
        with torch.no_grad():
            table = plain(input_ids=whole[None]).logits[0].log_softmax(-1)
        expected = table[len(trajectory.prompt_tokens) - 1 : -1].gather(1, whole[len(trajectory.prompt_tokens) :, None])
        assert found[id(trajectory)] == pytest.approx(expected[:, 0].numpy(), abs=1e-5)
    first = updater.update(items, 0.0)[0]
    assert updater.update(items, 0.0)[0] == first, "the gradient is another at the same weights"


# --- stale weights ---------------------------------------------------------------------------------------------------


def test_stale_weights_stop_the_run() -> None:
    """Also where the sampler takes them for new ones: a part of them may have been left behind."""
    for how, said in (
        ("skips", "step 1: the sampler's weights are version 0, the trainer's 2"),
        ("stale", r"step 1: .*differ by .*allowed is diagnostics.max_mean_logprob_gap = 0.001"),
    ):
        trainer = make_trainer(config_for("hpt", optimizer__learning_rate=0.3))
        trainer.train(1)
        setattr(trainer.sampler, how, True)
        before = weights_of(trainer.engine)
        with pytest.raises(TrainingFault, match=said):
            trainer.train(2)
        assert same_weights(weights_of(trainer.engine), before)
        assert trainer.state.step == len(metrics(trainer)) == 1
        if how == "skips":  # whoever continues, with the weights moved again, goes on
            setattr(trainer.sampler, how, False)
            trainer.train(3)
            assert len(metrics(trainer)) == 3


@pytest.mark.parametrize("method", ["sft", "grpo", "hpt"])
def test_no_method_evaluates_other_weights_than_it_trained(method: str) -> None:
    curves = {"digits": problems(2)}
    trainer = make_trainer(config_for(method, validation__every=2, optimizer__learning_rate=0.3), curves=curves)
    trainer.validate_if_due()
    trainer.train(1)
    trainer.sampler.stale = True
    with pytest.raises(TrainingFault, match=r"step [12]: .*max_mean_logprob_gap"):
        trainer.train(2)
    assert {row["step"] for row in trainer.rows["validation"]} == {0}


def test_weights_move_only_when_somebody_samples_from_them() -> None:
    """Twice for SFT's two validations after the base's; before every later step's rollouts for HPT, and at its end."""
    for method, loads in (("sft", 2), ("hpt", 4)):
        trainer = make_trainer(config_for(method, validation__every=2), curves={"digits": problems(2)})
        trainer.train(4)
        assert trainer.sampler.loads == loads


def test_weights_that_were_given_back_are_moved_again_though_no_update_was_applied() -> None:
    trainer = make_trainer(config_for("hpt", optimizer__skip_above_norm=1e-9))
    trainer.sampler.sleep = lambda: setattr(trainer.sampler, "version", NO_WEIGHTS)
    trainer.train(3)
    assert column(trainer, "optim/updates") == [0.0, 0.0, 0.0]
    assert trainer.state.version == 0
    assert trainer.sampler.loads == 2


def test_one_log_prob_that_is_no_number_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it stands: max() of Python forgets a nan that is not the first."""

    def with_nan(request: SamplingRequest, index: int, sample: Sample) -> Sample:
        if index == 2:
            sample.logprobs[0] = np.nan
        return sample

    answers_changed(monkeypatch, with_nan)
    with pytest.raises(TrainingFault, match="differ by nan"):
        make_trainer(config_for("hpt"), mixed).train(1)


@pytest.mark.parametrize("question", [0, 2])
def test_no_step_is_taken_where_the_gap_is_too_large(question: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on a rollout that weighs nothing (q0) nor on one of the update, seen in its own forward pass (q2)."""

    def off(request: SamplingRequest, index: int, sample: Sample) -> Sample:
        if request.prompt_tokens.tolist() == trainer.prompts[f"q{question}"].tolist():
            sample.logprobs[-1] += 0.1
        return sample

    answers_changed(monkeypatch, off)
    # q0 is all wrong and q1 all right, so GRPO trains on q2 and q3 alone
    trainer = make_trainer(config_for("grpo", schedule__updates_per_step=1))
    asked = noted(monkeypatch, trainer.updater, "logprobs", lambda items, *_: len(items))
    before = weights_of(trainer.engine)
    with pytest.raises(TrainingFault, match=r"differ by .* and by 0\.1 at most"):
        trainer.train(1)
    assert same_weights(before, weights_of(trainer.engine))
    assert trainer.state.version == 0
    assert asked == [6]  # only the rollouts of q0 and q1 cost a forward pass of their own, whichever are off


@pytest.mark.parametrize(("row", "read"), [("grpo", 7), ("clip_cov", 12)])
def test_the_trainers_log_probs_are_taken_of_what_the_step_reads(
    row: str, read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GRPO: the six that weigh something, and one to compare; Clip-Cov reads all. The step is the exact one's."""
    of_row = {"estimator__online_row": row, "schedule__updates_per_step": 1, "rollout__gap_check_rollouts": 1}
    exact = make_trainer(config_for("grpo", **of_row))
    exact.train(1)
    answers_changed(monkeypatch, lambda request, index, sample: replace(sample, logprobs=sample.logprobs + 0.02))
    bound = {"diagnostics__max_mean_logprob_gap": 0.1}
    trainer = make_trainer(config_for("grpo", **of_row, **bound, rollout__old_logprobs="trainer"))
    trainer.train(1)
    assert column(trainer, "check/logprob_gap_rollouts") == [read]
    assert column(trainer, "estimator/approx_kl") == pytest.approx([0.0], abs=1e-6)
    expected = weights_of(exact.engine)
    for name, weight in weights_of(trainer.engine).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


def test_one_rollout_over_the_bound_stops_a_run_until_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on under its name, with the numbers it would have had under a wider bound."""

    def off(request: SamplingRequest, index: int, sample: Sample) -> Sample:
        if index == 1 and request.prompt_tokens.tolist() == trainer.prompts["q2"].tolist():
            sample.logprobs[-1] += 0.1  # a single token: on average nothing
        return sample

    answers_changed(monkeypatch, off)
    plain, mean = config_for("hpt"), {"diagnostics__max_mean_logprob_gap": 0.01}
    trainer = make_trainer(config_for("hpt", **mean))
    with pytest.raises(TrainingFault, match=r"max_logprob_gap = 0.05.*add --set diagnostics.rollouts_over_gap=1"):
        trainer.train(1)
    assert trainer.state.version == 0
    allowed = config_for("hpt", **mean, diagnostics__rollouts_over_gap=1)
    assert allowed.fingerprint() == plain.fingerprint()
    found = {}
    for name, config in (("allowed", allowed), ("wider", config_for("hpt", **mean, rollout__max_logprob_gap=1.0))):
        trainer = make_trainer(config)
        trainer.train(2)
        found[name] = weights_of(trainer.engine)
        assert metrics(trainer)[0]["check/logprob_gap"] == pytest.approx(0.1, abs=1e-4)
    assert same_weights(found["allowed"], found["wider"])


def test_the_frozen_policy_is_asked_where_the_advantage_holds_a_kl_term() -> None:
    moved = []
    for coefficient in (0.0, 0.5):
        config = config_for(
            "grpo", estimator__kl_coefficient=coefficient, estimator__kl_term="advantage",
            estimator__online_row="rloo", schedule__updates_per_step=1,
        )  # fmt: skip
        trainer = make_trainer(config, reference=PolicyModule(small_model()).requires_grad_(False))
        trainer.train(2)  # in the first step the policy is the frozen one, and the term is zero up to rounding
        moved.append(weights_of(trainer.engine))
    assert not same_weights(*moved)


# --- records ---------------------------------------------------------------------------------------------------------


def test_every_column_is_in_the_registry_and_every_number_follows_from_the_script() -> None:
    trainer = make_trainer(config_for("hpt"))
    trainer.train(1)
    row = metrics(trainer)[0]
    assert set(row) == set(METRICS)
    # right: \boxed{ q } end = 4 tokens; wrong: s \boxed{ 9 9 } end = 6
    tokens = 3 * 6 + 3 * 4 + 2 * (4 + 6 + 6)
    assert row["rollout/reward"] == pytest.approx(5 / 12)
    assert row["rollout/tokens"] == tokens
    assert row["rollout/response_length_tokens"] == pytest.approx(tokens / 12)
    assert row["rollout/truncated_frac"] == row["rollout/no_answer_count"] == row["rollout/timed_out_count"] == 0
    assert (row["gate/all_wrong_frac"], row["gate/all_correct_frac"]) == (0.25, 0.25)
    assert row["gate/offline_ratio_prompts"] == 0.25
    assert row["gate/offline_ratio_rows"] == pytest.approx(1 / (1 + 9))
    assert (row["trained/demonstrations"], row["trained/rollouts"], row["trained/left_out"]) == (1, 6, 3)
    assert row["trained/demonstration_tokens"] == 7  # 0=0\boxed{0} and its end
    assert row["trained/rollout_tokens"] == 2 * (4 + 6 + 6)
    assert row["optim/updates"] == 2
    uniform = math.log(len(small_model().model.embed_tokens.weight))
    assert row["rollout/entropy"] == pytest.approx(uniform, rel=0.1)
    assert 0 < row["check/mean_logprob_gap"] < row["check/logprob_gap"] < 1e-5
    assert row["trained/rollout_entropy"] == pytest.approx(uniform, rel=0.1)


def test_a_row_that_acts_on_both_kinds_is_measured_on_rollouts_alone() -> None:
    """On the first update the policy is the one that sampled: any divergence would be the demonstrations'."""
    rows = {"estimator__online_row": "reinforce", "estimator__offline_row": "reinforce"}
    trainer = make_trainer(config_for("hpt", schedule__updates_per_step=1, **rows))
    trainer.train(1)
    assert column(trainer, "trained/demonstrations") == [1.0]
    assert column(trainer, "estimator/approx_kl") == pytest.approx([0.0], abs=1e-6)


def graded(trainer: Trainer) -> list[GradedRollouts]:
    questions = trainer.questions(0)
    return trainer.verify(questions, trainer.sample(questions))


def test_a_response_without_its_end_is_truncated() -> None:
    for own in graded(make_trainer(config_for("grpo", rollout__max_response_tokens=5), wrong)):
        assert own.truncated.all()
        assert own.lengths.tolist() == [5, 5, 5]


def test_a_response_that_another_end_token_ended_is_not_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may have several; only the sampler knows why it stopped."""
    trainer = make_trainer(config_for("grpo"))

    def without_its_end(request: SamplingRequest, index: int, sample: Sample) -> Sample:
        return Sample(sample.tokens[:-1], sample.logprobs[:-1], "stop")

    answers_changed(monkeypatch, without_its_end)
    assert not any(own.truncated.any() for own in graded(trainer))


def test_validation_is_done_before_training_at_its_interval_and_at_the_end_and_not_twice() -> None:
    config = config_for("hpt", validation__every=2, schedule__steps=3, validation__samples_per_problem=2)
    curves = {"curve": problems(2)}
    trainer = make_trainer(config, curves=curves)
    trainer.train(3)
    assert [row["step"] for row in trainer.rows["validation"]] == [0, 0, 2, 2, 3, 3]
    assert [row["samples"] for row in trainer.rows["validation"]] == [2] * 6
    assert [row["correct"] for row in trainer.rows["validation"]] == [0, 2] * 3
    state, records = TrainingState(step=2, version=trainer.state.version), trainer.tables()
    records["validation"] = records["validation"].head(4)
    again = make_trainer(config, curves=curves, state=state, records=records)
    again.train(3)
    assert [row["step"] for row in again.rows["validation"]] == [0, 0, 2, 2, 3, 3]


def test_a_greedy_validation_samples_once_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"validation__every": 1, "validation__samples_per_problem": 2, "validation__temperature": 0.0}
    trainer = make_trainer(config_for("sft", **settings), curves={"curve": problems(2)})
    trainer.train(1)
    assert [row["samples"] for row in trainer.rows["validation"]] == [1] * 4
    assert "warning: validation.temperature = 0 is greedy" in capsys.readouterr().err
    for name in ("contest-a", "contest-a@256"):
        assert evaluation_key(trainer.config, name)[0].samples_per_problem == 1


def test_rollouts_carry_the_version_of_the_weights_they_were_drawn_from() -> None:
    trainer = make_trainer(config_for("hpt"))
    versions = []
    for step in range(3):
        trainer.move_weights()
        versions.append(
            {rollout.policy_version for group in trainer.sample(trainer.questions(step)) for rollout in group}
        )
        trainer.train(step + 1)
    assert versions == [{0}, {2}, {4}]


def test_training_here_leaves_child_processes_free_to_train() -> None:
    """A launcher's variables left in the environment would make every child rank 0 of this process's group."""
    make_trainer(config_for("sft"))
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ)
