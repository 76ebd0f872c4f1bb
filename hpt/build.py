"""From names and settings to a configuration: layers laid over each other, and what a method cannot do refused."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hpt.config import RunConfig, flat, merge, nest, validate
from hpt.errors import ConfigError, warn
from hpt.gate import FEEDBACK
from hpt.methods import METHODS, compares_with_rollouts, method_named, resolved_row, stages_of
from hpt.plugins import checked, custom_modules, refresh, resolve, spelled
from hpt.scales import BY_POLICY, RECIPES, SCALES, TUNED, check_scale
from hpt.settings import GateSettings
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.aggregation import StepCounts
from hpt.upge.estimator import ROWS
from hpt.upge.row import Row

#: Settings that may name what an installed package offers: its kind (`hpt.plugins.spelled`) and the package's names.
_INSTALLED: Mapping[str, tuple[str, Container[str]]] = {
    "gate.kind": ("gates", FEEDBACK),
    "estimator.online_row": ("rows", (*ROWS, "method")),
    "estimator.offline_row": ("rows", (*ROWS, "method")),
}


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
