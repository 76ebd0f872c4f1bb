"""What each difference between the paper and its released code costs: one field moved at a time, as data.

HPT on the weak base, half as long as in the tables, with the default (what the scripts do, normalised per prompt) and
with one field moved to what the paper prints, or to what the scripts do where the default differs from them. A field
that changes how much a demonstration weighs against the rollouts is also tried at other SFT coefficients, because a
coefficient belongs to its scale; which of them counts is decided on the validation problems, which no table reports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpt.arms import IN_DISTRIBUTION, Arm, Artefact
from hpt.build import build_config

POLICY = "weak"
#: Half the steps of the tables: the price is that of learning more slowly, too. Other scales have no short runs here.
SHORT: Mapping[str, Mapping[str, Any]] = {
    "mini": {"schedule.steps": 120, "validation.every": 0},
    "tiny": {"schedule.steps": 2, "validation.every": 0},
    "gpu": {"schedule.steps": 25, "validation.every": 0},
}


_COEFFICIENT = {scale: build_config("hpt", scale=scale, policy=POLICY).estimator.sft_coefficient for scale in SHORT}


@dataclass(frozen=True)
class Discrepancy:
    """One field, or a whole recipe, moved away from the default.

    Attributes:
        name: of its arms.
        title: for people.
        why: what the paper says and what the released code does.
        settings: the field; empty for the default itself and for a recipe.
        weights: SFT coefficients tried besides the default's, as multiples of it; none where no scale changes.
        recipe: of `hpt.scales.RECIPES`.
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
        return tuple(_arm(self, weight) for weight in (1.0, *self.weights))


def _arm(own: Discrepancy, weight: float) -> Arm:
    name, label = f"price_{own.name}", own.title
    if weight != 1.0:
        name, label = f"{name}_sft_{weight:g}", f"{label}, SFT coefficient × {weight:g}"
    by_scale = {}
    for scale, short in SHORT.items():
        by_scale[scale] = {**short, "estimator.sft_coefficient": weight * _COEFFICIENT[scale]}
    return Arm("hpt", POLICY, name, own.settings, by_scale, label, own.recipe)


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
    "discrepancies", "Price of each discrepancy between paper and code",
    tuple(arm for own in (DEFAULT, *DISCREPANCIES) for arm in own.arms),
    (*IN_DISTRIBUTION, "validation"), "discrepancies", "appendix",
)  # fmt: skip
