"""The search of learning rates and coefficients: the same small grid for every method, as data, and what it chose.

Every method gets three learning rates and, where it has a free choice besides, two values of that: the weight of the
demonstration, or for GRPO its clip and standard deviation. The runs are short, of one seed that no table uses, and are
judged on the validation problems, which no table reports. `hpt.scales.TUNED` holds the choice; a test compares it with
`chosen` of the committed records.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hpt.artefacts.selection import of_arm
from hpt.catalogue import Arm, Artefact
from hpt.export import RunRecords

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


def search_results(records: Sequence[RunRecords]) -> pd.DataFrame:
    """Return one row per arm of the search that has run: policy, method, learning_rate, choice, accuracy (percent)."""
    rows = []
    for arm in SEARCH.arms:
        for run in of_arm(records, arm.key):
            own = run.evaluations[run.evaluations["benchmark"] == "validation"]
            settings = {name: value for name, value in arm.settings.items() if name.startswith("estimator.")}
            rows.append(
                {
                    "policy": arm.policy,
                    "method": arm.method,
                    "learning_rate": arm.settings["optimizer.learning_rate"],
                    "choice": ", ".join(f"{name.partition('.')[2]} = {value}" for name, value in settings.items()),
                    "accuracy": 100 * float((own["correct"] / own["samples"]).mean()),
                    "arm": arm.key,
                }
            )
    return pd.DataFrame(rows)


def chosen(results: pd.DataFrame) -> pd.DataFrame:
    """Return the row of `search_results` each method of each base takes: the highest accuracy, then the lowest rate.

    Example:
        >>> rows = [("weak", "sft", 1e-3, "", 40.0, "a"), ("weak", "sft", 5e-4, "", 40.0, "b")]
        >>> columns = ["policy", "method", "learning_rate", "choice", "accuracy", "arm"]
        >>> chosen(pd.DataFrame(rows, columns=columns))["arm"].tolist()
        ['b']
    """
    ordered = results.sort_values(["accuracy", "learning_rate"], ascending=[False, True], kind="stable")
    return ordered.drop_duplicates(["policy", "method"]).sort_values(["policy", "method"]).reset_index(drop=True)
