"""Does an algorithm of one's own do what it should? Its gradient against finite differences, and what it may not do.

Checked is what training relies on: parts that say one finite number per token and keep out of the gradient, the same
gradient however the step is cut into micro-batches, whatever else is in one (another row's trajectories, the filler
that gives every rank as many passes), advantages that know no order, and a gate that sees one question at a time. Token
streams hold no padding, so what does not depend on its neighbours does not depend on padding either.

Everything runs in float64 on a small random batch where masks work on both sides (`hpt.laboratory.random_batch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from hpt.runs.resolve import build_config, check_custom_parts, check_gate
from hpt.support.errors import ConfigError, HptError
from hpt.support.plugins import checked, refresh, resolve, spelled
from hpt.upge.aggregation import COEFFICIENTS
from hpt.upge.estimator import ROWS, Row, upge_loss
from hpt.upge.reference import DENOMINATORS
from hpt.upge.row import TokenStreams
from hpt.upge.stabilization import MASKS

Data = Literal["rollouts", "demonstration"]
#: Parts that can be checked on their own, in the row of HPT's online half.
PARTS = ("gate", "mask", "denominator", "advantage", "aggregation", "trajectory_coefficient")
STEP = 1e-5  # of the central differences: its square and 1e-16 over it are both far below DIFFERENCES
DIFFERENCES = 1e-7
SPLITS = 1e-12  # float64 rounding of sums over a hundred tokens
DIRECTIONS = 8


@dataclass(frozen=True)
class Finding:
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
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(own.ok for own in self.findings)

    def raise_if_failed(self) -> None:
        """Raise the first thing that does not hold."""
        for own in self.findings:
            if not own.ok:
                raise ConfigError(f"{own.subject}: {own.check}", own.found, own.allowed, f"correct {self.name}")

    def __str__(self) -> str:
        lines = [f"{'ok  ' if own.ok else 'FAIL'}  {own.subject}: {own.check}: {own.found}"
                 + ("" if own.ok else f" (allowed: {own.allowed})") for own in self.findings]  # fmt: skip
        return "\n".join([f"{self.name}: {'all checks hold' if self.ok else 'NOT as it should be'}", *lines])

    def _repr_html_(self) -> str:
        rows = [(own.subject, own.check, own.found, own.allowed, "ok" if own.ok else "FAILS") for own in self.findings]
        return pd.DataFrame(rows, columns=["of", "check", "found", "allowed", ""]).to_html(index=False, border=0)


def check_gradient(subject: str | Row, part: str = "", data: Data = "rollouts", seed: int = 0) -> GradientReport:
    """Check your own algorithm, a method, a row, or one part of a row: its gradient, and what it may not depend on.

    Args:
        subject: ``module:METHOD``, ``module:ROW``, ``module:function`` with ``part``, a name of the package's or of an
            installed one, or a row.
        part: one of `PARTS`; what a function is. It is then checked in the row of HPT's online half.
        data: what a row acts on; a method says it itself.
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
        return GradientReport(subject.name, tuple(_row_findings(subject, data, seed)))
    name = spelled(spelled(subject, "rows", ROWS), "methods", METHODS)
    refresh([name])
    if part:
        if part not in PARTS:
            raise ConfigError("part", part, "one of " + ", ".join(PARTS), "say what the function is")
        if part == "gate":
            return GradientReport(name, tuple(_gate_findings(GateSettings(kind=name))))
        row = replace(ROWS["dr_grpo"], name=name.replace(":", "."), **{part: name})
        return GradientReport(name, tuple(_row_findings(row, data, seed)))
    found: Any = resolve({**METHODS, **ROWS}, name, "subject")
    if isinstance(found, Row):
        return GradientReport(name, tuple(_row_findings(found, data, seed)))
    if isinstance(found, Method):
        return GradientReport(name, tuple(_method_findings(name, seed)))
    raise ConfigError("subject", name, "a Method, a Row, or a function with part=...",
                      "name a part, one of " + ", ".join(PARTS))  # fmt: skip


def _method_findings(name: str, seed: int) -> list[Finding]:
    findings = []
    for stage in stages_of(build_config(name)):
        findings += _gate_findings(stage.config.gate, stage.config)
        for component in stage.method.components:
            findings += _row_findings(resolved_row(component, stage.config), component.data, seed)
    return findings


def _gate_findings(gate: GateSettings, config: RunConfig | None = None) -> list[Finding]:
    n = 8 if config is None else config.rollout.rollouts_per_prompt
    subject, counts = f"gate {gate.kind}", np.arange(n + 1)
    shape = "coefficients"
    try:
        check_gate(gate, n)
    except HptError as error:
        return [Finding(subject, shape, str(error), "(alpha, beta) [N] float64, finite, at least 0", False)]
    alpha, beta = feedback_coefficients(gate, counts, n)
    texts = ", ".join(f"{c}: {a:.2f}/{b:.2f}" for c, a, b in zip(counts, alpha, beta, strict=True))
    findings = [Finding(subject, f"{shape} alpha/beta by right answers of {n}", texts, "finite, at least 0", True)]
    alone = [feedback_coefficients(gate, counts[[c, c]], n) for c in counts[::-1]]
    gap = max(abs(a[0] - alpha[c]) + abs(b[0] - beta[c]) for c, (a, b) in zip(counts[::-1], alone, strict=True))
    findings.append(Finding(subject, "a question does not see the others", f"moves by {gap:.1e}", "0", gap == 0))
    return findings


def _row_findings(row: Row, data: Data, seed: int) -> list[Finding]:
    world = make_world(seed)
    world.offline = world.offline - {row.name} | ({row.name} if data == "demonstration" else set())
    subject = f"row {row.name} on {data}"
    try:
        check_custom_parts(row)
    except HptError as error:
        return [Finding(subject, "advantages and aggregation", str(error), "as hpt.upge says", False)]
    findings = [_part_finding(row, world, subject, dtype) for dtype in (torch.float64, torch.float32)]
    if not all(own.ok for own in findings):
        return findings  # nothing below could be computed
    return [
        *findings,
        _repeats(row, world, subject),
        _acts(row, world, subject),
        _against_differences(row, world, subject, seed),
        _over_splits(row, world, subject),
        _over_orders(row, world, subject),
    ]


def _parts(row: Row, streams: TokenStreams, per_token: Tensor, rewards: Tensor) -> dict[str, Tensor]:
    """Return what mask, denominator and coefficient say of every token, each held to its contract."""
    given = (row, streams, per_token)
    tables: Mapping[str, tuple[Any, str, Sequence[Any]]] = {
        "mask": (MASKS, row.mask, given),
        "denominator": (DENOMINATORS, row.denominator, given),
        "trajectory_coefficient": (COEFFICIENTS, row.trajectory_coefficient, (streams, rewards)),
    }
    found = {}
    for part, (table, name, arguments) in tables.items():
        function: Callable[..., Any] = resolve(table, name, part)
        found[part] = checked(function, part, name, arguments, streams.logprobs.detach())
    return found


def _part_finding(row: Row, world: World, subject: str, dtype: torch.dtype) -> Finding:
    everyone = list(range(len(world.tokens)))
    streams, part = streams_of(world, everyone), component_of(world, row, everyone)
    cast = replace(
        streams,
        logprobs=streams.logprobs.to(dtype),
        entropies=streams.entropies.to(dtype),
        old_logprobs=streams.old_logprobs.to(dtype),
    )
    check = f"mask, denominator and coefficient in {str(dtype).removeprefix('torch.')}"
    allowed = "[T], of the type of the log-probs, finite, detached"
    try:
        _parts(row, cast, part.advantages.to(dtype), torch.from_numpy(world.rewards).to(dtype))
    except HptError as error:
        return Finding(subject, check, str(error), allowed, False)
    return Finding(subject, check, "as they should be", allowed, True)


def _repeats(row: Row, world: World, subject: str) -> Finding:
    everyone = list(range(len(world.tokens)))
    streams, part = streams_of(world, everyone), component_of(world, row, everyone)
    before = [own.detach().clone() for own in (streams.logprobs, streams.entropies, streams.old_logprobs)]
    once, again = (upge_loss(streams, [part]).weights for _ in range(2))
    untouched = all(
        bool(torch.equal(a, b.detach()))
        for a, b in zip(before, (streams.logprobs, streams.entropies, streams.old_logprobs), strict=True)
    )
    same = bool(torch.equal(once, again)) and untouched
    found = "yes" if same else "its inputs are changed" if not untouched else "the second call says something else"
    return Finding(subject, "twice the same, inputs untouched", found, "yes", same)


def _acts(row: Row, world: World, subject: str) -> Finding:
    everyone = list(range(len(world.tokens)))
    part = component_of(world, row, everyone)
    weights = upge_loss(streams_of(world, everyone), [part]).weights
    moving, acting = int((weights != 0).sum()), int((part.scales != 0).sum())
    return Finding(subject, "tokens that move the policy", f"{moving} of {acting}", "at least 1", moving > 0)


def _against_differences(row: Row, world: World, subject: str, seed: int) -> Finding:
    """Autograd through the estimator against Eq. 6's weights, put together here, times differences of log pi."""
    everyone = list(range(len(world.tokens)))
    streams, part = streams_of(world, everyone), component_of(world, row, everyone)
    parts = _parts(row, streams, part.advantages, torch.from_numpy(world.rewards))
    keep = part.keep if part.keep is not None else 1.0
    signal = parts["mask"] * keep * part.advantages * part.scales * parts["trajectory_coefficient"]
    ratio = (streams.logprobs.detach() - parts["denominator"]).exp()
    weights = torch.where(signal != 0, signal * ratio, 0.0)
    gradient = flat_gradient(upge_loss(streams, [part]).loss, world.policy)
    generator, worst = torch.Generator().manual_seed(seed), 0.0
    for _ in range(DIRECTIONS):
        direction = {name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
                     for name, value in world.policy.items()}  # fmt: skip
        flat = torch.cat([own.flatten() for own in direction.values()])
        sides = [
            streams_of(world, everyone, {name: (value + sign * STEP * direction[name]).detach()
                                         for name, value in world.policy.items()}).logprobs
            for sign in (1, -1)
        ]  # fmt: skip
        per_token = weights * (sides[0] - sides[1]) / (2 * STEP)
        scale = float(per_token.abs().sum())
        worst = max(worst, abs(float(-per_token.sum() - gradient @ flat)) / max(scale, 1e-300))
    found = f"{worst:.1e} of the sum over tokens, {DIRECTIONS} directions"
    return Finding(subject, "gradient against finite differences", found, f"{DIFFERENCES:.0e}", worst <= DIFFERENCES)


def _over_splits(row: Row, world: World, subject: str) -> Finding:
    everyone = list(range(len(world.tokens)))
    whole = upge_gradient(world, [row])
    single = [upge_gradient(world, [row], [[index]]) for index in everyone]
    size = sum(float(own.norm()) for own in single)
    halves = [everyone[:7], everyone[7:]]
    ways = [[[index] for index in everyone], [everyone[::2], everyone[1::2]], [everyone[::-1]], halves]
    gaps = [float((upge_gradient(world, [row], way) - whole).norm()) / max(size, 1e-300) for way in ways]
    check = "the same for other micro-batches, neighbours and orders"
    return Finding(
        subject, check, f"{max(gaps):.1e} of the sum over trajectories", f"{SPLITS:.0e}", max(gaps) <= SPLITS
    )


def _over_orders(row: Row, world: World, subject: str) -> Finding:
    """Advantages of the batch with its trajectories in another order: each must keep its own."""
    order = np.random.default_rng(0).permutation(len(world.tokens))
    moved = make_world(0)
    for name in ("tokens", "question", "values"):
        setattr(moved, name, [getattr(world, name)[i] for i in order])
    moved.policy, moved.old_policy, moved.frozen_policy = world.policy, world.old_policy, world.frozen_policy
    moved.rewards, moved.lengths = world.rewards[order], world.lengths[order]
    moved.is_demonstration, moved.offline = world.is_demonstration[order], world.offline
    plain, other = row_advantages(world, row), row_advantages(moved, row)
    gap = max(float(np.abs(plain[i] - other[place]).max()) for place, i in enumerate(order))
    return Finding(subject, "advantages know no order", f"move by {gap:.1e}", f"{SPLITS:.0e}", gap <= SPLITS)
