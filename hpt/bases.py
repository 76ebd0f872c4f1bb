"""The run that makes a base, as a configuration: trained here (`hpt.pretrain`), fetched and changed, or the user's own.

All three are runs of the method ``pretrain``, so that a base is evaluated, listed and found like any other policy.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpt.config import RunConfig, digest, merge, validate
from hpt.errors import ConfigError
from hpt.public_models import MODELS
from hpt.tasks.corpus import base_recipe
from hpt.tasks.graded import world_named

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

    Raises:
        ConfigError: no such model.

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
    from hpt.model_folder import check_model_folder, model_hashes
    from hpt.scales import build_config

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
