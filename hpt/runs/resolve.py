"""From names and settings to a configuration, what a method cannot do refused; then the hashes of data and weights.

`build_config` lays the layers of settings over each other; `resolve_run` fills in what a run starts from. A base is
trained here (`hpt.training.bases`), fetched and changed, or the user's. All three are runs of the method ``pretrain``,
so that a base is evaluated, listed and found like any other policy.
"""

import shlex
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpt.config.run_config import RunConfig, digest, flat, merge, nest, validate
from hpt.config.scales import BY_POLICY, BY_WORLD, RECIPES, SCALES, TUNED, check_scale
from hpt.config.settings import GateSettings
from hpt.data.models import MODELS, check_context, check_model_folder, model_hashes, public_model
from hpt.data.problems import problems_hash
from hpt.data.sources import curve_sets, own_validation, training_problems_of
from hpt.data.world.gym import SMOLLM, mixed
from hpt.data.world.lookup import LOOKUPS
from hpt.data.world.lookup_corpus import BASES
from hpt.data.world.worlds import base_recipe
from hpt.methods.gate import FEEDBACK
from hpt.methods.methods import METHODS, compares_with_rollouts, method_named, names_used, resolved_row, stages_of
from hpt.runs.folder import FOLDER, HUB, RunFolder, check, damaged_files, runs_dir_option
from hpt.support.errors import ConfigError, HptError, warn
from hpt.support.plugins import checked, custom_modules, module_hashes, refresh, resolve, spelled
from hpt.upge.advantage import ADVANTAGES, RolloutGroups, advantages
from hpt.upge.aggregation import AGGREGATIONS, COEFFICIENTS, StepCounts
from hpt.upge.estimator import ROWS
from hpt.upge.reference import DENOMINATORS
from hpt.upge.row import Row
from hpt.upge.stabilization import MASKS

#: Settings that may name what an installed package offers: its kind (`hpt.support.plugins.spelled`) and the package's
#: names.
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

    ``method`` is one of `hpt.methods.methods.METHODS`, ``module:METHOD``, or an entry point of ``hpt.methods``;
    ``policy`` a base or a local model's name.

    Example:
        >>> build_config("hpt", scale="tiny", settings={"gate.count": 2}).gate.count
        2
    """
    check_scale(scale)
    method = spelled(method, "methods", METHODS)
    names: dict[str, Any] = {"method": method, "scale": scale, "recipe": recipe, "seed": seed,
                             "policy": {"name": policy}}  # fmt: skip
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
    of_recipe = RECIPES.get(recipe, {})  # an unknown one is refused with the other settings
    of_world = BY_WORLD.get(scale, {}) if given.get("data", {}).get("source", "graded") == "graded" else {}
    layers = (SCALES[scale], of_world, of_recipe, of_policy, like, chosen.settings, tuned, names, given)
    config = validate(merge(*layers))
    check_method(config)
    return config


def check_no_names(settings: Mapping[str, Any]) -> None:
    """Refuse, among a user's settings, the names that others follow from: they would move none of these."""
    for name, value in flat(settings).items():
        if name in ("scale", "recipe", "method", "seed", "policy.name"):
            allowed = "a setting; what follows from this one would stay as it is"
            raise ConfigError(name, value, allowed, "give it as the option, argument or parameter that chooses it")


def _texts(settings: Mapping[str, Any]) -> list[str]:
    """Return the texts among nested settings: any of them may name a custom module."""
    inner = [text for value in settings.values() if isinstance(value, Mapping) for text in _texts(value)]
    return inner + [value for value in settings.values() if isinstance(value, str)]


#: What the gates of the package read beside their kind.
_READ_BY_GATE = {"switch": ("count", "inclusive"), "linear": (), "sigmoid": ("count", "inclusive", "slope"),
                 "constant": ("alpha", "beta")}  # fmt: skip
#: Settings that only some methods read, beside the gate's: with stages, with an off-policy RL term, and by components.
_OF_STAGES = {"optimizer.first_stage_learning_rate", "schedule.first_stage_share",
              "schedule.first_stage_updates_per_step"}  # fmt: skip
_OFF_POLICY = {"estimator.offline_advantage", "estimator.offline_shaping", "estimator.shape_every_offline_term"}
_OF_COMPONENTS = {"estimator.rl_coefficient", "estimator.sft_coefficient", "estimator.offline_coefficient",
                  "estimator.online_row", "estimator.offline_row"}  # fmt: skip


def warn_of_idle(config: RunConfig, settings: Mapping[str, Any]) -> None:
    """Warn of settings of the user's that no part of the method reads: they make another run of the same numbers."""
    stages, read = stages_of(config), {"gate.kind"}
    for stage in stages:
        gate = stage.config.gate.kind
        read |= {f"gate.{name}" for name in _READ_BY_GATE.get(gate, GateSettings.model_fields)}
        for component in stage.method.components:
            row = "online_row" if component.data == "rollouts" else "offline_row"
            read |= {f"estimator.{component.coefficient}", f"estimator.{row}"}
    if "estimator.offline_coefficient" in read:
        read |= _OFF_POLICY
    if len(stages) > 1:
        read |= _OF_STAGES
    for name, value in flat(nest(settings)).items():
        of_some = name in _OF_STAGES | _OFF_POLICY | _OF_COMPONENTS or name.startswith("gate.")
        if of_some and name not in read:
            warn(f"{name} = {value} changes nothing: no part of {config.method} reads it")


def check_method(config: RunConfig) -> None:
    """Refuse what the method of ``config`` cannot do, before anything is computed.

    That is an unknown gate or row, a row that needs what no rollout batch holds (PPO's values), a group of too few
    rollouts, or a custom function that fails or returns something else.
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
            check_parts(row)
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
                 f"set it to row for the row's scale ({name}: {aggregation})")  # fmt: skip


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


#: The parts of a row, and the names that each may have.
_PARTS: dict[str, Mapping[str, Any]] = {
    "advantage": ADVANTAGES, "aggregation": AGGREGATIONS, "mask": MASKS, "denominator": DENOMINATORS,
    "trajectory_coefficient": COEFFICIENTS,
}  # fmt: skip


def check_parts(row: Row) -> None:
    """Refuse a row whose parts are unknown, or custom ones that do not return what `hpt.upge` says: each is called."""
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
    for part, table in _PARTS.items():
        name, field = getattr(row, part), f"row {row.name}: {part}"
        function = resolve(table, name, field)
        if ":" in name:
            checked(function, field, name, *calls[part])


def base_config(config: RunConfig) -> RunConfig:
    """Return the configuration of the base of ``config``'s policy, trained or fetched."""
    if config.data.evaluation == "public" or config.data.world not in LOOKUPS:  # no recipe makes its bases
        return public_base_config(config.scale, config.policy.name, config.data.folder)
    return pretraining_config(config.scale, config.policy.name, config.data.world, config.seed)


def initial_run(config: RunConfig) -> RunConfig | None:
    """Return the run whose final weights ``config`` starts from: its base, or that of ``policy.after``; None = none."""
    if config.method == "pretrain" or config.policy.path is not None:
        return None
    if config.policy.after is None:
        return base_config(config)
    return build_config(
        config.policy.after, scale=config.scale, recipe=config.recipe,
        policy=config.policy.name, seed=config.seed,
    )  # fmt: skip


def lacking_start(config: RunConfig, root: Path) -> RunConfig | None:
    """Return the run whose final weights ``config`` starts from, where they are not there; None where all is ready."""
    before = initial_run(config)
    if before is not None and lacking_start(before, root) is None:
        folder = RunFolder.of(resolve_run(before, root), root)
        return before if not folder.finished or damaged_files(folder) else None
    return before


def train_command(config: RunConfig) -> list[str]:
    """Return the words of the command for a run, without the settings that its names do not bring along."""
    words = ["hpt", "train", "--method", config.method, "--scale", config.scale, "--policy", config.policy.name]
    words += ["--seed", str(config.seed)]
    return words + (["--recipe", config.recipe] if config.recipe != "released" else [])


#: What `resolve_run` fills in of the base and of the curves' questions.
FILLED_IN: dict[str, Any] = {
    "policy": {"path", "weights_sha256", "config_sha256", "tokenizer_sha256"}, "validation": {"sha256"},
}  # fmt: skip


def resolve_run(config: RunConfig, root: Path) -> RunConfig:
    """Fill in the hashes of data, initial model and custom modules, and where the model lies; again, nothing changes.

    What it starts from must be trained and undamaged.
    """
    if config.method == "pretrain":
        return config
    problems = training_problems_of(config)
    path = config.policy.path
    if path is None:
        before = initial_run(config)
        assert before is not None
        folder = RunFolder.of(resolve_run(before, root), root)
        if not folder.finished:
            what = f"{before.method} on the {before.policy.name} base" if config.policy.after else "the base"
            remedy = f"run `{shlex.join([*train_command(before), *runs_dir_option(root)])}`"
            raise HptError(f"{what} ({config.policy.name}) is not trained yet: {remedy}")
        check(folder)  # damaged weights would be another model, and all that starts from them be made again
        path = str(folder.model)
    else:
        check_model_folder(path)
    check_context(path, config.rollout.max_model_tokens)
    hashes = model_hashes(path)
    of_the_world = config.data.evaluation == "graded" and config.policy.name in BASES.get(config.data.world, {})
    resolved_before = config.policy.weights_sha256 and not config.policy.config_sha256
    if of_the_world and (config.policy.path is None or resolved_before):
        hashes.pop("config_sha256")  # its recipe says what it is; a user's folder may have its name, and is another
    policy = config.policy.model_copy(update={"path": path, **hashes})
    data = config.data.model_copy(update={"sha256": problems_hash(problems)})
    validation = config.validation
    # a small world's sets are the package's
    if validation.every and (config.data.evaluation == "public" or own_validation(config)):
        curves = [problem for of_set in curve_sets(config).values() for problem in of_set]
        validation = validation.model_copy(update={"sha256": problems_hash(curves)})
    modules = config.own_modules or module_hashes(names_used(config))
    found = {"policy": policy, "data": data, "validation": validation, "own_modules": modules}
    return config.model_copy(update=found)


#: How base training is computed where it is not as on two cores.
PRETRAINING_ENGINE = {"lookups-gpu": {"micro_batch_tokens": 32_768, "threads": 8}}


def pretraining_config(scale: str, base: str, world: str, seed: int = 0) -> RunConfig:
    """Return the configuration of a base's run; its data hash covers the world and the recipe."""
    recipe = base_recipe(world, base)
    content = {"world": LOOKUPS[world].model_dump(), "recipe": recipe.model_dump()}
    return validate({
        "scale": scale, "method": "pretrain", "seed": seed, "policy": {"name": base},
        "engine": PRETRAINING_ENGINE.get(world, {"micro_batch_tokens": 1536}),
        "data": {"source": "graded", "world": world, "sha256": digest(content)},
        "optimizer": {"warmup_steps": recipe.warmup_updates, "gradient_clip": 1.0, "learning_rate": 1.0},
        "schedule": {"steps": recipe.updates, "prompts_per_step": recipe.batch_documents, "updates_per_step": 1},
        "validation": {"every": 0},
        "checkpoint": {"every": 200, "keep": 1},
    })  # fmt: skip


#: How the published model of scale ``smollm`` learns to write answers down, before any method (docs/world.md).
FORMAT_TRAINING: dict[str, Any] = {
    "optimizer": {"learning_rate": 2e-5, "warmup_steps": 5, "gradient_clip": 1.0},
    "schedule": {"steps": 40, "prompts_per_step": 16, "updates_per_step": 1},
    "checkpoint": {"every": 10, "keep": 1},
}


def public_base_config(scale: str, role: str, data_folder: str) -> RunConfig:
    """Return the configuration of the run that fetches and changes a public model; its data hash covers the changes."""
    if (name := public_model(scale, role)) is None:
        there = [own for key, own in MODELS.items() if public_model(scale, own.role) == key]
        names = ", ".join(f"{own.role} ({own.title})" for own in there)
        raise ConfigError("policy.name", role, f"one of {names}", "or name a model folder as policy.path")
    model = MODELS[name]
    content: dict[str, Any] = {"hub": model.hub, "published": dict(model.published), "changes": dict(model.changes)}
    sections: dict[str, Any] = {"data": {"evaluation": "public", "folder": data_folder}}
    if scale == SMOLLM:
        content["format"] = problems_hash(mixed("format"))
        sections = {name: SCALES[scale][name] for name in ("data", "rollout", "engine")} | FORMAT_TRAINING
    return _untrained(scale, {"name": role}, HUB + model.hub, digest(content), sections)


#: What may be set for the evaluation of a model folder: nothing of it is trained.
OF_EVALUATIONS = (
    *(f"rollout.{name}" for name in ("max_response_tokens", "max_model_tokens", "max_parallel_sequences", "cache_gib",
                                     "gpu_memory_share", "tensor_parallel", "verifier_timeout_s")),
    "validation.temperature", "validation.top_p", "policy.dtype", "data.template", "data.evaluation", "data.folder",
    "data.world", "data.max_prompt_tokens",
)  # fmt: skip


def given_base_config(scale: str, folder: Path, settings: Mapping[str, Any]) -> RunConfig:
    """Return the configuration under which the user's model folder (Hugging Face format) is evaluated.

    The ``settings`` (of `OF_EVALUATIONS`: context, limits, template, sets) lie over the scale's; others are refused.
    """
    for name, value in settings.items():
        if name not in OF_EVALUATIONS:
            allowed = "a setting that moves an evaluation: " + ", ".join(OF_EVALUATIONS)
            raise ConfigError(name, value, allowed, "leave it out: nothing is trained here; set@8 draws eight answers")
    check_model_folder(folder)
    name, hashes = folder.resolve().name, model_hashes(folder)
    chosen = build_config("hpt", scale=scale, policy=name, settings=settings)
    policy = {"name": name, "path": str(folder.resolve()), "dtype": chosen.policy.dtype, **hashes}
    kept = {name.removeprefix("data.") for name in OF_EVALUATIONS if name.startswith("data.")}
    sections = {"data": chosen.data.model_dump(include=kept)}
    sections |= {name: getattr(chosen, name).model_dump() for name in ("rollout", "validation", "engine")}
    return _untrained(scale, policy, FOLDER + name, digest(hashes), sections)


def _untrained(scale: str, policy: dict[str, str], source: str, content: str, sections: Mapping[str, Any]) -> RunConfig:
    never = {"schedule": {"steps": 0}, "validation": {"every": 0}}
    named = {"scale": scale, "method": "pretrain", "policy": policy, "data": {"source": source, "sha256": content}}
    return validate(merge(never, sections, named))
