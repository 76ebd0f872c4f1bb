"""The paper's models: the change of their configuration, what is refused, what is recorded, and the full scale."""

import json
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from hpt.config.run_config import RunConfig
from hpt.data.models import MODELS, RECORD, changed_config, check_context, model_hashes, prepare_model, setting_of
from hpt.data.sources import evaluation_at
from hpt.runs.evaluations import sampling_config
from hpt.runs.folder import RunFolder, damaged_files
from hpt.runs.make import planned_runs
from hpt.runs.resolve import base_config, build_config, given_base_config, public_base_config, resolve_run
from hpt.support.errors import ConfigError
from hpt.training.policy import attention_and_layout
from tests.command_line import hpt
from tests.tokenizers_like import like_qwen

#: Keys and values as published by their makers, the architecture's part.
PUBLISHED: dict[str, dict[str, Any]] = {
    "weak": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960,
        "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        "tie_word_embeddings": True, "rope_theta": 10000, "max_position_embeddings": 4096, "sliding_window": 4096,
        "use_sliding_window": False, "max_window_layers": 21, "rms_norm_eps": 1e-06, "torch_dtype": "bfloat16",
        "eos_token_id": 151643, "bos_token_id": 151643, "hidden_act": "silu", "transformers_version": "4.44.0",
    },
    "llama": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": False,
        "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rms_norm_eps": 1e-05, "torch_dtype": "bfloat16", "eos_token_id": 128001, "bos_token_id": 128000,
    },
}  # fmt: skip
PUBLISHED["strong"] = {
    **PUBLISHED["weak"], "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip


def copy_of(role: str, folder: Path, **changes: Any) -> Path:
    """A folder as the hub has it, with a weight file that is no model: nothing here reads it."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**PUBLISHED[role], **changes}))
    save_file({"one": np.arange(4, dtype=np.float32)}, folder / "model.safetensors")
    like_qwen().save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


# --- the change -------------------------------------------------------------------------------------------------------


LONGER = {"rope_theta": [10000, 40000], "max_position_embeddings": [4096, 16384]}


@pytest.mark.parametrize(("role", "changes"), [("weak", LONGER), ("strong", LONGER), ("llama", {})])
def test_qwen_math_gets_longer_positions_and_another_rotary_base_and_llama_stays(
    role: str, changes: dict[str, list[int]], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    source, folder = copy_of(role, tmp_path / "published"), tmp_path / "model"
    record = prepare_model(MODELS[role], folder, source)
    assert record["changes"] == changes
    new = {name: value for name, (_, value) in changes.items()}
    assert json.loads((folder / "config.json").read_text()) == PUBLISHED[role] | new
    read = AutoConfig.from_pretrained(folder).to_dict()
    assert {name: setting_of(read, name) for name in changes} == new
    assert json.loads((folder / RECORD).read_text()) == record
    assert not (folder / "pytorch_model.bin").exists()
    assert json.loads((source / "config.json").read_text()) == PUBLISHED[role], "the published folder is untouched"
    (folder / RECORD).unlink()  # it only spares reading the weights
    assert model_hashes(folder)["weights_sha256"] == record["weights_sha256"]


def test_the_change_reaches_the_place_newer_configurations_use() -> None:
    nested = {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "max_position_embeddings": 4096}
    changed = changed_config(nested, MODELS["weak"].changes)
    assert changed["rope_parameters"] == {"rope_theta": 40000.0, "rope_type": "default"}
    assert "rope_theta" not in changed
    assert nested["rope_parameters"]["rope_theta"] == 10000.0


def test_a_change_that_transformers_does_not_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpt.data.models.changed_config", lambda config, changes: dict(config))
    with pytest.raises(ConfigError, match=r"rope_theta as read = 10000.*: allowed is 40000"):
        prepare_model(MODELS["weak"], tmp_path / "model", copy_of("weak", tmp_path / "published"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 1_000_000}, "rope_theta = 1000000: allowed is 10000"),
        ({"max_position_embeddings": 16384, "rope_theta": 40000}, "rope_theta = 40000: allowed is 10000"),
        ({"hidden_size": 3584}, "hidden_size = 3584: allowed is 1536"),
    ],
)
def test_another_model_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare_model(MODELS["weak"], tmp_path / "model", copy_of("weak", tmp_path / "published", **changes))
    assert not (tmp_path / "model").exists()


def test_a_partial_download_is_refused(tmp_path: Path) -> None:
    source = copy_of("weak", tmp_path / "published")
    index = {"weight_map": {"one": "model.safetensors", "two": "model-00002-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"model-00002-of-00002.safetensors is missing"):
        prepare_model(MODELS["weak"], tmp_path / "model", source)


def test_a_missing_token_is_a_sentence_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def model_info(self: object, repository: str) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(ConfigError) as caught:
        prepare_model(MODELS["llama"], tmp_path / "model")
    for part in ("meta-llama/Llama-3.1-8B", "HF_TOKEN", "hpt models prepare llama --from FOLDER"):
        assert part in str(caught.value)


def test_the_command_makes_the_base_of_the_full_scale(tmp_path: Path) -> None:
    source = copy_of("weak", tmp_path / "published")
    result = hpt("models", "prepare", "weak", "--from", source, "--runs-dir", tmp_path / "runs")
    assert result.returncode == 0, result.stderr
    assert "rope_theta: 10000 -> 40000" in result.stdout
    folder = RunFolder.of(base_config(build_config("hpt", scale="full")), tmp_path / "runs")
    assert folder.finished
    assert (folder.model / "config.json").is_file()
    assert damaged_files(folder) == []
    tokenizer = folder.model / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("endoftext", "end_of_text"))
    assert damaged_files(folder) == ["model/tokenizer.json"]  # of a base made here nothing may be edited


# --- what names a model -----------------------------------------------------------------------------------------------


#: File, and what of it is edited: it moves a prompt, the tokens of a text, or where a response ends.
MOVES_TEXT: dict[str, Callable[[Any], Any]] = {
    "tokenizer.json": lambda held: held["model"]["merges"].pop(),
    "tokenizer_config.json": lambda held: held.update(eos_token="<|im_end|>"),
    "special_tokens_map.json": lambda held: held.update(eos_token="<|im_end|>"),
    "generation_config.json": lambda held: held.update(eos_token_id=[1, 2]),
    "config.json": lambda held: held.update(eos_token_id=2),
}


@pytest.mark.parametrize("name", [*MOVES_TEXT, "chat_template.jinja"])
def test_whatever_moves_a_prompt_or_an_end_makes_another_run(name: str, tmp_path: Path) -> None:
    folder = copy_of("weak", tmp_path / "a")
    for own in ("special_tokens_map.json", "generation_config.json"):
        (folder / own).write_text(json.dumps({"transformers_version": "4.44.0"}))
    settings = {"data.source": "graded", "data.world": "lookups-tiny", "rollout.max_model_tokens": 4096,
                "rollout.max_response_tokens": 1024, "validation.every": 0, "policy.path": str(folder)}  # fmt: skip

    def names() -> tuple[str, str]:
        trained = build_config("hpt", scale="full", policy="own", settings=settings)
        evaluated = given_base_config("full", folder, {"data.evaluation": "graded"})
        return resolve_run(trained, tmp_path).fingerprint(), evaluated.fingerprint()

    before, path = names(), folder / name
    text = path.read_text()
    if name.endswith(".json"):  # the same in other letters, by another version
        path.write_text(json.dumps({**json.loads(text), "transformers_version": "5.0.0"}, indent=7, ensure_ascii=True))
        assert names() == before
        edited = json.loads(text)
        MOVES_TEXT[name](edited)
        path.write_text(json.dumps(edited))
    else:
        path.write_text(text.replace("<|im_end|>", "<|im_end|> "))
    assert all(new != old for new, old in zip(names(), before, strict=True))


def test_a_context_too_short_for_prompt_and_response_is_refused(tmp_path: Path) -> None:
    folder = copy_of("weak", tmp_path / "a")
    check_context(folder, 4096)
    with pytest.raises(ConfigError, match=r"max_model_tokens = 9216: allowed is at most the model's max_position_emb"):
        check_context(folder, 9216)


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attention", "layout", "works", "expected"),
    [
        ("auto", "auto", True, ("flash_attention_2", "packed")),
        ("auto", "auto", False, ("sdpa", "padded")),
        ("sdpa", "auto", True, ("sdpa", "padded")),
        ("auto", "packed", False, ("sdpa", "packed")),
        ("sdpa", "padded", True, ("sdpa", "padded")),
        ("flash_attention_2", "auto", False, None),
    ],
)
def test_attention_is_chosen_by_what_is_installed_or_refused(
    attention: str, layout: str, works: bool, expected: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpt.training.policy.flash_attention_works", lambda dtype: works)
    if expected:
        assert attention_and_layout(attention, layout, "bfloat16") == expected
    else:
        with pytest.raises(ConfigError, match=r"engine.attention = 'flash_attention_2'"):
            attention_and_layout(attention, layout, "bfloat16")


# --- the scale --------------------------------------------------------------------------------------------------------


def full(method: str = "hpt", policy: str = "strong", **settings: Any) -> RunConfig:
    return build_config(method, scale="full", policy=policy, settings=settings)


#: Section 1.1 of what is known of the released scripts; the rest is stated in the paper.
RELEASE = {
    "optimizer.learning_rate": 5e-6, "optimizer.gradient_clip": 1.0, "optimizer.skip_above_norm": 80.0,
    "optimizer.adam_beta1": 0.9, "optimizer.adam_beta2": 0.999, "optimizer.weight_decay": 0.01,
    "estimator.normalization": "released", "estimator.entropy_scope": "all", "estimator.entropy_coefficient": 1e-3,
    "estimator.clip_eps_low": "none", "estimator.clip_eps_high": "none", "estimator.advantage_std": "none",
    "estimator.released_ranks": 8, "max_response_tokens": 8192, "rollout.rollouts_per_prompt": 8,
    "schedule.prompts_per_step": 128, "schedule.steps": 500, "schedule.updates_per_step": 2,
    "data.max_prompt_tokens": 1024, "rollout.max_model_tokens": 16_384, "rollout.old_logprobs": "trainer",
    "policy.dtype": "bfloat16", "engine.zero_stage": 3,
    "validation.temperature": 0.6, "validation.top_p": 0.95, "validation.every": 10,
}  # fmt: skip


def test_the_full_scale_is_the_release() -> None:
    assert {name: attrgetter(name)(full()) for name in RELEASE} == RELEASE


@pytest.mark.parametrize(
    ("method", "policy", "rate", "coefficient", "gate", "skip"),
    [
        ("hpt", "strong", 5e-6, 1.0, 0, 80.0),
        ("hpt", "weak", 5e-6, 0.3, 0, 80.0),
        ("hpt", "llama", 5e-6, 1.0, 2, 0.0),
        ("luffy", "strong", 1e-6, 1.0, 0, 0.0),
        ("srft", "strong", 1e-6, 1.0, 0, 0.0),
        ("grpo", "weak", 1e-6, 1.0, 0, 0.0),
        ("sft", "weak", 5e-5, 1.0, 0, 0.0),
        ("mix_on", "weak", 5e-6, 0.1, 0, 80.0),
    ],
)
def test_models_and_methods_bring_their_settings(
    method: str, policy: str, rate: float, coefficient: float, gate: int, skip: float
) -> None:
    config = full(method, policy)
    assert (config.optimizer.learning_rate, config.optimizer.skip_above_norm) == (rate, skip)
    assert (config.estimator.sft_coefficient, config.gate.count) == (coefficient, gate)
    assert config.data.template == ("llama" if policy == "llama" else "qwen")


def test_sft_then_grpo_trains_three_epochs_and_500_steps() -> None:
    schedule = full("sft_then_grpo").schedule
    first = round(schedule.first_stage_share * schedule.steps)
    assert schedule.steps - first == 500
    assert first == full("sft").schedule.steps
    assert first * 128 == pytest.approx(3 * 45_900, rel=0.01)


def test_the_papers_models_are_the_bases_of_the_full_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    for role, model in ((name, own) for name, own in MODELS.items() if own.scale == "full"):
        config = base_config(full(policy=role))
        assert config.data.source == f"hub:{model.hub}"
        assert sampling_config(config).data.template == full(policy=role).data.template
    with pytest.raises(ConfigError, match=r"policy.name = 'weka': allowed is one of weak \(Qwen2.5-Math-1.5B\)"):
        public_base_config("full", "weka", "data")
    before = public_base_config("full", "weak", "data").fingerprint()
    monkeypatch.setitem(MODELS, "weak", replace(MODELS["weak"], changes={}))
    assert public_base_config("full", "weak", "data").fingerprint() != before, "the changes name the base"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("contest-a", "aime24"), ("contest-b@1024", "aime25@2048"), ("contest-a@256", "aime24@2048"),
     ("graded-500", "math-500"), ("choice", "arc-c"),
     ("notation", "gpqa-diamond"), ("olympiad-like", "olympiad"), ("applied", "minerva"), ("amc@8", "amc@8")],
)  # fmt: skip
def test_evaluations_of_the_mini_world_have_their_benchmark(name: str, expected: str) -> None:
    assert evaluation_at(full(), name) == expected
    assert evaluation_at(build_config("hpt", scale="mini"), name) == name


def test_the_papers_experiments_are_planned_without_data_or_weights(tmp_path: Path) -> None:
    planned = planned_runs("full", [], [0], tmp_path)
    assert {run.policy for run in planned} == {"weak", "strong", "llama"}
    assert all(run.reason and run.folder is None for run in planned if run.method != "pretrain")
    bases = [run for run in planned if run.method == "pretrain"]
    assert len(bases) == 3
    evaluations = {name for run in planned for name in run.evaluations}
    contexts = {run.config.rollout.max_model_tokens for run in planned if run.method != "pretrain"}
    assert contexts == {16_384}, "GPQA asks more than 1,024 tokens, and 8,192 are the response's"
    assert {"aime24", "aime25", "amc", "math-500", "minerva", "olympiad", "arc-c", "gpqa-diamond"} <= evaluations
    assert not {name for name in evaluations if name.startswith(("contest", "graded"))}


# --- a user's model ---------------------------------------------------------------------------------------------------


def test_any_model_folder_is_a_base_to_evaluate(tmp_path: Path) -> None:
    folder = copy_of("weak", tmp_path / "mine")
    data = {"data.template": "qwen", "data.evaluation": "public", "data.folder": "data"}
    config = given_base_config("full", folder, data)
    assert config.policy.path == str(folder)
    sampled = sampling_config(config)
    assert (sampled.data.template, sampled.data.evaluation, sampled.validation.top_p) == ("qwen", "public", 0.95)
    assert given_base_config("full", folder, {**data, "data.template": "llama"}).fingerprint() != config.fingerprint()


def test_a_model_with_fewer_positions_is_evaluated_within_them(tmp_path: Path) -> None:
    folder = copy_of("weak", tmp_path / "mine")
    limits = {"rollout.max_model_tokens": 4096, "rollout.max_response_tokens": 3072, "validation.temperature": 0.0}
    limits["data.max_prompt_tokens"] = 512  # as `check_context` advises
    config = given_base_config("full", folder, limits)
    sampled = sampling_config(config)
    assert (sampled.rollout.max_model_tokens, sampled.rollout.max_response_tokens) == (4096, 3072)
    assert sampled.data.max_prompt_tokens == 512
    assert sampled.validation.temperature == 0.0
    assert sampled.rollout.tensor_parallel == full().rollout.tensor_parallel, "the scale's where nothing is said"
    assert config.fingerprint() != given_base_config("full", folder, {}).fingerprint()
    with pytest.raises(ConfigError, match=r"at least data.max_prompt_tokens \+ rollout.max_response_tokens = 9216"):
        given_base_config("full", folder, {"rollout.max_model_tokens": 4096})
    with pytest.raises(ConfigError, match=r"gate\.count = 2: allowed is a setting that moves an evaluation"):
        given_base_config("full", folder, {"gate.count": 2})
    with pytest.raises(ConfigError, match="max_model_tokns"):
        given_base_config("full", folder, {"rollout.max_model_tokns": 4096})
