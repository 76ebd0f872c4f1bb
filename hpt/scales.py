"""The values a scale and a recipe bring along: two independent choices, both data (see `hpt.config` for the meaning).

Settings are laid over each other in this order, the last on top: defaults of `hpt.config`, scale, recipe, model,
method, tuned (what the search chose for a method at a scale), then what the user names. A method of the user's own lies
over what was tuned for the one it is ``like``. The settings of a stage's method lie below the last three, above the
rest (`hpt.methods.stages_of`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpt.config import RunConfig, flat, merge, nest, validate
from hpt.errors import ConfigError
from hpt.full_scale import FULL, FULL_BY_POLICY, FULL_TUNED
from hpt.gate import feedback_coefficients
from hpt.gpu_scale import GPU, gpu_tuned
from hpt.methods import method_named, resolved_row, stages_of
from hpt.own_modules import own_modules, refresh
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.rows import Row

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
    """Refuse a name that is no scale's, before a folder is named by it.

    Raises:
        ConfigError: it is not in `SCALES`.
    """
    if scale not in SCALES:
        raise ConfigError("scale", scale, "one of " + ", ".join(SCALES), "choose one of these")


def build_config(
    method: str,
    *,
    scale: str = "mini",
    recipe: str = "released",
    policy: str = "weak",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the resolved configuration of a run from its names and the dotted settings the user gave.

    Args:
        method: key of `hpt.methods.METHODS` or ``module:METHOD``.
        scale: key of `SCALES`.
        recipe: ``released`` or ``paper``.
        policy: name of the base, or of a local model.
        seed: run seed; everything random in the run is hashed from it.
        settings: dotted names to values, laid on top of everything.

    Raises:
        ConfigError: anything unknown, ill-typed or impossible.

    Example:
        >>> build_config("hpt", scale="tiny", settings={"gate.count": 2}).gate.count
        2
    """
    check_scale(scale)
    if recipe not in RECIPES:
        raise ConfigError("recipe", recipe, "one of " + ", ".join(RECIPES), "choose one of these")
    names: dict[str, Any] = {
        "method": method,
        "scale": scale,
        "recipe": recipe,
        "seed": seed,
        "policy": {"name": policy},
    }
    given = nest(settings or {})
    # what the names lead to is known once they are resolved, and they are read from modules as they are now
    refresh([method, *_texts(given)])
    chosen = method_named(method)
    refresh([component.row for component in chosen.components] + _texts(chosen.settings))
    tunings = TUNED.get(scale, {}).get(policy, {})
    tuned, like = tunings.get(method, {}), tunings.get(chosen.like, {})
    of_policy = BY_POLICY.get(scale, {}).get(policy, {})
    above = set(flat(merge(like, chosen.settings, tuned, given)))
    of_stages = {setting for name in chosen.stages for setting in flat(method_named(name).settings)}
    names["over_stages"] = sorted(above & of_stages)
    layers = (SCALES[scale], RECIPES[recipe], of_policy, like, chosen.settings, tuned, names, given)
    config = validate(merge(*layers))
    check_method(config)
    return config


def _texts(settings: Mapping[str, Any]) -> list[str]:
    """Return the texts among nested settings: any of them may name something of the user's own."""
    inner = [text for value in settings.values() if isinstance(value, Mapping) for text in _texts(value)]
    return inner + [value for value in settings.values() if isinstance(value, str)]


def check_method(config: RunConfig) -> None:
    """Refuse what the method of ``config`` cannot do, by weighing a made-up group the way training would.

    Raises:
        ConfigError: unknown gate or row, a clip on a row without a ratio, a row that needs what no rollout batch holds
            (PPO's values), or too few rollouts beside the demonstrations of a group.
    """
    for stage in stages_of(config):
        kl = [np.zeros(1), np.zeros(1)] if stage.config.estimator.kl_term == "advantage" else None
        made_up = RolloutGroups(np.array([1.0, 0.0]), np.zeros(2, int), np.zeros(2, bool), np.ones(2, int), kl)
        members, needed = config.rollout.rollouts_per_prompt, stage.method.demonstrations_per_group + 1
        if members < needed:
            allowed = f"at least {needed}: {stage.method.demonstrations_per_group} of them is the demonstration"
            raise ConfigError("rollout.rollouts_per_prompt", members, allowed, f"set it to {needed} or more")
        feedback_coefficients(stage.config.gate, np.arange(members + 1), members)
        for component in stage.method.components:
            row = resolved_row(component, stage.config)
            advantages(row, made_up)
            check_own_parts(row)


def check_own_parts(row: Row) -> None:
    """Refuse a part of a user's own that does not say one finite number per token, by calling it on three tokens.

    Raises:
        ConfigError: it fails, or returns something else.
    """
    if not own_modules([row.mask, row.denominator, row.trajectory_coefficient]):
        return  # the package's own parts need no torch here
    import torch

    from hpt.upge.estimator import Component, TokenStreams, upge_loss

    logprobs = torch.tensor([-0.5, -1.0, -2.0], requires_grad=True)
    old, trajectory = torch.tensor([-0.4, -1.5, -2.0]), torch.tensor([0, 1, 1])
    streams = TokenStreams(logprobs, torch.ones(3), old, trajectory, 2)
    part = Component(row, torch.tensor([1.0, -1.0, -1.0]), torch.ones(3), torch.ones(3), torch.tensor([1.0, 0.0]))
    if not bool(upge_loss(streams, [part]).weights.isfinite().all()):
        names = ", ".join(name for name in (row.mask, row.denominator, row.trajectory_coefficient) if ":" in name)
        raise ConfigError(f"row {row.name}", names, "parts that give finite weights",
                          "mend them: `hpt.checker.check_gradient` says which")  # fmt: skip
