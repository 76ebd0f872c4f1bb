"""The values a scale and a recipe bring along: two independent choices, both data (see `hpt.config` for the meaning).

Settings are laid over each other in this order, the last on top: defaults of `hpt.config`, scale, recipe, model,
method, tuned (what the search chose for a method at a scale), then what the user names. A method of the user's own lies
over what was tuned for the one it is ``like``. The settings of a stage's method lie below the last three, above the
rest (`hpt.methods.stages_of`).
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hpt.config import RunConfig, flat, merge, nest, validate
from hpt.errors import ConfigError
from hpt.full_scale import FULL, FULL_BY_POLICY, FULL_TUNED
from hpt.gate import FEEDBACK
from hpt.gpu_scale import GPU, gpu_tuned
from hpt.methods import METHODS, compares_with_rollouts, method_named, resolved_row, stages_of
from hpt.plugins import checked, custom_modules, refresh, resolve, spelled
from hpt.ranks import warn
from hpt.settings import GateSettings
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.aggregation import StepCounts
from hpt.upge.rows import ROWS, Row

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


#: Settings that may name what an installed package offers: its kind (`hpt.plugins.spelled`) and the package's names.
_INSTALLED: Mapping[str, tuple[str, Container[str]]] = {
    "gate.kind": ("gates", FEEDBACK),
    "estimator.online_row": ("rows", (*ROWS, "method")),
    "estimator.offline_row": ("rows", (*ROWS, "method")),
}


def check_scale(scale: str) -> None:
    """Refuse a name that is no scale's, before a folder is named by it."""
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
        method: key of `hpt.methods.METHODS`, ``module:METHOD``, or what an installed package offers as a method.
        scale: key of `SCALES`.
        recipe: ``released`` or ``paper``.
        policy: name of the base, or of a local model.
        seed: run seed; everything random in the run is hashed from it.
        settings: dotted names to values, laid on top of everything.

    Example:
        >>> build_config("hpt", scale="tiny", settings={"gate.count": 2}).gate.count
        2
    """
    check_scale(scale)
    if recipe not in RECIPES:
        raise ConfigError("recipe", recipe, "one of " + ", ".join(RECIPES), "choose one of these")
    method = spelled(method, "methods", METHODS)
    names: dict[str, Any] = {
        "method": method,
        "scale": scale,
        "recipe": recipe,
        "seed": seed,
        "policy": {"name": policy},
    }
    given = nest({
        name: spelled(value, *_INSTALLED[name]) if name in _INSTALLED and isinstance(value, str) else value
        for name, value in (settings or {}).items()
    })  # fmt: skip
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
    """Refuse what the method of ``config`` cannot do, before anything is computed.

    Raises:
        ConfigError: unknown gate or row, a clip on a row without a ratio, a row that needs what no rollout batch holds
            (PPO's values), too few rollouts beside the demonstrations of a group, a row that compares within a group
            where every group would have one member, or a function of the user's that fails or returns something else
            than training needs.
    """
    for stage in stages_of(config):
        settings = stage.config.estimator
        kl = [np.zeros(1), np.zeros(2)] if settings.kl_term == "advantage" else None
        together = replace(_GROUPS, kl=kl)
        apart = replace(together, group=np.arange(2))
        members, needed = config.rollout.rollouts_per_prompt, stage.method.demonstrations_per_group + 1
        if members < needed:
            allowed = f"at least {needed}: {stage.method.demonstrations_per_group} of them is the demonstration"
            raise ConfigError("rollout.rollouts_per_prompt", members, allowed, f"set it to {needed} or more")
        check_gate(stage.config.gate, members)
        for component in stage.method.components:
            row = resolved_row(component, stage.config)
            check_custom_parts(row)
            is_rollout = component.data == "rollouts"
            alone = not compares_with_rollouts(component, stage.config) and not (is_rollout and members > needed)
            found = advantages(row, apart if alone else together)
            if alone and getattr(settings, component.coefficient) and not any(map(np.any, found)):
                raise _never_learns(row.name, is_rollout, config, needed + 1)
    for field in ("online_row", "offline_row"):
        name, normalization = getattr(config.estimator, field), config.estimator.normalization
        if name != "method" and normalization != "row":
            aggregation = resolve(ROWS, name, f"estimator.{field}").aggregation
            warn(f"estimator.{field} = {name} changes no scale: that stays estimator.normalization = {normalization}; "
                 f"set it to row for the rows' own ({name}: {aggregation})")  # fmt: skip


def _never_learns(row: str, is_rollout: bool, config: RunConfig, needed: int) -> ConfigError:
    """Return the refusal of a row whose advantage is 0 whatever the reward, because it has nobody to compare with."""
    if is_rollout:
        allowed = f"at least {needed}: row {row} compares a question's rollouts, and one alone has an advantage of 0"
        remedy = f"set it to {needed} or more, or estimator.online_row to reinforce_plus_plus"
        return ConfigError("rollout.rollouts_per_prompt", config.rollout.rollouts_per_prompt, allowed, remedy)
    where = f"row {row}" if config.estimator.offline_row == "method" else "estimator.offline_row"
    allowed = "a row that gives the demonstration alone an advantage; compared with nobody, it has 0"
    return ConfigError(where, row, allowed, "choose sft or dft, or a method that compares it with the rollouts (luffy)")


def check_gate(gate: GateSettings, rollouts_per_prompt: int) -> None:
    """Refuse a gate that does not map every count of correct rollouts to (alpha, beta) of at least 0."""
    counts = np.arange(rollouts_per_prompt + 1)
    arguments, example = (gate, counts, rollouts_per_prompt), [np.zeros(len(counts))] * 2
    for values in checked(resolve(FEEDBACK, gate.kind, "gate.kind"), "gate.kind", gate.kind, arguments, example):
        if (values < 0).any():
            raise ConfigError("gate.kind", gate.kind, "coefficients of at least 0", f"it returned {values.min():g}")


#: Two made-up answers of one question, of one and of two tokens.
_GROUPS = RolloutGroups(np.array([1.0, 0.0]), np.zeros(2, int), np.zeros(2, bool), np.array([1, 2]))


def check_custom_parts(row: Row) -> None:
    """Refuse parts of a row that a user wrote unless they return what `hpt.upge` says, by calling each once."""
    counts = StepCounts(1, 2, 8, sequences=2, tokens=3, ranks=1, micro_batches=1, pooled_tokens=1)
    calls: dict[str, tuple[Sequence[Any], Any]] = {
        "advantage": ((row, _GROUPS), [np.zeros(1), np.zeros(2)]),
        "aggregation": ((_GROUPS.lengths, counts), np.zeros(2)),
    }
    if custom_modules([row.mask, row.denominator, row.trajectory_coefficient]):
        import torch  # the package's parts need no check

        from hpt.upge.estimator import TokenStreams

        logprobs, old = torch.tensor([-0.5, -1.0, -2.0], requires_grad=True), torch.tensor([-0.4, -1.5, -2.0])
        streams = TokenStreams(logprobs, torch.ones(3), old, torch.tensor([0, 1, 1]), 2)
        given = (row, streams, torch.tensor([1.0, -1.0, -1.0]))
        calls |= {"mask": (given, torch.zeros(3)), "denominator": (given, torch.zeros(3))}
        calls["trajectory_coefficient"] = ((streams, torch.tensor([1.0, 0.0])), torch.zeros(3))
    for part, (arguments, example) in calls.items():
        if ":" in (name := getattr(row, part)):
            field = f"row {row.name}: {part}"
            checked(resolve({}, name, field), field, name, arguments, example)
