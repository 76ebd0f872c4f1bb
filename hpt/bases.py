"""The run that trains a base of the mini world, as a configuration; `hpt.pretrain` does the training."""

from hpt.config import RunConfig, digest, validate
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
