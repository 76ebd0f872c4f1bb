"""Our GRPO step against TRL's `GRPOTrainer`: same model, prompts, rollouts and thread, step by step in one process.

    python -m benchmarks against_trl --steps 8        (needs requirements/bench.txt; `make bench` installs it)

Both draw 32 x 8 responses of 64 tokens, have math-verify grade them, and take one optimiser step on them. TRL generates
with transformers, we with vLLM; both train in micro-batches of 64 responses. After each of its steps one of ours
follows, so whatever else the machine does meets both. Which responses are correct is written down beforehand and put in
the place of what math-verify said:

* every group mixed: four of eight responses of every question are correct;
* replayed: as many of eight as in a GRPO run of the mini world, where most groups have no signal. Those cost us no
  forward and no backward pass.

A copy of the base whose end token is one it never writes makes every response 64 tokens long.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.recording import Bound, Result
from benchmarks.world import cpu_seconds, make_trainer, mini_config
from hpt.rewards.workers import Verdict, Verifier
from hpt.runs.job import encoded_training
from hpt.runs.records import load_records, record_folders
from hpt.training.policy import load_model

PROMPTS, ROLLOUTS, TOKENS, MICRO_BATCH, WARM_UP = 32, 8, 64, 64, 1
#: A token of the vocabulary that no base was ever shown as a target.
NEVER = "<unk>"
SETTINGS = {
    "rollout__max_response_tokens": TOKENS, "rollout__max_model_tokens": 2 * TOKENS,
    "data__overlong_demonstrations": "drop", "rollout__max_logprob_gap": 1.0, "schedule__prompts_per_step": PROMPTS,
    "rollout__rollouts_per_prompt": ROLLOUTS, "schedule__updates_per_step": 1, "optimizer__learning_rate": 1e-6,
    "engine__micro_batch_tokens": MICRO_BATCH * 80,
}  # fmt: skip


def endless_copy(folder: str, target: str) -> None:
    """Write a copy of a model folder whose end token is `NEVER`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.eos_token = NEVER
    model: Any = load_model(folder)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def mixed(steps: int) -> np.ndarray:
    """Return counts of correct responses in which every group has both: int [steps, PROMPTS]."""
    return np.full((steps, PROMPTS), ROLLOUTS // 2)


def replayed(records: Path, steps: int) -> np.ndarray:
    """Return the counts of evenly spread steps of a recorded GRPO run of the mini world: int [steps, PROMPTS]."""
    for folder in record_folders(records):
        run = load_records(folder)
        if (run.method, run.policy, run.seed) == ("grpo", "weak", 0):
            return _counts(run.rollouts, steps)
    raise SystemExit(f"{records} holds no GRPO run on the weak base; it is committed with the report of the mini world")


def _counts(rollouts: pd.DataFrame, steps: int) -> np.ndarray:
    by_step = rollouts.groupby("step")["correct"].apply(list)
    chosen = np.linspace(0, len(by_step) - 1, steps).astype(int)
    return np.array([by_step.iloc[i][:PROMPTS] for i in chosen])


def measure(folder: str, counts: np.ndarray) -> pd.DataFrame:
    """Take TRL's and our steps in turn; returns wall and CPU seconds of each after the warm-up.

    Args:
        folder: of the model that never ends a response.
        counts: correct responses of every group, int [steps, PROMPTS].
    """
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    config = mini_config("grpo", folder, **SETTINGS)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    data = encoded_training(config, tokenizer)
    rows: list[dict[str, float]] = []
    lengths: dict[str, list[int]] = {"trl": [], "ours": []}

    def rewards(completions: list[str], completion_ids: list[list[int]], question: list[int], **_: Any) -> list[float]:
        verifier.grade(completions, [order[i] for i in question])
        lengths["trl"] += [len(tokens) for tokens in completion_ids]
        return [float(i % ROLLOUTS < counts[len(rows), i // ROLLOUTS]) for i in range(len(completions))]

    with Verifier() as verifier, tempfile.TemporaryDirectory() as scratch:
        ours = make_trainer(config, tokenizer, verifier)
        verify = ours.verify

        def verify_and_replace(questions: Any, rollouts: Any) -> Any:
            graded = verify(questions, rollouts)
            lengths["ours"] += [rollout.length for group in rollouts for rollout in group]
            return [with_correct(own, counts[len(rows), i]) for i, own in enumerate(graded)]

        ours.verify = verify_and_replace  # type: ignore[method-assign]

        class InTurn(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.start = time.perf_counter(), cpu_seconds()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                theirs = time.perf_counter() - self.start[0], cpu_seconds() - self.start[1]
                start = time.perf_counter(), cpu_seconds()
                ours.train(ours.state.step + 1)
                own = time.perf_counter() - start[0], cpu_seconds() - start[1]
                names = ("trl_s", "trl_cpu_s", "ours_s", "ours_cpu_s")
                rows.append(dict(zip(names, (*theirs, *own), strict=True)))
                print("  ".join(f"{name} {value:.2f}" for name, value in rows[-1].items()), flush=True)

        order = [problem for step in range(len(counts)) for problem in ours.questions(step)]
        texts = [tokenizer.decode(data.prompts[problem.id]) for problem in order]
        assert all(
            tokenizer(text, add_special_tokens=False).input_ids == data.prompts[problem.id].tolist()
            for text, problem in zip(texts, order, strict=True)
        ), "the prompts must be the same tokens"
        arguments = GRPOConfig(
            output_dir=scratch, use_cpu=True, bf16=False, per_device_train_batch_size=MICRO_BATCH,
            gradient_accumulation_steps=PROMPTS * ROLLOUTS // MICRO_BATCH, num_generations=ROLLOUTS,
            max_completion_length=TOKENS, temperature=1.0, beta=0.0, learning_rate=1e-6, max_steps=len(counts),
            gradient_checkpointing=False, shuffle_dataset=False, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        theirs = GRPOTrainer(
            model=load_model(folder), reward_funcs=rewards, args=arguments, processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": own, "question": i} for i, own in enumerate(texts)]),
            callbacks=[InTurn()],
        )  # fmt: skip
        theirs.train()
        ours.engine.close()
    for who, found in lengths.items():
        assert len(found) == counts.size * ROLLOUTS, who
        assert np.mean(found) > 0.99 * TOKENS, who  # a rare one drew the token that the base was never taught
    return pd.DataFrame(rows[WARM_UP:])


def with_correct(graded: Any, correct: int) -> Any:
    verdicts = tuple(Verdict.correct if i < correct else Verdict.wrong for i in range(len(graded.lengths)))
    return type(graded)(graded.lengths, graded.negative_logprobs, graded.truncated, verdicts)


def run(folder: str, steps: int, records: Path = Path("reports/mini/records")) -> Result:
    """Measure both situations and compare their ratios with the bounds."""
    bounds, rows = [], []
    with tempfile.TemporaryDirectory() as copy:
        endless_copy(folder, copy)
        situations = (("every group mixed", mixed, 1.0), ("groups of a real run", lambda n: replayed(records, n), 1.5))
        for title, counts_of, least in situations:
            counts = counts_of(WARM_UP + steps)
            found = measure(copy, counts)
            signal = float(np.mean((counts > 0) & (counts < ROLLOUTS)))
            wall, cpu = (_ratio(found, f"trl{end}", f"ours{end}") for end in ("_s", "_cpu_s"))
            bounds.append(Bound(f"TRL's step over ours, {title}", cpu, "at least", least, "x"))
            middle = found.median()
            rows.append((title, f"{100 * signal:.0f} %", *map(float, middle), wall, cpu))
    heads = (
        "groups", "with signal", "TRL, s", "TRL, CPU s", "ours, s", "ours, CPU s", "ratio", "ratio of CPU time",
    )  # fmt: skip
    how = (
        f"A GRPO step of {PROMPTS} × {ROLLOUTS} responses of {TOKENS} tokens against the `GRPOTrainer` of TRL "
        "(transformers generation) on the mini world's weak base: same prompts, the same grading, one thread, one "
        "process, steps in turn. Medians per step; ratios are of sums. CPU seconds include those of the "
        "verifier's process; the bounds are on their ratio."
    )
    return Result("against_trl", how, tuple(bounds), heads, tuple(rows))


def _ratio(found: pd.DataFrame, above: str, below: str) -> float:
    return float(found[above].sum() / found[below].sum())
