"""Looking at a model folder before anything heavy is imported for it, and its tokenizer."""

import os
import shutil
from pathlib import Path
from typing import Any

from hpt.errors import ConfigError


def check_model_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a model folder that cannot be used, before anything is loaded.

    Raises:
        ConfigError: what is missing, and what to do.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        remedy = "name a folder saved with save_pretrained, or leave policy.path out to use the mini world's base"
        raise ConfigError("policy.path", str(folder), "a model folder in Hugging Face format (config.json)", remedy)
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        remedy = "save the tokenizer into the same folder: tokenizer.save_pretrained(folder)"
        raise ConfigError("policy.path", str(folder), "a model folder that holds its tokenizer", remedy)
    if not list(path.glob("*.safetensors")):
        remedy = "save the weights with save_pretrained(folder, safe_serialization=True)"
        raise ConfigError("policy.path", str(folder), "weights in safetensors files (pickles are not read)", remedy)
    if '"auto_map"' in (path / "config.json").read_text():
        remedy = "use a model whose architecture transformers ships; code from model folders is never run"
        raise ConfigError("policy.path", str(folder), "a model that needs no code of its own", remedy)


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """Return the tokenizer of a model folder; its pad token is its end token where it has none.

    Raises:
        ConfigError: the folder holds no tokenizer that can be read, or one without an end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        remedy = "save the tokenizer into the model's folder: tokenizer.save_pretrained(folder)"
        raise ConfigError("policy.path", str(folder), "a folder with a tokenizer", remedy) from error
    if tokenizer.eos_token_id is None:
        remedy = "set eos_token in tokenizer_config.json: responses and demonstrations must be able to end"
        raise ConfigError("policy.path", str(folder), "a tokenizer with an end token", remedy)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_model_folder(engine: Any, tokenizer: Any, folder: Path) -> None:
    """Write the policy's weights and its tokenizer; ``folder`` is there whole or not at all. All ranks call it.

    Args:
        engine: a `hpt.engine.PolicyEngine`.
        tokenizer: of the policy; without it the folder could not be used by itself.
        folder: replaced when it exists.
    """
    hidden = folder.with_name(f".{folder.name}")
    engine.save_model(hidden)
    if engine.rank == 0:
        tokenizer.save_pretrained(hidden)
        shutil.rmtree(folder, ignore_errors=True)
        hidden.rename(folder)
    engine.barrier()
