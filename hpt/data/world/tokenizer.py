"""Tokenizers made here: one token per character, or per number of a world, and one for the opening of a box."""

from typing import Any

PAD, BEGIN, END, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
#: Enough for sums: what tests, benchmarks and `notebooks/own_loop.ipynb` ask a new model. Golden numbers hang on it.
CHARACTERS = "0123456789+-*=>?# .:ABCDpmtansw"
OPEN_BOX, CLOSE_BOX = r"\boxed{", "}"
SPECIAL = (PAD, BEGIN, END, UNKNOWN)
VOCABULARY = (*SPECIAL, *CHARACTERS, OPEN_BOX, CLOSE_BOX)


def character_tokenizer(context_tokens: int = 128) -> Any:
    """Return a tokenizer of one token per character of `CHARACTERS`, and one for the opening of a box."""
    return tokenizer_of((*CHARACTERS, OPEN_BOX, CLOSE_BOX), r"\\boxed\{|[\s\S]", context_tokens)


def tokenizer_of(texts: tuple[str, ...], pattern: str, context_tokens: int) -> Any:
    """Return a tokenizer of one token per text, which splits what it reads by the regular expression ``pattern``."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *texts))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    # AutoTokenizer gives a Qwen2 or Llama folder that architecture's way to split text, whatever the folder says:
    # "\\boxed{" would be lost without a word. Added tokens are found first, under any way to split.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in texts])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN,
        model_max_length=context_tokens, clean_up_tokenization_spaces=False,
    )  # fmt: skip
