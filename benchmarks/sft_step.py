"""Our SFT step against TRL's `SFTTrainer` and against a plain PyTorch loop: same model, demonstrations and thread.

    python -m benchmarks sft_step --steps 12        (needs requirements/bench.txt; `make bench` installs it)

Each takes one AdamW step on the same 64 demonstrations in one micro-batch, clips the gradient at norm 1 and takes
nothing but the responses' tokens into the loss. The plain loop is what is written by hand: transformers' own loss, no
records. After each of TRL's steps one of the others' follows, so whatever else the machine does meets all three.
"""

import tempfile
from typing import Any

import pandas as pd
import torch

from benchmarks.recording import Bound, Result
from benchmarks.world import cpu_seconds, make_trainer, model_config
from hpt.rewards.workers import Verifier
from hpt.runs.job import encoded_training
from hpt.training.policy import load_model

DEMONSTRATIONS, WARM_UP, RATE = 64, 2, 1e-6
SETTINGS = {
    "schedule__prompts_per_step": DEMONSTRATIONS, "schedule__updates_per_step": 1, "optimizer__learning_rate": RATE,
    "engine__micro_batch_tokens": DEMONSTRATIONS * 120,
}  # fmt: skip


class PlainLoop:
    """A model, AdamW, and the loss that transformers computes from labels."""

    def __init__(self, folder: str) -> None:
        self.model: Any = load_model(folder)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE)

    def step(self, rows: list[dict[str, list[int]]]) -> None:
        """Take one step on some demonstrations, padded to the longest."""
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
        labels = pad([torch.tensor(row["labels"]) for row in rows], batch_first=True, padding_value=-100)
        self.model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure(folder: str, steps: int) -> pd.DataFrame:
    """Return the CPU seconds of a step of each, one row per step after the warm-up: trl, ours, plain."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    config = model_config("sft", folder, **SETTINGS)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    data = encoded_training(config, tokenizer)
    found: list[dict[str, float]] = []
    plain = PlainLoop(folder)
    with Verifier() as verifier, tempfile.TemporaryDirectory() as scratch:
        ours = make_trainer(config, tokenizer, verifier)

        def row(name: str) -> dict[str, list[int]]:
            prompt, response = data.prompts[name].tolist(), data.demonstrations[name].tolist()
            return {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response}

        batches = [[row(problem.id) for problem in ours.questions(step)] for step in range(WARM_UP + steps)]

        class InTurn(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.start = cpu_seconds()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                times = {"trl": cpu_seconds() - self.start}
                for name, take in (("ours", lambda: ours.train(ours.state.step + 1)),
                                   ("plain", lambda: plain.step(batches[len(found)]))):  # fmt: skip
                    start = cpu_seconds()
                    take()
                    times[name] = cpu_seconds() - start
                found.append(times)
                print("  ".join(f"{name} {value:.3f}" for name, value in times.items()), flush=True)

        arguments = SFTConfig(
            output_dir=scratch, use_cpu=True, bf16=False, per_device_train_batch_size=DEMONSTRATIONS,
            learning_rate=RATE, max_steps=len(batches), gradient_checkpointing=False, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, max_length=None,
            train_sampling_strategy="sequential", dataset_kwargs={"skip_prepare_dataset": True},
        )  # fmt: skip
        SFTTrainer(
            model=load_model(folder), args=arguments, processing_class=tokenizer, callbacks=[InTurn()],
            train_dataset=Dataset.from_list([row for batch in batches for row in batch]),
        ).train()  # fmt: skip
        ours.engine.close()
    return pd.DataFrame(found[WARM_UP:])


def run(folder: str, steps: int) -> Result:
    """Measure and compare the sums over all steps with the bounds."""
    found = measure(folder, steps)
    sums, middle = found.sum(), found.median()
    bounds = (
        Bound("TRL's SFT step over ours", sums["trl"] / sums["ours"], "at least", 1.0, "x"),
        Bound("our SFT step over a plain loop's", sums["ours"] / sums["plain"], "at most", 1.5, "x"),
    )
    rows = tuple((name, len(found), float(middle[name]), float(sums[name] / sums["ours"])) for name in found)
    how = (
        f"A step of SFT on {DEMONSTRATIONS} demonstrations of the mini world from its weak base, one micro-batch, "
        "AdamW, the gradient clipped, against TRL's `SFTTrainer` and a plain PyTorch loop with transformers' loss. CPU "
        "seconds of one thread, one process, steps in turn; ratios are of sums. Ours keeps the step's records and "
        "takes exact log-probs and entropies of every token; the plain loop does neither."
    )
    return Result("sft_step", how, bounds, ("who", "steps", "CPU s, median", "over ours"), rows)
