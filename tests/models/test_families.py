"""Models that this package did not make: one tiny one of every family, trained and evaluated, or refused with a reason.

A family differs from Qwen2 in what its head does to logits, what its attention caps, how its parts are called and
whether its head is its embedding; each difference that one side overlooks gives wrong numbers without a word.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hpt.config.run_config import RunConfig
from hpt.data.models import check_context
from hpt.data.world.tokenizer import VOCABULARY
from hpt.methods.mixture import DEMONSTRATION, Trajectory, WeightedTrajectory
from hpt.runs.make import run_with_base
from hpt.support.errors import ConfigError
from hpt.training.engine import PolicyEngine
from hpt.training.guards import check_own_forward
from hpt.training.policy import PolicyModule, collate, forward_micro_batch, load_model
from hpt.training.sampler import CPU_HEAD_SIZES
from tests.digits import digits_config, write_digits
from tests.invariance.world import in_float64
from tests.jobs import only_run, run_to_end, start_job
from tests.scripted import config_for, make_trainer, small_model

_COMMON: dict[str, Any] = {
    "vocab_size": len(VOCABULARY), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.1,
}  # fmt: skip
_GPT2: dict[str, Any] = {**_COMMON, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128}
_PHI: dict[str, Any] = {
    **_COMMON, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 128,
}  # fmt: skip
_LLAMA: dict[str, Any] = {**_PHI, "num_key_value_heads": 1}
#: Family -> what its configuration holds; caps and scales so strong that nobody who leaves them out comes through.
FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2": _LLAMA,
    "Qwen3": {**_LLAMA, "head_dim": 32},
    "Llama": _LLAMA,
    "Mistral": _LLAMA,
    "Gemma2": {
        **_LLAMA, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64, "attn_logit_softcapping": 1.0,
        "final_logit_softcapping": 1.0,
    },
    "Granite": {
        **_LLAMA, "logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
    },
    "Cohere": {**_LLAMA, "logit_scale": 0.25},
    "GPT2": _GPT2,
    "Phi": _PHI,
}  # fmt: skip
#: What vLLM cannot compute, and what is said about it.
REFUSED = {
    ("Gemma2", "untied"): "vLLM cannot load the model in",
    ("Cohere", "untied"): "step 0: sampler and trainer log-probs differ by",
}
WINDOWED = ("Gemma2", "Mistral")
EVERY = [(family, tied) for family in FAMILIES for tied in ("tied", "untied")]
#: vLLM has no code for Phi; a head that is the embedding is written the same way in what is built like Llama.
TRAINED = [own for own in EVERY if own not in REFUSED and own[0] != "Phi"
           and own not in (("Qwen3", "tied"), ("Llama", "tied"), ("Mistral", "tied"))]  # fmt: skip


def new_model(family: str, tied: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = AutoConfig.for_model(family.lower(), **FAMILIES[family], tie_word_embeddings=tied != "untied")
    kind = "eager" if family == "Gemma2" else "sdpa"  # which caps its attention
    return AutoModelForCausalLM.from_config(shape, attn_implementation=kind).float()


def world_of(folder: Path, family: str, tied: str) -> Path:
    """The digits' world with a model of the family in it.

    ``twice``: the head is the embedding, and the folder holds it under both names; ``apart``: the configuration says
    that it is, and the folder holds two different ones.
    """
    write_digits(folder)
    path = folder / "model" / "model.safetensors"
    path.unlink()
    model = new_model(family, "untied" if tied == "apart" else tied)
    model.save_pretrained(folder / "model")
    if tied in ("twice", "apart"):
        save_file({name: weight.clone() for name, weight in model.state_dict().items()}, path, {"format": "pt"})
        model.config.tie_word_embeddings = True
        model.config.save_pretrained(folder / "model")
    return folder


def config_of(world: Path) -> RunConfig:
    return digits_config("hpt", world, schedule__steps=3, validation__every=0)


@pytest.mark.ci_slow
@pytest.mark.parametrize(("family", "tied"), [*TRAINED, ("Llama", "twice"), ("Llama", "apart")])
def test_a_foreign_model_trains_and_is_evaluated_as_it_was_saved(family: str, tied: str, tmp_path: Path) -> None:
    world = world_of(tmp_path / "world", family, tied)
    folder = run_to_end(config_of(world), tmp_path / "runs", ("contest-a",))
    metrics = folder.table("metrics")
    assert metrics["optim/updates"].tolist() == [4.0, 4.0, 4.0]
    assert 0 < metrics["check/logprob_gap"].max() < 1e-4
    before, after = (load_model(path).state_dict() for path in (world / "model", folder.model))
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    (path,) = folder.path.glob("evaluations/*")
    in_the_run = pd.read_parquet(path)
    path.unlink()
    run_to_end(config_of(world), tmp_path / "runs", ("contest-a",))
    pd.testing.assert_frame_equal(pd.read_parquet(path), in_the_run, check_exact=True)


def refusal(config: RunConfig, root: Path) -> str:
    """What a run says that is refused before anything was trained."""
    job = start_job(config, root)
    assert job.wait() in (1, 2)
    (said,) = [line for line in job.said().splitlines() if line.startswith("error: ")]
    assert "Traceback" not in job.said()
    folder = only_run(root)
    assert folder.status["step"] == 0
    assert not list(folder.path.glob("checkpoints/*"))
    return said


@pytest.mark.ci_slow
@pytest.mark.parametrize(("family", "tied"), REFUSED)
def test_what_the_sampler_cannot_compute_is_refused_with_the_reason(family: str, tied: str, tmp_path: Path) -> None:
    config = config_of(world_of(tmp_path / "world", family, tied))
    assert REFUSED[family, tied] in refusal(config, tmp_path / "runs")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 48, "num_attention_heads": 3}, "size of a head = 16: allowed is one of 32, 64, 80"),
        ({"head_dim": 48}, "size of a head = 48: allowed is one of 32, 64, 80"),
        ({"architectures": ["PhiForCausalLM"]}, "architectures = 'PhiForCausalLM': allowed is one that vLLM has code"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = .*: allowed is none"),
        ({"max_position_embeddings": 16}, "rollout.max_model_tokens = 96: allowed is at most the model's"),
    ],
)
def test_what_vllm_cannot_run_is_refused_from_the_configuration_alone(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = write_digits(tmp_path) / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ConfigError, match=said):
        run_with_base(config_of(tmp_path), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_head_sizes_are_those_of_the_installed_vllm() -> None:
    source = Path(str(importlib.util.find_spec("vllm").origin)).parent / "v1/attention/backends/cpu_attn.py"
    (sizes,) = re.findall(r"def get_supported_head_sizes.*?return \[([\d, ]+)\]", source.read_text(), re.DOTALL)
    assert tuple(map(int, sizes.split(","))) == CPU_HEAD_SIZES


# --- what the package computes against what the model computes itself ------------------------------------------------


@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
@pytest.mark.parametrize(("family", "tied"), EVERY)
def test_logprobs_entropies_and_their_gradients_are_the_models_own(family: str, tied: str, layout: str) -> None:
    module = PolicyModule(in_float64(new_model(family, tied)).eval())
    assert module.shares_prompts is (family not in WINDOWED)
    if layout == "shared" and not module.shares_prompts:
        return  # it forwards every prompt
    generator = torch.Generator().manual_seed(0)
    items = []
    prompts = [
        torch.randint(3, len(VOCABULARY), (length,), generator=generator, dtype=torch.int32) for length in (4, 6)
    ]
    for i, length in enumerate((3, 5, 9, 1)):
        prompt = prompts[i % 2].numpy()  # two responses each
        response = torch.randint(3, len(VOCABULARY), (length,), generator=generator, dtype=torch.int32).numpy()
        drawn = Trajectory("", i, DEMONSTRATION, prompt, response, response.astype("float32"), 0.0, -1)
        items.append(WeightedTrajectory(drawn, ()))

    def computed(layout: str, own: bool) -> list[torch.Tensor]:
        batch = collate(items, 0, layout, torch.float64)
        logprobs, entropies = forward_micro_batch(module, batch, layout, 0.7, own)
        weights = torch.linspace(-1, 1, len(logprobs), dtype=torch.float64)
        loss = (weights * logprobs).sum() + (weights.flip(0) * entropies).sum()
        return [logprobs, entropies, *torch.autograd.grad(loss, list(module.parameters()))]

    for ours, theirs in zip(computed(layout, own=False), computed("padded", own=True), strict=True):
        # norms of Gemma 2 and Cohere are 32-bit whatever the type, and other layouts are other sums
        rounding = 1e-6 if family in ("Gemma2", "Cohere") and layout != "padded" else 1e-12
        torch.testing.assert_close(ours, theirs, rtol=rounding, atol=rounding)


def test_a_family_whose_layers_look_along_the_row_has_every_prompt_forwarded() -> None:
    """Convolutions and states would run from one sequence of a shared row into the next."""
    config = config_for("hpt")
    trainer = make_trainer(config)
    engine, prompts = trainer.engine, list(trainer.prompts.values())
    check_own_forward(engine, prompts, config)
    assert engine.layout == "shared"
    layer = engine.module.model.model.layers[0]
    layer.register_forward_hook(lambda module, inputs, output: output + 0.5 * output.cumsum(1))
    check_own_forward(engine, prompts, config)
    assert engine.layout == "padded"


def test_a_family_whose_logits_are_not_known_is_refused() -> None:
    """Here the other way round: a Qwen2 whose configuration names a scale that its own forward pass does not know."""
    prompts = list(make_trainer(config_for("hpt")).prompts.values())
    config = config_for("hpt")

    def check(scale: float) -> None:
        model = small_model()
        model.config.logit_scale = scale
        check_own_forward(PolicyEngine(model, config.engine, config.optimizer), prompts, config)

    check(1.0)
    with pytest.raises(ConfigError, match=r"policy.path.*Qwen2ForCausalLM's differ by .* nats on average"):
        check(1.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_response_beyond_a_models_positions_is_refused(family: str, tmp_path: Path) -> None:
    """Whatever the family calls them."""
    new_model(family, "tied").config.save_pretrained(tmp_path)
    check_context(tmp_path, 128)
    with pytest.raises(ConfigError, match=r"rollout.max_model_tokens = 129: allowed is at most the model's .* = 128"):
        check_context(tmp_path, 129)


def test_a_model_without_a_body_and_a_head_is_refused() -> None:
    from transformers import Qwen2Config, Qwen2Model

    with pytest.raises(ConfigError, match=r"policy.path = 'Qwen2Model': allowed is a model of a body and an output"):
        PolicyModule(Qwen2Model(Qwen2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=1)))
