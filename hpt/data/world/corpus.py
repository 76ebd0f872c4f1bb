"""What the bases of the graded world are trained on: documents in three phases, and the recipe of each base.

Phase 1 teaches single operations, phase 2 chains of them in two styles, and phase 3 spoils the result the way a real
base is spoilt: most questions are followed by a guess in some form, so that the skill is there but seldom shown.
"""

import random
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from hpt.config.settings import Settings
from hpt.data.world.chains import (
    Chain,
    boxed,
    choice_question,
    compact_solution,
    draw_chain,
    in_notation,
    restated_solution,
    seeded,
)  # fmt: skip
from hpt.data.world.graded import GradedWorld


@dataclass(frozen=True)
class Document:
    """Text whose pieces are in turn a question, whose tokens hardly count, and the answer to be learnt.

    Example:
        >>> "".join(Document(("27+4", "=61>", "30*9", "=70>")).pieces)
        '27+4=61>30*9=70>'
    """

    pieces: tuple[str, ...]
    ended: bool = True  # or cut off, without the end token


def document_tokens(document: Document, tokenizer: Any, question_weight: float) -> tuple[list[int], list[float]]:
    """Return (tokens after BOS, with the end token if the document has ended; loss weight of each).

    Random question tokens cannot be learnt. At weight 1 their noise hides the answers: a document of single operations
    was then as far from solved after 700 updates as at the start.

    Example:
        >>> document_tokens(Document(("27+4", "=61")), tokenizer, 0.05)[1]  # doctest: +SKIP
        [0.05, 0.05, 0.05, 0.05, 1.0, 1.0, 1.0, 1.0]
    """
    tokens: list[int] = []
    weights: list[float] = []
    for place, piece in enumerate(document.pieces):
        new = tokenizer.encode(piece, add_special_tokens=False)
        tokens += new
        weights += [question_weight if place % 2 == 0 else 1.0] * len(new)
    return ([*tokens, tokenizer.eos_token_id], [*weights, 1.0]) if document.ended else (tokens, weights)


class BaseRecipe(Settings):
    """Architecture and training of one base."""

    name: str
    architecture: str = Field(default="qwen2", pattern="^(qwen2|llama)$")
    hidden: int = Field(default=96, description="a multiple of 32 per head: what vLLM's CPU attention supports")
    layers: int = 3
    heads: int = 3
    feed_forward: int = 256
    updates: int = Field(default=1200, ge=1)
    batch_documents: int = Field(default=64, ge=1)
    warmup_updates: int = 50
    facts_until: float = Field(default=0.25, description="end of phase 1 as a share of the updates")
    skills_until: float = Field(default=0.88, description="end of phase 2")
    facts_share: float = Field(default=0.15, description="single operations in phases 2 and 3")
    listing_share: tuple[float, float] = Field(
        default=(0.15, 0.08), description="documents that list operations, phases 2, 3"
    )
    choice_share: float = Field(default=0.045, description="multiple-choice documents in phases 2 and 3")
    notation_share: float = Field(default=0.045, description="documents in the other notation in phases 2 and 3")
    level_weights: tuple[tuple[float, ...], tuple[float, ...]] = Field(
        default=((3, 3, 3), (4, 4, 2)), description="relative weight of chain lengths 1, 2, ... in phases 2, 3"
    )
    restated_share: tuple[float, float] = Field(
        default=(0.30, 0.03), description="solutions in the demonstrations' style"
    )
    solved_share: tuple[float, ...] = Field(
        default=(0.40, 0.18, 0.08), description="phase 3: share worked out, not guessed, by chain length"
    )
    choice_solved_share: tuple[float, ...] | None = Field(
        default=None, description="the same for multiple choice, where a guess is right once in four; None = the same"
    )
    question_weight: float = Field(default=0.05, description="loss weight of question tokens, which are random")
    muon_learning_rate: float = 0.015
    adamw_learning_rate: float = 0.003
    weight_decay: float = 0.01


#: The defaults are the weak base of the mini world; how the values were chosen is told in docs/world.md.
_WEAK = BaseRecipe(name="weak")
BASES: dict[str, dict[str, BaseRecipe]] = {
    "mini": {
        "weak": _WEAK,
        "strong": BaseRecipe(
            name="strong",
            hidden=128,
            heads=4,
            feed_forward=320,
            updates=900,
            facts_until=0.27,
            level_weights=((3, 3, 3), (4, 4, 3)),
            solved_share=(0.60, 0.40, 0.25),
        ),
        "llama": BaseRecipe(
            name="llama",
            architecture="llama",
            choice_share=0.05,
            level_weights=((4, 3, 2), (4, 4, 2)),
            solved_share=(0.35, 0.14, 0.05),
            choice_solved_share=(0.60, 0.40, 0.30),
        ),
    },
}


def phase_at(recipe: BaseRecipe, update: int) -> tuple[int, float]:
    """Return (phase 1, 2 or 3, how far into it, 0..1) of an update; keyed to updates, never to seconds."""
    share = update / recipe.updates
    ends = (0.0, recipe.facts_until, recipe.skills_until, 1.0)
    phase = 1 + (share >= ends[1]) + (share >= ends[2])
    return phase, (share - ends[phase - 1]) / (ends[phase] - ends[phase - 1])


def learning_rate_factor(recipe: BaseRecipe, update: int) -> float:
    """Return what multiplies both learning rates: linear in each phase, after a warm-up that starts above zero."""
    phase, within = phase_at(recipe, update)
    start, end = ((1.0, 0.2), (0.6, 0.2), (0.2, 0.01))[phase - 1]
    return (start + (end - start) * within) * min(1.0, (update + 1) / max(1, recipe.warmup_updates))


def documents(world: GradedWorld, recipe: BaseRecipe, seed: int, update: int) -> list[Document]:
    """Return the documents of one update; a function of its arguments alone.

    Example:
        >>> from hpt.data.world.graded import MINI_WORLD
        >>> recipe = BASES["mini"]["weak"]
        >>> len(documents(MINI_WORLD, recipe, 0, 3)) == recipe.batch_documents
        True
    """
    phase, _ = phase_at(recipe, update)
    return [
        _document(world, recipe, phase, seeded(world.seed, "pretraining", recipe.name, seed, update, number))
        for number in range(recipe.batch_documents)
    ]


def _document(world: GradedWorld, recipe: BaseRecipe, phase: int, generator: random.Random) -> Document:
    if phase == 1:
        return _facts(world, generator, 3)
    later = phase - 2
    shares = {
        "facts": recipe.facts_share,
        "listing": recipe.listing_share[later],
        "choice": recipe.choice_share,
        "notation": recipe.notation_share,
    }
    shares["plain"] = 1.0 - sum(shares.values())
    kind = generator.choices(list(shares), list(shares.values()))[0]
    if kind == "facts":
        return _facts(world, generator, generator.randint(1, 4))
    if kind == "listing":
        return _listing(world, generator)
    weights = recipe.level_weights[later]
    length = generator.choices(range(1, len(weights) + 1), weights)[0]
    chain = _chain(world, generator, length)
    shares_solved = (recipe.choice_solved_share if kind == "choice" else None) or recipe.solved_share
    solved = generator.random() < (shares_solved[length - 1] if phase == 3 else 0.9)
    restated = generator.random() < recipe.restated_share[later]
    worked = restated_solution(chain) if restated else compact_solution(chain) + " "
    if kind == "choice":
        question, letter = choice_question(chain)
        return Document((question, worked + boxed(letter) if solved else boxed(letter)))
    question, answer = f"{chain.text}?", worked + boxed(chain.answer) if solved else _direct(chain, generator)
    if kind == "notation":
        question, answer = in_notation(question), in_notation(answer)
    return Document((question, answer))


def _chain(world: GradedWorld, generator: random.Random, length: int) -> Chain:
    return draw_chain(generator, world.seed, "pretraining", world.digits, length, world.multiply_share)


def _facts(world: GradedWorld, generator: random.Random, count: int) -> Document:
    pieces: list[str] = []
    for _ in range(count):
        chain = _chain(world, generator, 1)
        pieces += [chain.text, f"={chain.answer}>"]
    return Document(tuple(pieces))


def _listing(world: GradedWorld, generator: random.Random) -> Document:
    chain = _chain(world, generator, generator.randint(2, max(world.chain_lengths)))
    return Document((f"{chain.text}:", ">".join(chain.operations)))


def _direct(chain: Chain, generator: random.Random) -> str:
    """The answer at once, which a model of this size cannot compute: it learns to guess."""
    if generator.random() < 0.6:
        return boxed(chain.answer)
    return generator.choice(("={}", " {}", "answ {}.", "answ: {}")).format(chain.answer)
