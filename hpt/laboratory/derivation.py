"""Section 2.2 and Appendix B as numbers: both sides of every lemma and equation on policies small enough to list.

A `Check` is one statement on one policy. Either it is an identity, and then its two sides differ by rounding; or it
says where an identity ends (a reference that does not cover, a ratio per token, a denominator that is no density), and
then the difference is the price. The policies are those of `hpt.laboratory.cases`; `hpt.laboratory.mixed` adds Eq. 9
to 13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from hpt.laboratory import truth
from hpt.laboratory.cases import (
    CASES,
    ONE_TOKEN,
    Case,
    every_trajectory,
    make_case,
    random_case,
    references,
    some_law,
    some_values,
    token_surrogate,
    token_weighted,
    without_demonstrations,
)
from hpt.laboratory.exact import trajectory_logprobs
from hpt.upge.estimator import ROWS, unified_weights

#: Relative; float64 sums over at most 625 terms lose 1e-13, a wrong term is worth more than 1e-4.
TOLERANCE = 1e-10
#: mu of the Common Objective, lambda of B.2 and the clip bound, where they are not what is varied.
ADHERENCE, TRUST, EPS = 0.3, 0.2, 0.2
#: Dr. GRPO with and without its mask: token ratios over pi_old and nothing else.
CLIPPED = ROWS["dr_grpo"].with_parameters(clip_eps_low=EPS, clip_eps_high=EPS)
UNMASKED = ROWS["dr_grpo"].with_parameters(clip_eps_low=None, clip_eps_high=None)


@dataclass(frozen=True)
class Check:
    """One statement on one policy.

    Attributes:
        paper: equation, lemma or appendix.
        states: in words.
        identity: whether both sides should be the same; else it is said where that ends.
        difference: largest entry of left minus right, relative to the length of the left side.
    """

    paper: str
    states: str
    identity: bool
    difference: float


def difference(left: Tensor, right: Tensor) -> float:
    """Return max |left - right| / |left|."""
    return float((left - right).abs().max() / left.norm())


def checks(case: Case) -> Iterator[Check]:
    """Yield every statement of Section 2.2 and Appendix B on one case."""
    yield from _lemmas(case)
    yield from _unified(case)
    yield from _masks(case)


def _lemmas(case: Case) -> Iterator[Check]:
    values, sampler = some_values(case), some_law(case.policy.space, 21)
    left = case.gradient(lambda leaf: (truth.law(case.policy, leaf) * values).sum())
    score = truth.score_expectation(values, case.scores, case.pi)
    yield Check("Lemma A1", "grad E[f] = E[f grad log pi]", True, difference(left, score))
    nothing = truth.score_expectation(torch.ones_like(values), case.scores, case.pi)
    yield Check("Lemma A1", "E[grad log pi] = 0", True, float(nothing.abs().max()))

    def integrand(leaf: Tensor) -> Tensor:
        return trajectory_logprobs(case.policy, leaf) ** 2 + values

    left = case.gradient(lambda leaf: (truth.law(case.policy, leaf) * integrand(leaf)).sum())
    moving = case.gradient(lambda leaf: (case.pi * integrand(leaf)).sum())
    fixed = truth.score_expectation(integrand(case.parameters).detach(), case.scores, case.pi)
    yield Check("Lemma A2", "f depends on the parameters: + E[grad f]", True, difference(left, fixed + moving))
    yield Check("Lemma A2", "without that term", False, difference(left, fixed))
    changed = truth.score_expectation(case.pi / sampler * values, case.scores, sampler)
    yield Check("Lemma A3", "E_pi[f grad log pi] = E_s[(pi / s) f grad log pi]", True, difference(score, changed))
    partial = some_law(case.policy.space, 22, zeros=5)
    right = truth.unified_gradient(case.pi, case.scores, values, partial)
    lost = truth.lost_by_coverage(case.pi, case.scores, values, partial)
    yield Check("Lemma A3", "with s = 0 on five trajectories", False, difference(score, right))
    yield Check("Lemma A3", "... plus what s never draws", True, difference(score, right + lost))


def _unified(case: Case) -> Iterator[Check]:
    question = case.question
    for mu in (0.0, ADHERENCE, 2.0):
        left = truth.objective_gradient(case.policy, case.parameters, question, mu)
        right = truth.two_term_gradient(case.pi, case.scores, question, mu)
        yield Check("Eq. 1, 2", f"grad J_mu is the sum of the two terms, mu = {mu:g}", True, difference(left, right))
    left = truth.objective_gradient(case.policy, case.parameters, question, ADHERENCE)
    advantage = truth.unified_advantage(case.pi, question, ADHERENCE)
    for name, reference in references(case).items():
        right = truth.unified_gradient(case.pi, case.scores, advantage, reference)
        yield Check("Eq. 3, 4", f"under the reference {name}", True, difference(left, right))
    right = truth.unified_gradient(case.pi, case.scores, advantage, question.demonstrator)
    lost = truth.lost_by_coverage(case.pi, case.scores, advantage, question.demonstrator)
    yield Check("Eq. 3, 4", "under the demonstrator, which never writes half of the answers", False,
                difference(left, right))  # fmt: skip
    yield Check("Eq. 3, 4", "... plus what it never writes", True, difference(left, right + lost))
    ones, sft = torch.ones_like(case.pi), ADHERENCE * question.demonstrator / case.pi
    whole = ADHERENCE * truth.score_expectation(ones, case.scores, question.demonstrator)
    right = truth.unified_gradient(case.pi, case.scores, sft, question.demonstrator)
    yield Check("Eq. 3, 4", "the SFT term alone under the demonstrator", True, difference(whole, right))
    right = truth.unified_gradient(case.pi, case.scores, sft, without_demonstrations(case))
    yield Check("Eq. 3, 4", "the SFT term under a reference that lacks demonstrations", False, difference(whole, right))
    for trust in (TRUST, 1.5):
        left = case.gradient(lambda leaf, trust=trust: truth.objective(
            case.policy, leaf, question, ADHERENCE, trust, case.pi_old))  # fmt: skip
        advantage = truth.unified_advantage(case.pi, question, ADHERENCE, trust, case.pi_old)
        for name, reference in references(case).items():
            right = truth.unified_gradient(case.pi, case.scores, advantage, reference)
            yield Check("Appendix B.2", f"trust region {trust:g}, under {name}", True, difference(left, right))
    weighted = truth.score_expectation(case.pi * question.reward, case.scores, case.pi_old)
    left = case.gradient(lambda leaf: (case.pi_old * question.reward * truth.law(case.policy, leaf)).sum())
    yield Check("Eq. 20", "pi_ref = 1 is the gradient of E_old[A pi]", True, difference(left, weighted))
    exact = truth.two_term_gradient(case.pi, case.scores, question, 0.0)
    # its length is that of a probability: compared in direction
    scaled = weighted * (weighted @ exact) / (weighted @ weighted)
    yield Check("Eq. 20", "... against that of E_pi[A], best rescaled", False, difference(exact, scaled))


def _masks(case: Case) -> Iterator[Check]:
    reward, advantage = case.question.reward, case.centred
    left = case.gradient(
        lambda leaf: truth.ppo_surrogate(truth.law(case.policy, leaf), case.pi_old, advantage, EPS, EPS)
    )  # fmt: skip
    masked = truth.masked_gradient(case.pi, case.pi_old, case.scores, advantage, EPS, EPS)
    yield Check("Appendix B.3, Eq. 21", "the mask is the derivative of the surrogate, trajectories", True,
                difference(left, masked))  # fmt: skip
    ratio = case.pi / case.pi_old
    symmetric = ((ratio > 1 - EPS) & (ratio < 1 + EPS)) * ratio * advantage
    right = truth.score_expectation(symmetric, case.scores, case.pi_old)
    yield Check("Appendix B.3, Eq. 21", "with the mask 1[|r - 1| <= eps]", False, difference(left, right))
    streams, per_token = every_trajectory(case, advantage)
    found = token_weighted(case, unified_weights(CLIPPED, streams, per_token), case.pi_old)
    yield Check("Appendix B.3, Eq. 21", "the same token by token, the package's mask", True,
                difference(token_surrogate(case, advantage, EPS), found))  # fmt: skip
    streams, per_token = every_trajectory(case, reward)
    found = token_weighted(case, unified_weights(UNMASKED, streams, per_token), case.pi_old)
    yield Check("Eq. 18", "ratios of single tokens, unmasked", True,
                difference(token_surrogate(case, reward, None), found))  # fmt: skip
    exact = truth.two_term_gradient(case.pi, case.scores, case.question, 0.0)
    yield Check("Eq. 18", "... against the true gradient", False, difference(exact, found))
    whole = truth.unified_gradient(case.pi, case.scores, reward, case.pi_old)
    yield Check(
        "Eq. 18", "... with ratios of whole answers instead, against the true gradient", True, difference(exact, whole)
    )


def one_token_checks(case: Case) -> Iterator[Check]:
    """Yield Eq. 6 with the package's weights on a case of one token per trajectory."""
    advantage = truth.unified_advantage(case.pi, case.question, ADHERENCE)
    streams, per_token = every_trajectory(case, advantage)
    left = truth.objective_gradient(case.policy, case.parameters, case.question, ADHERENCE)
    found = token_weighted(case, unified_weights(UNMASKED, streams, per_token), case.pi_old)
    yield Check("Eq. 6", "the package's weights, one token per answer", True, difference(left, found))
    masked = token_weighted(case, unified_weights(CLIPPED, streams, per_token), case.pi_old)
    expected = truth.masked_gradient(case.pi, case.pi_old, case.scores, advantage, EPS, EPS)
    yield Check("Eq. 6", "... and with the mask", True, difference(expected, masked))
    yield Check("Eq. 6", "the mask against the true gradient", False, difference(left, masked))


def derivation_frame() -> pd.DataFrame:
    """Return every statement of Section 2.2, Appendix B and Eq. 9 to 13 on every case.

    Returns:
        A line per (case, statement): paper, states, identity, case, difference.
    """
    from hpt.laboratory.mixed import mixed_checks

    found = {name: (*checks(case), *mixed_checks(case)) for name in CASES for case in [make_case(name)]}
    found["tabular-5-1"] = tuple(one_token_checks(random_case(*ONE_TOKEN)))
    lines = [(check.paper, check.states, check.identity, name, check.difference)
             for name in found for check in found[name]]  # fmt: skip
    return pd.DataFrame(lines, columns=["paper", "states", "identity", "case", "difference"])
