"""What a run takes on GPUs, computed from the model's shape and the settings: tokens, FLOPs, hours, memory, disk.

What rests on a machine's speed is stated in `Machine` and printed beside the numbers. Of it, seconds per sequence and
per document were measured on a CPU core with the mini world (`benchmarks.mini_step`), and the engine's own limit is
a guess from there: with a model of a million weights vLLM draws 20,000 tokens/s on one core, arithmetic included.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt.config import RunConfig
from hpt.methods import stages_of
from hpt.ranks import sampler_width

GIB = 2**30
#: Tokens of weights that ZeRO-3 holds whole at once (DeepSpeed's ``stage3_max_live_parameters``).
LIVE_PARAMETERS = 1_000_000_000
#: Peak in float32 as a share of that in bfloat16 (an H100's 67 and 989 TFLOP/s); bases are trained in float32.
FLOAT32_SHARE = 0.068


@dataclass(frozen=True)
class ModelShape:
    """What of a model's config.json decides its costs.

    Example:
        >>> SHAPES["weak"].parameters
        1543714304
    """

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool = False
    attention_bias: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Return the shape a config.json says (Qwen2 and Llama families)."""
        return cls(
            config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"],
            config["num_attention_heads"], config["num_key_value_heads"], config["vocab_size"],
            bool(config.get("tie_word_embeddings", False)), config["model_type"] == "qwen2",
        )  # fmt: skip

    @property
    def key_value_width(self) -> int:
        """Width of the keys, and of the values, of one layer."""
        return self.key_value_heads * self.hidden // self.heads

    @property
    def matrix_parameters(self) -> int:
        """Weights every token is multiplied with: blocks and head, not the embedding, which is looked up."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.key_value_width
        return self.layers * (attention + 3 * self.hidden * self.feed_forward) + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights."""
        norms = (2 * self.layers + 1) * self.hidden
        biases = self.layers * (self.hidden + 2 * self.key_value_width) if self.attention_bias else 0
        embedding = 0 if self.tied else self.vocabulary * self.hidden
        return self.matrix_parameters + embedding + norms + biases

    def forward_flops(self, tokens: float, length: float) -> float:
        """FLOPs of a forward pass over ``tokens`` in sequences of ``length``: 2 per weight, and causal attention."""
        return tokens * (2.0 * self.matrix_parameters + 2.0 * self.layers * self.hidden * length)


#: The published config.json of the paper's models; a model that is here is read instead.
SHAPES: dict[str, ModelShape] = {
    "weak": ModelShape(28, 1536, 8960, 12, 2, 151_936, tied=True, attention_bias=True),
    "strong": ModelShape(28, 3584, 18_944, 28, 4, 152_064, attention_bias=True),
    "llama": ModelShape(32, 4096, 14_336, 32, 8, 128_256),
}


def shape_of(config: RunConfig) -> ModelShape:
    """Return the shape of a run's policy: its folder's config.json, the world's recipe, or the published one."""
    from hpt.tasks.corpus import BASES

    path = config.policy.path
    if path is not None and (Path(path) / "config.json").is_file():
        return ModelShape.of(json.loads((Path(path) / "config.json").read_text(encoding="utf-8")))
    recipe = BASES.get(config.data.world, {}).get(config.policy.name)
    if config.data.evaluation == "graded" and recipe is not None:
        from hpt.tasks.tokenizer import VOCABULARY

        return ModelShape(recipe.layers, recipe.hidden, recipe.feed_forward, recipe.heads, recipe.heads,
                          len(VOCABULARY), attention_bias=recipe.architecture == "qwen2")  # fmt: skip
    return SHAPES[config.policy.name]


@dataclass(frozen=True)
class Machine:
    """GPUs and how well they are used.

    Attributes:
        gpus: number of ranks.
        memory_gib: of one GPU.
        peak_tflops: dense bfloat16 of one GPU, TFLOP/s.
        training_utilisation, sampling_utilisation: share of the peak that FLOPs of training and of sampling reach.
        engine_tokens_per_s: what one sampler draws at most, however small its model, for the work around the model.
        sequence_s, document_s: seconds of a processor that a trained sequence costs beside sampling and arithmetic
            (grading, batches, records), and a document that a base is trained on.
        start_s: imports and engine start of a run.
        response_share: mean response length as a share of its limit.
        measured: whether the utilisations were measured (`benchmarks.gpu`); else they are stated.
    """

    gpus: int = 8
    memory_gib: float = 80.0
    peak_tflops: float = 989.0
    training_utilisation: float = 0.40
    sampling_utilisation: float = 0.10
    engine_tokens_per_s: float = 30_000.0
    sequence_s: float = 0.0014
    document_s: float = 0.0005
    start_s: float = 45.0
    response_share: float = 0.25
    measured: bool = False


@dataclass(frozen=True)
class Costs:
    """What one run takes: tokens, FLOPs (training counts the model's, not what is computed twice), hours, bytes."""

    sampled_tokens: float
    trained_tokens: float
    sampling_flops: float
    training_flops: float
    gpu_hours: float
    disk_bytes: float


def run_costs(config: RunConfig, shape: ModelShape, machine: Machine, evaluated_answers: int = 0) -> Costs:
    """Return what a run takes.

    Rollouts that weigh nothing are counted as trained: how many there are is a result of the run. A question with both
    branches open trains on its rollouts or its demonstration; both are counted where the method has both, so this is
    a bound from above for switches.

    Args:
        config: of the run; a base that is fetched costs only its evaluation.
        shape: of its policy.
        machine: see `Machine`.
        evaluated_answers: answers sampled after training.
    """
    rollout, validation = config.rollout, config.validation
    response = machine.response_share * rollout.max_response_tokens
    sequence = min(config.data.max_prompt_tokens, 256) + response
    rollouts = demonstrations = 0
    documents = config.schedule.steps * config.schedule.prompts_per_step if config.method == "pretrain" else 0
    for stage in stages_of(config) if config.method != "pretrain" else ():
        method, prompts = stage.method, stage.length * config.schedule.prompts_per_step
        members = rollout.rollouts_per_prompt - method.demonstrations_per_group
        rollouts += prompts * members if method.samples else 0
        demonstrations += prompts if method.needs_demonstrations else 0
    curves = 0
    if validation.every and config.method != "pretrain":
        points = 1 + config.schedule.steps // validation.every
        curves = points * validation.problems_per_set * validation.samples_per_problem
    sampled = response * (rollouts + curves + evaluated_answers)
    trained = sequence * (rollouts + demonstrations) + documents * (_document_tokens(config) if documents else 0.0)
    sampling = shape.forward_flops(sampled, sequence / 2)
    # backward twice the forward; with old log-probs of the trainer, one more forward of the rollouts
    training = 3.0 * shape.forward_flops(trained, sequence)
    again = shape.forward_flops(sequence * rollouts, sequence) if rollout.old_logprobs == "trainer" else 0.0
    peak = machine.peak_tflops * 1e12 * (1.0 if config.policy.dtype == "bfloat16" else FLOAT32_SHARE)
    # a small model waits for the engine around it; ranks that share a sampler wait together
    waiting = sampled * sampler_width(rollout.tensor_parallel, machine.gpus) / machine.engine_tokens_per_s
    seconds = max(sampling / (peak * machine.sampling_utilisation), waiting)
    seconds += (training + again) / (peak * machine.training_utilisation)
    seconds += machine.sequence_s * (rollouts + demonstrations) + machine.document_s * documents
    seconds += machine.start_s * machine.gpus
    hours = seconds / 3600
    kept = 0 if config.method == "pretrain" else (config.checkpoint.keep + 1) * 12 * shape.parameters
    return Costs(sampled, trained, sampling, training + again, hours, float(kept + 2 * shape.parameters))


def _document_tokens(config: RunConfig) -> float:
    """Mean length of the documents a base is trained on, from some of them."""
    from hpt.tasks.corpus import base_recipe, documents
    from hpt.tasks.graded import world_named

    recipe = base_recipe(config.data.world, config.policy.name)
    places = [int(share * recipe.updates) for share in (0.1, 0.5, 0.95)]
    drawn = [own for update in places for own in documents(world_named(config.data.world), recipe, 0, update)]
    return sum(len("".join(own.pieces)) for own in drawn) / len(drawn)


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU by part; what is there while training, and what while sampling."""

    parameters: float
    gathered: float
    gradients: float
    optimiser: float
    activations: float
    logits_chunk: float
    sampler_weights: float
    cache: float
    sleeps: bool

    @property
    def training(self) -> float:
        """While the trainer works."""
        sampler = 0.0 if self.sleeps else self.sampler_weights + self.cache
        own = self.parameters + self.gathered + self.gradients + self.optimiser
        return own + self.activations + self.logits_chunk + sampler

    @property
    def sampling(self) -> float:
        """While the sampler works: the trainer's state stays where it is."""
        return self.parameters + self.optimiser + self.sampler_weights + self.cache


def memory(config: RunConfig, shape: ModelShape, machine: Machine) -> Memory:
    """Return the memory of one GPU by part, for the ZeRO stage of the settings.

    In bfloat16 a weight has 2 bytes, its gradient 4 (micro-batches add up in 32 bits), and 12 of the optimiser (32-bit
    master, two moments); in float32 4, 4 and 8, and 4 more for the master copy that ZeRO keeps. With gradient
    checkpointing a token leaves its hidden
    state at every layer, and one layer's insides at a time.
    """
    from hpt.upge.likelihood import CHUNK_ELEMENTS

    settings, count = config.engine, float(shape.parameters)
    half = config.policy.dtype == "bfloat16"
    size = 2 if half else 4
    ranks = machine.gpus
    spread = [ranks if settings.zero_stage >= least else 1 for least in (3, 2, 1)]
    moments = 12 if half or settings.zero_stage else 8
    longest = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    tokens = max(settings.micro_batch_tokens, longest)
    inside = tokens * size * (8 * shape.hidden + 4 * shape.key_value_width + 4 * shape.feed_forward)
    kept = tokens * size * shape.hidden * shape.layers + inside
    width = sampler_width(config.rollout.tensor_parallel, ranks)
    weights = size * count / width
    rest = machine.memory_gib * GIB * config.rollout.gpu_memory_share - weights
    return Memory(
        parameters=size * count / spread[0],
        gathered=size * min(count, LIVE_PARAMETERS) if settings.zero_stage == 3 else 0.0,
        gradients=4 * count / spread[1],
        optimiser=moments * count / spread[2],
        activations=kept if settings.gradient_checkpointing else inside * shape.layers,
        # logits, their softmax and the gradient of a chunk in float32
        logits_chunk=3.0 * 4 * max(CHUNK_ELEMENTS, shape.vocabulary),
        sampler_weights=weights,
        cache=max(0.0, rest),
        sleeps=config.rollout.sleep_while_training,
    )


def cache_bytes_per_token(config: RunConfig, shape: ModelShape, machine: Machine) -> float:
    """Return what one token of a running sequence takes in a GPU's key-value cache."""
    size = 2 if config.policy.dtype == "bfloat16" else 4
    return 2 * size * shape.layers * shape.key_value_width / sampler_width(config.rollout.tensor_parallel, machine.gpus)


def warnings_of(config: RunConfig, shape: ModelShape, machine: Machine) -> list[str]:
    """Return what does not fit on the machine, and what to change; nothing when all fits."""
    found, parts, room = [], memory(config, shape, machine), 0.95 * machine.memory_gib * GIB
    of, longest = f"of {machine.memory_gib:.0f} GiB", config.rollout.max_model_tokens
    if parts.training > room:
        found.append(f"training takes {parts.training / GIB:.0f} {of}: {_less(config, parts)}")
    if parts.sampling > room:
        remedy = "lower rollout.gpu_memory_share, raise engine.zero_stage, or use more GPUs"
        found.append(f"sampling takes {parts.sampling / GIB:.0f} {of}: {remedy}")
    fitting = parts.cache / cache_bytes_per_token(config, shape, machine)
    if fitting < longest:
        remedy = "raise rollout.gpu_memory_share or rollout.tensor_parallel"
        found.append(f"the cache holds {fitting:.0f} tokens, a sequence may have {longest}: {remedy}")
    if shape.heads % (width := sampler_width(config.rollout.tensor_parallel, machine.gpus)):
        found.append(f"{shape.heads} heads cannot be shared by {width} GPUs: lower rollout.tensor_parallel")
    return found


def _less(config: RunConfig, parts: Memory) -> str:
    """What to change so that training takes less, the largest part first."""
    ways = {
        "raise engine.zero_stage or use more GPUs": parts.parameters + parts.gradients + parts.optimiser,
        "lower engine.micro_batch_tokens": parts.activations,
        "set rollout.sleep_while_training": 0.0 if parts.sleeps else parts.sampler_weights + parts.cache,
    }
    if not config.engine.gradient_checkpointing:
        ways["set engine.gradient_checkpointing"] = parts.activations + 1
    named = sorted((way for way in ways if ways[way] > 0), key=lambda way: -ways[way])
    return ", then ".join(named[:2])
