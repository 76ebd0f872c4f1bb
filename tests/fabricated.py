"""Run folders with the real schema and made-up numbers, so that reports can be tested without training anything."""

from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from hpt.config.run_config import RunConfig
from hpt.data.sources import curve_sets, recorded_name, training_problems_of
from hpt.evaluation.evaluate import kept_answers
from hpt.methods.methods import method_named
from hpt.runs.evaluations import evaluation_key
from hpt.runs.folder import RunFolder, add_checksum, write_checksums
from hpt.runs.make import PlannedRun, planned_runs
from hpt.runs.records import RunRecords, load_runs
from hpt.support.files import write_json, write_parquet
from hpt.training.metrics import METRICS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: Where accuracy ends up, so that tables and verdicts have something to tell apart.
SKILL = {"pretrain": 0.1, "sft": 0.45, "grpo": 0.4, "luffy": 0.5, "hpt": 0.8}


def fabricate(
    root: Path, artefacts: Sequence[str] = (), seeds: Sequence[int] = (0,), scale: str = "tiny",
    evaluations: Sequence[str] = (), **settings: object,
) -> list[PlannedRun]:  # fmt: skip
    """Write finished run folders for everything the artefacts need, bases first, and return the finished plan."""
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    asked = {"scale": scale, "artefacts": artefacts, "seeds": seeds, "root": root, "evaluations": evaluations}
    with mock.patch("os.fsync"):  # hundreds of small files; nothing here has to outlive a power cut
        while left := [run for run in planned_runs(**asked, settings=dotted) if not run.done]:
            for run in left:
                if run.folder is not None:  # the others start from one of these
                    write_run(run.folder, run.config, run.evaluations)
    plan = planned_runs(**asked, settings=dotted)
    assert all(run.done for run in plan)
    return plan


def fabricated_records(root: Path, artefact: str, seeds: Sequence[int] = (0,)) -> list[RunRecords]:
    """Fabricate the runs of an artefact and return their records as a notebook hands them to its builder."""
    return load_runs(fabricate(root, (artefact,), seeds))


def write_run(folder: RunFolder, config: RunConfig, evaluations: Sequence[str]) -> None:
    """Write one finished run; the numbers depend on method, base, gate and seed alone, of an evaluation on its name."""
    which = f"{config.method} {config.policy.name} {config.gate.count}"
    generator = np.random.default_rng([config.seed, *which.encode()])
    skill = SKILL.get(config.method, 0.5)
    folder.create(config)
    write_json(folder.model / "config.json", {"model_type": "made up"})  # what starts from it looks at its context
    tables = {"metrics": _metrics(config, skill, generator)}
    if config.method != "pretrain":
        tables["rollouts"] = _rollouts(config, skill, generator)
        tables["validation"] = _validation(config, skill, generator)
    folder.write_tables(tables)
    for name in evaluations:
        settings, of_set, key = evaluation_key(config, name)
        problems, samples = of_set.problems, settings.samples_per_problem
        generator = np.random.default_rng([config.seed, *f"{which} {name}".encode()])
        solved = generator.random((len(problems), samples)) < skill
        kept = kept_answers(recorded_name(config, name), problems, samples)
        answers = pd.DataFrame(
            {
                "benchmark": recorded_name(config, name),
                "problem_id": np.repeat([problem.id for problem in problems], samples),
                "level": np.repeat([problem.level for problem in problems], samples),
                "sample": np.tile(np.arange(samples), len(problems)),
                "verdict": np.where(solved.ravel(), "correct", "no_answer"),
                "answer": "<script>alert(1)</script>",
                "response_tokens": generator.integers(5, 40, size=solved.size),
                "finish_reason": "stop",
                "mean_logprob": -0.1,
            }
        )
        asked = zip(answers["problem_id"], answers["sample"], strict=True)
        answers["text"] = [f"<b>{one[0]}" if one in kept else None for one in asked]
        write_parquet(folder.evaluation_path(recorded_name(config, name), key), answers)
    provenance = {
        "commit": COMMIT, "dirty": False, "numerics_version": 1, "python": "3.11", "packages": {"torch": "2.13.0"},
        "machine": "x86_64", "processor": "made up", "finished": "2026-01-01T00:00:00+00:00", "wall_s": 12.5,
    }  # fmt: skip
    write_json(folder.path / "provenance.json", provenance)
    write_checksums(folder)
    for path in sorted(folder.path.glob("evaluations/*")):
        add_checksum(folder, path)
    folder.set_status("finished", config.schedule.steps)


def _metrics(config: RunConfig, skill: float, generator: np.random.Generator) -> pd.DataFrame:
    steps = np.arange(config.schedule.steps)
    progress = steps / max(1, len(steps) - 1)
    frame = pd.DataFrame({name: np.full(len(steps), 1.0) for name in METRICS})
    frame["step"] = steps
    ratio = 0.9 - 0.8 * progress
    frame["rollout/reward"] = skill * progress + generator.normal(0, 0.02, len(steps))
    frame["rollout/entropy"] = 0.5 - 0.3 * progress * (1.2 - skill) + generator.normal(0, 0.01, len(steps))
    frame["rollout/response_length_tokens"] = 20 + 30 * skill * progress + generator.normal(0, 0.5, len(steps))
    frame["gate/offline_ratio_prompts"] = ratio
    frame["gate/offline_ratio_rows"] = ratio / (ratio + 8 * (1 - ratio))
    if not method_named(config.method).samples:
        frame = frame.drop(columns=[name for name in METRICS if name.startswith("rollout/")])
    return frame


def _rollouts(config: RunConfig, skill: float, generator: np.random.Generator) -> pd.DataFrame:
    problems, size = training_problems_of(config), config.schedule.prompts_per_step
    rows = [
        {
            "step": step, "problem_id": problem.id, "level": problem.level,
            "correct": int(generator.binomial(8, skill)), "rollouts": 8, "alpha": 1.0, "beta": 0.0,
            "branch": "rollouts", "response_tokens_mean": 20.0, "entropy": 0.3, "no_answer": 1, "timed_out": 0,
        }
        for step in range(config.schedule.steps)
        for problem in (problems[(step * size + i) % len(problems)] for i in range(size))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _validation(config: RunConfig, skill: float, generator: np.random.Generator) -> pd.DataFrame:
    steps, samples = config.schedule.steps, config.validation.samples_per_problem
    rows = [
        {
            "step": step, "benchmark": name, "problem_id": problem.id, "level": problem.level,
            "correct": int(generator.binomial(samples, 0.1 + (skill - 0.1) * step / max(1, steps))),
            "samples": samples, "response_tokens_mean": 20.0,
        }
        for step in (range(0, steps + 1, config.validation.every) if config.validation.every else ())
        for name, problems in curve_sets(config).items()
        for problem in problems
    ]  # fmt: skip
    return pd.DataFrame(rows)
