"""The scale `full`: the paper's own models, data and settings, and who says each of them.

Sources: the released scripts (TsinghuaC3I/Unify-Post-Training, commit ae332f5) for HPT, LUFFY and SRFT; LUFFY's scripts
(ElliottYan/LUFFY, commit 01f4ae0) for GRPO and SFT, for which nothing is released; the paper for what no script says.
The paper states a learning rate, eight rollouts, temperatures and the response limit, and no batch size, steps,
optimiser settings, clip, entropy bonus or normalisation.
"""

from typing import Any

FULL: dict[str, Any] = {
    "policy": {"dtype": "bfloat16"},
    "data": {
        "source": "openr1-math-46k",
        "evaluation": "public",
        "template": "qwen",
        "max_prompt_tokens": 1_024,
        # longer prompts are filtered out and longer demonstrations cut, their end token with them, as released
        "overlong_prompts": "drop",
        "overlong_demonstrations": "cut",
    },
    "rollout": {
        "rollouts_per_prompt": 8,
        "temperature": 1.0,
        "max_response_tokens": 8_192,
        # all positions of Qwen2.5-Math: training prompts have 1,024 tokens at most, but one question of GPQA has 5,623
        # characters, and a policy is evaluated with the same engine
        "max_model_tokens": 16_384,
        "max_parallel_sequences": 256,
        "gpu_memory_share": 0.6,
        "tensor_parallel": 2,
        "sleep_while_training": True,
        "old_logprobs": "trainer",  # sampler and trainer round bfloat16 differently, and the release recomputes them
        # bfloat16 rounding alone moves single improbable tokens by a nat; in float32 0.05 tells stale weights
        "max_logprob_gap": 5.0,
        "verifier_timeout_s": 10.0,
    },
    "estimator": {"normalization": "released", "entropy_scope": "all"},
    "optimizer": {
        "learning_rate": 5e-6,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "weight_decay": 0.01,
        "warmup_steps": 0,  # the release means none; its first step ran at rate 0 by mistake
        "gradient_clip": 1.0,
        "skip_above_norm": 80.0,
    },
    # 500 true steps; the release's mini-batches of 512 rows make two updates of a full batch of rollouts
    "schedule": {"steps": 500, "prompts_per_step": 128, "updates_per_step": 2},
    "validation": {"every": 10, "problems_per_set": 500, "samples_per_problem": 8, "temperature": 0.6, "top_p": 0.95},
    "engine": {
        "zero_stage": 3,
        "micro_batch_tokens": 32_768,
        "layout": "auto",
        "attention": "auto",
        "gradient_checkpointing": True,
        "threads": 8,
    },
    "checkpoint": {"every": 50, "keep": 2},
}

#: Three epochs of some 46,000 demonstrations at 128 a step, in updates of 64.
_SFT_STEPS = 1_074
_SFT = {
    "optimizer": {"learning_rate": 5e-5, "warmup_steps": 107, "skip_above_norm": 0.0},
    "schedule": {"steps": _SFT_STEPS},
}
_BASELINE = {"optimizer": {"learning_rate": 1e-6, "skip_above_norm": 0.0}}
_SFT_THEN_GRPO = {
    "optimizer": {"learning_rate": 1e-6, "first_stage_learning_rate": 5e-5, "skip_above_norm": 0.0},
    "schedule": {"steps": _SFT_STEPS + 500, "first_stage_share": _SFT_STEPS / (_SFT_STEPS + 500)},
}
_METHODS: dict[str, dict[str, Any]] = {
    "sft": _SFT,
    "grpo": _BASELINE,
    "sft_then_grpo": _SFT_THEN_GRPO,
    "luffy": _BASELINE,
    "srft": _BASELINE,
}

#: What belongs to a model whatever is done with it.
FULL_BY_POLICY: dict[str, dict[str, Any]] = {
    "llama": {"data": {"template": "llama"}, "optimizer": {"skip_above_norm": 0.0}},
}

#: Learning rates and coefficients by model and method, as scripts have them; HPT's own are the scale's.
FULL_TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "strong": _METHODS,
    # 0.3: a comment of the released script; the paper does not say it
    "weak": {**_METHODS, "hpt": {"estimator": {"sft_coefficient": 0.3}}},
    "llama": {**_METHODS, "hpt": {"gate": {"count": 2}}},
}
