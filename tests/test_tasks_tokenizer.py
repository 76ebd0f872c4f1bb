"""The tokenizer means the same under every name it is loaded by."""

import dataclasses
from pathlib import Path

import pytest

from hpt.data.prompts import encode_training
from hpt.data.world.corpus import documents
from hpt.data.world.graded import MINI_WORLD, training_problems
from hpt.data.world.sets import evaluation_sets
from hpt.data.world.tokenizer import character_tokenizer
from hpt.data.world.worlds import base_recipe, model_config
from hpt.runs.resolve import build_config
from hpt.support.errors import ConfigError


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_auto_tokenizer_reads_every_text_as_written(tmp_path: Path, architecture: str) -> None:
    from transformers import AutoTokenizer

    recipe = base_recipe("mini", "weak").model_copy(update={"architecture": architecture})
    built = character_tokenizer(256)
    built.save_pretrained(tmp_path)
    model_config(MINI_WORLD, recipe).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    texts = [problem.demonstration or "" for problem in training_problems(MINI_WORLD)[:200]]
    texts += [own.problems[0].question for own in evaluation_sets(MINI_WORLD).values()]
    texts += [
        "".join(document.pieces) for update in (5, 400, 1100) for document in documents(MINI_WORLD, recipe, 0, update)
    ]
    for text in texts:
        tokens = loaded.encode(text, add_special_tokens=False)
        assert tokens == built.encode(text, add_special_tokens=False)
        assert loaded.decode(tokens) == text


def test_a_demonstration_that_is_not_what_its_tokens_say_is_refused() -> None:
    problems = training_problems(MINI_WORLD)[:40]
    strange = dataclasses.replace(problems[0], demonstration="1+1=2 ☃")
    with pytest.raises(ConfigError, match="demonstration of"):
        encode_training(character_tokenizer(256), [strange, *problems[1:]], build_config("sft"), True)
