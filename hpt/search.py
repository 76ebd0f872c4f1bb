"""The search of learning rates and coefficients: the same small grid for every method, as data.

Every method gets three learning rates and, where it has a free choice besides, two values of that: the weight of the
demonstration, or for GRPO its clip and standard deviation. The runs are short, of one seed that no table uses, and are
judged on the validation problems, which no table reports (`hpt.reports.frames.search`). `hpt.scales.TUNED` holds the
choice; a test compares it with what the committed records say.
"""

from collections.abc import Mapping
from typing import Any

from hpt.arms import Arm, Artefact

SEED = 1000  # of the search alone
LEARNING_RATES = (2.5e-4, 5e-4, 1e-3)
#: Weight of the demonstration against one of eight rollouts: the same, or four times as much. An SFT term is normalised
#: like a whole group (coefficient 1/8 = one rollout), an off-policy term like one more rollout.
_SFT_WEIGHTS = ({"estimator.sft_coefficient": 0.125}, {"estimator.sft_coefficient": 0.5})
_OFFLINE_WEIGHTS = ({"estimator.offline_coefficient": 1.0}, {"estimator.offline_coefficient": 4.0})
_AS_RELEASED = {"estimator.clip_eps_low": "none", "estimator.clip_eps_high": "none", "estimator.advantage_std": "none"}
_OWN = {"estimator.clip_eps_low": "row", "estimator.clip_eps_high": "row", "estimator.advantage_std": "row"}
#: Base -> method -> values of its free choice beside the learning rate. SFT->GRPO takes SFT's for its first stage and
#: GRPO's for its second; Mix/ON has the paper's own coefficients; the Llama base takes the weak base's.
GRID: dict[str, dict[str, tuple[Mapping[str, Any], ...]]] = {
    "weak": {
        "sft": ({},),
        "grpo": (_AS_RELEASED, _OWN),
        "luffy": _OFFLINE_WEIGHTS,
        "hpt": _SFT_WEIGHTS,
        "off_on": _OFFLINE_WEIGHTS,
        "mix_on": ({},),
    },
    "strong": {
        "sft": ({},),
        "grpo": (_AS_RELEASED, _OWN),
        "luffy": _OFFLINE_WEIGHTS,
        "srft": _SFT_WEIGHTS,
        "hpt": _SFT_WEIGHTS,
    },
}
#: Steps of the two rounds, by scale.
ROUNDS: Mapping[str, tuple[int, int]] = {"mini": (60, 120), "tiny": (2, 3)}
#: Base -> methods searched a second time, for twice as long: those whose best try of the first round is more than
#: `BEHIND` points below the best method's. After 60 steps these have not yet learnt to write as the demonstrations do,
#: and which of their rates was ahead said little.
SECOND_ROUND: dict[str, tuple[str, ...]] = {"weak": ("sft", "hpt", "mix_on"), "strong": ("sft", "srft", "hpt")}
BEHIND = 10.0


def search_arms(policy: str) -> tuple[Arm, ...]:
    """Return the arms of a base's search.

    Example:
        >>> len(search_arms("weak")), search_arms("weak")[0].name
        (42, 'search1_sft_0.00025')
    """
    return tuple(
        _arm(policy, method, rate, choice, number)
        for number in (0, 1)
        for method, choices in GRID[policy].items()
        if number == 0 or method in SECOND_ROUND[policy]
        for choice in choices
        for rate in LEARNING_RATES
    )


def _arm(policy: str, method: str, rate: float, choice: Mapping[str, Any], number: int) -> Arm:
    words = [f"{str(name).rpartition('.')[2]}_{value}" for name, value in choice.items()]
    name = "_".join([f"search{number + 1}", method, f"{rate:g}", *words])
    lengths = {scale: {"schedule.steps": rounds[number], "validation.every": 0} for scale, rounds in ROUNDS.items()}
    return Arm(method, policy, name, {"seed": SEED, "optimizer.learning_rate": rate, **choice}, lengths)


SEARCH = Artefact(
    "search", "Search of learning rates and coefficients", search_arms("weak") + search_arms("strong"),
    ("validation",), "search", "appendix",
)  # fmt: skip


def choice_text(settings: Mapping[str, Any]) -> str:
    """Return a free choice of the grid in words; empty where a method has none.

    Example:
        >>> choice_text(_OWN), choice_text({"estimator.sft_coefficient": 0.5})
        ('own clip and std', 'sft_coefficient = 0.5')
    """
    for own, text in ((_AS_RELEASED, "no clip, no std"), (_OWN, "own clip and std")):
        if settings == own:
            return text
    return ", ".join(f"{name.rpartition('.')[2]} = {value}" for name, value in settings.items())
