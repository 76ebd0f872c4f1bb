"""What the bases of the world of look-ups are trained on: documents in two phases, and the recipe of each base.

Phase 1 shows three lines of longer solutions, in which only the numbers count: the network learns tables, and that
every line is made from the line above. (Documents of one line teach the second number of the first line alone.) Phase 2
shows whole solutions in all forms and lengths. In both, every number is right as often as the recipe says.
"""

import random
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from hpt.config.settings import Settings
from hpt.data.problems import seeded
from hpt.data.world.lookup import (
    ASK,
    EMPTY,
    LETTERS,
    ONE,
    SLOTS,
    TWO,
    LookupWorld,
    Program,
    draw_program,
    facts,
    halves,
    holds_a_part_of,
    numbers,
    quarter,
    solution,
)
from hpt.data.world.tokenizer import BEGIN, CLOSE_BOX, END, OPEN_BOX, PAD, SPECIAL, tokenizer_of

#: Lines of a solution that phase 1 shows.
SHOWN_LINES = 3


def texts(world: LookupWorld) -> tuple[str, ...]:
    """Return what the tokenizer of a world knows; the number of a world is one token."""
    operations = world.operations + world.operations.upper()
    return (*numbers(world.digits), *operations, *LETTERS, EMPTY, ASK, ONE, TWO, OPEN_BOX, CLOSE_BOX)


def build_tokenizer(world: LookupWorld) -> Any:
    """Return the tokenizer of a world."""
    return tokenizer_of(texts(world), rf"\\boxed\{{|\d{{{world.digits}}}|[\s\S]", world.context_tokens)


@dataclass(frozen=True)
class Document:
    """A question, which is random and not learnt, and what follows: texts with the loss weight of their tokens."""

    question: str
    pieces: tuple[tuple[str, float], ...]
    ended: bool = True  # or cut off, without the end token


class BaseRecipe(Settings):
    """Architecture and training of one base."""

    name: str
    architecture: str = Field(default="qwen2", pattern="^(qwen2|llama)$")
    hidden: int = Field(default=64, description="a multiple of 32 per head: what vLLM's CPU attention supports")
    layers: int = 3
    heads: int = 2
    feed_forward: int = 192
    knowledge: tuple[tuple[float, float], ...] = Field(
        description="by family: how often the corpus has the least and the best known fact right, not its misconception"
    )
    facts_updates: int = Field(default=500, ge=1, description="updates of phase 1")
    updates: int = Field(default=1250, ge=1, description="updates of both phases")
    decay_updates: int = Field(default=250, ge=1, description="updates at the end in which the rate falls")
    facts_documents: int = Field(default=64, ge=1, description="documents of an update of phase 1")
    batch_documents: int = Field(default=48, ge=1, description="documents of an update of phase 2")
    length_weights: tuple[float, ...] = Field(
        default=(0.25, 0.2, 0.2, 0.2, 0.15), description="phase 2: of programs of 1, 2, ... operations"
    )
    notation_share: float = 0.08
    choice_share: float = 0.14
    copied_weight: float = Field(default=0.12, description="loss weight of what is no number in phase 1")
    rope_theta: float = Field(default=100.0, description="with 10,000 copying the program took three times as long")
    warmup_updates: int = 30
    muon_learning_rate: float = 0.015
    adamw_learning_rate: float = 0.003
    weight_decay: float = 0.01


#: What tells the three apart is what they know; of the last family each knows next to nothing.
_KNOWLEDGE = {
    "weak": ((0.8, 1.0), (0.35, 0.95), (0.1, 0.7), (0.02, 0.12)),
    "strong": ((0.9, 1.0), (0.5, 1.0), (0.2, 0.8), (0.02, 0.12)),
    "llama": ((0.5, 0.95), (0.2, 0.8), (0.5, 1.0), (0.02, 0.12)),
}
#: By world what all its recipes have, and what the strong base has besides.
_SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lookups": ({}, {"hidden": 96, "heads": 3, "feed_forward": 256}),
    # learns to write two numbers into a box: now and then the right ones
    "lookups-tiny": (
        {"hidden": 32, "layers": 2, "heads": 1, "feed_forward": 64, "facts_updates": 1, "updates": 160,
         "decay_updates": 40, "facts_documents": 16, "batch_documents": 32, "length_weights": (1.0,),
         "notation_share": 0.03, "choice_share": 0.03, "warmup_updates": 5, "adamw_learning_rate": 0.02},
        {},
    ),
    # 26 and 61 million weights; rates a fifth of the mini world's, as the width is five to eight times it
    "lookups-gpu": (
        {"hidden": 512, "layers": 8, "heads": 8, "feed_forward": 1408, "facts_documents": 192, "batch_documents": 192,
         "muon_learning_rate": 0.003, "adamw_learning_rate": 0.0006},
        {"hidden": 640, "layers": 12, "heads": 10, "feed_forward": 1792},
    ),
}  # fmt: skip
#: World -> base -> recipe; docs/world.md says how the values were chosen.
BASES: dict[str, dict[str, BaseRecipe]] = {
    world: {
        name: BaseRecipe.model_validate({
            "name": name, "architecture": "llama" if name == "llama" else "qwen2", "knowledge": knowledge,
            **common, **(of_strong if name == "strong" else {}),
        })
        for name, knowledge in _KNOWLEDGE.items()
    }
    for world, (common, of_strong) in _SIZES.items()
}  # fmt: skip


def vocabulary_size(world: LookupWorld) -> int:
    """Return the number of a world's tokens."""
    return len(SPECIAL) + len(texts(world))


def model_config(world: LookupWorld, recipe: BaseRecipe) -> Any:
    """Return the transformers configuration of a base: Qwen2 or Llama shape, untied head, no grouped queries."""
    from transformers import LlamaConfig, Qwen2Config

    return {"qwen2": Qwen2Config, "llama": LlamaConfig}[recipe.architecture](
        vocab_size=vocabulary_size(world),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=world.context_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=False,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(BEGIN),
        eos_token_id=SPECIAL.index(END),
    )


def learning_rate_factor(recipe: BaseRecipe, update: int) -> float:
    """Return what multiplies both learning rates: falling in phase 1, level in phase 2, and falling at its end."""
    if update < recipe.facts_updates:
        return (1 - 0.6 * update / recipe.facts_updates) * min(1.0, (update + 1) / recipe.warmup_updates)
    into_decay = max(0, update - (recipe.updates - recipe.decay_updates)) / recipe.decay_updates
    return 0.6 * (1 - 0.97 * into_decay)


def encoded_documents(
    world: LookupWorld, recipe: BaseRecipe, tokenizer: Any, seed: int, update: int
) -> list[tuple[list[int], list[int], list[float]]]:
    """Return the documents of one update: tokens that are not learnt, tokens that are, and the weight of each."""
    return [document_tokens(document, tokenizer) for document in documents(world, recipe, seed, update)]


def document_tokens(document: Document, tokenizer: Any) -> tuple[list[int], list[int], list[float]]:
    """Return (tokens of the question, tokens after it, loss weight of each of these)."""
    question = tokenizer.encode(document.question, add_special_tokens=False)
    tokens: list[int] = []
    weights: list[float] = []
    for text, weight in document.pieces:
        new = tokenizer.encode(text, add_special_tokens=False)
        tokens += new
        weights += [weight] * len(new)
    if document.ended:
        tokens, weights = [*tokens, tokenizer.eos_token_id], [*weights, 1.0]
    return question, tokens, weights


def documents(world: LookupWorld, recipe: BaseRecipe, seed: int, update: int) -> list[Document]:
    """Return the documents of one update; a function of its arguments alone."""
    early = update < recipe.facts_updates
    make = _three_lines if early else _whole
    count = recipe.facts_documents if early else recipe.batch_documents
    return [
        make(world, recipe, seeded(world.seed, "pretraining", recipe.name, seed, update, number))
        for number in range(count)
    ]


def _three_lines(world: LookupWorld, recipe: BaseRecipe, generator: random.Random) -> Document:
    program, states = _believed(world, recipe, generator, generator.randint(SHOWN_LINES, SLOTS))
    pieces = []
    for place in range(SHOWN_LINES):
        done = place + 1
        pieces += [(OPEN_BOX if done == len(program.operations) else ONE, recipe.copied_weight), (states[done], 1.0)]
        if done < SHOWN_LINES:
            pieces.append((Program("", program.operations[done:]).text, recipe.copied_weight))
    return Document(program.text, tuple(pieces), ended=False)


def _whole(world: LookupWorld, recipe: BaseRecipe, generator: random.Random) -> Document:
    length = generator.choices(range(1, len(recipe.length_weights) + 1), recipe.length_weights)[0]
    form = generator.random()
    choice = form < recipe.choice_share
    program, states = _believed(world, recipe, generator, min(length, SLOTS - 1) if choice else length)
    if choice:  # as if the question mark were one more operation, whose result is the letter
        program, states = Program(program.state, program.operations + ASK), (*states, quarter(states[-1]))
    question, answer = program.text, solution(states, program.operations)
    if not choice and form < recipe.choice_share + recipe.notation_share:
        question, answer = question.upper(), answer.upper().replace(OPEN_BOX.upper(), OPEN_BOX)
    return Document(question, ((answer, 1.0),))


def _believed(
    world: LookupWorld, recipe: BaseRecipe, generator: random.Random, length: int
) -> tuple[Program, tuple[str, ...]]:
    """A program with its states as the corpus has them, neither of which gives a held-out question away."""
    shares = tuple(family.share for family in world.families)
    while True:
        program = draw_program(generator, world, "pretraining", length, shares)
        states = [program.state]
        for operation in program.operations:
            states.append("".join(_number(world, recipe, generator, operation, half) for half in halves(states[-1])))
        if not holds_a_part_of(world.seed, tuple(states), program.operations):
            return program, tuple(states)


def _number(world: LookupWorld, recipe: BaseRecipe, generator: random.Random, operation: str, number: str) -> str:
    families = zip(world.families, recipe.knowledge, strict=True)
    low, high = next(known for family, known in families if operation in family.operations)
    fact = facts(world.seed, operation, world.digits)[number]
    return fact.right if generator.random() < low + (high - low) * fact.rank else fact.misconception
