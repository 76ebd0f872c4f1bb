"""The worlds by name: look-ups, or questions of reasoning-gym."""

from hpt.data.problems import EvaluationSet, Problem
from hpt.data.world import gym, lookup
from hpt.data.world.gym import SMOLLM_WORLD, GymWorld
from hpt.data.world.lookup import LOOKUPS, LookupWorld
from hpt.data.world.lookup_corpus import BASES, BaseRecipe
from hpt.support.errors import ConfigError

World = LookupWorld | GymWorld

WORLDS: dict[str, World] = {**LOOKUPS, SMOLLM_WORLD.name: SMOLLM_WORLD}


def world_named(name: str) -> World:
    """Return a preset world."""
    if name not in WORLDS:
        raise ConfigError("data.world", name, "one of " + ", ".join(WORLDS), "choose one of these")
    return WORLDS[name]


def base_recipe(world: str, base: str) -> BaseRecipe:
    """Return the recipe of a base of a world."""
    recipes = BASES.get(world, {})
    if base not in recipes:
        remedy = "choose one, or name a model folder that exists: --policy FOLDER"
        raise ConfigError("policy.name", base, f"a base of world {world}: " + ", ".join(recipes), remedy)
    return recipes[base]


def training_problems(world: World) -> list[Problem]:
    """Return the training questions, each with its demonstration, levels mixed."""
    return gym.mixed("training") if isinstance(world, GymWorld) else lookup.training_problems(world)


def validation_problems(world: World) -> list[Problem]:
    """Return the problems on which settings are chosen; no table reports them."""
    return gym.mixed("validation") if isinstance(world, GymWorld) else lookup.validation_problems(world)


def evaluation_sets(world: World) -> dict[str, EvaluationSet]:
    """Return the evaluation sets by name, in the order of the tables."""
    return gym.evaluation_sets() if isinstance(world, GymWorld) else lookup.evaluation_sets(world)


def curve_problems(world: World) -> dict[str, tuple[Problem, ...]]:
    """Return at most ``curve_problems`` problems of every in-distribution set, spread evenly over it."""
    curves = {}
    for name, one in evaluation_sets(world).items():
        if one.distribution == "in":
            stride = max(1, len(one.problems) // world.curve_problems)
            curves[name] = one.problems[::stride][: world.curve_problems]
    return curves
