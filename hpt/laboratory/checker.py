"""Does a user's algorithm do what it should? Its gradient against finite differences, and what it may not depend on.

Checked is what training relies on: parts that return one finite number per token and keep out of the gradient, the same
gradient however the step is cut into micro-batches, whatever else is in one (another row's trajectories, the filler
that gives every rank as many passes), advantages that know no order, and a gate that sees one question at a time. Token
streams hold no padding, so what does not depend on its neighbours does not depend on padding either.

Everything runs in float64 on a small random batch where masks work on both sides (`hpt.laboratory.random_batch`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hpt.config.run_config import RunConfig
from hpt.config.settings import GateSettings
from hpt.laboratory.random_batch import (
    World,
    component_of,
    flat_gradient,
    make_world,
    row_advantages,
    streams_of,
    upge_gradient,
)
from hpt.methods.gate import feedback_coefficients
from hpt.methods.methods import METHODS, Method, resolved_row, stages_of
from hpt.runs.resolve import build_config, check_gate, check_parts
from hpt.support.errors import ConfigError, HptError
from hpt.support.plugins import checked, refresh, resolve, spelled
from hpt.upge.aggregation import COEFFICIENTS
from hpt.upge.estimator import ROWS, Row, upge_loss
from hpt.upge.reference import DENOMINATORS
from hpt.upge.stabilization import MASKS

Data = Literal["rollouts", "demonstration"]
#: Parts that can be checked alone, in the row of HPT's online half.
PARTS = ("gate", "mask", "denominator", "advantage", "aggregation", "trajectory_coefficient")
STEP = 1e-5  # of the central differences: its square and 1e-16 over it are both far below DIFFERENCES
DIFFERENCES = 1e-7
SPLITS = 1e-12  # float64 rounding of sums over a hundred tokens
DIRECTIONS = 8


@dataclass(frozen=True)
class GradientCheck:
    """One check: of what, what was found, what is allowed, and whether it holds."""

    subject: str
    check: str
    found: str
    allowed: str
    ok: bool


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradient` found; a notebook shows it as a table."""

    name: str
    checks: tuple[GradientCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def raise_if_failed(self) -> None:
        """Raise the first check that does not hold."""
        for failed in (check for check in self.checks if not check.ok):
            raise ConfigError(f"{failed.subject}: {failed.check}", failed.found, failed.allowed, f"correct {self.name}")

    def __str__(self) -> str:
        lines = [f"{'ok  ' if check.ok else 'FAIL'}  {check.subject}: {check.check}: {check.found}"
                 + ("" if check.ok else f" (allowed: {check.allowed})") for check in self.checks]  # fmt: skip
        return "\n".join([f"{self.name}: {'all checks hold' if self.ok else 'NOT as it should be'}", *lines])

    def _repr_html_(self) -> str:
        return pd.DataFrame(self.checks).to_html(index=False, border=0)


def check_gradient(subject: str | Row, part: str = "", data: Data = "rollouts", seed: int = 0) -> GradientReport:
    """Check a user's algorithm, a method, a row, or one part of a row: its gradient, and what it may not depend on.

    Args:
        subject: ``module:METHOD``, ``module:ROW``, ``module:function`` with ``part``, the name of a row or method of
            this or an installed package, or a row.
        part: what a function is, one of `PARTS`: gate, mask, ... It is then checked in the row of HPT's online half.
        data: what a row acts on; a method defines it for each of its rows.
        seed: of the random batch.

    Returns:
        A report that prints as a table; its ``ok`` says whether all checks hold.

    Raises:
        ConfigError: no such thing, or nothing that can be checked.

    Example:
        >>> import hpt
        >>> hpt.check_gradient("grpo", data="rollouts").ok
        True
    """
    if isinstance(subject, Row):
        return GradientReport(subject.name, tuple(_row_checks(subject, data, seed)))
    name = spelled(spelled(subject, "rows", ROWS), "methods", METHODS)
    refresh([name])
    if part and part not in PARTS:
        raise ConfigError("part", part, "one of " + ", ".join(PARTS), "say what the function is")
    if part == "gate":
        return GradientReport(name, tuple(_gate_checks(GateSettings(kind=name))))
    found: Any = (
        replace(ROWS["dr_grpo"], name=name.replace(":", "."), **{part: name})
        if part
        else resolve({**METHODS, **ROWS}, name, "subject")
    )
    if isinstance(found, Row):
        return GradientReport(name, tuple(_row_checks(found, data, seed)))
    if isinstance(found, Method):
        return GradientReport(name, tuple(_method_checks(name, seed)))
    raise ConfigError("subject", name, "a Method, a Row, or a function with part=...",
                      "name a part, one of " + ", ".join(PARTS))  # fmt: skip


def _method_checks(name: str, seed: int) -> Iterator[GradientCheck]:
    for stage in stages_of(build_config(name)):
        yield from _gate_checks(stage.config.gate, stage.config)
        for component in stage.method.components:
            yield from _row_checks(resolved_row(component, stage.config), component.data, seed)


def _gate_checks(gate: GateSettings, config: RunConfig | None = None) -> Iterator[GradientCheck]:
    n = 8 if config is None else config.rollout.rollouts_per_prompt
    subject, counts = f"gate {gate.kind}", np.arange(n + 1)
    try:
        check_gate(gate, n)
    except HptError as error:
        yield GradientCheck(subject, "coefficients", str(error), "(alpha, beta) [N] float64, finite, at least 0", False)
        return
    alpha, beta = feedback_coefficients(gate, counts, n)
    texts = ", ".join(f"{c}: {a:.2f}/{b:.2f}" for c, a, b in zip(counts, alpha, beta, strict=True))
    yield GradientCheck(subject, f"coefficients alpha/beta by right answers of {n}", texts, "finite, at least 0", True)
    alone = np.array([feedback_coefficients(gate, np.array([c, c]), n) for c in counts])[:, :, 0]
    gap = float(np.abs(alone.T - [alpha, beta]).max())
    yield GradientCheck(subject, "a question does not see the others", f"moves by {gap:.1e}", "0", gap == 0)


def _row_checks(row: Row, data: Data, seed: int) -> Iterator[GradientCheck]:
    world = replace(make_world(seed), offline=frozenset({row.name} if data == "demonstration" else ()))
    subject = f"row {row.name} on {data}"
    try:
        check_parts(row)
    except HptError as error:
        yield GradientCheck(subject, "advantages and aggregation", str(error), "as hpt.upge says", False)
        return
    broken = False
    for dtype in (torch.float64, torch.float32):
        found = "as they should be"
        try:
            _parts(row, world, dtype)
        except HptError as error:
            broken, found = True, str(error)
        check = f"mask, denominator and coefficient in {str(dtype).removeprefix('torch.')}"
        allowed = "[T], of the type of the log-probs, finite, detached"
        yield GradientCheck(subject, check, found, allowed, found == "as they should be")
    if broken:
        return  # nothing below could be computed

    streams, part = streams_of(world), component_of(world, row)
    tensors = (streams.logprobs, streams.entropies, streams.old_logprobs)
    before = [tensor.detach().clone() for tensor in tensors]
    once, again = (upge_loss(streams, [part]).weights for _ in range(2))
    untouched = all(torch.equal(a, b.detach()) for a, b in zip(before, tensors, strict=True))
    same = torch.equal(once, again) and untouched
    found = "yes" if same else "the second call differs" if untouched else "its inputs are changed"
    yield GradientCheck(subject, "twice the same, inputs untouched", found, "yes", same)

    weights = upge_loss(streams_of(world), [part]).weights
    moving, acting = int((weights != 0).sum()), int((part.scales != 0).sum())
    yield GradientCheck(subject, "tokens that move the policy", f"{moving} of {acting}", "at least 1", moving > 0)

    def small(check: str, value: float, unit: str, most: float) -> GradientCheck:
        return GradientCheck(subject, check, f"{value:.1e}{unit}", f"{most:.0e}", value <= most)

    worst, unit = _worst_slope(row, world, seed), f" of the sum over tokens, {DIRECTIONS} directions"
    yield small("gradient against finite differences", worst, unit, DIFFERENCES)

    everyone = list(range(len(world.tokens)))
    whole = upge_gradient(world, [row])
    size = sum(float(upge_gradient(world, [row], [[index]]).norm()) for index in everyone)
    ways = [[[i] for i in everyone], [everyone[::2], everyone[1::2]], [everyone[::-1]], [everyone[:7], everyone[7:]]]
    gap = max(float((upge_gradient(world, [row], way) - whole).norm()) / max(size, 1e-300) for way in ways)
    yield small("the same for other micro-batches, neighbours and orders", gap, " of the sum over trajectories", SPLITS)

    order = np.random.default_rng(0).permutation(len(world.tokens))
    gap = float((row_advantages(world, row)[order] - row_advantages(world.reordered(order), row)).abs().max())
    yield small("advantages know no order", gap, "", SPLITS)


def _parts(row: Row, world: World, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return mask, denominator and coefficient of every token, each held to its contract."""
    streams, rewards = streams_of(world), torch.from_numpy(world.rewards).to(dtype)
    cast = replace(streams, **{name: getattr(streams, name).to(dtype) for name in
                               ("logprobs", "entropies", "old_logprobs")})  # fmt: skip
    given = (row, cast, component_of(world, row).advantages.to(dtype))
    tables: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "mask": (MASKS, given), "denominator": (DENOMINATORS, given),
        "trajectory_coefficient": (COEFFICIENTS, (cast, rewards)),
    }  # fmt: skip
    return {
        part: checked(resolve(table, name := getattr(row, part), part), part, name, arguments, cast.logprobs.detach())
        for part, (table, arguments) in tables.items()
    }


def _worst_slope(row: Row, world: World, seed: int) -> float:
    """Compare autograd through the estimator with Eq. 6's weights, computed here, times differences of log pi."""
    streams, part, parts = streams_of(world), component_of(world, row), _parts(row, world, torch.float64)
    keep = part.keep if part.keep is not None else 1.0
    signal = parts["mask"] * keep * part.advantages * part.scales * parts["trajectory_coefficient"]
    ratio = (streams.logprobs.detach() - parts["denominator"]).exp()
    weights = torch.where(signal != 0, signal * ratio, 0.0)
    gradient = flat_gradient(upge_loss(streams, [part]).loss, world.policy)
    generator, worst = torch.Generator().manual_seed(seed), 0.0
    for _ in range(DIRECTIONS):
        direction = {name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
                     for name, value in world.policy.items()}  # fmt: skip
        flat = torch.cat([values.flatten() for values in direction.values()])
        up, down = (
            streams_of(world, policy={name: (value + sign * STEP * direction[name]).detach()
                                      for name, value in world.policy.items()}).logprobs
            for sign in (1, -1)
        )  # fmt: skip
        per_token = weights * (up - down) / (2 * STEP)
        scale = float(per_token.abs().sum())
        worst = max(worst, abs(float(-per_token.sum() - gradient @ flat)) / max(scale, 1e-300))
    return worst
