"""Our GRPO step against TRL's `GRPOTrainer`: same model, prompts, rollouts and thread, step by step in one process.

    python -m benchmarks against_trl --steps 8        (needs requirements/bench.txt; `make bench` installs it)

Both draw 32 x 8 responses of 64 tokens, have math-verify grade them, and take one optimiser step on them. TRL generates
with transformers, we with vLLM; both train in micro-batches of as many responses. After each of its steps one of ours
follows, so whatever else the machine does meets both. Which responses are correct is written down beforehand and put in
the place of what math-verify said:

* every group mixed: four of eight responses of every question are correct;
* replayed: as many of eight as in a GRPO run of the mini world, where most groups have no signal. Those cost us no
  forward and no backward pass.

A copy of the base whose end token is one it never writes makes every response 64 tokens long. Where the base of scale
`smollm` is among the runs, the same with 8 x 8 responses of SmolLM2-135M, in two steps.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.recording import Bound, Result
from benchmarks.world import cpu_seconds, make_trainer, model_config, smollm_bases
from hpt.rewards.workers import Verdict, Verifier
from hpt.runs.job import encoded_training
from hpt.runs.records import load_records, record_folders
from hpt.training.policy import load_model

ROLLOUTS, TOKENS, WARM_UP = 8, 64, 1


@dataclass(frozen=True)
class Model:
    """What is trained: its scale, a token that it was never shown as a target, questions and responses of a batch."""

    scale: str
    never: str
    prompts: int
    micro_batch: int
    prompt_tokens: int = 0  # every prompt is filled up to as many


MINI = Model("mini", "<unk>", 32, 64)
SMOLLM = Model("smollm", "<empty_output>", 8, 16, 60)
WHY = (
    "TRL's step in the mini world: of ours most is sampling (the table of `against_trl`), and most of sampling is not "
    "the model but vLLM around it: scheduler, input preparation, log-probs and outputs of every token "
    "(`where_time_goes`). No lever of vLLM's changes that (`vllm_levers`)."
)
WHY_SMOLLM = (
    "TRL's step on SmolLM2-135M: most of ours is forward and backward of the responses' tokens, which both sides have; "
    "a prompt forwarded once saves at most {:.2f} times the tokens."
)


def settings(model: Model) -> dict[str, Any]:
    """Return what makes a step of ours the one that TRL is asked for."""
    return {
        "rollout__max_response_tokens": TOKENS, "rollout__max_model_tokens": 2 * TOKENS,
        "rollout__rollouts_per_prompt": ROLLOUTS, "rollout__max_logprob_gap": 1.0,
        "data__max_prompt_tokens": TOKENS, "data__overlong_demonstrations": "drop", "policy__dtype": "float32",
        "schedule__prompts_per_step": model.prompts, "schedule__updates_per_step": 1,
        "optimizer__learning_rate": 1e-6, "engine__micro_batch_tokens": model.micro_batch * 80,
    }  # fmt: skip


def endless_copy(folder: str, target: str, never: str) -> None:
    """Write a copy of a model folder whose end token is one it never writes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.convert_tokens_to_ids(never) is not None
    tokenizer.eos_token = never
    model: Any = load_model(folder)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def mixed(model: Model, steps: int) -> np.ndarray:
    """Return counts of correct responses in which every group has both: int [steps, prompts]."""
    return np.full((steps, model.prompts), ROLLOUTS // 2)


def replayed(records: Path, steps: int) -> np.ndarray:
    """Return the counts of evenly spread steps of a recorded GRPO run of the mini world: int [steps, prompts]."""
    for folder in record_folders(records):
        run = load_records(folder)
        if (run.method, run.policy, run.seed) == ("grpo", "weak", 0) and run.config.policy.after is None:
            return _counts(run.rollouts, steps)
    raise SystemExit(f"{records} holds no GRPO run on the weak base; it is committed with the report of the mini world")


def _counts(rollouts: pd.DataFrame, steps: int) -> np.ndarray:
    by_step = rollouts.groupby("step")["correct"].apply(list)
    chosen = np.linspace(0, len(by_step) - 1, steps).astype(int)
    return np.array([by_step.iloc[i][: MINI.prompts] for i in chosen])


def measure(model: Model, folder: str, counts: np.ndarray) -> pd.DataFrame:
    """Take TRL's and our steps in turn; returns wall and CPU seconds of each after the warm-up.

    Args:
        model: which it is.
        folder: of its copy that never ends a response.
        counts: correct responses of every group, int [steps, prompts].
    """
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    config = model_config("grpo", folder, model.scale, **settings(model))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    data = encoded_training(config, tokenizer)
    rows: list[dict[str, float]] = []
    lengths: dict[str, list[int]] = {"trl": [], "ours": []}
    sampling: list[float] = []
    filler = tokenizer.encode(" so", add_special_tokens=False)
    for name, tokens in data.prompts.items():
        missing = max(0, model.prompt_tokens - len(tokens))
        data.prompts[name] = np.array([*filler * missing, *tokens], dtype=np.int32)

    def rewards(completions: list[str], completion_ids: list[list[int]], question: list[int], **_: Any) -> list[float]:
        verifier.grade(completions, [order[i] for i in question])
        lengths["trl"] += [len(tokens) for tokens in completion_ids]
        return [float(i % ROLLOUTS < counts[len(rows), i // ROLLOUTS]) for i in range(len(completions))]

    with Verifier() as verifier, tempfile.TemporaryDirectory() as scratch:
        ours = make_trainer(config, tokenizer, verifier)
        ours.prompts = data.prompts
        verify, draw = ours.verify, ours.sampler.sample

        def timed_draw(requests: Any) -> Any:
            start = cpu_seconds()
            drawn = draw(requests)
            sampling.append(cpu_seconds() - start)
            return drawn

        def verify_and_replace(questions: Any, rollouts: Any) -> Any:
            graded = verify(questions, rollouts)
            lengths["ours"] += [rollout.length for group in rollouts for rollout in group]
            return [with_correct(own, counts[len(rows), i]) for i, own in enumerate(graded)]

        ours.verify = verify_and_replace  # type: ignore[method-assign]
        ours.sampler.sample = timed_draw  # type: ignore[method-assign]

        class InTurn(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.start = time.perf_counter(), cpu_seconds()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                theirs = time.perf_counter() - self.start[0], cpu_seconds() - self.start[1]
                start = time.perf_counter(), cpu_seconds()
                ours.train(ours.state.step + 1)
                own = time.perf_counter() - start[0], cpu_seconds() - start[1]
                names = ("trl_s", "trl_cpu_s", "ours_s", "ours_cpu_s", "sampling_cpu_s")
                rows.append(dict(zip(names, (*theirs, *own, sampling.pop()), strict=True)))
                print("  ".join(f"{name} {value:.2f}" for name, value in rows[-1].items()), flush=True)

        order = [problem for step in range(len(counts)) for problem in ours.questions(step)]
        texts = [tokenizer.decode(data.prompts[problem.id]) for problem in order]
        assert all(
            tokenizer(text, add_special_tokens=False).input_ids == data.prompts[problem.id].tolist()
            for text, problem in zip(texts, order, strict=True)
        ), "the prompts must be the same tokens"
        arguments = GRPOConfig(
            output_dir=scratch, use_cpu=True, bf16=False, per_device_train_batch_size=model.micro_batch,
            gradient_accumulation_steps=model.prompts * ROLLOUTS // model.micro_batch, num_generations=ROLLOUTS,
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
    """Measure every situation and compare their ratios with the bounds."""
    situations = [
        ("every group mixed", MINI, folder, mixed(MINI, WARM_UP + steps), 1.3),
        ("groups of a real run", MINI, folder, replayed(records, WARM_UP + steps), 2.0),
    ]
    for base in smollm_bases(folder):
        situations.append(("SmolLM2-135M, every group mixed", SMOLLM, base, mixed(SMOLLM, WARM_UP + 2), 2.0))
    bounds, rows = [], []
    for title, model, base, counts, least in situations:
        with tempfile.TemporaryDirectory() as copy:
            endless_copy(base, copy, model.never)
            found = measure(model, copy, counts)
        signal = float(np.mean((counts > 0) & (counts < ROLLOUTS)))
        wall, cpu = (_ratio(found, f"trl{end}", f"ours{end}") for end in ("_s", "_cpu_s"))
        responses, prompts = model.prompts * ROLLOUTS * TOKENS, model.prompts * model.prompt_tokens
        saved = (responses + ROLLOUTS * prompts) / (responses + prompts)
        why = WHY if model is MINI else WHY_SMOLLM.format(saved)
        bounds.append(Bound(f"TRL's step over ours, {title}", cpu, "at least", least, "x", why))
        rows.append((title, f"{100 * signal:.0f} %", *map(float, found.median()), wall, cpu))
    heads = (
        "groups", "with signal", "TRL, s", "TRL, CPU s", "ours, s", "ours, CPU s", "of it sampling", "ratio",
        "ratio of CPU time",
    )  # fmt: skip
    how = (
        f"A GRPO step of {MINI.prompts} × {ROLLOUTS} responses of {TOKENS} tokens against the `GRPOTrainer` of TRL "
        f"(transformers generation) on the mini world's weak base, and of {SMOLLM.prompts} × {ROLLOUTS} on "
        f"SmolLM2-135M: same prompts (of about 10 tokens, and of {SMOLLM.prompt_tokens}), the same grading, one "
        "thread, one process, steps in turn. Medians per step; ratios are of sums; the clock's depends on what "
        "else the machine does. CPU seconds include those of the verifier's process; the bounds are on their ratio."
    )
    return Result("against_trl", how, tuple(bounds), heads, tuple(rows))


def _ratio(found: pd.DataFrame, above: str, below: str) -> float:
    return float(found[above].sum() / found[below].sum())
