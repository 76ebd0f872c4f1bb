"""Looking at a model folder before anything heavy is imported for it, and its tokenizer."""

import hashlib
import json
import os
import shutil
from collections.abc import Set
from functools import lru_cache
from pathlib import Path
from typing import Any

from hpt.errors import ConfigError
from hpt.files import sha256_files, writing

#: Keys of a config.json that do not change what the model computes.
_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
#: Files that say which tokens a text becomes, how a chat is written down, and where a response ends.
_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "added_tokens.json", "special_tokens_map.json", "*.model",
              "chat_template*", "additional_chat_templates/*", "generation_config.json")  # fmt: skip
#: Keys of theirs that move no token: names, versions, and limits that are settings here.
_NOT_THE_TOKENIZER = {"name_or_path", "tokenizer_file", "transformers_version", "backend", "is_local",
                      "local_files_only", "model_max_length", "padding", "padding_side", "truncation",
                      "truncation_side"}  # fmt: skip


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
    for file in sorted(path.glob("*config.json")):  # of the model, its tokenizer, its processor, its generation
        if _needs_code(file):
            remedy = "use a model whose architecture transformers ships; code from model folders is never run"
            allowed = f"a model that needs no code of its own ({file.name} names some: auto_map)"
            raise ConfigError("policy.path", str(folder), allowed, remedy)


def _needs_code(file: Path) -> bool:
    """Whether a configuration names Python code of its folder; parsed, because JSON can write a name in many ways."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("policy.path", str(file), "readable JSON", f"save the model again: {error}") from error
    return isinstance(content, dict) and "auto_map" in content


def check_context(folder: str | os.PathLike[str], tokens: int) -> None:
    """Refuse a model whose positions do not cover a prompt and a response.

    Raises:
        ConfigError: beyond its positions a model answers nonsense, or not at all.
    """
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    name = "n_positions" if "n_positions" in config else "max_position_embeddings"  # GPT-2's name for them
    positions = config.get(name)
    if positions is not None and positions < tokens:
        remedy = (
            f"--set rollout.max_model_tokens={positions}, with data.max_prompt_tokens and rollout.max_response_tokens "
            "that fit in it; or raise the model's positions and its rotary base"
        )
        allowed = f"at most the model's {name} = {positions}"
        raise ConfigError("rollout.max_model_tokens", tokens, allowed, remedy)


def vocabulary_size(folder: str | os.PathLike[str]) -> int | None:
    """Return how many tokens a model knows, where its configuration says so."""
    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("vocab_size")


def model_hashes(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the settings that name a model by content: ``weights_sha256``, ``config_sha256``, ``tokenizer_sha256``.

    JSON counts without what only says who wrote it: two folders with the same weights and other rotary bases, chat
    templates or end tokens are two models.
    """
    path = Path(folder)
    config = hashlib.sha256(_content(path / "config.json", _NOT_THE_MODEL)).hexdigest()
    files = sorted(own for pattern in _TOKENIZER for own in path.glob(pattern))
    tokenizer = _tokenizer_hash(*((own, own.stat().st_size, own.stat().st_mtime_ns) for own in files))
    return {"weights_sha256": weights_hash(path), "config_sha256": config, "tokenizer_sha256": tokenizer}


@lru_cache(maxsize=64)
def _tokenizer_hash(*states: tuple[Path, int, int]) -> str:
    total = hashlib.sha256()
    for file, _, _ in states:
        # of how to sample only the ends are taken from the model; the rest is said by this package's own settings
        only = {"eos_token_id"} if file.name == "generation_config.json" else None
        content = _content(file, _NOT_THE_TOKENIZER, only)
        total.update(f"{file.name}\0{len(content)}\n".encode() + content)
    return total.hexdigest()


def _content(file: Path, left_out: Set[str], only: Set[str] | None = None) -> bytes:
    """Return what a file says: JSON in one spelling and without keys that do not count, anything else as it is."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # no JSON, or a damaged one, which its reader refuses
        return file.read_bytes()
    if isinstance(held, dict):
        held = {key: held[key] for key in (held.keys() if only is None else held.keys() & only) - left_out}
    return json.dumps(held, sort_keys=True).encode()


def weights_hash(folder: str | os.PathLike[str]) -> str:
    """Return one SHA-256 over a model's weight files; read once per process and state of the files."""
    path = Path(folder)
    files = sorted(path.glob("*.safetensors"))
    state = tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    record = path / "hpt-model.json"
    if record.is_file():  # a public model, hashed when it was prepared: reading 15 GB again takes half a minute
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["sizes"] == {name: size for name, size, _ in state}:
            return known["weights_sha256"]
    return _hash_of(str(path), state)


@lru_cache(maxsize=64)
def _hash_of(folder: str, _state: tuple[tuple[str, int, int], ...]) -> str:
    return sha256_files(Path(folder), "*.safetensors")


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
    with writing(folder):
        engine.save_model(hidden)
        if engine.rank == 0:
            tokenizer.save_pretrained(hidden)
            shutil.rmtree(folder, ignore_errors=True)
            hidden.rename(folder)
    engine.barrier()
