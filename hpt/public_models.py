"""The paper's models: where they come from, what must be changed in their configuration, and the record of the change.

Qwen2.5-Math is published with 4,096 positions; the paper samples 8,192 tokens, so its rotary base and its positions are
raised before training (the release says so in a comment of its script). That is a recorded, checked step: the published
values are asserted first, the changed ones after, and both are written beside the weights.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpt.errors import ConfigError
from hpt.files import sha256_file, sha256_files, write_json
from hpt.hub import hub_access
from hpt.model_folder import check_model_folder

#: What was prepared, and from what; beside the weights.
RECORD = "hpt-model.json"
#: Files of a hub repository that are needed; weights in pickles and other formats stay where they are.
PATTERNS = ("*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.jinja")


@dataclass(frozen=True)
class PublicModel:
    """A model of the paper.

    Attributes:
        role: the name its base has in arms, tables and settings at every scale.
        title: as the paper prints it.
        hub: repository on the Hugging Face hub.
        published: settings of its configuration as published; another model is refused by them.
        changes: what is written over them before training.
        gated: whether the hub wants an accepted licence and a token.
    """

    role: str
    title: str
    hub: str
    published: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    gated: bool = False


_QWEN_MATH = {"model_type": "qwen2", "rope_theta": 10_000, "max_position_embeddings": 4_096}
_LONGER = {"rope_theta": 40_000, "max_position_embeddings": 16_384}

MODELS: dict[str, PublicModel] = {
    model.role: model
    for model in (
        PublicModel(
            "weak", "Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-Math-1.5B",
            {**_QWEN_MATH, "hidden_size": 1_536, "num_hidden_layers": 28}, _LONGER,
        ),
        PublicModel(
            "strong", "Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-7B",
            {**_QWEN_MATH, "hidden_size": 3_584, "num_hidden_layers": 28}, _LONGER,
        ),
        PublicModel(
            "llama", "LLaMA-3.1-8B", "meta-llama/Llama-3.1-8B",
            {"model_type": "llama", "rope_theta": 500_000, "max_position_embeddings": 131_072, "hidden_size": 4_096,
             "num_hidden_layers": 32},
            gated=True,
        ),
    )
}  # fmt: skip


def setting_of(config: Mapping[str, Any], name: str) -> Any:
    """Return a setting of a model's config.json, wherever its version of transformers keeps it.

    Example:
        >>> setting_of({"rope_parameters": {"rope_theta": 1e4}}, "rope_theta")
        10000.0
    """
    nested = config.get("rope_parameters")
    if name not in config and isinstance(nested, Mapping):
        return nested.get(name)
    return config.get(name)


def changed_config(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json with ``changes`` in every place a version of transformers reads them from."""
    changed = dict(config)
    nested = config.get("rope_parameters")
    for name, value in changes.items():
        inside = isinstance(nested, Mapping) and name in nested
        if inside:
            changed["rope_parameters"] = {**changed["rope_parameters"], name: float(value)}
        if name in config or not inside:
            changed[name] = value
    return changed


def prepare_model(model: PublicModel, folder: Path, source: Path | None = None) -> dict[str, Any]:
    """Bring a model into ``folder``, change its configuration, check what came out, and record it.

    A download that was cut off goes on where it stopped.

    Args:
        model: which.
        folder: where it is to lie; weights of a local source are linked, not copied, where that is possible.
        source: a local copy of the published model; None = the hub.

    Returns:
        The record: source, revision, changes as [published, now], hashes.

    Raises:
        ConfigError: no access, an incomplete folder, or another model than was asked for.
    """
    raw = folder.with_name(f".{folder.name}-raw")
    if source is None:
        revision, origin = _from_hub(model, raw), f"hub:{model.hub}"
    else:
        revision, origin = _from_folder(source, raw), f"folder:{source.name}"
    check_model_folder(raw)
    check_weights_complete(raw)
    published = json.loads((raw / "config.json").read_text(encoding="utf-8"))
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
        "weights_sha256": sha256_files(raw, "*.safetensors"),
        "sizes": {path.name: path.stat().st_size for path in sorted(raw.glob("*.safetensors"))},
    }
    write_json(raw / RECORD, record)
    shutil.rmtree(folder, ignore_errors=True)
    raw.rename(folder)
    return record


def _from_hub(model: PublicModel, folder: Path) -> str:
    from huggingface_hub import HfApi, snapshot_download

    local = f"hpt models prepare {model.role} --from FOLDER"
    with hub_access("model", model.title, model.hub, local):
        revision = HfApi().model_info(model.hub).sha or ""
        snapshot_download(model.hub, revision=revision, local_dir=folder, allow_patterns=list(PATTERNS))
    return revision


def _from_folder(source: Path, folder: Path) -> str:
    check_model_folder(source)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for pattern in PATTERNS:
        for path in source.glob(pattern):
            try:
                os.link(path.resolve(), folder / path.name)
            except OSError:  # another file system
                shutil.copy2(path, folder / path.name)
    return ""


def check_weights_complete(folder: Path) -> None:
    """Refuse a folder that lacks weight files its index names: a download that was cut off.

    Raises:
        ConfigError: names the first missing file.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [name for name in named if not (folder / name).is_file()]
    if missing:
        remedy = "download the model again; the files that came are kept"
        raise ConfigError("policy.path", str(folder), f"all {len(named)} weight files; {missing[0]} is missing", remedy)


def _check_read_back(folder: Path, model: PublicModel) -> None:
    """Ask transformers what it reads: a value in a place it does not look at would change nothing, silently."""
    from transformers import AutoConfig

    read = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    for name, expected in model.changes.items():
        found = setting_of(read, name)
        if found != expected:
            remedy = "report this: the installed transformers keeps the setting elsewhere"
            raise ConfigError(f"{folder}: {name} as read", found, str(expected), remedy)
