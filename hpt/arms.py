"""What a table or figure compares: arms, and the artefact they belong to. Which ones there are: `hpt.catalogue`.

An arm is one line of a comparison: a method on a base, with settings of its own where it has any; one run per seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hpt.build import build_config
from hpt.config import RunConfig
from hpt.errors import ConfigError
from hpt.methods import method_named
from hpt.settings import GateSettings

#: The evaluation sets of the mini world that stand for the paper's in- and out-of-distribution benchmarks.
IN_DISTRIBUTION = ("contest-a", "contest-b", "contest-c", "graded-500", "applied", "olympiad-like")
OUT_OF_DISTRIBUTION = ("choice", "notation")


#: What `hpt.gate.constant` never reads; a misspelt name is not among them, and is refused.
_NOT_OF_A_CONSTANT_GATE = {f"gate.{name}" for name in GateSettings.model_fields} - {"gate.alpha", "gate.beta"}


def is_addressed(name: str, value: Any) -> bool:
    """Return whether an entry of the user's settings is for one method or arm: a dict, not under a section's name."""
    return isinstance(value, Mapping) and name not in RunConfig.model_fields


@dataclass(frozen=True)
class Arm:
    """One line of a comparison.

    Attributes:
        method: key of `hpt.methods.METHODS` or ``module:METHOD``.
        policy: base.
        name: of the arm, unique on its base; the method's where the arm has no settings of its own.
        settings: dotted settings, on top of the user's.
        by_scale: more of them by scale, for sizes that belong to a scale.
        label: for legends and tables; empty = the method's title.
        recipe: reading of the method (`hpt.scales.RECIPES`).

    Example:
        >>> Arm("hpt", "weak").key, Arm("hpt", "weak", "hpt_gate2", {"gate.count": 2}).key
        ('hpt-weak', 'hpt_gate2-weak')
    """

    method: str
    policy: str
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    by_scale: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    label: str = ""
    recipe: str = "released"

    @property
    def key(self) -> str:
        """What records of its runs are found by."""
        return f"{self.name or self.method}-{self.policy}"

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called among the user's settings."""
        return tuple(dict.fromkeys([self.name or self.method, self.method, self.key]))

    def config(self, scale: str, seed: int, settings: Mapping[str, Any] | None = None) -> RunConfig:
        """Return the configuration of the arm's run of a seed; ``settings`` are the user's (`settings_for`)."""
        own = self.fixed(scale)
        for name, value in self._addressed(settings or {}).items():
            if name in own and own[name] != value:
                raise ConfigError(f"settings[{(self.name or self.method)!r}][{name!r}]", value,
                                  f"a setting that {self.key} is not defined by ({name} = {own[name]!r})",
                                  "leave it out, or give it to another method")  # fmt: skip
        return build_config(
            self.method, scale=scale, recipe=self.recipe, policy=self.policy, seed=seed,
            settings={**self.settings_for(settings or {}), **own},
        )  # fmt: skip

    def fixed(self, scale: str) -> dict[str, Any]:
        """Return the settings it is defined by at a scale."""
        return {**self.settings, **self.by_scale.get(scale, {})}

    def keeps(self, scale: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of its own settings that the user's would have moved: an arm stays what it is defined by.

        Example:
            >>> Arm("hpt", "weak", "hpt_gate2", {"gate.count": 2}).keeps("mini", {"gate.count": 1})
            {'gate.count': 2}
        """
        own = self.fixed(scale)
        return {name: own[name] for name, value in settings.items() if name in own and own[name] != value}

    def settings_for(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of the user's settings reaches this arm, so that only the runs that it changes are made again.

        A dict under the name of a method or an arm is for that alone. What a constant gate never reads does not reach a
        method that has one: ``gate.count`` moves HPT, and neither SFT nor GRPO.

        Example:
            >>> given = {"gate.count": 2, "hpt": {"optimizer.learning_rate": 5e-4}}
            >>> Arm("hpt", "weak").settings_for(given), Arm("grpo", "weak").settings_for(given)
            ({'gate.count': 2, 'optimizer.learning_rate': 0.0005}, {})
        """
        general = {name: value for name, value in settings.items() if not is_addressed(name, value)}
        given = {**general, **self._addressed(settings)}
        stages = method_named(self.method).stages or (self.method,)
        gates = {method_named(name).settings.get("gate", {}).get("kind") for name in stages}
        if gates == {"constant"} and "gate.kind" not in given:
            given = {name: value for name, value in given.items() if name not in _NOT_OF_A_CONSTANT_GATE}
        return given

    def _addressed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for own in self.names if is_addressed(own, settings.get(own))
                for name, value in settings[own].items()}  # fmt: skip


@dataclass(frozen=True)
class Artefact:
    """One table or figure.

    Attributes:
        name: file name and what ``--only`` takes.
        title: for people.
        arms: what it compares; the base of each is always among its runs. None: it needs no runs.
        evaluations: sets on which the final policies (and the bases) are evaluated, ``set@samples`` for another number
            of answers than the set's; none for training curves.
        notebook: the notebook that makes it.
        group: ``paper``, or ``appendix`` for what is only computed when asked for.
        extra_policy: base on which it takes methods of the user's own as further lines; empty = it takes none.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    evaluations: tuple[str, ...]
    notebook: str
    group: str = "paper"
    extra_policy: str = ""

    @property
    def policies(self) -> tuple[str, ...]:
        """Its bases, in order."""
        return tuple(dict.fromkeys(arm.policy for arm in self.arms))

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of its arms, each once."""
        return tuple(dict.fromkeys(arm.name or arm.method for arm in self.arms))

    def with_own(self, methods: Sequence[str]) -> "Artefact":
        """Return it with the plain arms of methods of the user's own (``module:METHOD``), where it takes any.

        Example:
            >>> plain = Artefact("table3", "Table 3", (Arm("hpt", "weak"),), (), "table3", extra_policy="weak")
            >>> plain.with_own(["mine:METHOD"]).methods
            ('hpt', 'mine:METHOD')
        """
        more = tuple(Arm(method, self.extra_policy) for method in methods) if self.extra_policy else ()
        return replace(self, arms=(*self.arms, *more))


def arms(policy: str, *methods: str) -> tuple[Arm, ...]:
    """Return the plain arms of methods on a base."""
    return tuple(Arm(method, policy) for method in methods)
