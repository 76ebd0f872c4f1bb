"""The values a scale and a recipe bring along: two independent choices, both data.

Settings are laid over each other in this order, the last on top: defaults of `hpt.config.settings`, scale, world (not
over a user's questions), recipe, model, method, tuned (what the search chose for a method at a scale), then what the
user names. A custom method lies over what was tuned for the one it is ``like``. The settings of a stage's method lie
below the last three, above the rest (`hpt.methods.methods.stages_of`).

Scale `smollm`: a real language model of 135 million parameters on two cores; how its rates were chosen: docs/world.md.

Scale `gpu`: the mini world grown for one GPU, all in about an hour. Nothing was searched, and no run has been
made with it: sizes follow from what `hpt plan --scale gpu` computes, and learning rates are those of the mini world's
search (`TUNED`) divided by five, because the models are five times as wide (Yang et al. 2022: Adam's rate goes with one
over the width).

Scale `full`: the paper's models, data and settings. Sources: the released scripts (TsinghuaC3I/Unify-Post-Training,
commit ae332f5) for HPT, LUFFY and SRFT; LUFFY's scripts (ElliottYan/LUFFY, commit 01f4ae0) for GRPO and SFT, for which
nothing is released; the paper for what no script says. The paper states a learning rate, eight rollouts, temperatures
and the response limit, and no batch size, steps, optimiser settings, clip, entropy bonus or normalisation.
"""

from typing import Any

from hpt.support.errors import ConfigError

#: What bfloat16 needs where ``policy.dtype = auto`` becomes it: 32-bit masters, and looser comparisons of sampler and
#: trainer, which round differently.
BFLOAT16: dict[str, Any] = {
    "engine": {"zero_stage": 1},
    "rollout": {"old_logprobs": "trainer", "max_logprob_gap": 5.0},
}

SMOLLM: dict[str, Any] = {
    "policy": {"dtype": "auto"},
    "data": {"world": "smollm", "template": "qwen-no-system", "max_prompt_tokens": 80},
    "rollout": {
        "max_response_tokens": 48,  # the longest demonstration has 44
        "max_model_tokens": 128,
        "max_parallel_sequences": 128,
    },
    "optimizer": {"learning_rate": 1e-5},
    "schedule": {"steps": 60, "prompts_per_step": 8, "updates_per_step": 1},
    "validation": {"every": 15, "problems_per_set": 16, "samples_per_problem": 2},
    "engine": {"micro_batch_tokens": 1024, "instruction_set": "native"},
    "checkpoint": {"every": 5, "keep": 1},
}
#: Rates are the search's choices (docs/world.md); weights are those that an earlier mini world chose.
_SMOLLM_GRPO = {"optimizer": {"learning_rate": 1e-5}}
SMOLLM_TUNED: dict[str, dict[str, Any]] = {
    "sft": {"optimizer": {"learning_rate": 4e-5}},
    "grpo": _SMOLLM_GRPO,
    "sft_then_grpo": {"optimizer": {"learning_rate": 1e-5, "first_stage_learning_rate": 4e-5}},
    "luffy": {**_SMOLLM_GRPO, "estimator": {"offline_coefficient": 1.0}},
    "hpt": {**_SMOLLM_GRPO, "estimator": {"sft_coefficient": 0.125}},
}

GPU: dict[str, Any] = {
    "policy": {"dtype": "bfloat16"},
    "data": {"world": "lookups-gpu"},
    "rollout": {
        "max_response_tokens": 48,  # the longest demonstration has 37 tokens
        "max_model_tokens": 112,
        "max_parallel_sequences": 1_024,
        "gpu_memory_share": 0.4,
        "old_logprobs": "trainer",  # sampler and trainer round bfloat16 differently
        "max_logprob_gap": 5.0,  # as at scale full: rounding alone moves single improbable tokens by a nat
    },
    "optimizer": {"learning_rate": 2e-4, "gradient_clip": 0.05},  # the mini world's
    "schedule": {"steps": 50, "prompts_per_step": 64},
    "validation": {"every": 10, "problems_per_set": 100},
    # stage 1 keeps the 32-bit weights that bfloat16 needs; one GPU shares them with nobody
    "engine": {"zero_stage": 1, "micro_batch_tokens": 32_768, "layout": "auto", "attention": "auto", "threads": 8},
    "checkpoint": {"every": 25},
    "diagnostics": {"gradient_cosine_every": 10},
}


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
_BASELINE = {"optimizer": {"learning_rate": 1e-6, "skip_above_norm": 0.0}}
_METHODS: dict[str, dict[str, Any]] = {
    "sft": {
        "optimizer": {"learning_rate": 5e-5, "warmup_steps": 107, "skip_above_norm": 0.0},
        "schedule": {"steps": _SFT_STEPS},
    },
    "grpo": _BASELINE,
    "sft_then_grpo": {
        "optimizer": {"learning_rate": 1e-6, "first_stage_learning_rate": 5e-5, "skip_above_norm": 0.0},
        "schedule": {"steps": _SFT_STEPS + 500, "first_stage_share": _SFT_STEPS / (_SFT_STEPS + 500)},
    },
    "luffy": _BASELINE,
    "srft": _BASELINE,
}

#: Learning rates and coefficients by model and method, as scripts have them; HPT's are the scale's.
FULL_TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "strong": _METHODS,
    # 0.3: a comment of the released script; the paper does not say it
    "weak": {**_METHODS, "hpt": {"estimator": {"sft_coefficient": 0.3}}},
    "llama": {**_METHODS, "hpt": {"gate": {"count": 2}}},
}


SCALES: dict[str, dict[str, Any]] = {
    # Minutes for everything on two CPU cores; for tests and CI, its numbers mean nothing.
    "tiny": {
        "data": {"world": "lookups-tiny", "max_prompt_tokens": 32},
        "rollout": {"max_response_tokens": 64, "max_model_tokens": 96},
        "schedule": {"steps": 6, "prompts_per_step": 8},
        "validation": {"every": 3, "problems_per_set": 4, "samples_per_problem": 2},
        "checkpoint": {"every": 2},
        "diagnostics": {"gradient_cosine_every": 2},
    },
    # The default: real, small science on two CPU cores. Why each value is what it is: docs/world.md.
    "mini": {
        "data": {"world": "lookups"},
        "schedule": {"steps": 120},
        "validation": {"every": 12},
        "engine": {"micro_batch_tokens": 1536},
        "diagnostics": {"gradient_cosine_every": 5},
    },
    "smollm": SMOLLM,
    "gpu": GPU,
    "full": FULL,
}

#: Settings that belong to the questions of a scale's world, and to nobody else's.
BY_WORLD: dict[str, dict[str, Any]] = {
    "mini": {
        # SFT's gradients have a norm of .4 to 1, GRPO's of .02 to .08: at 1.0 single rollouts ruin it (docs/world.md)
        "optimizer": {"gradient_clip": 0.05},
        # at most 37: four lines of eight tokens, the box and the end
        "rollout": {"max_response_tokens": 48, "max_model_tokens": 112, "max_parallel_sequences": 512},
        # with 32 questions a step GRPO's gradient is mostly noise where few rollouts are right (docs/world.md)
        "schedule": {"prompts_per_step": 64},
    },
}

#: Settings that belong to a model at a scale, whatever is done with it.
BY_POLICY: dict[str, dict[str, dict[str, Any]]] = {
    "full": {"llama": {"data": {"template": "llama"}, "optimizer": {"skip_above_norm": 0.0}}},
}

#: `released` is what the authors' scripts do, `paper` is the equations as printed; rows of the discrepancy table that
#: are fields. `released` leaves the normalisation to the scale (`released` at full, `per_prompt` below it, because a
#: coefficient belongs to its normalisation), and the clip of the gradient's norm (1.0 at full); `paper` always sets the
#: printed ones.
RECIPES: dict[str, dict[str, Any]] = {
    "released": {
        "estimator": {
            "clip_eps_low": "none",
            "clip_eps_high": "none",
            "advantage_std": "none",
            "entropy_coefficient": 0.001,
            "offline_advantage": "own_reward",
            "offline_shaping": True,
        },
        "optimizer": {"skip_above_norm": 80.0},
    },
    "paper": {
        "estimator": {
            "clip_eps_low": "row",  # a number would be refused by rows without a ratio, such as SRFT's
            "clip_eps_high": "row",
            "advantage_std": "sample",
            "entropy_coefficient": 0.0,
            "offline_advantage": "group",
            "offline_shaping": True,
            "normalization": "paper",
        },
        "optimizer": {"gradient_clip": 0.0, "skip_above_norm": 0.0},
    },
}

#: What the search chose (`hpt.runs.catalogue`, the report's appendix): every base its own, on the same grid.
_CLIP_AND_STD_OF_ROW = {"clip_eps_low": "row", "clip_eps_high": "row", "advantage_std": "row"}
_MINI_SFT = {"optimizer": {"learning_rate": 5e-4}, "schedule": {"updates_per_step": 16}}
_MINI_GRPO: dict[str, Any] = {"optimizer": {"learning_rate": 1e-3}}
MINI_TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "weak": {
        "sft": _MINI_SFT,
        "grpo": {**_MINI_GRPO, "estimator": _CLIP_AND_STD_OF_ROW},
        "luffy": {"optimizer": {"learning_rate": 2e-3}, "estimator": {"offline_coefficient": 4.0}},
        "hpt": {"optimizer": {"learning_rate": 2e-3}, "estimator": {"sft_coefficient": 0.05}},
        "off_on": {"optimizer": {"learning_rate": 1e-3}, "estimator": {"offline_coefficient": 4.0}},
        "mix_on": {"optimizer": {"learning_rate": 2e-3}, "estimator": {"sft_coefficient": 0.05}},
    },
    "strong": {
        "sft": _MINI_SFT,
        "grpo": _MINI_GRPO,
        "sft_then_grpo": {
            "optimizer": {"learning_rate": 1e-3, "first_stage_learning_rate": 2.5e-4},
            "schedule": {"first_stage_share": 0.4, "first_stage_updates_per_step": 16},
        },
        "luffy": {"optimizer": {"learning_rate": 2e-3}, "estimator": {"offline_coefficient": 4.0}},
        "srft": {"optimizer": {"learning_rate": 1e-3}, "estimator": {"sft_coefficient": 2.0}},
        "hpt": {"optimizer": {"learning_rate": 1e-3}, "estimator": {"sft_coefficient": 0.05}},
    },
    "llama": {
        "sft": _MINI_SFT,
        "grpo": {**_MINI_GRPO, "estimator": {**_CLIP_AND_STD_OF_ROW, "advantage_std": "none"}},
        "luffy": {"optimizer": {"learning_rate": 1e-3}, "estimator": {"offline_coefficient": 16.0}},
        "hpt": {"optimizer": {"learning_rate": 2e-3}, "estimator": {"sft_coefficient": 0.125}},
    },
}
#: A fifth of their rates, because the models are five times as wide.
_GPU_TUNED = {
    policy: {
        method: {**settings, "optimizer": {name: rate / 5 for name, rate in settings["optimizer"].items()}}
        for method, settings in chosen.items()
    }
    for policy, chosen in MINI_TUNED.items()
}
#: Scale -> policy -> method -> settings.
TUNED: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "mini": MINI_TUNED,
    "smollm": {"weak": SMOLLM_TUNED},
    "gpu": _GPU_TUNED,
    "full": FULL_TUNED,
}


def check_scale(scale: str) -> None:
    """Refuse a name that is no scale's, before a folder is named by it."""
    if scale not in SCALES:
        raise ConfigError("scale", scale, "one of " + ", ".join(SCALES), "choose one of these")
