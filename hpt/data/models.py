"""Model folders: checking and hashing one before anything heavy is imported for it, and fetching published models.

Qwen2.5-Math is published with 4,096 positions; the paper samples 8,192 tokens, so its rotary base and its positions are
raised before training (the release says so in a comment of its script). The published values are checked first, what
transformers reads after, and both are written beside the weights.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from hpt.data.files import hub_access
from hpt.data.packaged import SMOLLM2, Package, unpack
from hpt.support.errors import ConfigError, warn
from hpt.support.files import sha256_file, sha256_files, write_json, writing

#: What was prepared, and from what; beside the weights.
RECORD = "hpt-model.json"
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
    """Refuse a model folder that cannot be used, before anything is loaded."""
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
    index = path / "model.safetensors.index.json"
    named = set(_parsed(index)["weight_map"].values()) if index.is_file() else set()
    if missing := sorted(name for name in named if not (path / name).is_file()):
        remedy = "download the model again; the files that came are kept"
        raise ConfigError("policy.path", str(folder), f"all {len(named)} weight files; {missing[0]} is missing", remedy)
    for file in sorted(path.glob("*config.json")):  # of the model, its tokenizer, its processor, its generation
        content = _parsed(file)  # JSON can write a name in many ways
        if isinstance(content, dict) and "auto_map" in content:
            remedy = "use a model whose architecture transformers ships; code from model folders is never run"
            allowed = f"a model without Python code ({file.name} names some: auto_map)"
            raise ConfigError("policy.path", str(folder), allowed, remedy)


def _parsed(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("policy.path", str(file), "readable JSON", f"save the model again: {error}") from error


def model_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a model folder's config.json says."""
    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))


def check_context(folder: str | os.PathLike[str], tokens: int) -> None:
    """Refuse a model whose positions do not cover a prompt and a response: beyond them it answers nonsense."""
    config = model_config(folder)
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
    return model_config(folder).get("vocab_size")


def model_hashes(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the settings that name a model by content: ``weights_sha256``, ``config_sha256``, ``tokenizer_sha256``.

    JSON counts without what only says who wrote it: two folders with the same weights and other rotary bases, chat
    templates or end tokens are two models.
    """
    path = Path(folder)
    config = hashlib.sha256(_content(path / "config.json", _NOT_THE_MODEL)).hexdigest()
    files = sorted(file for pattern in _TOKENIZER for file in path.glob(pattern))
    return {"weights_sha256": weights_hash(path), "config_sha256": config,
            "tokenizer_sha256": _tokenizer_hash(*map(_state, files))}  # fmt: skip


def _state(file: Path) -> tuple[Path, int, int]:
    """Return what changes when a file does, so that hashes are kept for a process."""
    stat = file.stat()
    return file, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=64)
def _tokenizer_hash(*states: tuple[Path, int, int]) -> str:
    total = hashlib.sha256()
    for file, _, _ in states:
        # of how to sample only the ends are taken from the model; the rest is said by this package's settings
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
    states = tuple(_state(file) for file in sorted(path.glob("*.safetensors")))
    record = path / RECORD
    if record.is_file():  # a public model, hashed when it was prepared: reading 15 GB again takes half a minute
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["sizes"] == {file.name: size for file, size, _ in states}:
            return known["weights_sha256"]
    return _hash_of(path, states)


@lru_cache(maxsize=64)
def _hash_of(folder: Path, _states: tuple[tuple[Path, int, int], ...]) -> str:
    return sha256_files(folder, "*.safetensors")


def weights_record(folder: Path) -> dict[str, Any]:
    """Return what a record says of the weight files of a model folder, for `weights_hash`."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
    return {"weights_sha256": sha256_files(folder, "*.safetensors"), "sizes": sizes}


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """Return the tokenizer of a model folder; its pad token is its end token where it has none."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, StrictDataclassError) as error:  # the last: a value of the wrong type in config.json
        said = " ".join(str(error).split())[:300]
        remedy = f"save the tokenizer into the model's folder: tokenizer.save_pretrained(folder) ({said})"
        allowed = "a folder with a config.json and a tokenizer that transformers reads"
        raise ConfigError("policy.path", str(folder), allowed, remedy) from error
    if tokenizer.eos_token_id is None:
        remedy = "set eos_token in tokenizer_config.json: responses and demonstrations must be able to end"
        raise ConfigError("policy.path", str(folder), "a tokenizer with an end token", remedy)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stop_tokens(folder: str | os.PathLike[str]) -> list[int]:
    """Return every end token a model folder names: each source may lack the one demonstrations are taught to end with.

    Where they differ, it is said.
    """
    from transformers import AutoConfig, GenerationConfig

    tokenizer, config = load_tokenizer(folder), AutoConfig.from_pretrained(folder).get_text_config()
    stated: dict[str, Any] = {"config.json": getattr(config, "eos_token_id", None), "tokenizer": tokenizer.eos_token_id}
    with suppress(OSError):  # a folder may be without
        stated["generation_config.json"] = GenerationConfig.from_pretrained(folder).eos_token_id
    lists = {source: ids if isinstance(ids, list) else [ids] for source, ids in stated.items()}
    named = {source: ids for source, ids in lists.items() if ids not in ([], [None])}  # none contradicts nothing
    said = "; ".join(f"{source} {ids}" for source, ids in named.items())
    if not all(type(token) is int and 0 <= token < config.vocab_size for ids in named.values() for token in ids):
        allowed = f"whole numbers from 0, below the model's vocab_size = {config.vocab_size}"
        remedy = "correct eos_token_id there: model and tokenizer must belong together"
        raise ConfigError(f"end tokens of {folder}", said, allowed, remedy)
    stop = sorted({token for ids in named.values() for token in ids})
    if any(set(ids) != set(stop) for ids in named.values()):
        warn(f"the end tokens of {folder} differ ({said}); a response ends at any of them")
    return stop


def end_texts(tokenizer: Any) -> list[str]:
    """Return the texts of the special tokens at which a response of the tokenizer's model ends.

    Only the tokenizer's own, where it was not loaded from a model folder.
    """
    folder = tokenizer.name_or_path
    stop = stop_tokens(folder) if folder and (Path(folder) / "config.json").is_file() else []
    # a folder may name tokens of ordinary text, which are part of what a demonstration says
    special = {tokenizer.decode([token]) for token in stop if token in tokenizer.added_tokens_decoder}
    return sorted(special | {tokenizer.eos_token})


def save_model_folder(engine: Any, tokenizer: Any, folder: Path) -> None:
    """Write the weights of a `hpt.training.engine.PolicyEngine` and their tokenizer; all ranks call it.

    ``folder`` is there whole or not at all, and replaced when it exists.
    """
    hidden = folder.with_name(f".{folder.name}")
    with writing(folder):
        engine.save_model(hidden)
        if engine.rank == 0:
            tokenizer.save_pretrained(hidden)
            shutil.rmtree(folder, ignore_errors=True)
            hidden.rename(folder)
    engine.barrier()


# --- published models -------------------------------------------------------------------------------------------------

#: Files of a hub repository that are needed; weights in pickles and other formats stay where they are.
PATTERNS = ("*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.jinja")


@dataclass(frozen=True)
class PublicModel:
    """A model of the paper, or the small one of scale ``smollm``."""

    role: str  # the name its base has in arms, tables and settings at its scale
    title: str  # as the paper, or its publisher, prints it
    hub: str  # repository on the Hugging Face hub
    published: Mapping[str, Any] = field(default_factory=dict)  # of its config.json; another model is refused by it
    changes: Mapping[str, Any] = field(default_factory=dict)  # what is written over it before training
    scale: str = "full"  # whose base it is
    package: Package | None = None  # what ships it where there is no hub
    cpu_gib: float = 0.0  # about what memory a run of it takes on a CPU, GiB; 0 = it is not meant for one


_QWEN_MATH = {"model_type": "qwen2", "rope_theta": 10_000, "max_position_embeddings": 4_096}
_LONGER = {"rope_theta": 40_000, "max_position_embeddings": 16_384}

#: What `hpt models prepare` takes -> the model; the paper's by their roles.
MODELS: dict[str, PublicModel] = {
    "weak": PublicModel(
        "weak", "Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-Math-1.5B",
        {**_QWEN_MATH, "hidden_size": 1_536, "num_hidden_layers": 28}, _LONGER,
    ),
    "strong": PublicModel(
        "strong", "Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-7B",
        {**_QWEN_MATH, "hidden_size": 3_584, "num_hidden_layers": 28}, _LONGER,
    ),
    "llama": PublicModel(
        "llama", "LLaMA-3.1-8B", "meta-llama/Llama-3.1-8B",
        {"model_type": "llama", "rope_theta": 500_000, "max_position_embeddings": 131_072, "hidden_size": 4_096,
         "num_hidden_layers": 32},
    ),
    "smollm2-135m": PublicModel(
        "weak", "SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct",
        {"model_type": "llama", "rope_theta": 100_000, "max_position_embeddings": 8_192, "hidden_size": 576,
         "num_hidden_layers": 30, "vocab_size": 49_152, "tie_word_embeddings": True},
        scale="smollm", package=SMOLLM2, cpu_gib=9.0,
    ),
}  # fmt: skip


def public_model(scale: str, role: str) -> str | None:
    """Return the key of the model that is a scale's base of this role, else of the paper's; None = there is none."""
    own = scale if scale in {model.scale for model in MODELS.values()} else "full"
    return next((name for name, model in MODELS.items() if (model.scale, model.role) == (own, role)), None)


def setting_of(config: Mapping[str, Any], name: str) -> Any:
    """Return a setting of a config.json, wherever its version of transformers keeps it."""
    return config[name] if name in config else (config.get("rope_parameters") or {}).get(name)


def changed_config(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json with ``changes`` in every place a version of transformers reads them from."""
    changed, nested = dict(config), config.get("rope_parameters") or {}
    for name, value in changes.items():
        if name in nested:
            changed["rope_parameters"] = {**changed["rope_parameters"], name: float(value)}
        if name in config or name not in nested:
            changed[name] = value
    return changed


def prepare_model(model: PublicModel, folder: Path, source: Path | None = None) -> dict[str, Any]:
    """Bring a model into ``folder``, change its configuration, check what came out, and return its record.

    ``source`` is a local copy of the published model, whose weights are linked where that is possible; None = the hub,
    where a download that was cut off goes on where it stopped, or a registry package that ships it.
    """
    raw = folder.with_name(f".{folder.name}-raw")
    if source is None:
        revision, origin = _from_hub_or_package(model, raw)
    else:
        _from_folder(source, raw)
        revision, origin = "", f"folder:{source.name}"
    check_model_folder(raw)
    published = model_config(raw)
    for name, expected in model.published.items():
        found = setting_of(published, name)
        if found != expected:
            remedy = f"name a copy of {model.hub} as published; the change is made here"
            raise ConfigError(f"{raw}/config.json: {name}", found, f"{expected} ({model.title} as published)", remedy)
    now = changed_config(published, model.changes)
    (raw / "config.json").unlink()  # a link's other end must not be written to
    write_json(raw / "config.json", now)
    _check_read_back(raw, model)
    record = {
        "title": model.title,
        "source": origin,
        "revision": revision,
        "changes": {name: [setting_of(published, name), setting_of(now, name)] for name in model.changes},
        "config_sha256": sha256_file(raw / "config.json"),
        **weights_record(raw),
    }
    write_json(raw / RECORD, record)
    shutil.rmtree(folder, ignore_errors=True)
    raw.rename(folder)
    return record


def _check_read_back(folder: Path, model: PublicModel) -> None:
    """Ask transformers what it reads: a value in a place it does not look at would change nothing, silently."""
    from transformers import AutoConfig

    read = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    for name, expected in model.changes.items():
        if (found := setting_of(read, name)) != expected:
            remedy = "report this: the installed transformers keeps the setting elsewhere"
            raise ConfigError(f"{folder}: {name} as read", found, str(expected), remedy)


def _from_hub_or_package(model: PublicModel, folder: Path) -> tuple[str, str]:
    """Return the revision of what was fetched, and where it came from."""
    local = f"hpt models prepare {public_model(model.scale, model.role)} --from FOLDER"
    try:
        return _from_hub(model, folder, local), f"hub:{model.hub}"
    except ConfigError as error:
        if model.package is None or folder.exists():  # what came of a download is of other weights, and is kept
            raise
        fresh = folder.with_name(f"{folder.name}-unpacked")
        shutil.rmtree(fresh, ignore_errors=True)
        unpack(model.package, fresh, local, error)
        fresh.rename(folder)
        origin = f"package:{model.package.requirement}"
        warn(f"{model.title} comes from {origin}, whose weights were rounded to 4 bits: the hub gave no copy")
        return "", origin


def _from_hub(model: PublicModel, folder: Path, local: str) -> str:
    from huggingface_hub import HfApi, snapshot_download

    with hub_access("model", model.title, model.hub, local):
        revision = HfApi().model_info(model.hub).sha or ""
        snapshot_download(model.hub, revision=revision, local_dir=folder, allow_patterns=list(PATTERNS))
    return revision


def _from_folder(source: Path, folder: Path) -> None:
    check_model_folder(source)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (path for pattern in PATTERNS for path in source.glob(pattern)):
        try:
            os.link(path.resolve(), folder / path.name)
        except OSError:  # another file system
            shutil.copy2(path, folder / path.name)
