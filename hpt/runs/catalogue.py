"""Every table and figure as data: the arms it compares, the evaluation sets, and the notebook that makes it.

An arm is one line of a comparison: a method on a base, with settings where it has any; one run per seed. Arms are
shared: a run that two artefacts need is made once (`hpt.runs.make`). Beside the paper's tables and figures:

* The search of learning rates and coefficients: every method gets the same four rates and three or four values of its
  own on every base, judged on the validation problems, which no table reports (`hpt.reports.frames.search`).
  `hpt.config.scales.TUNED` holds the choice; a test compares it with the records. The rules: docs/world.md.
* What each difference between the paper and its released code costs. HPT on the weak base, half as long as in the
  tables, with the default (what the scripts do, normalised per prompt) and with one field moved. A field that changes
  how much a demonstration weighs against the rollouts is also tried at other SFT coefficients, because a coefficient
  belongs to its scale; which of them counts is decided on the validation problems.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hpt.config.run_config import RunConfig, flat
from hpt.config.scales import TUNED
from hpt.config.settings import GateSettings
from hpt.data.world.gym import IN_DISTRIBUTION as GYM_IN
from hpt.data.world.gym import OUT_OF_DISTRIBUTION as GYM_OUT
from hpt.methods.methods import method_named
from hpt.runs.resolve import build_config
from hpt.support.errors import ConfigError
from hpt.support.text import did_you_mean

#: The evaluation sets of the mini world that stand for the paper's in- and out-of-distribution benchmarks.
IN_DISTRIBUTION = ("contest-a", "contest-b", "contest-c", "graded-500", "applied", "olympiad-like")
OUT_OF_DISTRIBUTION = ("choice", "notation")

#: What `hpt.methods.gate.constant` never reads; a misspelt name is not among them, and is refused.
_NOT_OF_A_CONSTANT_GATE = {f"gate.{name}" for name in GateSettings.model_fields} - {"gate.alpha", "gate.beta"}


def is_addressed(name: str, value: Any) -> bool:
    """Return whether an entry of the user's settings is for one method or arm: a dict, not under a section's name."""
    return isinstance(value, Mapping) and name not in RunConfig.model_fields


@dataclass(frozen=True)
class Arm:
    """One line of a comparison: a method (``module:METHOD`` too) on a base.

    Its dotted ``settings`` lie on top of the user's; ``by_scale`` holds more of them, for sizes of a scale. Without a
    ``name``, unique on its base, it takes its method's name, and without a ``label`` legends have the method's title.
    """

    method: str
    policy: str
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    by_scale: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    label: str = ""
    recipe: str = "released"

    @property
    def key(self) -> str:
        """What records of its runs are found by, such as ``hpt_gate2-weak``."""
        return f"{self.name or self.method}-{self.policy}"

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which the user's settings can address it; later ones win."""
        return tuple(dict.fromkeys([self.method, self.name or self.method, self.key]))

    def config(self, scale: str, seed: int, settings: Mapping[str, Any] | None = None) -> RunConfig:
        """Return the configuration of the arm's run of a seed; ``settings`` are the user's (`settings_for`)."""
        addressed = self._addressed(settings or {})
        for name, kept in self.keeps(scale, addressed).items():
            field = f"settings[{(self.name or self.method)!r}][{name!r}]"
            allowed = f"a setting that {self.key} is not defined by ({name} = {kept!r})"
            raise ConfigError(field, addressed[name], allowed, "leave it out, or give it to another method")
        given = {**self.settings_for(settings or {}), **self.fixed(scale)}
        return build_config(self.method, scale=scale, recipe=self.recipe, policy=self.policy, seed=seed, settings=given)

    def fixed(self, scale: str) -> dict[str, Any]:
        """Return the settings it is defined by at a scale."""
        return {**self.settings, **self.by_scale.get(scale, {})}

    def keeps(self, scale: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return those settings it is defined by that the user's would have moved: these stay."""
        fixed = self.fixed(scale)
        return {name: fixed[name] for name, value in settings.items() if name in fixed and fixed[name] != value}

    def settings_for(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of the user's settings reaches this arm, so that only the runs that it changes are made again.

        A dict under the name of a method or an arm is for that alone. What a constant gate never reads does not reach a
        method that has one: ``gate.count`` moves HPT, and neither SFT nor GRPO.

        Example:
            >>> given = {"gate.count": 2, "hpt": {"optimizer.learning_rate": 5e-4}}
            >>> Arm("hpt", "weak").settings_for(given), Arm("grpo", "weak").settings_for(given)
            ({'gate.count': 2, 'optimizer.learning_rate': 0.0005}, {})
        """
        general = {name: value for name, value in settings.items() if not is_addressed(name, value)}
        given = {**general, **self._addressed(settings)}
        stages = method_named(self.method).stages or (self.method,)
        gates = {method_named(name).settings.get("gate", {}).get("kind") for name in stages}
        if gates == {"constant"} and "gate.kind" not in given:
            given = {name: value for name, value in given.items() if name not in _NOT_OF_A_CONSTANT_GATE}
        return given

    def _addressed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for called in self.names if is_addressed(called, settings.get(called))
                for name, value in settings[called].items()}  # fmt: skip


@dataclass(frozen=True)
class Artefact:
    """One table or figure: what ``--only`` takes and its file is called, and the notebook that makes it.

    The base of each arm is always among its runs; without arms it needs none. ``evaluations`` are the sets on which
    final policies and bases are evaluated, ``set@samples`` for another number of answers than the set's; none for
    training curves. Of group ``appendix`` is what is only computed when asked for. On ``extra_policy`` it takes custom
    methods as further lines; empty = it takes none.
    """

    name: str
    title: str
    notebook: str
    arms: tuple[Arm, ...] = ()
    evaluations: tuple[str, ...] = ()
    group: str = "paper"
    extra_policy: str = ""

    @property
    def policies(self) -> tuple[str, ...]:
        """Its bases, in order."""
        return tuple(dict.fromkeys(arm.policy for arm in self.arms))

    def with_own(self, methods: Sequence[str]) -> "Artefact":
        """Return it with the plain arms of custom methods (``module:METHOD``), where it takes any."""
        more = tuple(Arm(method, self.extra_policy) for method in methods) if self.extra_policy else ()
        return replace(self, arms=(*self.arms, *more))


def arms(policy: str, *methods: str) -> tuple[Arm, ...]:
    """Return the plain arms of methods on a base."""
    return tuple(Arm(method, policy) for method in methods)


# --- The search: one grid, the same rounds and seeds, for every method on every base ----------------------------------

SEED = 1000  # seeds from here on are the search's alone
#: Of the first round, and two of the second: on one a rate can be lucky. Each trains its own base.
ROUND_SEEDS = (SEED, SEED + 1, SEED + 2)
#: Steps on each of these, by scale: a quarter in the first round, all in the second.
ROUND_STEPS: Mapping[str, tuple[int, ...]] = {"mini": (30, 120, 120), "tiny": (2, 3, 3)}
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
_SFT_COEFFICIENTS = tuple({"estimator.sft_coefficient": value} for value in (0.05, 0.125, 0.5, 2.0))
_OFFLINE_COEFFICIENTS = tuple({"estimator.offline_coefficient": value} for value in (0.25, 1.0, 4.0, 16.0))
_GRPO_CHOICES = {
    text: {"estimator.clip_eps_low": clip, "estimator.clip_eps_high": clip, "estimator.advantage_std": std}
    for text, clip, std in (
        ("no clip, no std", "none", "none"), ("own clip, no std", "row", "none"), ("own clip and std", "row", "row")
    )
}  # fmt: skip
#: What each method chooses besides its rate; in the grid SFT -> GRPO has the rate of its first stage, which is SFT's.
#: The grid first had three values. SFT chose the third, an edge, so every method whose values are numbers got a fourth.
OWN_CHOICE: dict[str, tuple[Mapping[str, Any], ...]] = {
    "sft": tuple({"schedule.updates_per_step": value} for value in (2, 4, 8, 16)),
    "grpo": tuple(_GRPO_CHOICES.values()),
    "sft_then_grpo": tuple({"schedule.first_stage_share": value} for value in (0.2, 0.4, 0.6, 0.8)),
    "luffy": _OFFLINE_COEFFICIENTS,
    "off_on": _OFFLINE_COEFFICIENTS,
    "hpt": _SFT_COEFFICIENTS,
    "srft": _SFT_COEFFICIENTS,
    "mix_on": _SFT_COEFFICIENTS,
}
SEARCHED: dict[str, tuple[str, ...]] = {
    "weak": ("sft", "grpo", "luffy", "hpt", "off_on", "mix_on"),
    "strong": ("sft", "grpo", "sft_then_grpo", "luffy", "srft", "hpt"),
    "llama": ("sft", "grpo", "luffy", "hpt"),
}
#: (base, method) -> the three best tries of the first round as (rate, place in `OWN_CHOICE`): those of the second.
FINALISTS: dict[tuple[str, str], tuple[tuple[float, int], ...]] = {
    ("weak", "sft"): ((1e-3, 3), (5e-4, 3), (1e-3, 2)),
    ("weak", "grpo"): ((1e-3, 2), (1e-3, 0), (1e-3, 1)),
    ("weak", "luffy"): ((2e-3, 2), (2e-3, 3), (1e-3, 3)),
    ("weak", "hpt"): ((2e-3, 1), (2e-3, 0), (1e-3, 0)),
    ("weak", "off_on"): ((2e-3, 2), (2e-3, 3), (1e-3, 2)),
    ("weak", "mix_on"): ((2e-3, 0), (1e-3, 0), (2e-3, 2)),
    ("strong", "sft"): ((5e-4, 3), (1e-3, 3), (1e-3, 2)),
    ("strong", "grpo"): ((2e-3, 2), (2e-3, 1), (1e-3, 0)),
    ("strong", "sft_then_grpo"): ((2.5e-4, 0), (5e-4, 2), (2.5e-4, 1)),
    ("strong", "luffy"): ((1e-3, 2), (2e-3, 2), (1e-3, 1)),
    ("strong", "srft"): ((2e-3, 3), (1e-3, 3), (5e-4, 0)),
    ("strong", "hpt"): ((1e-3, 0), (2e-3, 1), (2e-3, 0)),
    ("llama", "sft"): ((5e-4, 3), (1e-3, 3), (1e-3, 2)),
    ("llama", "grpo"): ((2e-3, 1), (1e-3, 2), (1e-3, 1)),
    ("llama", "luffy"): ((2e-3, 3), (2e-3, 2), (1e-3, 3)),
    ("llama", "hpt"): ((2e-3, 1), (2e-3, 0), (2e-3, 3)),
}
#: (base, method) -> its gate, where the paper has another than the method's (Section 4.1).
GATE_OF: dict[tuple[str, str], Mapping[str, Any]] = {("llama", "hpt"): {"gate.count": 2}}
#: One question at least for each of SFT's up to 16 updates.
_SIXTEEN = {"tiny": {"schedule.prompts_per_step": 16}}
#: Methods whose rate in the grid is that of their first stage alone.
RATE_OF = {"sft_then_grpo": "optimizer.first_stage_learning_rate"}


def tries_of(policy: str, method: str) -> tuple[Arm, ...]:
    """Return the tries of a method on a base: the grid for a quarter of the steps, its best three for all, twice.

    A method of stages has none before all their methods have chosen on that base. Of their choices its first stage
    takes the updates per step, its last one everything.
    """
    tuned, stages = TUNED["mini"].get(policy, {}), method_named(method).stages
    if not set(stages) <= set(tuned):
        return ()
    of_stages: dict[str, Any] = {}
    if stages:
        updates = flat(tuned[stages[0]]).get("schedule.updates_per_step")
        of_stages = {**flat(tuned[stages[-1]]), "schedule.first_stage_updates_per_step": updates}
    first, second = itertools.product(RATES, range(len(OWN_CHOICE[method]))), FINALISTS.get((policy, method), ())
    return tuple(
        Arm(method, policy, f"try{place + 1}_{method}_{rate:g}_{own}",
            {"seed": ROUND_SEEDS[place], RATE_OF.get(method, "optimizer.learning_rate"): rate, **of_stages,
             **OWN_CHOICE[method][own], **GATE_OF.get((policy, method), {})},
            {scale: {"schedule.steps": steps[place], "validation.every": 0, **_SIXTEEN.get(scale, {})}
             for scale, steps in ROUND_STEPS.items()})
        for place, tried in enumerate((first, second, second)) for rate, own in tried
    )  # fmt: skip


SEARCH = Artefact(
    "search", "Search of learning rates and coefficients", "search",
    tuple(arm for policy, methods in SEARCHED.items() for method in methods for arm in tries_of(policy, method)),
    ("validation",), "appendix",
)  # fmt: skip


def choice_text(method: str, settings: Mapping[str, Any]) -> str:
    """Return a method's own choice in the grid in words; empty where it has none among the settings."""
    own = {name: settings[name] for name in OWN_CHOICE[method][0] if name in settings}
    in_numbers = ", ".join(f"{name.rpartition('.')[2]} = {value}" for name, value in own.items())
    return next((text for text, choice in _GRPO_CHOICES.items() if choice == own), in_numbers)


WORLD = Artefact(
    "world", "What the small world had to satisfy", "world",
    tuple(arm for policy in SEARCHED for arm in arms(policy, "sft", "grpo")),
    IN_DISTRIBUTION + OUT_OF_DISTRIBUTION, "appendix",
)  # fmt: skip


# --- The price of each discrepancy between paper and code -------------------------------------------------------------

POLICY = "weak"
#: Half the steps of the tables: so the price includes slower learning. Other scales have no short runs here.
SHORT: Mapping[str, Mapping[str, Any]] = {
    "mini": {"schedule.steps": 60, "validation.every": 0},
    "tiny": {"schedule.steps": 2, "validation.every": 0},
    "gpu": {"schedule.steps": 25, "validation.every": 0},
}
_COEFFICIENT = {scale: build_config("hpt", scale=scale, policy=POLICY).estimator.sft_coefficient for scale in SHORT}


@dataclass(frozen=True)
class Discrepancy:
    """One field, or a whole recipe, moved away from the default, and ``why``: what paper and released code say.

    ``weights`` are the SFT coefficients tried besides the default's, as multiples of it: none where no scale changes.
    """

    name: str
    title: str
    why: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] = ()
    recipe: str = "released"

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Its arms, the one at the default's SFT coefficient first."""
        found = []
        for weight in (1.0, *self.weights):
            name, label = f"price_{self.name}", self.title
            if weight != 1.0:
                name, label = f"{name}_sft_{weight:g}", f"{label}, SFT coefficient × {weight:g}"
            by_scale = {scale: {**short, "estimator.sft_coefficient": weight * _COEFFICIENT[scale]}
                        for scale, short in SHORT.items()}  # fmt: skip
            found.append(Arm("hpt", POLICY, name, self.settings, by_scale, label, self.recipe))
        return tuple(found)


#: The weights tried follow from the scales: as printed, a demonstration token weighs 1/length of what it weighs per
#: prompt, against the same rollouts; a standard deviation of about one half doubles the advantages.
DEFAULT = Discrepancy("default", "default", "What the scripts do, normalised per prompt.", weights=(0.25, 4.0))
DISCREPANCIES = (
    Discrepancy(
        "paper", "recipe paper", "All fields below as printed, no clipping of the gradient norm.",
        weights=(16.0, 64.0), recipe="paper",
    ),
    Discrepancy(
        "normalization_paper", "normalisation as printed",
        "Eq. 11 sums a rollout's tokens, Eq. 12 averages a demonstration's; the default divides both by L.",
        {"estimator.normalization": "paper"}, (16.0, 64.0),
    ),
    Discrepancy(
        "normalization_released", "normalisation as released",
        "The scripts sum over rollouts without counting them and average over the demonstration tokens of a step.",
        {"estimator.normalization": "released"}, (4.0,),
    ),
    Discrepancy(
        "advantage_std", "advantage over its standard deviation",
        "The advantage below Eq. 12 is divided by it; the scripts do not.",
        {"estimator.advantage_std": "sample"}, (2.0,),
    ),
    Discrepancy(
        "clip", "ratio clipped at 0.2", "Eq. 11 clips the ratio; the scripts removed it.",
        {"estimator.clip_eps_low": 0.2, "estimator.clip_eps_high": 0.2},
    ),
    Discrepancy(
        "length_divisor", "no length divisor",
        "Eq. 11 has none, the scripts divide by 8192. It scales the whole loss: what changes is the clipping of the "
        "gradient norm, the skip rule and the weight of the entropy bonus.",
        {"estimator.length_divisor": 1},
    ),
    Discrepancy(
        "entropy_coefficient", "no entropy bonus", "The paper has none; the scripts add 0.001.",
        {"estimator.entropy_coefficient": 0.0},
    ),
)  # fmt: skip

PRICE = Artefact(
    "discrepancies", "Price of each discrepancy between paper and code", "discrepancies",
    tuple(arm for moved in (DEFAULT, *DISCREPANCIES) for arm in moved.arms),
    (*IN_DISTRIBUTION, "validation"), "appendix",
)  # fmt: skip


# --- The paper's tables and figures -----------------------------------------------------------------------------------

#: Sets of Figure 2 with the answers sampled per problem: the paper's AIME 25, AIME 24 and AMC (it draws 2,048, for k up
#: to 1,024).
PASS_AT_K = ("contest-b@1024", "contest-a@256", "contest-c@256")

STRONG = arms("strong", "sft", "grpo", "sft_then_grpo", "luffy", "srft", "hpt")
WEAK = arms("weak", "sft", "grpo", "luffy", "hpt")
HPT_ALONE = (*arms("weak", "hpt"), *arms("strong", "hpt"))
#: Section 3.1: gate 0 for the Qwen family, 2/8 for Llama.
LLAMA = (*arms("llama", "sft", "grpo", "luffy"), Arm("hpt", "llama", settings=GATE_OF["llama", "hpt"]))
#: Table 6; gate 0 is HPT itself on this base.
GATES = (
    Arm("hpt", "weak", "hpt_gate2", {"gate.count": 2}, label="HPT, gate 2/8"),
    Arm("hpt", "weak", "hpt_gate1", {"gate.count": 1}, label="HPT, gate 1/8"),
    Arm("hpt", "weak"),
)
#: Section 4.2: 85 questions each of levels 3, 4 and 5 for 50 epochs; 51 prompts per step, so that an epoch is 5 steps
#: and holds every question once. The paper does not say how many prompts its step had.
_EPOCH = {"schedule.prompts_per_step": 51, "schedule.updates_per_step": 3, "validation.every": 0}
_FEW_QUESTIONS: Mapping[str, Mapping[str, Any]] = {
    "mini": {**_EPOCH, "data.questions_per_level": [0, 0, 85, 85, 85], "schedule.steps": 250},
    "gpu": {**_EPOCH, "data.questions_per_level": [0, 0, 85, 85, 85], "schedule.steps": 100},
    "full": {**_EPOCH, "data.source": "math-255", "schedule.steps": 250},
    "tiny": {
        **_EPOCH, "data.questions_per_level": [0, 0, 4, 4, 4], "schedule.steps": 8,
        "schedule.prompts_per_step": 6, "schedule.updates_per_step": 1,
    },
}  # fmt: skip
PER_QUESTION = (
    Arm("grpo", "weak", "grpo_after_sft", {"policy.after": "sft"}, _FEW_QUESTIONS, "SFT → GRPO (255 questions)"),
    Arm("hpt", "weak", "hpt_few_questions", {}, _FEW_QUESTIONS, "HPT (255 questions)"),
)
#: The custom algorithms of `hpt.examples` beside HPT and what it is compared with.
EXAMPLES = tuple(
    Arm(f"hpt.examples.{name}:METHOD", "weak", name, label=label)
    for name, label in (
        ("smooth_gate", "HPT, smooth gate"),
        ("hpt_cispo", "HPT, CISPO online"),
        ("least_error_gate", "HPT, gate of least error"),
    )
)
EXAMPLES_AND_OTHERS = (*arms("weak", "sft", "grpo", "hpt"), *EXAMPLES)

ARTEFACTS: dict[str, Artefact] = {
    artefact.name: artefact
    for artefact in (
        Artefact("table2", "Table 2: main results, strong base", "table2_main_results", STRONG,
                 IN_DISTRIBUTION + OUT_OF_DISTRIBUTION),
        Artefact("table3", "Table 3: main results, other bases", "table3_main_results", LLAMA + WEAK,
                 IN_DISTRIBUTION, extra_policy="weak"),
        # one answer per problem, as the paper's, and eight, to say how much of it is the luck of one answer
        Artefact("table4", "Table 4: exclusive solves", "table4_exclusive_solves",
                 arms("strong", "grpo", "luffy", "hpt"), ("graded-500", "graded-500@8")),
        Artefact("table5", "Table 5: off-policy variants", "table5_off_policy",
                 arms("weak", "off_on", "mix_on", "hpt"), IN_DISTRIBUTION),
        Artefact("table6", "Table 6: gate threshold", "table6_gate_threshold", GATES, IN_DISTRIBUTION),
        Artefact("figure8", "Figure 8: gate threshold over training", "table6_gate_threshold", GATES),
        Artefact("figure2", "Figure 2: pass@k", "figure2_pass_at_k",
                 arms("strong", "sft", "grpo", "sft_then_grpo", "luffy", "hpt"), PASS_AT_K),
        Artefact("figure3", "Figure 3: accuracy per question, SFT → GRPO", "figures3_4_per_question", PER_QUESTION[:1]),
        Artefact("figure4", "Figure 4: HPT minus SFT → GRPO per question", "figures3_4_per_question", PER_QUESTION),
        Artefact("figure5", "Figure 5: validation curves", "training_dynamics", WEAK, extra_policy="weak"),
        Artefact("figure6", "Figure 6: offline data ratio", "training_dynamics", HPT_ALONE, extra_policy="weak"),
        Artefact("figure7", "Figure 7: entropy and response length", "training_dynamics",
                 arms("weak", "grpo", "luffy", "hpt"), extra_policy="weak"),
        Artefact("grpo_gains", "What RL alone gains on each base", "table2_main_results",
                 (*arms("strong", "grpo"), *arms("weak", "grpo"), *arms("llama", "grpo")), IN_DISTRIBUTION),
        # of the other bases' contrasts it shows those whose runs are there (`hpt.reports.notebooks.Study.family`)
        Artefact("contrasts", "HPT minus each baseline: the confirmatory contrasts", "table2_main_results", STRONG,
                 IN_DISTRIBUTION),
        Artefact("power", "What so many seeds can show", "table2_main_results", STRONG, IN_DISTRIBUTION),
        Artefact("equal_costs", "Strong base: accuracy at equal steps, tokens and seconds", "table2_main_results",
                 STRONG),
        Artefact("equal_costs_weaker", "Weaker bases: accuracy at equal steps, tokens and seconds",
                 "table3_main_results", LLAMA + WEAK),
        Artefact("learnt_operations", "Why: what each method learnt", "learnt_operations", (*STRONG, *LLAMA, *WEAK),
                 ("graded-500",), "appendix"),
        Artefact("learnt_operations_figure", "Why: what each method learnt, seed by seed", "learnt_operations",
                 (*STRONG, *LLAMA, *WEAK), ("graded-500",), "appendix"),
        Artefact("costs", "What training costs on the strong base: tokens and time", "table2_main_results", STRONG),
        Artefact("costs_few_questions", "What training on 255 questions costs: tokens and time",
                 "figures3_4_per_question", (*arms("weak", "sft"), *PER_QUESTION)),
        Artefact("hpt_runs", "HPT while it trains: reward, and whether SFT and RL conflict", "training_dynamics",
                 HPT_ALONE),
        # of the runs above, so that it is made of the same seeds
        Artefact("algorithm1", "Algorithm 1 step by step, on a real step", "training_dynamics", HPT_ALONE),
        Artefact("own_algorithms", "Your own algorithm: three ideas against HPT", "own_algorithm",
                 EXAMPLES_AND_OTHERS, IN_DISTRIBUTION, "appendix", "weak"),
        Artefact("own_algorithms_curves", "Your own algorithm: three ideas while they train", "own_algorithm",
                 EXAMPLES_AND_OTHERS, (), "appendix", "weak"),
        # exact: no arms, no runs
        Artefact("table1", "Table 1: one estimator, four parts", "table1_estimator"),
        Artefact("table1_readings", "Where Table 1 simplifies, and what that does to the gradient", "table1_estimator"),
        Artefact("figure1", "Figure 1: the four parts and who chooses what", "table1_estimator"),
        Artefact("figure1_tokens", "Figure 1 on real tokens: one group under five rows", "table1_estimator"),
        Artefact("derivation", "Section 2.2 and Appendix B: the derivation in numbers", "derivation"),
        Artefact("bias_variance", "Section 2.3: bias and variance of every row", "bias_variance"),
        Artefact("estimators", "Section 2.3: which rows are effective directions", "bias_variance"),
        Artefact("estimator_error", "Section 2.3: error of every row as one thing changes", "bias_variance"),
        Artefact("checkpoint_error", "Section 2.3 on a real small model: the rows at checkpoints of a run",
                 "checkpoint_error"),
        Artefact("gates_as_estimators", "Section 2.4: the error of every gate", "bias_variance"),
        Artefact("best_gate", "Section 2.4: the gate of least error", "bias_variance"),
        Artefact("gradient_conflict", "Section 2.2: do SFT and RL conflict?", "bias_variance"),
        # of published numbers alone
        Artefact("audit", "Audit: the printed numbers against each other", "audit"),
        SEARCH,
        PRICE,
        WORLD,
    )
}  # fmt: skip


#: Search at scale ``smollm``: five rates for every method but SFT -> GRPO, which takes SFT's for its first stage and
#: GRPO's for its second. A third of the steps, a seed that no table uses. Four were the grid's; SFT chose the last.
SMOLLM_RATES, SMOLLM_STEPS = (5e-6, 1e-5, 2e-5, 4e-5, 8e-5), 20
SMOLLM_SEARCH = Artefact(
    "search", "Search of learning rates", "search",
    tuple(
        Arm(method, "weak", f"try1_{method}_{rate:g}", {"seed": SEED, "optimizer.learning_rate": rate},
            {"smollm": {"schedule.steps": SMOLLM_STEPS, "validation.every": 0}})
        for method in ("sft", "grpo", "luffy", "hpt") for rate in SMOLLM_RATES
    ),
    ("validation",), "appendix",
)  # fmt: skip
#: Notebooks on what only the worlds made here have.
OF_SMALL_WORLDS = ("world", "learnt_operations")
#: Scales with one base, in the weak base's place: all they make, as artefact -> (methods compared, evaluations).
ONE_BASE: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "smollm": {
        "table3": (("sft", "grpo", "sft_then_grpo", "luffy", "hpt"), (*GYM_IN, *GYM_OUT)),
        "figure2": (("sft", "grpo", "sft_then_grpo", "luffy", "hpt"), ("reach@64",)),
        "figure5": (("sft", "grpo", "luffy", "hpt"), ()),
        "figure6": (("hpt",), ()),
        "figure7": (("grpo", "luffy", "hpt"), ()),
    }
}


def artefacts_at(scale: str) -> dict[str, Artefact]:
    """Return the artefacts that a scale makes, by name, with the arms it compares."""
    if scale not in ONE_BASE:
        return {name: own for name, own in ARTEFACTS.items() if scale != "full" or own.notebook not in OF_SMALL_WORLDS}
    return {
        name: replace(ARTEFACTS[name], arms=arms("weak", *methods), evaluations=evaluations)
        for name, (methods, evaluations) in ONE_BASE[scale].items()
    } | {"search": SMOLLM_SEARCH}


def arm_label(name: str) -> str:
    """Return what legends and tables call an arm, or a method; a custom one by its title, where its module is there."""
    labels = {arm.name: arm.label for artefact in ARTEFACTS.values() for arm in artefact.arms if arm.label}
    try:
        return labels.get(name) or method_named(name).title
    except ConfigError:
        return name  # records of a module that is no longer there


def artefacts_named(names: Sequence[str], scale: str = "mini") -> list[Artefact]:
    """Return a scale's artefacts of these names; those of the paper for none; ``appendix`` stands for its group."""
    here = artefacts_at(scale)
    known = [*here, "appendix", "paper"]
    chosen: dict[str, Artefact] = {}
    for name in names or ["paper"]:
        if name not in known:
            raise ConfigError("only", name, "one of " + ", ".join(known), did_you_mean(name, known))
        chosen |= {artefact.name: artefact for artefact in here.values() if name in (artefact.name, artefact.group)}
    return list(chosen.values())


def check_addressed(settings: Mapping[str, Any], artefacts: Sequence[str], scale: str) -> None:
    """Refuse settings that reach no run of the artefacts: of a method not compared, or that no arm may change."""
    arms_at_work = [arm for artefact in artefacts_named(artefacts, scale) for arm in artefact.arms]
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
        for artefact in artefacts_named(artefacts, scale)
        for arm in artefact.arms
        for name, value in arm.keeps(scale, settings).items()
    }
    return f" Not moved by the settings, which they are defined by: {', '.join(kept)}." if kept else ""
