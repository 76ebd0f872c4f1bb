"""What ``import hpt`` offers, against textbook losses, the trainer and models' logits; and what it refuses."""

import copy
import inspect
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import hpt
from docs.reference import PAGE, page
from hpt.laboratory import random_batch as world
from hpt.laboratory import textbook
from hpt.runs.records import load_records
from hpt.support.errors import ConfigError
from hpt.upge import likelihood
from hpt.upge.aggregation import StepCounts
from tests.digits import write_digits
from tests.fabricated import fabricate

ROOT = Path(__file__).resolve().parent.parent
EXACT = 1e-12


# The package itself


def test_every_name_is_there_documented_and_seen_by_dir() -> None:
    assert set(hpt.__all__) == {
        "ROWS", "check_gradient", "gate", "group_advantages", "hpt_loss", "intervals", "load_answers",
        "load_scores", "pass_at_k", "token_logprobs", "train", "upge_loss", "verify",
    }  # fmt: skip
    assert set(hpt.__all__) <= set(dir(hpt))
    for name in hpt.__all__:
        if name != "ROWS":
            documentation = inspect.getdoc(getattr(hpt, name)) or ""
            assert all(part in documentation for part in ("Args:", "Returns:", "Raises:", "Example:\n    >>> ")), name
    with pytest.raises(AttributeError, match="has no attribute 'hpt_los'"):
        hpt.hpt_los  # type: ignore[attr-defined]  # noqa: B018


LIGHT = "hpt.config.run_config, hpt.config.scales, hpt.methods.methods, hpt.runs.doctor, hpt.cli"
SLOW_TO_IMPORT = {"torch", "transformers", "vllm", "deepspeed", "pandas", "matplotlib", "scipy"}
USES = "hpt.ROWS, hpt.load_scores, hpt.train, hpt.verify, hpt.gate([0], 8), hpt.pass_at_k([1], 4, 2)"


def test_what_needs_no_tensors_loads_no_torch() -> None:
    """``hpt --help``, a refused setting and the doctor must answer at once, also where an engine is broken."""
    code = f"import hpt, {LIGHT}, sys; print(*sys.modules); {USES}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *imported, after_use = done.stdout.split()
    assert SLOW_TO_IMPORT & set(imported) == set()
    assert after_use == "False"


def test_the_reference_page_is_what_the_docstrings_say() -> None:
    """Write it anew with `.venv/bin/python docs/reference.py`."""
    assert PAGE.read_text(encoding="utf-8") == page()


# Eq. 6 on padded tensors


def padded_row(own: world.World, row: hpt.upge.row.Row, left: int = 3, right: int = 2) -> dict[str, Any]:
    """The trajectories a row acts on as a padded batch, with junk where the mask is False."""
    acting = np.flatnonzero(world.members(own, row)[0])

    def pad(values: Tensor) -> Tensor:
        junk = values[acting].where(own.mask[acting], -7.5)
        return torch.nn.functional.pad(junk, (left, right), value=-7.5)

    keep = world.kept_tokens(own, row)
    offline = row.name in own.offline
    return {
        "logprobs": pad(own.logprobs(own.policy)),
        "old_logprobs": None if offline else pad(own.old_logprobs),
        "advantages": pad(world.row_advantages(own, row)),
        "response_mask": torch.nn.functional.pad(own.mask[acting], (left, right)),
        "entropies": pad(own.entropies(own.policy)),
        "rewards": own.rewards[acting],
        "keep": None if keep is None else pad(keep.double()),
        "max_response_tokens": world.LONGEST,
        "counts": world.step_counts(own, row) if row.aggregation == "pooled_token_mean" else None,
    }


def padded(name: str) -> tuple[hpt.upge.row.Row, dict[str, Any]]:
    """A row and a batch that it acts on."""
    return hpt.ROWS[name], padded_row(world.make_world(1), hpt.ROWS[name])


def part_of(batch: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Some rows of a batch, in the order given; what is not of its rows stays."""
    size, part = len(batch["response_mask"]), dict(batch)
    for key, value in batch.items():
        if isinstance(value, Tensor | np.ndarray):
            part[key] = value[rows]
        elif isinstance(value, list) and len(value) == size:
            part[key] = [value[row] for row in rows]
    return part


@pytest.mark.parametrize("name", hpt.ROWS)
def test_every_row_has_the_gradient_of_its_papers_loss(name: str) -> None:
    own, row = world.make_world(2), hpt.ROWS[name]
    expected = world.flat_gradient(getattr(textbook, name)(world.textbook_of(own, row)), own.policy)
    found = world.flat_gradient(hpt.upge_loss(row, **padded_row(own, row)), own.policy)
    assert world.relative_difference(found, expected) < 1e-10


@pytest.mark.parametrize("name", ["dr_grpo", "grpo", "gspo", "dapo", "rloo", "reinforce", "cispo"])
def test_from_rewards_to_the_papers_gradient(name: str) -> None:
    """Advantages per trajectory, from rewards and groups, as a training loop would take them."""
    own, row = world.make_world(4), hpt.ROWS[name]
    batch = padded_row(own, row)
    rewards = torch.from_numpy(own.rewards[: world.QUESTIONS * world.ROLLOUTS])
    batch["advantages"] = hpt.group_advantages(rewards, own.question[: len(rewards)], row=row)
    assert batch["advantages"].shape == rewards.shape
    expected = world.flat_gradient(getattr(textbook, name)(world.textbook_of(own)), own.policy)
    assert world.relative_difference(world.flat_gradient(hpt.upge_loss(row, **batch), own.policy), expected) < 1e-10


def gradient_of(row: hpt.upge.row.Row, batch: dict[str, Any]) -> Tensor:
    """The gradient with respect to the padded log-probs themselves."""
    leaf = batch["logprobs"].detach().clone().requires_grad_()
    hpt.upge_loss(row, **{**batch, "logprobs": leaf}).backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("name", ["dr_grpo", "gspo", "srft_sft", "sft"])
def test_padding_and_the_order_of_rows_change_nothing(name: str) -> None:
    row, plain = padded(name)
    wide = padded_row(world.make_world(1), row, left=8, right=5)
    gradient = gradient_of(row, plain)
    assert (gradient[~plain["response_mask"]] == 0).all()
    assert (gradient[plain["response_mask"]] != 0).any()
    torch.testing.assert_close(
        gradient_of(row, wide)[wide["response_mask"]], gradient[plain["response_mask"]], rtol=0, atol=EXACT
    )
    order = torch.randperm(len(gradient), generator=torch.Generator().manual_seed(0)).tolist()
    torch.testing.assert_close(gradient_of(row, part_of(plain, order)), gradient[order], rtol=0, atol=EXACT)


def test_a_step_in_parts_is_the_step() -> None:
    """With the counts of the whole step the losses of two parts add up; without them they do not."""
    row, whole = padded("dapo")
    lengths = whole["response_mask"].sum(1)
    counts = StepCounts(4, 4, world.LONGEST, sequences=len(lengths), tokens=int(lengths.sum()))
    parts = [part_of(whole, list(rows)) for rows in (range(5), range(5, len(lengths)))]
    summed = torch.cat([gradient_of(row, {**part, "counts": counts}) for part in parts])
    torch.testing.assert_close(summed, gradient_of(row, whole), rtol=0, atol=EXACT)
    assert (torch.cat([gradient_of(row, part) for part in parts]) - summed).abs().max() > 1e-3


def test_without_old_logprobs_every_ratio_is_one() -> None:
    row, batch = padded("grpo")
    on_policy = gradient_of(row, {**batch, "old_logprobs": batch["logprobs"].detach()})
    torch.testing.assert_close(gradient_of(row, {**batch, "old_logprobs": None}), on_policy, rtol=0, atol=0)
    assert (gradient_of(row, batch) - on_policy).abs().max() > 1e-3


def test_the_longest_response_stands_in_for_the_limit() -> None:
    row, batch = padded("dr_grpo")
    longest = int(batch["response_mask"].sum(1).max())
    given, doubled, left_out = (
        gradient_of(row, {**batch, "max_response_tokens": limit}) for limit in (longest, 2 * longest, None)
    )
    torch.testing.assert_close(left_out, given, rtol=0, atol=0)
    torch.testing.assert_close(2 * doubled, given, rtol=0, atol=EXACT)


def test_group_advantages_keep_type_and_order() -> None:
    rewards, group = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64), torch.tensor([3, 3, 9, 9, 9])
    expected = torch.tensor([0.5, -0.5, 1 / 3, 1 / 3, -2 / 3], dtype=torch.float64)
    torch.testing.assert_close(hpt.group_advantages(rewards, group), expected, rtol=0, atol=EXACT)
    order = [4, 0, 2, 1, 3]
    torch.testing.assert_close(hpt.group_advantages(rewards[order], group[order]), expected[order], rtol=0, atol=EXACT)
    grpo = hpt.group_advantages(rewards, group, row=hpt.ROWS["grpo"])
    torch.testing.assert_close(grpo[:2], torch.tensor([1, -1], dtype=torch.float64) / math.sqrt(2), rtol=1e-5, atol=0)
    assert hpt.group_advantages([True, False], [0, 0]).dtype == torch.float32


# Log-probs of a model


SMALL = {
    "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2ForCausalLM": {**SMALL, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "LlamaForCausalLM": {**SMALL, "num_key_value_heads": 1},
    "PhiForCausalLM": SMALL,  # its head has a bias
    "GPT2LMHeadModel": {"vocab_size": 23, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32,
                        "initializer_range": 0.3},
    "MambaForCausalLM": {"vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 2},  # takes no positions
    # caps or scales in its head
    "Gemma2ForCausalLM": {**SMALL, "num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 5.0},
    "GraniteForCausalLM": {**SMALL, "num_key_value_heads": 1, "logits_scaling": 3.0},
    "CohereForCausalLM": {**SMALL, "num_key_value_heads": 1},
}  # fmt: skip


def model_of(family: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    kind = getattr(transformers, family)
    return kind(kind.config_class(**{**FAMILIES[family], **settings})).double().eval()


def batch_of(rows: int = 4, prompt: int = 3, response: int = 6) -> dict[str, Tensor]:
    """Prompts padded on the left, responses on the right, of different lengths."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, 23, (rows, prompt + response), generator=generator)
    column = torch.arange(prompt + response)
    starts, ends = torch.arange(rows)[:, None] % prompt, prompt + response - torch.arange(rows)[:, None] % response
    attention_mask = ((column >= starts) & (column < ends)).long()
    return {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask,
            "response_mask": (attention_mask == 1) & (column >= prompt)}  # fmt: skip


def literal_logprobs(model: nn.Module, batch: dict[str, Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """Each row alone and without padding, from the model's logits, put back where its tokens are."""
    logprobs = torch.zeros(batch["input_ids"].shape, dtype=torch.float64)
    entropies = logprobs.clone()
    for row in range(len(logprobs)):
        own = batch["attention_mask"][row].nonzero()[:, 0]
        logits = model(input_ids=batch["input_ids"][row, own][None]).logits[0].double()
        table = (logits / temperature).log_softmax(-1)[:-1]
        logprobs[row, own[1:]] = table.gather(1, batch["input_ids"][row, own[1:], None])[:, 0]
        entropies[row, own[1:]] = -(table.exp() * table).sum(1)
    return logprobs * batch["response_mask"], entropies * batch["response_mask"]


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_the_models(family: str) -> None:
    model, batch = model_of(family), batch_of()
    found = hpt.token_logprobs(model, temperature=0.7, **batch)
    # the norms of transformers round to float32 whatever their input
    for values, expected in zip(found, literal_logprobs(model, batch, 0.7), strict=True):
        torch.testing.assert_close(values, expected, rtol=0, atol=2e-6)
    ours, theirs = (
        world.flat_gradient((logprobs - entropies).sum(), dict(model.named_parameters()))
        for logprobs, entropies in (found, literal_logprobs(model, batch, 0.7))
    )
    assert world.relative_difference(ours, theirs) < 1e-5


def test_the_model_is_left_as_it_was() -> None:
    model = model_of("GPT2LMHeadModel").train()
    model.transformer.h[0].eval()  # type: ignore[union-attr]
    before = copy.deepcopy(model)
    hpt.token_logprobs(model, **batch_of())
    ours, theirs = ([(name, type(own), own.training) for name, own in one.named_modules()] for one in (model, before))
    assert ours == theirs
    assert list(model.state_dict()) == list(before.state_dict())
    assert all(map(torch.equal, model.state_dict().values(), before.state_dict().values()))
    assert all(own.grad is None for own in model.parameters())


def test_all_logits_are_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, counting every tensor an operation returns with the vocabulary as one of its sides."""
    vocabulary, batch = 997, batch_of(rows=8, response=30)
    model = model_of("LlamaForCausalLM", vocab_size=vocabulary)
    hpt.token_logprobs(model, **batch)  # compared with its logits once
    monkeypatch.setattr(likelihood, "CHUNK_ELEMENTS", 16 * vocabulary)
    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for value in out if isinstance(out, tuple | list) else (out,):
                if isinstance(value, Tensor) and value.dim() > 1 and value.shape[-1] == vocabulary:
                    largest[0] = max(largest[0], value.numel() // vocabulary)
            return out

    with Watch():
        hpt.token_logprobs(model, **batch)[0].sum().backward()
    assert batch["response_mask"].sum() > 100
    assert 0 < largest[0] <= 16


def test_a_change_only_the_models_forward_makes_is_refused() -> None:
    class Capped(transformers.LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = 2.0 * torch.tanh(out.logits / 2.0)
            return out

    model = Capped(transformers.LlamaConfig(**FAMILIES["LlamaForCausalLM"]))
    with pytest.raises(ConfigError, match=r"Capped, whose log-probs differ by .* nats"):
        hpt.token_logprobs(model, **batch_of())


# Eq. 13


def mixed_batch() -> dict[str, Any]:
    """Three questions: one learns from its demonstration, one by RL, one (a soft gate) from both."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(9, 6, dtype=torch.bool)
    mask[:, 0] = False
    mask[::2, 4:] = False
    logprobs, old_logprobs = (-torch.rand(9, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    old_logprobs[2::3] = torch.nan  # what nobody sampled has no old log-probs at all
    return {
        "logprobs": logprobs.requires_grad_(), "old_logprobs": old_logprobs, "response_mask": mask,
        "rewards": [0, 0, 1, 1, 0, 1, 0, 1, 1], "group": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "is_demonstration": [False, False, True] * 3, "alpha": [0.0, 1.0, 0.25], "beta": [1.0, 0.0, 0.75],
    }  # fmt: skip


def mixed_gradient(**changes: Any) -> Tensor:
    batch = mixed_batch() | changes
    leaf = batch["logprobs"].detach().clone().requires_grad_()
    hpt.hpt_loss(**{**batch, "logprobs": leaf}).backward()
    assert leaf.grad is not None
    return leaf.grad


def literal_mixed_loss(logprobs: Tensor, normalization: str, limit: int = 5) -> Tensor:
    """Eq. 11 to 13 in a loop over questions, Dr. GRPO with its clip."""
    batch, total = mixed_batch(), torch.zeros((), dtype=torch.float64)
    mask, rewards = batch["response_mask"], torch.tensor(batch["rewards"]).double()
    demonstration_tokens = int(mask[[2, 8]].sum())
    for question in range(3):
        rollouts, demonstration = [3 * question, 3 * question + 1], 3 * question + 2
        for row in rollouts:
            advantage = rewards[row] - rewards[rollouts].mean()
            ratio = (logprobs[row] - batch["old_logprobs"][row]).exp()[mask[row]]
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum()
            scale = {"paper": 1 / 6, "per_prompt": 1 / (6 * limit), "released": 1 / (8 * limit), "row": 1 / (4 * limit)}
            total = total - batch["alpha"][question] * scale[normalization] * surrogate
        nll = -logprobs[demonstration][mask[demonstration]].sum()
        per_token = {"paper": 1 / (3 * int(mask[demonstration].sum())), "per_prompt": 1 / (3 * limit)}
        scale = per_token.get(normalization, 1 / demonstration_tokens)
        total = total + batch["beta"][question] * scale * nll
    return total


@pytest.mark.parametrize("normalization", ["paper", "per_prompt", "released", "row"])
def test_hpt_loss_is_equation_13(normalization: str) -> None:
    batch, heavy = mixed_batch(), [2, 3, 4, 6, 7, 8]
    (expected,) = torch.autograd.grad(literal_mixed_loss(batch["logprobs"], normalization), [batch["logprobs"]])
    torch.testing.assert_close(mixed_gradient(normalization=normalization), expected, rtol=0, atol=EXACT)
    without = mixed_gradient(normalization=normalization, **part_of(batch, heavy))
    torch.testing.assert_close(without, expected[heavy], rtol=0, atol=EXACT)  # without what weighs nothing


@pytest.mark.parametrize("normalization", ["paper", "per_prompt"])
def test_whole_questions_add_up(normalization: str) -> None:
    settings: dict[str, Any] = {"normalization": normalization, "max_response_tokens": 5}
    parts = [mixed_gradient(**part_of(mixed_batch(), list(rows)), **settings) for rows in (range(3), range(3, 9))]
    torch.testing.assert_close(torch.cat(parts), mixed_gradient(**settings), rtol=0, atol=EXACT)


@pytest.mark.parametrize("chosen", [[2, 8], [3, 4], [5]], ids=["demonstrations", "rollouts", "nothing that weighs"])
def test_a_batch_of_one_kind_has_no_nan(chosen: list[int]) -> None:
    for normalization in ("paper", "per_prompt", "released", "row"):
        gradient = mixed_gradient(normalization=normalization, **part_of(mixed_batch(), chosen))
        assert gradient.isfinite().all()
        assert bool((gradient != 0).any()) == (chosen != [5])


def test_gate_is_equation_10_and_takes_every_kind() -> None:
    np.testing.assert_array_equal(hpt.gate([0, 1, 2, 8], 8, count=1), ([0, 0, 1, 1], [1, 1, 0, 0]))
    np.testing.assert_array_equal(hpt.gate(torch.tensor([0, 1, 2]), 2, count=1, inclusive=False)[1], [1, 0, 0])
    np.testing.assert_array_equal(
        hpt.gate(np.array([0, 4]), 8, kind="constant", alpha=0.5, beta=2), ([0.5] * 2, [2] * 2)
    )
    np.testing.assert_allclose(hpt.gate([0, 8], 8, kind="sigmoid", slope=4)[0], 1 / (1 + np.exp([0.25, -3.75])))


def test_what_libraries_hand_over_is_taken() -> None:
    """NumPy's integers, rewards in bfloat16, lists for masks, rows by their names."""
    assert [own.tolist() for own in hpt.gate([0, 1], n=np.int64(2), count=np.int64(1))] == [[0, 0], [1, 1]]
    found = hpt.group_advantages(torch.tensor([1, 0]).bfloat16(), [0, 0])
    assert (found.dtype, found.tolist()) == (torch.bfloat16, [0.5, -0.5])
    named, listed = (upge_loss(row=row, response_mask=mask) for row, mask in
                     (("grpo", GOOD["response_mask"]), (hpt.ROWS["grpo"], GOOD["response_mask"].tolist())))  # fmt: skip
    assert named == listed


# What is refused


GOOD = {
    "response_mask": torch.tensor([[0, 1, 1], [0, 1, 0]]),
    "logprobs": torch.tensor([[0.0, -1.0, -2.0], [0.0, -0.5, 9.0]]),
    "old_logprobs": torch.tensor([[0.0, -1.0, -2.0], [0.0, -0.5, 9.0]]),
    "advantages": torch.tensor([1.0, -1.0]),
}


def upge_loss(**change: Any) -> Any:
    return hpt.upge_loss(**{"row": hpt.ROWS["grpo"], **GOOD, **change})


def token_logprobs(**change: Any) -> Any:
    return hpt.token_logprobs(**{"model": model_of("LlamaForCausalLM"), **batch_of(), **change})


def mixed_loss(**change: Any) -> Any:
    return hpt.hpt_loss(**mixed_batch() | change)


@pytest.mark.parametrize(
    ("call", "change", "message"),
    [
        (upge_loss, {"response_mask": torch.tensor([0, 1, 1])},
         r"response_mask = 'a tensor of shape \[3\]': allowed is \[B, T\]"),
        (upge_loss, {"response_mask": torch.tensor([[0, 2, 1], [0, 1, 0]])},
         "response_mask = 'values from 0 to 2': allowed is True"),
        (upge_loss, {"response_mask": torch.tensor([[0, 0.5, 1], [0, 1, 0]])}, "response_mask = 'values from 0 to 1'"),
        (upge_loss, {"response_mask": torch.tensor([[0, 1, 1], [0, 0, 0]])}, "response_mask = 'nothing in row 1'"),
        (upge_loss, {"logprobs": torch.tensor([-1.0, -2.0, -0.5])},
         r"logprobs = 'a tensor of shape \[3\]': .*\[2, 3\]"),
        (upge_loss, {"old_logprobs": torch.zeros(2, 2)}, r"old_logprobs = 'a tensor of shape \[2, 2\]': .*\[2, 3\]"),
        (upge_loss, {"logprobs": GOOD["logprobs"].exp()},
         "logprobs = 'values from 0.135335 to 0.606531': .*at most 0; take the log"),
        (upge_loss, {"old_logprobs": GOOD["old_logprobs"].exp()}, "old_logprobs = 'values from 0.135"),
        (upge_loss, {"logprobs": GOOD["logprobs"] * torch.nan}, "logprobs = 'values from nan"),
        (upge_loss, {"logprobs": GOOD["logprobs"] - torch.inf}, "logprobs = 'values from -inf"),
        (upge_loss, {"advantages": torch.ones(3)},
         r"advantages = \[3\]: allowed is \[B\] or \[B, T\]: \[2\] or \[2, 3\]"),
        (upge_loss, {"advantages": torch.tensor([1.0, math.nan])}, "advantages = 'values that are not finite'"),
        (upge_loss, {"max_response_tokens": -8}, "max_response_tokens = -8: allowed is a whole number of at least 1"),
        (upge_loss, {"row": "grop"}, "row = 'grop': allowed is one of .*did you mean grpo"),
        (upge_loss, {"row": "clip_cov", "keep": torch.full((2, 3), 7)}, "keep = 'values from 7 to 7'"),
        (upge_loss, {"row": hpt.ROWS["srft_sft"]}, "entropies = None: .*srft_sft weighs"),
        (upge_loss, {"row": hpt.ROWS["clip_cov"]}, "row clip_cov: keep = None"),
        (upge_loss, {"row": hpt.ROWS["luffy_offline"]}, "StepCounts.pooled_tokens = None"),
        (token_logprobs, {"input_ids": torch.ones(2, 9, dtype=torch.int64)},
         r"input_ids = \[2, 9\]: allowed is .*\[4, 9\]"),
        (token_logprobs, {"temperature": 0.0}, "temperature = 0.0: allowed is a number above 0"),
        (token_logprobs, {"response_mask": torch.ones(4, 9)}, "response_mask = 'True in the first column'"),
        (token_logprobs, {"attention_mask": batch_of()["attention_mask"] - batch_of()["response_mask"].long()},
         "attention_mask = "),
        (token_logprobs, {"attention_mask": batch_of()["response_mask"]},
         "attention_mask = .*and at the token before it"),
        (token_logprobs, {"attention_mask": torch.ones(4, 8)}, r"attention_mask = \[4, 8\]"),
        (token_logprobs, {"model": "gpt2"}, "model = 'gpt2': allowed is a causal language model of PyTorch"),
        (token_logprobs, {"model": nn.Linear(2, 2)}, "model = 'Linear': allowed is a causal language model"),
        (mixed_loss, {"group": [0, 0, 0, 1, 1, 1, 2, 2, 3]}, "group = 3: allowed is finite numbers from 0 to 2"),
        (mixed_loss, {"group": [0.5] * 9}, "group = 0.5: allowed is whole numbers"),
        (mixed_loss, {"rewards": [1.0] * 8},
         r"rewards = 'shape \[8\], float64': allowed is numbers of one dimension, 9"),
        (mixed_loss, {"rewards": [math.nan] * 9}, "rewards = nan: allowed is finite numbers"),
        (mixed_loss, {"beta": [1.0]}, r"beta = 'shape \[1\], float64': allowed is numbers of one dimension, 3"),
        (mixed_loss, {"alpha": [1.0, -1.0, 0.0]}, "alpha = -1.0: allowed is finite numbers of at least 0"),
        (mixed_loss, {"is_demonstration": [True] * 3}, "is_demonstration = "),
        (mixed_loss, {"row": hpt.ROWS["srft_rollout"]}, "entropies = None: .*srft_rollout weighs"),
        (mixed_loss, {"rollouts_per_prompt": -2}, "rollouts_per_prompt = -2: allowed is a whole number of at least 1"),
        (mixed_loss, {"normalization": "papre"}, "normalization = 'papre': allowed is one of paper"),
        (mixed_loss, {"group": [0, 0, 0, 1, 1, 1, 1, 2, 2]},
         "rollouts_per_prompt = None: .*have 1 and 2 and 3 rollouts"),
        (hpt.gate, {"correct": [9], "n": 8}, "correct = 9: allowed is finite numbers from 0 to 8"),
        (hpt.gate, {"correct": [0.25], "n": 8}, "correct = 0.25: allowed is whole numbers; pass counts"),
        (hpt.gate, {"correct": 1, "n": 8}, r"correct = 'shape \[\], int64'"),
        (hpt.gate, {"correct": [1], "n": None}, "n = None: allowed is a whole number of at least 1"),
        (hpt.gate, {"correct": [1], "n": "8"}, "n = '8': allowed is a whole number of at least 1"),
        (hpt.gate, {"correct": [1], "n": 8, "kind": "math:sqrt"}, "gate.kind = 'math:sqrt': allowed is a function"),
        (hpt.gate, {"correct": [1], "n": 8, "count": 9}, "count = 9"),

        (hpt.gate, {"correct": [1], "n": 8, "slop": 3}, "slop = 3: .*did you mean slope?"),
        (hpt.group_advantages, {"rewards": [1, 0], "group": [0, 0], "row": hpt.ROWS["ppo"]},
         "row ppo: advantage = 'gae'"),
        (hpt.group_advantages, {"rewards": [1, 0], "group": [0]},
         r"group = 'shape \[1\], int64': allowed is numbers of one dimension, 2"),
        (hpt.intervals, {"values": [1, 0], "over": "runs"}, "over = 'runs': allowed is problems or seeds"),
        (hpt.intervals, {"values": [1, 0], "over": "seeds", "level": 95}, "level = 95: allowed is a coverage"),
        (hpt.pass_at_k, {"correct_counts": [1], "samples": 4, "k": 1.5}, "k = 1.5: allowed is a whole number"),
        (hpt.pass_at_k, {"correct_counts": [math.nan], "samples": 4, "k": 1}, r"correct_counts = \[nan\]"),
        (hpt.intervals, {"values": [[1, 0]], "over": "seeds"}, r"values = 'shape \[1, 2\]"),
        (hpt.verify, {"answer": "1", "gold": "1", "kind": "maths"}, "answer_kind = 'maths'"),
        (hpt.load_answers, {"folder": "no-such-folder"}, "folder = 'no-such-folder': allowed is a report with records"),
        (hpt.train, {"scale": "tiny", "evaluations": "no-such-set"}, "evaluation = 'no-such-set': allowed is one of"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(call: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(**change)


# Grading, scores and runs


def test_intervals_over_problems_and_seeds_are_those_of_the_report() -> None:
    shares = np.random.default_rng(0).random(60)
    assert hpt.intervals(shares, over="problems").kind == "BCa over problems, fixed weights"
    once, again, other = (hpt.intervals(own, "problems", seed=seed) for own, seed in
                          ((shares, 1), (torch.from_numpy(shares), 1), (shares, 2)))  # fmt: skip
    assert once == again != other
    wide, narrow = (hpt.intervals(shares, over="seeds", level=level) for level in (0.99, 0.9))
    assert wide.low < narrow.low < shares.mean() < narrow.high < wide.high
    assert math.isnan(hpt.intervals([0.3], over="seeds").low)


def test_scores_of_committed_records_are_those_of_the_committed_table() -> None:
    scores = hpt.load_scores(ROOT / "reports" / "mini")
    table = pd.read_csv(ROOT / "reports" / "mini" / "tables" / "table2.csv")
    ours = scores[(scores["base"] == "strong") & (scores["settings"] == "")].set_index(["method", "benchmark", "seed"])
    compared = 0
    for row in table[table["method"].isin(["sft", "grpo", "hpt"]) & table["samples_per_problem"].notna()].itertuples():
        for seed in (0, 1, 2):
            found = ours.loc[(row.method, row.column, seed)]
            assert found["problems"] == row.problems
            assert found["samples"] == row.samples_per_problem
            assert round(found["score"], 1) == pytest.approx(getattr(row, f"seed_{seed}"), abs=0.051)
            compared += 1
    assert compared == 3 * 3 * 8
    changed = scores[(scores["method"] == "hpt") & (scores["settings"] == "gate.count=2")]
    assert set(changed["base"]) >= {"weak"}


def test_train_finds_the_finished_run_of_its_settings(tmp_path: Path) -> None:
    (*_, planned) = [run for run in fabricate(tmp_path, ("table6",)) if run.config.gate.count == 1]
    run = hpt.train("hpt", scale="tiny", settings={"gate.count": 1}, runs_dir=tmp_path)
    assert run == planned.folder
    pd.testing.assert_frame_equal(run.metrics, run.table("metrics"))
    assert run.metrics["step"].tolist() == list(range(6))
    assert run.config.gate.count == 1


@pytest.mark.ci_slow
def test_train_takes_a_model_folder_and_a_file_of_questions(tmp_path: Path) -> None:
    write_digits(tmp_path)
    settings = {"schedule.steps": 2, "schedule.prompts_per_step": 4, "schedule.updates_per_step": 1,
                "rollout.rollouts_per_prompt": 2, "rollout.max_response_tokens": 16, "validation.every": 0}  # fmt: skip
    run = hpt.train(
        "hpt", scale="tiny", policy=tmp_path / "model", data=tmp_path / "problems.jsonl", settings=settings,
        evaluations=["held-out", tmp_path / "problems.jsonl"], runs_dir=tmp_path / "runs",
    )  # fmt: skip
    evaluated = load_records(run.path).evaluations.groupby("benchmark").size()
    assert {name.rpartition("-")[0]: count for name, count in evaluated.items()} == {"held-out": 1, "problems": 10}
    assert run.metrics["step"].tolist() == [0, 1]
    assert {"rollout/reward", "gate/offline_ratio_prompts", "loss/total"} <= set(run.metrics)
    assert (run.model / "model.safetensors").is_file()


def asked(patch: pytest.MonkeyPatch, *names: Any, scale: str = "tiny", **given: Any) -> Any:
    """Return the configuration of the run that `hpt.train` would make."""
    patch.setattr("hpt.support.errors._SAID", set())
    patch.setattr("hpt.runs.make.run_with_base", lambda config, *rest: config)
    return hpt.train(*names, scale=scale, **given)


def test_a_base_is_made_of_the_seed_asked_for_or_its_only_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = asked(monkeypatch, "pretrain", scale="mini", seed=3)
    assert (made.method, made.seed) == ("pretrain", 3)
    assert asked(monkeypatch, "pretrain", scale="smollm", seed=3).seed == 0
    assert "seed 3 makes no other base: at scale smollm all seeds share one" in capsys.readouterr().err


def test_a_base_goes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weak").mkdir()
    monkeypatch.chdir(tmp_path)
    assert asked(monkeypatch).policy.path is None
    for folder in ("./weak", Path("weak"), tmp_path / "weak"):
        assert asked(monkeypatch, policy=folder).policy.path == str(tmp_path / "weak")
        with pytest.raises(ConfigError, match=r"no policy\.path=.*weak: a base is made by its recipe"):
            asked(monkeypatch, "pretrain", policy=folder)


@pytest.mark.parametrize(
    ("method", "settings", "idle"),
    [
        ("grpo", {"gate.count": 2, "gate.alpha": 2.0}, ["gate.count"]),
        ("hpt", {"gate.count": 2, "gate.slope": 2.0, "estimator.offline_coefficient": 2.0},
         ["estimator.offline_coefficient", "gate.slope"]),
        ("hpt", {"gate.kind": "sigmoid", "gate.slope": 2.0, "schedule.first_stage_share": 0.1},
         ["schedule.first_stage_share"]),
        ("sft", {"estimator.online_row": "grpo", "estimator.offline_row": "dft"}, ["estimator.online_row"]),
        ("sft_then_grpo", {"schedule.first_stage_share": 0.1, "estimator.rl_coefficient": 2.0}, []),
        ("luffy", {"estimator.offline_coefficient": 2.0, "estimator.offline_shaping": False}, []),
        ("hpt.examples.least_error_gate:METHOD", {"gate.count": 1}, []),
    ],
)  # fmt: skip
def test_settings_that_no_part_of_a_method_reads_are_named(
    method: str, settings: dict[str, Any], idle: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked(monkeypatch, method, settings=settings)
    lines = [line for line in capsys.readouterr().err.splitlines() if "changes nothing" in line]
    assert sorted(line.removeprefix("warning: ").partition(" = ")[0] for line in lines) == idle
