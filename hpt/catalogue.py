"""Every table and figure as data: which arms it compares, on which evaluation sets, and the notebook that makes it.

Arms are shared: a run that two artefacts need is made once (`hpt.experiments`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hpt.arms import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, Arm, Artefact, arms, is_addressed
from hpt.discrepancies import PRICE
from hpt.errors import ConfigError
from hpt.methods import method_named
from hpt.search import SEARCH

__all__ = ["ARTEFACTS", "Arm", "Artefact", "arm_label", "artefacts_named", "check_addressed", "kept_note"]

#: Sets of Figure 2 with the answers sampled per problem: the paper's AIME 25, AIME 24 and AMC (it draws 2,048).
PASS_AT_K = ("contest-b@256", "contest-a@256", "contest-c@256")

STRONG = arms("strong", "sft", "grpo", "sft_then_grpo", "luffy", "srft", "hpt")
WEAK = arms("weak", "sft", "grpo", "luffy", "hpt")
#: Section 3.1: gate 0 for the Qwen family, 2/8 for Llama.
LLAMA = (*arms("llama", "sft", "grpo", "luffy"), Arm("hpt", "llama", settings={"gate.count": 2}))
#: Table 6; gate 0 is HPT itself on this base.
GATES = (
    Arm("hpt", "weak", "hpt_gate2", {"gate.count": 2}, label="HPT, gate 2/8"),
    Arm("hpt", "weak", "hpt_gate1", {"gate.count": 1}, label="HPT, gate 1/8"),
    Arm("hpt", "weak"),
)
#: Section 4.2: 85 questions each of levels 3, 4 and 5 for 50 epochs; 51 prompts per step, so that an epoch is 5 steps
#: and holds every question once. The paper does not say how many prompts its step had.
_FEW_QUESTIONS: Mapping[str, Mapping[str, Any]] = {
    "mini": {
        "data.questions_per_level": [0, 0, 85, 85, 85],
        "schedule.prompts_per_step": 51,
        "schedule.updates_per_step": 3,
        "schedule.steps": 250,
        "validation.every": 0,
    },
    "gpu": {
        "data.questions_per_level": [0, 0, 85, 85, 85],
        "schedule.prompts_per_step": 51,
        "schedule.updates_per_step": 3,
        "schedule.steps": 100,
        "validation.every": 0,
    },
    "full": {
        "data.source": "math-255",
        "schedule.prompts_per_step": 51,
        "schedule.updates_per_step": 3,
        "schedule.steps": 250,
        "validation.every": 0,
    },
    "tiny": {
        "data.questions_per_level": [0, 0, 4, 4, 4],
        "schedule.prompts_per_step": 6,
        "schedule.updates_per_step": 1,
        "schedule.steps": 8,
        "validation.every": 0,
    },
}
PER_QUESTION = (
    Arm("grpo", "weak", "grpo_after_sft", {"policy.after": "sft"}, _FEW_QUESTIONS, "SFT → GRPO (255 questions)"),
    Arm("hpt", "weak", "hpt_few_questions", {}, _FEW_QUESTIONS, "HPT (255 questions)"),
)
#: Algorithms of one's own (`hpt.examples`) beside HPT and what it is compared with.
OWN = tuple(
    Arm(f"hpt.examples.{name}:METHOD", "weak", name, label=label)
    for name, label in (
        ("smooth_gate", "HPT, smooth gate"),
        ("hpt_cispo", "HPT, CISPO online"),
        ("least_error_gate", "HPT, gate of least error"),
    )
)
OWN_AND_OTHERS = (*arms("weak", "sft", "grpo", "hpt"), *OWN)

ARTEFACTS: dict[str, Artefact] = {
    artefact.name: artefact
    for artefact in (
        Artefact("table2", "Table 2: main results, strong base", STRONG, IN_DISTRIBUTION + OUT_OF_DISTRIBUTION,
                 "table2_main_results"),
        Artefact("table3", "Table 3: main results, Llama and weak base", LLAMA + WEAK, IN_DISTRIBUTION,
                 "table3_main_results", extra_policy="weak"),
        # one answer per problem, as the paper's, and eight, to say how much of it is the luck of one answer
        Artefact("table4", "Table 4: exclusive solves", arms("strong", "grpo", "luffy", "hpt"),
                 ("graded-500", "graded-500@8"), "table4_exclusive_solves"),
        Artefact("table5", "Table 5: off-policy variants", arms("weak", "off_on", "mix_on", "hpt"), IN_DISTRIBUTION,
                 "table5_off_policy"),
        Artefact("table6", "Table 6: gate threshold", GATES, IN_DISTRIBUTION, "table6_gate_threshold"),
        Artefact("figure8", "Figure 8: gate threshold over training", GATES, (), "table6_gate_threshold"),
        Artefact("figure2", "Figure 2: pass@k", arms("strong", "sft", "grpo", "sft_then_grpo", "luffy", "hpt"),
                 PASS_AT_K, "figure2_pass_at_k"),
        Artefact("figure3", "Figure 3: accuracy per question, SFT → GRPO", PER_QUESTION[:1], (),
                 "figures3_4_per_question"),
        Artefact("figure4", "Figure 4: HPT minus SFT → GRPO per question", PER_QUESTION, (),
                 "figures3_4_per_question"),
        Artefact("figure5", "Figure 5: validation curves", WEAK, (), "training_dynamics", extra_policy="weak"),
        Artefact("figure6", "Figure 6: offline data ratio", (*arms("weak", "hpt"), *arms("strong", "hpt")), (),
                 "training_dynamics", extra_policy="weak"),
        Artefact("figure7", "Figure 7: entropy and response length", arms("weak", "grpo", "luffy", "hpt"), (),
                 "training_dynamics", extra_policy="weak"),
        Artefact("grpo_gains", "What RL alone gains on each base",
                 (*arms("strong", "grpo"), *arms("weak", "grpo"), *arms("llama", "grpo")), IN_DISTRIBUTION,
                 "table2_main_results"),
        Artefact("costs", "What training costs on the strong base: tokens and time", STRONG, (), "table2_main_results"),
        Artefact("costs_few_questions", "What training on 255 questions costs: tokens and time",
                 (*arms("weak", "sft"), *PER_QUESTION), (), "figures3_4_per_question"),
        Artefact("hpt_runs", "HPT while it trains: reward, and whether SFT and RL conflict",
                 (*arms("weak", "hpt"), *arms("strong", "hpt")), (), "training_dynamics"),
        Artefact("own_algorithms", "Your own algorithm: three ideas against HPT", OWN_AND_OTHERS,
                 IN_DISTRIBUTION, "own_algorithm", "appendix", extra_policy="weak"),
        Artefact("own_algorithms_curves", "Your own algorithm: three ideas while they train",
                 OWN_AND_OTHERS, (), "own_algorithm", "appendix", extra_policy="weak"),
        # exact: no arms, no runs
        Artefact("table1", "Table 1: one estimator, four parts", (), (), "table1_estimator"),
        Artefact("table1_readings", "Where Table 1 simplifies, and what that does to the gradient", (), (),
                 "table1_estimator"),
        Artefact("figure1", "Figure 1: the four parts and who chooses what", (), (), "table1_estimator"),
        Artefact("figure1_tokens", "Figure 1 on real tokens: one group under five rows", (), (), "table1_estimator"),
        Artefact("derivation", "Section 2.2 and Appendix B: the derivation in numbers", (), (), "derivation"),
        Artefact("bias_variance", "Section 2.3: bias and variance of every row", (), (), "bias_variance"),
        Artefact("estimators", "Section 2.3: which rows are effective directions", (), (), "bias_variance"),
        Artefact("estimator_error", "Section 2.3: error of every row as one thing changes", (), (), "bias_variance"),
        Artefact("checkpoint_error", "Section 2.3 on a real small model: the rows at checkpoints of a run", (), (),
                 "checkpoint_error"),
        Artefact("gates_as_estimators", "Section 2.4: the error of every gate", (), (), "bias_variance"),
        Artefact("best_gate", "Section 2.4: the gate of least error", (), (), "bias_variance"),
        Artefact("gradient_conflict", "Section 2.2: do SFT and RL conflict?", (), (), "bias_variance"),
        # of published numbers alone
        Artefact("audit", "Audit: the printed numbers against each other", (), (), "audit"),
        SEARCH,
        PRICE,
    )
}  # fmt: skip


def arm_label(name: str) -> str:
    """Return what legends and tables call an arm, or a method; one of a user's own by its title, where it is there.

    Example:
        >>> arm_label("hpt_gate1"), arm_label("hpt"), arm_label("mine:GATE")
        ('HPT, gate 1/8', 'HPT', 'mine:GATE')
    """
    own = {arm.name: arm.label for artefact in ARTEFACTS.values() for arm in artefact.arms if arm.label}
    try:
        return own.get(name) or method_named(name).title
    except ConfigError:
        return name  # an arm of nobody's, or records of a module that is no longer there


def artefacts_named(names: Sequence[str]) -> list[Artefact]:
    """Return the artefacts of these names; those of the paper for none; ``appendix`` stands for its group.

    Example:
        >>> [artefact.name for artefact in artefacts_named(["figure6", "table5"])]
        ['figure6', 'table5']
    """
    groups = {artefact.group for artefact in ARTEFACTS.values()} | {"paper", "appendix"}
    chosen: dict[str, Artefact] = {}
    for name in names or ["paper"]:
        if name not in ARTEFACTS and name not in groups:
            raise ConfigError("only", name, "one of " + ", ".join([*ARTEFACTS, *sorted(groups)]), "correct the name")
        for artefact in ARTEFACTS.values():
            if name in (artefact.name, artefact.group):
                chosen[artefact.name] = artefact
    return list(chosen.values())


def check_addressed(settings: Mapping[str, Any], artefacts: Sequence[str], scale: str) -> None:
    """Refuse settings that reach no run of the artefacts.

    Raises:
        ConfigError: a name of a method that they do not compare, or a setting that each of their arms is defined by.
    """
    arms_at_work = [arm for name in artefacts for arm in ARTEFACTS[name].arms]
    known = dict.fromkeys(name for arm in arms_at_work for name in arm.names)
    for name, value in settings.items():
        if is_addressed(name, value) and name not in known:
            raise ConfigError("settings", name, f"a setting, or one of {', '.join(known)}", "correct the name")
        if arms_at_work and all(name in arm.keeps(scale, settings) for arm in arms_at_work):
            kept = sorted({f"{name} = {arm.fixed(scale)[name]!r}" for arm in arms_at_work})
            allowed = f"a setting that these lines are not defined by ({', '.join(kept)})"
            raise ConfigError(f"settings[{name!r}]", value, allowed, "leave it out: it would change nothing")


def kept_note(settings: Mapping[str, Any], artefacts: Sequence[str], scale: str) -> str:
    """Return which lines the settings do not move, because they are defined by them; empty where they move all."""
    kept = {
        f"{arm_label(arm.name or arm.method)} on the {arm.policy} base ({name} = {value!r})": None
        for artefact in artefacts
        for arm in ARTEFACTS[artefact].arms
        for name, value in arm.keeps(scale, settings).items()
    }
    return f" Not moved by the settings, which they are defined by: {', '.join(kept)}." if kept else ""
