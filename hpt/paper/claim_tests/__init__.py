"""The tests that decide claims: pure functions from the records of several seeds to a finding.

One module per kind of record: scores of the evaluations, curves over training, what happens to single questions, what
training costs, and what the laboratory measures without a run. `TESTS` names them all; ``paper.json`` says which claim
uses which, with its thresholds. Every test raises `NotTestable` where the records lack what it reads.
"""

from collections.abc import Callable

from hpt.paper.claim_tests.costs import costs_less, rollouts_left_out_when_switched
from hpt.paper.claim_tests.curves import (
    ends_above_start,
    falls_and_settles,
    mean_above,
    rises_and_stays,
    series_above,
    stays_above_longer,
    validation_above,
    validation_improves,
)
from hpt.paper.claim_tests.exclusive import exclusive_gains_grow, exclusive_losses_small, exclusive_net_gain
from hpt.paper.claim_tests.laboratory import TESTS as _WITHOUT_RUNS
from hpt.paper.claim_tests.questions import map_dominance, more_rows_at_zero, rows_at_zero
from hpt.paper.claim_tests.records import MIN_STEPS, ClaimRecords, Finding, NotTestable, RunFrames
from hpt.paper.claim_tests.scores import (
    average_above,
    average_highest,
    best_on_most_sets,
    gains_more,
    pass_at_k_above,
    pass_at_k_highest,
)

__all__ = ["MIN_STEPS", "TESTS", "ClaimRecords", "Finding", "NotTestable", "RunFrames"]

TESTS: dict[str, Callable[..., Finding]] = {
    test.__name__: test
    for test in (
        average_above, average_highest, gains_more, best_on_most_sets, pass_at_k_above, pass_at_k_highest,
        exclusive_gains_grow, exclusive_losses_small, exclusive_net_gain,
        series_above, mean_above, ends_above_start, falls_and_settles, rises_and_stays, stays_above_longer,
        validation_above, validation_improves,
        map_dominance, more_rows_at_zero, rows_at_zero, costs_less, rollouts_left_out_when_switched,
        *_WITHOUT_RUNS,
    )
}  # fmt: skip
