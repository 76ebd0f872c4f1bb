"""Trajectories, how they are divided over ranks and micro-batches, and how they become tensors."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt.methods.mixture import DEMONSTRATION, Part, Trajectory, WeightedTrajectory
from hpt.training.policy import collate, split_into_micro_batches, split_over_ranks, zero_weight_filler

LAYOUTS = ("padded", "packed", "shared")


def item(prompt: int, response: int, number: int = 0, parts: tuple[Part, ...] = ()) -> WeightedTrajectory:
    """A trajectory whose tokens tell where they belong: 1000 x number + position."""
    tokens = np.arange(prompt + response, dtype=np.int32) + 1000 * (number + 1)
    logprobs = -np.arange(response, dtype=np.float32) - number
    sample = DEMONSTRATION if number % 3 == 0 else number
    trajectory = Trajectory(f"q{number}", number, sample, tokens[:prompt], tokens[prompt:], logprobs, number % 2, 0)
    return WeightedTrajectory(trajectory, parts, entropy_scale=0.5 * number, kl_scale=0.25 * number)


#: Lengths of prompts and responses.
SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 15)), min_size=1, max_size=12)


def items_of(shapes: list[tuple[int, int]]) -> list[WeightedTrajectory]:
    return [
        item(prompt, response, number, (Part(number % 2, np.arange(response) + number + 0.5, number + 1.0),))
        for number, (prompt, response) in enumerate(shapes)
    ]


def lengths(items: list[WeightedTrajectory]) -> list[int]:
    return [own.trajectory.total_tokens for own in items]


@given(SHAPES, st.integers(1, 5))
def test_ranks_share_the_work_evenly_and_nothing_is_lost(shapes: list[tuple[int, int]], ranks: int) -> None:
    items = items_of(shapes)
    shares = split_over_ranks(items, ranks)
    assert len(shares) == ranks
    assert sorted(id(own) for share in shares for own in share) == sorted(map(id, items))
    loads = [sum(lengths(share)) for share in shares]
    # longest first to the least loaded: the spread is never more than one trajectory
    assert max(loads) - min(loads) <= max(lengths(items))
    again = split_over_ranks(items, ranks)
    assert [[id(own) for own in share] for share in again] == [[id(own) for own in share] for share in shares]


@given(SHAPES, st.integers(1, 200), st.sampled_from(LAYOUTS))
def test_micro_batches_keep_to_the_budget_and_lose_nothing(
    shapes: list[tuple[int, int]], budget: int, layout: str
) -> None:
    items = items_of(shapes)
    groups = split_into_micro_batches(items, budget, layout)
    assert sorted(id(own) for group in groups for own in group) == sorted(map(id, items))
    for group in groups:
        sizes = lengths(group)
        cost = len(group) * max(sizes) if layout == "padded" else sum(sizes)
        assert cost <= (2 if layout == "shared" else 1) * budget or len(group) == 1
        tensors = collate(group, 2, layout)
        # what the budget counts is what the forward pass really costs; the last token of a response predicts nothing
        assert tensors.input_ids.numel() == cost - (len(group) if layout == "shared" else 0)


def test_micro_batches_are_not_smaller_than_the_budget_asks() -> None:
    assert [len(group) for group in split_into_micro_batches(items_of([(2, 3)] * 7), 15, "packed")] == [3, 3, 1]
    assert [len(group) for group in split_into_micro_batches(items_of([(2, 3)] * 7), 14, "padded")] == [2, 2, 2, 1]
    assert split_into_micro_batches([], 10) == []


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=12))
def test_a_shared_row_holds_every_prompt_once_and_all_that_a_trajectory_is_made_of(
    shapes: list[tuple[int, int]],
) -> None:
    prompts = [np.arange(length, dtype=np.int32) + 100 * length for length in (2, 5, 3)]
    items = [
        WeightedTrajectory(replace(item(1, length, number).trajectory, prompt_tokens=prompts[which]), ())
        for number, (which, length) in enumerate(shapes)
    ]
    batch = collate(items, 0, "shared")
    used = {which for which, _ in shapes}
    assert batch.input_ids.numel() == sum(len(prompts[which]) for which in used) + sum(n - 1 for _, n in shapes)
    for row, own in zip(batch.sequences, items, strict=True):
        read = np.concatenate([own.trajectory.prompt_tokens, own.trajectory.response_tokens[:-1]])
        assert batch.input_ids[0, row[: len(read)]].tolist() == read.tolist()
        assert batch.position_ids[0, row[: len(read)]].tolist() == list(range(len(read)))
    # what attention returns goes back to where it belongs
    assert batch.sequences.flatten()[batch.places].tolist() == list(range(batch.input_ids.numel()))


def test_tokens_without_a_say_on_keep_are_kept() -> None:
    keep = np.array([True, False, True])
    items = [
        item(1, 3, 0, (Part(0, np.ones(3), 1.0, keep),)),
        item(1, 2, 1, (Part(0, np.ones(2), 1.0),)),
        item(1, 1, 2, (Part(1, np.ones(1), 1.0),)),
    ]
    batch = collate(items, 2)
    assert batch.parts[0].keep.tolist() == [1, 0, 1, 1, 1, 1]
    assert batch.parts[1].keep is None


@pytest.mark.parametrize(
    ("parts", "entropy", "kl", "zero"),
    [
        ((), 0.0, 0.0, True),
        ((Part(0, np.zeros(2), 1.0),), 0.0, 0.0, True),
        ((Part(0, np.ones(2), 0.0),), 0.0, 0.0, True),
        ((Part(0, np.array([0.0, 1e-300]), 1e-9),), 0.0, 0.0, False),
        ((Part(0, np.zeros(2), 1.0), Part(1, np.ones(2), 1.0)), 0.0, 0.0, False),
        ((), 1e-9, 0.0, False),
        ((), 0.0, 1e-9, False),
    ],
)
def test_only_what_has_no_gradient_at_all_is_zero(
    parts: tuple[Part, ...], entropy: float, kl: float, zero: bool
) -> None:
    assert WeightedTrajectory(item(1, 2).trajectory, parts, entropy, kl).is_zero is zero


def test_fillers_weigh_nothing_and_fit_both_layouts() -> None:
    filler = zero_weight_filler()
    assert filler.is_zero
    for layout in LAYOUTS:
        batch = collate([filler], 2, layout)
        assert batch.parts == {}
        assert len(batch.targets) == 1
        assert not batch.entropy_scales.any()
        assert not batch.kl_scales.any()
