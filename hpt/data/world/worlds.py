"""The worlds by name, of whatever kind: graded arithmetic, look-ups, which will replace it, or reasoning-gym's."""

from collections.abc import Mapping
from typing import Any

from hpt.data.problems import Problem
from hpt.data.world import corpus, graded, gym, lookup, lookup_corpus, sets, tokenizer
from hpt.data.world.corpus import BaseRecipe
from hpt.data.world.graded import GradedWorld
from hpt.data.world.gym import SMOLLM_WORLD, GymWorld
from hpt.data.world.lookup import GPU_LOOKUPS, MINI_LOOKUPS, TINY_LOOKUPS, LookupWorld
from hpt.data.world.lookup_corpus import LOOKUP_BASES, LookupRecipe
from hpt.data.world.sets import EvaluationSet
from hpt.support.errors import ConfigError

World = GradedWorld | LookupWorld | GymWorld
Recipe = BaseRecipe | LookupRecipe

WORLDS: dict[str, World] = {
    world.name: world for world in (*graded.WORLDS.values(), MINI_LOOKUPS, TINY_LOOKUPS, GPU_LOOKUPS, SMOLLM_WORLD)
}
#: Recipes of the bases that this package trains, by world; other worlds have a published model.
BASES: dict[str, Mapping[str, Recipe]] = {**corpus.BASES, **LOOKUP_BASES}


def world_named(name: str) -> World:
    """Return a preset world.

    Raises:
        ConfigError: no such world.

    Example:
        >>> world_named("mini").name
        'mini'
    """
    if name not in WORLDS:
        raise ConfigError("data.world", name, "one of " + ", ".join(WORLDS), "choose one of these")
    return WORLDS[name]


def base_recipe(world: str, base: str) -> Recipe:
    """Return the recipe of a base of a world.

    Raises:
        ConfigError: no such base.
    """
    recipes = BASES.get(world, {})
    if base not in recipes:
        remedy = "choose one, or name a model folder that exists: --policy FOLDER"
        raise ConfigError("policy.name", base, f"a base of world {world}: " + ", ".join(recipes), remedy)
    return recipes[base]


def bases_by_seed(world: str) -> bool:
    """Return whether every seed trains its own bases, or all seeds share one."""
    return isinstance(WORLDS.get(world), LookupWorld)


def training_problems(world: World) -> list[Problem]:
    """Return the training questions, each with its demonstration, levels mixed."""
    if isinstance(world, GymWorld):
        return gym.mixed("training")
    return lookup.training_problems(world) if isinstance(world, LookupWorld) else graded.training_problems(world)


def validation_problems(world: World) -> list[Problem]:
    """Return the problems on which settings are chosen; no table reports them."""
    if isinstance(world, GymWorld):
        return gym.mixed("validation")
    return lookup.validation_problems(world) if isinstance(world, LookupWorld) else graded.validation_problems(world)


def evaluation_sets(world: World) -> dict[str, EvaluationSet]:
    """Return the evaluation sets by name, in the order of the tables."""
    if isinstance(world, GymWorld):
        return gym.evaluation_sets()
    return lookup.evaluation_sets(world) if isinstance(world, LookupWorld) else sets.evaluation_sets(world)


def curve_problems(world: World) -> dict[str, tuple[Problem, ...]]:
    """Return at most ``curve_problems`` problems of every in-distribution set, spread evenly over it."""
    curves = {}
    for name, one in evaluation_sets(world).items():
        if one.distribution == "in":
            stride = max(1, len(one.problems) // world.curve_problems)
            curves[name] = one.problems[::stride][: world.curve_problems]
    return curves


def build_tokenizer(world: World) -> Any:
    """Return a world's tokenizer."""
    if isinstance(world, LookupWorld):
        return lookup_corpus.build_lookup_tokenizer(world)
    assert isinstance(world, GradedWorld)
    return tokenizer.character_tokenizer(world.context_tokens)


def vocabulary_size(world: World) -> int:
    """Return the number of a world's tokens."""
    if isinstance(world, LookupWorld):
        return len(tokenizer.SPECIAL) + len(lookup_corpus.texts(world))
    return len(tokenizer.VOCABULARY)


def model_config(world: World, recipe: Recipe) -> Any:
    """Return the transformers configuration of a base: Qwen2 or Llama shape, untied head, no grouped queries."""
    from transformers import LlamaConfig, Qwen2Config

    assert not isinstance(world, GymWorld)
    shape = {"qwen2": Qwen2Config, "llama": LlamaConfig}[recipe.architecture]
    theta = recipe.rope_theta if isinstance(recipe, LookupRecipe) else 10_000.0
    return shape(
        vocab_size=vocabulary_size(world),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=world.context_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=False,
        pad_token_id=tokenizer.SPECIAL.index(tokenizer.PAD),
        bos_token_id=tokenizer.SPECIAL.index(tokenizer.BEGIN),
        eos_token_id=tokenizer.SPECIAL.index(tokenizer.END),
    )


def learning_rate_factor(recipe: Recipe, update: int) -> float:
    """Return what multiplies the learning rates of a base's training."""
    if isinstance(recipe, LookupRecipe):
        return lookup_corpus.learning_rate_factor(recipe, update)
    return corpus.learning_rate_factor(recipe, update)


def encoded_documents(
    world: World, recipe: Recipe, tokenizer: Any, seed: int, update: int
) -> list[tuple[list[int], list[int], list[float]]]:
    """Return the documents of one update: tokens that are not learnt, tokens that are, and the weight of each."""
    if isinstance(world, LookupWorld) and isinstance(recipe, LookupRecipe):
        drawn = lookup_corpus.documents(world, recipe, seed, update)
        return [lookup_corpus.document_tokens(document, tokenizer) for document in drawn]
    assert isinstance(world, GradedWorld)
    assert isinstance(recipe, BaseRecipe)
    drawn = corpus.documents(world, recipe, seed, update)
    return [([], *corpus.document_tokens(document, tokenizer, recipe.question_weight)) for document in drawn]
