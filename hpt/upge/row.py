"""A row of Table 1 as data: four named choices and their constants; the table itself is in `estimator`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hpt.support.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Parameter = float | str | None


def _is_nonnegative(value: Parameter) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _is_bound(value: Parameter) -> bool:
    return value is None or _is_nonnegative(value)


_NUMBER = ("a number of at least 0", _is_nonnegative)
_BOUND = ("a number of at least 0, or None for no bound", _is_bound)
#: constant -> (what is allowed, in words; the check). A custom row may have further constants, unchecked.
_RULES: dict[str, tuple[str, Callable[[Parameter], bool]]] = {
    "clip_eps_low": _BOUND,
    "clip_eps_high": _BOUND,
    "std": ("none, sample or population", lambda value: value in ("none", "sample", "population")),
    "shaping_gamma": _NUMBER,
    "kl_coefficient": _NUMBER,
    "gae_gamma": _NUMBER,
    "gae_lambda": _NUMBER,
    "clip_cov_share": _NUMBER,
    "clip_cov_low": _NUMBER,
    "clip_cov_high": _NUMBER,
}


@dataclass(frozen=True)
class Row:
    """One row of Table 1: four named choices and their constants.

    Attributes:
        name: key of `ROWS`.
        mask: key of `stabilization.MASKS`.
        denominator: key of `reference.DENOMINATORS`, pi_ref of Eq. 6.
        advantage: key of `advantage.ADVANTAGES`.
        aggregation: key of `aggregation.AGGREGATIONS`, the scale the row's paper gives a trajectory.
        parameters: constants of the choices. ``clip_eps_low`` / ``clip_eps_high`` (None = unbounded), ``std``
            (none, sample, population), ``shaping_gamma``, ``kl_coefficient`` (k1 in the advantage), ``gae_gamma``,
            ``gae_lambda``, ``clip_cov_share`` / ``clip_cov_low`` / ``clip_cov_high``.
        trajectory_coefficient: key of `aggregation.COEFFICIENTS`, a detached factor per trajectory.
        source: where the row comes from.

    Example:
        >>> from hpt.upge.estimator import ROWS
        >>> ROWS["grpo"].with_parameters(std="none").parameters["std"]
        'none'
    """

    name: str
    mask: str
    denominator: str
    advantage: str
    aggregation: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    trajectory_coefficient: str = "one"
    source: str = ""

    def __post_init__(self) -> None:
        for name, value in self.parameters.items():
            rule = _RULES.get(name)
            if rule is not None and not rule[1](value):
                raise ConfigError(f"row {self.name}: {name}", value, rule[0], "correct the value")

    def parameter(self, name: str) -> Parameter:
        """Return a constant of the row."""
        if name not in self.parameters:
            known = ", ".join(self.parameters) or "none"
            raise ConfigError(f"row {self.name}: parameters", known, f"a set with {name} in it", f"give the row {name}")
        return self.parameters[name]

    def number(self, name: str) -> float:
        """Return a constant that must be a number; see `parameter`."""
        value = self.parameter(name)
        if isinstance(value, (int, float)):
            return float(value)
        raise ConfigError(f"row {self.name}: {name}", value, "a number", "correct the value")

    def bound(self, name: str) -> float:
        """Return a constant that may be None, for no bound: infinity then; see `parameter`."""
        return math.inf if self.parameter(name) is None else self.number(name)

    def with_parameters(self, **overrides: Parameter) -> Row:
        """Return the row with other constants; only constants it has can be replaced."""
        for name, value in overrides.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                remedy = "leave it out or choose another row"
                raise ConfigError(f"row {self.name}: {name}", value, f"a constant of this row ({known})", remedy)
        return replace(self, parameters={**self.parameters, **overrides})


@dataclass(eq=False)
class TokenStreams:
    """One micro-batch, flattened: T response tokens of B trajectories, no padding inside.

    Attributes:
        logprobs: [T] log pi of the current policy; carries the gradient.
        entropies: [T] exact entropy of the current policy, nats.
        old_logprobs: [T] log pi_old of the policy that sampled; 0 for demonstrations.
        trajectory: [T] int64, which trajectory a token belongs to, 0..B-1.
        trajectories: B. A trajectory is never split over micro-batches.
    """

    logprobs: Tensor
    entropies: Tensor
    old_logprobs: Tensor
    trajectory: Tensor
    trajectories: int
