"""The values a scale and a recipe bring along: two independent choices, both data (see `hpt.config` for the meaning).

Settings are laid over each other in this order, the last on top: defaults of `hpt.config`, scale, recipe, model,
method, tuned (what the search chose for a method at a scale), then what the user names. A method of the user's own lies
over what was tuned for the one it is ``like``. The settings of a stage's method lie below the last three, above the
rest (`hpt.methods.stages_of`).
"""

from typing import Any

from hpt.errors import ConfigError
from hpt.full_scale import FULL, FULL_BY_POLICY, FULL_TUNED
from hpt.gpu_scale import GPU, gpu_tuned

SCALES: dict[str, dict[str, Any]] = {
    # Minutes for everything on two CPU cores; for tests and CI, its numbers mean nothing.
    "tiny": {
        "data": {"world": "tiny", "max_prompt_tokens": 32},
        "rollout": {"max_response_tokens": 64, "max_model_tokens": 96},
        "schedule": {"steps": 6, "prompts_per_step": 8},
        "validation": {"every": 3, "problems_per_set": 4, "samples_per_problem": 2},
        "checkpoint": {"every": 2},
        "diagnostics": {"gradient_cosine_every": 2},
    },
    # The default: real, small science on two CPU cores.
    "mini": {
        "schedule": {"steps": 240},
        "validation": {"every": 24},
        # small micro-batches stay in the cache and hold little padding: 1.5 to 2 times as fast as one of 16,384
        "engine": {"micro_batch_tokens": 1536},
        "diagnostics": {"gradient_cosine_every": 10},
    },
    "gpu": GPU,
    "full": FULL,
}

#: Settings that belong to a model at a scale, whatever is done with it.
BY_POLICY: dict[str, dict[str, dict[str, Any]]] = {"full": FULL_BY_POLICY}

#: `released` is what the authors' scripts do, `paper` is the equations as printed; rows of the discrepancy table that
#: are fields. `released` leaves the normalisation to the scale (`released` at full, `per_prompt` below it, because a
#: coefficient belongs to its normalisation); `paper` always sets the printed one.
RECIPES: dict[str, dict[str, Any]] = {
    "released": {
        "estimator": {
            "clip_eps_low": "none",
            "clip_eps_high": "none",
            "advantage_std": "none",
            "entropy_coefficient": 0.001,
            "offline_advantage": "own_reward",
            "offline_shaping": True,
        },
        "optimizer": {"gradient_clip": 1.0, "skip_above_norm": 80.0},
    },
    "paper": {
        "estimator": {
            "clip_eps_low": "row",  # a number would be refused by rows without a ratio, such as SRFT's
            "clip_eps_high": "row",
            "advantage_std": "sample",
            "entropy_coefficient": 0.0,
            "offline_advantage": "group",
            "offline_shaping": True,
            "normalization": "paper",
        },
        "optimizer": {"gradient_clip": 0.0, "skip_above_norm": 0.0},
    },
}

#: What the search chose: scale -> policy -> method -> settings. Every method of the weak and the strong base was
#: searched on the same first grid (`hpt.search`, the report's appendix); the Llama base takes the weak base's. GRPO was
#: searched with and without its own clip and standard deviation; SFT->GRPO takes SFT's rate and GRPO's settings for its
#: two stages.
_OWN_CLIP_AND_STD = {"clip_eps_low": "row", "clip_eps_high": "row", "advantage_std": "row"}
_WEAK: dict[str, dict[str, Any]] = {
    "sft": {"optimizer": {"learning_rate": 1e-3}},
    "grpo": {"optimizer": {"learning_rate": 5e-4}, "estimator": _OWN_CLIP_AND_STD},
    "sft_then_grpo": {
        "optimizer": {"learning_rate": 5e-4, "first_stage_learning_rate": 1e-3},
        "estimator": _OWN_CLIP_AND_STD,
    },
    "luffy": {"optimizer": {"learning_rate": 5e-4}, "estimator": {"offline_coefficient": 1.0}},
    "hpt": {"optimizer": {"learning_rate": 1e-3}, "estimator": {"sft_coefficient": 0.125}},
    "off_on": {"optimizer": {"learning_rate": 5e-4}, "estimator": {"offline_coefficient": 4.0}},
    "mix_on": {"optimizer": {"learning_rate": 1e-3}},
}
_STRONG: dict[str, dict[str, Any]] = {
    "sft": {"optimizer": {"learning_rate": 5e-4}},
    "grpo": {"optimizer": {"learning_rate": 2.5e-4}},
    "sft_then_grpo": {"optimizer": {"learning_rate": 2.5e-4, "first_stage_learning_rate": 5e-4}},
    "luffy": {"optimizer": {"learning_rate": 2.5e-4}, "estimator": {"offline_coefficient": 1.0}},
    "srft": {"optimizer": {"learning_rate": 2.5e-4}, "estimator": {"sft_coefficient": 0.5}},
    "hpt": {"optimizer": {"learning_rate": 5e-4}, "estimator": {"sft_coefficient": 0.125}},
}
TUNED: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "mini": {"weak": _WEAK, "llama": _WEAK, "strong": _STRONG},
    "gpu": dict.fromkeys(("weak", "strong", "llama"), gpu_tuned(_WEAK)),
    "full": FULL_TUNED,
}


def check_scale(scale: str) -> None:
    """Refuse a name that is no scale's, before a folder is named by it."""
    if scale not in SCALES:
        raise ConfigError("scale", scale, "one of " + ", ".join(SCALES), "choose one of these")
