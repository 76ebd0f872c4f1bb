"""One training job = one process: prepare, train (or continue), evaluate. Run as ``python -m hpt.runs.job JOB.json``.

Several ranks run the same module under DeepSpeed's launcher, or torchrun. A job may be killed at any moment and
started again.
"""

import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpt.config.run_config import RunConfig, validate
from hpt.data.models import MODELS, RECORD, load_tokenizer, prepare_model, public_model, save_model_folder
from hpt.data.prompts import EncodedTraining, encode_training
from hpt.data.sources import curve_sets, held_out_problems, training_problems_of
from hpt.methods.methods import names_used, stages_of
from hpt.runs.evaluations import evaluate_run
from hpt.runs.folder import (
    FOLDER,
    HUB,
    RunFolder,
    add_checksum,
    damaged_count,
    provenance,
    set_aside,
    write_checksums,
)
from hpt.runs.resolve import resolve_run
from hpt.support.errors import ConfigError, HptError, warn
from hpt.support.files import read_json, write_json
from hpt.support.memory import check_memory
from hpt.support.plugins import check_unchanged, keep_sources
from hpt.support.process import AVX2
from hpt.training.ranks import (
    finish_watch,
    first_failure,
    launched_rank,
    launched_ranks,
    passed_on,
    report_failure,
    start_watch,
)


@dataclass(frozen=True)
class Job:
    """What a process is asked to do: train ``config`` below ``root`` if not done, then evaluate on these sets."""

    config: RunConfig
    root: Path
    evaluations: tuple[str, ...] = ()

    @cached_property
    def folder(self) -> RunFolder:
        """Its run's, where the configuration is resolved."""
        return RunFolder.of(self.config, self.root)

    @property
    def name(self) -> str:
        return self.folder.path.name


def write_job(job: Job, folder: RunFolder, variables: Mapping[str, str]) -> Path:
    """Write what a process is asked to do into its run's folder, with what ranks elsewhere need of its environment."""
    path = folder.path / "job.json"
    asked = {"config": job.config.model_dump(mode="json"), "root": str(job.root), "evaluations": list(job.evaluations)}
    write_json(path, asked | {"environment": passed_on(variables)})
    return path


def _read_job(path: Path) -> Job:
    """Read what `write_job` wrote and set the variables that this machine lacks, before PyTorch is imported."""
    asked = read_json(path)
    for name, value in asked.get("environment", {}).items():
        os.environ.setdefault(name, value)
    config = validate(asked["config"])
    os.environ.setdefault("OMP_NUM_THREADS", str(config.engine.threads))
    if config.engine.instruction_set == "avx2":
        os.environ.update(AVX2)
    return Job(config, Path(asked["root"]), tuple(asked["evaluations"]))


def run_job(job: Job) -> RunFolder:
    """Do a job from wherever it stands to its end, in this process."""
    config = resolve_run(job.config, job.root)
    folder = RunFolder.of(config, job.root)
    # rank 0 holds the run for all; the others meet it when they join the process group
    with folder.lock() if launched_rank() == 0 else nullcontext():
        if launched_rank() == 0:
            if folder.finished and set_aside(folder) and (path := folder.path / "provenance.json").exists():
                write_json(path, read_json(path) | {"damaged_files": damaged_count(folder)})
                add_checksum(folder, path)
            folder.create(config)
        if not folder.finished:
            check_unchanged(config.own_modules, names_used(config))
            if launched_rank() == 0:
                keep_sources(names_used(config), folder.path / "own_modules")
        from hpt.training.engine import join

        ranks, sampler = join(), None
        if not folder.finished:
            try:
                sampler = _train(config, folder)
            except (HptError, KeyboardInterrupt) as error:
                with suppress(HptError):  # on a full disk this fails too, and the first error says more
                    folder.set_status("stopped", folder.status["step"], message=str(error) or "interrupted")
                raise
        ranks.barrier()  # rank 0 alone fetches a model, and writes the last records
        evaluate_run(folder, config, job.evaluations, sampler, ranks)
        ranks.barrier()
    return folder


def _train(config: RunConfig, folder: RunFolder) -> Any:
    """Train to the end; returns the sampler holding the final weights, when the method has one."""
    import torch

    from hpt.training.checkpoint import damaged_checkpoints
    from hpt.training.policy import computed_config

    torch.set_num_threads(config.engine.threads)
    started = time.perf_counter()
    sampler = None
    if config.method == "pretrain":
        _make_base(config, folder)
    else:
        config = computed_config(config, folder.begun.get("dtype", ""))
        sampler = _post_train(config, folder)
    if launched_rank() == 0:
        path = folder.path / "provenance.json"
        # there already: the run had ended, and only what was damaged of it is made again, from its own checkpoint
        made = read_json(path) if path.exists() else provenance(time.perf_counter() - started)
        made.setdefault("instruction_set", torch.backends.cpu.get_cpu_capability())
        made |= {} if config.method == "pretrain" else {"dtype": config.policy.dtype}
        made |= {"damaged_checkpoints": damaged_checkpoints(folder.path / "checkpoints"),
                 "damaged_files": damaged_count(folder)}  # fmt: skip
        messages = list[str]()
        if len(kinds := folder.begun.get("processors", [])) > 1:
            made["processors"] = kinds
            messages.append(f"it went from one kind of processor to another ({'; '.join(kinds)}), which rounds "
                            "otherwise: its bits are not those of a run on one kind")  # fmt: skip
        write_json(path, made)
        write_checksums(folder)
        trained = config.method != "pretrain" and config.schedule.steps > 0
        if trained and not folder.table("metrics")["optim/updates"].any():
            messages.append("no update was made, the weights are those it started from: no step had a gradient that "
                            "could be taken (see rollout/reward and optim/skipped_updates in its metrics)")  # fmt: skip
        for message in messages:
            warn(f"{folder.path.name}: {message}")
        folder.set_status("finished", config.schedule.steps, **({"message": "; ".join(messages)} if messages else {}))
    return sampler


def _make_base(config: RunConfig, folder: RunFolder) -> None:
    """Train a base, or fetch it and change what the paper changes, or take the user's as it is."""

    def note(step: int) -> None:
        folder.set_status("running", step)

    if config.data.source.startswith(HUB):
        if launched_rank() == 0 and not (folder.fetched(config) / RECORD).is_file():
            prepare_model(MODELS[public_model(config.scale, config.policy.name) or ""], folder.fetched(config))
        if config.schedule.steps:
            _check_memory(config)
            from hpt.training.bases import teach_format

            folder.write_tables({"metrics": teach_format(config, folder.path, note)})
    elif config.data.source.startswith(FOLDER):
        if launched_rank() == 0:
            folder.model.unlink(missing_ok=True)
            folder.model.symlink_to(str(config.policy.path))
    else:
        from hpt.training.bases import pretrain

        folder.write_tables({"metrics": pretrain(config, folder.path, note)})


def encoded_training(config: RunConfig, tokenizer: Any) -> EncodedTraining:
    """Return a run's training set as tokens; what is unreadable, missing or over its limit is refused."""
    needed = any(stage.method.needs_demonstrations for stage in stages_of(config))
    return encode_training(tokenizer, training_problems_of(config), config, needed)


def _check_memory(config: RunConfig) -> None:
    """Refuse to load a public model where a run of it does not fit, on CPU."""
    import torch

    model = MODELS.get(public_model(config.scale, config.policy.name) or "")
    if model is not None and not torch.cuda.is_available():
        check_memory(model.cpu_gib, f"a run of {model.title}")


def _post_train(config: RunConfig, folder: RunFolder) -> Any:
    import torch

    from hpt.evaluation.evaluate import validation_rows
    from hpt.rewards.workers import Verifier
    from hpt.training.checkpoint import load_newest, save_checkpoint
    from hpt.training.engine import PolicyEngine
    from hpt.training.guards import check_own_forward, spread_sample
    from hpt.training.policy import PolicyModule, attention_and_layout, load_model
    from hpt.training.sampler import Sampler
    from hpt.training.trainer import Trainer

    checkpoints = folder.path / "checkpoints"
    base = str(config.policy.path)
    if (Path(base) / RECORD).is_file():
        _check_memory(config)
    tokenizer = load_tokenizer(base)
    data = encoded_training(config, tokenizer)
    if launched_rank() == 0:
        counts = {"problems": len(data.problems), **data.counts, "held_out": len(held_out_problems(config))}
        write_json(folder.path / "data.json", counts)
    dtype = getattr(torch, config.policy.dtype)
    attention, layout = attention_and_layout(config.engine.attention, config.engine.layout, config.policy.dtype)
    chosen = config.engine.model_copy(update={"attention": attention, "layout": layout})
    with Verifier(timeout_s=config.rollout.verifier_timeout_s) as verifier:
        engine = PolicyEngine(load_model(base, dtype, attention), chosen, config.optimizer, config.policy.dtype)
        check_own_forward(engine, spread_sample(list(data.prompts.values()), 4)[:4], config)
        path, state, records = load_newest(checkpoints, engine)
        state.dtype = config.policy.dtype
        sampler = Sampler(base, config.rollout, config.policy.dtype, engine.ranks)
        reference = None
        if any(stage.config.estimator.kl_coefficient for stage in stages_of(config)):
            reference = PolicyModule(load_model(base, dtype, attention)).to(engine.device).requires_grad_(False)
        if path is not None:
            engine.load_state(path)
        curves = curve_sets(config)
        trainer = Trainer(
            config, data.problems, data.prompts, data.demonstrations, tokenizer, engine, sampler, verifier, reference,
            state, records,
            validate=lambda step: validation_rows(sampler, verifier, tokenizer, curves, config, step, engine),
        )  # fmt: skip

        def save() -> None:
            save_checkpoint(checkpoints, engine, trainer.state, trainer.tables(), config.checkpoint.keep)

        def after_step() -> None:
            step = trainer.state.step
            if step % config.checkpoint.every == 0 or step == trainer.stage.end:
                save()
            if engine.rank == 0:
                last = trainer.rows["metrics"][-1]
                shown = {"reward": last.get("rollout/reward"), "offline_ratio": last.get("gate/offline_ratio_prompts")}
                folder.set_status("running", step, **shown)
                print(f"step {step} of {config.schedule.steps}", flush=True)

        trainer.check_sampler()  # a model that the sampler computes otherwise is refused before anything is trained
        trainer.train(config.schedule.steps, after_step)
        trainer.check_sampler()  # the evaluations that follow sample from it
        save_model_folder(engine, tokenizer, folder.model)
        if engine.rank == 0:
            folder.write_tables(trainer.tables())
        engine.barrier()
    return sampler


def main(arguments: Sequence[str]) -> int:
    """Entry point of the process; exit code 2 for a user's mistake, 1 for a fault, 130 for an interrupt.

    Of several ranks the one that fails first tells the others why, and all end with its error.
    """
    try:
        try:
            job = _read_job(Path(arguments[0]))
        finally:
            start_watch()  # from here on, the others end too when this rank does
        run_job(job)
    except HptError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # before the others end, and the launcher this one
        report_failure(str(error))
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr, flush=True)
        report_failure("interrupted")
        return 130
    except Exception as error:
        if launched_ranks() == 1:
            raise
        traceback.print_exc()
        print(f"error: {first_failure(f'{type(error).__name__}: {error}')}", file=sys.stderr)
        return 1
    finally:
        finish_watch()
    if launched_rank() == 0:
        print(f"finished: {job.config.schedule.steps} steps, {len(job.evaluations)} evaluation sets", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
