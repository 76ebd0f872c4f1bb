"""The scale `gpu` and `benchmarks.gpu`: settings fit each other and the world, and all of it works on a CPU."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.gpu import measure
from hpt.config.run_config import RunConfig
from hpt.config.scales import TUNED
from hpt.data.world.lookup import GPU_LOOKUPS, evaluation_sets, training_problems
from hpt.data.world.lookup_corpus import BASES, build_tokenizer
from hpt.data.world.worlds import base_recipe
from hpt.runs.catalogue import ARTEFACTS
from hpt.runs.evaluations import sampling_config
from hpt.runs.folder import RunFolder
from hpt.runs.make import check_training_set
from hpt.runs.plan import ModelShape, machine_of, shape_of, warnings_of
from hpt.runs.resolve import base_config, build_config
from hpt.support.files import write_json
from hpt.upge import likelihood
from tests.jobs import run_to_end

POLICIES = ("weak", "strong", "llama")


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_have_20_to_100_million_weights_and_fit(policy: str) -> None:
    config = build_config("hpt", scale="gpu", policy=policy)
    assert 20e6 < shape_of(config).parameters < 100e6
    assert warnings_of(config, shape_of(config), machine_of("gpu")) == []
    assert base_config(config).engine.micro_batch_tokens > 20 * 112, "a GPU wants large micro-batches"


def test_every_prompt_and_demonstration_is_within_its_limit() -> None:
    config = build_config("hpt", scale="gpu")
    check_training_set(config)
    tokenizer = build_tokenizer(GPU_LOOKUPS)
    shown = [problem.demonstration or "" for problem in training_problems(GPU_LOOKUPS)]
    longest = max(len(tokens) for tokens in tokenizer(shown)["input_ids"])
    assert longest >= 0.75 * config.rollout.max_response_tokens, "a limit far above what is needed costs time"
    asked = [problem.question for own in evaluation_sets(GPU_LOOKUPS).values() for problem in own.problems]
    assert max(len(tokens) for tokens in tokenizer(asked)["input_ids"]) < config.data.max_prompt_tokens


def test_every_arm_of_every_artefact_is_possible() -> None:
    configs = [arm.config("gpu", 0) for artefact in ARTEFACTS.values() for arm in artefact.arms]
    assert {config.scale for config in configs} == {"gpu"}
    few = [config for config in configs if config.data.questions_per_level is not None]
    assert {config.schedule.steps * config.schedule.prompts_per_step / 255 for config in few} == {20.0}, "epochs"
    assert all(config.schedule.steps <= 100 for config in configs), "an arm forgot the scale's own steps"


def test_rates_are_the_mini_worlds_divided_by_five() -> None:
    for policy in POLICIES:
        for method, mini in TUNED["mini"][policy].items():
            own = TUNED["gpu"][policy][method]
            assert own.get("estimator") == mini.get("estimator")
            for name, rate in mini["optimizer"].items():
                assert own["optimizer"][name] == pytest.approx(rate / 5)


def few_steps(model: Path) -> RunConfig:
    """The scale's run of HPT as it is, but for what makes it long, and in float32: bfloat16 is no CPU's."""
    settings = {
        "policy.path": str(model), "policy.dtype": "float32", "schedule.steps": 2, "schedule.prompts_per_step": 2,
        "rollout.rollouts_per_prompt": 4, "validation.every": 2, "validation.problems_per_set": 1,
        "validation.samples_per_problem": 1, "diagnostics.gradient_cosine_every": 1, "engine.threads": 1,
    }  # fmt: skip
    return build_config("hpt", scale="gpu", settings=settings)


@pytest.mark.ci_slow
@pytest.mark.timeout(900)
def test_a_base_and_a_run_go_their_whole_way_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpt.training.bases import pretrain

    plan = base_config(build_config("hpt", scale="gpu"))
    short = base_recipe("lookups-gpu", "weak").model_copy(update={"updates": 1, "facts_documents": 4})
    monkeypatch.setitem(BASES["lookups-gpu"], "weak", short)
    base = plan.model_copy(update={"schedule": plan.schedule.model_copy(update={"steps": 1, "prompts_per_step": 4})})
    folder = RunFolder.of(base, tmp_path / "bases")
    folder.create(base)
    folder.write_tables({"metrics": pretrain(base, folder.path)})
    assert list(folder.table("metrics")["trained/demonstrations"]) == [4.0]

    config = few_steps(folder.model)
    assert dataclasses.asdict(shape_of(config)) == dataclasses.asdict(shape_of(build_config("hpt", scale="gpu")))
    run = run_to_end(config, tmp_path / "runs", ["contest-b@1"])
    metrics = run.table("metrics")
    assert list(metrics["step"]) == [0, 1]
    assert len(run.table("rollouts")) == 2 * 2
    assert metrics["rollout/tokens"].gt(0).all()
    assert metrics["check/logprob_gap"].max() < 1e-3, "the old log-probs are the trainer's, and the sampler's the same"
    assert metrics["optim/gradient_norm"].gt(0).all()
    assert metrics["optim/skipped_updates"].eq(0).all()
    assert set(run.table("validation")["step"]) == {0, 2}
    (answers,) = run.path.glob("evaluations/contest-b@1-*.parquet")
    assert answers.stat().st_size > 0
    assert sampling_config(base).rollout.max_response_tokens == 48


@pytest.mark.ci_slow
def test_every_part_of_the_benchmark_is_measured_and_the_result_is_taken_by_the_plan(tmp_path: Path) -> None:
    """With a tiny shape."""
    shape = ModelShape(2, 32, 64, 1, 1, 96, tied=True, attention_bias=True)
    elements = likelihood.CHUNK_ELEMENTS
    result = measure(shape, 320, peak_tflops=0.1, rows=4, answers=4, repeats=1)
    assert elements == likelihood.CHUNK_ELEMENTS, "the chunked head was not put back"
    training = result["training"]
    assert training["tokens"] == 160 + 208 + 256 + 320, "half to all of the length"
    assert training["tokens_per_s"] == pytest.approx(training["tokens"] / training["seconds"])
    assert 0 < result["utilisation"]["training"] < 1
    assert result["transfer_s"] > 0
    assert 0 < result["sampling_in_loop"]["tokens"] <= 4 * 192
    assert result["in_loop_share"] > 0
    assert result["provenance"]["packages"]["torch"]
    write_json(tmp_path / "gpu.json", result)
    assert machine_of("full", None, 80, 989, tmp_path / "gpu.json").measured
