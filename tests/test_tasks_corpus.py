"""Pre-training documents and the tokenizer of the graded world."""

import pytest

from hpt.data.world import corpus
from hpt.data.world.corpus import BASES, Document, document_tokens, documents
from hpt.data.world.graded import MINI_WORLD, WORLDS, training_problems
from hpt.data.world.sets import evaluation_sets
from hpt.data.world.tokenizer import character_tokenizer
from hpt.data.world.worlds import base_recipe, model_config

ALL_BASES = [(world, base) for world, bases in BASES.items() for base in bases]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """As any user gets it: saved, then loaded by the generic loader."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    character_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_tokenizer_has_one_id_per_character_and_one_for_the_box(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer.encode(r"12#3>\boxed{045} .", add_special_tokens=False)) == 5 + 1 + 4 + 2


def test_tokenizer_reads_every_text_of_the_world_back(tokenizer):
    texts = [problem.demonstration for problem in training_problems(MINI_WORLD)]
    texts += [problem.question for own in evaluation_sets(MINI_WORLD).values() for problem in own.problems]
    recipe = base_recipe("mini", "weak")
    for update in range(0, recipe.updates, 100):
        texts += ["".join(document.pieces) for document in documents(MINI_WORLD, recipe, 0, update)]
    encoded = tokenizer(texts, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in {token for tokens in encoded for token in tokens}
    assert tokenizer.batch_decode(encoded) == texts


def test_only_random_question_tokens_have_a_small_weight(tokenizer):
    tokens, weights = document_tokens(Document(("27+4", "=61>", "30*9", "=70>")), tokenizer, 0.05)
    assert tokenizer.decode(tokens) == "27+4=61>30*9=70><eos>"
    assert weights == [0.05] * 4 + [1.0] * 4 + [0.05] * 4 + [1.0] * 4 + [1.0]


@pytest.mark.parametrize(("world", "base"), ALL_BASES)
def test_schedule_begins_above_zero_and_restarts_in_each_phase(world, base):
    recipe = base_recipe(world, base)
    factors = [corpus.learning_rate_factor(recipe, update) for update in range(recipe.updates)]
    phases = [corpus.phase_at(recipe, update)[0] for update in range(recipe.updates)]
    second, third = phases.index(2), phases.index(3)
    assert factors[0] == pytest.approx(1 / recipe.warmup_updates)
    one_update = 1 / recipe.updates  # a phase may begin between two updates
    assert factors[second] == pytest.approx(0.6, abs=2 * one_update)
    assert factors[third] == pytest.approx(0.2, abs=2 * one_update)
    assert 0 < factors[-1] < 0.06
    assert sorted(phases) == phases


@pytest.mark.parametrize("base", BASES["mini"])
def test_each_out_of_distribution_form_is_two_to_five_percent_of_pretraining(base):
    recipe = base_recipe("mini", base)
    texts = [
        document.pieces[0]
        for update in range(0, recipe.updates, 10)
        for document in documents(MINI_WORLD, recipe, 0, update)
    ]
    for characters in ("ABCD", "pmt"):
        share = sum(bool(set(text) & set(characters)) for text in texts) / len(texts)
        assert 0.02 <= share <= 0.05


def test_documents_differ_between_updates_seeds_and_bases_but_not_between_calls():
    recipe = base_recipe("mini", "weak")
    first = documents(MINI_WORLD, recipe, 0, 700)
    others = [
        documents(MINI_WORLD, recipe, 0, 701),
        documents(MINI_WORLD, recipe, 1, 700),
        documents(MINI_WORLD, recipe.model_copy(update={"name": "other"}), 0, 700),
    ]
    assert documents(MINI_WORLD, recipe, 0, 700) == first
    assert len(first) == recipe.batch_documents
    assert all(other != first for other in others)


@pytest.mark.parametrize(("world", "base"), ALL_BASES)
def test_models_have_heads_the_sampler_supports(world, base):
    config = model_config(WORLDS[world], base_recipe(world, base))
    assert config.hidden_size % config.num_attention_heads == 0
    assert (config.hidden_size // config.num_attention_heads) % 32 == 0
    assert not config.tie_word_embeddings
    assert config.model_type == base_recipe(world, base).architecture
