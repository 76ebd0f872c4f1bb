"""The gradient of a mixed step from real processes and the real engine: 1 and 2 ranks, ZeRO 0 to 3, any layout.

`tests.invariance.worker` computes them, all at once per number of ranks; the tests compare with float64 autograd.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.invariance import world
from tests.invariance.cases import BROKEN, BROKEN_ON_TWO_RANKS, CASES, STAGES, Case, cases_of
from tests.processes import killed_at_the_end, start_ranks, wait_for_ranks

WORKER = "tests.invariance.worker"
RANKS = (1, 2)
Shown = dict[tuple[int, int], Any]

pytestmark = pytest.mark.timeout(900)  # the first test waits for all workers: one minute on two idle cores


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """What the workers found: (ranks, stage) -> arrays by ``case/quantity``."""
    folders = {ranks: tmp_path_factory.mktemp(f"ranks-{ranks}") for ranks in RANKS}
    running = {ranks: start_ranks(ranks, folder, WORKER, str(folder)) for ranks, folder in folders.items()}
    with killed_at_the_end([process for processes in running.values() for process in processes]):
        for ranks, processes in running.items():
            wait_for_ranks(processes, folders[ranks], timeout_s=800)
    return {(ranks, stage): np.load(folders[ranks] / f"{stage}.npz") for ranks in RANKS for stage in STAGES}


@cache
def reference(normalization: str, questions: str) -> tuple[torch.Tensor, float]:
    return world.literal_gradient(world.make_questions(questions), world.config_for(normalization))


def error(shown: Shown, ranks: int, stage: int, case: Case) -> float:
    gradient = torch.from_numpy(shown[ranks, stage][f"{case}/gradient"])
    return world.measure(gradient, reference(case.normalization, case.questions))


@pytest.mark.parametrize(("stage", "case"), [(stage, case) for stage in STAGES for case in cases_of(stage)], ids=str)
@pytest.mark.parametrize("ranks", RANKS)
def test_gradient_is_that_of_the_whole_batch(shown: Shown, ranks: int, stage: int, case: Case) -> None:
    """And so is the reported norm: the skip rule and the clip decide by it, so it must not be a rank's own."""
    assert error(shown, ranks, stage, case) <= world.FLOAT32_BOUND
    expected = float(reference(case.normalization, case.questions)[0].norm())
    assert float(shown[ranks, stage][f"{case}/norm"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ranks", RANKS)
def test_the_splits_are_what_they_claim_to_be(shown: Shown, ranks: int, stage: int) -> None:
    for case in cases_of(stage):
        counts = shown[ranks, stage][f"{case}/micro_batches"]
        assert len(counts) == ranks
        assert len(set(counts.tolist())) == 1, "a rank runs fewer forwards than another: ZeRO 2 and 3 would hang"
        assert case.split in (None, counts[0])
        if case.questions == "lonely" and ranks == 2:
            assert shown[2, stage][f"{case}/demonstrations_only"].tolist() == [True, False]


@pytest.mark.parametrize("ranks", RANKS)
def test_tokens_are_counted_once_and_fillers_not_at_all(shown: Shown, ranks: int) -> None:
    expected = {"mixed": [118, 28], "lonely": [16, 60]}
    for case in CASES:
        assert shown[ranks, 0][f"{case}/tokens"].tolist() == expected[case.questions]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ranks", RANKS)
def test_a_mistake_is_noticed(shown: Shown, ranks: int, stage: int) -> None:
    for case in BROKEN + (BROKEN_ON_TWO_RANKS if ranks > 1 else []):
        assert error(shown, ranks, stage, case) > 1e-2, case.broken
