"""How a GRPO step's time grows with rollouts, response length and model size: `docs/scaling.svg`.

    python -m benchmarks scaling --steps 4

Untrained models of three sizes draw responses that never end, half of each group is called correct, and sampling and
training are measured apart, in CPU seconds of one thread. Slopes are those of a line through the logarithms: 1 means
twice the seconds for twice as much.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.against_trl import MINI, with_correct
from benchmarks.recording import Result
from benchmarks.world import cpu_seconds, in_a_process, make_trainer, model_config
from hpt.rewards.workers import Verifier

FIGURE = Path(__file__).parent.parent / "docs" / "scaling.svg"
PROMPTS, WARM_UP = 8, 1
#: (width, layers) of the models.
SIZES = ((64, 2), (128, 4), (256, 8))
ROLLOUTS, TOKENS = (4, 8, 16, 32), (16, 32, 64, 128)
MIDDLE = {"width": 128, "rollouts": 8, "tokens": 64}


def write_model(folder: str, target: str, width: int, layers: int) -> None:
    """Write an untrained model of another size with the tokenizer of ``folder``, whose end token it never draws."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.eos_token = MINI.never
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    config.update({
        "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers, "head_dim": 32,
        "num_attention_heads": width // 32, "num_key_value_heads": width // 32, "eos_token_id": tokenizer.eos_token_id,
        "layer_types": ["full_attention"] * layers, "max_position_embeddings": 256,
    })  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(target)
    tokenizer.save_pretrained(target)


def measure(folder: str, width: int, layers: int, steps: int) -> list[dict[str, float]]:
    """Return the seconds of sampling and training of a model with every number of rollouts and every length."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as model, Verifier() as verifier:
        write_model(folder, model, width, layers)
        config = model_config(
            "grpo", model, schedule__prompts_per_step=PROMPTS, schedule__updates_per_step=1,
            optimizer__learning_rate=1e-9, rollout__max_model_tokens=200, rollout__max_logprob_gap=1.0,
            data__overlong_demonstrations="drop", engine__micro_batch_tokens=8_192,
        )  # fmt: skip
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        trainer = make_trainer(config, tokenizer, verifier)
        parameters = sum(own.numel() for own in trainer.engine.module.parameters())
        seconds = {"sampling": 0.0, "training": 0.0}

        def timed(name: str, function: Any) -> Any:
            def call(*arguments: Any) -> Any:
                start = cpu_seconds()
                found = function(*arguments)
                seconds[name] += cpu_seconds() - start
                return found

            return call

        verify = trainer.verify
        trainer.sample = timed("sampling", trainer.sample)  # type: ignore[method-assign]
        trainer.update = timed("training", trainer.update)  # type: ignore[method-assign]
        trainer.verify = lambda *step: [with_correct(own, len(own.lengths) // 2) for own in verify(*step)]  # type: ignore[method-assign]
        points = [(n, MIDDLE["tokens"]) for n in ROLLOUTS] + [(MIDDLE["rollouts"], length) for length in TOKENS]
        for rollouts, tokens in dict.fromkeys(points):
            drawn = {"rollouts_per_prompt": rollouts, "max_response_tokens": tokens}
            trainer.config = trainer.config.model_copy(
                update={"rollout": trainer.config.rollout.model_copy(update=drawn)}
            )
            trainer.train(trainer.state.step + WARM_UP)
            seconds.update(sampling=0.0, training=0.0)
            trainer.train(trainer.state.step + steps)
            about = {"parameters": parameters, "width": width, "rollouts": rollouts, "tokens": tokens}
            rows.append(about | {name: value / steps for name, value in seconds.items()})
            print("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
        trainer.engine.close()
    return rows


def slope(x: pd.Series, y: pd.Series) -> float:
    """Return the slope of a line through the logarithms.

    Example:
        >>> round(slope(pd.Series([1.0, 2.0, 4.0]), pd.Series([3.0, 12.0, 48.0])), 6)
        2.0
    """
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def draw(series: dict[str, pd.DataFrame]) -> None:
    """Write the figure: a panel for each axis, seconds of sampling and training over it."""
    import matplotlib.pyplot as plt

    from hpt.reports import style

    style.use()
    labels = {"rollouts": "rollouts per prompt", "tokens": "tokens per response", "parameters": "parameters"}
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True)
    for axis, (name, frame) in zip(axes, series.items(), strict=True):
        for part in ("sampling", "training"):
            label = f"{part}, slope {slope(frame[name], frame[part]):.2f}"
            axis.loglog(frame[name], frame[part], marker="o", label=label)
        axis.set_xticks(frame[name], [f"{value:,.0f}" for value in frame[name]])
        axis.minorticks_off()
        axis.set_xlabel(labels[name])
        axis.legend()
    axes[0].set_ylabel("CPU seconds of a step")
    figure.savefig(FIGURE)


def run(folder: str, steps: int) -> Result:
    """Measure all sizes, and draw."""
    found = pd.DataFrame([row for size in SIZES for row in in_a_process(measure, folder, *size, steps)])
    near = {name: found[name] == value for name, value in MIDDLE.items()}
    series = {
        "rollouts": found[near["width"] & near["tokens"]].sort_values("rollouts"),
        "tokens": found[near["width"] & near["rollouts"]].sort_values("tokens"),
        "parameters": found[near["rollouts"] & near["tokens"]].sort_values("parameters"),
    }
    draw(series)
    slopes = tuple(
        (name, ", ".join(f"{value:,.0f}" for value in frame[name]), slope(frame[name], frame["sampling"]),
         slope(frame[name], frame["training"])) for name, frame in series.items()
    )  # fmt: skip
    how = (
        f"A GRPO step of {PROMPTS} questions on untrained models of three sizes whose responses never end, half of "
        f"each group correct; what does not vary is {MIDDLE['rollouts']} rollouts of {MIDDLE['tokens']} tokens by the "
        "middle model. Slopes of CPU seconds in logarithms.\n\n![step time](scaling.svg)"
    )
    return Result("scaling", how, (), ("over", "values", "slope of sampling", "slope of training"), slopes)
