"""Settings: what is refused and how the refusal reads, and what a fingerprint depends on."""

from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from hpt.config import run_config as config_module
from hpt.config.run_config import RunConfig, merge, nest, validate
from hpt.config.scales import RECIPES, SCALES, TUNED
from hpt.config.settings import Settings
from hpt.methods.methods import METHODS
from hpt.runs.resolve import build_config
from hpt.support.errors import ConfigError


def leaves(model: type[Settings] = RunConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


LEAVES = dict(leaves())


def refusal(settings: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        validate(nest(settings))
    return caught.value


def reads_well(error: ConfigError, field: str, value: object) -> None:
    """Field, value, what is allowed and the remedy stand in the one sentence a user sees."""
    shown = str(error)
    assert error.field == field
    assert error.allowed
    assert error.remedy
    for part in (field, repr(value) if isinstance(value, str) else str(value), error.allowed, error.remedy):
        assert part in shown


@pytest.mark.parametrize("field", LEAVES)
def test_wrong_type_is_refused(field: str) -> None:
    reads_well(refusal({field: ("x",)}), field, ("x",))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gate.count", "2"),  # a silent conversion would hide a quoted number in a file
        ("gate.count", 2.0), ("gate.count", True), ("gate.inclusive", 1), ("optimizer.learning_rate", "1e-3"),
        ("optimizer.learning_rate", float("nan")), ("optimizer.learning_rate", float("inf")), ("seed", -1),
        ("recipe", "paper "), ("estimator.normalization", "per-prompt"),
    ],
)  # fmt: skip
def test_nothing_is_converted_or_guessed(field: str, value: object) -> None:
    reads_well(refusal({field: value}), field, value)


def test_every_type_a_setting_may_have_is_named() -> None:
    assert refusal({"estimator.clip_eps_low": "of"}).allowed == "number or 'row' or 'none'"


@pytest.mark.parametrize(
    ("field", "named", "remedy"),
    [
        ("gate.cuont", "gate.cuont", "did you mean count?"),
        ("rolout.temperature", "rolout", "did you mean rollout?"),
        ("learning_rate", "learning_rate", "remove it or correct the name"),
        ("engine.zero_stages", "engine.zero_stages", "did you mean zero_stage?"),
    ],
)
def test_unknown_settings_are_refused(field: str, named: str, remedy: str) -> None:
    error = refusal({field: 1})
    assert (error.field, error.remedy) == (named, remedy)
    assert error.allowed.startswith("only ")


IMPOSSIBLE: list[tuple[dict[str, Any], str, str]] = [
    ({"gate.count": 9}, "gate.count", "rollouts_per_prompt = 8"),
    ({"gate.count": 5, "rollout.rollouts_per_prompt": 4}, "gate.count", "rollouts_per_prompt = 4"),
    ({"schedule.updates_per_step": 5}, "schedule.updates_per_step", "prompts_per_step = 32"),
    ({"rollout.max_model_tokens": 100}, "rollout.max_model_tokens", "= 176"),
    ({"rollout.max_response_tokens": 113}, "rollout.max_model_tokens", "= 177"),
    ({"data.max_prompt_tokens": 65}, "rollout.max_model_tokens", "= 177"),
    ({"policy.dtype": "bfloat16"}, "engine.zero_stage", "1, 2 or 3"),
    ({"rollout.top_p": 0.9}, "rollout.top_p", "1"),
    ({"diagnostics.gradient_cosine_every": 5, "engine.zero_stage": 3}, "diagnostics.gradient_cosine_every",
     "no rank holds a whole gradient"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "field", "allowed"), IMPOSSIBLE)
def test_impossible_pairs_are_refused(settings: dict[str, Any], field: str, allowed: str) -> None:
    error = refusal(settings)
    assert allowed in error.allowed
    reads_well(error, field, error.value)


ONE_ROLLOUT = {"rollout.rollouts_per_prompt": 1}
AT_LEAST_TWO = ("rollout.rollouts_per_prompt", "at least 2")
IMPOSSIBLE_WITH_METHOD: list[tuple[str, dict[str, Any], str, str]] = [
    ("srft", {"estimator.clip_eps_low": 0.2}, "estimator.clip_eps_low", "no ratio to clip"),
    ("hpt", {"estimator.online_row": "reinforce", "estimator.clip_eps_high": 0.1}, "estimator.clip_eps_high", "ratio"),
    ("hpt", {"estimator.online_row": "grop"}, "estimator.online_row", "grpo"),
    ("hpt", {"estimator.offline_row": "lufy"}, "estimator.offline_row", "luffy_offline"),
    ("hpt", {"estimator.online_row": "ppo"}, "row ppo: values", "no critic"),
    ("hpt", {"estimator.kl_coefficient": 0.5, "estimator.kl_term": "advantage"}, "estimator.kl_term", "rloo"),
    ("hpt", {"gate.kind": "swich"}, "gate.kind", "switch"),
    ("luffy", ONE_ROLLOUT, *AT_LEAST_TWO),
    ("hpt", ONE_ROLLOUT, *AT_LEAST_TWO),
    ("grpo", {**ONE_ROLLOUT, "estimator.advantage_std": "none"}, *AT_LEAST_TWO),
    *(("grpo", {**ONE_ROLLOUT, "estimator.online_row": row}, *AT_LEAST_TWO)
      for row in ("method", "dr_grpo", "rloo", "gspo", "cispo", "clip_cov")),
    *(("hpt", {"estimator.offline_row": row}, "estimator.offline_row", "no ratio")
      for row in ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "clip_cov", "reinforce_plus_plus", "ppo")),
    *(("hpt", {"estimator.offline_row": row}, "estimator.offline_row", "alone")
      for row in ("luffy_offline", "srft_offline", "rloo")),
    ("tests.test_config:ALONE", {}, "row rloo", "the demonstration alone"),
    ("tests.test_config:RATIO", {}, "row grpo", "no ratio"),
]  # fmt: skip
#: Methods of one's own with a row that a demonstration cannot have, or that never gives it an advantage.
ONLINE, OFFLINE = METHODS["hpt"].components
RATIO = replace(METHODS["hpt"], components=(ONLINE, replace(OFFLINE, row="grpo")))
ALONE = replace(METHODS["hpt"], components=(ONLINE, replace(OFFLINE, row="rloo")))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("sft", ONE_ROLLOUT),
        ("grpo", {"rollout.rollouts_per_prompt": 2}),
        ("luffy", {"rollout.rollouts_per_prompt": 2}),
        *(("grpo", {**ONE_ROLLOUT, "estimator.online_row": row})
          for row in ("reinforce", "reinforce_baseline", "reinforce_plus_plus")),
        ("hpt", {**ONE_ROLLOUT, "estimator.rl_coefficient": 0.0}),
        ("hpt", {"estimator.offline_row": "dft"}),
        ("off_on", {"estimator.offline_row": "offline_unshaped"}),
        ("off_on", {"estimator.offline_advantage": "group"}),
    ],
)  # fmt: skip
def test_what_can_be_learnt_from_is_not_refused(method: str, settings: dict[str, Any]) -> None:
    build_config(method, scale="tiny", settings=settings)


def test_a_row_in_place_of_the_methods_keeps_the_normalisation_and_it_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    released = {"estimator.online_row": "gspo", "estimator.normalization": "released"}
    assert build_config("hpt", scale="tiny", settings=released).estimator.normalization == "released"
    said = capsys.readouterr().err
    for part in ("warning: estimator.online_row = gspo", "estimator.normalization = released", "sequence_mean"):
        assert part in said
    for settings in ({}, {**released, "estimator.normalization": "row"}):
        build_config("hpt", scale="tiny", settings=settings)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("method", "settings", "field", "allowed"), IMPOSSIBLE_WITH_METHOD)
def test_what_a_method_cannot_do_is_refused_before_anything_runs(
    method: str, settings: dict[str, Any], field: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(method, scale="tiny", settings=settings)
    assert allowed in str(caught.value)
    reads_well(caught.value, field, caught.value.value)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"method": "hpt", "scale": "tyni"}, "scale"),
        ({"method": "hpt", "recipe": "papers"}, "recipe"),
        ({"method": "htp"}, "method"),
        ({"method": "no_such_module:METHOD"}, "method"),
    ],
)
def test_unknown_names_are_refused(arguments: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(**arguments)  # type: ignore[arg-type]
    reads_well(caught.value, field, arguments[field])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", METHODS)
def test_every_combination_of_names_is_possible_and_survives_a_round_trip(method: str, scale: str, recipe: str) -> None:
    resolved = build_config(method, scale=scale, recipe=recipe)
    again = validate(resolved.model_dump(mode="json"))
    assert again == resolved
    assert again.fingerprint() == resolved.fingerprint()


def test_layers_lie_over_each_other_in_the_stated_order() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}
    assert nest({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    assert build_config("hpt", recipe="released").estimator.advantage_std == "none"
    assert build_config("hpt", recipe="paper").estimator.advantage_std == "sample"
    chosen = {"estimator.advantage_std": "population", "gate.kind": "linear"}
    config = build_config("hpt", scale="tiny", recipe="paper", settings=chosen)
    assert (config.estimator.advantage_std, config.gate.kind) == ("population", "linear")
    assert config.schedule.prompts_per_step == 8
    assert build_config("sft", scale="tiny").gate.beta == 1.0
    tuned = TUNED["mini"]["weak"]["mix_on"]["estimator"]["sft_coefficient"]
    tiny = build_config("mix_on", scale="tiny").estimator.sft_coefficient
    assert build_config("mix_on").estimator.sft_coefficient == tuned != tiny


# --- fingerprint ------------------------------------------------------------------------------------------------------


def another(field: FieldInfo, value: Any) -> Any:
    """Some other value of a setting; possible or not does not matter to the hash."""
    options = [option for part in (field.annotation, *get_args(field.annotation))
               if get_origin(part) is Literal for option in get_args(part)]  # fmt: skip
    if options:
        return next(option for option in options if option != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return "something else" if isinstance(value, str) or str in get_args(field.annotation) else 7


NOT_HASHED = {
    "checkpoint.every", "checkpoint.keep", "diagnostics.gradient_cosine_every", "diagnostics.max_mean_logprob_gap",
    "diagnostics.rollouts_over_gap", "policy.path", "data.folder", "validation.sets",
}  # fmt: skip


def with_value(config: RunConfig, name: str, value: Any) -> RunConfig:
    section, _, leaf = name.rpartition(".")
    if not section:
        return config.model_copy(update={leaf: value})
    return config.model_copy(update={section: getattr(config, section).model_copy(update={leaf: value})})


def value_of(config: RunConfig, name: str) -> Any:
    return attrgetter(name)(config)


@pytest.mark.parametrize("name", LEAVES)
def test_fingerprint_moves_with_everything_that_moves_numbers_and_nothing_else(name: str) -> None:
    """Data and initial weights are in it as hashes; where they lie, and how often the run is saved, are not."""
    config = RunConfig()
    value = another(LEAVES[name], value_of(config, name))
    assert value != value_of(config, name)
    moved = with_value(config, name, value).fingerprint() != config.fingerprint()
    assert moved == (name not in NOT_HASHED)


def test_fingerprint_moves_with_the_numerics_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RunConfig().fingerprint()
    monkeypatch.setattr(config_module, "NUMERICS_VERSION", config_module.NUMERICS_VERSION + 1)
    assert RunConfig().fingerprint() != before
