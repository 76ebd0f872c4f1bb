"""The evaluations of a finished run: what they are, which are missing, and making them (Section 3.1); what a run lacks.

How one set is sampled and graded is `hpt.evaluation.evaluate`.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from hpt.config.run_config import RunConfig
from hpt.data.models import load_tokenizer
from hpt.data.problems import EvaluationSet, Problem
from hpt.data.sources import evaluation_set, recorded_name, with_samples
from hpt.evaluation.evaluate import EvaluationSettings, evaluation_law, kept_answers, sample_answers
from hpt.rewards.workers import Verifier
from hpt.runs.folder import FOLDER, RunFolder, add_checksum, damaged_files, has_checksum
from hpt.runs.resolve import build_config
from hpt.support.errors import ConfigError
from hpt.support.files import write_parquet
from hpt.training.ranks import Ranks
from hpt.training.sampler import Sampler


def evaluation_key(
    config: RunConfig, name: str, hashes: Mapping[str, str] | None = None
) -> tuple[EvaluationSettings, EvaluationSet, str]:
    """Return (sampling settings, set, key) of the final evaluation of a run (Section 3.1).

    ``name`` is an evaluation set or the path of the user's questions; ``validation``, on which settings are chosen and
    which no table reports; or ``set@samples`` for another number of answers per problem than the set's. Of sets whose
    problems' ``hashes`` are known, by name, no problem is made.
    """
    config = sampling_config(config)
    of_set, samples = with_samples(name)
    chosen = evaluation_set(config, of_set)
    if samples is not None and not (samples.isdecimal() and int(samples) > 0):
        raise ConfigError("evaluation", name, "set@samples with samples of at least 1", f"write e.g. {of_set}@256")
    settings = evaluation_law(config, int(samples or chosen.samples_per_problem))
    return settings, chosen, settings.key((hashes or {}).get(of_set) or chosen.problems)


def sampling_config(config: RunConfig) -> RunConfig:
    """Return the settings a policy is evaluated with: its run's, or for a base made here or fetched, its scale's."""
    if config.method != "pretrain" or config.data.source.startswith(FOLDER):
        return config
    settings = {"data.folder": config.data.folder}
    return build_config("hpt", scale=config.scale, policy=config.policy.name, settings=settings)


def missing_evaluations(folder: RunFolder, config: RunConfig, names: Sequence[str]) -> list[str]:
    """Return the evaluations of ``names`` that a run does not have yet, with a checksum that tells later damage."""
    paths = {name: folder.evaluation_path(recorded_name(config, name), evaluation_key(config, name)[2])
             for name in names}  # fmt: skip
    return [name for name, path in paths.items() if not has_checksum(folder, path)]


def lacking(
    folder: RunFolder, config: RunConfig, names: Sequence[str], files: bool = True, weights: bool = True
) -> str:
    """Return what is not done of a run that is to be evaluated on ``names``; empty where everything is.

    With ``files`` also which of them are damaged, the ``weights`` among them, which may take long to hash.
    """
    status = folder.status
    if status["state"] != "finished":
        said = {"new": "not made yet", "damaged": "its status.json is damaged"}
        return said.get(status["state"], f"stopped at step {status['step']}")
    if files and (damaged := damaged_files(folder, weights)):
        return "damaged: " + ", ".join(damaged)
    missing = missing_evaluations(folder, config, names)
    return "not evaluated on " + ", ".join(missing) if missing else ""


def evaluate_run(
    folder: RunFolder, config: RunConfig, names: Sequence[str], sampler: Sampler | None, ranks: Ranks
) -> None:
    """Sample the final policy on every set of ``names`` that it has not been sampled on yet.

    ``sampler`` already holds the final weights; None loads them from ``folder.model``. Every one of ``ranks`` takes a
    share of the problems, rank 0 writes.
    """
    # rank 0 looks for all: while another rank still looks, it may have written the first file already
    missing = ranks.gather(missing_evaluations(folder, config, names) if ranks.rank == 0 else [])
    if not missing:
        return
    from hpt.training.policy import computed_config

    tokenizer = load_tokenizer(folder.model)
    config = computed_config(sampling_config(config), folder.begun.get("dtype", ""))
    width = config.rollout.tensor_parallel
    sampler = sampler or Sampler(str(folder.model), config.rollout, config.policy.dtype, ranks.ranks)
    with Verifier(timeout_s=config.rollout.verifier_timeout_s) as verifier:
        for name in missing:
            settings, of_set, key = evaluation_key(config, name)
            problems = of_set.problems
            called = recorded_name(config, name)
            keep = kept_answers(called, problems, settings.samples_per_problem)
            share = {called: ranks.share(problems, width)}
            answers = sample_answers(sampler, verifier, tokenizer, share, settings, keep)
            if ranks.ranks > 1:
                answers = in_order(ranks.gather_shares([answers], width), problems)
            if ranks.rank == 0:
                path = folder.evaluation_path(called, key)
                write_parquet(path, answers)
                add_checksum(folder, path)


def in_order(shares: Sequence[pd.DataFrame], problems: Sequence[Problem]) -> pd.DataFrame:
    """Return the answers of all ranks as one rank would have written them, problem by problem."""
    place = {problem.id: index for index, problem in enumerate(problems)}
    answers = pd.concat([share for share in shares if len(share)], ignore_index=True)
    return answers.sort_values("problem_id", key=lambda ids: ids.map(place), kind="stable", ignore_index=True)
