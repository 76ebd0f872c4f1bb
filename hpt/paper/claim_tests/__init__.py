"""The tests that decide claims: pure functions from the records of several seeds to an outcome.

`TESTS` names them all; ``paper.json`` says which claim uses which, with its thresholds. Every test raises `NotTestable`
where the records lack what it reads.
"""

from collections.abc import Callable

from hpt.paper.claim_tests import laboratory, runs
from hpt.paper.claim_tests.records import ClaimRecords, NotTestable, Outcome, RunFrames

__all__ = ["TESTS", "ClaimRecords", "NotTestable", "Outcome", "RunFrames"]

TESTS: dict[str, Callable[..., Outcome]] = {
    test.__name__: test
    for test in (
        runs.average_above, runs.pass_at_k_above, runs.gains_more, runs.best_on_most_sets,
        runs.exclusive_gains_grow, runs.exclusive_losses_small, runs.exclusive_net_gain,
        runs.series_above, runs.mean_above, runs.rises, runs.slows_down, runs.stays_below_ceiling,
        runs.stays_above_longer, runs.validation_above, runs.validation_improves,
        runs.map_dominance, runs.more_rows_at_zero, runs.rows_at_zero,
        runs.costs_less, runs.rollouts_left_out_when_switched,
        laboratory.rows_effective, laboratory.row_against_row, laboratory.rows_trade_off, laboratory.gate_better,
        laboratory.terms_agree, laboratory.rows_agree,
    )
}  # fmt: skip
