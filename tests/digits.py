"""The smallest world on which HPT does everything it can: the answer to ``7?`` is 7, and a model learns it in seconds.

A fresh model solves nothing and learns from demonstrations; after a few steps some questions are solved by chance and
learn from rollouts. So a run of a dozen steps passes both branches of the gate with real sampling and grading, and
depends on nothing but the package's arithmetic.
"""

from pathlib import Path
from typing import Any

from hpt.config.run_config import RunConfig
from hpt.data.problems import Problem, save_problems
from hpt.data.world.tokenizer import VOCABULARY, character_tokenizer
from hpt.runs.resolve import build_config


def write_digits(folder: Path, heads: int = 1, tied: bool = False) -> Path:
    """Write ``model/`` (a new Qwen2 of 20,000 weights per head) and ``problems.jsonl`` below ``folder``."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=len(VOCABULARY), hidden_size=32 * heads, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=128, tie_word_embeddings=tied,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(shape).float().save_pretrained(folder / "model")
    character_tokenizer().save_pretrained(folder / "model")
    save_problems(
        folder / "problems.jsonl",
        [Problem(f"d{i}", f"{i}?", str(i), f"\\boxed{{{i}}}", 1, "digits") for i in range(10)],
    )
    return folder


def digits_config(method: str, folder: Path, **settings: Any) -> RunConfig:
    """Return a run of ``method`` on the digits below ``folder``; double underscores stand for dots."""
    chosen = {
        "policy.path": str(folder / "model"),
        "data.source": str(folder / "problems.jsonl"),
        "rollout.max_response_tokens": 16,
        "rollout.rollouts_per_prompt": 4,
        "schedule.prompts_per_step": 8,
        "schedule.updates_per_step": 4,
        "optimizer.learning_rate": 0.01,
        "optimizer.warmup_steps": 1,
        "validation.every": 5,
        "checkpoint.every": 2,
    }
    chosen |= {name.replace("__", "."): value for name, value in settings.items()}
    return build_config(method, scale="tiny", policy="digits", settings=chosen)
