"""The sampler with vLLM behind it: what it draws, the log-probs it reports, and whose weights they are."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn

from hpt.config.scales import FULL
from hpt.config.settings import RolloutSettings
from hpt.data.models import load_tokenizer, stop_tokens
from hpt.data.problems import Problem
from hpt.data.prompts import encode_training
from hpt.data.sources import training_problems_of
from hpt.rewards.workers import Grade, Verdict
from hpt.support.errors import ConfigError, TrainingFault
from hpt.training import sampler as rollout
from hpt.training.engine import PolicyEngine, start_process_group
from hpt.training.guards import MEAN_BOUNDS
from hpt.training.policy import load_model
from hpt.training.sampler import Sample, Sampler, SamplingRequest
from hpt.training.trainer import Trainer
from tests.digits import digits_config, write_digits

CONTEXT, LONGEST = 64, 16
END = 2  # the end token of the digits' tokenizer
#: Largest difference allowed between two correct 32-bit computations of a log-prob, nats.
ROUNDING = 1e-4
#: How far apart the two models' log-probs are, at least; a sampler that kept the old ones would be off by this much.
NOTICED = 0.5


@pytest.fixture(scope="module", params=["untied", "tied"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a head of its own, or one that is the embedding: two names for one tensor."""
    return write_digits(tmp_path_factory.mktemp("digits"), tied=request.param == "tied")


@pytest.fixture(scope="module")
def models(world: Path) -> tuple[nn.Module, nn.Module]:
    """The model on disk, and another of the same shape."""
    first, second = load_model(world / "model"), load_model(world / "model")
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in second.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return first, second


@pytest.fixture(scope="module")
def engine(world: Path) -> Sampler:
    start_process_group()  # as a job does: the trainer's engine comes first
    settings = RolloutSettings(max_response_tokens=LONGEST, max_model_tokens=CONTEXT, max_parallel_sequences=16)
    return Sampler(str(world / "model"), settings)


@pytest.fixture
def sampler(engine: Sampler, models: tuple[nn.Module, nn.Module]) -> Sampler:
    """The sampler with the weights on disk, whatever the test before gave it."""
    engine.load_weights(models[0].named_parameters(), 0)
    return engine


def request(question: int = 3, **changes: Any) -> SamplingRequest:
    chosen = {"prompt_tokens": np.array([1, 4 + question, 20]), "seed": 100 * question + 7, "samples": 4}
    chosen |= {"temperature": 1.0, "top_p": 1.0, "max_tokens": LONGEST}
    return SamplingRequest(**(chosen | changes))


def drawn(groups: list[list[Sample]]) -> list[list[tuple[list[int], list[float], str]]]:
    return [[(s.tokens.tolist(), s.logprobs.tolist(), s.finish_reason) for s in group] for group in groups]


def tokens(groups: list[list[Sample]]) -> list[list[list[int]]]:
    return [[sample.tokens.tolist() for sample in group] for group in groups]


@torch.no_grad()
def next_logits(model: nn.Module, asked: SamplingRequest, sample: Sample) -> torch.Tensor:
    """What transformers computes for the response's tokens in one forward pass."""
    whole = torch.from_numpy(np.concatenate([asked.prompt_tokens, sample.tokens]).astype(np.int64))
    return model(input_ids=whole[None], use_cache=False).logits[0, len(asked.prompt_tokens) - 1 : -1]


def reference_logprobs(model: nn.Module, asked: SamplingRequest, sample: Sample) -> np.ndarray:
    """In float64 from the logits on."""
    table = (next_logits(model, asked, sample).double() / asked.temperature).log_softmax(-1)
    if asked.top_p < 1:
        ordered, index = table.sort(descending=True, dim=-1)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        left_out = torch.zeros_like(table, dtype=torch.bool).scatter(1, index, before >= asked.top_p)
        table = table.masked_fill(left_out, -torch.inf).log_softmax(-1)
    return table.gather(1, torch.from_numpy(sample.tokens.astype(np.int64))[:, None])[:, 0].numpy()


def gap(model: nn.Module, requests: list[SamplingRequest], groups: list[list[Sample]]) -> float:
    return max(
        float(np.abs(reference_logprobs(model, asked, sample) - sample.logprobs).max())
        for asked, group in zip(requests, groups, strict=True)
        for sample in group
    )


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_a_request_draws_the_same_whatever_it_is_drawn_with(sampler: Sampler) -> None:
    """In any order, alone or among others: so resuming and the number of ranks change nothing."""
    requests = [request(i) for i in range(8)]
    together = sampler.sample(requests)
    assert drawn(sampler.sample(requests)) == drawn(together)
    assert tokens(sampler.sample(requests[::-1]))[::-1] == tokens(together)
    assert tokens([sampler.sample([one])[0] for one in requests]) == tokens(together)


def test_sample_i_has_the_seed_plus_i(sampler: Sampler) -> None:
    group = tokens(sampler.sample([request(seed=40)]))[0]
    assert len({tuple(sample) for sample in group}) > 1
    singles = sampler.sample([request(seed=40 + i, samples=1) for i in range(4)])
    assert [single[0] for single in tokens(singles)] == group
    assert len(sampler.sample([request(seed=2**62 - 1)])[0]) == 4  # the largest there can be


def test_the_end_token_is_part_of_the_response(sampler: Sampler) -> None:
    group = [s for own in sampler.sample([request(i, samples=16) for i in range(4)]) for s in own]
    assert {sample.finish_reason for sample in group} == {"stop", "length"}
    for sample in group:
        assert len(sample.logprobs) == len(sample.tokens)
        if sample.finish_reason == "stop":
            assert sample.tokens.tolist().index(END) == len(sample.tokens) - 1
        else:
            assert END not in sample.tokens
            assert len(sample.tokens) == LONGEST


def test_every_end_token_that_a_folder_names_ends_a_response(
    world: Path, tmp_path: Path, sampler: Sampler, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Base models as published name one in generation_config.json and another in the tokenizer that SFT is taught."""
    folder = shutil.copytree(world / "model", tmp_path / "model")
    for name, named in (("generation_config.json", [5, 6]), ("config.json", 7)):
        written = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(written | {"eos_token_id": named}))
    assert stop_tokens(str(world / "model")) == [END]
    assert "warning: " not in capsys.readouterr().err
    ends = stop_tokens(str(folder))
    assert ends == [END, 5, 6, 7] == stop_tokens(str(folder))
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    for said in ("generation_config.json [5, 6]", "config.json [7]", "tokenizer [2]"):
        assert said in warning.partition(str(folder))[2]
    monkeypatch.setattr(sampler, "_stop_tokens", ends)
    group = [own for asked in sampler.sample([request(i, samples=16) for i in range(8)]) for own in asked]
    assert {int(own.tokens[-1]) for own in group if own.finish_reason == "stop"} == set(ends)
    assert not any(token in ends for own in group for token in own.tokens[:-1].tolist())


def test_an_end_token_the_model_does_not_know_is_refused(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world / "model", tmp_path / "model")
    for name in ("generation_config.json", "config.json"):
        text = (folder / name).read_text()
        for wrong in (4000, -1, "2", True, 2.5):
            (folder / name).write_text(json.dumps(json.loads(text) | {"eos_token_id": [2, wrong]}))
            said = rf"{name} \[2, {wrong!r}\].*below the model's vocab_size = 37|config.json .*'eos_token_id'"
            with pytest.raises(ConfigError, match=said):
                Sampler(str(folder), RolloutSettings())
        (folder / name).write_text(text)


def test_a_prompt_without_room_for_a_response_is_refused(sampler: Sampler) -> None:
    """vLLM would shorten the response without a word, down to where there is no room at all."""

    def with_prompt(length: int) -> SamplingRequest:
        return request(prompt_tokens=np.full(length, 5, dtype=np.int32), samples=16)

    for length in (CONTEXT - LONGEST + 1, CONTEXT, 10 * CONTEXT):
        with pytest.raises(ConfigError, match=rf"{length} tokens.*rollout\.max_model_tokens = 64"):
            sampler.sample([request(), with_prompt(length)])
    (group,) = sampler.sample([with_prompt(CONTEXT - LONGEST)])  # the longest; and it still works
    assert max(len(sample.tokens) for sample in group) == LONGEST


def test_greedily_the_likeliest_token_is_drawn(sampler: Sampler, models: tuple[nn.Module, nn.Module]) -> None:
    asked = [request(i, samples=1, temperature=0.0) for i in range(4)]
    for own, (sample,) in zip(asked, sampler.sample(asked), strict=True):
        assert sample.tokens.tolist() == next_logits(models[0], own, sample).argmax(-1).tolist()
        assert np.isfinite(sample.logprobs).all()


# --- log-probs and whose weights they are ----------------------------------------------------------------------------


@pytest.mark.parametrize("law", [{}, {"temperature": 0.6}, {"temperature": 0.6, "top_p": 0.7}])
def test_logprobs_are_those_of_the_law_sampled_from(
    law: dict[str, float], sampler: Sampler, models: tuple[nn.Module, nn.Module]
) -> None:
    sharp = models[1]  # a new model's distribution is nearly flat, and flat at every temperature
    sampler.load_weights(sharp.named_parameters(), 1)
    requests = [request(i, **law) for i in range(8)]
    groups = sampler.sample(requests)
    assert gap(sharp, requests, groups) < ROUNDING
    if law:  # taken for those of the plain distribution they would be wrong
        assert gap(sharp, [request(i) for i in range(8)], groups) > NOTICED


def test_shared_prompts_are_computed_anew_for_new_weights(
    sampler: Sampler, models: tuple[nn.Module, nn.Module]
) -> None:
    """A group's responses share the first 32 tokens of these prompts, but not with responses of other weights."""
    requests = [request(i, prompt_tokens=np.arange(45) % 3 + i) for i in (4, 8)]
    first = sampler.sample(requests)
    assert gap(models[0], requests, first) < ROUNDING
    assert drawn(sampler.sample(requests)) == drawn(first)
    assert tokens([sampler.sample([one])[0] for one in requests[::-1]])[::-1] == tokens(first)
    sampler.load_weights(models[1].named_parameters(), 1)
    assert gap(models[1], requests, sampler.sample(requests)) < ROUNDING


def test_prompts_that_the_engine_still_holds_stop_the_run(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler._engine, "reset_prefix_cache", lambda: False)
    with pytest.raises(TrainingFault, match="still holds an earlier call's prompts"):
        sampler.sample([request()])


@pytest.mark.parametrize(("setting", "shared"), [("sliding_window", True), ("mamba_d_conv", False)])
def test_no_prompt_is_shared_by_a_recurrent_model(
    setting: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_digits(tmp_path) / "model"
    config = json.loads((folder / "config.json").read_text()) | {setting: 4}
    (folder / "config.json").write_text(json.dumps(config))
    engine = MagicMock()
    engine.return_value.apply_model.return_value = ["vllm.models"]
    monkeypatch.setattr("vllm.LLM", engine)
    Sampler(str(folder), RolloutSettings())
    assert engine.call_args.kwargs["enable_prefix_caching"] is shared


@pytest.fixture
def digits(world: Path, sampler: Sampler) -> Callable[..., Trainer]:
    """Makes a trainer of a method around the real sampler; only math-verify is left out."""

    def make(method: str, **settings: Any) -> Trainer:
        config = digits_config(method, world, validation__every=0, optimizer__learning_rate=0.05, **settings)
        tokenizer = load_tokenizer(world / "model")
        data = encode_training(tokenizer, training_problems_of(config), config, True)
        trained = PolicyEngine(load_model(world / "model"), config.engine, config.optimizer)
        verifier = SimpleNamespace(grade=half_right)
        return Trainer(config, data.problems, data.prompts, data.demonstrations, tokenizer, trained, sampler, verifier)

    return make


def half_right(texts: Sequence[str], asked: Sequence[Problem]) -> list[Grade]:
    """Something to learn for every method."""
    return [Grade((Verdict.correct, Verdict.wrong)[i % 2], "") for i, _ in enumerate(texts)]


@pytest.mark.parametrize("method", ["sft", "grpo", "hpt"])
def test_trainer_and_sampler_agree_step_after_step(method: str, digits: Callable[..., Trainer]) -> None:
    trainer = digits(method)
    requests = [request(i) for i in range(8)]
    for step in range(4):
        trainer.train(step + 1)
        assert trainer.state.version == 4 * (step + 1)
        trainer.check_sampler()
        assert gap(trainer.engine.module.model, requests, trainer.sampler.sample(requests)) < ROUNDING
    if method != "sft":
        gaps = [row["check/logprob_gap"] for row in trainer.rows["metrics"]]
        assert 0 < max(gaps) < ROUNDING


@pytest.mark.parametrize("dtype", MEAN_BOUNDS)
@pytest.mark.parametrize("method", ["sft", "grpo", "hpt"])
def test_a_head_that_is_left_behind_stops_training(
    method: str, dtype: str, digits: Callable[..., Trainer], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What vLLM does on CPU with a head that has no name of its own; one with a name is not left behind.

    The bounds are those of the types at their scales; the gap itself is float32's in both.
    """
    monkeypatch.setattr(rollout, "_repack_head", lambda model: None)
    single = {"float32": 0.05, "bfloat16": FULL["rollout"]["max_logprob_gap"]}[dtype]
    mean = MEAN_BOUNDS[dtype]
    trainer = digits(method, rollout__max_logprob_gap=single, diagnostics__max_mean_logprob_gap=mean)
    trainer.train(1)
    if load_model(world / "model").config.tie_word_embeddings:
        with pytest.raises(TrainingFault, match=rf"step 1: .*allowed is diagnostics.max_mean_logprob_gap = {mean:g}\."):
            trainer.check_sampler()
    else:
        trainer.check_sampler()
