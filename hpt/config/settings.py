"""What the sections of a run's configuration hold: every setting, its default, its range and what it means.

`hpt/config/run_config.py` puts them together; `hpt/config/scales.py` holds the values that a scale, a recipe and a
method bring along.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, no silent conversions ("8" is not 8)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def neutral(default: Any, description: str, **bounds: Any) -> Any:
    """Return a field that was added later: at its default, which must never change, no fingerprint holds it."""
    return Field(default=default, description=description, json_schema_extra={"neutral": True}, **bounds)


class PolicySettings(Settings):
    """The model that is trained."""

    name: str = Field(default="weak", description="base (weak, strong, llama) or a name for a local model")
    path: str | None = Field(default=None, description="model folder; None = the base this package trains or fetches")
    after: str | None = neutral(None, "start from this method's run on the same base and seed; None = from the base")
    weights_sha256: str = Field(default="", description="of the initial weights; filled in when the run is resolved")
    config_sha256: str = neutral("", "of its config.json where this package did not write it; filled in likewise")
    tokenizer_sha256: str = neutral("", "of its tokenizer, chat template and end tokens; filled in likewise")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32", description="bfloat16 keeps fp32 masters; auto: bfloat16 where the processor multiplies it"
    )

    @property
    def base_weights(self) -> str | None:
        """Hash of the weights of the base a run starts from; None where it starts from another run."""
        return None if self.after else self.weights_sha256


class DataSettings(Settings):
    """The questions and demonstrations."""

    source: str = Field(
        default="graded", description="'graded' = the world's, a public set (`hpt data check`), or a file or folder"
    )
    evaluation: Literal["graded", "public"] = neutral("graded", "evaluation sets: the world's, or public benchmarks")
    folder: str = Field(default="data", description="where downloaded public sets lie")
    world: str = Field(default="lookups", description="small world (hpt.data.world.worlds.WORLDS)")
    questions: int | None = Field(default=None, ge=1, description="only the first so many to train on; None = all")
    questions_per_level: list[int] | None = neutral(None, "only the first so many of level 1, 2, ...; None = all")
    sha256: str = Field(default="", description="hash of the training problems, filled in when the run is resolved")
    template: str = neutral("plain", "how a question becomes a prompt (hpt.data.prompts.TEMPLATES)")
    max_prompt_tokens: int = Field(default=64, ge=1, description="prompts over it: see overlong_prompts")
    overlong_prompts: Literal["refuse", "drop"] = neutral("refuse", "an error, or left out and counted")
    overlong_demonstrations: Literal["refuse", "drop", "cut"] = Field(
        default="refuse", description="those over rollout.max_response_tokens: an error, left out, or cut; counted"
    )


class RolloutSettings(Settings):
    """How the policy is sampled while it trains (vLLM)."""

    rollouts_per_prompt: int = Field(default=8, ge=1, description="n of Eq. 8")
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_response_tokens: int = Field(default=112, ge=1, description="L, the ceiling of a response")
    max_model_tokens: int = Field(default=176, ge=2, description="context given to the sampler: prompt + response")
    max_parallel_sequences: int = Field(default=256, ge=1, description="vLLM max_num_seqs")
    cache_gib: int = Field(default=1, ge=1, description="KV cache on CPU, GiB; share of GPU memory is gpu_memory_share")
    gpu_memory_share: float = Field(default=0.5, gt=0, le=1)
    tensor_parallel: int = neutral(1, "ranks that share one sampler's weights", ge=1)
    sleep_while_training: bool = neutral(False, "give the sampler's GPU memory to the trainer (vLLM's sleep mode)")
    max_logprob_gap: float = Field(
        default=0.05, gt=0, description="largest |sampler - trainer| log-prob of a rollout, nats; above it: error"
    )
    gap_check_rollouts: int = Field(
        default=8, ge=1, description="untrained rollouts compared per step, and responses compared before evaluations"
    )
    old_logprobs: Literal["sampler", "trainer"] = Field(default="sampler", description="who reports log pi_old")
    verifier_timeout_s: float = Field(default=5.0, gt=0, description="hard limit for grading one answer, seconds")


class EstimatorSettings(Settings):
    """Which rows act and how they are weighted; 'row' means the value of the row of Table 1 itself."""

    normalization: Literal["per_prompt", "paper", "released", "row"] = "per_prompt"
    length_divisor: int | None = Field(default=None, ge=1, description="L of normalisations; None = the response limit")
    released_ranks: int = Field(default=8, ge=1, description="W of `released`: the authors' GPUs, whatever ours are")
    released_micro_batches: int = Field(
        default=1, ge=1, description="m of `released`: their micro-batches with demonstrations"
    )
    online_row: str = Field(default="method", description="row acting on rollouts; 'method' = that of the method")
    offline_row: str = Field(default="method", description="row acting on demonstrations, likewise")
    advantage_std: Literal["row", "none", "sample", "population"] = "row"
    clip_eps_low: float | Literal["row", "none"] = Field(default="row", description="PPO clip below; 'none' removes it")
    clip_eps_high: float | Literal["row", "none"] = Field(default="row", description="PPO clip above, likewise")
    rl_coefficient: float = Field(default=1.0, ge=0, description="multiplies alpha")
    sft_coefficient: float = Field(default=1.0, ge=0, description="multiplies beta on SFT terms (c)")
    offline_coefficient: float = Field(default=1.0, ge=0, description="multiplies off-policy RL on demonstrations")
    offline_advantage: Literal["own_reward", "group"] = Field(
        default="own_reward", description="OFF/ON, Mix/ON: the demonstration's reward, or normalised with the rollouts"
    )
    offline_shaping: bool = Field(default=True, description="LUFFY's f(p) = p/(p+0.1) on off-policy RL terms")
    shape_every_offline_term: bool = neutral(False, "shape terms whose row does not, too: SRFT's, as released")
    entropy_coefficient: float = Field(default=0.0, ge=0)
    entropy_scope: Literal["trained", "all"] = Field(
        default="trained", description="the bonus is a mean over tokens of trajectories that weigh something, or of all"
    )
    kl_coefficient: float = Field(default=0.0, ge=0, description="weight of the KL to the frozen initial policy")
    kl_term: Literal["loss", "advantage"] = neutral(
        "loss", "k3 in the loss, or k1 in the advantage (Appendix B.2; rows with a kl_coefficient)"
    )
    baseline_decay: float = Field(default=0.95, ge=0, lt=1, description="running baseline of REINFORCE")


class GateSettings(Settings):
    """Eq. 9-10: from performance P to (alpha, beta)."""

    kind: str = Field(default="switch", description="switch, linear, sigmoid, constant, or module:function")
    count: int = Field(default=0, ge=0, description="gamma as a count of correct rollouts out of n")
    inclusive: bool = Field(default=True, description="SFT when P <= gamma (Eq. 10); False: only when P < gamma")
    slope: float = Field(default=20.0, gt=0, description="steepness of the sigmoid, per unit of P")
    alpha: float = Field(default=1.0, ge=0, description="constant gate: weight of RL")
    beta: float = Field(default=1.0, ge=0, description="constant gate: weight of SFT")


class OptimizerSettings(Settings):
    """AdamW at a constant rate."""

    learning_rate: float = Field(default=1e-3, gt=0)
    first_stage_learning_rate: float | None = Field(default=None, gt=0, description="SFT->GRPO's SFT; None = as GRPO")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=5, ge=0, description="step k = 1, 2, ... is at k/warmup_steps of the rate")
    gradient_clip: float = Field(default=1.0, ge=0, description="clip the global norm to this; 0 = off")
    skip_above_norm: float = Field(default=80.0, ge=0, description="skip updates of larger unclipped norm; 0 = off")


class ScheduleSettings(Settings):
    """How long and in which portions."""

    steps: int = Field(default=600, ge=0, description="rollout batches")
    prompts_per_step: int = Field(default=32, ge=1)
    updates_per_step: int = Field(default=2, ge=1, description="optimiser steps per rollout batch")
    first_stage_updates_per_step: int | None = neutral(None, "of SFT->GRPO's SFT; None = as GRPO", ge=1)
    first_stage_share: float = Field(default=0.4, ge=0, le=1, description="SFT->GRPO: share of the steps that are SFT")


class ValidationSettings(Settings):
    """The curves drawn while training (Figure 5)."""

    every: int = Field(default=60, ge=0, description="steps between validations; 0 = never")
    problems_per_set: int = Field(default=40, ge=1)
    samples_per_problem: int = Field(default=4, ge=1)
    temperature: float = Field(default=0.6, ge=0, description="0 = greedy: one answer per problem, whatever is asked")
    top_p: float = Field(default=0.95, gt=0, le=1)
    sets: list[str] = neutral(
        [], "evaluation sets of the curves: of the scale, public, or a file or folder of rows; none = the scale's"
    )
    held_out: float = neutral(
        0.0, "share of data.source never trained on, a curve; `hpt train --data` alone sets 0.1", ge=0, lt=1
    )
    sha256: str = neutral("", "hash of the curves' problems where no world makes them; filled in when resolved")


class EngineSettings(Settings):
    """How the step is computed; the gradient must not depend on it beyond rounding."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    micro_batch_tokens: int = Field(default=16384, ge=1, description="token budget of one forward and backward")
    layout: Literal["padded", "packed", "auto"] = Field(
        default="padded", description="auto: packed with FlashAttention, else padded, which is_causal makes cheap"
    )
    share_prompts: bool = neutral(
        True, "with layout padded and PyTorch's attention: forward a prompt once for all its responses"
    )
    attention: Literal["sdpa", "flash_attention_2", "auto"] = neutral("sdpa", "auto: FlashAttention where it can run")
    gradient_checkpointing: bool = Field(default=False, description="compute layers again in the backward pass")
    threads: int = Field(default=1, ge=1, description="CPU threads of the training process")
    instruction_set: Literal["avx2", "native"] = neutral(
        "avx2", "of a run on CPU: avx2 rounds alike with and without AVX-512; native: all that the processor has"
    )


class CheckpointSettings(Settings):
    """When the run is saved; not part of the fingerprint."""

    every: int = Field(default=25, ge=1, description="steps between checkpoints")
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept")


class DiagnosticsSettings(Settings):
    """What a run measures beside what it needs, and when that stops it; not part of the fingerprint, for it moves no
    other number."""

    gradient_cosine_every: int = Field(
        default=0, ge=0, description="steps between measurements (one more training pass each); 0 = never"
    )
    max_mean_logprob_gap: float | None = Field(
        default=None,
        gt=0,
        description="largest mean |sampler - trainer| log-prob, nats per token; above it the sampler has other weights "
        "than the trainer: error; None = 0.001 in float32, 0.1 in bfloat16 (hpt.training.guards)",
    )
    rollouts_over_gap: int = Field(
        default=0, ge=0, description="rollouts of a step that may exceed rollout.max_logprob_gap and are trained on"
    )
