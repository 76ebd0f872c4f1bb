"""Methods as data: which rows they resolve to, and what each trajectory weighs, against numbers worked out by hand.

HPT's own losses stand in `tests/invariance`, against their literal form.

The step of the examples: 4 questions, 2 rollouts each, L = 10.

    question   rewards   rollout tokens   demonstration tokens
    q0         0 0       3 4              5
    q1         1 0       2 6              -
    q2         1 1       1 1              4     weighs nothing under RL
    q3         0 0       2 2              3
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpt.config.run_config import RunConfig, validate
from hpt.methods.gate import feedback_coefficients
from hpt.methods.methods import METHODS, Method, method_named, resolved_row, stage_at, stages_of
from hpt.methods.mixture import (
    DEMONSTRATION,
    Assembled,
    QuestionBatch,
    Trajectory,
    assemble,
    baseline_after,
    split_into_updates,
)
from hpt.runs.resolve import build_config
from hpt.support.errors import ConfigError

SETTINGS = {
    "rollout.rollouts_per_prompt": 2,
    "estimator.length_divisor": 10,
    "schedule.prompts_per_step": 4,
    "schedule.updates_per_step": 1,
    "estimator.entropy_coefficient": 0.0,
}
REWARDS = ((0, 0), (1, 0), (1, 1), (0, 0))
ROLLOUT_TOKENS = ((3, 4), (2, 6), (1, 1), (2, 2))
DEMONSTRATION_TOKENS = (5, 0, 4, 3)


def config_for(method: str, recipe: str = "released", **settings: Any) -> RunConfig:
    chosen = {name.replace("__", "."): value for name, value in settings.items()}
    return build_config(method, scale="tiny", recipe=recipe, settings=SETTINGS | chosen)


def trajectory(index: int, sample: int, length: int, reward: float) -> Trajectory:
    tokens = np.arange(length, dtype=np.int32)
    logprobs = -np.ones(length, dtype=np.float32)
    return Trajectory(f"q{index}", index, sample, tokens[:1], tokens, logprobs, float(reward), 0)


def questions_for(config: RunConfig, demonstration_reward: float = 1.0) -> list[QuestionBatch]:
    correct = np.array([sum(rewards) for rewards in REWARDS])
    members = config.rollout.rollouts_per_prompt - method_named(config.method).demonstrations_per_group
    alpha, beta = feedback_coefficients(config.gate, correct, members)
    questions = []
    for index, (rewards, lengths, shown) in enumerate(zip(REWARDS, ROLLOUT_TOKENS, DEMONSTRATION_TOKENS, strict=True)):
        rollouts = tuple(trajectory(index, i, *own) for i, own in enumerate(zip(lengths, rewards, strict=True)))
        demonstration = trajectory(index, DEMONSTRATION, shown, demonstration_reward) if shown else None
        questions.append(QuestionBatch(f"q{index}", rollouts, demonstration, float(alpha[index]), float(beta[index])))
    return questions


#: (question, sample) -> (advantage, scale) of each part, over all updates.
Weights = dict[tuple[str, int], list[tuple[float, float]]]


def assembled(config: RunConfig, **more: Any) -> Assembled:
    return assemble(questions_for(config, **more), method_named(config.method), config, step=0)


def weights_of(method: str, **settings: Any) -> Weights:
    return weights(assembled(config_for(method, **settings)))


def weights(result: Assembled) -> Weights:
    return {
        (item.trajectory.problem_id, item.trajectory.sample): [
            (float(part.advantages[0]), part.scale) for part in item.parts
        ]
        for update in result.updates
        for item in update
    }


D = DEMONSTRATION


def test_luffy_compares_rollouts_and_demonstration_and_weighs_them_alike() -> None:
    result = weights_of("luffy", rollout__rollouts_per_prompt=3)
    scale = 1 / (4 * 3 * 10)
    assert result["q0", D] == [pytest.approx((2 / 3, scale))]
    assert result["q0", 0] == [pytest.approx((-1 / 3, scale))]
    assert result["q1", 0] == [pytest.approx((1 / 2, scale))]  # no demonstration: its rollouts alone
    assert not {("q2", 0), ("q2", D)} & result.keys()  # right, right and a right demonstration: nothing to learn


def test_srft_uses_the_demonstration_twice_and_its_rollouts_by_sign() -> None:
    result = weights_of("srft", rollout__rollouts_per_prompt=3)
    assert [advantage for advantage, _ in result["q0", D]] == pytest.approx([2 / 3, 1.0])
    assert [scale for _, scale in result["q0", D]] == pytest.approx([1 / 120, 1 / 40])
    assert result["q1", 0] == [pytest.approx((1.0, 1 / 120))]
    assert result["q1", 1] == [pytest.approx((-1.0, 1 / 120))]
    assert [advantage for advantage, _ in result["q2", D]] == pytest.approx([0.0, 1.0])


def test_off_on_and_mix_on_use_the_demonstration_as_one_more_rollout() -> None:
    assert weights_of("off_on")["q0", D] == [pytest.approx((1.0, 1 / 80))]
    assert ("q0", D) not in weights(assembled(config_for("off_on"), demonstration_reward=0.0))  # its own reward
    assert weights_of("off_on", estimator__offline_advantage="group")["q0", D] == [pytest.approx((2 / 3, 1 / 80))]
    assert weights_of("mix_on")["q0", D] == [pytest.approx((1.0, 1 / 80)), pytest.approx((1.0, 0.1 / 40))]


def test_a_soft_gate_multiplies_both_halves() -> None:
    result = weights_of("hpt", gate__kind="linear")
    assert result["q1", 0] == [pytest.approx((0.5, 0.5 / 80))]  # P = 1/2
    assert result["q0", D] == [pytest.approx((1.0, 1 / 40))]  # P = 0
    assert "q2" not in {key[0] for key in result}  # P = 1: beta = 0, and nothing to compare


def test_rows_keep_their_denominator_when_asked() -> None:
    result = weights_of("grpo", estimator__normalization="row")
    # sequence_mean: 8 rollouts act, each divided by its own length
    assert result["q1", 0] == [pytest.approx((0.5, 1 / (8 * 2)))]
    assert result["q1", 1] == [pytest.approx((-0.5, 1 / (8 * 6)))]


def test_kl_in_the_advantage_is_taken_off_the_reward() -> None:
    config = config_for(
        "grpo", estimator__kl_coefficient=0.5, estimator__kl_term="advantage", estimator__online_row="rloo",
        estimator__advantage_std="row",
    )  # fmt: skip

    def with_reference(rollout: Trajectory) -> Trajectory:
        return replace(rollout, reference_logprobs=rollout.old_logprobs - 0.1 * (rollout.sample + 1))

    questions = [replace(own, rollouts=tuple(map(with_reference, own.rollouts))) for own in questions_for(config)]
    result = assemble(questions, method_named("grpo"), config, step=0)
    # q1: rewards 1, 0 of 2 and 6 tokens; k1 per token is 0.1 and 0.2, so R - 0.5 sum k1 = 0.9 and -0.6
    assert weights(result)["q1", 0][0][0] == pytest.approx(0.9 - -0.6, rel=1e-6)
    assert weights(result)["q2", 0][0][0] == pytest.approx(0.5 * (0.2 - 0.1), rel=1e-6)  # equal rewards, another KL
    assert all(item.kl_scale == 0.0 for update in result.updates for item in update)  # not in the loss as well


# --- updates ---------------------------------------------------------------------------------------------------------


def test_each_update_counts_its_prompts_alone_and_what_weighs_nothing_is_left_out() -> None:
    result = assembled(config_for("hpt", schedule__updates_per_step=2))
    assert [[question.beta for question in share].count(1.0) for share in result.questions] == [1, 1]
    assert result.left_out == 2  # q2's rollouts: kept by the method, and weighing nothing
    assert weights(result) == {
        ("q0", D): [pytest.approx((1.0, 1 / 20))],
        ("q1", 0): [pytest.approx((0.5, 1 / 40))],
        ("q1", 1): [pytest.approx((-0.5, 1 / 40))],
        ("q3", D): [pytest.approx((1.0, 1 / 20))],
    }


@pytest.mark.parametrize("demonstrations", range(9))
@pytest.mark.parametrize("updates", [1, 2, 4])
def test_demonstrations_are_spread_evenly_over_updates(demonstrations: int, updates: int) -> None:
    """Wherever they stand in the batch: sliced in order, one update would be all SFT."""
    config = config_for("hpt")
    prototype = questions_for(config)[0]
    batch = [
        replace(prototype, problem_id=f"q{i}", beta=float(i < demonstrations), alpha=float(i >= demonstrations))
        for i in range(8)
    ]
    dealt = split_into_updates(batch, updates)
    assert Counter(question.problem_id for share in dealt for question in share) == Counter(f"q{i}" for i in range(8))
    assert {len(share) for share in dealt} == {8 // updates}
    with_one = [sum(question.beta > 0 for question in share) for share in dealt]
    assert max(with_one) - min(with_one) <= 1


def test_statistics_over_the_batch_are_taken_before_it_is_divided() -> None:
    """REINFORCE++ normalises over all kept tokens of the step, not over those of an update."""
    whole, divided = (
        weights_of("grpo", estimator__online_row="reinforce_plus_plus", schedule__updates_per_step=updates)
        for updates in (1, 2)
    )
    advantage = {key: parts[0][0] for key, parts in whole.items()}
    assert advantage == {key: parts[0][0] for key, parts in divided.items()}
    assert len(set(advantage.values())) == 2


def test_running_baseline_is_handed_on() -> None:
    config = config_for("grpo", estimator__online_row="reinforce_baseline", estimator__baseline_decay=0.5)
    questions, method = questions_for(config), method_named("grpo")
    after = baseline_after(questions, method, config, 1.0)
    assert after == pytest.approx(0.5 * 1.0 + 0.5 * 3 / 8)
    result = weights(assemble(questions, method, config, 0, baseline=after))
    assert result["q1", 0][0][0] == pytest.approx(1 - after)
    assert baseline_after(questions, method_named("sft"), config_for("sft"), 0.25) == 0.25


# --- rows ------------------------------------------------------------------------------------------------------------


RESOLVED: list[tuple[str, str, list[tuple[str, str, str, dict[str, Any]]]]] = [
    ("hpt", "released", [("dr_grpo", "old", "group", {"std": "none", "clip_eps_low": None, "clip_eps_high": None}),
                         ("sft", "current", "one", {})]),
    ("hpt", "paper", [("dr_grpo", "old", "group", {"std": "sample", "clip_eps_low": 0.2, "clip_eps_high": 0.2}),
                      ("sft", "current", "one", {})]),
    ("grpo", "paper", [("grpo", "old", "group", {"std": "sample", "clip_eps_low": 0.2, "clip_eps_high": 0.2})]),
    ("grpo", "released", [("grpo", "old", "group", {"std": "none", "clip_eps_low": None, "clip_eps_high": None})]),
    ("luffy", "released", [("grpo", "old", "group", {"std": "none"}),
                           ("luffy_offline", "unit_shaped", "group", {"std": "none", "shaping_gamma": 0.1})]),
    ("off_on", "released", [("dr_grpo", "old", "group", {}), ("luffy_offline", "unit_shaped", "own_reward", {})]),
    ("off_on", "paper", [("dr_grpo", "old", "group", {}), ("luffy_offline", "unit_shaped", "group", {})]),
    ("mix_on", "released", [("dr_grpo", "old", "group", {}), ("luffy_offline", "unit_shaped", "own_reward", {}),
                            ("sft", "current", "one", {})]),
    ("srft", "released", [("srft_rollout", "current", "signed", {}), ("srft_offline", "unit", "group", {"std": "none"}),
                          ("srft_sft", "current", "one", {})]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "recipe", "expected"), RESOLVED)
def test_resolved_rows(name: str, recipe: str, expected: list[tuple[str, str, str, dict[str, Any]]]) -> None:
    rows = [resolved_row(component, config_for(name, recipe, rollout__rollouts_per_prompt=3))
            for component in METHODS[name].components]  # fmt: skip
    assert [(row.name, row.denominator, row.advantage) for row in rows] == [own[:3] for own in expected]
    for row, own in zip(rows, expected, strict=True):
        assert own[3].items() <= row.parameters.items()


def test_rows_can_be_exchanged_without_touching_the_method() -> None:
    config = config_for("hpt", "paper", estimator__online_row="dapo", estimator__offline_row="dft")
    online, offline = (resolved_row(component, config) for component in METHODS["hpt"].components)
    assert (online.name, offline.name) == ("dapo", "dft")
    assert online.parameters["clip_eps_high"] == 0.28  # its own, not a number of the recipe
    shaped = config_for("luffy", estimator__offline_shaping=False)
    assert resolved_row(METHODS["luffy"].components[1], shaped).denominator == "unit"
    as_released = config_for("srft", estimator__shape_every_offline_term=True)
    denominators = [resolved_row(own, as_released).denominator for own in METHODS["srft"].components]
    plain = [resolved_row(own, config_for("srft")).denominator for own in METHODS["srft"].components]
    assert plain[1] == "unit"
    assert denominators == [plain[0], "unit_shaped", plain[2]]  # the SFT term is none of the off-policy ones


# --- methods and stages ----------------------------------------------------------------------------------------------


def test_only_those_that_learn_from_demonstrations_need_them() -> None:
    needing = {name for name, method in METHODS.items() if method.needs_demonstrations}
    assert needing == {"sft", "pretrain", "luffy", "srft", "hpt", "off_on", "mix_on"}
    assert {name for name, method in METHODS.items() if not method.samples} == {"sft", "pretrain"}


THREE = Method("three", "Three", stages=("grpo", "sft", "grpo"))
ALONE = Method("alone", "Alone", stages=("grpo",))
SFT_THEN_MIX = Method("sft_then_mix", "SFT, then Mix/ON", stages=("sft", "mix_on"))
WEIGHED = replace(SFT_THEN_MIX, settings={"estimator": {"sft_coefficient": 0.3}})
NESTED = Method("nested", "Nested", stages=("sft_then_grpo", "hpt"))
LONGER = Method("longer", "Longer", METHODS["hpt"].components, {"schedule": {"steps": 3}})
UNEQUAL = Method("unequal", "Unequal", stages=("sft", "tests.test_methods:LONGER"))


@pytest.mark.parametrize(
    ("method", "share", "expected"),
    [
        ("sft_then_grpo", 0.4, ["sft"] * 4 + ["grpo"] * 6),
        ("sft_then_grpo", 0.0, ["grpo"] * 10),
        ("sft_then_grpo", 1.0, ["sft"] * 10),
        ("sft_then_grpo", 0.25, ["sft"] * 2 + ["grpo"] * 8),
        ("tests.test_methods:THREE", 0.4, ["grpo"] * 4 + ["sft"] * 3 + ["grpo"] * 3),
        ("tests.test_methods:ALONE", 0.4, ["grpo"] * 10),
        ("hpt", 0.4, ["hpt"] * 10),
    ],
)
def test_stages(method: str, share: float, expected: list[str]) -> None:
    config = validate({"method": method, "schedule": {"steps": 10, "first_stage_share": share}})
    found = [stage_at(config, step) for step in range(10)]
    assert [stage.method.name for stage in found] == expected
    for step, stage in enumerate(found):
        assert stage.start <= step < stage.end
    assert stage_at(config, 10).end == 10  # a run that is done has no stage beyond its last


def test_only_the_first_stage_has_the_first_rate_and_updates() -> None:
    """Whatever its method: here the third is the same one."""
    settings = {"schedule.steps": 10, "optimizer.learning_rate": 0.01, "optimizer.first_stage_learning_rate": 0.02,
                "schedule.first_stage_updates_per_step": 8}  # fmt: skip
    config = build_config("tests.test_methods:THREE", scale="tiny", settings=settings)
    assert [stage.config.optimizer.learning_rate for stage in stages_of(config)] == [0.02, 0.01, 0.01]
    assert [stage.config.schedule.updates_per_step for stage in stages_of(config)] == [8, 2, 2]
    with pytest.raises(ConfigError, match="a divisor of"):
        build_config("tests.test_methods:THREE", scale="tiny", settings={"schedule.first_stage_updates_per_step": 3})


def coefficients(method: str, **settings: Any) -> list[tuple[str, float, float]]:
    """(gate, SFT coefficient, alpha of a constant gate) of every stage."""
    config = config_for(method, **settings)
    return [
        (stage.config.gate.kind, stage.config.estimator.sft_coefficient, stage.config.gate.alpha)
        for stage in stages_of(config)
    ]


def test_a_stage_trains_with_all_settings_of_its_method_but_for_the_users() -> None:
    own = "tests.test_methods:SFT_THEN_MIX"
    assert coefficients(own) == [("constant", 1.0, 0.0), ("switch", 0.1, 1.0)]
    assert coefficients("tests.test_methods:WEIGHED") == [("constant", 0.3, 0.0), ("switch", 0.3, 1.0)]
    # also where the user's value is the default
    assert coefficients(own, estimator__sft_coefficient=1.0) == [("constant", 1.0, 0.0), ("switch", 1.0, 1.0)]
    given = coefficients("sft_then_grpo", gate__kind="linear", gate__alpha=0.5)
    assert given == [("linear", 1.0, 0.5), ("linear", 1.0, 0.5)]
    assert coefficients("mix_on") == [("switch", 0.1, 1.0)]


def test_what_the_user_set_over_the_stages_is_part_of_the_run() -> None:
    """It travels with the settings to the process that trains, and gives the run another name."""
    own = "tests.test_methods:SFT_THEN_MIX"
    plain, given = config_for(own), config_for(own, estimator__sft_coefficient=1.0)
    assert plain.estimator == given.estimator
    assert plain.fingerprint() != given.fingerprint()
    again = validate(given.model_dump(mode="json"))
    assert [stage.config for stage in stages_of(again)] == [stage.config for stage in stages_of(given)]


def test_stages_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"stages of tests.test_methods:NESTED = 'sft_then_grpo'.*without stages"):
        config_for("tests.test_methods:NESTED")
    with pytest.raises(ConfigError, match=r"schedule.steps of longer.*a stage may set gate, estimator"):
        config_for("tests.test_methods:UNEQUAL")
