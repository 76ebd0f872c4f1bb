"""Every setting of a training run: resolved, validated, frozen, and hashed into a fingerprint.

Unknown keys, wrong types and impossible pairs are refused before anything is loaded, with a sentence that says what was
given, what is allowed and what to write. `hpt/config/settings.py` says what each setting is; `hpt/config/scales.py`
holds the values a scale, a recipe and a method bring along.
"""

import hashlib
import json
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from hpt.config.settings import (
    CheckpointSettings,
    DataSettings,
    DiagnosticsSettings,
    EngineSettings,
    EstimatorSettings,
    GateSettings,
    OptimizerSettings,
    PolicySettings,
    RolloutSettings,
    ScheduleSettings,
    Settings,
    ValidationSettings,
    neutral,
)
from hpt.support.errors import ConfigError
from hpt.support.text import did_you_mean

#: Raised whenever the same configuration can give other numbers than before; part of every fingerprint.
NUMERICS_VERSION = 4

#: Sections of the configuration that two runs with the same results may differ in.
MOVES_NO_NUMBER = frozenset({"checkpoint", "diagnostics"})


class RunConfig(Settings):
    """One training job, completely."""

    scale: str = Field(default="mini", pattern="^[A-Za-z0-9_-]{1,40}$")  # names a folder
    recipe: Literal["paper", "released"] = "released"
    method: str = "hpt"
    seed: int = Field(default=0, ge=0)
    policy: PolicySettings = PolicySettings()
    data: DataSettings = DataSettings()
    rollout: RolloutSettings = RolloutSettings()
    estimator: EstimatorSettings = EstimatorSettings()
    gate: GateSettings = GateSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    validation: ValidationSettings = ValidationSettings()
    engine: EngineSettings = EngineSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    diagnostics: DiagnosticsSettings = DiagnosticsSettings()
    over_stages: list[str] = neutral(
        [], "settings of the user that stand above those of the stages' methods, filled in with the method's"
    )
    own_modules: dict[str, str] = neutral(
        {}, "module -> hash of the code of every custom module, filled in when the run is resolved"
    )

    @model_validator(mode="after")
    def _possible_together(self) -> "RunConfig":
        n, steps, rollout, stage = self.rollout.rollouts_per_prompt, self.schedule, self.rollout, self.engine.zero_stage
        longest = self.data.max_prompt_tokens + rollout.max_response_tokens
        for holds, field, allowed, remedy in (
            (self.gate.count <= n, "gate.count", f"a count from 0 to rollout.rollouts_per_prompt = {n}",
             f"set gate.count to at most {n}"),
            (steps.prompts_per_step % steps.updates_per_step == 0, "schedule.updates_per_step",
             f"a divisor of schedule.prompts_per_step = {steps.prompts_per_step}",
             "choose one that divides, so that every update sees the same number of prompts"),
            (longest <= rollout.max_model_tokens, "rollout.max_model_tokens",
             f"at least data.max_prompt_tokens + rollout.max_response_tokens = {longest}",
             "raise it, or shorten the prompt or response limit"),
            (rollout.top_p == 1.0, "rollout.top_p", "1: ratios and entropies are those of the whole law",
             "leave it out; for evaluations set validation.top_p"),
            (self.policy.dtype != "bfloat16" or stage > 0, "engine.zero_stage",
             "1, 2 or 3 with policy.dtype = bfloat16", "set it to 1 or more: ZeRO keeps the fp32 master weights"),
            (stage < 3 or not self.diagnostics.gradient_cosine_every, "diagnostics.gradient_cosine_every",
             "0 at engine.zero_stage = 3, where no rank holds a whole gradient",
             "set it to 0, or the stage to 2 or less"),
        ):  # fmt: skip
            if not holds:
                raise ConfigError(field, attrgetter(field)(self), allowed, remedy)
        return self

    @property
    def max_response_tokens(self) -> int:
        """L of the normalisations, in tokens."""
        return self.estimator.length_divisor or self.rollout.max_response_tokens

    def telling(self) -> dict[str, Any]:
        """Return the settings in which this run differs from others: neither `MOVES_NO_NUMBER` nor neutral defaults."""
        return _without_neutral(self, self.model_dump(mode="json", exclude=set(MOVES_NO_NUMBER)))

    def fingerprint(self) -> str:
        """Return the 16-hex-digit name of everything that can move this run's numbers.

        Resolved settings (with the data hash and base-weights hash they hold) and `NUMERICS_VERSION`; not
        `MOVES_NO_NUMBER`, and not the commit: that is provenance, shown where it differs.
        """
        content = self.telling()
        content["policy"].pop("path")  # where things lie does not matter, their hashes do
        content["data"].pop("folder")
        content["validation"].pop("sets", None)
        return digest({"config": content, "numerics": NUMERICS_VERSION})


def _without_neutral(settings: Settings, content: dict[str, Any]) -> dict[str, Any]:
    """Leave out fields that were added later and stand at their default, which is what every earlier run did.

    Without this, every new setting would give all finished runs another name, and they would be made again. Such a
    field is `hpt.config.settings.neutral`; its default must never be changed.
    """
    kept = {}
    for name, value in content.items():
        field, held = type(settings).model_fields[name], getattr(settings, name)
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("neutral") and held == field.default:
            continue
        kept[name] = _without_neutral(held, value) if isinstance(held, Settings) else value
    return kept


def digest(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of ``value`` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested settings over each other, the last layer on top.

    Example:
        >>> merge({"gate": {"count": 0, "kind": "switch"}}, {"gate": {"count": 2}})
        {'gate': {'count': 2, 'kind': 'switch'}}
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            both_nested = isinstance(value, Mapping) and isinstance(below, Mapping)
            merged[key] = merge(below, value) if both_nested else value  # type: ignore[arg-type]
    return merged


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"gate.count": 2}`` into ``{"gate": {"count": 2}}``."""
    nested: dict[str, Any] = {}
    for path, value in dotted.items():
        section, _, rest = path.partition(".")  # no setting has more dots, and enough of them exhaust Python's stack
        nested = merge(nested, {section: {rest: value}} if rest else {section: value})
    return nested


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn ``{"gate": {"count": 2}}`` into ``{"gate.count": 2}``.

    Example:
        >>> flat(nest({"gate.count": 2, "seed": 1}))
        {'gate.count': 2, 'seed': 1}
    """
    dotted: dict[str, Any] = {}
    for name, value in nested.items():
        dotted |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return dotted


def validate(settings: Mapping[str, Any]) -> RunConfig:
    """Return the frozen configuration; an unknown key, a wrong value or an impossible pair is a `ConfigError`.

    Example:
        >>> validate({"gate": {"count": 2}}).gate.count
        2
    """
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        raise _first_mistake(error) from None


def _first_mistake(error: ValidationError) -> ConfigError:
    errors = error.errors()
    first = errors[0]
    # pydantic adds to a setting's name which type of a union it was trying
    section, depth = RunConfig, 0
    while depth < len(first["loc"]) and (field := section.model_fields.get(str(first["loc"][depth]))):
        depth += 1
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            section = field.annotation
    if first["type"] == "extra_forbidden":
        names, given = list(section.model_fields), str(first["loc"][depth])
        allowed, remedy = "only " + ", ".join(names), did_you_mean(given, names, "remove it or correct the name")
        return ConfigError(".".join(map(str, first["loc"])), first["input"], allowed, remedy)
    path = first["loc"][:depth]
    messages = [other["msg"] for other in errors if other["loc"][:depth] == path]  # one for each type it may have
    allowed = (message.removeprefix("Input should be ").removeprefix("a valid ") for message in messages)
    name = ".".join(map(str, path or first["loc"]))
    return ConfigError(name, first["input"], " or ".join(dict.fromkeys(allowed)), "correct the value")
