"""What `hpt plan` says about GPUs: from the model's shape, a command per run, warnings where something does not fit."""

import itertools
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from hpt.cli import app, parse_settings
from hpt.config import RunConfig
from hpt.errors import ConfigError
from hpt.policy import PolicyModule, checkpoint_activations
from hpt.resolve import base_config
from hpt.resource_plan import command, in_order, machine_of, make_plan, markdown
from hpt.resources import SHAPES, Machine, ModelShape, memory, run_costs, shape_of, warnings_of
from hpt.scales import build_config

ROOT = Path(__file__).resolve().parents[1]
#: Where the plan of a scale is shown.
SHOWN = {"full": ROOT / "README.md", "gpu": ROOT / "docs" / "gpu_scale.md"}


def full(method: str = "hpt", policy: str = "strong", **settings: Any) -> RunConfig:
    own = {name.replace("__", "."): value for name, value in settings.items()}
    return build_config(method, scale="full", policy=policy, settings=own)


@pytest.mark.parametrize(("policy", "architecture"), [("weak", "Qwen2"), ("strong", "Qwen2"), ("llama", "Llama")])
def test_parameters_are_those_of_the_model_itself(policy: str, architecture: str) -> None:
    import transformers

    shape = SHAPES[policy]
    config = getattr(transformers, f"{architecture}Config")(
        hidden_size=shape.hidden, intermediate_size=shape.feed_forward, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads, vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
    assert ModelShape.of(config.to_dict()) == shape


def test_flops_are_those_torch_counts() -> None:
    """Without the attention's own products, which torch counts over the whole square, not its causal half."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = ModelShape(2, 64, 128, 2, 2, 96)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=96,
    )  # fmt: skip
    config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter:
        LlamaForCausalLM(config)(torch.zeros(1, 32, dtype=torch.long), use_cache=False)
    square = 2 * 2 * 64 * 32 * 32 * 2  # layers x (scores, values) x width x length^2 x (multiply, add)
    assert counter.get_total_flops() == pytest.approx(shape.forward_flops(32, 32) + square / 2, rel=1e-3)


def test_a_layer_more_moves_every_number() -> None:
    config, machine = full(), Machine()
    shapes = SHAPES["strong"], replace(SHAPES["strong"], layers=SHAPES["strong"].layers + 1)
    one, two = (run_costs(config, shape, machine) for shape in shapes)
    assert one.sampled_tokens == two.sampled_tokens
    for name in ("sampling_flops", "training_flops", "gpu_hours", "disk_bytes"):
        assert getattr(two, name) > getattr(one, name) * 1.02
    one, two = (memory(config, shape, machine) for shape in shapes)
    for name in ("parameters", "gradients", "optimiser", "activations", "sampler_weights", "training"):
        assert getattr(two, name) > getattr(one, name) * 1.01
    assert two.cache < one.cache


def test_tokens_are_counted_by_hand() -> None:
    machine = Machine(response_share=0.5)
    grpo = run_costs(full("grpo", validation__every=0), SHAPES["strong"], machine)
    assert grpo.sampled_tokens == 500 * 128 * 8 * 4096
    assert grpo.trained_tokens == 500 * 128 * 8 * (4096 + 256)
    luffy = run_costs(full("luffy", validation__every=0), SHAPES["strong"], machine)
    assert luffy.sampled_tokens == 500 * 128 * 7 * 4096
    assert luffy.trained_tokens == 500 * 128 * 8 * (4096 + 256)
    sft = run_costs(full("sft", validation__every=0), SHAPES["strong"], machine, evaluated_answers=10)
    assert sft.sampled_tokens == 10 * 4096
    both = run_costs(full("sft_then_grpo", validation__every=0), SHAPES["strong"], machine)
    assert both.trained_tokens == grpo.trained_tokens + sft.trained_tokens


@pytest.mark.parametrize(("stage", "gradients", "optimiser", "parameters"), [(1, 1, 8, 1), (2, 8, 8, 1), (3, 8, 8, 8)])
def test_zero_stages_spread_one_part_after_the_other(
    stage: int, gradients: int, optimiser: int, parameters: int
) -> None:
    found = memory(full(engine__zero_stage=stage), SHAPES["strong"], Machine(gpus=8))
    count = SHAPES["strong"].parameters
    assert found.parameters == 2 * count / parameters
    assert found.gradients == 4 * count / gradients
    assert found.optimiser == 12 * count / optimiser


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_those_that_autograd_keeps(dtype: str) -> None:
    """All of them without checkpointing; with it each layer's input, and one layer's insides at a time."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape, rows, width = ModelShape(4, 256, 688, 8, 2, 96), 4, 128
    model = Qwen2ForCausalLM(Qwen2Config(
        hidden_size=shape.hidden, intermediate_size=shape.feed_forward, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads, vocab_size=shape.vocabulary,
        tie_word_embeddings=False,
    )).to(getattr(torch, dtype)).eval()  # fmt: skip
    policy = PolicyModule(model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}

    def kept() -> int:
        found: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        tokens = torch.arange(rows * width)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            policy((tokens % 96).view(rows, width), None, tokens, tokens % 96, 1.0)
        return sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in weights)

    def planned(checkpointing: bool) -> float:
        settings = {"engine.gradient_checkpointing": checkpointing, "engine.micro_batch_tokens": rows * width,
                    "engine.zero_stage": 1, "policy.dtype": dtype}  # fmt: skip
        return memory(build_config("hpt", scale="tiny", settings=settings), shape, Machine()).activations

    everything = kept()
    assert everything == pytest.approx(planned(False), rel=0.2)
    checkpoint_activations(model)
    assert kept() + everything / shape.layers == pytest.approx(planned(True), rel=0.3)  # norms compute in 32 bits
    assert kept() < 0.2 * everything


def test_what_does_not_fit_is_said_with_what_to_change() -> None:
    assert warnings_of(full(), SHAPES["strong"], Machine()) == []
    (text,) = warnings_of(full(engine__micro_batch_tokens=400_000), SHAPES["strong"], Machine())
    assert "training takes" in text
    assert "lower engine.micro_batch_tokens" in text
    found = warnings_of(full(), SHAPES["strong"], Machine(gpus=1))
    assert any("sampling takes" in text and "use more GPUs" in text for text in found)
    awake = full(rollout__sleep_while_training=False, rollout__gpu_memory_share=0.9)
    assert any("rollout.sleep_while_training" in text for text in warnings_of(awake, SHAPES["strong"], Machine()))
    small = warnings_of(full(), SHAPES["strong"], Machine(memory_gib=10))
    assert any(text.startswith("the cache holds 0 tokens") for text in small)
    odd = replace(SHAPES["strong"], heads=27, hidden=27 * 128)
    assert any("27 heads" in text for text in warnings_of(full(), odd, Machine()))


def test_every_command_makes_the_run_it_stands_for(tmp_path: Path) -> None:
    plan = make_plan("full", [], [0, 1], tmp_path, Machine())
    fingerprints = set()
    for run in plan.runs:
        words = shlex.split(command(run, tmp_path, Machine()))
        given = {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}
        if run.method != "pretrain":
            settings = parse_settings([words[i + 1] for i, word in enumerate(words) if word == "--set"])
            again = build_config(
                given["--method"], scale=given["--scale"], recipe=given.get("--recipe", "released"),
                policy=given["--policy"], seed=int(given["--seed"]), settings=settings,
            )  # fmt: skip
            assert again == run.config
            fingerprints.add(again.fingerprint())
        assert given.get("--evaluations", "") == ",".join(run.evaluations)
        assert given["--launcher-args"] == "--num_gpus 8"
    assert len(fingerprints) == len([run for run in plan.runs if run.method != "pretrain"]) > 20
    order = [run.config.policy.after for run in in_order(plan.runs)]
    assert order.index("sft") > len([run for run in plan.runs if run.method == "pretrain"])


def test_plan_prints_costs_memory_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpt.cli_plan.console", Console(soft_wrap=True, width=160))
    result = CliRunner().invoke(
        app, ["plan", "--scale", "full", "--only", "table3", "--runs-dir", str(tmp_path), "--gpu-memory", "8"]
    )
    assert result.exit_code == 0, result.output
    for text in ("hpt-weak s0", "GPU-hours", "does not fit", "stated, not measured", "hpt train --method hpt"):
        assert text in result.output


def test_measured_utilisation_is_taken_and_named(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"utilisation": {"training": 0.2, "sampling": 0.05}}))
    machine = machine_of("full", None, 80, 989, file)
    assert (machine.training_utilisation, machine.sampling_utilisation, machine.measured) == (0.2, 0.05, True)
    config = full("sft", validation__every=0)
    stated, measured = (
        run_costs(config, SHAPES["strong"], replace(own, start_s=0.0, sequence_s=0.0)).gpu_hours
        for own in (machine_of("full", None, 80, 989), machine)
    )
    assert measured == pytest.approx(2 * stated)
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"benchmarks\.gpu"):
        machine_of("full", None, 80, 989, file)


@pytest.mark.parametrize("scale", SHOWN)
def test_the_plan_is_shown_as_it_is(scale: str, tmp_path: Path) -> None:
    """To renew: python -c "from tests.test_resources import renew; renew()"."""
    shown = SHOWN[scale].read_text().partition("<!-- plan -->\n")[2].partition("\n<!-- end of plan -->")[0]
    assert shown == plan_text(scale, tmp_path)


def test_a_small_model_waits_for_its_engine_not_for_arithmetic() -> None:
    config, machine = build_config("grpo", scale="gpu"), machine_of("gpu", None, 80, 989)
    own = run_costs(config, shape_of(config), machine)
    beside = own.sampled_tokens / machine.engine_tokens_per_s + machine.start_s
    assert beside < 3600 * own.gpu_hours < 1.5 * beside
    faster = run_costs(config, shape_of(config), replace(machine, engine_tokens_per_s=1e9))
    assert faster.gpu_hours < 0.7 * own.gpu_hours


def test_a_base_that_is_trained_costs_its_documents() -> None:
    config = base_config(build_config("hpt", scale="gpu"))
    machine, shape = machine_of("gpu", None, 80, 989), shape_of(config)
    own = run_costs(config, shape, machine)
    assert 20 < own.trained_tokens / (config.schedule.steps * config.schedule.prompts_per_step) < 60
    assert own.training_flops == pytest.approx(3 * shape.forward_flops(own.trained_tokens, 0), rel=0.02)
    slow = run_costs(config, shape, replace(machine, document_s=1.0))
    assert 3600 * slow.gpu_hours > config.schedule.steps * config.schedule.prompts_per_step


def plan_text(scale: str, root: Path) -> str:
    """The plan of all artefacts with one seed; nothing is there yet."""
    return markdown(make_plan(scale, [], [0], root, machine_of(scale, None, 80, 989)))


def renew() -> None:
    """Write the plans to where they are shown."""
    for scale, file in SHOWN.items():
        before, _, rest = file.read_text().partition("<!-- plan -->\n")
        after = rest.partition("\n<!-- end of plan -->")[2]
        assert after, f"{file} has no place for the plan"
        text = f"{before}<!-- plan -->\n{plan_text(scale, Path('nothing here'))}\n<!-- end of plan -->{after}"
        file.write_text(text)
