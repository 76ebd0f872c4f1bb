"""One training job = one process: prepare, train (or continue), evaluate. Run as ``python -m hpt.job JOB.json``.

Several ranks run the same module under DeepSpeed's launcher. A job may be killed at any moment and started again.
"""

import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpt.bases import FOLDER, HUB
from hpt.config import RunConfig, validate
from hpt.data.sources import curve_sets, evaluation_set, training_problems_of
from hpt.errors import ConfigError, HptError
from hpt.files import read_json, write_json, write_parquet
from hpt.methods import method_named, stage_at
from hpt.model_folder import check_context, check_model_folder, load_tokenizer, model_hashes, save_model_folder
from hpt.ranks import Ranks, finish_watch, first_failure, join, launched_rank, launched_ranks, report_failure
from hpt.runs import RunFolder, provenance
from hpt.tasks.corpus import BASES
from hpt.tasks.problems import Problem, problems_hash
from hpt.tasks.prompts import EncodedTraining, encode_training


@dataclass(frozen=True)
class Job:
    """What a process is asked to do: train ``config`` below ``root`` if not done, then evaluate on these sets."""

    config: RunConfig
    root: Path
    evaluations: tuple[str, ...] = ()


def base_config(config: RunConfig) -> RunConfig:
    """Return the configuration of the base of ``config``'s policy, trained or fetched; shared by all seeds."""
    from hpt.bases import pretraining_config, public_base_config

    if config.data.evaluation == "public":
        return public_base_config(config.scale, config.policy.name, config.data.folder)
    return pretraining_config(config.scale, config.policy.name, config.data.world)


def initial_run(config: RunConfig) -> RunConfig | None:
    """Return the run whose final weights ``config`` starts from: its base, or the run named by ``policy.after``.

    None for a base, which starts from nothing, and for a model folder of the user's.
    """
    from hpt.scales import build_config

    if config.method == "pretrain" or config.policy.path is not None:
        return None
    if config.policy.after is None:
        return base_config(config)
    return build_config(
        config.policy.after, scale=config.scale, recipe=config.recipe, policy=config.policy.name, seed=config.seed
    )


def is_ready(config: RunConfig, root: Path) -> bool:
    """Return whether the weights ``config`` starts from are there."""
    before = initial_run(config)
    return before is None or (is_ready(before, root) and RunFolder.of(resolve_run(before, root), root).finished)


def resolve_run(config: RunConfig, root: Path) -> RunConfig:
    """Fill in the hashes of data and initial weights, and where the weights lie; a resolved run stays as it is.

    Raises:
        HptError: what it starts from is not trained yet.
    """
    if config.method == "pretrain":
        return config
    problems = training_problems_of(config)
    path = config.policy.path
    if path is None:
        before = initial_run(config)
        assert before is not None
        folder = RunFolder.of(resolve_run(before, root), root)
        if not folder.finished:
            what = f"{before.method} on the {before.policy.name} base" if config.policy.after else "the base"
            remedy = f"run `hpt train --method {before.method} --scale {config.scale} --policy {config.policy.name}`"
            raise HptError(f"{what} ({config.policy.name}) is not trained yet: {remedy}")
        path = str(folder.model)
    else:
        check_model_folder(path)
    check_context(path, config.rollout.max_model_tokens)
    hashes = model_hashes(path)
    if config.data.evaluation == "graded" and config.policy.name in BASES.get(config.data.world, {}):
        hashes.pop("config_sha256")  # the recipe says what the world's bases are
    policy = config.policy.model_copy(update={"path": path, **hashes})
    data = config.data.model_copy(update={"sha256": problems_hash(problems)})
    return config.model_copy(update={"policy": policy, "data": data})


def evaluation_key(config: RunConfig, name: str) -> tuple[Any, list[Problem], str]:
    """Return (sampling settings, problems, key) of the final evaluation of a run on a set (Section 3.1).

    Args:
        config: of the run.
        name: an evaluation set; ``validation``, on which settings are chosen and which no table reports; or
            ``set@samples`` for another number of answers per problem than the set's.

    Raises:
        ConfigError: no such set, or a number of samples that is none.
    """
    from hpt.evaluate import EvaluationSettings

    config = sampling_config(config)
    of_set, at, samples = name.partition("@")
    own = evaluation_set(config, of_set)
    if at and not (samples.isdecimal() and int(samples) > 0):
        raise ConfigError("evaluation", name, "set@samples with samples of at least 1", f"write e.g. {of_set}@256")
    settings = EvaluationSettings(
        samples_per_problem=int(samples) if at else own.samples_per_problem,
        temperature=config.validation.temperature,
        top_p=config.validation.top_p,
        max_response_tokens=config.rollout.max_response_tokens,
        seed=config.seed,
        template=config.data.template,
    )
    problems = list(own.problems)
    return settings, problems, settings.key(problems)


def sampling_config(config: RunConfig) -> RunConfig:
    """Return the settings a policy is evaluated with: its own, or for a base, which samples nothing, its scale's."""
    from hpt.scales import build_config

    if config.method != "pretrain":
        return config
    settings: dict[str, Any] = {"data.folder": config.data.folder}
    if config.data.source.startswith(FOLDER):
        settings |= {"data.template": config.data.template, "data.evaluation": config.data.evaluation}
    return build_config("hpt", scale=config.scale, policy=config.policy.name, settings=settings)


def missing_evaluations(folder: RunFolder, config: RunConfig, names: Sequence[str]) -> list[str]:
    """Return the evaluations of ``names`` that a run does not have yet."""
    return [name for name in names if not folder.evaluation_path(name, evaluation_key(config, name)[2]).exists()]


def run_job(job: Job) -> RunFolder:
    """Do a job from wherever it stands to its end, in this process.

    Raises:
        HptError: another process holds the run, or training stopped with a fault (the message says what to do).
    """
    config = resolve_run(job.config, job.root)
    folder = RunFolder.of(config, job.root)
    os.environ.setdefault("OMP_NUM_THREADS", str(config.engine.threads))
    # rank 0 holds the run for all; the others meet it when they join the process group
    with folder.lock() if launched_rank() == 0 else nullcontext():
        if launched_rank() == 0:
            folder.create(config)
        ranks, sampler = join(), None
        if not folder.finished:
            try:
                sampler = _train(config, folder)
            except (HptError, KeyboardInterrupt) as error:
                folder.set_status("stopped", folder.status["step"], message=str(error) or "interrupted")
                raise
        ranks.barrier()  # rank 0 alone fetches a model, and writes the last records
        evaluate_run(folder, config, job.evaluations, sampler, ranks)
        ranks.barrier()
    return folder


def _train(config: RunConfig, folder: RunFolder) -> Any:
    """Train to the end; returns the sampler holding the final weights, when the method has one."""
    import torch

    from hpt.checkpoint import damaged_checkpoints

    torch.set_num_threads(config.engine.threads)
    started = time.perf_counter()
    if config.method == "pretrain":
        _make_base(config, folder)
        sampler = None
    else:
        sampler = _post_train(config, folder)
    if launched_rank() == 0:
        found = {"damaged_checkpoints": damaged_checkpoints(folder.path / "checkpoints")}
        write_json(folder.path / "provenance.json", provenance(time.perf_counter() - started) | found)
        folder.set_status("finished", config.schedule.steps)
    return sampler


def _make_base(config: RunConfig, folder: RunFolder) -> None:
    """Train a base, or fetch it and change what the paper changes, or take the user's as it is."""
    if config.data.source.startswith(HUB):
        from hpt.public_models import MODELS, prepare_model

        if launched_rank() == 0:
            prepare_model(MODELS[config.policy.name], folder.model)
    elif config.data.source.startswith(FOLDER):
        if launched_rank() == 0:
            folder.model.unlink(missing_ok=True)
            folder.model.symlink_to(str(config.policy.path))
    else:
        from hpt.pretrain import pretrain

        pretrain(config, folder)


def encoded_training(config: RunConfig, tokenizer: Any) -> EncodedTraining:
    """Return a run's training set as tokens.

    Raises:
        ConfigError: an unreadable row, a missing demonstration, a prompt or demonstration over its limit.
    """
    method = method_named(config.method)
    stages = [method_named(name) for name in method.stages] or [method]
    needed = any(stage.needs_demonstrations for stage in stages)
    return encode_training(tokenizer, training_problems_of(config), config, needed)


def _post_train(config: RunConfig, folder: RunFolder) -> Any:
    import torch

    from hpt.checkpoint import load_newest, save_checkpoint
    from hpt.engine import PolicyEngine
    from hpt.policy import PolicyModule, attention_and_layout, load_model
    from hpt.rewards import Verifier
    from hpt.rollout import Sampler
    from hpt.trainer import Trainer

    checkpoints = folder.path / "checkpoints"
    base = str(config.policy.path)
    tokenizer = load_tokenizer(base)
    data = encoded_training(config, tokenizer)
    if launched_rank() == 0:
        write_json(folder.path / "data.json", {"problems": len(data.problems), **data.counts})
    dtype = getattr(torch, config.policy.dtype)

    attention, layout = attention_and_layout(config.engine.attention, config.engine.layout, config.policy.dtype)
    chosen = config.engine.model_copy(update={"attention": attention, "layout": layout})

    def engine_from(model_folder: str) -> PolicyEngine:
        model = load_model(model_folder, dtype, attention)
        return PolicyEngine(model, chosen, config.optimizer, config.policy.dtype)

    with Verifier(timeout_s=config.rollout.verifier_timeout_s) as verifier:
        engine = engine_from(base)
        # rank 0 looks for all: it sets damaged checkpoints aside, and two ranks must not disagree on where to continue
        ((path, state, records),) = engine.gather([load_newest(checkpoints)] if engine.rank == 0 else [])
        sampler = Sampler(base, config.rollout, config.policy.dtype, engine.ranks)
        reference = None
        if config.estimator.kl_coefficient:
            reference = PolicyModule(load_model(base, dtype, attention)).to(engine.device).requires_grad_(False)
        if path is not None:
            engine.load_state(path)
        trainer = Trainer(
            config, data.problems, data.prompts, data.demonstrations, curve_sets(config), tokenizer, engine, sampler,
            verifier, reference, state, records,
        )  # fmt: skip

        def save() -> None:
            save_checkpoint(checkpoints, engine, trainer.state, trainer.tables(), config.checkpoint.keep)

        def after_step() -> None:
            step = trainer.state.step
            if step % config.checkpoint.every == 0 or step == stage_end:
                save()
            if engine.rank == 0:
                folder.set_status("running", step, **progress(trainer.rows["metrics"], config))

        while state.step < config.schedule.steps:
            _, start, length = stage_at(config, state.step)
            stage_end = start + length
            if state.step == start and start > 0:
                # a new stage: the same weights, a fresh optimiser
                save_model_folder(engine, tokenizer, folder.path / "stage")
                engine.close()
                engine = engine_from(str(folder.path / "stage"))
                trainer.use_engine(engine)
            trainer.train(stage_end, after_step)
        save_model_folder(engine, tokenizer, folder.model)
        if engine.rank == 0:
            folder.write_tables(trainer.tables())
        engine.barrier()
    return sampler


def progress(metrics: list[dict[str, Any]], config: RunConfig) -> dict[str, Any]:
    """Return what a progress line shows: reward, offline ratio, seconds left."""
    last = metrics[-20:]
    left = (config.schedule.steps - metrics[-1]["step"] - 1) * float(np.mean([row["time/step_s"] for row in last]))
    return {
        "steps": config.schedule.steps,
        "reward": metrics[-1].get("rollout/reward"),
        "offline_ratio": metrics[-1].get("gate/offline_ratio_prompts"),
        "left_s": round(left, 1),
    }


def evaluate_run(
    folder: RunFolder, config: RunConfig, names: Sequence[str], sampler: Any = None, ranks: Ranks | None = None
) -> None:
    """Sample the final policy on every set of ``names`` that it has not been sampled on yet.

    Args:
        folder: of the finished run.
        config: of the run.
        names: evaluation sets, see `evaluation_key`.
        sampler: one that already holds the final weights; None loads them from ``folder.model``.
        ranks: every rank takes a share of the problems, rank 0 writes; None = this process alone.
    """
    ranks = ranks or Ranks()
    # rank 0 looks for all: while another rank still looks, it may have written the first file already
    missing = ranks.gather(missing_evaluations(folder, config, names) if ranks.rank == 0 else [])
    if not missing:
        return
    from hpt.evaluate import sample_answers
    from hpt.rewards import Verifier
    from hpt.rollout import Sampler

    tokenizer = load_tokenizer(folder.model)
    config = sampling_config(config)
    width = config.rollout.tensor_parallel
    sampler = sampler or Sampler(str(folder.model), config.rollout, config.policy.dtype, ranks.ranks)
    with Verifier(timeout_s=config.rollout.verifier_timeout_s) as verifier:
        for name in missing:
            settings, problems, key = evaluation_key(config, name)
            share = {name: ranks.share(problems, width)}
            answers = sample_answers(sampler, verifier, tokenizer, share, settings)
            if ranks.ranks > 1:
                answers = in_order(ranks.gather_shares([answers], width), problems)
            if ranks.rank == 0:
                write_parquet(folder.evaluation_path(name, key), answers)


def in_order(shares: Sequence[Any], problems: Sequence[Problem]) -> Any:
    """Return the answers of all ranks as one rank would have written them, problem by problem."""
    import pandas as pd

    place = {problem.id: index for index, problem in enumerate(problems)}
    answers = pd.concat([share for share in shares if len(share)], ignore_index=True)
    return answers.sort_values("problem_id", key=lambda ids: ids.map(place), kind="stable", ignore_index=True)


def main(arguments: Sequence[str]) -> int:
    """Entry point of the process; exit code 2 for a user's mistake, 1 for a fault, 130 for an interrupt.

    Of several ranks the one that fails first tells the others why, and all end with its error.
    """
    spec = read_json(Path(arguments[0]))
    job = Job(validate(spec["config"]), Path(spec["root"]), tuple(spec["evaluations"]))
    try:
        run_job(job)
    except HptError as error:
        report_failure(str(error))
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        report_failure("interrupted")
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    except Exception as error:
        if launched_ranks() == 1:
            raise
        traceback.print_exc()
        print(f"error: {first_failure(f'{type(error).__name__}: {error}')}", file=sys.stderr)
        return 1
    finally:
        finish_watch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
