"""Small tokenizers of the kinds the paper's models have: byte-level BPE, ChatML or no chat template at all."""

from pathlib import Path
from typing import Any

from tests.public_rows import openr1

#: ChatML with a system message of its own where none is given, which is how Qwen2.5-Math's template behaves.
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(specials: list[str], **named: str) -> Any:
    """A byte-level BPE tokenizer of 300 merges; ``named`` are the special tokens by role."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    rows = [openr1(number) for number in range(20)]
    tokenizer.train_from_iterator([row["target"][0]["content"] for row in rows], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named)


def like_qwen() -> Any:
    """No begin token, end and pad coincide, chat template."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level(specials, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def like_llama() -> Any:
    """Begin and end tokens, no pad token, no chat template: a base model's."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>"]
    return byte_level(specials, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


def saved(tokenizer: Any, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    return folder
