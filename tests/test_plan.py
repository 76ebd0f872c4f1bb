"""What `hpt plan` says: tokens, time, memory and disk of what is left to do, and a command per run."""

import itertools
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hpt.cli import parse_settings
from hpt.config.run_config import RunConfig
from hpt.runs.folder import RunFolder
from hpt.runs.make import PlannedRun, planned_runs
from hpt.runs.plan import (
    CORE,
    REPORTS,
    SHAPES,
    Machine,
    ModelShape,
    Plan,
    answers,
    assumptions,
    calibration,
    command,
    cost_cells,
    finished_runs,
    machine_of,
    make_plan,
    memory,
    memory_table,
    run_costs,
    shape_of,
    warnings_in,
    warnings_of,
)
from hpt.runs.records import record_folders
from hpt.runs.resolve import base_config, build_config
from hpt.support.errors import ConfigError
from hpt.training.policy import PolicyModule, checkpoint_activations
from tests.fabricated import fabricate

ROOT = Path(__file__).resolve().parents[1]
#: Where the plan of a scale is shown.
SHOWN = {"full": ROOT / "docs" / "full_scale.md", "gpu": ROOT / "docs" / "gpu_scale.md"}


def full(method: str = "hpt", policy: str = "strong", **settings: Any) -> RunConfig:
    given = {name.replace("__", "."): value for name, value in settings.items()}
    return build_config(method, scale="full", policy=policy, settings=given)


def runs_of(root: Path, *artefacts: str, scale: str = "mini", seeds: tuple[int, ...] = (0,)) -> list[PlannedRun]:
    return planned_runs(scale, artefacts, seeds, root)


def model_of(shape: ModelShape, family: str, **settings: Any) -> Any:
    """As transformers makes it."""
    import transformers

    config = getattr(transformers, f"{family}Config")(
        hidden_size=shape.hidden, intermediate_size=shape.feed_forward, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads, vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied, **settings,
    )  # fmt: skip
    return getattr(transformers, f"{family}ForCausalLM")(config)


@pytest.mark.parametrize(("policy", "architecture"), [("weak", "Qwen2"), ("strong", "Qwen2"), ("llama", "Llama")])
def test_parameters_are_those_of_the_model_itself(policy: str, architecture: str) -> None:
    shape = SHAPES[policy]
    with torch.device("meta"):
        model = model_of(shape, architecture)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
    assert ModelShape.of(model.config.to_dict()) == shape


def test_flops_are_those_torch_counts() -> None:
    """Without the attention's own products, which torch counts over the whole square, not its causal half."""
    from torch.utils.flop_counter import FlopCounterMode

    shape = ModelShape(2, 64, 128, 2, 2, 96)
    model = model_of(shape, "Llama", attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 32, dtype=torch.long), use_cache=False)
    square = 2 * 2 * 64 * 32 * 32 * 2  # layers x (scores, values) x width x length^2 x (multiply, add)
    assert counter.get_total_flops() == pytest.approx(shape.forward_flops(32, 32) + square / 2, rel=1e-3)


def test_a_greedy_evaluation_is_planned_with_one_answer_a_problem() -> None:
    """Which is what is drawn: all answers of a temperature of 0 are the same."""
    one, eight = (full("sft", validation__every=10, validation__samples_per_problem=count) for count in (1, 8))
    greedy = full("sft", validation__every=10, validation__samples_per_problem=8, validation__temperature=0.0)
    assert answers(greedy, ["aime24", "aime24@256"]) == 60
    assert answers(eight, ["aime24", "aime24@256"]) == 30 * (32 + 256)
    machine = Machine(gpus=8)
    tokens = [run_costs(config, SHAPES["strong"], machine).sampled_tokens for config in (greedy, one, eight)]
    assert tokens[0] == tokens[1] == pytest.approx(tokens[2] / 8)


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
    assert found["parameters"] == 2 * count / parameters
    assert found["gradients"] == 4 * count / gradients
    assert found["optimiser"] == 12 * count / optimiser


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_those_that_autograd_keeps(dtype: str) -> None:
    """All of them without checkpointing; with it each layer's input, and one layer's insides at a time."""
    shape, rows, width = ModelShape(4, 256, 688, 8, 2, 96), 4, 128
    model = model_of(shape, "Qwen2").to(getattr(torch, dtype)).eval()
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
        return memory(build_config("hpt", scale="tiny", settings=settings), shape, Machine())["activations"]

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
    runs = runs_of(tmp_path, scale="full", seeds=(0, 1))
    fingerprints = set()
    for run in runs:
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
        assert given["--seed"] == str(run.seed)
        assert given.get("--evaluations", "") == ",".join(run.evaluations)
        assert given["--launcher-args"] == "--num_gpus 8"
    assert len(fingerprints) == len([run for run in runs if run.method != "pretrain"]) > 20
    names = [f"{run.method} {run.policy}" for run in runs]
    later = next(i for i, run in enumerate(runs) if run.config.policy.after)
    assert names.index("pretrain weak") < names.index("sft weak") < later


def test_a_command_leaves_out_what_is_filled_in_when_a_run_is_resolved() -> None:
    """Of a custom method, too: its base is there, so the plan knows its hashes."""
    config = build_config("hpt.examples.smooth_gate:METHOD", scale="gpu")
    policy = config.policy.model_copy(update={"path": "/runs/base/model", "weights_sha256": "00"})
    data = config.data.model_copy(update={"sha256": "00"})
    resolved = config.model_copy(update={"policy": policy, "data": data, "own_modules": {"hpt.examples": "00"}})
    one, other = (command(PlannedRun(own, None, (), ""), Path("runs"), Machine(1)) for own in (config, resolved))
    assert one == other


def test_measured_utilisation_is_taken_and_named(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"utilisation": {"training": 0.2, "sampling": 0.05}}))
    machine = machine_of("full", None, 80, 989, file)
    assert (machine.training_utilisation, machine.sampling_utilisation, machine.measured) == (0.2, 0.05, True)
    config = full("sft", validation__every=0)
    stated, measured = (
        run_costs(config, SHAPES["strong"], replace(own, start_s=0.0, sequence_s=0.0)).device_s
        for own in (machine_of("full"), machine)
    )
    assert measured == pytest.approx(2 * stated)
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"benchmarks\.gpu"):
        machine_of("full", None, 80, 989, file)


@pytest.mark.parametrize("scale", SHOWN)
def test_the_plan_is_shown_as_it_is(scale: str, tmp_path: Path) -> None:
    """To renew: python -c "from tests.test_plan import renew; renew()"."""
    shown = SHOWN[scale].read_text().partition("<!-- plan -->\n")[2].partition("\n<!-- end of plan -->")[0]
    assert shown == plan_text(scale, tmp_path)


def test_a_small_model_waits_for_its_engine_not_for_arithmetic() -> None:
    config, machine = build_config("grpo", scale="gpu"), machine_of("gpu")
    own = run_costs(config, shape_of(config), machine)
    steps = config.schedule
    rollouts = steps.steps * steps.prompts_per_step * config.rollout.rollouts_per_prompt
    engine = own.sampled_tokens / machine.engine_tokens_per_s
    beside = engine + machine.start_s + rollouts * machine.sequence_s
    assert beside < own.device_s < 1.5 * beside
    faster = run_costs(config, shape_of(config), replace(machine, engine_tokens_per_s=1e9))
    assert own.device_s - faster.device_s > 0.9 * engine


def test_a_base_that_is_trained_costs_its_documents() -> None:
    config = base_config(build_config("hpt", scale="gpu"))
    machine, shape = machine_of("gpu"), shape_of(config)
    own = run_costs(config, shape, machine)
    assert 20 < own.trained_tokens / (config.schedule.steps * config.schedule.prompts_per_step) < 60
    assert own.training_flops == pytest.approx(3 * shape.forward_flops(own.trained_tokens, 0), rel=0.02)
    slow = run_costs(config, shape, replace(machine, document_s=1.0))
    assert slow.device_s > config.schedule.steps * config.schedule.prompts_per_step


@pytest.mark.ci_slow
def test_the_disk_it_says_is_what_runs_take(tiny_runs: dict[str, RunFolder]) -> None:
    for folder in tiny_runs.values():
        said = run_costs(folder.config, shape_of(folder.config), CORE).disk_bytes
        assert 0.5 < sum(file.stat().st_size for file in folder.path.rglob("*") if file.is_file()) / said < 1.5


def test_every_row_says_which_line_it_is_and_whether_there_is_a_run_at_all(tmp_path: Path) -> None:
    assert {run.reason for run in runs_of(tmp_path, "table6") if run.method == "pretrain"} == {"not made yet"}
    fabricate(tmp_path, ["table5"])
    assert {run.line: run.reason for run in runs_of(tmp_path, "table6", scale="tiny") if run.method == "hpt"} == {
        "HPT": "",
        "HPT, gate 1/8": "made with other settings so far",
        "HPT, gate 2/8": "made with other settings so far",
    }


def markdown(table: pd.DataFrame) -> str:
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def policy_table(plan: Plan) -> pd.DataFrame:
    """A row per base, and the total."""
    rows = []
    for policy in (*dict.fromkeys(run.policy for run in plan.runs), "all"):
        costs = [own for run, own in zip(plan.runs, plan.costs, strict=True) if policy in (run.policy, "all")]
        total = replace(plan, costs=tuple(costs)).total
        rows.append({"policy": policy, "runs": len(costs)} | cost_cells(total, plan.scale))
    return pd.DataFrame(rows)


def plan_text(scale: str, root: Path) -> str:
    """The plan of all artefacts with one seed, by base; nothing is there yet."""
    plan = make_plan(scale, runs_of(root, scale=scale), root)
    assert not warnings_in(plan)
    shown = next(run for run in plan.runs if run.arms == ("hpt-weak",))
    return f"""{assumptions(plan).replace("about", "About", 1)}.

{markdown(policy_table(plan))}

{markdown(memory_table(plan))}

Everything fits.

The commands, of which `hpt plan --scale {scale}` prints one per run, look like this:

```
{command(shown, Path("runs"), plan.machine)}
```"""


def renew() -> None:
    """Write the plans to where they are shown."""
    for scale, file in SHOWN.items():
        before, _, rest = file.read_text().partition("<!-- plan -->\n")
        after = rest.partition("\n<!-- end of plan -->")[2]
        assert after, f"{file} has no place for the plan"
        text = f"{before}<!-- plan -->\n{plan_text(scale, Path('nothing here'))}\n<!-- end of plan -->{after}"
        file.write_text(text)


# --- time on a core, from finished runs ------------------------------------------------------------------------------


def test_committed_runs_take_what_the_others_say() -> None:
    """Each from the others of its method and base; half may have shared their core, so most take longer."""
    timed = finished_runs(record_folders(REPORTS / "mini" / "records"))
    if len(timed) < 20:
        pytest.skip("few records")
    errors, expected = [], 0.0
    for config, seconds in timed:
        key = (config.method, config.policy.name)
        others = [own for own in timed if own[0] is not config and (own[0].method, own[0].policy.name) == key]
        if ratio := calibration([], others).get(key):
            guess = ratio * run_costs(config, shape_of(config), CORE).device_s
            errors.append(guess / seconds - 1)
            expected += guess
    assert len(errors) > 0.9 * len(timed)
    assert 0.5 < expected / sum(seconds for _, seconds in timed) < 1.1
    assert np.median(np.abs(errors)) < 0.3
    assert (np.array(errors) < 0.6).mean() > 0.9, "what is promised is seldom far too long"


def test_time_follows_the_undisturbed_runs_of_a_method_here_before_others() -> None:
    config = build_config("grpo")
    seconds = run_costs(config, shape_of(config), CORE).device_s
    others = [(build_config(method), 2 * seconds) for method in ("grpo", "hpt")]
    assert calibration([(config, factor * seconds) for factor in (1, 1, 1, 9)], [])["grpo", "weak"] == 1
    both = calibration([(config, 6 * seconds)], others)
    alone = calibration([], others)
    assert both["grpo", "weak"] == pytest.approx(6)
    assert both["hpt", "weak"] == pytest.approx(3 * alone["hpt", "weak"]), "this machine is three times as slow"


def test_a_damaged_record_and_an_interrupted_run_are_not_timed(tmp_path: Path) -> None:
    folders = [run.folder.path for run in fabricate(tmp_path, ["table6"]) if run.folder is not None]
    before = len(finished_runs(folders))
    (folders[1] / "provenance.json").write_text("{")
    (folders[2] / "provenance.json").write_text(json.dumps({"wall_s": 0.001}))
    assert len(finished_runs(folders)) == before - 2


def test_what_is_done_of_a_run_costs_nothing(tmp_path: Path) -> None:
    config, shape = build_config("hpt"), SHAPES["weak"]
    whole, half = (run_costs(config, shape, CORE, 0, done) for done in (0, 60))
    assert half.trained_tokens == whole.trained_tokens / 2
    assert run_costs(config, shape, CORE, 0, 120).sampled_tokens == 0
    runs = fabricate(tmp_path, ["table6"])
    assert make_plan("tiny", runs, tmp_path).total.device_s == 0
    assert runs[-1].folder is not None
    next((runs[-1].folder.path / "evaluations").glob("contest-a-*")).unlink()
    plan = make_plan("tiny", runs_of(tmp_path, "table6", scale="tiny"), tmp_path)
    assert plan.total.trained_tokens == 0
    assert plan.total.sampled_tokens > 0


def test_runs_side_by_side_take_less_but_never_less_than_the_longest(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "table2")
    one, two, many = (make_plan("mini", runs, tmp_path, jobs=jobs) for jobs in (1, 2, 99))
    assert two.wall_s == pytest.approx(one.wall_s / 2)
    base, *others = many.costs
    assert many.runs[0].method == "pretrain"
    assert many.wall_s == base.device_s + max(costs.device_s for costs in others), "all others start from the base"
    assert "committed records" in one.basis


def test_a_base_is_made_in_its_place_whatever_the_first_seed_is(tmp_path: Path) -> None:
    """Published models are of seed 0: sorted by it, the last one needed would come before all runs of another seed."""
    first, second = ([run.arms for run in planned_runs("full", [], [seed], tmp_path)] for seed in (0, 1))
    assert first == second
    assert first.index(("pretrain-llama",)) > first.index(("pretrain-weak",)) + 3
