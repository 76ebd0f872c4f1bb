"""The run that makes a base, as a configuration: trained here (`hpt.pretrain`), fetched and changed, or the user's own.

All three are runs of the method ``pretrain``, so that a base is evaluated, listed and found like any other policy.
"""

from pathlib import Path

from hpt.config import RunConfig, digest, validate
from hpt.errors import ConfigError
from hpt.public_models import MODELS
from hpt.tasks.corpus import base_recipe
from hpt.tasks.graded import world_named


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
            "engine": {"micro_batch_tokens": 1536},
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
    return _untrained(scale, {"name": role}, HUB + model.hub, digest(content), data)


def given_base_config(scale: str, folder: Path, data: dict[str, str]) -> RunConfig:
    """Return the configuration under which a model folder of the user's is evaluated; nothing is trained.

    Args:
        scale: whose sampling settings are used.
        folder: in Hugging Face format.
        data: settings of the evaluation: template, evaluation, folder.

    Raises:
        ConfigError: not a model folder.
    """
    from hpt.model_folder import check_model_folder, model_hashes

    check_model_folder(folder)
    hashes = model_hashes(folder)
    policy = {"name": folder.resolve().name, "path": str(folder.resolve()), **hashes}
    return _untrained(scale, policy, FOLDER + policy["name"], digest(hashes), data)


def _untrained(scale: str, policy: dict[str, str], source: str, content: str, data: dict[str, str]) -> RunConfig:
    return validate(
        {
            "scale": scale,
            "method": "pretrain",
            "seed": 0,
            "policy": policy,
            "data": {"source": source, "sha256": content, **data},
            "schedule": {"steps": 0},
            "validation": {"every": 0},
        }
    )
