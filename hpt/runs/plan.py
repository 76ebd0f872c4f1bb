"""``hpt plan``: what would run, why, and what it takes: tokens, time, disk and, on GPUs, memory. Nothing is computed.

Tokens and FLOPs follow from a model's shape and the settings; time from them and from what is stated of the machine
(`Machine`, printed beside the numbers), times how much longer or shorter finished runs of the same method took. Those
are the runs finished here, and the committed records for what was never run here; on GPUs there are none.
"""

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpt.config.run_config import RunConfig, flat
from hpt.data.models import public_model
from hpt.data.public import DATASETS
from hpt.data.sources import evaluation_set, with_samples
from hpt.data.world.gym import SMOLLM
from hpt.data.world.lookup import LOOKUPS
from hpt.data.world.lookup_corpus import BASES, build_tokenizer, encoded_documents, vocabulary_size
from hpt.data.world.worlds import base_recipe
from hpt.evaluation.evaluate import evaluation_law
from hpt.methods.methods import stages_of
from hpt.runs.evaluations import missing_evaluations
from hpt.runs.folder import run_folders, runs_dir_option
from hpt.runs.make import PlannedRun
from hpt.runs.records import record_folders, recorded_config
from hpt.runs.resolve import FILLED_IN, build_config, initial_run, train_command
from hpt.support.errors import ConfigError, RecordFault
from hpt.support.files import read_json, read_parquet
from hpt.support.memory import GIB
from hpt.support.text import duration
from hpt.training.ranks import RUN_GPUS, sampler_width

#: Tokens of weights that ZeRO-3 holds whole at once (DeepSpeed's ``stage3_max_live_parameters``).
LIVE_PARAMETERS = 1_000_000_000
#: Peak in float32 as a share of that in bfloat16 (an H100's 67 and 989 TFLOP/s); bases are trained in float32.
FLOAT32_SHARE = 0.068
#: Scales whose runs are planned for GPUs.
ON_GPUS = ("gpu", "full")
#: Committed records; the package is used from its folder.
REPORTS = Path(__file__).resolve().parents[2] / "reports"


@dataclass(frozen=True)
class ModelShape:
    """What of a model's config.json decides its costs."""

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
        return self.key_value_heads * self.hidden // self.heads

    @property
    def matrix_parameters(self) -> int:
        """Weights every token is multiplied with: blocks and head, not the embedding, which is looked up."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.key_value_width
        return self.layers * (attention + 3 * self.hidden * self.feed_forward) + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
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
    "smollm2-135m": ModelShape(30, 576, 1536, 9, 3, 49_152, tied=True),
}


def shape_of(config: RunConfig) -> ModelShape:
    """Return the shape of a run's policy: the world's recipe, its folder's config.json, or the published one."""
    recipe = BASES.get(config.data.world, {}).get(config.policy.name)
    if config.data.evaluation == "graded" and recipe is not None:
        return ModelShape(recipe.layers, recipe.hidden, recipe.feed_forward, recipe.heads, recipe.heads,
                          vocabulary_size(LOOKUPS[config.data.world]),
                          attention_bias=recipe.architecture == "qwen2")  # fmt: skip
    file = Path(config.policy.path or "") / "config.json"
    name = public_model(config.scale, config.policy.name) or config.policy.name
    return ModelShape.of(read_json(file)) if config.policy.path and file.is_file() else SHAPES[name]


@dataclass(frozen=True)
class Machine:
    """What computes a run, and how well it is used: some GPUs, or one CPU core.

    Attributes:
        gpus: number of ranks; 1 for a core.
        memory_gib: of one GPU; 0 for a core, whose memory is not planned.
        peak_tflops: dense bfloat16 of one device, TFLOP/s.
        training_utilisation, sampling_utilisation: share of the peak that FLOPs of training and of sampling reach.
        engine_tokens_per_s: what one sampler draws at most, however small its model, for the work around the model.
        sequence_s, document_s: seconds of a processor that a trained sequence costs beside sampling and arithmetic
            (grading, batches, records), and a document that a base is trained on; measured with the mini world.
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


#: A core: about what the mini world's runs reached on one; `calibration` says what they took.
CORE = Machine(1, 0.0, 0.75, 0.40, 1.0, 8_000.0, 0.0, 0.0, 12.0, 0.4)
#: A core with AVX2 that computes SmolLM2-135M in float32: 59 tokens a second drawn, as measured on a busy one; trained
#: with half of what AVX-512 reached, which is a guess (docs/world.md). Finished runs correct both.
SMOLLM_CORE = replace(CORE, training_utilisation=0.4, sampling_utilisation=0.31, start_s=40.0, response_share=0.52)


def machine_of(
    scale: str,
    gpus: int | None = None,
    memory_gib: float = 80.0,
    peak_tflops: float = 989.0,
    measured: Path | None = None,
) -> Machine:
    """Return the machine to plan a scale for: a core below the GPU scales, else some GPUs.

    ``measured`` is a result of ``python -m benchmarks.gpu``, whose utilisations are taken; None = stated ones.
    """
    if scale not in ON_GPUS:
        return SMOLLM_CORE if scale == SMOLLM else CORE
    plain = Machine(gpus or 8, memory_gib, peak_tflops)
    if scale == "gpu":  # half the limit is what its demonstrations have on average
        plain = replace(plain, gpus=gpus or 1, response_share=0.5)
    if measured is None:
        return plain
    found = read_json(measured).get("utilisation") or {}
    if not {"training", "sampling"} <= set(found):
        remedy = "write one with `python -m benchmarks.gpu` where vLLM is installed"
        raise ConfigError("--utilisation", str(measured), "a result with utilisation of training and sampling", remedy)
    return replace(plain, training_utilisation=found["training"], sampling_utilisation=found["sampling"], measured=True)


@dataclass(frozen=True)
class Costs:
    """What a run takes: tokens, FLOPs (training counts the model's, not what is computed twice), device time, bytes."""

    sampled_tokens: float = 0.0
    trained_tokens: float = 0.0
    sampling_flops: float = 0.0
    training_flops: float = 0.0
    device_s: float = 0.0
    disk_bytes: float = 0.0


def run_costs(
    config: RunConfig, shape: ModelShape, machine: Machine, evaluated_answers: int = 0, steps_done: int = 0
) -> Costs:
    """Return what is left to pay for a run.

    Rollouts that weigh nothing are counted as trained: how many there are is a result of the run. A question with both
    branches open trains on its rollouts or its demonstration; both are counted where the method has both, so this is
    a bound from above for switches. ``evaluated_answers`` are sampled after training, ``steps_done`` before this.
    """
    rollout, validation, schedule = config.rollout, config.validation, config.schedule
    response = machine.response_share * rollout.max_response_tokens
    sequence = min(config.data.max_prompt_tokens, 256) + response
    questions = rollouts = demonstrations = documents = answers = 0
    if config.method == "pretrain":
        documents = (schedule.steps - steps_done) * schedule.prompts_per_step
    else:
        for stage in stages_of(config):
            prompts = max(0, stage.end - max(stage.start, steps_done)) * schedule.prompts_per_step
            method = stage.method
            questions += prompts
            rollouts += prompts * (rollout.rollouts_per_prompt - method.demonstrations_per_group) * method.samples
            demonstrations += prompts * method.needs_demonstrations
        if validation.every and steps_done < schedule.steps:
            points = 1 + schedule.steps // validation.every - steps_done // validation.every
            law = evaluation_law(config, validation.samples_per_problem)
            answers = points * validation.problems_per_set * law.samples_per_problem
    sampled = response * (rollouts + answers + evaluated_answers)
    shared = config.engine.share_prompts and config.engine.layout == "padded"  # a prompt once for all its responses
    prompts_seen = questions if shared else rollouts + demonstrations
    trained = (sequence - response) * prompts_seen + response * (rollouts + demonstrations)
    trained += documents * (_document_tokens(config) if documents else 0.0)
    sampling = shape.forward_flops(sampled, sequence / 2)
    # backward twice the forward; with old log-probs of the trainer, one more forward of the rollouts
    training = 3.0 * shape.forward_flops(trained, sequence)
    if rollout.old_logprobs == "trainer":
        training += shape.forward_flops(sequence * rollouts, sequence)
    peak = machine.peak_tflops * 1e12 * (1.0 if config.policy.dtype == "bfloat16" else FLOAT32_SHARE)
    # a small model waits for the engine around it; ranks that share a sampler wait together
    waiting = sampled * sampler_width(rollout.tensor_parallel, machine.gpus) / machine.engine_tokens_per_s
    seconds = max(sampling / (peak * machine.sampling_utilisation), waiting)
    seconds += training / (peak * machine.training_utilisation)
    seconds += machine.sequence_s * (rollouts + demonstrations) + machine.document_s * documents
    seconds += machine.start_s * machine.gpus
    return Costs(sampled, trained, sampling, training, seconds, float(_disk(config) * shape.parameters))


def _disk(config: RunConfig) -> int:
    """Bytes per weight that a run leaves, and one checkpoint more: the oldest goes when the next is there."""
    if config.schedule.steps == 0:  # a model as published, in bfloat16
        return 2
    weights = 2 if config.policy.dtype == "bfloat16" else 4
    models = 2 if config.method == "pretrain" else 1  # the untrained one, too
    return (config.checkpoint.keep + 1) * 12 + models * weights


def _document_tokens(config: RunConfig) -> float:
    """Mean length of the documents a base is trained on, from some of them; a bound where it is a published one."""
    if config.data.world not in LOOKUPS:
        return float(config.rollout.max_model_tokens)
    world, recipe = LOOKUPS[config.data.world], base_recipe(config.data.world, config.policy.name)
    tokenizer = build_tokenizer(world)
    drawn = [document for share in (0.1, 0.5, 0.95)
             for document in encoded_documents(world, recipe, tokenizer, 0, int(share * recipe.updates))]  # fmt: skip
    return sum(len(question) + len(tokens) for question, tokens, _ in drawn) / len(drawn)


def answers(config: RunConfig, evaluations: Iterable[str]) -> int:
    """Return how many answers the evaluations of a final policy sample, from the sizes the sets must have."""
    total = 0
    for name in evaluations:
        of_set, samples = with_samples(name)
        chosen = evaluation_set(config, of_set)
        problems = DATASETS[of_set].rows[1] if of_set in DATASETS else len(chosen.problems)
        total += problems * evaluation_law(config, int(samples or chosen.samples_per_problem)).samples_per_problem
    return total


Timings = Sequence[tuple[RunConfig, float]]  #: (configuration, seconds to the final weights) of finished runs


def calibration(here: Timings, elsewhere: Timings) -> dict[tuple[str, str], float]:
    """Return how many times what `run_costs` says for a `CORE` finished runs took, by (method, base).

    Runs made elsewhere count for what was never run here, times how much slower this machine is. A busy machine only
    ever makes a run slower, so the lower quartile counts: half of the runs may have shared their core.
    """

    def ratios(runs: Timings) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], list[float]] = {}
        for config, seconds in runs:
            expected = run_costs(config, shape_of(config), machine_of(config.scale)).device_s
            found.setdefault((config.method, config.policy.name), []).append(seconds / expected)
        return {key: float(np.quantile(values, 0.25)) for key, values in found.items()}

    ours, others = ratios(here), ratios(elsewhere)
    both = [ours[key] / others[key] for key in ours.keys() & others.keys()]
    slower = float(np.median(both)) if both else 1.0
    return {key: ratio * slower for key, ratio in others.items()} | ours


def _ratio(ratios: Mapping[tuple[str, str], float], run: PlannedRun) -> float:
    """The ratio of the run's method on its base; where it was never run, the median of its method's or its base's."""
    ours = (run.method, run.policy)
    of_method, of_base = ([ratio for key, ratio in ratios.items() if key[i] == ours[i]] for i in (0, 1))
    return ratios.get(ours) or float(np.median(of_method or of_base or [1.0]))


def finished_runs(folders: Iterable[Path]) -> Timings:
    """Return the timings of run or record folders.

    Left out are damaged ones, those that were interrupted (their clock is the last process's alone), and models of the
    user's, whose shape is in no record.
    """
    found = []
    for folder in folders:
        try:
            config, metrics = recorded_config(folder), read_parquet(folder / "metrics.parquet")
            seconds = read_json(folder / "provenance.json").get("wall_s") or 0.0
        except RecordFault:  # it matters to those who use that run, not to a guess of the time
            continue
        timed = "time/step_s" in metrics and 0 < metrics["time/step_s"].sum() < seconds
        if timed and config.policy.name in SHAPES:
            found.append((config, seconds))
    return found


@dataclass(frozen=True)
class Plan:
    """Runs with what each takes, nothing where nothing is left to do; ``jobs`` of them at a time, each on ``machine``.

    ``basis`` says in words which finished runs the times follow.
    """

    scale: str
    runs: tuple[PlannedRun, ...]
    costs: tuple[Costs, ...]
    machine: Machine
    jobs: int = 1
    basis: str = ""

    @property
    def total(self) -> Costs:
        return Costs(*(sum(getattr(costs, name) for costs in self.costs) for name in Costs.__dataclass_fields__))

    @property
    def wall_s(self) -> float:
        """Seconds until all is done; no run is shorter for others beside it, or starts before its base is there."""
        ends: dict[tuple[str, str, int], float] = {}
        longest = 0.0
        for run, costs in zip(self.runs, self.costs, strict=True):  # what others start from comes first
            before = initial_run(run.config)
            start = 0.0 if before is None else ends.get((before.method, before.policy.name, before.seed), 0.0)
            longest = max(longest, start + costs.device_s)
            ends.setdefault((run.method, run.policy, run.seed), start + costs.device_s)
        return max(self.total.device_s / self.jobs, longest) / self.machine.gpus


def make_plan(
    scale: str, runs: Sequence[PlannedRun], root: Path, machine: Machine | None = None, jobs: int = 1
) -> Plan:
    """Return what is left of runs, and what it takes, ``jobs`` of them at a time on a ``machine`` each.

    What finished below ``root`` was timed on this machine; committed records stand in for what was never run here.
    """
    machine = machine or machine_of(scale)
    ratios, basis = {}, ""
    if scale not in ON_GPUS and any(not run.done for run in runs):
        records = record_folders(REPORTS / scale / "records")
        if machine == CORE:  # no other machine's ratios are to those of the mini world
            records = records or record_folders(REPORTS / "mini" / "records")
        here, elsewhere = finished_runs(folder.path for folder in run_folders(root, scale)), finished_runs(records)
        ratios = calibration(here, elsewhere)
        counts = {"runs finished here": len(here), "committed records": len(elsewhere)}
        basis = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    costs = [_left(run, machine, _ratio(ratios, run)) for run in runs]
    return Plan(scale, tuple(runs), tuple(costs), machine, jobs, basis)


def _left(run: PlannedRun, machine: Machine, ratio: float) -> Costs:
    if run.done:
        return Costs()
    config, folder, evaluations, steps_done = run.config, run.folder, run.evaluations, 0
    if folder is not None and folder.finished:
        steps_done, evaluations = config.schedule.steps, missing_evaluations(folder, config, evaluations)
    elif folder is not None:
        steps_done = folder.status["step"]
    costs = run_costs(config, shape_of(config), machine, answers(config, evaluations), steps_done)
    return replace(costs, device_s=costs.device_s * ratio)


def memory(config: RunConfig, shape: ModelShape, machine: Machine) -> dict[str, float]:
    """Return the bytes on one GPU by part, for the ZeRO stage of the settings, and what is there together.

    In bfloat16 a weight has 2 bytes, its gradient 4 (micro-batches add up in 32 bits), and 12 of the optimiser (32-bit
    master, two moments); in float32 4, 4 and 8, and 4 more for the master copy that ZeRO keeps. With gradient
    checkpointing a token leaves its hidden state at every layer, and one layer's insides at a time.
    """
    from hpt.upge.likelihood import CHUNK_ELEMENTS

    settings, count, rollout = config.engine, float(shape.parameters), config.rollout
    half = config.policy.dtype == "bfloat16"
    size = 2 if half else 4
    spread = [machine.gpus if settings.zero_stage >= least else 1 for least in (3, 2, 1)]
    tokens = max(settings.micro_batch_tokens, config.data.max_prompt_tokens + rollout.max_response_tokens)
    inside = tokens * size * (8 * shape.hidden + 4 * shape.key_value_width + 4 * shape.feed_forward)
    kept = tokens * size * shape.hidden * shape.layers + inside
    weights = size * count / sampler_width(rollout.tensor_parallel, machine.gpus)
    parts = {
        "parameters": size * count / spread[0],
        "gathered": size * min(count, LIVE_PARAMETERS) if settings.zero_stage == 3 else 0.0,
        "gradients": 4 * count / spread[1],
        "optimiser": (12 if half or settings.zero_stage else 8) * count / spread[2],
        "activations": kept if settings.gradient_checkpointing else inside * shape.layers,
        # logits, their softmax and the gradient of a chunk in float32
        "logits chunk": 3.0 * 4 * max(CHUNK_ELEMENTS, shape.vocabulary),
        "sampler weights": weights,
        "cache": max(0.0, machine.memory_gib * GIB * rollout.gpu_memory_share - weights),
    }
    sampler = parts["sampler weights"] + parts["cache"]
    trainer = sum(parts.values()) - sampler
    return parts | {
        "training in all": trainer + (0.0 if rollout.sleep_while_training else sampler),
        "sampling in all": parts["parameters"] + parts["optimiser"] + sampler,  # the trainer's state stays
    }


def warnings_of(config: RunConfig, shape: ModelShape, machine: Machine) -> list[str]:
    """Return what does not fit on the machine, and what to change; nothing when all fits."""
    found, parts, room = [], memory(config, shape, machine), 0.95 * machine.memory_gib * GIB
    of, longest = f"of {machine.memory_gib:.0f} GiB", config.rollout.max_model_tokens
    if parts["training in all"] > room:
        remedy = "lower engine.micro_batch_tokens, raise engine.zero_stage, or use more GPUs"
        if not config.rollout.sleep_while_training:
            remedy = f"set rollout.sleep_while_training, {remedy}"
        found.append(f"training takes {parts['training in all'] / GIB:.0f} {of}: {remedy}")
    if parts["sampling in all"] > room:
        remedy = "lower rollout.gpu_memory_share, raise engine.zero_stage, or use more GPUs"
        found.append(f"sampling takes {parts['sampling in all'] / GIB:.0f} {of}: {remedy}")
    width = sampler_width(config.rollout.tensor_parallel, machine.gpus)
    size = 2 if config.policy.dtype == "bfloat16" else 4
    fitting = parts["cache"] * width / (2 * size * shape.layers * shape.key_value_width)
    if fitting < longest:
        remedy = "raise rollout.gpu_memory_share or rollout.tensor_parallel"
        found.append(f"the cache holds {fitting:.0f} tokens, a sequence may have {longest}: {remedy}")
    if shape.heads % width:
        found.append(f"{shape.heads} heads cannot be shared by {width} GPUs: lower rollout.tensor_parallel")
    return found


def command(run: PlannedRun, root: Path, machine: Machine) -> str:
    """Return the command that makes a run and its evaluations, as one line for a scheduler.

    Settings that an arm adds to its method's are given one by one, so that the run is found again by its fingerprint.
    """
    config = run.config
    words = train_command(config)
    if config.method != "pretrain":
        names: dict[str, Any] = {"scale": config.scale, "recipe": config.recipe, "policy": config.policy.name}
        plain = build_config(config.method, seed=config.seed, **names)
        filled_in = {**FILLED_IN, "own_modules": True, "data": {"sha256"}}
        given, usual = (flat(settings.model_dump(mode="json", exclude=filled_in)) for settings in (config, plain))
        for name, value in given.items():
            if value != usual[name]:
                words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    words += ["--evaluations", ",".join(run.evaluations)] if run.evaluations else []
    words += runs_dir_option(root)
    if RUN_GPUS in os.environ:
        words += ["--run-gpus", os.environ[RUN_GPUS]]
    elif machine.gpus > 1:
        words += ["--launcher-args", f"--num_gpus {machine.gpus}"]
    return shlex.join(words)


def cost_cells(costs: Costs, scale: str) -> dict[str, str]:
    """Return costs as a table shows them: time if one GPU or core did it all, tokens in millions, FLOPs, disk."""
    flops = costs.sampling_flops + costs.training_flops
    numbers = {"sampled, M": costs.sampled_tokens / 1e6, "trained, M": costs.trained_tokens / 1e6}
    if scale in ON_GPUS:
        numbers |= {"EFLOP": flops / 1e18, "disk, GB": costs.disk_bytes / 1e9}
    else:
        numbers |= {"TFLOP": flops / 1e12, "disk, MB": costs.disk_bytes / 1e6}
    cells = {name: f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for name, value in numbers.items()}
    return {"GPU time" if scale in ON_GPUS else "core time": duration(costs.device_s)} | cells


def run_table(plan: Plan) -> pd.DataFrame:
    """Return a row per run, and the total."""
    rows = []
    for run, costs in zip(plan.runs, plan.costs, strict=True):
        name = f"{', '.join(run.arms) or f'{run.method}-{run.policy}'} s{run.seed}"
        what = {"run": name, "steps": str(run.config.schedule.steps), "sets": str(len(run.evaluations))}
        rows.append(what | cost_cells(costs, plan.scale) | {"to do": run.reason or "nothing: done"})
    return pd.DataFrame([*rows, {"run": "all", **cost_cells(plan.total, plan.scale)}]).fillna("")


def memory_table(plan: Plan) -> pd.DataFrame:
    """Return a row per base: GiB on one GPU by part."""
    trained = {run.policy: run.config for run in reversed(plan.runs) if run.method != "pretrain"}
    rows = [
        {"GiB per GPU": policy}
        | {part: f"{size / GIB:.1f}" for part, size in memory(config, shape_of(config), plan.machine).items()}
        for policy, config in reversed(trained.items())
    ]
    return pd.DataFrame(rows)


def warnings_in(plan: Plan) -> list[str]:
    """Return what does not fit, policy by policy."""
    found = [f"{run.policy}: {text}" for run in plan.runs if run.method != "pretrain"
             for text in warnings_of(run.config, shape_of(run.config), plan.machine)]  # fmt: skip
    return list(dict.fromkeys(found))


def assumptions(plan: Plan) -> str:
    """Return how long all takes, and what is assumed besides the settings."""
    machine = plan.machine
    whole = f"about {duration(plan.wall_s)} in all"
    if plan.scale not in ON_GPUS:
        nothing = "rates that no run has confirmed yet" if plan.total.device_s else "nothing: no run is left"
        at_once = f"{plan.jobs} run{'s' * (plan.jobs > 1)} at a time on cores that do nothing else"
        return f"{whole}, {at_once}, judging by {plan.basis or nothing}"
    at_once = f"{plan.jobs} runs at a time, each" if plan.jobs > 1 else "one run after the other,"
    how = "measured" if machine.measured else "stated, not measured"
    return (
        f"{whole}, {at_once} on {machine.gpus} GPU{'s' * (machine.gpus > 1)} of "
        f"{machine.memory_gib:.0f} GiB and {machine.peak_tflops:.0f} TFLOP/s; utilisation ({how}): training "
        f"{machine.training_utilisation:.0%}, sampling {machine.sampling_utilisation:.0%}; a sampler draws at most "
        f"{machine.engine_tokens_per_s:,.0f} tokens/s, a run takes {machine.start_s:.0f} s to start; a response has "
        f"{machine.response_share:.0%} of its limit on average"
    )


def print_plan(plan: Plan, root: Path, console: Any) -> None:
    """Print a row per run, and for GPUs memory by policy, what does not fit, and a command per run."""
    if not plan.runs:
        console.print("no run is needed: everything follows from published numbers")
        return
    console.print(run_table(plan).to_string(index=False))
    console.print(assumptions(plan))
    if plan.scale in ON_GPUS:
        console.print(memory_table(plan).to_string(index=False))
        for text in (found := warnings_in(plan)):
            console.print(f"does not fit: {text}", style="red")
        if not found:
            console.print("everything fits")
        console.print("one command per run, in an order in which what a run starts from comes first:")
        for run in plan.runs:
            console.print(command(run, root, plan.machine))
