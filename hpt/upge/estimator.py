"""One estimator, four parts: Table 1 and Eq. 6 of the paper. Start reading here.

Every method of Table 1 pushes the probability of a token by

    grad_uni = 1_stable * (1 / pi_ref) * advantage * grad pi                                          (Eq. 6)

and because grad pi = pi * grad log pi, all that distinguishes the methods is one detached number per token:

    weight = mask * advantage * exp(logprob - log_denominator)                        # `weights_mask_ratio`
    loss   = - sum(scale * coefficient * weight * logprob)                            # `upge_loss`

A `Row` names the four choices (mask, denominator, advantage, aggregation); `ROWS` is the table. The names are keys of
the registries in `stabilization`, `reference`, `advantage` and `aggregation`, or a custom ``module:function``. There is
no other code path: all methods share one loss.

Eq. 6 is the form of one sample's gradient, not a statement about who sampled: SFT's tokens come from a demonstrator
although its denominator is the current policy. All factors are per token (Appendix A), not per trajectory.

torch is not imported here, so that reading the table costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpt.support.errors import ConfigError
from hpt.support.plugins import resolve
from hpt.upge.aggregation import COEFFICIENTS
from hpt.upge.reference import DENOMINATORS
from hpt.upge.row import Row, TokenStreams
from hpt.upge.stabilization import BATCH_MASKS, MASKS

if TYPE_CHECKING:
    from torch import Tensor

_EPS = {"clip_eps_low": 0.2, "clip_eps_high": 0.2}
_STD = {"std": "sample"}
_KL = {"kl_coefficient": 0.0}
_PPO = _EPS | _KL | {"gae_gamma": 1.0, "gae_lambda": 1.0}
_GRPO = _EPS | _STD
_DR_GRPO = _EPS | {"std": "none"}
_DAPO = _STD | {"clip_eps_low": 0.2, "clip_eps_high": 0.28}
_BATCH = _EPS | _KL | {"std": "population"}
_CISPO = _STD | {"clip_eps_low": None, "clip_eps_high": 0.28}  # the authors print no number; DAPO's
_GSPO = _STD | {"clip_eps_low": 3e-4, "clip_eps_high": 4e-4}
_COV = _GRPO | {"clip_cov_share": 2e-4, "clip_cov_low": 1.0, "clip_cov_high": 5.0}
_LUFFY = _STD | {"shaping_gamma": 0.1}

# fmt: off
_TABLE_1 = (
    #    row                    mask             denominator       advantage           aggregation          constants
    Row("sft",                 "none",          "current",        "one",              "token_mean"),
    # online
    Row("ppo",                 "clip",          "old",            "gae",              "token_mean",        _PPO),
    Row("grpo",                "clip",          "old",            "group",            "sequence_mean",     _GRPO),
    Row("dr_grpo",             "clip",          "old",            "group",            "constant_length",   _DR_GRPO),
    Row("dapo",                "clip",          "old",            "group",            "token_mean",        _DAPO),
    Row("reinforce",           "none",          "current",        "signed",           "sequence_sum"),
    Row("reinforce_baseline",  "none",          "current",        "running_baseline", "sequence_sum",      _KL),
    Row("rloo",                "none",          "current",        "leave_one_out",    "sequence_sum",      _KL),
    Row("reinforce_plus_plus", "clip",          "old",            "batch_normalised", "token_mean",        _BATCH),
    Row("cispo",               "none",          "clipped_ratio",  "group",            "token_mean",        _CISPO),
    Row("gspo",                "sequence_clip", "sequence_ratio", "group",            "sequence_mean",     _GSPO),
    Row("clip_cov",            "clip_cov",      "old",            "group",            "token_mean",        _COV),
    # offline; the other two terms of SRFT stand beside its offline one
    Row("srft_offline",        "none",          "unit",           "group",            "sequence_mean",     _STD),
    Row("srft_sft",            "none",          "current",        "one",              "token_mean"),
    Row("srft_rollout",        "none",          "current",        "signed",           "constant_length"),
    Row("luffy_offline",       "none",          "unit_shaped",    "group",            "pooled_token_mean", _LUFFY),
    Row("offline_unshaped",    "none",          "unit",           "group",            "pooled_token_mean", _STD),
    Row("dft",                 "none",          "unit",           "one",              "token_mean"),
)
# fmt: on

#: Rows whose trajectories carry a detached factor; 1 everywhere else.
_COEFFICIENTS = {"srft_sft": "half_exp_minus_entropy", "srft_rollout": "tenth_exp_entropy_if_correct"}
_SOURCES = {
    "sft": "Eq. 14",
    "ppo": "Schulman et al. 2017, Eq. 7; Appendix B.3. Takes values in the batch, no critic is trained",
    "grpo": "Shao et al. 2024, Eq. 3 without its KL term; Eq. 16",
    "dr_grpo": "Liu et al. 2025: no std, constant length; HPT's online row (Eq. 11)",
    "dapo": "Yu et al. 2025, Eq. 8: clip-higher, token mean; dynamic sampling and length penalty are out of scope",
    "reinforce": "Table 1 as printed, advantage +1 or -1",
    "reinforce_baseline": "Ahmadian et al. 2024, running baseline",
    "rloo": "Ahmadian et al. 2024, leave-one-out baseline",
    "reinforce_plus_plus": "Hu et al. 2025a: normalised over the batch, not over the group",
    "cispo": "MiniMax-M1 (Chen et al. 2025), Eq. 4 and 5. Table 1 prints a mask; the method drops no token",
    "gspo": "Zheng et al. 2025, Eq. 5 to 7",
    "clip_cov": "Cui et al. 2025b",
    "srft_offline": "Fu et al. 2025; Eq. 19",
    "srft_sft": "Fu et al. 2025: the SFT part, weighted 0.5 exp(-H)",
    "srft_rollout": "Fu et al. 2025: the self-rollout part, right answers weighted 0.1 exp(H)",
    "luffy_offline": "Yan et al. 2025: f(p) = p / (p + gamma), normalised with the rollouts",
    "offline_unshaped": "LUFFY's offline term without its shaping",
    "dft": "Wu et al. 2025: SFT weighted by the token's own probability",
}

#: Table 1, the two rows it leaves out of SRFT, and the methods its text discusses.
ROWS: dict[str, Row] = {
    row.name: replace(row, source=_SOURCES[row.name], trajectory_coefficient=_COEFFICIENTS.get(row.name, "one"))
    for row in _TABLE_1
}


@dataclass(eq=False)
class Term:
    """One term of the loss: a row acting on some tokens of a micro-batch.

    Attributes:
        row: the row.
        advantages: [T], see `advantage.advantages`; anything where the row does not act.
        scales: [T] detached, aggregation scale x coefficient; 0 where the row does not act.
        keep: [T] of 0 and 1, tokens a mask over the whole rollout batch lets through (`BATCH_MASKS`); None = all.
        rewards: [B], needed by coefficients that ask whether a trajectory is right.
        name: of its metrics; empty = the row's. Two components may have one row.
    """

    row: Row
    advantages: Tensor
    scales: Tensor
    keep: Tensor | None = None
    rewards: Tensor | None = None
    name: str = ""


@dataclass(eq=False)
class UpgeResult:
    """What `upge_loss` returns.

    Attributes:
        loss: scalar, ``-(weights * logprobs).sum()``.
        weights: [T] detached, scale x coefficient x weight summed over components.
        metrics: ``<row>/<quantity>`` -> scalar tensor. All are sums over the tokens on which the row acts, so adding
            them over micro-batches and ranks is right; divide by ``<row>/tokens`` afterwards. Quantities: ``tokens``;
            ``masked_tokens``; ``ratio_sum`` (pi / pi_ref of Eq. 6); ``approx_kl_sum`` (r - 1 - log r with
            r = pi / pi_old: the k3 estimate of KL(pi_old || pi), nats; without meaning on demonstrations);
            ``weight_sum``; ``absolute_weight_sum``.
    """

    loss: Tensor
    weights: Tensor
    metrics: dict[str, Tensor]


def weights_mask_ratio(
    row: Row, streams: TokenStreams, advantages: Tensor, keep: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Eq. 6's weight of every token, mask x advantage x pi / pi_ref, with the mask and pi / pi_ref in it.

    Three [T] in the type of ``streams.logprobs``, without gradient; ``advantages`` are [T], ``keep`` is as in `Term`.
    """
    if row.mask in BATCH_MASKS and keep is None:
        remedy = f"compute it once per rollout batch with hpt.upge.stabilization.BATCH_MASKS[{row.mask!r}]"
        raise ConfigError(f"row {row.name}: keep", None, f"the tokens that {row.mask} keeps", remedy)
    mask = resolve(MASKS, row.mask, f"row {row.name}: mask")(row, streams, advantages)
    denominator = resolve(DENOMINATORS, row.denominator, f"row {row.name}: denominator")
    log_denominator = denominator(row, streams, advantages)
    ratio = (streams.logprobs.detach() - log_denominator).exp()
    mask = mask if keep is None else mask * keep
    signal = mask * advantages
    # 0 * inf would be NaN: a token pushed far out of the trust region has an infinite ratio and a mask of 0
    return (signal * ratio).where(signal != 0, signal.new_zeros(())).detach(), mask, ratio


def upge_loss(streams: TokenStreams, components: Sequence[Term]) -> UpgeResult:
    """Return the loss of a micro-batch; its gradient is Eq. 6 summed over tokens and components.

    The gradient reaches the policy through ``streams.logprobs`` only; masks, ratios, advantages, scales and
    coefficients are numbers. Losses of micro-batches add up: the scales already hold every denominator. Without
    components the loss is 0 and can still be back-propagated.
    """
    logprobs = streams.logprobs.detach()
    total, metrics = logprobs.new_zeros(logprobs.shape), {}
    for component in components:
        row, acts = component.row, component.scales != 0
        # once for weights and metrics: a custom mask may be drawn at random
        weights, mask, ratio = weights_mask_ratio(row, streams, component.advantages, component.keep)
        coefficient = resolve(COEFFICIENTS, row.trajectory_coefficient, f"row {row.name}: trajectory_coefficient")
        factor = coefficient(streams, component.rewards)
        total = total + (component.scales * factor * weights).where(acts, total.new_zeros(()))
        for name, value in _sums(streams, mask, ratio, weights, acts).items():
            key = f"{component.name or row.name}/{name}"
            metrics[key] = metrics[key] + value if key in metrics else value
    total = total.detach()
    return UpgeResult(-(total * streams.logprobs).sum(), total, metrics)


def _sums(streams: TokenStreams, mask: Tensor, ratio: Tensor, weights: Tensor, acts: Tensor) -> dict[str, Tensor]:
    log_ratio = streams.logprobs.detach() - streams.old_logprobs
    quantities = {
        "tokens": acts,
        "masked_tokens": mask == 0,
        "ratio_sum": ratio,
        "approx_kl_sum": log_ratio.exp() - 1 - log_ratio,
        "weight_sum": weights,
        "absolute_weight_sum": weights.abs(),
    }
    return {name: values[acts].double().sum() for name, values in quantities.items()}
