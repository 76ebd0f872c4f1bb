"""The one loss: several rows at once, the KL term, metrics that add up, and refusals."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hpt.laboratory import random_batch as world
from hpt.laboratory import textbook
from hpt.support.errors import ConfigError
from hpt.upge.estimator import ROWS, Row, Term, upge_loss, weights_mask_ratio
from hpt.upge.regularisers import kl_to_reference
from hpt.upge.row import TokenStreams
from hpt.upge.stabilization import MASKS


def test_srft_is_the_sum_of_its_three_rows() -> None:
    w = world.make_world(1)
    t = world.textbook_of(w)
    expected = world.flat_gradient(textbook.srft_sft(t) + textbook.srft_offline(t) + textbook.srft_rollout(t), w.policy)
    rows = [ROWS[name] for name in ("srft_sft", "srft_offline", "srft_rollout")]
    assert world.relative_difference(world.upge_gradient(w, rows), expected) < 1e-10


def test_metrics_add_up_over_micro_batches() -> None:
    w = world.make_world(1)
    rows = [ROWS[name] for name in ("grpo", "luffy_offline")]

    def metrics(chosen: list[int]) -> dict[str, Tensor]:
        return upge_loss(world.streams_of(w, chosen), [world.component_of(w, row, chosen) for row in rows]).metrics

    whole = metrics(list(range(20)))
    parts = [metrics(chosen) for chosen in ([3, 17], [0, 1, 2], list(range(4, 17)), [18, 19])]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, rtol=1e-12, atol=1e-12)
    assert whole["grpo/tokens"] == w.lengths[:16].sum()
    assert whole["luffy_offline/tokens"] == w.lengths[16:].sum()


def tiny_streams(ratios: list[float]) -> TokenStreams:
    logprobs = torch.full((len(ratios),), -1.0, dtype=torch.float64, requires_grad=True)
    old = logprobs.detach() - torch.tensor(ratios, dtype=torch.float64).log()
    return TokenStreams(logprobs, torch.ones_like(old), old, torch.zeros(len(ratios), dtype=torch.int64), 1)


def test_weights_and_metrics_by_hand() -> None:
    """A > 0 and A < 0 with ratios of 1.5 and 0.5, A = 0 with a ratio of 2; a sixth token lies outside."""
    streams = tiny_streams([1.5, 0.5, 1.5, 0.5, 2.0, 4.0])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 1.0]).double()
    scales = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.0]).double()
    result = upge_loss(streams, [Term(ROWS["grpo"], advantages, scales)])
    assert result.weights.tolist() == pytest.approx([0.0, 0.25, -0.75, 0.0, 0.0, 0.0])
    assert result.loss.item() == pytest.approx(0.25 - 0.75)  # logprob -1: minus sum of weight x logprob
    expected = {
        "tokens": 5,
        "masked_tokens": 2,  # a token without advantage is not clipped: it has no gradient to lose
        "ratio_sum": 6.0,
        "approx_kl_sum": 2 * (1.5 - 1 - np.log(1.5)) + 2 * (0.5 - 1 - np.log(0.5)) + (2 - 1 - np.log(2)),
        "weight_sum": 0.5 - 1.5,
        "absolute_weight_sum": 2.0,
    }
    assert {name: value.item() for name, value in result.metrics.items()} == pytest.approx(
        {f"grpo/{name}": value for name, value in expected.items()}
    )


def test_one_row_twice_adds_up() -> None:
    """A method may let the same row act on two kinds of data."""
    streams = tiny_streams([1.0, 1.0])
    scales = torch.tensor([1.0, 0.0]).double()
    terms = [Term(ROWS["sft"], torch.ones(2), own) for own in (scales, 3 * (1 - scales))]
    result = upge_loss(streams, terms)
    assert result.weights.tolist() == [1.0, 3.0]
    assert result.metrics["sft/tokens"] == 2


#: Where each paper puts its bounds; a ratio just inside must pass, one just outside must not.
PUBLISHED_BOUNDS = {
    **dict.fromkeys(("ppo", "grpo", "dr_grpo", "reinforce_plus_plus", "clip_cov"), (0.2, 0.2)),
    "dapo": (0.2, 0.28),
    "gspo": (3e-4, 4e-4),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED_BOUNDS))
def test_published_clip_bounds(name: str) -> None:
    low, high = PUBLISHED_BOUNDS[name]
    ratios = [1 + 0.99 * high, 1 + 1.01 * high, 1 - 0.99 * low, 1 - 1.01 * low, 1 - 3 * low, 1 + 3 * high]
    streams = tiny_streams(ratios)
    streams.trajectory, streams.trajectories = torch.arange(6), 6  # a token each, so GSPO's ratio is the token's
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, -1.0]).double()
    weights = weights_mask_ratio(ROWS[name], streams, advantages, torch.ones(6))[0]
    assert (weights != 0).tolist() == [True, False, True, False, True, True]


def test_a_token_on_a_bound_stays_and_one_without_advantage_is_not_called_clipped() -> None:
    """Bounds of 0, so that the bound is a ratio of 1, which has no rounding: pi and pi_old are the same."""
    row = ROWS["grpo"].with_parameters(clip_eps_low=0.0, clip_eps_high=0.0)
    advantages = torch.tensor([1.0, -1.0, 0.0])
    for name in ("clip", "sequence_clip"):
        assert MASKS[name](row, tiny_streams([1.0, 1.0, 1.0]), advantages).tolist() == [1.0, 1.0, 1.0]
    assert MASKS["clip"](row, tiny_streams([1.0, 1.0, 0.5]), advantages).tolist() == [1.0, 1.0, 1.0]
    assert MASKS["clip"](row, tiny_streams([0.5]), -torch.ones(1)).tolist() == [0.0]


def test_the_table_names_its_rows_and_sources_and_every_clipped_one_is_tested_for_its_bounds() -> None:
    assert set(PUBLISHED_BOUNDS) == {name for name, row in ROWS.items() if row.mask != "none"}
    assert all(row.name == name and row.source for name, row in ROWS.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_only_logprobs_carry_gradient_and_their_precision_is_kept(row: Row, dtype: torch.dtype) -> None:
    """Weights are numbers, also where they are made of the current policy: entropies, ratios, shaped probabilities.

    In float64 they would silently double the memory and the time of everything behind them.
    """
    streams, ones = tiny_streams([0.9, 1.1]), torch.ones(2)
    logprobs, entropies = (own.detach().to(dtype).requires_grad_() for own in (streams.logprobs, streams.entropies))
    streams = TokenStreams(logprobs, entropies, streams.old_logprobs.to(dtype), streams.trajectory, 1)
    result = upge_loss(streams, [Term(row, ones, ones, ones, rewards=torch.ones(1))])
    assert result.weights.dtype == result.loss.dtype == dtype
    assert not result.weights.requires_grad
    gradient, = torch.autograd.grad(result.loss, [logprobs], retain_graph=True)  # fmt: skip
    torch.testing.assert_close(gradient, -result.weights)
    assert torch.autograd.grad(result.loss, [entropies], allow_unused=True)[0] is None
    assert not weights_mask_ratio(row, streams, ones, ones)[0].requires_grad


def test_what_is_masked_or_no_rows_weighs_nothing_whatever_its_ratio_or_advantage() -> None:
    streams = tiny_streams([1.0, 1.0, 1.0])
    streams.old_logprobs = torch.tensor([-1.0, -2000.0, -2000.0]).double()
    weights = weights_mask_ratio(ROWS["grpo"], streams, torch.tensor([1.0, 1.0, 0.0]).double())[0]
    assert weights.tolist() == [1.0, 0.0, 0.0]
    term = Term(ROWS["sft"], torch.tensor([1.0, torch.nan]).double(), torch.tensor([1.0, 0.0]).double())
    result = upge_loss(tiny_streams([1.0, 1.0]), [term])
    assert result.weights.tolist() == [1.0, 0.0]
    assert torch.isfinite(result.loss)


def test_no_component_gives_a_loss_that_can_be_back_propagated() -> None:
    streams = tiny_streams([1.0, 2.0])
    result = upge_loss(streams, [])
    result.loss.backward()
    assert result.loss == 0
    assert not streams.logprobs.grad.any()
    assert result.metrics == {}


# --- the KL term -----------------------------------------------------------------------------------------------------


def test_k3_is_the_kl_in_expectation_and_its_gradient_that_of_the_reverse_kl() -> None:
    """Summed over the whole vocabulary, weighted with the probability of drawing each token."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    log_p = torch.log_softmax(logits, -1)
    log_q = torch.log_softmax(torch.randn(6, generator=generator, dtype=torch.float64), -1)
    penalty = kl_to_reference(log_p, log_q, log_p.exp().detach())
    assert penalty.item() == pytest.approx((log_p.exp() * (log_p - log_q)).sum().item(), rel=1e-12)
    reverse = (log_q.exp() * (log_q - log_p)).sum()
    gradient, expected = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (penalty, reverse))
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert kl_to_reference(log_p, log_p.detach() + 3, torch.zeros(6)) == 0


# --- the table as data -----------------------------------------------------------------------------------------------


def test_constants_can_be_replaced_but_not_invented() -> None:
    row = ROWS["grpo"].with_parameters(clip_eps_high=None, std="population")
    assert (row.parameters["clip_eps_high"], row.parameters["clip_eps_low"]) == (None, 0.2)
    assert ROWS["grpo"].parameters["clip_eps_high"] == 0.2
    with pytest.raises(ConfigError, match=r"row sft: clip_eps_high.*none"):
        ROWS["sft"].with_parameters(clip_eps_high=0.2)


@pytest.mark.parametrize(
    "wrong",
    [{"std": "unbiased"}, {"std": None}, {"clip_eps_low": -0.1}, {"clip_eps_low": "0.2"}, {"clip_eps_low": True}],
)
def test_impossible_constants_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=rf"row grpo: {next(iter(wrong))}"):
        ROWS["grpo"].with_parameters(**wrong)


def test_what_a_row_lacks_is_named() -> None:
    row = Row("mine", "clip", "old", "group", "token_mean", {"std": "none"})
    streams, one = tiny_streams([1.0]), torch.ones(1)
    with pytest.raises(ConfigError, match="clip_eps_low"):
        weights_mask_ratio(row, streams, one)
    with pytest.raises(ConfigError, match="clip_eps_high = None: allowed is a number"):
        ROWS["grpo"].with_parameters(clip_eps_high=None).number("clip_eps_high")
    with pytest.raises(ConfigError, match="rewards = None"):
        upge_loss(streams, [Term(ROWS["srft_rollout"], one, one)])
    with pytest.raises(ConfigError, match="row clip_cov: keep = None"):
        weights_mask_ratio(ROWS["clip_cov"], streams, one)
    assert weights_mask_ratio(ROWS["clip_cov"], streams, one.double(), torch.zeros(1))[0] == 0


@pytest.mark.parametrize("choice", ["mask", "denominator", "trajectory_coefficient"])
def test_unknown_names_are_refused_with_the_known_ones(choice: str) -> None:
    fields = {"mask": "none", "denominator": "old", "trajectory_coefficient": "one", choice: "typo"}
    row = Row("mine", advantage="one", aggregation="token_mean", **fields)
    with pytest.raises(ConfigError, match=rf"row mine: {choice} = 'typo': allowed is one of \w+, "):
        upge_loss(tiny_streams([1.0]), [Term(row, torch.ones(1), torch.ones(1))])


def test_a_ratio_without_an_upper_bound_is_held_from_below_alone() -> None:
    """Ratios 0.5, 1 and 4, bounded to [0.9, ...)."""
    for low, least in ((0.1, 0.9), (None, 0.5)):
        row = ROWS["cispo"].with_parameters(clip_eps_low=low, clip_eps_high=None)
        weights = weights_mask_ratio(row, tiny_streams([0.5, 1.0, 4.0]), torch.ones(3).double())[0]
        torch.testing.assert_close(weights, torch.tensor([least, 1.0, 4.0]).double())
