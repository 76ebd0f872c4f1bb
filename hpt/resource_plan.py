"""``hpt plan`` for scales on GPUs: what every run takes, what does not fit, and the command that makes each run."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpt.config import RunConfig
from hpt.errors import ConfigError
from hpt.experiments import PlannedRun, planned_runs
from hpt.files import read_json
from hpt.resources import GIB, Costs, Machine, memory, run_costs, shape_of, warnings_of
from hpt.settings import Settings

#: Scales whose runs are planned for GPUs.
ON_GPUS = ("gpu", "full")


@dataclass(frozen=True)
class Plan:
    """The runs of some artefacts, with the costs of each, in order."""

    scale: str
    runs: tuple[PlannedRun, ...]
    costs: tuple[Costs, ...]
    machine: Machine

    @property
    def total(self) -> Costs:
        """Everything together."""
        return Costs(*(sum(getattr(own, name) for own in self.costs) for name in Costs.__dataclass_fields__))


def machine_of(
    scale: str, gpus: int | None, memory_gib: float, peak_tflops: float, measured: Path | None = None
) -> Machine:
    """Return the machine to plan for.

    Args:
        scale: decides how many GPUs there are unless said.
        gpus, memory_gib, peak_tflops: see `Machine`.
        measured: result file of ``python -m benchmarks.gpu``, whose utilisations are taken; None = stated ones.

    Raises:
        ConfigError: the file holds no utilisations.
    """
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


def make_plan(scale: str, artefacts: Sequence[str], seeds: Sequence[int], root: Path, machine: Machine) -> Plan:
    """Return what the artefacts' runs take on ``machine``."""
    runs = tuple(planned_runs(scale, artefacts, seeds, root))
    costs = tuple(run_costs(run.config, shape_of(run.config), machine, answers(run)) for run in runs)
    return Plan(scale, runs, costs, machine)


def answers(run: PlannedRun) -> int:
    """Return how many answers are sampled from a run's final policy, from the sizes the sets must have."""
    from hpt.data.sources import evaluation_set
    from hpt.data.table import dataset_named

    total = 0
    for name in run.evaluations:
        of_set, _, samples = name.partition("@")
        if run.config.data.evaluation == "public":
            dataset = dataset_named(of_set)
            problems, usual = dataset.rows[1], dataset.samples_per_problem
        else:
            own = evaluation_set(run.config, of_set)
            problems, usual = len(own.problems), own.samples_per_problem
        total += problems * int(samples or usual)
    return total


def command(run: PlannedRun, root: Path, machine: Machine) -> str:
    """Return the command that makes a run and its evaluations, as one line for a scheduler.

    Settings that an arm adds to its method's are given one by one, so that the run is found again by its fingerprint.
    """
    from hpt.scales import build_config

    config = run.config
    words = ["hpt", "train", "--method", config.method, "--scale", config.scale, "--policy", config.policy.name]
    if config.method != "pretrain":
        plain = build_config(
            config.method, scale=config.scale, recipe=config.recipe, policy=config.policy.name, seed=config.seed
        )
        words += ["--recipe", config.recipe] if config.recipe != "released" else []
        words += ["--seed", str(config.seed)]
        for name, value in differences(config, plain):
            words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    if run.evaluations:
        words += ["--evaluations", ",".join(run.evaluations)]
    if root != Path("runs"):
        words += ["--runs-dir", str(root)]
    if machine.gpus > 1:
        words += ["--launcher-args", f"--num_gpus {machine.gpus}"]
    return shlex.join(words)


def differences(config: Settings, plain: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every setting of ``config`` that is another one in ``plain``.

    Example:
        >>> from hpt.scales import build_config
        >>> plain = build_config("hpt", scale="tiny")
        >>> list(differences(build_config("hpt", scale="tiny", settings={"gate.count": 2}), plain))
        [('gate.count', 2)]
    """
    for name in type(config).model_fields:
        own, other = getattr(config, name), getattr(plain, name)
        if isinstance(own, Settings):
            yield from differences(own, other, f"{prefix}{name}.")
        elif own != other:
            yield f"{prefix}{name}", own


def cost_rows(plan: Plan) -> list[list[str]]:
    """Return a heading, a row per run, and the total: tokens in millions, FLOPs in 1e18, GPU-hours, disk in GB."""
    rows = [["run", "steps", "sampled, M", "trained, M", "EFLOP", "GPU-hours", "disk, GB"]]

    def row(title: str, steps: str, own: Costs) -> list[str]:
        flops = (own.sampling_flops + own.training_flops) / 1e18
        numbers = (own.sampled_tokens / 1e6, own.trained_tokens / 1e6, flops, own.gpu_hours, own.disk_bytes / 1e9)
        return [title, steps, *(f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in numbers)]

    for run, own in zip(plan.runs, plan.costs, strict=True):
        title = f"{', '.join(run.arms) or run.method} s{run.seed}"
        rows.append(row(title, str(run.config.schedule.steps), own))
    return [*rows, row("all", "", plan.total)]


def memory_rows(plan: Plan) -> list[list[str]]:
    """Return a heading and a row per policy: GiB on one GPU by part."""
    parts = ("parameters", "gathered", "gradients", "optimiser", "activations", "logits_chunk", "sampler_weights",
             "cache", "training", "sampling")  # fmt: skip
    rows = [["GiB per GPU", *(part.replace("_", " ") for part in parts[:-2]), "training in all", "sampling in all"]]
    for config in _trained(plan):
        own = memory(config, shape_of(config), plan.machine)
        rows.append([config.policy.name, *(f"{getattr(own, part) / GIB:.1f}" for part in parts)])
    return rows


def warnings_in(plan: Plan) -> list[str]:
    """Return what does not fit, policy by policy."""
    found = [(run.config, text) for run in plan.runs if run.method != "pretrain"
             for text in warnings_of(run.config, shape_of(run.config), plan.machine)]  # fmt: skip
    return list(dict.fromkeys(f"{config.policy.name}: {text}" for config, text in found))


def assumptions(plan: Plan) -> str:
    """Return what the numbers rest on besides the settings, as a sentence."""
    machine, hours = plan.machine, plan.total.gpu_hours / plan.machine.gpus
    how = "measured" if machine.measured else "stated, not measured"
    shares = f"training {machine.training_utilisation:.0%}, sampling {machine.sampling_utilisation:.0%}"
    gpus = "1 GPU" if machine.gpus == 1 else f"{machine.gpus} GPUs"
    return (
        f"{gpus} of {machine.memory_gib:.0f} GiB and {machine.peak_tflops:.0f} TFLOP/s; utilisation "
        f"({how}): {shares}; a sampler draws at most {machine.engine_tokens_per_s:,.0f} tokens/s, a run takes "
        f"{machine.start_s:.0f} s to start; a response has {machine.response_share:.0%} of its limit on average; "
        f"wall time {hours:,.{0 if hours >= 10 else 1}f} hours, one run after the other"
    )


def _trained(plan: Plan) -> list[RunConfig]:
    """The first trained run of every policy."""
    first: dict[str, RunConfig] = {}
    for run in plan.runs:
        if run.method != "pretrain":
            first.setdefault(run.policy, run.config)
    return list(first.values())


def markdown(plan: Plan) -> str:
    """Return the plan as Markdown, as the README has it: costs by policy, memory, warnings, one command."""
    by_policy: dict[str, list[int]] = {}
    for index, run in enumerate(plan.runs):
        by_policy.setdefault(run.policy, []).append(index)
    heading, *_ = cost_rows(plan)
    rows = [["policy", "runs", *heading[2:]]]
    for policy, own in [*by_policy.items(), ("all", list(range(len(plan.runs))))]:
        part = Plan(plan.scale, tuple(plan.runs[i] for i in own), tuple(plan.costs[i] for i in own), plan.machine)
        rows.append([policy, str(len(own)), *cost_rows(part)[-1][2:]])
    warned = warnings_in(plan)
    fits = "\n".join(f"* does not fit: {text}" for text in warned) if warned else "Everything fits."
    shown = next(run for run in plan.runs if f"hpt-{run.policy}" in run.arms)
    return "\n\n".join(
        (f"For {assumptions(plan)}.", _table(rows), _table(memory_rows(plan)), fits,
         f"The commands, of which `hpt plan --scale {plan.scale}` prints one per run, look like this:",
         f"```\n{command(shown, Path('runs'), plan.machine)}\n```")
    )  # fmt: skip


def print_plan(plan: Plan, root: Path, console: Any) -> None:
    """Print everything: a row per run, memory per policy, warnings, a command per run."""
    from rich.table import Table

    for rows in (cost_rows(plan), memory_rows(plan)):
        table = Table()
        table.add_column(rows[0][0], no_wrap=True)  # a name that is cut is no name
        for name in rows[0][1:]:
            table.add_column(name, justify="right", overflow="fold")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    console.print(f"for {assumptions(plan)}")
    for text in warnings_in(plan):
        console.print(f"does not fit: {text}", style="red", markup=False)
    console.print("one command per run, in an order in which what a run starts from comes first:")
    for run in in_order(plan.runs):
        console.print(f"{command(run, root, plan.machine)}", markup=False, highlight=False)


def in_order(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs with those first that others start from: bases, then what a run comes after."""
    return sorted(runs, key=lambda run: (run.method != "pretrain", run.config.policy.after is not None))


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    return "\n".join(lines)
