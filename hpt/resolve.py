"""What a run starts from, and its configuration with the hashes of data, weights and modules filled in.

A base is trained here (`hpt.pretrain`), fetched and changed, or the user's. All three are runs of the method
``pretrain``, so that a base is evaluated, listed and found like any other policy.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpt.build import build_config
from hpt.config import RunConfig, digest, merge, validate
from hpt.data.sources import curve_sets, training_problems_of
from hpt.errors import ConfigError, HptError
from hpt.integrity import check, damaged_files
from hpt.methods import names_used
from hpt.model_folder import check_context, check_model_folder, model_hashes
from hpt.plugins import module_hashes
from hpt.public_models import MODELS
from hpt.runs import RunFolder
from hpt.tasks.corpus import BASES, base_recipe
from hpt.tasks.graded import world_named
from hpt.tasks.problems import problems_hash


def base_config(config: RunConfig) -> RunConfig:
    """Return the configuration of the base of ``config``'s policy, trained or fetched; shared by all seeds."""
    if config.data.evaluation == "public":
        return public_base_config(config.scale, config.policy.name, config.data.folder)
    return pretraining_config(config.scale, config.policy.name, config.data.world)


def initial_run(config: RunConfig) -> RunConfig | None:
    """Return the run whose final weights ``config`` starts from: its base, or the run named by ``policy.after``.

    None for a base, which starts from nothing, and for a model folder of the user's.
    """
    if config.method == "pretrain" or config.policy.path is not None:
        return None
    if config.policy.after is None:
        return base_config(config)
    return build_config(
        config.policy.after, scale=config.scale, recipe=config.recipe, policy=config.policy.name, seed=config.seed
    )


def is_ready(config: RunConfig, root: Path) -> bool:
    """Return whether the weights ``config`` starts from are there."""
    before = initial_run(config)
    if before is None:
        return True
    if not is_ready(before, root):
        return False
    folder = RunFolder.of(resolve_run(before, root), root)
    return folder.finished and not damaged_files(folder)


def resolve_run(config: RunConfig, root: Path) -> RunConfig:
    """Fill in the hashes of data, initial model and the user's own modules, and where the model lies.

    A resolved run stays as it is.

    Raises:
        HptError: what it starts from is not trained yet.
        RecordFault: what it starts from is damaged.
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
            remedy = f"run `hpt train --method {before.method} --scale {config.scale} --policy {config.policy.name}`"
            raise HptError(f"{what} ({config.policy.name}) is not trained yet: {remedy}")
        check(folder)  # damaged weights would be another model, and all that starts from them be made again
        path = str(folder.model)
    else:
        check_model_folder(path)
    check_context(path, config.rollout.max_model_tokens)
    hashes = model_hashes(path)
    if config.data.evaluation == "graded" and config.policy.name in BASES.get(config.data.world, {}):
        hashes.pop("config_sha256")  # the recipe says what the world's bases are
    policy = config.policy.model_copy(update={"path": path, **hashes})
    data = config.data.model_copy(update={"sha256": problems_hash(problems)})
    validation = config.validation
    if config.data.evaluation == "public" and validation.every:  # a graded world's sets are the package's
        curves = [problem for own in curve_sets(config).values() for problem in own]
        validation = validation.model_copy(update={"sha256": problems_hash(curves)})
    modules = config.own_modules or module_hashes(names_used(config))
    found = {"policy": policy, "data": data, "validation": validation, "own_modules": modules}
    return config.model_copy(update=found)


#: How base training is computed where it is not as on two cores.
PRETRAINING_ENGINE = {"gpu": {"micro_batch_tokens": 32_768, "threads": 8}}


def pretraining_config(scale: str, base: str, world: str) -> RunConfig:
    """Return the configuration of a base's run; its data hash covers the world and the recipe.

    Example:
        >>> pretraining_config("tiny", "weak", "tiny").method
        'pretrain'
    """
    recipe = base_recipe(world, base)
    return validate(
        {
            "scale": scale,
            "method": "pretrain",
            "seed": 0,
            "policy": {"name": base},
            "engine": PRETRAINING_ENGINE.get(world, {"micro_batch_tokens": 1536}),
            "data": {
                "source": "graded",
                "world": world,
                "sha256": digest({"world": world_named(world).model_dump(), "recipe": recipe.model_dump()}),
            },
            "optimizer": {"warmup_steps": recipe.warmup_updates, "gradient_clip": 1.0, "learning_rate": 1.0},
            "schedule": {"steps": recipe.updates, "prompts_per_step": recipe.batch_documents, "updates_per_step": 1},
            "validation": {"every": 0},
            "checkpoint": {"every": 200, "keep": 1},
        }
    )


#: How the data source of a base's run begins that is not trained here.
HUB, FOLDER = "hub:", "folder:"


def public_base_config(scale: str, role: str, data_folder: str) -> RunConfig:
    """Return the configuration of the run that fetches and changes a public model; its data hash covers the changes.

    Example:
        >>> public_base_config("full", "strong", "data").data.source
        'hub:Qwen/Qwen2.5-Math-7B'
    """
    if role not in MODELS:
        names = ", ".join(f"{model.role} ({model.title})" for model in MODELS.values())
        raise ConfigError("policy.name", role, f"one of {names}", "or name a model folder as policy.path")
    model = MODELS[role]
    data = {"evaluation": "public", "folder": data_folder}
    content = {"hub": model.hub, "published": dict(model.published), "changes": dict(model.changes)}
    return _untrained(scale, {"name": role}, HUB + model.hub, digest(content), {"data": data})


#: What may be set for the evaluation of a model folder: nothing of it is trained.
OF_EVALUATIONS = ("rollout", "validation", "policy.dtype", "data.template", "data.evaluation", "data.folder",
                  "data.world", "data.max_prompt_tokens")  # fmt: skip


def given_base_config(scale: str, folder: Path, settings: Mapping[str, Any]) -> RunConfig:
    """Return the configuration under which a model folder of the user's is evaluated; nothing is trained.

    Args:
        scale: whose sampling settings are used where ``settings`` says nothing.
        folder: in Hugging Face format.
        settings: dotted names to values, of `OF_EVALUATIONS`: context, limits, template, sets.

    Raises:
        ConfigError: not a model folder; a setting that moves no evaluation, or one that is unknown or impossible.
    """
    for name, value in settings.items():
        if not any(name == own or name.startswith(own + ".") for own in OF_EVALUATIONS):
            allowed = "a setting that moves an evaluation: " + ", ".join(OF_EVALUATIONS)
            raise ConfigError(name, value, allowed, "leave it out: nothing is trained here")
    check_model_folder(folder)
    name, hashes = folder.resolve().name, model_hashes(folder)
    chosen = build_config("hpt", scale=scale, policy=name, settings=settings)
    policy = {"name": name, "path": str(folder.resolve()), "dtype": chosen.policy.dtype, **hashes}
    kept = {name.removeprefix("data.") for name in OF_EVALUATIONS if name.startswith("data.")}
    sections = {"data": chosen.data.model_dump(include=kept)}
    sections |= {own: getattr(chosen, own).model_dump() for own in ("rollout", "validation", "engine")}
    return _untrained(scale, policy, FOLDER + name, digest(hashes), sections)


def _untrained(scale: str, policy: dict[str, str], source: str, content: str, sections: Mapping[str, Any]) -> RunConfig:
    own = {
        "scale": scale,
        "method": "pretrain",
        "seed": 0,
        "policy": policy,
        "data": {"source": source, "sha256": content},
        "schedule": {"steps": 0},
        "validation": {"every": 0},
    }
    return validate(merge(sections, own))
