"""The search of learning rates and coefficients: the same small grid for every method, as data.

Every method gets three learning rates and, where it has a free choice besides, two values of that: the weight of the
demonstration, or for GRPO its clip and standard deviation. The runs are short, of one seed that no table uses, and are
judged on the validation problems, which no table reports (`hpt.artefacts.search`). `hpt.scales.TUNED` holds the choice;
a test compares it with what the committed records say.
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
_SHORT: Mapping[str, Mapping[str, Any]] = {
    "mini": {"schedule.steps": 60, "validation.every": 0},
    "tiny": {"schedule.steps": 2, "validation.every": 0},
}


def search_arms(policy: str) -> tuple[Arm, ...]:
    """Return the arms of a base's search.

    Example:
        >>> len(search_arms("weak")), search_arms("weak")[0].name
        (30, 'search_sft_0.00025')
    """
    return tuple(
        Arm(method, policy, _name(method, rate, choice), {"seed": SEED, "optimizer.learning_rate": rate, **choice},
            _SHORT)
        for method, choices in GRID[policy].items()
        for choice in choices
        for rate in LEARNING_RATES
    )  # fmt: skip


def _name(method: str, rate: float, choice: Mapping[str, Any]) -> str:
    words = [f"{str(name).rpartition('.')[2]}_{value}" for name, value in choice.items()]
    return "_".join(["search", method, f"{rate:g}", *words])


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
