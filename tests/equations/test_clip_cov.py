"""Clip-Cov's choice of tokens: the right candidates, the right number, at random, whatever the order."""

import hashlib

import numpy as np
import pytest

from hpt.upge.estimator import ROWS
from hpt.upge.stabilization import clip_cov_keep

ROW = ROWS["clip_cov"].with_parameters(clip_cov_share=0.05)


def make_batch(seed: int) -> dict[str, list]:
    """Four trajectories of each of six questions."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, 24)
    return {
        "old_logprobs": [-rng.exponential(2.0, length) for length in lengths],
        "advantages": [np.full(length, value) for length, value in zip(lengths, rng.normal(size=24), strict=True)],
        "problem_ids": [f"q{i // 4}" for i in range(24)],
        "samples": [i % 4 for i in range(24)],
    }


def keep_of(batch: dict[str, list], seed: int = 0, step: int = 0, row=ROW) -> list[np.ndarray]:
    return clip_cov_keep(row, **batch, seed=seed, step=step)


def covariances_of(batch: dict[str, list]) -> np.ndarray:
    """Centred advantage times centred log-prob, written with plain numpy on the flat batch."""
    logprobs, advantages = np.concatenate(batch["old_logprobs"]), np.concatenate(batch["advantages"])
    return (logprobs - np.mean(logprobs)) * (advantages - np.mean(advantages))


def candidates_of(batch: dict[str, list]) -> np.ndarray:
    """Tokens whose covariance lies in (1, 5)."""
    covariance = covariances_of(batch)
    return (covariance > 1) & (covariance < 5)


@pytest.mark.parametrize("seed", range(5))
def test_a_share_of_the_candidates_is_dropped_by_the_documented_hash(seed: int) -> None:
    """A choice that changed between versions would change results without any setting having changed."""
    batch, step = make_batch(seed), 11 + seed
    lengths = [len(values) for values in batch["old_logprobs"]]
    candidates = np.split(candidates_of(batch), np.cumsum(lengths)[:-1])
    ranked = []
    for i, flags in enumerate(candidates):
        for token in np.flatnonzero(flags):
            name = "\x1f".join([str(seed), str(step), batch["problem_ids"][i], str(batch["samples"][i]), str(token)])
            digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
            ranked.append((int.from_bytes(digest, "big") >> 1, i, token))
    dropped = int(0.05 * sum(lengths))
    assert 0 < dropped < len(ranked)
    kept = keep_of(batch, seed=seed, step=step)
    found = {(i, token) for i, flags in enumerate(kept) for token in np.flatnonzero(~flags)}
    assert found == {(i, token) for _, i, token in sorted(ranked)[:dropped]}


def test_sums_are_exact() -> None:
    """Means of numbers that cancel: added up one after the other, the mean is 0.75 or 1.5 depending on the order."""
    row = ROWS["clip_cov"].with_parameters(clip_cov_share=1.0, clip_cov_low=0.0, clip_cov_high=1.0)
    values, logprobs = np.array([1e17, 3.0, -1e17, 3.0, 1.0]), np.array([-1.0, -1.0, -1.0, -1.0, 0.0])
    for order in ([0, 1, 2, 3, 4], [1, 3, 4, 0, 2], [0, 2, 1, 3, 4], [4, 2, 0, 3, 1]):
        batch = {"old_logprobs": [logprobs[[i]] for i in order], "advantages": [values[[i]] for i in order]}
        kept = keep_of(batch | {"problem_ids": [str(i) for i in order], "samples": [0] * 5}, row=row)
        # mean advantage 1.4, mean log-prob -0.8: the last token's covariance is 0.8 * -0.4, nobody is a candidate
        assert all(flags.all() for flags in kept)


@pytest.mark.parametrize(("low", "high", "dropped"), [(0.5, 1.5, 2), (1.0, 1.5, 0), (0.5, 1.0, 0)])
def test_the_bounds_are_no_candidates(low: float, high: float, dropped: int) -> None:
    """Means -1 and 0: both tokens have the covariance 1, exactly."""
    row = ROWS["clip_cov"].with_parameters(clip_cov_share=1.0, clip_cov_low=low, clip_cov_high=high)
    batch = {"old_logprobs": [np.array([0.0, -2.0])], "advantages": [np.array([1.0, -1.0])]}
    kept = keep_of(batch | {"problem_ids": ["a"], "samples": [0]}, row=row)
    assert (~kept[0]).sum() == dropped


def test_single_precision_is_widened_before_it_is_multiplied() -> None:
    batch = make_batch(5)
    narrow = {name: [own.astype(np.float32) for own in batch[name]] for name in ("old_logprobs", "advantages")}
    wide = {name: [own.astype(np.float64) for own in narrow[name]] for name in narrow}
    # the bound lies just below one token's covariance, so that single precision could put it on the other side
    middle = float(np.sort(covariances_of(batch | wide))[-20])
    row = ROWS["clip_cov"].with_parameters(clip_cov_share=1.0, clip_cov_low=middle * (1 - 1e-12), clip_cov_high=1e9)
    for own in (narrow, wide):
        assert sum(int((~flags).sum()) for flags in keep_of(batch | own, row=row)) == 20


def test_trajectories_without_advantages_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        clip_cov_keep(ROW, [np.zeros(1)] * 2, [np.zeros(1)], seed=0, step=0, problem_ids=["a", "b"], samples=[0, 0])


def test_at_least_one_candidate_is_dropped_and_none_without_candidates() -> None:
    batch = make_batch(4)
    assert sum((~flags).sum() for flags in keep_of(batch, row=ROWS["clip_cov"])) == 1
    flat = {**batch, "advantages": [np.zeros_like(values) for values in batch["advantages"]]}
    assert all(flags.all() for flags in keep_of(flat))
    assert clip_cov_keep(ROW, [], [], seed=0, step=0, problem_ids=[], samples=[]) == []
    empty = [np.zeros(0)] * 2
    kept = clip_cov_keep(ROW, empty, empty, seed=0, step=0, problem_ids=["a", "b"], samples=[0, 0])
    assert [(own.shape, own.dtype) for own in kept] == [((0,), np.dtype(bool))] * 2
