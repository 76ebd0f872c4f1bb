"""The golden numbers: a few per step of small fixed runs; ``python -m tests.golden`` renews them where they may change.

Every method in both recipes and every row that acts on rollouts, with a scripted sampler on the real engine; three
updates of base training; and one run with everything real. Together they hold still whatever could change a result
without changing a setting.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from hpt.config.run_config import NUMERICS_VERSION, RunConfig, digest
from hpt.config.scales import RECIPES
from hpt.data.problems import problems_hash
from hpt.data.world.lookup import MINI_LOOKUPS, TINY_LOOKUPS
from hpt.data.world.lookup_corpus import build_tokenizer, encoded_documents, learning_rate_factor
from hpt.data.world.worlds import base_recipe, evaluation_sets, training_problems
from hpt.methods.methods import METHODS
from hpt.runs.folder import RunFolder
from hpt.runs.resolve import base_config, build_config
from hpt.training.bases import BaseOptimizer, new_model, weighted
from hpt.training.engine import PolicyEngine, Updater
from hpt.training.policy import load_model
from hpt.upge.estimator import ROWS
from tests.digits import digits_config, write_digits
from tests.jobs import run_to_end
from tests.scripted import SMALL, make_trainer

PATH = Path(__file__).with_name("golden.json")
RENEW = ".venv/bin/python -m tests.golden"
#: Relative; 32-bit sums in another order move these numbers by up to 1e-4 within so few steps, a changed formula by
#: more than 1e-2.
TOLERANCE = 1e-3
#: Numbers near zero (a loss whose advantages cancel) are compared by their distance instead.
ABSOLUTE = 1e-5
COLUMNS = ("loss/total", "optim/gradient_norm", "trained/demonstration_nll", "estimator/approx_kl", "rollout/entropy")

#: Name of a trajectory -> its numbers: column -> one per step (None where it has none).
Numbers = dict[str, dict[str, list[float | None]]]


def numbers(rows: list[dict[str, Any]] | pd.DataFrame, columns: tuple[str, ...] = COLUMNS) -> dict[str, Any]:
    """Return some columns of a run's metrics, seven digits each."""
    table = pd.DataFrame(rows)
    return {
        name: [None if pd.isna(value) else float(f"{value:.7g}") for value in table[name]]
        for name in columns
        if name in table
    }


def scripted_configs() -> dict[str, RunConfig]:
    """The settings of the scripted trajectories by name."""
    methods = {
        f"{method}, {recipe}": build_config(method, scale="tiny", recipe=recipe, settings=SMALL)
        for method in METHODS
        if method != "pretrain"
        for recipe in RECIPES
    }
    rows = [name for name in ROWS if name != "ppo" and not name.startswith(("sft", "srft", "luffy", "offline", "dft"))]
    settings = {"estimator.clip_eps_low": "row", "estimator.clip_eps_high": "row", "estimator.advantage_std": "row"}
    online = {
        f"grpo with row {row}": build_config(
            "grpo", scale="tiny", settings={**SMALL, **settings, "estimator.online_row": row}
        )
        for row in rows
    }
    return methods | online


def scripted(config: RunConfig) -> dict[str, Any]:
    """Train three steps with the scripted sampler, of which a second stage has one."""
    trainer = make_trainer(config)
    trainer.train(3)
    return numbers(trainer.rows["metrics"])


def base_training(folder: Path) -> dict[str, Any]:
    """Three updates of the tiny world's weak base."""
    config = base_config(build_config("hpt", scale="tiny", policy="weak"))
    recipe, tokenizer = base_recipe(TINY_LOOKUPS.name, "weak"), build_tokenizer(TINY_LOOKUPS)
    model = load_model(new_model(TINY_LOOKUPS, recipe, folder, config.seed))
    engine = PolicyEngine(
        model, config.engine, config.optimizer, make_optimizer=lambda module: BaseOptimizer(module, recipe)
    )
    updater, rows = Updater(engine, [ROWS["sft"]]), []
    for step in range(3):
        drawn = encoded_documents(TINY_LOOKUPS, recipe, tokenizer, config.seed, step)
        batch = weighted([([tokenizer.bos_token_id, *prompt], *learnt) for prompt, *learnt in drawn])
        outcome, sums = updater.update(batch, learning_rate_factor(recipe, step))
        nll = sums["demonstration_nll"] / sums["demonstration_tokens"]
        rows.append({"trained/demonstration_nll": nll, "optim/gradient_norm": outcome.gradient_norm})
    return numbers(rows)


def data() -> dict[str, str]:
    """Hashes of the questions of worlds with records or golden numbers: exact, they are made of whole numbers."""
    found = {}
    for world in (MINI_LOOKUPS, TINY_LOOKUPS):
        name = world.name
        found[f"{name}, training"] = problems_hash(training_problems(world))
        for own in evaluation_sets(world).values():
            found[f"{name}, {own.name}"] = problems_hash(list(own.problems))
    return found


#: Settings of the real runs, of which the second has a head that is its embedding, besides those of `tests.digits`.
REAL = {"schedule__steps": 10}
#: While every question learns from its demonstration, a sample that another processor draws differently moves nothing.
REAL_STEPS = 5
REAL_COLUMNS = ("loss/total", "optim/gradient_norm", "trained/demonstration_nll")


def real(folder: RunFolder) -> dict[str, Any]:
    """The steps of a real run that every processor takes alike."""
    return numbers(folder.table("metrics").head(REAL_STEPS), REAL_COLUMNS)


def settings_digest(configs: list[RunConfig]) -> str:
    """Hash the settings the numbers belong to; where weights and data lie, and on what they are, is left out."""
    contents = [config.telling() for config in configs]
    return digest(
        [{name: own for name, own in content.items() if name not in ("policy", "data")} for content in contents]
    )


def main() -> None:
    """Compute everything anew and write it down."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        world = write_digits(folder / "digits")
        tied = write_digits(folder / "tied", tied=True)
        config = digits_config("hpt", world, **REAL)
        configs = scripted_configs()
        trajectories: Numbers = {name: scripted(own) for name, own in configs.items()}
        trajectories["base training"] = base_training(folder / "base")
        trajectories["real hpt"] = real(run_to_end(config, folder / "run"))
        trajectories["real hpt, tied"] = real(run_to_end(digits_config("hpt", tied, **REAL), folder / "tied-run"))
        content = {
            "numerics_version": NUMERICS_VERSION,
            "settings": settings_digest([*configs.values(), config]),
            "data": data(),
            "trajectories": trajectories,
        }
    PATH.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {PATH}: {len(trajectories)} trajectories of numerics version {NUMERICS_VERSION}")


if __name__ == "__main__":
    main()
