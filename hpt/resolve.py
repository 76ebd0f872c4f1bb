"""What a run starts from, and its configuration with the hashes of data, weights and modules filled in."""

from pathlib import Path

from hpt.config import RunConfig
from hpt.data.sources import training_problems_of
from hpt.errors import HptError
from hpt.integrity import check, damaged_files
from hpt.methods import names_used
from hpt.model_folder import check_context, check_model_folder, model_hashes
from hpt.plugins import module_hashes
from hpt.runs import RunFolder
from hpt.tasks.corpus import BASES
from hpt.tasks.problems import problems_hash


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
    if before is None:
        return True
    if not is_ready(before, root):
        return False
    folder = RunFolder.of(resolve_run(before, root), root)
    return folder.finished and not damaged_files(folder)


def resolve_run(config: RunConfig, root: Path) -> RunConfig:
    """Fill in the hashes of data, initial weights and the user's own modules, and where the weights lie.

    A resolved run stays as it is.

    Raises:
        HptError: what it starts from is not trained yet.
        RecordFault: what it starts from is damaged.
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
        check(folder)  # damaged weights would be another model, and all that starts from them be made again
        path = str(folder.model)
    else:
        check_model_folder(path)
    check_context(path, config.rollout.max_model_tokens)
    hashes = model_hashes(path)
    if config.data.evaluation == "graded" and config.policy.name in BASES.get(config.data.world, {}):
        hashes.pop("config_sha256")  # the recipe says what the world's bases are
    policy = config.policy.model_copy(update={"path": path, **hashes})
    data = config.data.model_copy(update={"sha256": problems_hash(problems)})
    modules = config.own_modules or module_hashes(names_used(config))
    return config.model_copy(update={"policy": policy, "data": data, "own_modules": modules})
