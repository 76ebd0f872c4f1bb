"""The scale `gpu`: the mini world grown for one GPU, everything in about an hour.

Nothing here was searched, and no run has been made with it: sizes were chosen by what `hpt plan --scale gpu` computes,
and learning rates are what the search of the mini world chose (`hpt.scales.TUNED`), divided by five because the models
are five times as wide (Yang et al. 2022: Adam's rate goes with one over the width).
"""

from collections.abc import Mapping
from typing import Any

GPU: dict[str, Any] = {
    "policy": {"dtype": "bfloat16"},
    "data": {"world": "gpu", "max_prompt_tokens": 32},
    "rollout": {
        "max_response_tokens": 176,  # the longest demonstration: 8 operations and 10 detours, 154 tokens
        "max_model_tokens": 208,
        "max_parallel_sequences": 1_024,
        "gpu_memory_share": 0.4,
        "old_logprobs": "trainer",  # sampler and trainer round bfloat16 differently
        "max_logprob_gap": 5.0,  # as at scale full: rounding alone moves single improbable tokens by a nat
    },
    "optimizer": {"learning_rate": 2e-4},
    "schedule": {"steps": 50, "prompts_per_step": 64},
    "validation": {"every": 10, "problems_per_set": 100},
    # stage 1 keeps the 32-bit weights that bfloat16 needs; one GPU shares them with nobody
    "engine": {"zero_stage": 1, "micro_batch_tokens": 32_768, "layout": "auto", "attention": "auto", "threads": 8},
    "checkpoint": {"every": 25},
    "diagnostics": {"gradient_cosine_every": 10},
}

#: The models are five times as wide as the mini world's.
WIDER = 5


def gpu_tuned(weak: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings by method, for every base: the mini world's weak base's choice at a fifth of its rates.

    SRFT was not searched on the weak base: it takes GRPO's rate.

    Example:
        >>> gpu_tuned({"grpo": {"optimizer": {"learning_rate": 1e-3}}})["srft"]
        {'optimizer': {'learning_rate': 0.0002}}
    """
    slower = {
        method: {**settings, "optimizer": {name: rate / WIDER for name, rate in settings["optimizer"].items()}}
        for method, settings in weak.items()
    }
    return {"srft": {"optimizer": slower["grpo"]["optimizer"]}, **slower}
